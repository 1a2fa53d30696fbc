"""Harvesting: what is kept is what the model computes, whoever computes it and however often it was interrupted."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_corpus
import torch
from grid import GRID, Run, build, config
from small_harvest import OPTIONS, SITES, small_harvest, small_model

from interp import CheckpointError, ConfigError, HookedTransformer, HookNotFoundError, JobError, TokenError
from interp.data import Texts
from interp.harvest import Store, harvest, harvest_size
from interp.harvest.harvesting import HarvestWork
from interp.jobs import part


def bits(store: Store) -> str:
    """A hash of everything that a store holds."""
    seen = hashlib.sha256()
    for rows in (*(store[site] for site in store.sites), store.token, store.text, store.pos):
        seen.update(rows.rows(slice(None)).contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


# ---------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("packed", [True, False])
def test_every_token_has_the_activations_of_its_own_run(run: Run, packed: bool, tmp_path: Path):
    generator = torch.Generator().manual_seed(run.seed)
    lengths = torch.randint(0, 14, (12,), generator=generator).tolist()
    corpus = [torch.randint(0, run.cfg.d_vocab, (n,), generator=generator).tolist() for n in [*lengths, 5]]
    sites = [name for name, p in run.model.hook_points.items() if p.axes[:2] == ("batch", "pos")]
    sites.remove("hook_tokens")
    options = {**OPTIONS, "n_ctx": run.cfg.n_ctx, "unit_tokens": 30, "batch": 2}
    if packed and run.cfg.attention_dir == "bidirectional":
        with pytest.raises(ConfigError, match=r"the texts of a row would see one another.*say packed=False"):
            harvest(run.model, corpus, sites, folder=tmp_path, **options)
        return
    store = harvest(run.model, corpus, sites, folder=tmp_path, packed=packed, **options)
    rows = list(Texts(corpus).rows(None, run.cfg.n_ctx, packed))
    assert store.sites == tuple(sites) and len(store) == sum(map(len, corpus))
    for kept, name in ((store.token, "ids"), (store.text, "text"), (store.pos, "pos")):
        wanted = torch.cat([getattr(row, name)[row.mask] for row in rows])
        assert torch.equal(kept.rows(slice(None)).long(), wanted)
    with torch.no_grad():
        alone = [run.model.run_with_cache(row.ids[row.mask][None], names_filter=sites)[1] for row in rows]
    for site in sites:
        wanted = torch.cat([cache[site][0] for cache in alone]).float()
        torch.testing.assert_close(store[site].rows(slice(None)), wanted, rtol=1e-4, atol=1e-5)


def test_a_unit_holds_the_very_bits_of_runs_of_its_batches(tmp_path: Path):
    model = small_model()
    store = small_harvest(tmp_path, model)
    rows = list(Texts(tiny_corpus.texts(41)).rows(model, 16))
    ids, per_unit = torch.stack([row.ids for row in rows]), 100 // 16
    assert len(rows[-1].ids) > int(rows[-1].mask.sum())  # the last one is padded
    for unit in range(len(rows) // per_unit):
        parts = ids[unit * per_unit : (unit + 1) * per_unit].split(3)
        with torch.no_grad():
            wanted = torch.cat([model.run_with_cache(part)[1]["resid_post", 1].flatten(0, 1) for part in parts])
        first = unit * per_unit * 16
        assert torch.equal(store["resid_post", 1].rows(slice(first, first + len(wanted))), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_activations_are_kept_in_the_precision_that_is_asked_for(dtype: Any, tmp_path: Path):
    exact, store = (small_harvest(tmp_path / name, dtype=name)["z", -1] for name in ("float32", dtype))
    assert store.dtype == getattr(torch, dtype)
    assert torch.equal(store.rows(slice(None)), exact.rows(slice(None)).to(store.dtype))


def test_half_precision_models_and_autocast_do_not_change_what_is_meant(tmp_path: Path):
    plain = small_harvest(tmp_path / "plain")
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert bits(small_harvest(tmp_path / "autocast")) == bits(plain)
    model = small_model().to(torch.bfloat16)
    half = small_harvest(tmp_path / "half", model, dtype="bfloat16")
    with torch.no_grad():
        _, cache = model.run_with_cache(half.token.rows(slice(0, 48)).view(3, 16))
    assert torch.equal(half["z", 2].rows(slice(0, 48)), cache["z", 2].flatten(0, 1))


@pytest.mark.usefixtures("as_installed")
def test_numbers_of_numpy_are_numbers(tmp_path: Path):
    given: Any = {name: np.int64(OPTIONS[name]) for name in ("n_ctx", "batch", "unit_tokens")}
    small_harvest(tmp_path, **given)
    assert bits(small_harvest(tmp_path)) == bits(small_harvest(tmp_path, **given))


def test_the_run_ends_at_the_last_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small_model()

    def never(*_: Any) -> Any:
        raise AssertionError("this layer is not needed")

    monkeypatch.setattr(model.blocks[2], "forward", never)
    monkeypatch.setattr(model.unembed, "forward", never)
    assert len(small_harvest(tmp_path, model, sites=("resid_post", 1))) > 1000


def test_sites_come_in_the_order_of_execution_whatever_the_order_asked(tmp_path: Path):
    store = small_harvest(tmp_path, sites=[("z", 2), "blocks.*.hook_mlp_out", ("resid_pre", 0), ("mlp_out", 1)])
    assert store.sites == ("blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out",
                           "blocks.2.attn.hook_z", "blocks.2.hook_mlp_out")  # fmt: skip


# ---------------------------------------------------------------------------------------------- going on


class Counted(NamedTuple):
    units: list[int]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Which units were computed in this process."""
    counted, compute = Counted([]), HarvestWork.compute

    def counting(self: HarvestWork, unit: int) -> Any:
        counted.units.append(unit)
        return compute(self, unit)

    monkeypatch.setattr(HarvestWork, "compute", counting)
    return counted


def test_only_what_is_missing_is_computed_again(tmp_path: Path, computed: Counted):
    model = small_model()
    whole = bits(small_harvest(tmp_path, model))
    assert computed.units == list(range(len(Store.open(tmp_path).units))) and len(computed.units) > 8
    computed.units.clear()
    assert bits(small_harvest(tmp_path, model)) == whole and computed.units == []
    for unit in (2, 5):
        (tmp_path / f"unit-{unit:06}.safetensors").unlink()
    (tmp_path / "tokens" / "tokens-000005.safetensors").unlink()
    with pytest.raises(JobError, match=r"2 of .* units are missing") as raised:
        Store.open(tmp_path)
    assert raised.value.missing == [2, 5]
    assert bits(small_harvest(tmp_path, model)) == whole and computed.units == [2, 5]


def test_an_interrupted_harvest_goes_on_with_another_copy_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, compute = bits(small_harvest(tmp_path / "whole")), HarvestWork.compute

    def interrupted(self: HarvestWork, unit: int) -> Any:
        if unit == 4:
            raise KeyboardInterrupt
        return compute(self, unit)

    monkeypatch.setattr(HarvestWork, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_harvest(tmp_path / "part")
    monkeypatch.undo()
    part = Store.open(tmp_path / "part", partial=True)
    assert part.units == [0, 1, 2, 3] and "4 of" in repr(part)
    first = Store.open(tmp_path / "whole")["z", 2].rows(slice(0, len(part)))
    assert torch.equal(part["z", 2].rows(slice(None)), first)
    assert bits(small_harvest(tmp_path / "part")) == whole


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path):
    model, corpus = small_model(), tiny_corpus.texts(41)
    store = small_harvest(tmp_path, model)
    whole = bits(store)
    other: list[tuple[dict[str, Any], str]] = [
        (
            {"texts": [*corpus[:30], "another dog", *corpus[31:]]},
            r"other texts.*: the tokens differ in text 2\d or one after it",
        ),
        ({"texts": corpus[:20]}, "other texts"),
        ({"texts": corpus[:30]}, "other texts"),
        ({"texts": [*corpus, "one more"]}, "other texts"),
        ({"packed": False}, "other texts"),
        ({"n_ctx": 8}, "other texts"),
        ({"unit_tokens": 64}, "other texts"),
        ({"sites": SITES[:1]}, "differs in: sites"),
        ({"dtype": "float16"}, r"differs in: dtype \('float32' there, 'float16' here\)"),
        ({"batch": 4}, "differs in: batch"),
        ({"threads": 2}, "differs in: threads"),
        ({"model": small_model(seed=2)}, "differs in: model"),
    ]
    for change, said in other:
        with pytest.raises(CheckpointError, match=said):
            small_harvest(tmp_path, **{"model": model, **change})
    assert bits(Store.open(tmp_path)) == bits(small_harvest(tmp_path, model)) == whole


def test_a_token_file_that_was_changed_is_not_run(tmp_path: Path):
    model = small_model()
    small_harvest(tmp_path, model)
    for number in (1, 2):
        (tmp_path / f"unit-{number:06}.safetensors").unlink()
    tokens = Store.open(tmp_path, partial=True)._tokens
    files = [tmp_path / "tokens" / f"tokens-{number:06}.safetensors" for number in (1, 2)]
    shutil.copy(files[1], files[0])
    files[1].write_bytes(files[1].read_bytes()[:-20])
    for number, said in ((1, "does not hold the tokens that were written"), (2, "cannot be read")):
        with pytest.raises(CheckpointError, match=said):
            tokens.unit(number)
    assert len(small_harvest(tmp_path, model)) == len(Store.open(tmp_path))  # they are written anew


@pytest.mark.apart
def test_two_workers_give_the_bits_of_one(tmp_path: Path):
    one = bits(small_harvest(tmp_path / "one"))
    assert bits(small_harvest(tmp_path / "two", workers=2)) == one


def test_parts_share_a_harvest_and_the_last_to_finish_collects(tmp_path: Path):
    whole = bits(small_harvest(tmp_path / "whole"))
    with pytest.raises(JobError, match="units are missing") as raised:
        small_harvest(tmp_path / "parts", workers=part(2, 3))
    assert all(unit % 3 != 1 for unit in raised.value.missing)
    with pytest.raises(JobError):
        small_harvest(tmp_path / "parts", workers=part(3, 3))
    assert bits(small_harvest(tmp_path / "parts", workers=part(1, 3))) == whole


# ---------------------------------------------------------------------------------------------- what is refused


def test_the_size_is_known_before_it_begins_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = small_model()
    store = small_harvest(tmp_path, model, progress=True)
    size = harvest_size(model, SITES, len(store), "float32")
    assert size == len(store) * (24 * 4 + 4 * 5 * 4 + 12)
    assert (
        f"{len(store):,} tokens at 2 sites into {tmp_path}: {size / 1e6:,.1f} MB in float32" in capsys.readouterr().err
    )
    held = sum(file.stat().st_size for file in tmp_path.glob("unit-*"))
    assert size < held < size + 1500 * len(store.units)
    small_harvest(tmp_path, model)
    assert capsys.readouterr().err == ""


def test_a_harvest_that_does_not_fit_on_the_disk_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small_model()
    store = small_harvest(tmp_path, model)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    small_harvest(tmp_path, model)  # nothing is to be written
    with pytest.raises(ConfigError, match=r"0.00 GB are to be written.* keep fewer sites"):
        small_harvest(tmp_path / "other", model)
    assert not list((tmp_path / "other").glob("unit-*")) and len(store) > 0


def test_numbers_that_float16_does_not_hold_are_named_with_their_site(tmp_path: Path):
    model = small_model()
    with torch.no_grad():
        model.blocks[1].mlp.b_out[3] = 1e5
    with pytest.raises(JobError, match=r"RangeError: blocks.1.hook_resid_post has 1e\+05, which float16 does not hold; "
                                       "harvest it with dtype='bfloat16' or dtype='float32'"):  # fmt: skip
        small_harvest(tmp_path / "half", model, dtype="float16")
    assert float(small_harvest(tmp_path / "wide", model, dtype="bfloat16")["resid_post", 1].mean().max()) > 9e4


def refused(*args: Any, **options: Any) -> Any:
    """`harvest` without the annotations that say what it takes."""
    anything: Any = harvest
    return anything(*args, **{"n_ctx": 8, **options})


REFUSED: list[tuple[Callable[[Any, Path], Any], type[Exception], str]] = [
    (
        lambda m, f: refused(m, ["a"], ("pattern", 0), folder=f),
        ConfigError,
        "pattern has the axes .* a row for each token",
    ),
    (lambda m, f: refused(m, ["a"], "hook_tokens", folder=f), ConfigError, "token ids, which a harvest keeps anyway"),
    (lambda m, f: refused(m, ["a"], None, folder=f), ConfigError, "sites = None; name the hook points"),
    (lambda m, f: refused(m, ["a"], [], folder=f), HookNotFoundError, "an empty list"),
    (lambda m, f: refused(m, ["a"], ("resid_pots", 0), folder=f), HookNotFoundError, "did you mean .*resid_post"),
    (lambda m, f: refused(m, ["a"], ("z", 9), folder=f), HookNotFoundError, "layer = 9; allowed: -3 to 2"),
    (
        lambda m, f: refused(m, ["a"], ("z", 0), folder=f, dtype="float8"),
        ConfigError,
        "dtype = 'float8'; allowed: 'float16'",
    ),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=f, batch=0), ConfigError, "batch = 0; allowed: 1 or more"),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=f, unit_tokens=1.5), ConfigError, "unit_tokens = 1.5"),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=f, n_ctx=33), ConfigError, "n_ctx = 33; allowed: 1 to 32"),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=f, workers=0), ConfigError, "workers = 0"),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=f, wokers=2), ConfigError, "did you mean workers="),
    (lambda m, f: refused(m, ["a"], ("z", 0)), ConfigError, "folder = None; a harvest needs a folder"),
    (lambda m, f: refused(m, ["a"], ("z", 0), folder=3), ConfigError, "folder = 3"),
    (lambda m, f: refused(m, "a text", ("z", 0), folder=f), ConfigError, "several texts"),
    (lambda m, f: refused(m, ["", ""], ("z", 0), folder=f), TokenError, "no token in the corpus"),
    (lambda m, f: refused(m, ["a", "\ud800"], ("z", 0), folder=f), TokenError, "text 1"),
    (lambda m, f: refused(3, ["a"], ("z", 0), folder=f), ConfigError, "model = 3"),
]


@pytest.mark.parametrize(("call", "error", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_harvested_is_said_before_any_run(
    call: Callable[[Any, Path], Any], error: type[Exception], said: str, tmp_path: Path, as_installed: None
):
    with pytest.raises(error, match=said):
        call(small_model(), tmp_path)
    assert not list(tmp_path.glob("unit-*"))


def test_a_model_with_hooks_and_a_folder_of_another_job_are_refused(tmp_path: Path):
    model: HookedTransformer = small_model()
    model.add_hook(("z", 0), lambda x, hook: x * 2)
    with pytest.raises(ConfigError, match="the model has hooks"):
        small_harvest(tmp_path, model)
    model.reset_hooks()
    (tmp_path / "job.json").write_text('{"format": 1, "n_units": 1, "specification": {"analysis": "sweep"}}')
    with pytest.raises(CheckpointError, match="another job, which is not one over texts"):
        small_harvest(tmp_path, model)
    with pytest.raises(CheckpointError, match="another job than a harvest"):
        Store.open(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["job.json"]
    with pytest.raises(CheckpointError, match="is no folder of a job"):
        Store.open(tmp_path / "nowhere")


def test_a_model_without_a_tokenizer_takes_ids(tmp_path: Path):
    model = build(config(GRID["learned_ln"]), seed=3)
    with pytest.raises(TokenError, match="text 0 is text, and there is no tokenizer"):
        harvest(model, ["a"], ("z", 0), folder=tmp_path, n_ctx=4, progress=False)
    store = harvest(model, [[1, 2], [3]], ("z", 0), folder=tmp_path, n_ctx=4, progress=False)
    assert store.token.rows(slice(None)).tolist() == [1, 2, 3] and store.tokenizer is None
    assert store["z", 0].top_examples(lambda rows: rows[:, 0, 0])[0].token in ("1", "2", "3")
