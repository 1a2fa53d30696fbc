"""The store: what is read off it is what a loop over its rows would find, in one process or in several."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_harvest import small_harvest
from torch import Tensor
from torch.utils.data import DataLoader

from interp import CheckpointError, ConfigError, HookNotFoundError, JobError, RangeError, ShapeError
from interp.harvest import Store, TopExamples

POST, Z = "blocks.1.hook_resid_post", "blocks.2.attn.hook_z"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_harvest(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_harvest(tmp_path_factory.mktemp("half"), dtype="bfloat16")


def whole(store: Store, name: str) -> Tensor:
    """All rows, put together from the units' files."""
    units = [store.unit(place) for place in range(len(store.units))]
    return torch.cat([unit[name] for unit in units])


# ---------------------------------------------------------------------------------------------- rows


def test_rows_are_those_of_the_files_in_any_order_and_any_number_of_times(store: Store):
    rows, n = whole(store, POST), len(store)
    drawn = torch.randint(-n, n, (500,), generator=torch.Generator().manual_seed(0))
    for index in (drawn, drawn.tolist(), drawn.numpy().astype(np.int32), drawn[:1], drawn[0], int(drawn[0]), (3, 3, 3),
                  slice(None), slice(90, 110), slice(None, None, -7), slice(5, 5), [], range(n - 2, n)):  # fmt: skip
        chosen = np.arange(n)[index if isinstance(index, slice) else np.asarray(index, dtype=int)].reshape(-1)
        wanted = rows[chosen.tolist()]
        assert torch.equal(store["resid_post", 1].rows(index), wanted)


def test_sites_answer_to_all_their_names(store: Store):
    assert store.sites == (POST, Z)
    for name in (("resid_post", 1), ("resid_post", -2), POST, "*resid_post", lambda name: "post" in name):
        assert store[name].name == POST
    assert store["z", 2].shape == (len(store), 4, 5) and store["z", 2].dtype == torch.float32
    assert repr(store["z", 2]) == f"StoredSite('{Z}': {len(store)} x 4 x 5 float32)"
    with pytest.raises(HookNotFoundError, match=r"did you mean \('resid_post', 1\)"):
        store["resid_pots", 1]
    with pytest.raises(HookNotFoundError, match="fits 2 sites"):
        store["blocks.*"]


def test_means_and_covariances_are_those_of_the_rows_that_are_stored(store: Store, half: Store):
    for one in (store, half):
        for name in (POST, Z):
            rows = whole(one, name).double().numpy()
            torch.testing.assert_close(one[name].mean(), torch.tensor(rows.mean(0)), rtol=0, atol=1e-12)
            heads = np.moveaxis(rows.reshape(len(rows), -1, rows.shape[-1]), 1, 0)
            wanted = np.stack([np.cov(head, rowvar=False) for head in heads])
            wanted = torch.tensor(wanted).view(*rows.shape[1:], rows.shape[-1])
            torch.testing.assert_close(one[name].covariance(), wanted, rtol=1e-9, atol=1e-12)


def test_a_store_is_exported_to_numpy_in_memory_and_as_a_file(store: Store, half: Store, tmp_path: Path):
    for one in (store, half):
        wanted = whole(one, Z).float().numpy()
        assert np.array_equal(one["z", 2].numpy(), wanted) and one["z", 2].numpy().dtype == np.float32
        written = np.load(one["z", 2].numpy(tmp_path / "z.npy"), mmap_mode="r")
        assert np.array_equal(written, wanted)
    assert np.array_equal(store.token.numpy(), whole(store, "token").numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["z.npy"]


def test_copies_and_pickles_are_as_small_as_the_path(store: Store):
    assert store.tokenizer is not None
    store["z", 2].mean()
    sent = pickle.dumps(store)
    again = pickle.loads(sent)
    assert len(sent) < 5000 and torch.equal(again["z", 2].rows([3, 1]), store["z", 2].rows([3, 1]))
    assert again.tokenizer == store.tokenizer


def test_a_store_is_found_from_wherever_it_was_opened(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(store.folder.parent)
    here = Store.open(store.folder.name)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(here["z", 2].rows([3, 1]), store["z", 2].rows([3, 1]))


def test_what_is_read_cannot_be_written_through(store: Store):
    before = store["z", 2].rows(slice(0, 5))
    store["z", 2].rows(slice(0, 5)).zero_()
    assert torch.equal(Store.open(store.folder)["z", 2].rows(slice(0, 5)), before)


def test_a_mask_of_all_rows_stands_for_those_that_are_true(store: Store):
    mask = whole(store, "token") == 5
    assert torch.equal(store["z", 2].rows(mask), whole(store, Z)[mask])
    assert torch.equal(store["z", 2].rows(mask.numpy()), whole(store, Z)[mask])
    assert len(store["z", 2].rows(torch.zeros(len(store), dtype=torch.bool))) == 0


@pytest.mark.parametrize(
    "index",
    ["a", torch.ones(3, dtype=torch.bool), 1.5, [1.5], True, [True], torch.zeros(2, 2).long(), None, 10**6, [-(10**6)]],
)
def test_rows_that_are_not_there_are_refused(store: Store, index: Any, as_installed: None):
    with pytest.raises(ConfigError, match=r"rows\(|row .*; allowed"):
        store["z", 2].rows(index)


def test_damaged_and_missing_units_are_found(tmp_path: Path):
    store = small_harvest(tmp_path)
    tokens, file = whole(store, "token").clone(), tmp_path / "unit-000003.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(JobError, match="1 of"):
        Store.open(tmp_path)
    part = Store.open(tmp_path, partial=True)
    assert part.units == [unit for unit in store.units if unit != 3]
    first, end = store.span(3)
    assert len(part) == len(store) - (end - first)
    kept = torch.tensor([row for row in range(len(store)) if not first <= row < end])
    assert torch.equal(part.token.rows(slice(None)), tokens[kept])
    for one in tmp_path.glob("unit-*"):
        one.unlink()
    with pytest.raises(JobError, match="no unit is done"):
        Store.open(tmp_path, partial=True)
    (tmp_path / "tokens" / "index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read as a list of tokens"):
        Store.open(tmp_path)


# ---------------------------------------------------------------------------------------------- batches


@given(size=st.integers(1, 300), seed=st.integers(0, 2**40), shards=st.integers(1, 20), n=st.integers(1, 5))
def test_every_row_comes_once_and_readers_share_the_batches_of_one(
    store: Store, size: int, seed: int, shards: int, n: int
):
    whole_order = [batch["row"] for batch in store.batches(size, seed, shards=shards)]
    assert sorted(torch.cat(whole_order).tolist()) == list(range(len(store)))
    assert [len(batch) for batch in whole_order[:-1]] == [size] * (len(whole_order) - 1)
    for which in range(n):
        mine = store.batches(size, seed, shards=shards, reader=(which, n))
        rows = [batch["row"] for batch in mine]
        assert len(mine) == len(rows)
        assert all(torch.equal(a, b) for a, b in zip(rows, whole_order[which::n], strict=True))


def test_batches_have_the_rows_that_they_name(store: Store):
    everything = {name: whole(store, name) for name in (POST, Z, "token", "text", "pos")}
    for batch in store.batches(100, seed=3):
        assert list(batch) == [POST, Z, "token", "text", "pos", "row"]
        assert all(torch.equal(batch[name], rows[batch["row"]]) for name, rows in everything.items())
    (first, *_) = store.batches(100, seed=3, sites=("z", 2))
    assert list(first) == [Z, "token", "text", "pos", "row"]


def test_the_order_is_that_of_the_seed_and_mixes_units(store: Store):
    def order(seed: int, **options: Any) -> list[int]:
        return torch.cat([batch["row"] for batch in store.batches(64, seed, **options)]).tolist()

    again = store.batches(64, 5)
    assert order(5) == order(5) == torch.cat([batch["row"] for batch in again]).tolist()
    assert order(5) == torch.cat([batch["row"] for batch in again]).tolist() and order(5) != order(6)
    first = np.searchsorted([store.span(place)[1] for place in range(len(store.units))], order(5)[:64], side="right")
    assert len(set(first.tolist())) >= 6
    alone = np.searchsorted(
        [store.span(place)[1] for place in range(len(store.units))], order(5, shards=1)[:64], "right"
    )
    assert len(set(alone.tolist())) == 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than there are cores
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_loader_gives_the_same_batches_with_any_number_of_workers(store: Store, workers: int):
    for reader in ((0, 1), (1, 2)):
        batches = store.batches(97, seed=1, reader=reader)
        loaded = list(DataLoader(batches, batch_size=None, num_workers=workers))
        assert len(loaded) == len(batches)
        for ours, theirs in zip(batches, loaded, strict=True):
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"seed": 2**64}, f"seed = {2**64}; allowed: 0 to"),
        ({"sed": 1}, "unknown argument 'sed'.*did you mean seed="),
        ({"shards": 0}, "shards = 0"),
        ({"reader": (2, 2)}, "reader = 2; allowed: 0 to 1"),
        ({"reader": 1}, "reader = 1; allowed: .which, of how many."),
        ({"sites": ("q", 2)}, "names nothing"),
    ],
    ids=range(8),
)
def test_batches_that_there_cannot_be_are_refused(store: Store, options: dict[str, Any], said: str, as_installed: None):
    with pytest.raises((ConfigError, HookNotFoundError), match=said):
        store.batches(**{"batch_size": 10, **options})


# ---------------------------------------------------------------------------------------------- top examples


@pytest.mark.parametrize("name", [POST, Z])
def test_the_top_examples_of_a_direction_are_the_rows_that_a_sort_finds(store: Store, half: Store, name: str):
    for one in (store, half):
        rows = whole(one, name)
        direction = torch.randn(rows.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        scores = rows.double().flatten(1) @ direction.flatten()
        found = one[name].top_examples(direction, top_k=20)
        at = [example.row for example in found]
        assert len(set(at)) == 20 and [example.score for example in found] == pytest.approx(scores[at].tolist())
        assert scores[at].tolist() == pytest.approx(scores.sort(descending=True).values[:20].tolist())


def test_a_neuron_and_a_function_find_the_same(store: Store):
    at = store["z", 2]
    neuron = at.top_examples((3, -1), top_k=5)
    assert neuron == at.top_examples(lambda rows: rows[:, 3, 4], top_k=5)
    assert neuron == at.top_examples_of_each(lambda rows: rows.flatten(1), top_k=5)[19]
    assert store["resid_post", 1].top_examples(7) == store["resid_post", 1].top_examples(torch.eye(24)[7])


def test_of_equal_scores_the_earlier_row_comes_first(store: Store):
    found = store["z", 2].top_examples(lambda rows: torch.ones(len(rows)), top_k=300)
    assert [example.row for example in found] == list(range(300))
    tokens = whole(store, "token")
    commonest = int(tokens.bincount().argmax())
    first = 0

    def is_commonest(rows: Tensor) -> Tensor:
        nonlocal first
        first += len(rows)
        return (tokens[first - len(rows) : first] == commonest).float()

    wanted = (tokens == commonest).nonzero()[:, 0].tolist()[:25]
    assert [example.row for example in store["z", 2].top_examples(is_commonest, top_k=25)] == wanted


def test_contexts_are_the_tokens_around_within_text_and_row(store: Store):
    token, text, pos = (whole(store, name).tolist() for name in ("token", "text", "pos"))
    every = store["z", 2].top_examples(lambda rows: rows[:, 0, 0], top_k=10**6, context=5)
    assert sorted(example.row for example in every) == list(range(len(store)))
    for example in every:
        row = example.row
        begin = end = row
        while row - begin < 5 and pos[begin] > 0 and text[begin - 1] == text[row]:
            begin -= 1
        while end - row < 5 and end + 1 < len(store) and pos[end + 1] > 0 and text[end + 1] == text[row]:
            end += 1
        assert example.ids == tuple(token[begin : end + 1]) and example.at == row - begin
        assert (example.text, example.pos) == (text[row], pos[row])
        strings = store.tokenizer and store.tokenizer.to_str_tokens(list(example.ids))
        assert [*example.before, example.token, *example.after] == strings
    assert store["z", 2].top_examples((0, 0), 1, context=0)[0].tokens == (every[0].token,)


def test_tokens_are_shown_as_text_and_never_as_markup(tmp_path: Path):
    hostile = "<script>alert('x')</script> & \n\x00\x1b[31m"
    store = small_harvest(tmp_path, texts=[hostile])
    found = store["resid_post", 1].top_examples(0, top_k=3, context=40)
    page = found._repr_html_()
    assert "<script" not in page and "&lt;" in page and "\x1b" not in page and "\x00" not in page
    assert set(re.findall(r"</?(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td", "code", "mark"}
    lines = repr(found).splitlines()
    assert len(lines) == 3 and all("«" in line for line in lines) and "\x1b" not in repr(found)
    assert isinstance(found[:2], TopExamples) and found[:2]._repr_html_() != page and repr(found[:0]) == "no examples"


@pytest.mark.parametrize(
    ("of", "error", "said"),
    [
        (torch.ones(5), ConfigError, "is no direction at .*hook_z, where a row has the shape"),
        (torch.ones(4, 5).long(), ConfigError, "is no direction"),
        (3, ConfigError, "3 is no neuron"),
        ((4, 0), ConfigError, "is no neuron"),
        ("z", ConfigError, "allowed: a direction, the number of a neuron, or a function"),
        (lambda rows: rows, ShapeError, "one score a row"),
        (lambda rows: 3, ShapeError, "made 3 of"),
        (lambda rows: rows[:, 0, 0] / 0 * 0, RangeError, "the score of row 0 is no number"),
    ],
    ids=range(8),
)
def test_what_ranks_nothing_is_refused(store: Store, of: Any, error: type[Exception], said: str, as_installed: None):
    with pytest.raises(error, match=said):
        store["z", 2].top_examples(of)
    with pytest.raises(ConfigError, match="top_k = 0"):
        store["z", 2].top_examples((0, 0), top_k=0)
