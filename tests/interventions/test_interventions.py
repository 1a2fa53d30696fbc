from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, SMALL, build, config, random_tensor, random_tokens
from hypothesis import given
from hypothesis import strategies as st

from interp import CheckpointError, ConfigError, HookedTransformer, HookNotFoundError, HookPoint, ShapeError, TokenError
from interp.files import save_tensors
from interp.interventions.core import Intervention, Interventions
from interp.interventions.kinds import (
    FreezeNorms,
    FreezePattern,
    Mean,
    Patch,
    Resample,
    Steer,
    Zero,
)
from interp.interventions.values import Values

ANYTHING: dict[str, Any] = {"text": "1"}
NAMES = ["learned_ln", "rotary_rms_gated_grouped", "post_ln_sinusoidal_bidirectional", "gemma_like"]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(config(GRID[request.param]), seed=1)


def tokens(seed: int = 2, batch: int = 3) -> torch.Tensor:
    return torch.randint(11, (batch, 6), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_each_kind_writes_what_a_hook_of_its_own_would(model: HookedTransformer):
    _, other = model.run_with_cache(tokens(3))
    held, vector = other["z", 1], random_tensor(model.cfg.d_head, seed=4)
    cases: list[tuple[Intervention, Any]] = [
        (Zero(site="z", layer=1, head=2), lambda z: torch.zeros_like(z)),
        (Patch(other, site="z", layer=1, head=2), lambda z: held),
        (Mean(other, site="z", layer=1, head=2), lambda z: held.mean(0, keepdim=True)),
        (Mean(other, site="z", layer=1, head=2, per_position=False), lambda z: held.mean((0, 1), keepdim=True)),
        (Steer(vector, site="z", layer=1, head=2, scale=-2.0), lambda z: z - 2 * vector),
    ]
    for intervention, value in cases:

        def by_hand(z: torch.Tensor, hook: HookPoint, value: Any = value) -> None:
            z[:, :, 2] = value(z).expand_as(z)[:, :, 2]

        expected = model.run_with_hooks(tokens(), fwd_hooks=[(("z", 1), by_hand)])
        with model.intervene(intervention):
            assert torch.equal(model(tokens()), expected), intervention


@torch.no_grad()
def test_an_address_is_cut_out_of_every_axis(model: HookedTransformer):
    with model.intervene(Zero(site="post", layer=(0, -1), pos=[1, -1], neuron=range(3))):
        _, cache = model.run_with_cache(tokens())
    for layer in range(3):
        written = (cache["post", layer] == 0).all(0)
        for pos, neuron in ((1, 0), (5, 2), (0, 0), (1, 3)):
            assert bool(written[pos, neuron]) == (layer != 1 and pos in (1, 5) and neuron < 3)


@torch.no_grad()
def test_patching_everything_that_writes_restores_the_other_run(model: HookedTransformer):
    logits, cache = model.run_with_cache(tokens(5))
    everything = Patch(cache, site="z") + Patch(cache, site="mlp_out")
    embed = [("hook_embed", lambda x, hook: cache["hook_embed"])]
    with model.intervene(everything), model.hooks(fwd_hooks=embed):
        assert torch.allclose(model(tokens()), logits, atol=1e-12)


@torch.no_grad()
def test_resampling_takes_another_prompt_and_the_same_one_at_every_site(model: HookedTransformer):
    _, cache = model.run_with_cache(tokens())
    both = Resample(cache, site="z", layer=0, seed=5) + Resample(cache, site="mlp_out", layer=0, seed=5)
    with model.intervene(both):
        _, patched = model.run_with_cache(tokens())
    for prompt in range(3):
        sources = [p for p in range(3) if torch.equal(patched["z", 0][prompt], cache["z", 0][p])]
        assert sources and prompt not in sources
        assert torch.equal(patched["mlp_out", 0][prompt], cache["mlp_out", 0][sources[0]])


@torch.no_grad()
def test_frozen_patterns_and_norms_are_those_of_the_other_run(model: HookedTransformer):
    _, cache = model.run_with_cache(tokens(6))
    with model.intervene(FreezePattern(cache, layer=(0, 2)), FreezeNorms(cache)):
        _, frozen = model.run_with_cache(tokens())
    assert torch.equal(frozen["pattern", 0], cache["pattern", 0])
    assert not torch.equal(frozen["pattern", 1], cache["pattern", 1])
    scales = [name for name in cache if name.endswith("hook_scale")]
    assert scales and all(torch.equal(frozen[name], cache[name]) for name in scales)


def test_interventions_end_with_the_block(model: HookedTransformer):
    before = model(tokens())
    with pytest.raises(KeyboardInterrupt), model.intervene(Zero(site="z")):
        raise KeyboardInterrupt
    assert torch.equal(model(tokens()), before)


@torch.no_grad()
def test_they_act_in_the_order_in_which_they_are_added():
    model = build(config(GRID["learned_ln"]), seed=7)
    ones = Steer(torch.ones(24, dtype=torch.float64), site="resid_pre", layer=1)
    with model.intervene(ones + Zero(site="resid_pre", layer=1)):
        _, zeroed = model.run_with_cache(tokens())
    with model.intervene(Zero(site="resid_pre", layer=1), ones):
        _, steered = model.run_with_cache(tokens())
    assert (zeroed["resid_pre", 1] == 0).all() and (steered["resid_pre", 1] == 1).all()


@torch.no_grad()
def test_they_act_during_generation():
    model = build(config(GRID["learned_ln"]), seed=8)
    with model.intervene(Zero(site="z")):
        ablated = model.generate(tokens(), 2, progress=False).tokens
    for step in (6, 7):
        with model.intervene(Zero(site="z")):
            assert torch.equal(model(ablated[:, :step])[:, -1].argmax(-1), ablated[:, step])


# ---------------------------------------------------------------------- as values


def test_they_are_equal_and_hash_by_content():
    _, cache = build(config(GRID["learned_ln"]), seed=9).run_with_cache(tokens())
    _, again = build(config(GRID["learned_ln"]), seed=9).run_with_cache(tokens())
    one, same = (Patch(c, site="z", layer=1) for c in (cache, again))
    assert one == same and len({one, same, Patch(cache, site="z", layer=0)}) == 2
    assert Zero(site="z", layer=[0, 1]) == Zero(site="z", layer=(0, 1)) != Zero(site="z", layer=0)
    assert Mean(cache, site="z") != Patch(cache, site="z")
    with pytest.raises(AttributeError):
        one.layer = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_of_a_cache_only_what_the_place_names_is_kept():
    _, cache = build(config(GRID["learned_ln"]), seed=10).run_with_cache(tokens())
    assert list(Patch(cache, site="z", layer=1).values) == ["blocks.1.attn.hook_z"]
    assert len(Patch(cache).values) == len(cache)


@given(st.integers(0, 2), st.lists(st.integers(-6, 5), min_size=1, max_size=3), st.floats(-3, 3), st.booleans())
def test_what_is_saved_comes_back_equal(layer: int, pos: list[int], scale: float, per_position: bool):
    import tempfile

    values = {f"blocks.{layer}.attn.hook_z": random_tensor(2, 6, 4, 5, seed=layer)}
    items = Interventions(
        (
            Zero(site=("scale", "ln1"), layer=layer),
            Mean(values, site="z", layer=layer, pos=pos, per_position=per_position),
            Resample(values, site="z", layer=layer, head=(0, 1), seed=4),
            Steer(random_tensor(24, seed=5).bfloat16(), site="resid_pre", layer=layer, scale=scale),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "interventions.safetensors"
        items.save(path)
        assert Interventions.load(path) == items


def test_a_file_of_another_schema_or_kind_is_refused(tmp_path: Path):
    path = tmp_path / "file"
    for metadata, message in (
        ({"schema": 99, "interventions": []}, "schema 99; this version reads 1"),
        ({"schema": 1, "interventions": [{"kind": "Zeroo"}]}, "did you mean 'Zero'"),
        ({"schema": 1}, "cannot be read"),
        ({"schema": 1, "interventions": [{"kind": "Zero", "layr": 1}]}, "layr"),
    ):
        save_tensors(path, "interp.Interventions", {"x": torch.zeros(1)}, metadata)
        with pytest.raises(CheckpointError, match=message):
            Interventions.load(path)
    path.write_bytes(b"\x80\x04pickle?")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Interventions.load(path)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda c: Zero(), ConfigError, r"Zero\(\) has no place"),
        (lambda c: Zero(site="zz"), HookNotFoundError, r"Zero\(site='zz'\).*did you mean \('z', 0\)"),
        (lambda c: Zero(site="scale"), HookNotFoundError, "fits 2 points"),
        (lambda c: Zero(site="z", layer=3), ConfigError, "layer=3.*allowed: -3 to 2"),
        (lambda c: Zero(site="z", head=4), ConfigError, r"Zero\(site='z', head=4\): head = 4; allowed: -4 to 3"),
        (lambda c: Zero(site="resid_pre", head=0), ConfigError, "has no head"),
        (lambda c: Zero(site="post", neuron=10), ConfigError, "neuron = 10; allowed: -10 to 9"),
        (lambda c: Patch(c.slice(pos=slice(0, 5)), site="z", layer=0), ShapeError, r"Patch\(.*do not fit"),
        (lambda c: Patch(c.slice(batch=[0, 1]), site="z", layer=0), ShapeError, r"Patch\(.*\(2, 6, 4, 5\)"),
        (lambda c: Zero(site="z", layer=0, pos=6), ConfigError, "pos = 6; allowed: -6 to 5"),
        (lambda c: Steer(torch.zeros(5, dtype=torch.float64), site="resid_pre"), ShapeError, "do not fit"),
        (lambda c: Steer(torch.zeros(24), site="resid_pre", layer=0), ShapeError, "float32|float64"),
        (lambda c: Patch({"blocks.1.hook_z": torch.zeros(1)}, site="z"), HookNotFoundError, "no values for"),
        (lambda c: Zero(site="z", layer=ANYTHING["text"]), ConfigError, "Zero: layer = '1'; allowed: int"),
        (lambda c: Patch(3), ConfigError, "not 3"),
        (lambda c: Steer(3, site="z"), ConfigError, "direction is a tensor"),
        (lambda c: Interventions((Zero(site="z"), ANYTHING["text"])), ConfigError, "'1' is not an intervention"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_intervention_before_any_block_runs(
    make: Any, error: type[Exception], message: str, as_installed: None
):
    model = build(config(SMALL, dtype=torch.float64), seed=11)
    _, cache = model.run_with_cache(tokens())
    began: list[str] = []
    model.add_hook("blocks.0.hook_resid_pre", lambda x, hook: began.append(hook.name))
    with pytest.raises(error, match=message), model.intervene(make(cache)):
        model(tokens())
    assert not began


def test_an_intervention_that_is_never_carried_out_is_an_error(model: HookedTransformer):
    from interp import HookNotFiredError

    with pytest.raises(HookNotFiredError), model.intervene(Zero(site="z", layer=0)):
        model(torch.zeros(1, 4, model.cfg.d_model, dtype=torch.float64), start_at_layer=1)


def test_a_block_that_caught_the_error_of_its_last_run_is_not_told_that_an_edit_never_ran(model: HookedTransformer):
    from interp import HookNotFiredError

    def fails(activation: torch.Tensor, hook: HookPoint) -> None:
        raise ValueError("of the caller's")

    edit, good = Zero(site="z", layer=model.cfg.n_layers - 1), tokens()
    asked: list[tuple[type[Exception], Callable[[], Any]]] = [
        (TokenError, lambda: model(torch.full((1, 3), model.cfg.d_vocab))),
        (HookNotFoundError, lambda: model.run_with_cache(good, names_filter="nowhere")),
        (ValueError, lambda: model.run_with_hooks(good, fwd_hooks=[(("z", 0), fails)])),
        (ConfigError, lambda: model.generate(good, max_new_tokens=-1)),
    ]
    for error, run in asked:
        with model.intervene(edit), pytest.raises(error):
            run()
        with pytest.raises(HookNotFiredError), model.intervene(edit):  # a run that ended well is judged
            with pytest.raises(error):
                run()
            model(good, stop_at_layer=0)
        with pytest.raises(HookNotFiredError), model.intervene(edit):  # an error before the block counts for nothing
            pass
    with pytest.raises(HookNotFiredError), model.hooks(bwd_hooks=[(("z", 0), lambda gradient, hook: None)]):
        model.run_with_cache(good, None, ("resid_pre", 0))  # which ends before the logits, and well


def test_values_never_change_and_show_themselves_briefly():
    values = Values({"a": torch.zeros(1), "b": torch.ones(1), "c": torch.ones(2), "d": torch.ones(3)})
    assert repr(values) == "Values(a, b, c, ...)"
    with pytest.raises(HookNotFoundError, match="no values for 'e'"):
        values["e"]


@torch.no_grad()
def test_a_layer_named_twice_is_written_to_once_and_none_at_all_is_an_error():
    model = build(config(SMALL, dtype=torch.float64), seed=12)
    vector = random_tensor(24, seed=13)
    with model.intervene(Steer(vector, site="resid_pre", layer=(2, -1))):
        twice = model(tokens())
    with model.intervene(Steer(vector, site="resid_pre", layer=2)):
        assert torch.equal(model(tokens()), twice)
    with pytest.raises(ConfigError, match="names nothing"):
        Zero(site="z", layer=())


def test_a_direction_is_its_own_from_then_on():
    vector = torch.ones(24)
    steer = Steer(vector, site="resid_pre")
    vector.zero_()
    assert steer.direction["direction"].sum() == 24


def test_norms_of_a_half_precision_model_are_frozen_at_the_float32_scales_that_they_have():
    model = build(config(SMALL, dtype=torch.bfloat16), seed=13)
    tokens, others = random_tokens(model.cfg, 1), random_tokens(model.cfg, 2)
    usual, cache = model.run_with_cache(tokens)
    unfrozen = model(others)
    for edit in (FreezeNorms(cache), Patch(cache, site=("scale", "ln1"), layer=1)):
        with model.intervene(edit):
            assert torch.equal(model(tokens), usual)
            assert not torch.equal(model(others), unfrozen)
