"""A job is a folder of units: what is done stays done, whoever does it, and what goes wrong is named."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
import torch
from grid import SMALL

from interp import CheckpointError, ConfigError, HookedTransformer, JobError, jobs
from interp.files import load_tensors, save_tensors
from interp.harvest import harvest
from interp.jobs.engines import Part, Workers, engine_of
from interp.jobs.work import Outcome, Task

ROWS = list(range(30))
UNITS = 8
EXPECTED = torch.tensor(ROWS, dtype=torch.float64).sqrt()
FOLDER = Path(__file__).parent


def run(fn: Any, folder: Path | None = None, rows: list[int] = ROWS, **options: Any) -> dict[str, Any]:
    return jobs.map(fn, rows, unit=4, folder=folder, progress=False, **options)


def counted(log: Path) -> Counter[int]:
    """How often each unit was computed."""
    return Counter(int(line) // 4 for line in log.read_text().split()) if log.exists() else Counter()


def kept(folder: Path) -> list[Any]:
    """What the units hold, to the bit; the bytes of a file are in an order of their own."""
    job = jobs.JobFolder.at(folder)
    return [[(n, v.tolist() if isinstance(v, torch.Tensor) else v) for n, v in of.items()] for of in job.results()]


def unit_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("unit-*"))


# ---------------------------------------------------------------------- results and resuming


def test_units_are_put_together_in_order_and_a_short_last_one_counts_by_its_rows():
    found = run(tasks.square_roots)
    assert torch.equal(found["roots"], EXPECTED) and found["first"] == [0, 4, 8, 12, 16, 20, 24, 28]


def test_merge_is_given_the_units_one_at_a_time_in_order():
    firsts = run(tasks.square_roots, merge=lambda results: [result["first"] for result in results])
    assert firsts == list(range(0, 30, 4))


def test_only_missing_units_are_computed(tmp_path: Path):
    log, folder = tmp_path / "log", tmp_path / "job"
    fn = partial(tasks.square_roots, log=str(log))
    run(fn, folder)
    assert counted(log) == Counter(range(UNITS))
    run(fn, folder)
    assert counted(log) == Counter(range(UNITS))
    for unit in (2, 7):
        unit_files(folder)[unit].unlink()
        found = run(fn, folder)
        assert torch.equal(found["roots"], EXPECTED)
    assert counted(log) == Counter(range(UNITS)) + Counter([2, 7])


def test_the_folder_of_a_call_without_one_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(tasks.square_roots)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_loses_the_unit_it_hits_and_no_other(tmp_path: Path):
    log, folder = tmp_path / "log", tmp_path / "job"
    fn = partial(tasks.is_interrupted, log=str(log), once=str(tmp_path / "once"))
    with pytest.raises(KeyboardInterrupt):
        run(fn, folder)
    assert len(unit_files(folder)) == 3
    assert torch.equal(run(fn, folder)["roots"], EXPECTED)
    assert counted(log) == Counter(range(UNITS)) + Counter([3])


# ---------------------------------------------------------------------- who computes what


@pytest.mark.apart
def test_any_number_of_workers_and_parts_gives_the_same_bits(tmp_path: Path):
    found = []
    for name, workers in (("one", 1), ("two", 2)):  # joblib keeps two alive for other tests
        run(tasks.square_roots, tmp_path / name, workers=workers)
        found.append(kept(tmp_path / name))
    for i in (3, 1):
        with pytest.raises(JobError, match="units are missing") as error:
            run(tasks.square_roots, tmp_path / "parts", workers=jobs.part(i, 3))
        assert not error.value.failed and all(unit % 3 != i - 1 for unit in error.value.missing)
    last = run(tasks.square_roots, tmp_path / "parts", workers=jobs.part(2, 3, workers=2))
    assert torch.equal(last["roots"], EXPECTED)
    found.append(kept(tmp_path / "parts"))
    assert all(one == found[0] for one in found) and len(found[0]) == UNITS


@pytest.mark.apart
def test_a_worker_that_is_killed_loses_nothing_that_was_done(tmp_path: Path):
    log, folder = tmp_path / "log", tmp_path / "job"
    fn = partial(tasks.kills_its_worker, log=str(log), once=str(tmp_path / "once"))
    assert torch.equal(run(fn, folder, workers=2)["roots"], EXPECTED)
    again = counted(log) - Counter(range(UNITS))
    assert again[3] == 1 and again.total() <= 4  # the unit that was hit, and those that were on their way


@pytest.mark.apart
def test_a_unit_that_kills_its_worker_every_time_is_named_and_the_others_finish(tmp_path: Path):
    log, folder = tmp_path / "log", tmp_path / "job"
    with pytest.raises(
        JobError, match=r"1 of 8 units failed. Unit 3 \(rows 12 to 15: \[12, .*dies every time"
    ) as error:
        run(partial(tasks.kills_its_worker, log=str(log)), folder, workers=2, retries=0)
    assert list(error.value.failed) == error.value.missing == [3]
    assert len(unit_files(folder)) == UNITS - 1 and counted(log)[3] == 2  # among others, and alone


@pytest.mark.apart
def test_workers_load_one_model_and_compute_what_this_process_computes(tmp_path: Path):
    cfg = {
        "n_layers": 2,
        "d_model": 12,
        "n_ctx": 9,
        "d_head": 4,
        "n_heads": 3,
        "d_vocab": 11,
        "act_fn": "relu",
        "seed": 4,
    }
    model = HookedTransformer(cfg)
    rows = [torch.randint(11, (1, n), generator=torch.Generator().manual_seed(n)) for n in (1, 2, 3, 5, 8, 9, 4)]
    here = jobs.map(tasks.logits, rows, model=model, unit=3, progress=False)
    there = jobs.map(tasks.logits, rows, model=model, unit=3, workers=2, folder=tmp_path, progress=False)
    assert torch.equal(here["logits"], there["logits"])
    assert torch.equal(here["logits"], torch.cat([model(ids)[:, -1] for ids in rows]).detach())
    assert here["threads"] == there["threads"] == [1, 1, 1]


@dataclass
class Elsewhere:
    """An engine of one process, which works in another folder than its caller, as the nodes of a cluster do."""

    folder: Path

    def __call__(self, task: Task, units: list[int]) -> Iterator[Outcome]:
        start: Any = {"mp_context": get_context("spawn"), "initializer": os.chdir, "initargs": (self.folder,)}
        with ProcessPoolExecutor(1, **start) as pool:
            yield from pool.map(task.shared(), units)


@pytest.mark.apart
def test_workers_in_another_folder_find_what_the_caller_names_from_his(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model, rows = HookedTransformer(SMALL | {"seed": 4}), [torch.tensor([[i, 2]]) for i in range(6)]
    engine: Any = Elsewhere(tmp_path / "there")
    found = jobs.map(tasks.logits, rows, model=model, unit=2, folder="map", workers=engine, progress=False)
    assert torch.equal(found["logits"], torch.cat([model(ids)[:, -1] for ids in rows]).detach())
    texts = [[1, 2, 3], [4, 5], [6]]
    options: Any = {"dtype": "float32", "n_ctx": 4, "progress": False}
    store, want = (
        harvest(model, texts, ("z", 1), folder=folder, workers=workers, **options)
        for folder, workers in (("harvest", engine), ("same", 1))
    )
    assert torch.equal(torch.as_tensor(store["z", 1].numpy()), torch.as_tensor(want["z", 1].numpy()))
    assert sorted(path.name for path in Path().iterdir()) == ["harvest", "map", "same"]
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.usefixtures("as_installed")
def test_units_run_with_as_many_threads_as_are_asked_and_the_caller_keeps_his(tmp_path: Path):
    before = torch.get_num_threads()
    model = HookedTransformer({"n_layers": 1, "d_model": 4, "n_ctx": 3, "d_head": 4, "n_heads": 1, "attn_only": True,
                               "d_vocab": 5})  # fmt: skip
    threads: Any = np.int64(3)
    found = jobs.map(tasks.logits, [torch.tensor([[1, 2]])], model=model, threads=threads, progress=False)
    assert found["threads"] == [3] and torch.get_num_threads() == before


@pytest.mark.apart
def test_drivers_that_are_killed_and_others_on_the_same_folder_do_no_harm(tmp_path: Path):
    log, folder = tmp_path / "log", tmp_path / "job"
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "import time, tasks\nfrom functools import partial\nfrom interp import jobs\n"
        f"write = jobs.JobFolder.write\n"
        "def slowly(self, *of): write(self, *of); time.sleep(float(sys.argv[1]))\n"
        "jobs.JobFolder.write = slowly\n"
        f"jobs.map(partial(tasks.square_roots, log={str(log)!r}), {ROWS}, unit=4, folder={str(folder)!r})\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, "60"])
    while not unit_files(folder):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    n_done = len(unit_files(folder))
    other = subprocess.Popen([sys.executable, "-c", script, ".05"])
    while len(unit_files(folder)) == n_done:
        assert other.poll() is None
        time.sleep(0.01)
    found = run(partial(tasks.square_roots, log=str(log)), folder)  # while the other goes on
    assert other.wait() == 0
    assert torch.equal(found["roots"], EXPECTED)
    assert counted(log)[0] == 1 and set(counted(log)) == set(range(UNITS)) and max(counted(log).values()) <= 2


def test_a_relative_folder_stays_where_it_is_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(tasks.goes_elsewhere, Path("job"))
    assert len(unit_files(tmp_path / "job")) == UNITS
    monkeypatch.chdir(tmp_path)
    run(tasks.square_roots, Path("~/job"))
    assert len(unit_files(tmp_path / "home" / "job")) == UNITS


@pytest.mark.apart
def test_workers_that_were_started_elsewhere_write_to_the_folder_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert torch.equal(run(tasks.square_roots, Path("job"), workers=2)["roots"], EXPECTED)
        assert len(unit_files(tmp_path / place / "job")) == UNITS


def test_what_surrounds_the_call_does_not_reach_its_units(tmp_path: Path):
    run(tasks.product, tmp_path / "plain")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            run(tasks.product, tmp_path / "surrounded")
            assert torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert kept(tmp_path / "surrounded") == kept(tmp_path / "plain")
    assert jobs.JobFolder.at(tmp_path / "surrounded").result(0)["x"].dtype == torch.float32


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_unit_that_fails_is_tried_again_and_named_with_its_rows_if_it_fails_too_often(tmp_path: Path, failures: int):
    log, folder, times = tmp_path / "log", tmp_path / "job", tmp_path / "times"
    times.write_text("x" * failures)
    fn = partial(tasks.fails, log=str(log), times=str(times))
    if failures <= 2:
        assert torch.equal(run(fn, folder)["roots"], EXPECTED)
    else:
        with pytest.raises(JobError, match=r"Unit 3 \(rows 12 to 15: .*ValueError: 13 is unlucky") as error:
            run(fn, folder)
        assert error.value.failed == {3: "ValueError: 13 is unlucky"} and error.value.missing == [3]
        assert any("in fails" in note for note in error.value.__notes__)
    assert counted(log) == Counter(range(UNITS)) + Counter({3: min(failures, 2)})


def test_a_full_disk_ends_the_job_and_leaves_whole_units_only(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as if there were no more room on the disk
    try:
        with pytest.raises(JobError, match=r"Unit 3 .*OSError: \[Errno \d+\] .*unit-000003") as error:
            run(tasks.grows, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(unit_files(tmp_path)) == 3 and error.value.missing == [3, 4, 5, 6, 7]
    assert {file.name for file in tmp_path.iterdir()} == {"job.json", *(file.name for file in unit_files(tmp_path))}
    assert len(run(tasks.grows, tmp_path)["large"]) == 7 * 10 + 10_000


@pytest.mark.parametrize("what", ["truncated", "empty", "of another job", "another unit", "another file", "of no job",
                                  "without a digest"])  # fmt: skip
def test_a_file_that_is_not_the_unit_is_noticed_and_made_again(tmp_path: Path, what: str):
    log, folder = tmp_path / "log", tmp_path / "job"
    fn = partial(tasks.square_roots, log=str(log))
    run(fn, folder)
    file = unit_files(folder)[5]
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-3])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "another unit":
        shutil.copy(unit_files(folder)[4], file)
    elif what == "another file":
        file.write_text("not a safetensors file, but long enough to have a header")
    elif what == "without a digest":
        tensors, about = load_tensors(file, "interp.jobs.unit")
        del about["digest"]
        save_tensors(file, "interp.jobs.unit", tensors, about)
    elif what == "of no job":
        save_tensors(file, "interp.other", {"roots": torch.zeros(3)}, {})
    else:
        run(tasks.square_roots, tmp_path / "other", rows=list(range(1, 31)))
        shutil.copy(unit_files(tmp_path / "other")[5], file)
    assert list(jobs.JobFolder.at(folder).status().bad) == [5]
    with pytest.warns(UserWarning, match="unit-000005.safetensors .* unit 5 has to be computed again"):
        assert torch.equal(run(fn, folder)["roots"], EXPECTED)
    assert counted(log) == Counter(range(UNITS)) + Counter([5])


def test_a_unit_whose_content_was_changed_is_not_used(tmp_path: Path):
    run(tasks.square_roots, tmp_path)
    file = unit_files(tmp_path)[5]
    tensors, about = load_tensors(file, "interp.jobs.unit")
    save_tensors(file, "interp.jobs.unit", {"roots": tensors["roots"] + 1}, about)
    with pytest.raises(CheckpointError, match=r"unit-000005\.safetensors does not hold what was written"):
        run(tasks.square_roots, tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fn": tasks.cubes}, "function"),
        ({"rows": [*ROWS[:-1], 31]}, "rows"),
        ({"rows": [*ROWS, 31]}, "rows"),
        ({"rows": list(range(40))}, "number of units"),
        ({"unit": 5}, r"unit \(4 there, 5 here\)"),
        ({"threads": 2}, r"threads \(1 there, 2 here\)"),
        ({"model": HookedTransformer({"n_layers": 0, "d_model": 4, "n_ctx": 3, "d_head": 4, "n_heads": 1, "d_vocab": 5,
                                      "attn_only": True})}, "model"),
    ],
)  # fmt: skip
def test_another_job_in_the_folder_is_refused_and_what_differs_is_named(
    tmp_path: Path, change: dict[str, Any], named: str
):
    asked = {"fn": tasks.square_roots, "rows": ROWS, "unit": 4, "folder": tmp_path, "progress": False}
    jobs.map(**asked)
    before = [file.read_bytes() for file in unit_files(tmp_path)]
    with pytest.raises(CheckpointError, match=f"differs in:.*{named}"):
        jobs.map(**(asked | change))
    assert [file.read_bytes() for file in unit_files(tmp_path)] == before


def test_another_version_is_refused_by_name(tmp_path: Path):
    run(tasks.square_roots, tmp_path)
    manifest = tmp_path / "job.json"
    about = json.loads(manifest.read_text())
    ours = about["specification"]["interp"]
    manifest.write_text(json.dumps(about | {"specification": about["specification"] | {"interp": "0.0.7"}}))
    with pytest.raises(CheckpointError, match=f"interp \\('0.0.7' there, '{ours}' here\\)"):
        run(tasks.square_roots, tmp_path)
    for broken, message in ((about | {"format": 9}, "format 9; this version reads 1"), ({}, "cannot be read")):
        manifest.write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=message):
            run(tasks.square_roots, tmp_path)
    for broken in ([], {"specification": []}, {"n_units": "8"}):
        manifest.write_text(json.dumps(broken and about | broken))
        with pytest.raises(CheckpointError, match=r"job\.json cannot be read as a job"):
            run(tasks.square_roots, tmp_path)
    manifest.write_text("{")
    with pytest.raises(CheckpointError, match=r"job\.json cannot be read as a job"):
        run(tasks.square_roots, tmp_path)
    with pytest.raises(CheckpointError, match="is no folder of a job"):
        jobs.JobFolder.at(tmp_path / "nowhere")


def test_units_of_other_software_are_told(tmp_path: Path):
    run(tasks.square_roots, tmp_path)
    file = unit_files(tmp_path)[1]
    tensors, about = load_tensors(file, "interp.jobs.unit")
    save_tensors(file, "interp.jobs.unit", tensors, about | {"made_with": "torch 1.0, an abacus"})
    with pytest.warns(UserWarning, match="is mixed.*7 units with interp.*1 units with torch 1.0, an abacus"):
        run(tasks.square_roots, tmp_path)


@pytest.mark.usefixtures("as_installed")
def test_functions_that_other_processes_would_not_find_are_refused_before_any_work(tmp_path: Path):
    def inside(part: list[int]) -> dict[str, Any]:
        return {}

    functions: list[Any] = [lambda part: {}, inside, partial(tasks.square_roots, log=inside)]  # pyright: ignore[reportArgumentType]
    for fn in functions:
        with pytest.raises(ConfigError, match="takes no lambda, no function that stands inside another"):
            run(fn, tmp_path / "job")
    assert not (tmp_path / "job").exists()


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers = 0; allowed: 1 or more"),
        ({"workers": "two"}, "workers = 'two'"),
        ({"threads": 0}, "threads = 0"),
        ({"retries": -1}, "retries = -1"),
        ({"unit": 0}, "unit = 0"),
        ({"folder": 3}, "folder = 3; allowed: a path, or None"),
        ({"folder": ""}, "folder = ''; allowed: a path, or None"),
        ({"workers": jobs.part(1, 2)}, "part 1 of 2 needs folder="),
        ({"worker": 2}, "unknown argument 'worker'.*did you mean workers="),
        ({"rows": []}, "there are no rows"),
        ({"rows": 3}, "a sequence of rows"),
        ({"fn": 3}, "a function"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        jobs.map(**({"fn": tasks.square_roots, "rows": ROWS} | options))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("i", "n"), [(0, 3), (4, 3), (1, 0), ("1", 2)])
def test_a_part_that_there_is_not_is_refused(i: Any, n: Any):
    with pytest.raises(ConfigError, match="allowed: 1"):
        jobs.part(i, n)


def test_a_specification_takes_numbers_of_numpy_and_no_objects(tmp_path: Path):
    given: Any = {"number": np.int64(3), "share": np.float32(0.5)}
    assert jobs.JobFolder(tmp_path, given, 1).key == jobs.JobFolder(tmp_path, {"number": 3, "share": 0.5}, 1).key
    with pytest.raises(TypeError, match=r"specification has <object object.*no JSON value"):
        jobs.JobFolder(tmp_path, {"thing": object()}, 1)


def test_what_no_file_can_hold_is_named():
    with pytest.raises(JobError, match=r"returned 'what' = <object object.*; allowed: tensors, arrays and"):
        run(tasks.returns_an_object)


def test_the_workers_of_a_part_are_given_up_after_as_many_deaths_as_the_call_allows():
    for retries in (0, 5):
        engine = engine_of(jobs.part(2, 3, workers=2), retries)
        assert isinstance(engine, Part) and engine.engine == Workers(2, retries)


def test_a_folder_says_by_which_names_people_know_its_parts_and_these_decide_nothing(tmp_path: Path):
    run(tasks.square_roots, tmp_path)
    job = jobs.JobFolder.at(tmp_path)
    assert job.called == {"function": "square_roots", "rows": "[0, 1, 2, 3, ...]"}
    manifest = tmp_path / "job.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(about | {"called": {"function": "another name"}}))
    assert torch.equal(run(tasks.square_roots, tmp_path)["roots"], EXPECTED)
    manifest.write_text(json.dumps({name: value for name, value in about.items() if name != "called"}))
    assert jobs.JobFolder.at(tmp_path).called == {}
