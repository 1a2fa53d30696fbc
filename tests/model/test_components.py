"""The parts of a model, each against an independent statement of what it computes."""

from typing import Any, Literal, cast

import pytest
import torch
import torch.nn.functional as F
from grid import (
    SEED,
    SMALL,
    Run,
    assert_close,
    in_layer,
    random_tensor,
    reference_activation,
    reference_norm,
    reference_position,
    reference_rotation,
    run_of,
    runs,
    where,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from interp import HookedTransformer, TransformerConfig
from interp.model.components import ACTIVATIONS
from interp.model.norms import Norm

seeds = st.integers(0, 2**31)


def random_norm(kind: Literal["LN", "RMS"], size: int, seed: int = SEED) -> Norm:
    norm = Norm(kind, size, eps=1e-3).double()
    with torch.no_grad():
        for n, parameter in enumerate(norm.parameters()):
            parameter.copy_(1 + random_tensor(size, seed=seed + n))
    return norm


# ---------------------------------------------------------------------------------------------- norms


@given(seeds, st.integers(1, 9))
def test_layer_norm_equals_torchs(seed: int, size: int):
    norm, theirs = random_norm("LN", size, seed), nn.LayerNorm(size, eps=1e-3, dtype=torch.float64)
    theirs.load_state_dict({"weight": norm.w, "bias": norm.b})
    x = 3 * random_tensor(2, 4, size, seed=seed + 9)
    assert_close(norm(x), theirs(x))


@given(seeds, st.integers(1, 9))
def test_rms_norm_equals_torchs(seed: int, size: int):
    norm, theirs = random_norm("RMS", size, seed), nn.RMSNorm(size, eps=1e-3, dtype=torch.float64)
    theirs.load_state_dict({"weight": norm.w})
    x = 3 * random_tensor(2, 4, size, seed=seed + 9)
    assert_close(norm(x), theirs(x))


def test_no_norm_returns_its_input():
    x = random_tensor(2, 3, 4)
    assert Norm(None, 4, eps=1e-5)(x) is x


@given(st.sampled_from(["LN", "RMS"]), seeds)
def test_a_norm_at_its_own_scale_is_the_norm_but_for_the_bias(kind: Any, seed: int):
    norm, x = random_norm(kind, 6, seed), random_tensor(2, 3, 6, seed=seed + 9)
    bias = torch.zeros(6, dtype=torch.float64) if norm.b is None else norm.b
    assert_close(norm.at_scale(x, norm.scale(x)) + bias, norm(x))


@given(st.sampled_from(["LN", "RMS"]), seeds)
def test_a_norm_at_a_given_scale_is_linear(kind: Any, seed: int):
    norm, x, y = random_norm(kind, 6, seed), random_tensor(2, 3, 6, seed=seed), random_tensor(2, 3, 6, seed=seed + 1)
    scale = 0.5 + random_tensor(2, 3, 1, seed=seed + 2).abs()
    assert_close(norm.at_scale(2 * x - y, scale), 2 * norm.at_scale(x, scale) - norm.at_scale(y, scale))


@given(st.sampled_from(["LN", "RMS"]), seeds)
def test_a_norm_past_its_hooks_gives_the_same_bits(kind: Any, seed: int):
    norm, x = random_norm(kind, 6, seed), random_tensor(2, 3, 6, seed=seed + 9)
    assert torch.equal(norm.unhooked(x), norm(x))


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_norms_take_their_statistics_in_float32_at_least(kind: Literal["LN", "RMS"]):
    norm, x = random_norm(kind, 64), 300 * random_tensor(2, 3, 64)  # squares overflow in float16
    want = norm(x).float()
    assert_close(norm.half()(x.half()).float(), want, atol=5e-3)


@where(lambda cfg: cfg.normalization_type is not None)
def test_hook_scale_is_what_the_norm_divides_by(run: Run):
    x = run.cache["resid_pre", 1]
    if run.cfg.norm_position == "post":
        x = x + run.cache["attn_out", 1]
    centred = x - x.mean(-1, keepdim=True) if run.cfg.normalization_type == "LN" else x
    scale = (centred.square().mean(-1, keepdim=True) + run.cfg.eps).sqrt()
    assert_close(run.cache["blocks.1.ln1.hook_scale"], scale)


@where(lambda cfg: cfg.normalization_type is not None and cfg.norms_reads)
def test_hook_normalized_is_the_norms_output_gain_and_bias_included(run: Run):
    want = reference_norm(run.model.blocks[1].ln1, run.cache["resid_pre", 1])
    assert_close(run.cache["blocks.1.ln1.hook_normalized"], want)


# ---------------------------------------------------------------------------------------------- positions


@where(lambda cfg: cfg.positional_embedding_type == "rotary")
@pytest.mark.parametrize("part", ["q", "k"])
def test_rotation_equals_complex_multiplication(run: Run, part: str):
    for turned, x in zip(run.cache[f"rot_{part}", 1], run.cache[part, 1], strict=True):
        want = [[reference_rotation(run.cfg, 1, head, p) for head in heads] for p, heads in enumerate(x)]
        assert_close(turned, torch.stack([torch.stack(heads) for heads in want]))


@where(lambda cfg: cfg.positional_embedding_type == "rotary" and cfg.window_size is None)
def test_scores_of_rotated_vectors_depend_on_their_distance_only(run: Run):
    hooks = [((part, 0), lambda act, hook: act[:, :1].expand_as(act)) for part in ("q", "k")]
    with run.model.hooks(hooks):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=("attn_scores", 0))
    scores = cache["attn_scores", 0]
    assert_close(scores[..., 1:, 1:], scores[..., :-1, :-1])


@pytest.mark.parametrize("kind", ["sinusoidal", "sinusoidal_halves", "onehot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_position_tables_are_right_to_the_last_digit_of_their_dtype(kind: Any, dtype: torch.dtype):
    model = HookedTransformer(TransformerConfig(**SMALL, positional_embedding_type=kind, dtype=dtype))
    want = torch.stack([reference_position(model.cfg, p) for p in range(model.cfg.n_ctx)])
    torch.testing.assert_close(model.W_pos, want, rtol=0, atol=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", ["sinusoidal", "sinusoidal_halves", "onehot"])
def test_fixed_positions_are_not_trained(kind: Any):
    model = HookedTransformer(TransformerConfig(**SMALL, positional_embedding_type=kind))
    assert "pos_embed.W_pos" not in dict(model.named_parameters())


@where(lambda cfg: cfg.positions_in_stream and not cfg.embed_norm)
def test_position_vectors_are_added_to_the_stream(run: Run):
    assert_close(run.cache["resid_pre", 0], run.cache["embed"] + run.cache["pos_embed"])


@where(lambda cfg: cfg.embed_norm)
def test_the_stream_begins_with_the_norm_of_all_embeddings(run: Run):
    embeddings = [run.cache[f"hook_{name}"] for name in ("embed", "pos_embed", "token_type_embed")
                  if f"hook_{name}" in run.cache]  # fmt: skip
    assert_close(run.cache["resid_pre", 0], reference_norm(run.model.embed_ln, sum(embeddings, start=torch.zeros(1))))
    assert torch.equal(run.cache["resid_pre", 0], run.cache["embed_ln.hook_normalized"])


@where(lambda cfg: not (cfg.positions_in_stream or cfg.embed_norm or cfg.n_token_types))
def test_positions_that_are_not_added_leave_the_stream_to_the_tokens(run: Run):
    assert torch.equal(run.cache["resid_pre", 0], run.cache["embed"])


# ---------------------------------------------------------------------------------------------- attention


@given(runs(attn_implementation="eager"), st.data())
def test_a_query_sees_the_keys_that_direction_window_and_padding_leave_it(run: Run, data: st.DataObject):
    batch, n_pos = run.tokens.shape
    rows = st.lists(st.booleans(), min_size=n_pos, max_size=n_pos).filter(any)
    mask = data.draw(st.none() | st.lists(rows, min_size=batch, max_size=batch))
    window = in_layer(run.cfg.window_size, -1)
    _, cache = run.model.run_with_cache(
        run.tokens, names_filter=("attn_scores", -1), attention_mask=None if mask is None else torch.tensor(mask)
    )

    def sees(b: int, i: int, j: int) -> bool:
        real = mask is None or (mask[b][i] and mask[b][j])
        near = window is None or abs(i - j) < window
        return i == j or (real and near and (run.cfg.attention_dir == "bidirectional" or j <= i))

    want = [[[sees(b, i, j) for j in range(n_pos)] for i in range(n_pos)] for b in range(batch)]
    assert torch.equal(
        cache["attn_scores", -1].isfinite(), torch.tensor(want)[:, None].expand(-1, run.cfg.n_heads, -1, -1)
    )


def test_the_softmax_of_the_scores_over_keys_is_the_pattern(run: Run):
    for layer in range(run.cfg.n_layers):
        assert_close(run.cache["pattern", layer], run.cache["attn_scores", layer].softmax(-1))


def test_scores_are_products_of_queries_and_keys_over_the_scale(run: Run):
    rotated = "rot_" if run.cfg.positional_embedding_type == "rotary" else ""
    q, k = run.cache[f"{rotated}q", 1], run.cache[f"{rotated}k", 1]
    k = k.repeat_interleave(run.cfg.n_heads // run.cfg.n_key_value_heads, dim=2)
    products = torch.einsum("bihd,bjhd->bhij", q, k) / run.cfg.attn_scale
    if run.cfg.positional_embedding_type == "relative":
        products = products + run.cache["rel_bias.hook_bias"]
    if cap := run.cfg.attn_scores_soft_cap:
        products = cap * torch.tanh(products / cap)
    scores = run.cache["attn_scores", 1]
    assert_close(scores, products.where(scores.isfinite(), -torch.inf))


@where(lambda cfg: cfg.attention_dir == "causal" and cfg.window_size is None)
def test_scores_are_minus_infinity_above_the_diagonal_and_nowhere_else(run: Run):
    scores = run.cache["attn_scores", -1]
    above = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    assert torch.equal(scores == -torch.inf, above.expand(scores.shape))


@where(lambda cfg: cfg.attn_scores_soft_cap is not None)
def test_capped_scores_stay_below_the_cap(run: Run):
    scores = run.cache["attn_scores", 0]
    assert scores[scores.isfinite()].abs().max() <= cast(float, run.cfg.attn_scores_soft_cap)


def test_z_is_the_values_mixed_by_the_pattern(run: Run):
    v = run.cache["v", 2].repeat_interleave(run.cfg.n_heads // run.cfg.n_key_value_heads, dim=2)
    assert_close(run.cache["z", 2], torch.einsum("bhij,bjhd->bihd", run.cache["pattern", 2], v))


@given(runs())
def test_every_row_of_every_pattern_sums_to_one(run: Run):
    pattern = run.cache["pattern", -1]
    assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)))


# ---------------------------------------------------------------------------------------------- MLP and unembedding


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_function_equals_its_formula(name: str):
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert_close(ACTIVATIONS[name](x), reference_activation(name, x))


@where(lambda cfg: cfg.gated_mlp)
def test_gated_neurons_are_the_activated_gate_times_the_linear_part(run: Run):
    gate = reference_activation(run.cfg.act_fn, run.cache["pre", 1])
    assert_close(run.cache["post", 1], gate * run.cache["pre_linear", 1])


@where(lambda cfg: not cfg.attn_only and not cfg.gated_mlp)
def test_neurons_are_the_activated_products(run: Run):
    activated = reference_activation(run.cfg.act_fn, run.cache["pre", 1])
    if run.cfg.act_fn == "solu_ln":
        assert_close(run.cache["mid", 1], activated)
        activated = reference_norm(run.model.blocks[1].mlp.ln, activated)
    assert_close(run.cache["post", 1], activated)


def test_the_embedding_is_the_row_of_each_token(run: Run):
    rows = F.one_hot(run.tokens, run.cfg.d_vocab).double() @ run.model.W_E
    assert torch.equal(run.cache["embed"], run.cfg.embed_scale * rows)


def test_tied_models_unembed_with_the_embedding():
    model = run_of("no_positions_tied_scaled").model
    assert torch.equal(model.W_U, model.W_E.T)


def test_capped_logits_stay_below_the_cap():
    run = run_of("capped_window_tied")
    assert run.logits.abs().max() <= cast(float, run.cfg.output_logits_soft_cap)
