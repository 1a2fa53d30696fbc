"""Running only a circuit, by hooks: against its definition, its two ends, and the engine of masked runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from grid import GRID, SEED, assert_close, build, config, run_of
from small import prompts, random_circuit
from torch import Tensor

from interp import CacheError, ConfigError, HookedTransformer, HookNotFoundError, InterpError, ShapeError
from interp.discovery import OnlyCircuit, Subgraph
from interp.discovery.masked import EdgeRuns
from interp.discovery.only import masked_edges
from interp.interventions import Mean, Patch, Resample, Steer, Zero
from interp.metrics import LogitDifference
from interp.model import EdgeGraph
from interp.patching import Settings

PRE_NORM = [name for name in GRID if not run_of(name).cfg.normalizes_stream]
METRIC = LogitDifference((1, 2, 0), (3, 4, 5), pos=-1)


def alone(model: HookedTransformer, circuit: Subgraph, corrupted: Any, clean: Any, **options: Any) -> Tensor:
    with torch.no_grad(), model.intervene(OnlyCircuit(circuit, corrupted, options.get("attention_mask"))):
        return model(clean, **options)


def by_engine(model: HookedTransformer, masks: Tensor, corrupted: Any, clean: Any, **options: Any) -> Tensor:
    """Logits [mask, batch, pos, d_vocab] of masked runs."""
    runs = EdgeRuns.of(model, corrupted, clean, METRIC, Settings(**options))
    stream = runs.stream(masks)
    return model.unembed(model.read_out(stream).flatten(0, 1)).unflatten(0, stream.shape[:2])


@pytest.mark.parametrize("name", PRE_NORM)
def test_a_circuit_alone_is_what_the_engine_of_masked_runs_says(name: str):
    model = build(config(GRID[name]), SEED)
    graph = EdgeGraph.of(model)
    corrupted, clean = prompts(model)
    circuits = [random_circuit(model, share, SEED + i) for i, share in enumerate((0.3, 0.9))]
    degrees = torch.rand(graph.edge_mask().shape, generator=torch.Generator().manual_seed(SEED)) * graph.edge_mask()
    masks = torch.stack([*((~circuit.mask & graph.edge_mask()).double() for circuit in circuits), degrees.double()])
    expected = by_engine(model, masks, corrupted, clean)
    for circuit, logits in zip(circuits, expected, strict=False):
        assert_close(alone(model, circuit, corrupted, clean), logits)
    assert_close(model.run_with_hooks(clean, fwd_hooks=masked_edges(model, degrees, corrupted)), expected[-1])


@pytest.mark.parametrize("name", PRE_NORM)
def test_no_edges_are_the_corrupted_run_and_all_edges_are_the_run_as_it_is(name: str):
    model = build(config(GRID[name]), SEED)
    corrupted, clean = prompts(model, share=0)
    with torch.no_grad():
        theirs, cache = model.run_with_cache(corrupted)
        assert torch.equal(alone(model, Subgraph.whole(model), corrupted, clean), model(clean))
        assert_close(alone(model, Subgraph.empty(model), corrupted, clean), theirs, 1e-12)
        assert_close(alone(model, Subgraph.empty(model), cache, clean), theirs, 1e-12)
        circuit = random_circuit(model)
        assert_close(alone(model, circuit, cache, clean), alone(model, circuit, corrupted, clean), 1e-12)
        assert_close(alone(model, circuit, clean, clean), model(clean), 1e-12)


@pytest.mark.apart
def test_padded_prompts_are_run_as_they_are_alone():
    for name in ("learned_ln", "rotary_rms_gated_grouped", "gemma_like", "shortformer_rms_grouped"):
        model = build(config(GRID[name]), SEED)
        (corrupted, clean), circuit = prompts(model), random_circuit(model)
        mask = torch.ones(3, 6, dtype=torch.bool)
        mask[1, :2] = mask[2, :1] = False
        logits = alone(model, circuit, corrupted, clean, attention_mask=mask)
        for row, start in ((0, 0), (1, 2), (2, 1)):
            own = [ids[row : row + 1, start:] for ids in (corrupted, clean)]
            assert_close(logits[row : row + 1, start:], alone(model, circuit, *own))
        masked = (~circuit.mask & circuit.graph.edge_mask()).double()[None]
        assert_close(logits[mask], by_engine(model, masked, corrupted, clean, attention_mask=mask)[0][mask])


@pytest.mark.apart
def test_zeros_means_and_other_prompts_stand_in_for_a_corrupted_run():
    for name in ("learned_ln", "partial_rotary_parallel", "qk_norm_grouped"):
        model = build(config(GRID[name]), SEED)
        (others, clean), circuit = prompts(model), random_circuit(model)
        _, cache = model.run_with_cache(others)
        masks = (~circuit.mask & circuit.graph.edge_mask()).double()[None]
        sources = (Zero(), Mean(cache), Mean(cache, per_position=False), Resample(cache, seed=3), Patch(cache))
        for source in sources:
            assert_close(alone(model, circuit, source, clean), by_engine(model, masks, source, clean)[0])
    model = build(config(GRID["gemma_like"]), SEED)  # zeros have no scale, and need none
    (_, clean), circuit = prompts(model), random_circuit(model)
    masks = (~circuit.mask & circuit.graph.edge_mask()).double()[None]
    assert_close(alone(model, circuit, Zero(), clean), by_engine(model, masks, Zero(), clean)[0])


def test_every_reader_reads_live_writes_along_edges_of_the_circuit_and_the_other_runs_elsewhere():
    for name in ("rotary_rms_gated_grouped", "parallel_no_norm_one_key", "learned_ln"):
        model = build(config(GRID[name]), SEED)
        (corrupted, clean), circuit = prompts(model), random_circuit(model)
        _, theirs = model.run_with_cache(corrupted)
        with model.intervene(OnlyCircuit(circuit, corrupted)):
            points = ["*_input", "*.hook_mlp_in", "*.hook_resid_*", "*.hook_z", "*.hook_mlp_out", "*.hook_attn_out"]
            _, ours = model.run_with_cache(clean, names_filter=points)

        def write(cache: Any, writer: Any, model: HookedTransformer = model) -> Tensor:
            if writer.head is None:
                point = "resid_pre", 0
                return cache[point if writer.kind == "embed" else ("mlp_out", writer.layer)]
            return cache["z", writer.layer][:, :, writer.head] @ model.blocks[writer.layer].attn.W_O[writer.head]

        for reader in circuit.graph.readers:
            inside = [writer for writer in circuit.graph.writers_of(reader) if f"{writer} -> {reader}" in circuit]
            outside = [writer for writer in circuit.graph.writers_of(reader) if writer not in inside]
            read = torch.zeros(*clean.shape, model.cfg.d_model, dtype=torch.float64)
            for cache, writers in ((ours, inside), (theirs, outside)):
                read = read + sum(write(cache, writer) for writer in writers)
            for layer in range(reader.layer + (reader.kind == "mlp" and not model.cfg.parallel_attn_mlp)):
                read = read + model.blocks[layer].attn.b_O
            seen = ours[reader.hook_name]
            assert_close(seen if reader.head is None else seen[:, :, reader.head], read)


def test_a_mask_can_be_differentiated():
    model = build(config(GRID["rotary_rms_gated_grouped"]), SEED)
    corrupted, clean = prompts(model)
    graph = EdgeGraph.of(model)
    mask = (torch.rand(graph.edge_mask().shape, dtype=torch.float64) * graph.edge_mask()).requires_grad_()

    def value(mask: Tensor) -> Tensor:
        return model.run_with_hooks(clean, fwd_hooks=masked_edges(model, mask, corrupted))[:, -1, 3].sum()

    (slope,) = torch.autograd.grad(value(mask), mask)
    along = torch.randn(mask.shape, dtype=torch.float64) * graph.edge_mask()
    with torch.no_grad():
        difference = (value(mask + 1e-5 * along) - value(mask - 1e-5 * along)) / 2e-5
    assert_close((slope * along).sum(), difference, 1e-7)
    assert (slope[graph.edge_mask()] != 0).any() and (slope[~graph.edge_mask()] == 0).all()


def test_half_precision_and_autocast_keep_both_ends():
    fields = GRID["rotary_rms_gated_grouped"]
    model = build(config(fields, dtype=torch.bfloat16), SEED)
    corrupted, clean = prompts(model, share=0)
    with torch.no_grad():
        assert torch.equal(alone(model, Subgraph.whole(model), corrupted, clean), model(clean))
        assert_close(alone(model, Subgraph.empty(model), corrupted, clean).float(), model(corrupted).float(), 0.1)
    model = build(config(fields, dtype=torch.float32), SEED)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alone(model, Subgraph.whole(model), corrupted, clean), model(clean))
        assert_close(alone(model, Subgraph.empty(model), corrupted, clean).float(), model(corrupted).float(), 0.1)


def test_one_edit_serves_many_runs_and_leaves_nothing_behind():
    model = build(config(GRID["learned_ln"]), SEED)
    (corrupted, clean), circuit = prompts(model), random_circuit(model)
    before = model(clean)
    with model.intervene(OnlyCircuit(circuit, corrupted)):
        first, again = model(clean), model(clean)
        stream = model(clean, stop_at_layer=model.cfg.n_layers)
        model(clean, stop_at_layer=1)
    assert torch.equal(first, again) and torch.equal(model.unembed(model.ln_final(stream)), first)
    assert torch.equal(model(clean), before)
    assert repr(OnlyCircuit(Subgraph.empty(model), corrupted)).endswith("Tensor of int64 (3, 6))")


def run_alone(corrupted: Any, **options: Any) -> Callable[[HookedTransformer, Tensor], object]:
    return lambda model, clean: alone(model, random_circuit(model), corrupted, clean, **options)


def in_wider(model: HookedTransformer, clean: Tensor) -> object:
    other = config(GRID["learned_ln"], d_mlp=12, n_layers=4)
    return alone(model, random_circuit(build(other, SEED)), clean, clean)


def in_place(model: HookedTransformer, clean: Tensor) -> object:
    return alone(model, random_circuit(model), Zero(layer=1), clean)


def with_poor_cache(model: HookedTransformer, clean: Tensor) -> object:
    return alone(model, random_circuit(model), model.run_with_cache(clean, names_filter="*.hook_z")[1], clean)


def with_foreign_cache(model: HookedTransformer, clean: Tensor) -> object:
    return alone(model, random_circuit(model), build(model.cfg, SEED + 1).run_with_cache(clean)[1], clean)


def under_hooks(model: HookedTransformer, clean: Tensor) -> object:
    with model.intervene(Zero(site="z", layer=0)):
        return alone(model, random_circuit(model), clean, clean)


def continued(model: HookedTransformer, clean: Tensor) -> object:
    with model.intervene(OnlyCircuit(random_circuit(model), Zero())):
        return model.generate(clean, max_new_tokens=2)


def started_late(model: HookedTransformer, clean: Tensor) -> object:
    stream = model(clean, stop_at_layer=1)
    return alone(model, random_circuit(model), clean, stream, start_at_layer=1)


def padded_otherwise(model: HookedTransformer, clean: Tensor) -> object:
    mask = torch.ones_like(clean)
    mask[0, 0] = 0
    with model.intervene(OnlyCircuit(random_circuit(model), clean, mask)):
        return model(clean)


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (in_wider, ShapeError, "n_layers = 4 here and 3 there"),
        (run_alone(torch.zeros(2, 6, dtype=torch.long)), ShapeError, r"\(2, 6\) .* and this one \(3, 6\)"),
        (run_alone(torch.zeros(3, 5, dtype=torch.long)), ShapeError, r"\(3, 5\) .* and this one \(3, 6\)"),
        (padded_otherwise, ShapeError, "padded differently"),
        (in_place, ConfigError, "says layer=, but here the circuit says where"),
        (run_alone(Steer(torch.ones(24))), ConfigError, "does not say what other edges carry"),
        (with_poor_cache, HookNotFoundError, "'blocks.0.hook_resid_pre'.*names_filter"),
        (with_foreign_cache, CacheError, "another model"),
        (under_hooks, ConfigError, "give its cache"),
        (continued, ConfigError, "whole prompts"),
        (started_late, ConfigError, "start_at_layer"),
    ],
)
def test_what_a_circuit_cannot_run_on_is_refused(
    attempt: Callable[[HookedTransformer, Tensor], object], error: type[InterpError], said: str
):
    model = build(config(GRID["learned_ln"]), SEED)
    with pytest.raises(error, match=said):
        attempt(model, prompts(model)[1])


def test_norms_under_which_writes_do_not_add_up_are_refused():
    model = build(config(GRID["post_rms_gated_grouped"]), SEED)
    with pytest.raises(ConfigError, match="norm_position = 'post'"):
        alone(model, Subgraph.empty(model), *prompts(model))
    model = build(config(GRID["gemma_like"]), SEED)
    corrupted, clean = prompts(model)
    for source in (Mean(model.run_with_cache(corrupted)[1]), Resample(model.run_with_cache(corrupted)[1])):
        with pytest.raises(ConfigError, match="no scale of its own"):
            alone(model, Subgraph.empty(model), source, clean)
