import itertools
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SMALL, build, config, random_tokens
from torch import Tensor

from interp import ConfigError, HookedTransformer, HookNotFoundError, HookPoint
from interp.interventions.kinds import Zero
from interp.metrics.kinds import Logit, LogitDifference
from interp.model import EdgeGraph, Writer
from interp.patching.path_sweeps import path_sweep
from interp.patching.path_trees import path_tree
from interp.patching.sweeps import sweep

METRIC = LogitDifference((1, 2), (3, 4), pos=-1)
NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "gemma_like", "post_rms_gated_grouped",
         "shortformer_rms_grouped", "bidirectional_attn_only_no_norm"]  # fmt: skip


def pair(model: HookedTransformer, seed: int) -> tuple[Tensor, Tensor]:
    """Corrupted and clean ids, which differ everywhere."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(model.cfg.d_vocab, (2, 6), generator=generator)
    return (clean + 1 + torch.randint(model.cfg.d_vocab - 1, (2, 6), generator=generator)) % model.cfg.d_vocab, clean


def by_hand(
    model: HookedTransformer, corrupted: Tensor, clean: Tensor, sender: tuple[int, int], receivers: list[str], mlps: str
) -> Tensor:
    """Wang et al. 2022, appendix B, with whole runs and hooks: the logits of the last of the three runs."""
    (_, theirs), (_, ours) = model.run_with_cache(corrupted), model.run_with_cache(clean)
    layer, head = sender
    seen: dict[str, Tensor] = {}

    def freeze(z: Tensor, hook: HookPoint) -> Tensor:
        frozen = ours[hook.name].clone()
        if hook.layer() == layer:
            frozen[:, :, head] = theirs[hook.name][:, :, head]
        return frozen

    def look(stream: Tensor, hook: HookPoint) -> None:
        seen[hook.name] = stream.clone()

    graph = EdgeGraph.of(model)

    def point(receiver: str) -> str:
        return graph.reader(receiver).hook_name

    hooks: list[Any] = [("blocks.*.attn.hook_z", freeze), *((point(r), look) for r in receivers)]
    if mlps == "frozen":
        hooks.append(("blocks.*.hook_mlp_out", lambda out, hook: ours[hook.name]))
    model.run_with_hooks(clean, fwd_hooks=hooks)

    def arrive(head: int | None, stream: Tensor, hook: HookPoint) -> Tensor:
        if head is None:
            return seen[hook.name]
        stream[:, :, head] = seen[hook.name][:, :, head]
        return stream

    nodes = [(point(r), graph.reader(r).head) for r in receivers]
    last: list[Any] = [(name, lambda x, hook, head=head: arrive(head, x, hook)) for name, head in nodes]
    return model.run_with_hooks(clean, fwd_hooks=last)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "mlps"), [(n, m) for n in NAMES for m in ("live", "frozen") if "attn_only" not in n or m == "live"]
)
def test_sender_to_receivers_equals_three_whole_runs_with_hooks(name: str, mlps: Any):
    model = build(config(GRID[name]), seed=1)
    corrupted, clean = pair(model, seed=2)
    receivers = ["L2H1.q", "L1H0.v", "L2H0.k", "L0H0.v"] + ([] if model.cfg.attn_only else ["L1.mlp"])
    result = path_sweep(
        model, corrupted, clean, METRIC, receivers, mlps=mlps, per_prompt=True, progress=False, max_bytes=120_000
    )
    for layer, head in ((0, 1), (0, 3), (1, 2)):
        expected = METRIC(by_hand(model, corrupted, clean, (layer, head), receivers, mlps))
        assert np.allclose(result.sel(layer=layer, head=head).values, expected.numpy(), atol=1e-9)
    assert np.isnan(result.sel(layer=2)).all()  # nothing that these receivers read comes after
    assert result.attrs["mlps"] == mlps and result.attrs["norms"] == "live"


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("post_rms_gated_grouped", "gemma_like")])
def test_direct_effects_with_everything_frozen_are_differences_of_direct_logit_attributions(name: str):
    model = build(config(GRID[name], output_logits_soft_cap=None), seed=3)
    corrupted, clean = pair(model, seed=4)
    frozen: dict[str, Any] = {"norms": "frozen"} | ({} if model.cfg.attn_only else {"mlps": "frozen"})
    result = path_sweep(model, corrupted, clean, METRIC, "logits", per_prompt=True, progress=False, **frozen)
    (_, theirs), (logits, ours) = model.run_with_cache(corrupted), model.run_with_cache(clean)
    scale = model.ln_final.scale(ours["resid_post", -1])[:, -1]
    for layer, head in itertools.product(range(3), range(4)):
        name = f"blocks.{layer}.attn.hook_z"
        change = (theirs[name] - ours[name])[:, -1, head] @ model.W_O[layer, head]
        read = model.ln_final.at_scale(change, scale)
        difference = model.W_U.T[[1, 2]] - model.W_U.T[[3, 4]]
        expected = METRIC(logits) + (read * difference).sum(-1)
        assert np.allclose(result.sel(layer=layer, head=head).values, expected.numpy(), atol=1e-9)


def all_paths(sender: str, model: HookedTransformer) -> list[list[str]]:
    """Every path from a sender to the logits."""
    graph = EdgeGraph.of(model)

    def go_on(path: list[str], last: Writer) -> list[list[str]]:
        found = [[*path, "logits"]]
        for reader in graph.readers:
            for writer in graph.writes_of(reader) if graph.reaches(last, reader) else ():
                step = [str(reader), *([str(writer)] if writer.kind == "head" else [])]
                found += go_on([*path, *step], writer)
        return found

    return go_on([sender], graph.writer(sender))


@torch.no_grad()
@pytest.mark.parametrize("sender", ["L0H1", "L0.mlp", "L1H0"])
@pytest.mark.parametrize("name", ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel"])
def test_all_paths_of_a_sender_together_are_an_ordinary_patch(name: str, sender: str):
    model = build(config(GRID[name], n_layers=2, n_heads=2, n_key_value_heads=1), seed=5)
    corrupted, clean = pair(model, seed=6)
    result = path_tree(model, corrupted, clean, METRIC, all_paths(sender, model), per_prompt=True)
    site, over, where = ("mlp_out", ("layer",), {"layer": 0})
    if "H" in sender:
        site, over, where = "z", ("layer", "head"), {"layer": int(sender[1]), "head": int(sender[3])}
    whole = sweep(model, corrupted, clean, METRIC, site, over, direction="noising", per_prompt=True, progress=False)  # pyright: ignore[reportArgumentType]
    assert np.allclose(result.values, whole.sel(where).values, atol=1e-9)


@torch.no_grad()
def test_a_path_carries_its_own_change_and_no_other():
    model = build(config(GRID["bidirectional_attn_only_no_norm"]), seed=7)
    corrupted, clean = pair(model, seed=8)
    one, other = ["L0H1", "L1H2.v", "logits"], ["L0H0", "L2H3.v", "logits"]
    logits, cache = model.run_with_cache(clean)
    _, theirs = model.run_with_cache(corrupted)
    virtual = model.W_V[1, 2] @ model.W_O[1, 2]
    change = (theirs["z", 0] - cache["z", 0])[:, :, 1] @ model.W_O[0, 1]
    moved = cache["pattern", 1][:, 2] @ change @ virtual @ model.W_U  # no norms, so the path is a product
    expected = METRIC(logits + moved)
    alone = path_tree(model, corrupted, clean, METRIC, [one], per_prompt=True)
    assert np.allclose(alone.values, expected.numpy(), atol=1e-9)
    both = path_tree(model, corrupted, clean, METRIC, [one, other], per_prompt=True)
    rest = path_tree(model, corrupted, clean, METRIC, [other], per_prompt=True)
    assert np.allclose(both.values - rest.values, alone.values - METRIC(logits).numpy(), atol=1e-9)


@torch.no_grad()
def test_frozen_norms_make_direct_paths_add_up():
    model = build(config(GRID["learned_ln"]), seed=9)
    corrupted, clean = pair(model, seed=10)
    base = METRIC(model(clean)).numpy()

    def effect(*paths: list[str]) -> np.ndarray:
        return path_tree(model, corrupted, clean, METRIC, paths, norms="frozen", per_prompt=True).values - base

    together, apart = ["L0H1", "logits"], ["L1.mlp", "logits"]
    assert np.allclose(effect(together, apart), effect(together) + effect(apart), atol=1e-9)


def test_senders_by_name_and_mlps_are_the_same_numbers():
    model = build(config(GRID["learned_ln"]), seed=11)
    corrupted, clean = pair(model, seed=12)
    options: Any = {"receivers": "L2H0.q", "progress": False}
    heads = path_sweep(model, corrupted, clean, METRIC, **options)
    mlps = path_sweep(model, corrupted, clean, METRIC, senders="mlps", **options)
    named = path_sweep(model, corrupted, clean, METRIC, senders=["L1.mlp", "embed", "L0H3"], **options)
    assert list(named.component.values) == ["L1.mlp", "embed", "L0H3"]
    assert np.allclose(named.values[[0, 2]], [mlps.values[1], heads.values[0, 3]], atol=1e-12)
    assert abs(named.values[1] - heads.attrs["baseline"]) > 1e-6


def test_an_ablation_can_be_sent_along_a_path():
    model = build(config(GRID["learned_ln"]), seed=13)
    _, clean = pair(model, seed=14)
    result = path_sweep(model, Zero(), clean, METRIC, "logits", progress=False)
    assert result.attrs["ablation"] == "Zero()" and np.isfinite(result.values).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"receivers": "L9H0.q"}, HookNotFoundError, "3 layers of 4 heads"),
        ({"receivers": "L2H4.q"}, HookNotFoundError, "3 layers of 4 heads"),
        ({"receivers": "2.1.q"}, HookNotFoundError, "written as"),
        ({"receivers": "L2H1"}, HookNotFoundError, "not an input"),
        ({"receivers": ["L2H1.q", "logits"]}, ConfigError, "give it alone"),
        ({"receivers": []}, ConfigError, "at least one"),
        ({"senders": "head"}, ConfigError, "'heads', 'mlps', or a list"),
        ({"senders": ["L0H0", "L0H0"]}, ConfigError, "twice"),
        ({"senders": ["L0H0.q"]}, HookNotFoundError, "does not write"),
        ({"mlps": "dead"}, ConfigError, "mlps = 'dead'; allowed: 'live', 'frozen'"),
        ({"max_bytes": 10}, ConfigError, "too small: one sender needs"),
    ],
)
def test_bad_senders_and_receivers_are_errors(
    changes: dict[str, Any], error: type[Exception], message: str, as_installed: None
):
    model = build(config(SMALL, dtype=torch.float64), seed=15)
    corrupted, clean = pair(model, seed=16)
    arguments: dict[str, Any] = {"metric": Logit(1), "receivers": "L2H1.q", "progress": False} | changes
    with pytest.raises(error, match=message):
        path_sweep(model, corrupted, clean, **arguments)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "at least one"),
        ([["L0H1"]], "to 'logits'"),
        ([["L0H1.q", "logits"]], "does not write"),
        ([["L1H0", "L0H1.q", "logits"]], "L0H1.q does not read what L1H0 writes"),
        ([["L0H1", "L1H0", "logits"]], "by which input: L1H0.q, L1H0.k, L1H0.v"),
        ([["L0H1", "L1H0.v", "logits"], ["L1H0", "logits"]], "on the way of another path"),
        ([["L1H0", "logits"], ["L0H1", "L1H0.v", "logits"]], "starts another path"),
    ],
)
def test_paths_that_cannot_be_are_errors(paths: list[list[str]], message: str):
    model = build(config(SMALL, dtype=torch.float64), seed=17)
    corrupted, clean = pair(model, seed=18)
    with pytest.raises((ConfigError, HookNotFoundError), match=message):
        path_tree(model, corrupted, clean, Logit(1), paths)


def test_a_tree_of_paths_needs_a_stream_that_adds_up():
    model = build(config(GRID["post_rms_gated_grouped"]), seed=19)
    corrupted, clean = pair(model, seed=20)
    with pytest.raises(ConfigError, match="normalises the stream itself"):
        path_tree(model, corrupted, clean, Logit(1), [["L0H1", "logits"]])


def test_effects_in_half_precision_are_kept_in_float32():
    def a_third(logits: Tensor) -> Tensor:
        return torch.full((len(logits),), 1 / 3, dtype=logits.dtype)

    for dtype in (torch.float16, torch.bfloat16):
        model = build(config(GRID["rotary_rms_gated_grouped"]), seed=5).to(dtype)
        clean, corrupted = random_tokens(model.cfg, 1, 2, 5), random_tokens(model.cfg, 2, 2, 5)
        found = path_sweep(model, corrupted, clean, a_third, "logits", ["embed"], progress=False)
        assert found.dtype == np.float32 and found.item() == np.float32(1 / 3)
