"""ActivationCache as a mapping: names, slices, files, and the weights that belong to it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from grid import GRID, SEED, SMALL, Run, build, config, random_tokens, run_of, runs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from interp import (
    ActivationCache,
    CacheError,
    CheckpointError,
    ConfigError,
    HookedTransformer,
    HookNotFoundError,
    ShapeError,
    TransformerConfig,
)

# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("blocks.0.attn.hook_z", "blocks.0.attn.hook_z"),
        (("z", 0), "blocks.0.attn.hook_z"),
        (("z", -1), "blocks.2.attn.hook_z"),
        ("blocks.-2.hook_resid_pre", "blocks.1.hook_resid_pre"),
        (("normalized", 1, "ln2"), "blocks.1.ln2.hook_normalized"),
        ("pos_embed", "hook_pos_embed"),
        ("ln_final.hook_scal?", "ln_final.hook_scale"),
        (("z_grad", 1), "blocks.1.attn.hook_z_grad"),
        (("resid_pre_grad", -1), "blocks.2.hook_resid_pre_grad"),
    ],
    ids=str,
)
def test_an_activation_answers_to_its_name_in_every_form(plain: Run, name: Any, full: str):
    assert plain.everything[name] is dict(plain.everything)[full]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.0.attn.hook_zz", "did you mean 'blocks.0.attn.hook_z'"),
        (("patern", 1), r"did you mean \('pattern', 1\)"),
        (("z", 3), "layer = 3; allowed: -3 to 2"),
        (("scale", 0), r"say \('scale', 0, 'ln1'\) or \('scale', 0, 'ln2'\)"),
        ("blocks.*.attn.hook_z", "fits 3 cached activations"),
        ("blocks.*.attn.hook_zz", "matches none"),
        (("result", 0), "is a point of this model, but this cache does not hold it"),
        (("z_grad", 0), "names nothing in layer 0"),
    ],
    ids=str,
)
def test_a_name_that_fits_no_one_activation_is_an_error_that_helps(plain: Run, name: Any, message: str):
    with pytest.raises(HookNotFoundError, match=message):
        _ = plain.cache[name]


def test_a_cache_is_a_mapping_in_order_of_execution(plain: Run):
    assert list(plain.cache.keys()) == [name for name, row in plain.model.hook_map().items() if not row.lazy]
    assert len(plain.cache) == len(list(plain.cache.values()))


@pytest.mark.parametrize(("name", "held"), [("hook_embed", True), (("z", -1), True), ("hook_embet", False)], ids=str)
def test_a_cache_says_what_it_holds(plain: Run, name: Any, held: bool):
    assert (name in plain.cache) == held


def test_a_cache_says_how_many_activations_it_holds(plain: Run):
    assert f"{len(plain.cache)} activations" in repr(plain.cache)
    _, one = plain.model.run_with_cache(plain.tokens, None, names_filter="hook_embed")
    assert re.fullmatch(r"ActivationCache\(1 activation, [\d.e-]*[1-9][\d.e-]* MB\)", repr(one))


# ---------------------------------------------------------------------------------------------- slices

some = st.integers(-2, 1) | st.lists(st.integers(-2, 1), min_size=1, max_size=4) | st.just(slice(None, None, 2))


def query_axis(name: str) -> int:
    """The axis of the positions whose activations they are: in what is of two positions, of the query's."""
    return 2 if name.endswith(("scores", "pattern", "hook_bias")) else 1


def expected(value: Tensor, axis: int, index: int | slice | list[int] | None) -> Tensor:
    rows = value.movedim(axis, 0)
    chosen = rows if index is None else rows[[index] if isinstance(index, int) else index]
    return chosen.movedim(0, axis)


@given(runs(), st.none() | some, st.none() | some)
def test_a_sliced_cache_equals_the_slice_of_the_full_cache(run: Run, batch: Any, pos: Any):
    sliced = run.cache.slice(batch=batch, pos=pos)
    for name, value in run.cache.items():
        cut = expected(expected(value, 0, batch), query_axis(name), pos)
        assert torch.equal(sliced[name], cut), name


def test_a_sliced_cache_of_the_grid_equals_the_slice_of_the_full_cache_for_every_name(run: Run):
    sliced = run.everything.slice(batch=-1, pos=[0, -2])
    assert list(sliced) == list(run.everything)
    for name, value in run.everything.items():
        axis = query_axis(name.removesuffix("_grad"))
        assert torch.equal(sliced[name], expected(value[-1:], axis, [0, -2])), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pos": 7}, "pos = 7; allowed: integers from -7 to 6"),
        ({"pos": [0, -8]}, "pos = -8; allowed"),
        ({"batch": 3}, "batch = 3; allowed: integers from -3 to 2"),
        ({"pos": slice(5, 2)}, "selects nothing of 7"),
        ({"batch": []}, "selects nothing of 3"),
    ],
    ids=str,
)
def test_a_slice_out_of_range_is_an_error_that_gives_the_range(plain: Run, options: Any, message: str):
    with pytest.raises(ShapeError, match=message):
        plain.cache.slice(**options)


def test_moving_a_cache_keeps_its_names(plain: Run):
    moved = plain.cache.to("meta")
    assert [(name, value.shape) for name, value in moved.items()] == [(n, v.shape) for n, v in plain.cache.items()]
    assert all(value.is_meta for value in moved.values())


# ---------------------------------------------------------------------------------------------- weights that changed


def replace_bias(model: HookedTransformer) -> None:
    model.blocks[0].attn.b_O = nn.Parameter(torch.empty_like(model.blocks[0].attn.b_O))
    nn.init.ones_(model.blocks[0].attn.b_O)


def write_to_head(model: HookedTransformer) -> None:
    with torch.no_grad():
        model.blocks[1].attn.W_O[0] += 1


def take_step(model: HookedTransformer) -> None:
    model(torch.tensor([1, 2, 3]), "loss").backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


CHANGES: dict[str, Callable[[HookedTransformer], Any]] = {
    "a write to a head": write_to_head,
    "a step of training": take_step,
    "loading": lambda model: model.load_state_dict(build(model.cfg, 1).state_dict()),
    "another dtype": lambda model: model.to(torch.float32),
    "a replaced parameter": replace_bias,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("through", [lambda cache: cache, lambda cache: cache.slice(pos=-1)], ids=["whole", "sliced"])
def test_a_cache_refuses_decompositions_once_the_weights_have_changed(change: str, through: Any):
    model = run_of("learned_ln").fresh_model()
    _, cache = model.run_with_cache(torch.tensor([1, 2, 3]))
    cache = through(cache)
    CHANGES[change](model)
    with pytest.raises(CacheError, match="weights changed after this cache was made"):
        cache.get_full_resid_decomposition()


def test_activations_can_still_be_read_after_the_weights_have_changed(plain: Run):
    model = plain.fresh_model()
    _, cache = model.run_with_cache(plain.tokens)
    write_to_head(model)
    assert torch.equal(cache["z", 0], plain.cache["z", 0])


def test_runs_and_decompositions_leave_a_cache_usable(plain: Run):
    model = plain.fresh_model()
    _, cache = model.run_with_cache(plain.tokens)
    model(plain.tokens, "loss").backward()
    first, second = cache.decompose_resid(), cache.decompose_resid()
    assert torch.equal(first.values, second.values)


@pytest.mark.parametrize(
    "scored",
    [
        lambda cache: cache.decompose_resid(apply_ln=True),
        lambda cache: cache.get_full_resid_decomposition(apply_ln=True),
        lambda cache: cache.accumulated_resid(incl_mid=True, apply_ln=True),
        lambda cache: cache.logit_attrs(cache.decompose_resid(), 3),
        lambda cache: cache.stack_head_results().values.mul_(0),
        lambda cache: cache.decompose_resid().values.mul_(0),
        lambda cache: cache.accumulated_resid(0).values.mul_(0),
    ],
    ids=range(7),
)
def test_working_with_a_cache_leaves_it_bit_identical(plain: Run, scored: Callable[[ActivationCache], Any]):
    _, cache = plain.model.run_with_cache(plain.tokens)
    scored(cache)
    assert [name for name in cache if not torch.equal(cache[name], plain.cache[name])] == []


def test_a_decomposition_that_needs_more_than_the_cache_holds_names_what_is_missing(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, names_filter=["hook_embed", "hook_pos_embed"])
    with pytest.raises(HookNotFoundError, match=r"needs 'blocks\.0\.hook_attn_out', which the cache does not hold"):
        cache.decompose_resid()


# ---------------------------------------------------------------------------------------------- files


def test_a_saved_cache_comes_back_bit_for_bit(run: Run, tmp_path: Path):
    run.everything.save(tmp_path / "cache.safetensors")
    loaded = ActivationCache.load(tmp_path / "cache.safetensors", run.model)
    assert list(loaded) == list(run.everything)
    assert [name for name in loaded if not torch.equal(loaded[name], run.everything[name])] == []


def test_a_cache_remembers_what_was_padding_through_slices_and_files(tmp_path: Path):
    model, mask = build(config(SMALL), SEED), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    tokens = random_tokens(model.cfg, SEED, 2, 4)
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    assert cache.attention_mask is not None and torch.equal(cache.attention_mask, mask)
    cache.save(tmp_path / "cache.safetensors")
    for same in (cache.to("cpu"), ActivationCache.load(tmp_path / "cache.safetensors", model)):
        assert same.attention_mask is not None and torch.equal(same.attention_mask, mask) and list(same) == list(cache)
    first = cache.slice(batch=0, pos=slice(1, 3)).attention_mask
    assert first is not None and torch.equal(first, mask[:1, 1:3])
    _, cut = model.run_with_cache(tokens, attention_mask=mask, pos_slice=[-1])
    assert cut.attention_mask is None and cache.slice(batch=1).attention_mask is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_saved_cache_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path):
    model = build(TransformerConfig(**SMALL, dtype=dtype), SEED)
    _, cache = model.run_with_cache(random_tokens(model.cfg, SEED))
    cache.save(tmp_path / "cache")
    loaded = ActivationCache.load(tmp_path / "cache", model)
    assert {name: value.dtype for name, value in loaded.items()} == {n: v.dtype for n, v in cache.items()}


def test_a_loaded_cache_decomposes_as_the_saved_one(run: Run, tmp_path: Path):
    with run.model.hooks([(("resid_pre", 1), lambda act, hook: act + 1)]):
        _, cache = run.model.run_with_cache(run.tokens)
    cache.save(tmp_path / "cache")
    rows = ActivationCache.load(tmp_path / "cache", run.model).decompose_resid()
    values, labels = rows.values, rows.labels
    assert labels == cache.decompose_resid().labels
    assert torch.equal(values, cache.decompose_resid().values)


def test_a_cut_cache_can_be_saved(plain: Run, tmp_path: Path):
    plain.cache.slice(pos=2).save(tmp_path / "cache")
    loaded = ActivationCache.load(tmp_path / "cache", plain.model)
    assert torch.equal(loaded["pattern", 0], plain.cache["pattern", 0][:, :, 2:3])


def test_saving_makes_the_folders_that_are_missing(plain: Run, tmp_path: Path):
    plain.cache.save(tmp_path / "a" / "b" / "cache")
    assert (tmp_path / "a" / "b" / "cache").is_file()


def test_a_save_that_fails_leaves_no_file(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safetensors.torch, "save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        plain.cache.save(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_file_as_it_was(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain.cache.save(tmp_path / "cache")
    before = (tmp_path / "cache").read_bytes()
    monkeypatch.setattr(safetensors.torch, "save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        plain.cache.slice(pos=0).save(tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == before


def half_written(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    Path(file).write_bytes(b"half of it")
    raise OSError("disk full")


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_a_truncated_file_is_an_error_that_names_it(plain: Run, tmp_path: Path, length: int):
    path = tmp_path / "cache"
    plain.cache.save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=str(path)):
        ActivationCache.load(path, plain.model)


def test_a_file_that_is_not_there_is_an_error_that_names_it(plain: Run, tmp_path: Path):
    with pytest.raises(CheckpointError, match="nowhere"):
        ActivationCache.load(tmp_path / "nowhere", plain.model)


@pytest.mark.parametrize("metadata", [None, {"kind": "something else"}, {"kind": "interp.ActivationCache"}], ids=str)
def test_a_file_of_other_tensors_is_an_error(plain: Run, tmp_path: Path, metadata: Any):
    safetensors.torch.save_file({"hook_embed": torch.zeros(1)}, tmp_path / "other", metadata=metadata)
    with pytest.raises(CheckpointError, match="other"):
        ActivationCache.load(tmp_path / "other", plain.model)


OTHERS = {"n_layers": 2, "d_vocab": 12, "act_fn": "relu", "attn_scale": 2.0, "dtype": torch.float32, "window_size": 2}


@pytest.mark.parametrize(("field", "value"), OTHERS.items())
def test_a_cache_of_another_model_is_an_error_that_names_what_differs(
    plain: Run, tmp_path: Path, field: str, value: Any
):
    plain.cache.save(tmp_path / "cache")
    other = HookedTransformer(config(plain.fields, **{field: value}))
    with pytest.raises(CheckpointError, match=f"made by another model: {field} = "):
        ActivationCache.load(tmp_path / "cache", other)


def test_a_cache_of_the_same_architecture_from_another_seed_is_accepted(plain: Run, tmp_path: Path):
    plain.cache.save(tmp_path / "cache")
    other = build(config(plain.fields, seed=3), plain.seed)
    assert torch.equal(ActivationCache.load(tmp_path / "cache", other)["z", 1], plain.cache["z", 1])


def test_a_cache_of_other_weights_is_an_error(plain: Run, tmp_path: Path):
    plain.cache.save(tmp_path / "cache")
    with pytest.raises(CheckpointError, match="made by another model: other weights"):
        ActivationCache.load(tmp_path / "cache", build(plain.cfg, plain.seed + 1))


def test_the_file_says_what_it_is_and_which_config_made_it(plain: Run, tmp_path: Path):
    plain.cache.save(tmp_path / "cache")
    with safetensors.safe_open(tmp_path / "cache", "pt") as file:
        about = file.metadata()
    assert about["kind"] == "interp.ActivationCache"
    made_by = json.loads(about["made_by"])
    assert TransformerConfig.from_dict(made_by["config"]).architecture() == plain.cfg.architecture()
    assert made_by["weights"] == plain.model.weights_hash()


def test_the_stream_that_goes_in_or_comes_out_is_not_the_caches_own():
    run = run_of("learned_ln")
    with torch.no_grad():
        stream, cache = run.model.run_with_cache(run.tokens, stop_at_layer=2)
        kept = cache["resid_post", 1].clone()
        _, second = run.model.run_with_cache(stream, start_at_layer=2)
    stream.zero_()
    assert torch.equal(cache["resid_post", 1], kept)
    assert torch.equal(second["resid_pre", 2], kept)


# ---------------------------------------------------------------------------------------------- over layers


def test_a_site_can_be_stacked_over_layers(run: Run):
    pattern = run.everything.stack("pattern")
    batch, n = run.tokens.shape
    assert pattern.shape == (3, batch, run.cfg.n_heads, n, n)
    assert all(torch.equal(pattern[layer], run.everything["pattern", layer]) for layer in range(3))
    assert torch.equal(run.everything.stack("z_grad")[-1], run.everything["z_grad", -1])
    if run.cfg.normalization_type is not None and run.cfg.first_ln1:
        assert torch.equal(run.everything.stack(("scale", "ln1"))[1], run.everything["scale", 1, "ln1"])


def test_a_site_that_is_not_there_in_every_layer_cannot_be_stacked(as_installed: None):
    run = run_of("learned_ln")
    _, cache = run.model.run_with_cache(run.tokens, names_filter=[("z", 0), ("z", 2)])
    for site, message in (
        ("z", "blocks.1.attn.hook_z.*does not hold it"),
        ("zz", "names nothing"),
    ):
        with pytest.raises(HookNotFoundError, match=message):
            cache.stack(site)
    with pytest.raises(HookNotFoundError, match="say"):
        run.cache.stack("scale")
    with pytest.raises(HookNotFoundError, match="not 3"):
        run.cache.stack(3)  # pyright: ignore[reportArgumentType]
    empty = build(config(GRID["learned_ln"], n_layers=0), seed=1)
    with pytest.raises(ConfigError, match="n_layers = 0"):
        empty.run_with_cache(run.tokens)[1].stack("z")


class Noted(ActivationCache):
    """A cache of a class of one's own."""


class NotedTransformer(HookedTransformer):
    cache_type = Noted


def test_a_models_caches_are_of_the_class_that_it_says(plain: Run, tmp_path: Path):
    model = NotedTransformer(plain.cfg)
    tokens = plain.tokens[:, :4]
    cache = model.run_with_cache(tokens)[1]
    cache.save(tmp_path / "cache")
    for made in (
        cache,
        cache.slice(pos=1),
        cache.to("cpu"),
        model.generate(tokens, 2, names_filter="*hook_z", progress=False).cache,
        Noted.load(tmp_path / "cache", model),
    ):
        assert type(made) is Noted
