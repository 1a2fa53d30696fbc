"""The residual stream as a sum: decompositions, norms at a frozen scale, and what each part adds to a logit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from grid import (
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    config,
    has_mid,
    random_tokens,
    reference_norm,
    run_of,
    runs,
    where,
)
from hypothesis import given
from torch import Tensor

from interp import ConfigError
from interp.model.rows import Stack


def places(run: Run) -> Iterator[tuple[int, bool, Tensor]]:
    """Everywhere that a decomposition may end: layer, whether after its attention, and the stream there."""
    for layer in range(run.cfg.n_layers):
        yield layer, False, run.cache["resid_pre", layer]
        if has_mid(run.cfg):
            yield layer, True, run.cache["resid_mid", layer]
    yield run.cfg.n_layers, False, run.cache["resid_post", -1]


# ---------------------------------------------------------------------------------------------- writes of a block


@where(lambda cfg: has_mid(cfg) and cfg.norms_reads)
def test_attention_and_mlp_add_their_writes_to_the_stream(run: Run):
    for layer in range(3):
        pre, attn, mid, mlp, post = (
            run.cache[name, layer] for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        )
        assert_close(pre + attn, mid)
        assert_close(mid + mlp, post)


@where(lambda cfg: cfg.parallel_attn_mlp)
def test_in_parallel_blocks_both_writes_are_added_at_once(run: Run):
    for layer in range(3):
        pre, attn, mlp = (run.cache[name, layer] for name in ("resid_pre", "attn_out", "mlp_out"))
        assert_close(pre + attn + mlp, run.cache["resid_post", layer])


@where(lambda cfg: cfg.attn_only and cfg.norms_reads)
def test_attention_only_blocks_add_the_write_of_attention(run: Run):
    for layer in range(3):
        assert_close(run.cache["resid_pre", layer] + run.cache["attn_out", layer], run.cache["resid_post", layer])


@where(lambda cfg: cfg.norm_position == "post")
def test_post_norm_blocks_normalise_each_sum(run: Run):
    for layer, block in enumerate(run.model.blocks):
        mid = reference_norm(block.ln1, run.cache["resid_pre", layer] + run.cache["attn_out", layer])
        post = mid if run.cfg.attn_only else reference_norm(block.ln2, mid + run.cache["mlp_out", layer])
        assert_close(post, run.cache["resid_post", layer])


def test_what_leaves_a_block_enters_the_next(run: Run):
    for layer in range(2):
        assert torch.equal(run.cache["resid_post", layer], run.cache["resid_pre", layer + 1])


def test_heads_and_their_bias_add_up_to_attn_out(run: Run):
    for layer, block in enumerate(run.model.blocks):
        written = run.everything["result", layer].sum(2) + block.attn.b_O
        assert_close(block.ln1_post.unhooked(written), run.cache["attn_out", layer])


def test_hook_result_is_what_each_head_writes(run: Run):
    want = torch.stack([run.cache["z", 1][:, :, h] @ run.model.W_O[1, h] for h in range(run.cfg.n_heads)], dim=2)
    assert_close(run.everything["result", 1], want)


@where(lambda cfg: not cfg.attn_only)
def test_neurons_and_their_bias_add_up_to_mlp_out(run: Run):
    for layer, block in enumerate(run.model.blocks):
        written = (run.cache["post", layer][..., None] * block.mlp.W_out).sum(2) + block.mlp.b_out
        assert_close(block.ln2_post.unhooked(written), run.cache["mlp_out", layer])


# ---------------------------------------------------------------------------------------------- decompositions


def test_the_decomposition_up_to_any_place_sums_to_the_stream_there(run: Run):
    for layer, mlp_input, stream in places(run):
        assert_close(run.cache.decompose_resid(layer, mlp_input).values.sum(0), stream)


@pytest.mark.parametrize("neurons", [False, True])
def test_heads_neurons_embeddings_and_biases_sum_to_the_stream_at_any_place(run: Run, neurons: bool):
    if run.cfg.attn_only and neurons:
        neurons = False
    for layer, mlp_input, stream in places(run):
        stack = run.cache.get_full_resid_decomposition(layer, mlp_input, expand_neurons=neurons)
        assert_close(stack.values.sum(0), stream)


@given(runs(dtype=torch.float32))
def test_in_float32_too_the_parts_sum_to_the_final_stream(run: Run):
    assert_close(run.cache.get_full_resid_decomposition().values.sum(0), run.cache["resid_post", -1])


@given(runs())
def test_the_parts_of_random_architectures_sum_to_the_stream(run: Run):
    for layer, mlp_input, stream in places(run):
        assert_close(run.cache.get_full_resid_decomposition(layer, mlp_input).values.sum(0), stream)


def test_labels_name_the_rows_in_order(run: Run):
    want = ["embed"]
    want += ["pos_embed"] if run.cfg.positional_embedding_type in ("standard", "onehot", "sinusoidal") else []
    want += ["token_type_embed"] if run.cfg.n_token_types else []
    for layer in range(3):
        want += [f"L{layer}H{head}" for head in range(run.cfg.n_heads)]
        want += [f"L{layer}N{neuron}" for neuron in range(run.cfg.d_mlp)]
    assert run.cache.get_full_resid_decomposition().labels == [*want, "bias"]


def test_every_row_has_a_label_of_its_own(run: Run):
    for stack in (
        run.cache.decompose_resid(apply_ln=True),
        run.cache.get_full_resid_decomposition(apply_ln=True),
        run.cache.accumulated_resid(incl_mid=has_mid(run.cfg)),
    ):
        assert len(set(stack.labels)) == len(stack.labels) == len(stack.values)


@where(lambda cfg: cfg.norm_position == "pre")
def test_a_heads_row_is_what_that_head_wrote(run: Run):
    rows = run.cache.get_full_resid_decomposition()
    values, labels = rows.values, rows.labels
    for layer in range(3):
        for head in range(run.cfg.n_heads):
            written = run.cache["z", layer][:, :, head] @ run.model.W_O[layer, head]
            assert_close(values[labels.index(f"L{layer}H{head}")], written)


@where(lambda cfg: cfg.norm_position == "pre" and not cfg.attn_only)
def test_a_neurons_row_is_what_that_neuron_wrote(run: Run):
    rows = run.cache.get_full_resid_decomposition()
    values, labels = rows.values, rows.labels
    for layer, neuron in ((0, 3), (2, 9)):
        written = run.cache["post", layer][..., neuron, None] * run.model.W_out[layer, neuron]
        assert_close(values[labels.index(f"L{layer}N{neuron}")], written)


@where(lambda cfg: cfg.norms_reads and not cfg.embed_norm)
def test_a_layers_row_is_what_that_layer_wrote(run: Run):
    rows = run.cache.decompose_resid()
    values, labels = rows.values, rows.labels
    for row, label in zip(values, labels, strict=True):
        layer, _, part = label.partition("_")
        name = (part, int(layer)) if layer.isdigit() else label
        assert torch.equal(row, run.cache[name]), label


@where(lambda cfg: cfg.norm_position == "post")
def test_in_post_norm_models_a_row_changes_as_its_write_does_at_frozen_scales(run: Run):
    rows = run.cache.decompose_resid(1)
    values, labels = rows.values, rows.labels
    write = run.cache["embed"]
    names = ["embed_ln"] if run.cfg.embed_norm else []
    for name in [*names, "blocks.0.ln1", *([] if run.cfg.attn_only else ["blocks.0.ln2"])]:
        norm: Any = run.model.get_submodule(name)
        if norm.w is not None:
            centred = write - write.mean(-1, keepdim=True) if run.cfg.normalization_type == "LN" else write
            write = centred / run.cache[f"{name}.hook_scale"] * norm.w
    assert_close(values[labels.index("embed")], write)


def test_the_head_stack_holds_the_head_rows_of_the_decomposition(run: Run):
    rows = run.cache.get_full_resid_decomposition(expand_neurons=False)
    values, labels = rows.values, rows.labels
    heads = run.cache.stack_head_results()
    assert heads.labels == [f"L{layer}H{head}" for layer in range(3) for head in range(run.cfg.n_heads)]
    assert torch.equal(heads.values, values[[labels.index(label) for label in heads.labels]])


@where(lambda cfg: not cfg.attn_only)
def test_the_neuron_stack_holds_the_neuron_rows_of_the_decomposition(run: Run):
    rows = run.cache.get_full_resid_decomposition(2)
    values, labels = rows.values, rows.labels
    neurons = run.cache.stack_neuron_results(2)
    assert neurons.labels == [f"L{layer}N{neuron}" for layer in range(2) for neuron in range(10)]
    assert_close(neurons.values, values[[labels.index(label) for label in neurons.labels]])


def test_layers_count_from_the_end_everywhere(run: Run):
    for method in ("decompose_resid", "get_full_resid_decomposition", "accumulated_resid", "stack_head_results"):
        positive, negative = getattr(run.cache, method)(1), getattr(run.cache, method)(-2)
        assert positive.labels == negative.labels and torch.equal(positive.values, negative.values), method


def test_accumulated_rows_are_the_stream_before_each_block_and_after_the_last(run: Run):
    rows = run.cache.accumulated_resid()
    values, labels = rows.values, rows.labels
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    want = [*(run.cache["resid_pre", layer] for layer in range(3)), run.cache["resid_post", 2]]
    assert torch.equal(values, torch.stack(want))


@where(has_mid)
def test_accumulated_rows_may_include_the_stream_between_attention_and_mlp(run: Run):
    rows = run.cache.accumulated_resid(2, incl_mid=True)
    values, labels = rows.values, rows.labels
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "2_pre"]
    assert torch.equal(values[3], run.cache["resid_mid", 1])


def test_a_model_without_blocks_decomposes_into_its_embeddings():
    model = build(config(SMALL, n_layers=0), SEED)
    logits, cache = model.run_with_cache(random_tokens(model.cfg, SEED))
    assert cache.decompose_resid().labels == ["embed", "pos_embed"]
    assert_close(cache.logit_attrs(cache.get_full_resid_decomposition(), 4).values.sum(0), logits[..., 4].detach())


# ---------------------------------------------------------------------------------------------- through norms


@where(lambda cfg: cfg.normalization_type is not None and cfg.norms_reads)
def test_parts_through_the_norm_that_reads_them_sum_to_its_output(run: Run):
    cache = run.cache
    for layer in range(3):
        read = cache["normalized", layer, "ln1"] if layer or run.cfg.first_ln1 else cache["resid_pre", 0]
        assert_close(cache.decompose_resid(layer, apply_ln=True).values.sum(0), read)
    if has_mid(run.cfg):
        parts = cache.get_full_resid_decomposition(1, mlp_input=True, apply_ln=True)
        assert_close(parts.values.sum(0), cache["normalized", 1, "ln2"])
    assert_close(cache.decompose_resid(apply_ln=True).values.sum(0), cache["ln_final.hook_normalized"])


@where(lambda cfg: cfg.normalization_type is not None and cfg.parallel_attn_mlp)
def test_in_parallel_blocks_parts_pass_the_mlps_norm_as_the_mlp_reads_them(run: Run):
    parts = run.cache.apply_ln_to_stack(run.cache.decompose_resid(1), 1, mlp_input=True)
    assert_close(parts.values.sum(0), run.cache["normalized", 1, "ln2"])


@where(lambda cfg: cfg.norms_reads and not cfg.use_qk_norm and cfg.positional_embedding_type != "shortformer")
def test_parts_through_ln1_and_W_Q_sum_to_the_queries(run: Run):
    parts = run.cache.decompose_resid(2, apply_ln=True).values
    queries = torch.einsum("rbpm,hmd->rbphd", parts, run.model.W_Q[2]).sum(0) + run.model.b_Q[2]
    assert_close(queries, run.cache["q", 2])


@where(lambda cfg: cfg.norms_reads and has_mid(cfg))
def test_parts_through_ln2_and_W_in_sum_to_the_neurons_inputs(run: Run):
    parts = run.cache.decompose_resid(1, mlp_input=True, apply_ln=True).values
    name = "pre_linear" if run.cfg.gated_mlp else "pre"
    assert_close((parts @ run.model.W_in[1]).sum(0) + run.model.b_in[1], run.cache[name, 1])


@where(lambda cfg: cfg.normalization_type is None or cfg.norm_position == "post")
def test_where_the_stream_is_read_as_it_is_no_norm_is_applied(run: Run):
    plain, through = run.cache.decompose_resid(), run.cache.decompose_resid(apply_ln=True)
    assert plain.labels == through.labels and torch.equal(plain.values, through.values)


def test_the_logit_lens_takes_new_statistics_for_every_layer(run: Run):
    rows = run.cache.accumulated_resid(apply_ln=True)
    values, _ = rows.values, rows.labels
    norm = run.model.ln_final
    for layer in range(3):
        assert_close(values[layer], reference_norm(norm, run.cache["resid_pre", layer]))


def test_the_last_accumulated_row_unembedded_is_the_logits(run: Run):
    rows = run.cache.accumulated_resid(apply_ln=True)
    values, _ = rows.values, rows.labels
    assert_close(run.model.unembed(run.model.after_norm(values[-1])), run.logits)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("layer", [4, -4])
@pytest.mark.parametrize(
    "method", ["decompose_resid", "get_full_resid_decomposition", "accumulated_resid", "stack_head_results"]
)
def test_a_layer_out_of_range_is_an_error(method: str, layer: int):
    with pytest.raises(ConfigError, match=f"layer = {layer}; allowed: -3 to 3"):
        getattr(run_of("learned_ln").cache, method)(layer)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("shortformer_attn_only", lambda cache: cache.decompose_resid(1, mlp_input=True)),
        ("partial_rotary_parallel", lambda cache: cache.decompose_resid(1, mlp_input=True)),
        ("learned_ln", lambda cache: cache.decompose_resid(3, mlp_input=True)),
        ("shortformer_attn_only", lambda cache: cache.accumulated_resid(incl_mid=True)),
        ("partial_rotary_parallel", lambda cache: cache.accumulated_resid(incl_mid=True)),
        ("shortformer_attn_only", lambda cache: cache.stack_neuron_results()),
        ("shortformer_attn_only", lambda cache: cache.apply_ln_to_stack(cache.decompose_resid(1), 1, mlp_input=True)),
    ],
)
def test_asking_for_a_place_that_the_architecture_lacks_is_an_error(name: str, call: Any):
    with pytest.raises(ConfigError):
        call(run_of(name).cache)


def test_heads_below_the_first_block_are_an_error():
    with pytest.raises(ConfigError, match="no block below it"):
        run_of("learned_ln").cache.stack_head_results(0)


def test_rows_of_one_place_are_not_read_at_another_without_saying_so():
    cache = run_of("learned_ln").cache
    below, middle = cache.decompose_resid(1), cache.decompose_resid(1, mlp_input=True)
    with pytest.raises(ConfigError, match=r"the attention of layer 1 reads, not the one that the final norm reads"):
        cache.logit_attrs(below, 3)
    with pytest.raises(ConfigError, match=r"the MLP of layer 1 reads, not the one that the attention of layer 1 reads"):
        cache.apply_ln_to_stack(middle, 1)
    at_the_end = cache.logit_attrs(cache.decompose_resid(), 3)  # before any later norm, a write stays what it is
    assert torch.equal(cache.logit_attrs(Stack(below.values, below.labels), 3)["embed"], at_the_end["embed"])


# ---------------------------------------------------------------------------------------------- some of the writes


@pytest.mark.parametrize("mode", ["attn", "mlp"])
@pytest.mark.parametrize("apply_ln", [False, True])
def test_the_rows_of_a_mode_are_those_of_all_that_the_mode_names(run: Run, mode: Any, apply_ln: bool):
    if mode == "mlp" and run.cfg.attn_only:
        with pytest.raises(ConfigError, match="this model has no MLPs"):
            run.cache.decompose_resid(mode="mlp")
        return
    other = "mlp_out" if mode == "attn" else "attn_out"
    for layer in (1, None):
        whole = run.cache.decompose_resid(layer, apply_ln=apply_ln)
        some = run.cache.decompose_resid(layer, apply_ln=apply_ln, mode=mode)
        assert some.labels == [label for label in whole.labels if not label.endswith(other) and label != "bias"]
        for label, row in some:
            assert_close(row, whole[label])


def test_an_edited_run_has_no_row_of_edits_where_only_some_writes_are_asked_for():
    run = run_of("learned_ln")
    with run.model.hooks([(("resid_mid", 1), lambda act, hook: act + 1)]):
        _, cache = run.model.run_with_cache(run.tokens)
    assert "edits" in cache.decompose_resid().labels
    assert cache.decompose_resid(mode="attn").labels == ["embed", "pos_embed", *(f"{i}_attn_out" for i in range(3))]


def test_a_mode_that_is_none_is_an_error(as_installed: None):
    mode: Any = "att"
    with pytest.raises(ConfigError, match="mode = 'att'; allowed: 'all', 'attn', 'mlp'; did you mean 'attn'"):
        run_of("learned_ln").cache.decompose_resid(mode=mode)
