"""Equations in which lectures introduce the transformer, each held against this model.

Such lectures write vectors as columns; here they are rows. Elsewhere: LayerNorm's 1/d (test_components.py), GPT-3's
parameters (test_n_params.py), the generation loop (test_generate.py), the two-layer induction model
(circuits/test_induction.py).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from grid import assert_close, build, random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp import HookedTransformer, RangeError, TransformerConfig, Vocabulary
from interp.plot import figures

SEEDS = st.integers(0, 2**31)
SIZES: dict[str, Any] = {"n_layers": 1, "d_model": 12, "n_heads": 3, "n_ctx": 9, "d_vocab": 7, "dtype": torch.float64}
BARE: dict[str, Any] = {"attn_only": True, "normalization_type": None}  # attention and nothing else


def few(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As hypothesis' `given`, for a handful of models: they are what takes the time."""
    return lambda test: settings(max_examples=6)(given(*strategies)(test))


def model_of(seed: int, **fields: Any) -> HookedTransformer:
    return build(TransformerConfig(**SIZES | fields), seed)


def tokens_of(model: HookedTransformer, seed: int) -> Tensor:
    cfg = model.cfg
    return torch.randint(cfg.d_vocab, (1, cfg.n_ctx), generator=torch.Generator().manual_seed(seed))


def without_biases(model: HookedTransformer) -> HookedTransformer:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name:
                parameter.zero_()
    return model


# ---------------------------------------------------------------------------------------------- from one-hots to text


@few(SEEDS)
def test_a_transformer_is_products_of_one_hots_and_weights(seed: int):
    """The whole forward pass in the orientation of lectures: a column a position, scores with queries as rows."""
    model = without_biases(model_of(seed, normalization_type=None, d_mlp=10, act_fn="relu"))
    tokens, n = tokens_of(model, seed), model.cfg.n_ctx
    attn, mlp, width = model.blocks[0].attn, model.blocks[0].mlp, model.cfg.d_head

    one_hot_tokens = F.one_hot(tokens[0], model.cfg.d_vocab).double().T  # [d_vocab, N]
    one_hot_positions = torch.eye(n, dtype=torch.float64)  # [N, N]
    x = model.W_E.T @ one_hot_tokens + model.W_pos.T @ one_hot_positions  # [d_model, N]
    z = []
    for head in range(3):
        q, k, v = (W[head].T @ x for W in (attn.W_Q, attn.W_K, attn.W_V))  # [d_head, N]
        scores = q.T @ k / math.sqrt(width)  # all pairs, [query, key]
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)  # keys j > i
        z.append(v @ scores.softmax(dim=1).T)  # a row of weights a query
    x = x + attn.W_O.flatten(0, 1).T @ torch.cat(z)  # heads side by side, times W_O
    x = x + mlp.W_out.T @ (mlp.W_in.T @ x).relu()
    probabilities = (model.W_U.T @ x).softmax(dim=0)  # [d_vocab, N]

    assert_close(model(tokens)[0].softmax(dim=-1), probabilities.T)


def test_a_tied_model_unembeds_with_the_embedding():
    model = model_of(1, tie_word_embeddings=True, normalization_type=None)
    logits, cache = model.run_with_cache(tokens_of(model, 1))
    assert_close(logits, cache["resid_post", 0] @ model.W_E.T + model.b_U)  # u = h E^T


# ---------------------------------------------------------------------------------------------- attention in versions


@few(SEEDS)
def test_with_identity_weights_queries_and_keys_are_the_stream_itself(seed: int):
    """Version 1, scores x_i . x_j, is version 2, scores q_i . k_j, with W_Q = W_K = I."""
    model = without_biases(model_of(seed, n_heads=1, d_head=12, attn_scale=1.0, **BARE))
    with torch.no_grad():
        for W in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K):
            W.copy_(torch.eye(12)[None])
    _, cache = model.run_with_cache(tokens_of(model, seed))
    x, scores = cache["resid_pre", 0][0], cache["attn_scores", 0][0, 0]
    assert_close(scores, (x @ x.T).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf))


@few(SEEDS)
def test_version_3_divides_by_the_root_of_d_k(seed: int):
    scaled, plain = model_of(seed, **BARE), model_of(seed, attn_scale=1.0, **BARE)
    tokens = tokens_of(scaled, seed)
    got, raw = (model.run_with_cache(tokens)[1]["attn_scores", 0] for model in (scaled, plain))
    assert_close(got, raw / math.sqrt(4))


def test_the_scale_keeps_scores_of_random_queries_and_keys_near_a_spread_of_one():
    """Std of q . k at d_k = 64: 8, which a sample shows as 7.99; scaled 1, shown as .998."""
    model = HookedTransformer(
        TransformerConfig(n_layers=1, d_model=64, n_heads=1, n_ctx=1000, d_vocab=2, attn_only=True)
    )
    q, k = (random_tensor(1, 1000, 1, 64, seed=seed).float() for seed in (0, 1))
    with model.hooks([(("q", 0), lambda _, hook: q), (("k", 0), lambda _, hook: k)]):
        _, cache = model.run_with_cache(torch.zeros(1, 1000, dtype=torch.long), names_filter=("attn_scores", 0))
    scores = cache["attn_scores", 0][cache["attn_scores", 0].isfinite()]
    assert float(scores.std()) == pytest.approx(0.998, abs=0.01)
    assert float((scores * 8).std()) == pytest.approx(7.99, abs=0.08)


@few(SEEDS)
def test_a_query_collects_the_values_up_to_it_by_their_weights(seed: int):
    model = model_of(seed, **BARE)
    _, cache = model.run_with_cache(tokens_of(model, seed))
    weights, values = cache["pattern", 0][0], cache["v", 0][0]
    for i in range(9):
        a_i = torch.stack([weights[:, i, j, None] * values[j] for j in range(i + 1)]).sum(dim=0)
        assert_close(cache["z", 0][0, i], a_i)


@few(SEEDS)
def test_heads_side_by_side_times_W_O_are_the_sum_of_their_own_products(seed: int):
    model = model_of(seed, **BARE)
    _, cache = model.run_with_cache(tokens_of(model, seed))
    z, attn = cache["z", 0][0], model.blocks[0].attn
    whole = z.flatten(1) @ attn.W_O.flatten(0, 1)
    assert_close(whole, torch.stack([z[:, head] @ attn.W_O[head] for head in range(3)]).sum(0))
    assert_close(cache["attn_out", 0][0], whole + attn.b_O)


# ---------------------------------------------------------------------------------------------- pre-norm and post-norm


def torch_layer(model: HookedTransformer) -> nn.TransformerEncoderLayer:
    """Torch's own layer, with the weights of the model's only block."""
    cfg, block = model.cfg, model.blocks[0]
    layer = nn.TransformerEncoderLayer(
        cfg.d_model, cfg.n_heads, cfg.d_mlp, 0.0, cfg.act_fn, cfg.eps, True, cfg.norm_position == "pre"
    ).double()
    attn, mlp = block.attn, block.mlp
    in_proj = torch.cat([W.transpose(1, 2).flatten(0, 1) for W in (attn.W_Q, attn.W_K, attn.W_V)])
    with torch.no_grad():
        for target, source in (
            (layer.self_attn.in_proj_weight, in_proj),
            (layer.self_attn.in_proj_bias, torch.cat([b.flatten() for b in (attn.b_Q, attn.b_K, attn.b_V)])),
            (layer.self_attn.out_proj.weight, attn.W_O.flatten(0, 1).T),
            (layer.self_attn.out_proj.bias, attn.b_O),
            (layer.linear1.weight, mlp.W_in.T),
            (layer.linear1.bias, mlp.b_in),
            (layer.linear2.weight, mlp.W_out.T),
            (layer.linear2.bias, mlp.b_out),
            (layer.norm1.weight, block.ln1.w),
            (layer.norm1.bias, block.ln1.b),
            (layer.norm2.weight, block.ln2.w),
            (layer.norm2.bias, block.ln2.b),
        ):
            assert source is not None
            target.copy_(source)
    return layer


@few(SEEDS, st.sampled_from(["pre", "post"]), st.sampled_from(["relu", "gelu"]))
def test_a_block_equals_torchs_layer_in_both_norm_positions(
    seed: int, norm_position: Literal["pre", "post"], act_fn: Literal["relu", "gelu"]
):
    model = model_of(seed, norm_position=norm_position, act_fn=act_fn, d_mlp=10)
    x = random_tensor(2, 9, 12, seed=seed)
    want = torch_layer(model)(x, src_mask=nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64))
    assert_close(model(x, start_at_layer=0, stop_at_layer=1), want)


@few(SEEDS)
def test_pre_norm_adds_to_the_stream_and_post_norm_normalises_the_sum(seed: int):
    """x + MHA(LN(x)), then t + FFN(LN(t)); LN(x + MHA(x)), then LN(t + FFN(t)): two models."""
    x = random_tensor(1, 9, 12, seed=seed)
    outputs = {}
    for norm_position in ("pre", "post"):
        model = model_of(seed, norm_position=norm_position, d_mlp=10)
        y, cache = model.run_with_cache(x, start_at_layer=0, stop_at_layer=1)
        block = model.blocks[0]
        t, attn_out, mlp_out = cache["resid_mid", 0], cache["attn_out", 0], cache["mlp_out", 0]
        if norm_position == "pre":
            assert_close(t, x + attn_out)
            assert_close(y, t + mlp_out)
            assert_close(mlp_out, block.mlp(block.ln2(t)))
        else:
            assert_close(t, block.ln1(x + attn_out))
            assert_close(y, block.ln2(t + mlp_out))
            assert_close(mlp_out, block.mlp(t))
        outputs[norm_position] = y
    assert (outputs["pre"] - outputs["post"]).abs().max() > 0.1


# ---------------------------------------------------------------------------------------------- the 8 x 8 grid


def test_the_grid_of_the_fluffy_blue_creature_has_keys_as_rows():
    """Drawn with a row for each key, such a grid has columns that sum to 1; `figures.pattern` wants queries as rows."""
    words = Vocabulary(["a", "fluffy", "blue", "creature", "roamed", "the", "verdant", "forest"])
    text = " ".join(words.words)
    cfg = TransformerConfig(n_layers=1, d_model=8, n_heads=1, n_ctx=8, d_vocab=8, attn_scale=1.0,
                            positional_embedding_type="none", **BARE)  # fmt: skip
    model = HookedTransformer(cfg, words)
    asks = torch.zeros(8, 8)  # [query word, key word]
    for noun, adjective, score in (
        ("creature", "fluffy", 93.0),
        ("creature", "blue", 93.4),
        ("forest", "verdant", 97.9),
    ):
        asks[words.to_single_token(noun), words.to_single_token(adjective)] = score
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(8))
        model.blocks[0].attn.W_Q[0] = asks
        model.blocks[0].attn.W_K[0] = torch.eye(8)
    _, cache = model.run_with_cache(text)
    pattern = cache["pattern", 0][0, 0]
    printed = pattern.T

    at = dict(zip(words.words, range(8), strict=True))
    assert [round(float(printed[at[key], at["creature"]]), 3) for key in ("fluffy", "blue")] == [0.401, 0.599]
    assert round(float(printed[at["verdant"], at["forest"]]), 3) == 1.0
    assert_close(printed.sum(dim=0), torch.ones(8))  # columns are distributions, so columns are queries

    figures.pattern(pattern, model.to_str_tokens(text))
    with pytest.raises(RangeError, match="attends to later keys"):  # an adjective to the noun that comes after it
        figures.pattern(printed, model.to_str_tokens(text))


# ---------------------------------------------------------------------------------------------- a head as a matrix


@few(SEEDS)
def test_attention_is_the_sum_of_its_heads_and_a_head_is_a_pattern_times_the_stream_times_a_matrix(seed: int):
    """H(x) = sum of h(x), h(x) = A x S^T, A the softmax over each row of x Y x^T, Y = W_Q^T W_K / sqrt(d_k)."""
    model = without_biases(model_of(seed, **BARE))
    _, cache = model.run_with_cache(tokens_of(model, seed), names_filter=["*", ("result", 0)])
    x, attn = cache["resid_pre", 0][0], model.blocks[0].attn
    total = torch.zeros_like(x)
    for head in range(3):
        Y = attn.W_Q[head] @ attn.W_K[head].T / math.sqrt(4)
        S = (attn.W_V[head] @ attn.W_O[head]).T  # W_O W_V, of columns
        A = (x @ Y @ x.T).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(dim=1)
        assert_close(cache["pattern", 0][0, head], A)
        assert_close(cache["result", 0][0, :, head], A @ x @ S.T)
        assert int(torch.linalg.matrix_rank(S)) <= 4
        total += A @ x @ S.T
    assert_close(cache["attn_out", 0][0], total)


@few(SEEDS)
def test_two_heads_with_the_same_fixed_pattern_are_one_head(seed: int):
    """A x S_1^T + A x S_2^T = A x (S_1 + S_2)^T: one head, of up to twice the width."""
    two = without_biases(model_of(seed, n_heads=2, d_head=3, **BARE))
    one = without_biases(model_of(seed, n_heads=1, d_head=6, **BARE))
    with torch.no_grad():
        for part, axis in (("W_V", 1), ("W_O", 0)):
            heads = two.blocks[0].attn.get_parameter(part)
            one.blocks[0].attn.get_parameter(part)[0] = torch.cat([heads[0], heads[1]], dim=axis)
    x = random_tensor(1, 9, 12, seed=seed)
    A = random_tensor(9, 9, seed=seed + 1).masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(dim=1)

    def out(model: HookedTransformer, fixed: bool) -> Tensor:
        hooks = [(("pattern", 0), lambda pattern, hook: A.expand_as(pattern).clone())] if fixed else []
        return model.run_with_hooks(x, start_at_layer=0, stop_at_layer=1, fwd_hooks=hooks)

    assert_close(out(one, fixed=True), out(two, fixed=True))
    attn = two.blocks[0].attn
    merged = attn.W_V[0] @ attn.W_O[0] + attn.W_V[1] @ attn.W_O[1]
    assert_close(out(two, fixed=True) - x, A @ x @ merged)
    assert (out(one, fixed=False) - out(two, fixed=False)).abs().max() > 1e-3  # with patterns of their own they are two


# ---------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("fields", "symmetric"),
    [
        ({"attention_dir": "bidirectional", "positional_embedding_type": "none"}, True),
        ({"attention_dir": "causal", "positional_embedding_type": "none"}, False),
        ({"attention_dir": "bidirectional", "positional_embedding_type": "standard"}, False),
    ],
    ids=["neither", "mask", "positions"],
)
def test_only_the_mask_and_positions_tell_a_transformer_about_order(fields: dict[str, Any], symmetric: bool):
    """h(P x) = P h(x) for every permutation P without either; each alone breaks it."""
    for seed in range(5):
        model = model_of(seed, n_layers=2, d_mlp=10, d_vocab=20, **fields)
        tokens = torch.randperm(20, generator=torch.Generator().manual_seed(seed))[None, :9]
        P = torch.randperm(9, generator=torch.Generator().manual_seed(seed + 99))
        assert not torch.equal(P, torch.arange(9))
        moved, want = model(tokens[:, P]), model(tokens)[:, P]
        if symmetric:
            assert_close(moved, want)
        else:
            assert (moved - want).abs().max() > 0.01


def shift_operator(d_model: int) -> Tensor:
    """T with `e_(k+1) = e_k @ T` for sinusoidal positions [sin, cos, sin, cos, ...] of base 10,000."""
    angles = 1 / 10_000 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    cos, sin = angles.cos(), angles.sin()
    return torch.block_diag(*torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=-2))


@pytest.mark.parametrize("d_model", [2, 64, 100])
def test_one_orthogonal_matrix_shifts_sinusoidal_positions(d_model: int):
    cfg = TransformerConfig(
        n_layers=0, d_model=d_model, d_head=1, n_ctx=1000, d_vocab=2, positional_embedding_type="sinusoidal",
        dtype=torch.float64,
    )  # fmt: skip
    e, T = HookedTransformer(cfg).W_pos, shift_operator(d_model)
    assert (T @ T.T - torch.eye(d_model)).abs().max() < 1e-15
    assert (e[:-1] @ T - e[1:]).abs().max() < 2e-13
    assert (e[:-5] @ torch.linalg.matrix_power(T, 5) - e[5:]).abs().max() < 2e-13
    assert (e.square().sum(dim=1) - d_model / 2).abs().max() < 1e-12
