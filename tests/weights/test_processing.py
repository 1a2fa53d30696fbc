"""Weight processing: the new model does what the old one did, in the promised form, and shares nothing with it."""

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import (
    ATTN_ONLY,
    GATED,
    GRID,
    ROTARY,
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    config,
    random_tokens,
    run_of,
    runs,
)
from hypothesis import given, settings
from torch import Tensor

from interp import ConfigError, HookedTransformer, TransformerConfig, Vocabulary
from interp.config import RotaryScaling
from interp.model.norms import Norm
from interp.weights.processing import (
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    refactor_factored_attn_matrices,
)

Process = Callable[[HookedTransformer], HookedTransformer]

NO_BLOCKS = {"n_layers": 0, "tie_word_embeddings": True}
LLAMA3 = RotaryScaling(kind="llama3", factor=8.0, original_n_ctx=64, high_freq_factor=4.0)
EXTRA: dict[str, dict[str, Any]] = {
    name: SMALL | fields | {"dtype": torch.float64}
    for name, fields in {
        "both_rms_gated_grouped_scaled_tied": ROTARY
        | GATED
        | {"norm_position": "both", "n_key_value_heads": 2, "embed_scale": 24**0.5, "tie_word_embeddings": True},
        "both_ln_qk_norm_capped": {"norm_position": "both", "use_qk_norm": True, "output_logits_soft_cap": 3.0},
        "both_ln_parallel": {"norm_position": "both", "parallel_attn_mlp": True},
        "scaled_tied": {"embed_scale": 3.0, "tie_word_embeddings": True},
        "windows_and_rotations_by_layer": ROTARY
        | {
            "window_size": (None, 3, 2),
            "rotary_base": (100.0, 10_000.0, 50.0),
            "rotary_scaling": (LLAMA3, None, RotaryScaling(kind="linear", factor=2.0)),
        },
        "attn_only_onehot": ATTN_ONLY | {"positional_embedding_type": "onehot"},
        "sinusoidal_ln": {"positional_embedding_type": "sinusoidal"},
        "heads_wider_than_the_stream": {"d_model": 8, "d_head": 12},
        "post_rms_tied": {"normalization_type": "RMS", "norm_position": "post", "tie_word_embeddings": True},
        "types_and_masked_token_head": {
            "positional_embedding_type": "sinusoidal_halves",
            "n_token_types": 2,
            "masked_token_head": True,
            "attention_dir": "bidirectional",
            "tie_word_embeddings": True,
        },
        "no_blocks": NO_BLOCKS,
        "no_blocks_rms": NO_BLOCKS | {"normalization_type": "RMS"},
    }.items()
}


@cache
def extra_run(name: str) -> Run:
    return Run(EXTRA[name], SEED)


def any_run(name: str) -> Run:
    return run_of(name) if name in GRID else extra_run(name)


def reads_layer_norm(cfg: TransformerConfig) -> bool:
    if cfg.embed_norm or not cfg.first_ln1:
        return False
    return cfg.normalization_type == "LN" and cfg.norm_position == "pre"


def keeps_its_heads_apart(cfg: TransformerConfig) -> bool:
    grouped = cfg.n_key_value_heads < cfg.n_heads
    return not (grouped or cfg.use_qk_norm or cfg.positional_embedding_type == "rotary")


POSSIBLE: dict[Process, Callable[[TransformerConfig], bool]] = {
    fold_layer_norm: lambda cfg: (
        cfg.normalization_type is None
        or (cfg.norm_position != "post" and cfg.positional_embedding_type != "shortformer")
    ),
    center_writing_weights: reads_layer_norm,
    center_unembed: lambda cfg: cfg.output_logits_soft_cap is None,
    fold_value_biases: lambda cfg: True,
    refactor_factored_attn_matrices: keeps_its_heads_apart,
}
PAIRS = list(itertools.product(POSSIBLE, [*GRID, *EXTRA]))


def pairs(possible: bool) -> pytest.MarkDecorator:
    """The test takes as `process` and `name` the combinations that are possible, or those that are not."""
    chosen = [(process, name) for process, name in PAIRS if POSSIBLE[process](any_run(name).cfg) == possible]
    return pytest.mark.parametrize(
        ("process", "name"), chosen, ids=[f"{process.__name__}-{name}" for process, name in chosen]
    )


def names(process: Process, fits: Callable[[TransformerConfig], bool] = lambda cfg: True) -> pytest.MarkDecorator:
    """The test takes as `name` the configurations that fit, of those that this function can process."""
    candidates = ((name, any_run(name).cfg) for name in [*GRID, *EXTRA])
    return pytest.mark.parametrize("name", [name for name, cfg in candidates if POSSIBLE[process](cfg) and fits(cfg)])


@cache
def processed(process: Process, name: str) -> HookedTransformer:
    """The processed model of a configuration. It is shared: tests only read it."""
    return process(any_run(name).model)


@cache
def hash_before(name: str) -> str:
    """The hash of a model of the same seed that nothing has processed."""
    return any_run(name).fresh_model().weights_hash()


def what_is_kept(process: Process, logits: Tensor) -> Tensor:
    return logits.log_softmax(-1) if process is center_unembed else logits


def assert_same_weights(got: HookedTransformer, want: HookedTransformer) -> None:
    theirs, ours = got.state_dict(), want.state_dict()
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert_close(theirs[name], tensor)


# ---------------------------------------------------------------------------------------------- what all have in common


@pairs(possible=True)
@torch.no_grad()
def test_the_new_model_predicts_what_the_old_one_did(process: Process, name: str):
    run = any_run(name)
    assert_close(what_is_kept(process, processed(process, name)(run.tokens)), what_is_kept(process, run.logits))


@pytest.mark.parametrize("process", POSSIBLE)
@torch.no_grad()
def test_it_predicts_the_same_behind_padding_too(process: Process):
    name = "learned_ln"
    run = any_run(name)
    mask = torch.ones_like(run.tokens, dtype=torch.bool)
    mask[0, :3], mask[1, :1] = False, False
    got, want = (
        what_is_kept(process, model(run.tokens, attention_mask=mask)) for model in (processed(process, name), run.model)
    )
    assert_close(got, want)


@given(run=runs())
@settings(max_examples=10)
@torch.no_grad()
def test_random_architectures_are_processed_or_refused(run: Run):
    for process, possible in POSSIBLE.items():
        if possible(run.cfg):
            assert_close(what_is_kept(process, process(run.model)(run.tokens)), what_is_kept(process, run.logits))
        else:
            with pytest.raises(ConfigError):
                process(run.model)


@pairs(possible=True)
def test_the_given_model_stays_as_it_is_to_the_last_bit(process: Process, name: str):
    given, new = any_run(name).model, processed(process, name)
    assert given.weights_hash() == hash_before(name) and given.cfg == any_run(name).cfg
    memory, new_memory = (
        {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()} for model in (given, new)
    )
    assert memory.isdisjoint(new_memory)


@pairs(possible=True)
def test_twice_is_the_same_as_once(process: Process, name: str):
    once = processed(process, name)
    twice = process(once)
    assert twice.cfg == once.cfg
    assert_same_weights(twice, once)


@pytest.mark.parametrize("name", [*GRID, *EXTRA])
@torch.no_grad()
def test_the_decompositions_of_a_model_processed_in_all_possible_ways_sum(name: str):
    run, model = any_run(name), any_run(name).model
    for process, possible in POSSIBLE.items():
        model = process(model) if possible(run.cfg) else model
    logits, cache = model.run_with_cache(run.tokens)
    parts = cache.get_full_resid_decomposition()
    assert_close(parts.values.sum(dim=0), cache.accumulated_resid().values[-1])
    if run.cfg.output_logits_soft_cap is None and not run.cfg.masked_token_head:
        attribution = cache.logit_attrs(parts, run.tokens)
        assert_close(attribution.values.sum(dim=0), logits.gather(-1, run.tokens[..., None])[..., 0])


@pairs(possible=False)
def test_what_cannot_be_kept_is_an_error_that_says_why(process: Process, name: str):
    reasons: dict[Process, str] = {
        fold_layer_norm: "normalises the stream itself|adds positions to the normalised stream",
        center_writing_weights: "needs 'LN' and 'pre'|embed_norm = True|first_ln1 = False",
        center_unembed: "output_logits_soft_cap = 3.0",
        refactor_factored_attn_matrices: "rotary|use_qk_norm|n_key_value_heads",
    }
    with pytest.raises(ConfigError, match=reasons[process]):
        process(any_run(name).model)


def test_all_obstacles_to_refactoring_are_named_at_once():
    with pytest.raises(ConfigError, match=r"'rotary'.*use_qk_norm = True.*n_key_value_heads = 2"):
        refactor_factored_attn_matrices(run_of("qk_norm_grouped").model)


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_all_of_them_in_any_order_keep_the_log_probabilities(seed: int, plain: Run):
    model = plain.model
    for process in random.Random(SEED + seed).sample([*POSSIBLE], k=len(POSSIBLE)):
        model = process(model)
    assert_close(model(plain.tokens).log_softmax(-1), plain.logits.log_softmax(-1))


# ---------------------------------------------------------------------------------------------- what carries over


@pytest.mark.parametrize("process", POSSIBLE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@torch.no_grad()
def test_the_dtype_is_kept_and_weights_are_rounded_once(process: Process, dtype: torch.dtype):
    model = build(TransformerConfig(**SMALL, dtype=dtype), SEED)
    new, exact = process(model), process(copy.deepcopy(model).double())
    assert new.cfg.dtype == dtype and {tensor.dtype for tensor in new.state_dict().values()} == {dtype}
    for name, tensor in exact.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor.to(dtype)), name


@pytest.mark.parametrize("process", POSSIBLE)
@torch.no_grad()
def test_in_float32_the_log_probabilities_are_kept_to_its_rounding(process: Process):
    model = build(TransformerConfig(**SMALL, dtype=torch.float32), SEED)
    tokens = random_tokens(model.cfg, SEED)
    assert_close(process(model)(tokens).log_softmax(-1), model(tokens).log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("process", POSSIBLE)
def test_the_config_of_a_cast_model_says_what_the_new_weights_are(process: Process):
    new = process(build(TransformerConfig(**SMALL, dtype=torch.float32), SEED).double())
    assert new.cfg.dtype == torch.float64 == new.W_E.dtype


@pytest.mark.parametrize("process", POSSIBLE)
def test_the_tokenizer_is_carried_over_and_hooks_are_not(process: Process):
    words = Vocabulary([f"word{i}" for i in range(SMALL["d_vocab"])])
    model = build(TransformerConfig(**SMALL), SEED, words)
    model.add_hook("hook_embed", lambda x, hook: None)
    new = process(model)
    assert new.tokenizer is words
    assert not any(point.hooks for point in new.hook_points.values())
    assert len(model.hook_embed.hooks) == 1


@pytest.mark.parametrize("process", POSSIBLE)
def test_what_was_not_trained_stays_so(process: Process):
    model = build(config(SMALL, tie_word_embeddings=True, positional_embedding_type="sinusoidal"), SEED).eval()
    model.embed.requires_grad_(False)
    model.blocks[1].attn.W_Q.requires_grad_(False)
    new = process(model)
    frozen = {name for name, parameter in new.named_parameters() if not parameter.requires_grad}
    assert (
        {"embed.W_E", "blocks.1.attn.W_Q"}
        <= frozen
        <= {
            "embed.W_E",
            "blocks.1.attn.W_Q",
            "unembed.W_U",
            "pos_embed.W_pos",
        }
    )
    assert not new.training
    assert ("unembed.W_U" in frozen) == (not new.cfg.tie_word_embeddings)


@pytest.mark.parametrize("process", POSSIBLE)
def test_the_new_model_learns(process: Process, plain: Run):
    new = process(plain.fresh_model())
    new(plain.tokens, "loss").backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in new.parameters())


@pytest.mark.parametrize("name", ["no_positions_tied_scaled", "sinusoidal_ln", "attn_only_onehot"])
def test_processed_models_are_saved_and_loaded_as_others(name: str, tmp_path: Path):
    model = center_writing_weights(fold_layer_norm(any_run(name).model))
    model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert loaded.cfg == model.cfg and loaded.weights_hash() == model.weights_hash()


# ---------------------------------------------------------------------------------------------- fold_layer_norm


def read_norms(model: HookedTransformer) -> list[Norm]:
    norms = [
        norm for block in model.blocks for norm in ([block.ln1] if model.cfg.attn_only else [block.ln1, block.ln2])
    ]
    of_head = [model.mlm_head.ln] if model.cfg.masked_token_head else []
    of_neurons = [block.mlp.ln for block in model.blocks] if model.cfg.norms_neurons else []
    return [*norms[0 if model.cfg.first_ln1 else 1 :], model.ln_final, *of_head, *of_neurons]


def reading_weights(model: HookedTransformer) -> list[Tensor]:
    """Of every block and the unembedding, [..., d_model, out]."""
    through_norms = model.blocks if model.cfg.first_ln1 else model.blocks[1:]
    attns = [W for block in through_norms for W in (block.attn.W_Q, block.attn.W_K, block.attn.W_V)]
    heads = [model.mlm_head.W_in] if model.cfg.masked_token_head else []
    mlps = [] if model.cfg.attn_only else [block.mlp for block in model.blocks]
    gates = [mlp.W_gate for mlp in mlps if mlp.gated]
    return [*attns, *(mlp.W_in for mlp in mlps), *gates, *heads, model.W_U]


def has_norms(cfg: TransformerConfig) -> bool:
    return cfg.normalization_type is not None


@names(fold_layer_norm, has_norms)
def test_folded_norms_have_gain_one_and_bias_zero(name: str):
    for norm in read_norms(processed(fold_layer_norm, name)):
        assert norm.w is not None and torch.equal(norm.w, torch.ones_like(norm.w))
        assert norm.b is None or torch.equal(norm.b, torch.zeros_like(norm.b))


@names(fold_layer_norm, has_norms)
@torch.no_grad()
def test_hook_normalized_becomes_the_stream_before_the_gain(name: str):
    run = any_run(name)
    layers = range(0 if run.cfg.first_ln1 else 1, run.cfg.n_layers)
    points = ["ln_final.hook_normalized", *(f"blocks.{i}.ln1.hook_normalized" for i in layers)]
    _, old = run.model.run_with_cache(run.tokens, names_filter=points)
    _, new = processed(fold_layer_norm, name).run_with_cache(run.tokens, names_filter=points)
    for point in points:
        norm = run.model.get_submodule(point.removesuffix(".hook_normalized"))
        assert isinstance(norm, Norm) and norm.w is not None
        unbiased = old[point] if norm.b is None else old[point] - norm.b
        assert_close(new[point] * norm.w, unbiased)


@names(fold_layer_norm, lambda cfg: cfg.normalization_type == "LN")
def test_what_reads_a_layer_norm_ignores_the_mean(name: str):
    folded = processed(fold_layer_norm, name)
    of_neurons = [block.mlp.W_out for block in folded.blocks] if folded.cfg.norms_neurons else []
    for W in [*reading_weights(folded), *of_neurons]:
        assert_close(W.mean(dim=-2), torch.zeros_like(W.mean(dim=-2)))


@names(fold_layer_norm, lambda cfg: cfg.normalization_type == "RMS")
@torch.no_grad()
def test_what_reads_an_rms_norm_is_scaled_only(name: str):
    old, new = any_run(name).model, processed(fold_layer_norm, name)
    assert new.ln_final.w is not None and old.ln_final.w is not None
    assert_close(new.W_U, old.ln_final.w[:, None] * old.W_U)
    assert torch.equal(new.b_U, old.b_U)


@names(fold_layer_norm, lambda cfg: cfg.norm_position == "both" or cfg.use_qk_norm)
def test_norms_of_writes_queries_and_keys_are_left_alone(name: str):
    old, new = any_run(name).model, processed(fold_layer_norm, name)
    for path in (f"blocks.1.{norm}.w" for norm in ("ln1_post", "ln2_post", "attn.q_norm", "attn.k_norm")):
        if path in dict(old.named_parameters()):
            assert torch.equal(new.get_parameter(path), old.get_parameter(path))


@names(fold_layer_norm, lambda cfg: cfg.tie_word_embeddings)
def test_folding_unties_the_embeddings_and_keeps_what_is_embedded(name: str):
    old, new = any_run(name).model, processed(fold_layer_norm, name)
    assert new.cfg == dataclasses.replace(old.cfg, tie_word_embeddings=False)
    assert torch.equal(new.W_E, old.W_E)
    assert not torch.equal(new.W_U, old.W_E.T)


@names(fold_layer_norm, lambda cfg: not has_norms(cfg))
def test_without_norms_folding_only_copies(name: str):
    old, new = any_run(name).model, processed(fold_layer_norm, name)
    assert new.cfg == old.cfg and new.weights_hash() == old.weights_hash()


@torch.no_grad()
def test_norms_of_neurons_are_folded_wherever_there_are_neurons():
    for fields in ({"normalization_type": None}, {"parallel_attn_mlp": True}, {"attn_only": True, "d_mlp": 0}):
        model = build(config(GRID["learned_ln"], act_fn="solu_ln", **fields), SEED)
        folded = fold_layer_norm(model)
        tokens = random_tokens(model.cfg, 1)
        assert_close(folded(tokens), model(tokens))
        for block in folded.blocks if model.cfg.norms_neurons else ():
            assert torch.equal(block.mlp.ln.w, torch.ones(10)) and not block.mlp.ln.b.any()  # pyright: ignore
            assert_close(block.mlp.W_out.mean(0), torch.zeros(24).double())


# ---------------------------------------------------------------------------------------------- centring


@names(center_writing_weights)
@torch.no_grad()
def test_after_centring_writes_the_stream_has_mean_zero_everywhere(name: str):
    run, model = any_run(name), processed(center_writing_weights, name)
    ends = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "hook_embed")
    ends += ("hook_pos_embed",) if model.cfg.positions_in_stream else ()
    _, cache = model.run_with_cache(run.tokens, names_filter=lambda point: point.endswith(ends))
    for point in cache:
        assert_close(cache[point].mean(-1), torch.zeros_like(cache[point].mean(-1)))


@names(center_writing_weights)
def test_centring_writes_changes_no_reading_weight(name: str):
    pairs = zip(
        reading_weights(any_run(name).model), reading_weights(processed(center_writing_weights, name)), strict=True
    )
    assert all(torch.equal(old, new) for old, new in pairs)


@names(center_writing_weights, lambda cfg: cfg.positional_embedding_type in ("onehot", "sinusoidal"))
def test_a_centred_table_of_positions_is_called_standard_and_not_trained(name: str):
    new = processed(center_writing_weights, name)
    assert new.cfg.positional_embedding_type == "standard" and not new.W_pos.requires_grad


@names(center_writing_weights, POSSIBLE[fold_layer_norm])
@torch.no_grad()
def test_folded_and_centred_models_read_the_stream_divided_by_its_scale(name: str):
    run = any_run(name)
    model = fold_layer_norm(processed(center_writing_weights, name))
    _, cache = model.run_with_cache(run.tokens, names_filter="ln_final.*")
    stream = model(run.tokens, stop_at_layer=run.cfg.n_layers)
    assert_close(cache["ln_final.hook_normalized"], stream / cache["ln_final.hook_scale"])


@names(center_unembed)
@torch.no_grad()
def test_after_centring_the_unembedding_logits_have_mean_zero(name: str):
    run = any_run(name)
    logits = processed(center_unembed, name)(run.tokens)
    assert_close(logits, run.logits - run.logits.mean(-1, keepdim=True))
    assert_close(logits.mean(-1), torch.zeros_like(logits.mean(-1)))
    assert torch.equal(processed(center_unembed, name).W_E, run.model.W_E)


# ---------------------------------------------------------------------------------------------- attention


@names(fold_value_biases, lambda cfg: cfg.n_key_value_heads < cfg.n_heads or cfg.norm_position == "both")
@torch.no_grad()
def test_folded_value_biases_are_zero_and_attention_writes_the_same(name: str):
    run, model = any_run(name), processed(fold_value_biases, name)
    assert all(torch.equal(block.attn.b_V, torch.zeros_like(block.attn.b_V)) for block in model.blocks)
    points = [f"blocks.{layer}.hook_attn_out" for layer in range(run.cfg.n_layers)]
    _, old = run.model.run_with_cache(run.tokens, names_filter=points)
    _, new = model.run_with_cache(run.tokens, names_filter=points)
    for point in old:
        assert_close(new[point], old[point])


@names(refactor_factored_attn_matrices)
@torch.no_grad()
def test_refactored_heads_keep_their_patterns_and_their_results(name: str):
    run = any_run(name)
    points = ["blocks.*.attn.hook_attn_scores", "blocks.*.attn.hook_result"] if run.cfg.n_layers else "hook_embed"
    _, old = run.model.run_with_cache(run.tokens, names_filter=points)
    _, new = processed(refactor_factored_attn_matrices, name).run_with_cache(run.tokens, names_filter=points)
    for point in old:
        assert_close(new[point], old[point])


@names(refactor_factored_attn_matrices, lambda cfg: cfg.n_layers > 0)
def test_the_dimensions_of_a_refactored_head_are_orthogonal_and_sorted(name: str):
    attn = processed(refactor_factored_attn_matrices, name).blocks[0].attn
    queries, keys, values = (
        torch.cat([W, b[:, None]], dim=1) for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
    )
    for factor, order in ((queries, 1), (keys, 1), (values, 2)):
        gram = factor.transpose(1, 2) @ factor  # [head, d_head, d_head]
        sizes = gram.diagonal(dim1=1, dim2=2)
        assert_close(gram, torch.diag_embed(sizes))
        assert (sizes.diff(dim=1) <= 1e-10).all()
        product = queries @ keys.transpose(1, 2) if order == 1 else values @ attn.W_O
        singular = torch.linalg.svdvals(product)[:, : sizes.shape[1]]
        assert_close(sizes[:, : singular.shape[1]], singular**order)
        assert (sizes[:, singular.shape[1] :] == 0).all()
    written = attn.W_O @ attn.W_O.transpose(1, 2)
    used = (values.norm(dim=1) > 0).double()
    assert_close(written, torch.diag_embed(used))


def test_heads_of_lower_rank_are_refactored_twice_as_once(plain: Run):
    model = plain.fresh_model()
    with torch.no_grad():
        attn = model.blocks[1].attn
        attn.W_Q[..., 2:], attn.b_Q[..., 2:] = 0.0, 0.0
        attn.W_V[0], attn.b_V[0] = attn.W_V[0, :, :1] * torch.arange(1.0, 6), attn.b_V[0, :1] * torch.arange(1.0, 6)
        attn.W_K[3], attn.b_K[3] = 0.0, 0.0
    once = refactor_factored_attn_matrices(model)
    with torch.no_grad():
        assert_close(once(plain.tokens), model(plain.tokens))
    assert (once.blocks[1].attn.W_Q.norm(dim=1) > 0).sum(dim=1).tolist() == [2, 2, 2, 0]
    assert (once.blocks[1].attn.W_V.norm(dim=1) > 0).sum(dim=1).tolist() == [1, 5, 5, 5]
    assert_same_weights(refactor_factored_attn_matrices(once), once)
