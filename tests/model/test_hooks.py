"""Hook points: their names, what an edit does, what a hook may return, and how long it lives."""

import ast
import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from einops import einsum
from grid import (
    SEED,
    SMALL,
    Run,
    as_text,
    assert_close,
    build,
    config,
    everywhere,
    random_tensor,
    random_tokens,
    reference_logits,
    run_of,
    where,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import HookedTransformer, HookNotFoundError, HookPoint, ShapeError
from interp.model.names import layer_of


def identity(act: Tensor, hook: HookPoint) -> None:
    return None


def zero(act: Tensor, hook: HookPoint) -> Tensor:
    return torch.zeros_like(act)


def disturb(act: Tensor, hook: HookPoint) -> Tensor:
    """Random changes of size and direction, -inf stays where it is; of ids the next ones."""
    if not act.is_floating_point():
        return (act + 1) % SMALL["d_vocab"]
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.rand(act.shape, generator=generator, dtype=act.dtype)
    return act * (1 + noise) + noise


def some_points(model: HookedTransformer) -> list[str]:
    """All points of one layer, which the seed decides, and those outside the layers."""
    return [name for name in model.hook_map() if layer_of(name) in (SEED % 3, None)]


def names_of(model: HookedTransformer, asked: Any) -> list[str]:
    """The names of the points at which a hook on `asked` fires, in order of firing."""
    fired: list[str] = []
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([[1, 2, 3]]), fwd_hooks=[(asked, lambda act, hook: fired.append(hook.name))])
    return fired


def hooks_left(model: HookedTransformer) -> list[str]:
    return [name for name, point in model.hook_points.items() if point.hooks]


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ("blocks.1.attn.hook_pattern", ["blocks.1.attn.hook_pattern"]),
        ("blocks.-1.attn.hook_pattern", ["blocks.2.attn.hook_pattern"]),
        ("blocks.-3.hook_q_input", ["blocks.0.hook_q_input"]),
        (("pattern", 1), ["blocks.1.attn.hook_pattern"]),
        (("hook_pattern", 1), ["blocks.1.attn.hook_pattern"]),
        (("z", -1), ["blocks.2.attn.hook_z"]),
        (("resid_pre", -3), ["blocks.0.hook_resid_pre"]),
        (("scale", 0, "ln2"), ["blocks.0.ln2.hook_scale"]),
        (("normalized", -1, "ln1"), ["blocks.2.ln1.hook_normalized"]),
        (("ln1.hook_scale", 0), ["blocks.0.ln1.hook_scale"]),
        (("attn.hook_z", -1), ["blocks.2.attn.hook_z"]),
        (("mlp.post", 1), ["blocks.1.mlp.hook_post"]),
        ("embed", ["hook_embed"]),
        ("hook_pos_embed", ["hook_pos_embed"]),
        ("blocks.*.attn.hook_z", [f"blocks.{layer}.attn.hook_z" for layer in range(3)]),
        ("blocks.[01].hook_mlp_out", ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]),
        ("blocks.-2.attn.hook_[qk]", ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"]),
        ("ln_final.*", ["ln_final.hook_scale", "ln_final.hook_normalized"]),
        (lambda name: name.endswith("mlp_in"), [f"blocks.{layer}.hook_mlp_in" for layer in range(3)]),
    ],
    ids=as_text,
)
def test_a_name_in_every_form_reaches_its_points(asked: Any, want: list[str]):
    assert names_of(run_of("learned_ln").model, asked) == want


def test_every_point_answers_to_its_full_name(run: Run, as_installed: None):
    for name in run.model.hook_map():
        assert run.model.resolve_hooks(name) == [name]


def test_every_point_in_a_block_answers_to_its_layer_from_the_end(run: Run, as_installed: None):
    for name in run.model.hook_map():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            assert run.model.resolve_hooks(f"blocks.{int(layer) - 3}.{rest}") == [name]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "blocks.0.attn.hook_patern",
            "'blocks.0.attn.hook_patern' names nothing here; did you mean 'blocks.0.attn.hook_pattern'",
        ),
        ("hook_embd", "did you mean 'hook_embed'"),
        ("blocks.3.hook_resid_pre", "this model has 3 layers, counted from 0"),
        ("blocks.-4.hook_resid_pre", "'blocks.-4.hook_resid_pre' names nothing here .this model has 3 layers"),
        (("pattern", 3), "layer = 3; allowed: -3 to 2"),
        (("pattern", -4), "layer = -4; allowed: -3 to 2"),
        (("patern", 0), r"names nothing in layer 0; did you mean \('pattern', 0\)"),
        (("scale", 0), r"fits 2 points; say \('scale', 0, 'ln1'\) or \('scale', 0, 'ln2'\)$"),
        (("scale", 1, "ln3"), r"names nothing in layer 1; did you mean .*\('scale', 1, 'ln1'\)"),
        (("ln1.hook_scal", -1), r"names nothing in layer 2; did you mean \('scale', 2, 'ln1'\)"),
        (("ln1.scale", 0, "ln2"), "names nothing in layer 0"),
        (("0.hook_z", 0), "names nothing in layer 0"),
        ("ln2.hook_scale", r"is in every layer: say \('scale', 0, 'ln2'\) for one of them, or '\*.ln2.hook_scale' for"),
        ("pattern", r"is in every layer: say \('pattern', 0\) for one of them, or '\*.hook_pattern' for all"),
        ("patern", r"names nothing here; did you mean \('pattern', 0\)"),
        ("blocks.*.atn.hook_pattern", r"matches none of the .*; did you mean 'blocks.\*.attn.hook_pattern'"),
        ("blocks.*.attn.hook_zz*", "matches none of the"),
        (lambda name: "hook_zz" in name, "is true of none of the"),
        ("", "names nothing here"),
        (("z",), "is not a short name; allowed"),
        (("z", "0"), "several names go in a list"),
        (("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"), "several names go in a list"),
        (3, "3 is not a name, a predicate or a list of them"),
    ],
    ids=as_text,
)
def test_a_name_that_answers_to_nothing_is_an_error_that_helps(asked: Any, message: str, as_installed: None):
    with pytest.raises(HookNotFoundError, match=message):
        run_of("learned_ln").model.run_with_hooks(torch.tensor([1, 2]), fwd_hooks=[(asked, identity)])


def test_every_name_that_an_error_suggests_works_as_it_stands(as_installed: None):
    asked: list[Any] = ["pattern", "hook_scale", "ln2.scale", "attn.hook_z", "patern", "ln_fnal.scale", "hook_embd"]
    asked += ["*.hook_patern", "blocks.*.ln3.hook_scale", "blocks.2.ln3.hook_scale", "resid_pr"]
    for layer in (0, -1):
        words = ("scale", "scal", "ln1.scal", "ln3.hook_scale", "mlp.hook_pots", "hook_normalized", "resid", "mlp.z")
        asked += [(word, layer) for word in words] + [("scale", layer, "ln3"), ("pots", layer, "mlp")]
    for name in ("learned_ln", "post_rms_gated_grouped"):
        model = run_of(name).model
        for one in asked:
            with pytest.raises(HookNotFoundError) as raised:
                model.resolve_hooks(one)
            said = str(raised.value).removeprefix(repr(one)).removeprefix(f"the glob {one!r}")
            suggested = re.findall(r"\('[^()]*\)|'[^']*'", said)
            assert suggested, said
            for paste in suggested:
                assert model.resolve_hooks(ast.literal_eval(paste)), said


@given(st.text(max_size=12))
def test_a_name_that_no_point_has_never_resolves(suffix: str):
    model = run_of("learned_ln").model
    with pytest.raises(HookNotFoundError):
        model.resolve_hooks("nothing." + suffix)


@pytest.mark.parametrize("hooks", [[identity], ["hook_embed"], [("hook_embed", None)], ["ab"]], ids=as_text)
def test_hooks_that_are_not_pairs_of_name_and_function_are_an_error(hooks: Any, as_installed: None):
    with pytest.raises(TypeError, match=r"list of \(name, function\) pairs"), run_of("learned_ln").model.hooks(hooks):
        pass


def test_a_point_knows_its_layer(run: Run):
    assert [run.model.hook_points[f"blocks.{n}.attn.hook_z"].layer() for n in range(3)] == [0, 1, 2]


def test_a_point_outside_the_blocks_has_no_layer(run: Run):
    with pytest.raises(HookNotFoundError, match="not inside a block"):
        run.model.hook_points["hook_embed"].layer()


def test_a_glob_takes_lazy_points_only_where_it_fits_no_others(run: Run):
    lazy = {name for name, row in run.model.hook_map().items() if row.lazy}
    assert lazy.isdisjoint(run.model.resolve_hooks("blocks.1.*"))
    assert set(run.model.resolve_hooks("blocks.1.hook_*_in*")) <= lazy


# ---------------------------------------------------------------------------------------------- the table


def test_every_point_fires_once_and_in_the_order_of_the_table(run: Run):
    fired: list[str] = []
    run.model.run_with_hooks(run.tokens, fwd_hooks=everywhere(run.model, lambda act, hook: fired.append(hook.name)))
    assert fired == list(run.model.hook_map())


def test_the_table_gives_the_shape_of_every_activation(run: Run):
    batch, n_pos = run.tokens.shape
    sizes = {"batch": batch, "pos": n_pos, "query_pos": n_pos, "key_pos": n_pos, "1": 1}
    for name, row in run.model.hook_map().items():
        stated = [axis.split("=") for axis in row.shape.split()]
        assert run.everything[name].shape == tuple(int(size[0]) if size else sizes[axis] for axis, *size in stated), (
            name
        )


def test_exactly_the_points_that_the_design_calls_lazy_are_lazy(run: Run):
    lazy = {"hook_tokens", "hook_result", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"}
    for name, row in run.model.hook_map().items():
        assert row.lazy == (name.rsplit(".", 1)[-1] in lazy), name


@pytest.mark.parametrize("shown", [str, repr, lambda table: table._repr_html_()], ids=["str", "repr", "html"])
def test_the_table_shows_every_point(shown: Callable[[Any], str]):
    table = run_of("learned_ln").model.hook_map()
    text = shown(table.full)
    assert [name for name in table if name not in text] == []


def test_looking_up_an_unknown_point_in_the_table_suggests_the_nearest():
    with pytest.raises(HookNotFoundError, match="did you mean 'hook_embed'"):
        _ = run_of("learned_ln").model.hook_map()["hook_embeds"]


# ---------------------------------------------------------------------------------------------- what an edit does


@where(lambda cfg: cfg.attn_implementation == "eager")
def test_a_hook_that_returns_a_copy_at_any_one_point_changes_no_bit(run: Run, as_installed: None):
    with torch.no_grad():
        for name in some_points(run.model):
            logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[(name, lambda act, hook: act.clone())])
            assert torch.equal(logits, run.logits), name


@where(lambda cfg: cfg.attn_implementation == "eager")
def test_copies_returned_at_all_points_together_change_no_bit(run: Run):
    hooks = everywhere(run.model, lambda act, hook: act.clone())
    assert torch.equal(run.model.run_with_hooks(run.tokens, fwd_hooks=hooks), run.logits)


def test_identity_hooks_change_no_bit_of_fused_attention_where_its_pattern_is_not_observed():
    run = run_of("sdpa_rotary_grouped_window")
    unobserved = [name for name in run.model.hook_map() if not name.endswith(("scores", "pattern"))]
    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[(name, identity) for name in unobserved])
    assert torch.equal(logits, run.logits)


def test_an_edit_at_any_point_changes_the_logits(run: Run, as_installed: None):
    with torch.no_grad():
        for name in some_points(run.model):
            logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[(name, disturb)])
            assert (logits - run.logits).abs().max() > 1e-6, name


@pytest.mark.parametrize("site", ["attn.hook_attn_scores", "hook_q_input"])
def test_an_edit_in_place_is_an_edit(run: Run, site: str):
    def returned(act: Tensor, hook: HookPoint) -> Tensor:
        return disturb(act, hook)

    def in_place(act: Tensor, hook: HookPoint) -> None:
        act.copy_(disturb(act, hook))

    name = f"blocks.1.{site}"
    logits = [run.model.run_with_hooks(run.tokens, fwd_hooks=[(name, fn)]) for fn in (returned, in_place)]
    assert torch.equal(*logits)


def test_a_hook_that_edits_nothing_changes_no_bit_of_what_an_edit_elsewhere_does(run: Run, as_installed: None):
    edits = [((site, 1), disturb) for site in ("q_input", "v_input", "result")]
    edited = run.model.run_with_hooks(run.tokens, fwd_hooks=edits)
    idle = [(name, identity) for name in run.model.hook_map() if not name.endswith(("scores", "pattern"))]
    assert torch.equal(run.model.run_with_hooks(run.tokens, fwd_hooks=[*idle, *edits]), edited)


SITES = {"q": "q_input", "k": "k_input", "v": "v_input", "result": "result"}


@pytest.mark.parametrize("part", SITES)
def test_editing_what_one_head_reads_or_writes_changes_that_head_alone(run: Run, part: str):
    layer, head = 1, run.cfg.n_key_value_heads - 1
    edits = random_tensor(run.cfg.d_model)

    def hook_fn(act: Tensor, hook: HookPoint) -> None:
        act[:, :, head] = edits - act[:, :, head]

    def edit(at_layer: int, at_part: str, at_head: int, x: Tensor) -> Tensor:
        return edits - x if (at_layer, at_part, at_head) == (layer, part, head) else x

    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[((SITES[part], layer), hook_fn)])
    assert_close(logits[0], reference_logits(run.model, run.tokens[0], edit))


def test_a_huge_write_that_an_edit_takes_away_leaves_no_rounding_behind():
    """The sum over heads is that of the edited writes, not the old sum with a difference added."""
    model = build(config(SMALL, n_layers=1, dtype=torch.float32), SEED)
    tokens = random_tokens(model.cfg, SEED)
    without = copy.deepcopy(model)
    with torch.no_grad():
        model.blocks[0].attn.W_O[2] *= 1e7
        without.blocks[0].attn.W_O[2] = 0

    def remove(result: Tensor, hook: HookPoint) -> None:
        result[:, :, 2] = 0

    assert_close(model.run_with_hooks(tokens, fwd_hooks=[(("result", 0), remove)]), without(tokens))


def test_what_heads_read_alone_is_the_stream(run: Run):
    for site in ("attn_in", "v_input", "q_input", "k_input"):
        shown = run.everything[site, 1]
        assert torch.equal(shown, run.cache["resid_pre", 1].unsqueeze(2).expand_as(shown)), site


@where(lambda cfg: not cfg.use_qk_norm)
def test_positions_of_shortformer_models_are_added_to_what_queries_and_keys_read_after_the_norm(run: Run):
    attn, read = run.model.blocks[1].attn, run.cache["resid_pre", 1]
    if run.cfg.norms_reads and run.cfg.normalization_type is not None:
        read = run.cache["normalized", 1, "ln1"]
    private = run.cache["pos_embed"] if run.cfg.positional_embedding_type == "shortformer" else 0.0
    for site, W, b, added in (("q", attn.W_Q, attn.b_Q, private), ("k", attn.W_K, attn.b_K, private),
                              ("v", attn.W_V, attn.b_V, 0.0)):  # fmt: skip
        want = einsum(read + added, W, "batch pos d_model, head d_model d_head -> batch pos head d_head") + b
        assert_close(run.cache[site, 1], want)


@where(lambda cfg: not cfg.attn_only)
def test_what_the_mlp_reads_alone_is_the_stream_before_it(run: Run):
    name = "resid_pre" if run.cfg.parallel_attn_mlp else "resid_mid"
    assert torch.equal(run.everything["mlp_in", 1], run.cache[name, 1])


def test_editing_attn_in_of_one_head_changes_its_queries_keys_and_values(run: Run):
    group = run.cfg.n_heads // run.cfg.n_key_value_heads
    shift = random_tensor(run.cfg.d_model)

    def hook_fn(act: Tensor, hook: HookPoint) -> None:
        act[:, :, 0] += shift

    def edit(layer: int, part: str, head: int, x: Tensor) -> Tensor:
        mine = layer == 1 and ((part == "q" and head < group) or (part in "kv" and head == 0))
        return x + shift if mine else x

    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[(("attn_in", 1), hook_fn)])
    assert_close(logits[0], reference_logits(run.model, run.tokens[0], edit))


@where(lambda cfg: not cfg.attn_only)
def test_editing_mlp_in_changes_what_the_mlp_alone_reads(run: Run):
    logits = run.model.run_with_hooks(run.tokens, fwd_hooks=[(("mlp_in", 1), lambda act, hook: 2 - act)])

    def edit(layer: int, part: str, head: int, x: Tensor) -> Tensor:
        return 2 - x if (layer, part) == (1, "mlp") else x

    assert_close(logits[0], reference_logits(run.model, run.tokens[0], edit))


@where(lambda cfg: cfg.normalization_type is not None)
def test_editing_the_scale_of_a_norm_rescales_its_output(run: Run):
    name = "ln1" if run.cfg.attn_only else "ln2"
    with run.model.hooks([(("scale", 1, name), lambda act, hook: 2 * act)]):
        _, cache = run.model.run_with_cache(run.tokens)
    bias = run.model.state_dict().get(f"blocks.1.{name}.b", 0)
    before, after = (each["normalized", 1, name] - bias for each in (run.cache, cache))
    assert_close(after, before / 2)


def test_hooks_at_one_point_run_in_the_order_in_which_they_were_added():
    run = run_of("learned_ln")
    hooks = [(("resid_pre", 1), lambda act, hook: act + 1), (("resid_pre", 1), lambda act, hook: act * 2)]
    want = run.model(2 * (run.cache["resid_pre", 1] + 1), start_at_layer=1)
    assert torch.equal(run.model.run_with_hooks(run.tokens, fwd_hooks=hooks), want)


def test_a_hook_may_keep_what_it_is_given(run: Run):
    kept: list[Tensor] = []
    name = ("resid_post", 0)
    run.model.run_with_hooks(
        run.tokens, fwd_hooks=[(name, lambda act, hook: kept.append(act)), (name, lambda act, hook: act.zero_())]
    )
    assert_close(kept[0], run.cache[name])


# ---------------------------------------------------------------------------------------------- bad results


def reshape_in_place(act: Tensor) -> None:
    act.unsqueeze_(0)


BAD_RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda act: act[:, :-1],
    "shape ": reshape_in_place,
    "dtype": lambda act: act.float(),
    "device": lambda act: act.to("meta"),
    "float": lambda act: 1.0,
    "tuple": lambda act: (act,),
    "ndarray": lambda act: act.detach().numpy(),
}


@pytest.mark.parametrize("what", BAD_RESULTS)
@pytest.mark.parametrize("name", ["blocks.1.attn.hook_z", "blocks.2.hook_mlp_in", "ln_final.hook_scale"])
def test_a_result_that_does_not_fit_is_an_error_that_names_the_place(name: str, what: str):
    run = run_of("learned_ln")
    with pytest.raises(ShapeError, match=f"the hook at {name} .fwd. (gave back|returned) {what.strip()}"):
        run.model.run_with_hooks(run.tokens, fwd_hooks=[(name, lambda act, hook: BAD_RESULTS[what](act))])


@pytest.mark.parametrize("what", BAD_RESULTS)
def test_a_result_that_does_not_fit_leaves_the_model_as_it_was(what: str):
    run = run_of("learned_ln")
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(ShapeError):
        run.model.run_with_hooks(run.tokens, fwd_hooks=[(("z", 1), lambda act, hook: BAD_RESULTS[what](act))])
    assert hooks_left(run.model) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    assert torch.equal(run.model(run.tokens), run.logits)


def test_a_bare_short_name_is_refused_with_the_two_ways_to_say_it(run: Run):
    with pytest.raises(HookNotFoundError, match=r"say \('z', 0\) for one of them, or '\*.hook_z' for all$"):
        run.model.resolve_hooks("z")


@pytest.mark.parametrize("glob", ["*", "blocks.0.*", "blocks.*"])
def test_a_glob_that_ends_in_bare_wildcards_leaves_lazy_points_out(glob: str):
    model = run_of("learned_ln").model
    assert not any(model.hook_points[name].lazy for name in model.resolve_hooks(glob))


@pytest.mark.parametrize("asked", ["*hook_q*", lambda name: "q_input" in name or name.endswith("hook_q")], ids=as_text)
def test_every_other_glob_and_every_predicate_takes_all_that_it_fits(asked: Any):
    found = run_of("learned_ln").model.resolve_hooks(asked)
    assert [name for name in found if name.startswith("blocks.0.")] == ["blocks.0.hook_q_input", "blocks.0.attn.hook_q"]


def test_one_hook_can_take_a_list_of_names():
    run = run_of("learned_ln")
    seen: list[str] = []
    hooks = [([("z", 0), "hook_embed"], lambda act, hook: seen.append(hook.name))]
    run.model.run_with_hooks(run.tokens, fwd_hooks=hooks)
    assert seen == ["hook_embed", "blocks.0.attn.hook_z"]


def test_a_short_name_takes_any_kind_of_integer():
    run = run_of("learned_ln")
    integers: list[Any] = [np.int64(1), torch.tensor(1), np.array(1)]
    for layer in integers:
        assert torch.equal(run.cache["pattern", layer], run.cache["pattern", 1])
        assert names_of(run.model, ("pattern", layer)) == ["blocks.1.attn.hook_pattern"]
    truth: Any = True
    with pytest.raises(HookNotFoundError, match="is not a short name"):
        run.cache["pattern", truth]
