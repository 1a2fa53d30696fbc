"""`patching` of the TransformerLens module: every value is the metric of a run with one activation replaced."""

import pickle
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from grid import GRID, SEED, assert_close, build, config, random_tokens
from torch import Tensor

from interp import ConfigError, HookNotFoundError
from interp.compat.transformer_lens import HookedTransformer, patching

KINDS = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel"]
VECTORS = ["out", "q", "k", "v"]
POINTS = {
    "out": "attn.hook_z",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "pattern": "attn.hook_pattern",
}


def metric(logits: Tensor) -> Tensor:
    """A function of several prompts, positions and tokens at once, which is no mean over prompts."""
    return logits[:, -1, 3].mean() - logits[0, 2].logsumexp(-1) * logits[1, 3, 2].tanh()


class Pair:
    """A model in both forms, and two batches of prompts."""

    def __init__(self, kind: str):
        self.core = build(config(GRID[kind], n_layers=2), SEED)
        self.model: Any = HookedTransformer.over(self.core)
        self.clean = random_tokens(self.core.cfg, 1, batch=2, n_pos=4)
        self.corrupted = self.clean.clone()
        self.corrupted[:, [1, 2]] = (self.corrupted[:, [1, 2]] + 4) % self.core.cfg.d_vocab
        self.cache = self.model.run_with_cache(self.clean)[1]

    def patched(self, name: str, place: Callable[[Tensor], Tensor]) -> float:
        """The metric of the corrupted run with the clean activation where `place` marks ones, by the core's hooks."""
        clean = self.cache[name]
        mark = place(torch.zeros_like(clean)).bool()
        logits = self.core.run_with_hooks(
            self.corrupted, fwd_hooks=[(name, lambda x, hook: torch.where(mark, clean, x))]
        )
        return metric(logits).item()

    def __call__(self, name: str) -> Tensor:
        return getattr(patching, f"get_act_patch_{name}")(self.model, self.corrupted, self.cache, metric)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def one(*index: Any) -> Callable[[Tensor], Tensor]:
    """Ones at an index of every prompt."""

    def mark(zeros: Tensor) -> Tensor:
        zeros[(slice(None), *index)] = 1
        return zeros

    return mark


def close(found: Tensor, cells: dict[tuple[int, ...], float]) -> None:
    assert found.dtype == torch.get_default_dtype()
    for cell, value in cells.items():
        assert found[cell].item() == pytest.approx(value, rel=1e-5, abs=1e-6), cell


def heads(pair: Pair, kind: str) -> bool:
    return kind not in ("k", "v") or pair.core.cfg.n_key_value_heads == pair.core.cfg.n_heads


def test_streams_and_writes_are_patched_position_by_position(pair: Pair):
    sites = ["resid_pre", "attn_out", "mlp_out"]
    if not pair.core.cfg.parallel_attn_mlp:
        sites.append("resid_mid")
    for site in sites:
        found = pair(site)
        assert found.shape == (2, 4)
        close(found, {(n, p): pair.patched(f"blocks.{n}.hook_{site}", one(p)) for n in (0, 1) for p in (1, 2, 3)})
    assert_close(patching.get_act_patch_block_every(pair.model, pair.corrupted, pair.cache, metric),
                 torch.stack([pair(site) for site in sites[:3]]))  # fmt: skip


def test_heads_are_patched_at_all_positions_or_one(pair: Pair):
    for kind in VECTORS:
        if not heads(pair, kind):
            continue
        found = pair(f"attn_head_{kind}_all_pos")
        assert found.shape == (2, 4)
        close(
            found,
            {(n, h): pair.patched(f"blocks.{n}.{POINTS[kind]}", one(slice(None), h)) for n, h in ((0, 1), (1, 3))},
        )
        found = pair(f"attn_head_{kind}_by_pos")
        assert found.shape == (2, 4, 4)
        cells = [(0, 2, 1), (1, 3, 3), (1, 1, 0)]
        close(found, {(n, p, h): pair.patched(f"blocks.{n}.{POINTS[kind]}", one(p, h)) for n, p, h in cells})


def test_patterns_are_patched_by_head_by_query_and_by_entry(pair: Pair):
    at = "blocks.{}.attn.hook_pattern".format
    found = pair("attn_head_pattern_all_pos")
    close(found, {(n, h): pair.patched(at(n), one(h)) for n, h in ((0, 1), (1, 3))})
    found = pair("attn_head_pattern_by_pos")
    assert found.shape == (2, 4, 4)
    close(found, {(n, h, q): pair.patched(at(n), one(h, q)) for n, h, q in ((0, 1, 2), (1, 3, 3))})


def test_single_entries_of_patterns_are_patched():
    pair = Pair("partial_rotary_parallel")
    found = pair("attn_head_pattern_dest_src_pos")
    assert found.shape == (2, 4, 4, 4)
    cells = [(0, 1, 2, 1), (1, 3, 3, 0)]
    close(found, {cell: pair.patched(f"blocks.{cell[0]}.attn.hook_pattern", one(*cell[1:])) for cell in cells})


def test_all_kinds_of_patches_of_heads_stack_in_the_same_order_of_axes():
    pair = Pair("learned_ln")
    kinds = [*VECTORS, "pattern"]
    every = patching.get_act_patch_attn_head_all_pos_every(pair.model, pair.corrupted, pair.cache, metric)
    assert_close(every, torch.stack([pair(f"attn_head_{kind}_all_pos") for kind in kinds]))
    every = patching.get_act_patch_attn_head_by_pos_every(pair.model, pair.corrupted, pair.cache, metric)
    assert every.shape == (5, 2, 4, 4)
    assert_close(every[:4], torch.stack([pair(f"attn_head_{kind}_by_pos") for kind in VECTORS]))
    assert_close(every[4], pair("attn_head_pattern_by_pos").permute(0, 2, 1))


def test_a_loop_finds_what_a_sweep_finds(pair: Pair):
    swept = {name: pair(name) for name in ("resid_pre", "attn_head_out_by_pos", "attn_head_pattern_by_pos")}
    pair.cache.core = None
    for name, found in swept.items():
        assert_close(pair(name), found)


def test_permanent_hooks_on_the_model_take_part():
    pair = Pair("learned_ln")
    untouched = pair("attn_out")
    pair.model.add_hook("blocks.1.hook_mlp_out", lambda x, hook: x * 0, is_permanent=True)
    hooked = pair("attn_out")
    assert not torch.allclose(hooked, untouched)
    close(hooked, {(n, 2): pair.patched(f"blocks.{n}.hook_attn_out", one(2)) for n in (0, 1)})
    pair.model.reset_hooks(including_permanent=True)
    assert_close(pair("attn_out"), untouched)


def test_edits_of_the_clean_cache_are_what_is_written():
    pair = Pair("learned_ln")
    untouched = pair("attn_out")
    pair.cache.cache_dict["blocks.0.hook_attn_out"] = torch.zeros_like(pair.cache["attn_out", 0])
    without = pair.core.run_with_hooks(
        pair.corrupted,
        fwd_hooks=[("blocks.0.hook_attn_out", lambda x, hook: x.index_fill(1, torch.tensor(2), 0))],
    )
    close(pair("attn_out"), {(0, 2): metric(without).item(), (1, 2): untouched[1, 2].item()})


def test_shared_keys_are_refused_by_name_before_any_run():
    pair = Pair("rotary_rms_gated_grouped")
    for name in ("attn_head_k_by_pos", "attn_head_v_all_pos", "attn_head_all_pos_every"):
        with pytest.raises(ConfigError, match=r"2 heads here, which 4 query heads share.*interp\.patching\.sweep"):
            pair(name)
    with pytest.raises(HookNotFoundError, match="resid_mid"):
        Pair("partial_rotary_parallel")("resid_mid")


def test_any_activation_is_patched_at_the_rows_of_a_table():
    pair = Pair("learned_ln")
    table = pd.DataFrame({"layer": [0, 1], "pos": [2, 1]})
    of = (pair.model, pair.corrupted, pair.cache, metric)
    found, rows = patching.generic_activation_patch(
        *of, patching.layer_pos_patch_setter, "resid_post", index_df=table, return_index_df=True
    )
    assert rows is table
    want = {(i,): pair.patched(f"blocks.{n}.hook_resid_post", one(p)) for i, (n, p) in enumerate(((0, 2), (1, 1)))}
    close(found, want)
    found, rows = patching.get_act_patch_mlp_out(*of, return_index_df=True)
    assert_close(found, pair("mlp_out"))
    assert rows.columns.tolist() == ["layer", "pos"] and len(rows) == 8
    assert patching.make_df_from_ranges([2, 2], ["a", "b"]).to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_setter_of_ones_own_sees_the_index_and_the_clean_activation():
    pair = Pair("learned_ln")

    def last_half(corrupted: Tensor, index: list[int], clean: Tensor) -> Tensor:
        assert index[0] in range(2)
        corrupted[..., 12:] = clean[..., 12:]
        return corrupted

    found = patching.generic_activation_patch(
        pair.model, pair.corrupted, pair.cache, metric, last_half, "resid_pre", index_axis_names=["layer"]
    )
    close(
        found, {(n,): pair.patched(f"blocks.{n}.hook_resid_pre", one(slice(None), slice(12, None))) for n in range(2)}
    )


def test_indices_that_say_too_much_or_too_little_are_refused():
    pair = Pair("learned_ln")
    of = (pair.model, pair.corrupted, pair.cache, metric, patching.layer_pos_patch_setter, "resid_pre")
    with pytest.raises(AssertionError, match="index_axis_names or index_df"):
        patching.generic_activation_patch(*of)
    with pytest.raises(AssertionError, match="neuron"):
        patching.generic_activation_patch(*of, index_axis_names=["layer", "neuron"])
    with pytest.raises(AssertionError, match=r"index = \[0\]"):
        patching.generic_activation_patch(*of, index_axis_names=["layer"])


def test_the_functions_made_from_a_table_are_called_what_users_call_them():
    made = [name for name in dir(patching) if name.startswith("get_act_patch_")]
    assert len(made) > 15
    for name in made:
        function = getattr(patching, name)
        assert pickle.loads(pickle.dumps(function)) is function
        assert function.__qualname__ == name  # what Python's own errors of a call say
