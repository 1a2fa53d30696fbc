"""`interp sweep`, `interp harvest` and `interp jobs`: a job as a user runs it, in parts, interrupted, and looked at."""

import inspect
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from letters import as_csv, as_jsonl, save_letters
from running import asks_nothing, refusal, rows, run

from interp import ConfigError, HookedTransformer
from interp.commands.cli import main
from interp.commands.harvest import harvest as harvest_command
from interp.commands.working import engine_of
from interp.data import PromptPairs, Texts
from interp.files import atomic_path
from interp.harvest import Store, harvest
from interp.indices import ranges
from interp.jobs import JobFolder, part
from interp.metrics import KLDivergence
from interp.patching import sweep_dataset

QUIET: Any = {"progress": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_letters(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asked(checkpoint: str, here: Path) -> list[str]:
    """A sweep of four pairs in two units."""
    options = ["--site", "z", "--over", "layer,head", "--unit", "2", "--quiet"]
    return ["sweep", "--model", checkpoint, "--pairs", as_csv(here / "pairs.csv"), "--folder", "job", *options]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("unit-*")}


# ---------------------------------------------------------------------- sweep


def test_a_sweep_prints_its_ends_and_its_places_with_intervals_and_writes_a_page(asked: list[str], here: Path):
    done = run(*asked, "--top-k", "3", "--out", "new/z.html")
    assert done.exit_code == 0, done.output
    pairs = PromptPairs.read(here / "pairs.csv")
    result = sweep_dataset(asked[2], pairs, site="z", over=("layer", "head"), unit=2, **QUIET)
    about = result.attrs
    first, *_ = done.output.splitlines()
    assert first.startswith("logit difference of each prompt's answers, as 'a' - ")
    assert f"{about['baseline']:.3f} on the corrupted prompts, {about['target']:.3f} on the clean ones" in first
    assert first.endswith("means over 4")
    change = (result - about["baseline"]).stack(place=("layer", "head"))
    order = abs(change).argsort().to_numpy()[::-1][:3]
    for row, place in zip(rows(done.output), order, strict=True):
        layer, head = change["place"].to_numpy()[place]
        cell = result.sel(layer=layer, head=head)
        low, high = float(cell.ci_low), float(cell.ci_high)
        assert row[:4] == [str(layer), str(head), f"{float(cell):z.3f}", f"{low:z.3f} to {high:z.3f}"]
        assert row[4] == f"{float(cell) - about['baseline']:+z.3f}"
    page = here / "new" / "z.html"
    assert asks_nothing(page) and "4 pairs of prompts: " in page.read_text("utf-8")
    assert "Wrote new/z.html" in done.output and len(files(here / "job")) == 2


def test_the_same_command_goes_on_and_computes_nothing_twice(
    asked: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run(*asked)
    (here / "job" / "unit-000001.safetensors").unlink()
    before = files(here / "job")
    computed: list[int] = []
    compute = JobFolder.write
    monkeypatch.setattr(JobFolder, "write", lambda job, unit, *rest: (computed.append(unit), compute(job, unit, *rest)))
    assert run(*asked).output == whole.output and computed == [1]
    assert run(*asked).output == whole.output and computed == [1]
    assert before.items() <= files(here / "job").items()


def test_parts_compute_their_share_and_the_last_one_shows_the_result(asked: list[str], here: Path):
    whole = run(*asked)
    in_parts = [*asked[:6], "parts", *asked[7:], "--out", "z.html"]
    first = run(*in_parts, "--part", "2/3")
    assert first.exit_code == 0
    assert first.output == ("Part 2/3 is done. Left to other parts: 1 of 2 units (0). When they are done, the same "
                            "command shows the result.\n")  # fmt: skip
    assert list(files(here / "parts")) == ["unit-000001.safetensors"] and not (here / "z.html").exists()
    assert run(*in_parts, "--part", "3/3").output.startswith(
        "Part 3/3 is done. Left to other parts: 1 of"
    )  # it has none
    last = run(*in_parts, "--part", "1/3")
    assert last.output == whole.output + "Wrote z.html: the whole sweep; it opens offline.\n"
    results = [[*JobFolder.at(folder).results()] for folder in ("job", "parts")]
    for one, other in zip(*results, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_workers_and_parts_are_engines():
    assert engine_of(3, None) == 3 and engine_of(1, "1/1") == part(1, 1) and engine_of(2, "3/4") == part(3, 4, 2)


def test_other_questions_are_asked_of_the_same_pairs(asked: list[str], here: Path):
    pairs = PromptPairs.read(here / "pairs.csv")
    for options, keywords in (
        (["--divergence"], {"metric": KLDivergence()}),
        (["--direction", "noising"], {"direction": "noising"}),
        (["--over", "pos,layer", "--site", "resid_pre"], {"over": ("pos", "layer"), "site": "resid_pre"}),
        (["--pairs", as_jsonl(here / "first.jsonl")], {}),
    ):
        done = run(*asked, *options, "--folder", "-".join(options[0]).strip("-"))
        given: dict[str, Any] = {"site": "z", "over": ("layer", "head")} | keywords
        result = sweep_dataset(asked[2], pairs, unit=2, **given, **QUIET)
        first, *_ = done.output.splitlines()
        assert first.startswith(result.attrs["metric"]) and f": {result.attrs['baseline']:.3f} on the" in first
        place = abs(result - result.attrs["baseline"]).argmax(...)
        best = [float(row[-4]) for row in rows(done.output)]
        assert min(abs(one - float(result[place])) for one in best) < 6e-4, options
        if "pos" in given["over"]:
            assert "corrupted token" in done.output


def test_a_unit_that_fails_ends_the_command_also_where_it_is_one_of_a_part(
    asked: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: object) -> None:
        raise ConfigError("out of luck")

    monkeypatch.setattr("interp.patching.datasets.SweepWork.measure", broken)
    for options in ([], ["--part", "2/2"]):
        line = refusal(capsys, monkeypatch, [*asked, *options])
        assert "of 2 units failed. Unit" in line and "ConfigError: out of luck" in line and "pairs " in line


# ---------------------------------------------------------------------- harvest


@pytest.fixture
def kept(checkpoint: str, here: Path) -> list[str]:
    """A harvest of two files in three units."""
    (here / "a.txt").write_text("a b c d " * 3)
    (here / "b.jsonl").write_text('{"text": "b b a"}\n\n{"text": "d c"}\n')
    options = ["--texts", "a.txt", "--texts", "b.jsonl", "--n-ctx", "6", "--unit-tokens", "6", "--folder", "store"]
    return ["harvest", "--model", checkpoint, *options, "--site", "resid_post:-1", "--site", "*hook_z"]


def test_a_harvest_says_its_size_before_it_starts_and_keeps_what_the_function_keeps(
    kept: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
):
    done = run(*kept, "--dtype", "float32")
    mine = Store.open(here / "store")
    model = HookedTransformer.from_pretrained(kept[2])
    options: dict[str, Any] = {"dtype": "float32", "n_ctx": 6, "unit_tokens": 6, "folder": here / "theirs"}
    sites: list[Any] = [("resid_post", 1), "*hook_z"]
    theirs = harvest(model, Texts.read(["a.txt", "b.jsonl"]), sites, **options, **QUIET)
    assert mine.sites == theirs.sites and len(mine) == len(theirs) == 17
    assert all((mine[site].numpy() == theirs[site].numpy()).all() for site in mine.sites)
    assert (
        done.stderr.startswith("harvesting 17 tokens at 3 sites into store: ")
        and " MB in float32, 3 units" in done.stderr
    )
    assert done.stdout == (
        "17 tokens, each with\n  blocks.0.attn.hook_z [2, 6]\n  blocks.1.attn.hook_z [2, 6]\n"
        "  blocks.1.hook_resid_post [12]\nWrote store, for interp.harvest.Store.open.\n"
    )
    assert run("jobs", "check", "store").exit_code == 0

    def never(*_: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr(HookedTransformer, "run_with_cache", never)
    again = run(*kept, "--dtype", "float32", "--quiet")
    assert again.stdout == done.stdout and again.stderr == ""


def test_a_harvest_is_done_in_parts_too(kept: list[str], here: Path):
    first = run(*kept, "--one-a-row", "--part", "2/2", "--quiet")
    assert first.exit_code == 0 and first.output.startswith("Part 2/2 is done. Left to other parts: ")
    assert run("jobs", "status", "store").exit_code == 1
    last = run(*kept, "--one-a-row", "--part", "1/2", "--quiet")
    assert last.output.startswith("17 tokens, each with\n") and run("jobs", "status", "store").exit_code == 0
    assert (Store.open("store").pos.numpy() == 0).sum() == 4  # two rows of the first text, one of each other


def test_units_of_a_harvest_are_as_large_as_the_functions():
    defaults = [inspect.signature(one).parameters for one in (harvest, harvest_command)]
    for name in ("dtype", "n_ctx", "packed", "unit_tokens"):
        assert defaults[0][name].default == defaults[1][name].default


def test_what_a_harvest_refuses_is_one_line(
    kept: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    other_column = [*kept, "--column", "txt"]
    for arguments, said in (
        ([*kept[:-4], "--site", "resid_post"], "--site 'resid_post' is in every layer: say 'resid_post:0' for"),
        ([*kept[:-4], "--site", "resid_pst:1"], "--site 'resid_pst:1' names nothing in layer 1; did you mean 'resid_"),
        ([*kept[:-4], "--site", "pattern:0"], "a harvest keeps a row for each token"),
        ([*kept[:-4], "--site", "z:7"], "--site 'z:7': layer = 7; allowed: -2 to 1"),
        (other_column, "b.jsonl, line 1: "),
    ):
        assert said in refusal(capsys, monkeypatch, arguments), arguments[-1]
    monkeypatch.setattr(HookedTransformer, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for options, said in (
        (["--dtype", "float61"], "--dtype 'float61'; allowed: float16, bfloat16, float32; did you mean 'float16'"),
        (["--texts", "nothing.txt"], "nothing.txt"),
        (["--part", "0/1"], "--part '0/1'"),
        (["--folder", "a.txt"], "cannot write: Not a directory"),
    ):
        assert said in refusal(capsys, monkeypatch, [*kept, *options]), said
    assert not list(here.glob("store/unit*"))


# ---------------------------------------------------------------------- status and check


def test_status_says_in_a_line_each_what_is_computed_and_what_is_missing(asked: list[str], here: Path):
    run(*asked)
    done = run("jobs", "status", "job")
    assert done.exit_code == 0 and "2 of 2 units are done.\n" in done.output
    lines = done.output.splitlines()
    assert lines[0] == "job computes:" and all(line == line.rstrip() and "\u2502" not in line for line in lines)
    said = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines if line.startswith("  "))
    assert said["site"] == "z" and said["over"] == '["head", "layer"]' and said["layers"] == "0 to 1"
    assert said["pairs a unit"] == "2" and "ablation" not in said
    assert said["model"].startswith("ModelRef(") and said["pairs"].startswith("PromptPairs(")
    assert said["metric"] == "the logit difference of each pair's own answers"
    (software,) = JobFolder.at("job").status().made_with
    assert done.output.endswith(f"2 with {software}\n")
    (here / "job" / "unit-000000.safetensors").unlink()
    less = run("jobs", "status", "job")
    assert less.exit_code == 1 and "1 of 2 units are done. To be computed: 0.\n" in less.output


def test_status_says_what_a_killed_process_left_and_leaves_it(asked: list[str], here: Path):
    run(*asked)
    assert "unfinished" not in run("jobs", "status", "job").output
    with atomic_path(here / "job" / "unit-000001.safetensors") as file:
        file.write_bytes(unit := (here / "job" / "unit-000001.safetensors").read_bytes())
        done = run("jobs", "status", "job")
        assert f"1 unfinished files ({file.name} first)" in " ".join(done.output.split()) and done.exit_code == 0
        assert file.read_bytes() == unit


def test_status_says_that_a_folder_is_mixed(asked: list[str], here: Path):
    run(*asked)
    job = JobFolder.at("job")
    job.write(1, job.result(1), "torch 0.0, another machine")
    done = run("jobs", "status", "job")
    assert "1 with torch 0.0, another machine\n" in done.output and done.exit_code == 0
    assert done.output.endswith("The folder is mixed: its units agree up to rounding only.\n")


def test_check_finds_every_kind_of_damage_and_the_command_repairs_it(asked: list[str], here: Path):
    whole = run(*asked)
    sound = run("jobs", "check", "job")
    assert sound.exit_code == 0 and sound.output == "2 of 2 units are done, and as they were written.\n"
    first, second = (here / "job" / f"unit-00000{unit}.safetensors" for unit in range(2))
    kept = first.read_bytes()
    changed = bytes([*kept[:-1], kept[-1] ^ 1])  # one bit of one number
    other = second.read_bytes()
    for held, said, computed_again in (
        (changed, "does not hold what was written for unit 0 of this job; remove it", False),
        (kept[:-1], "unit-000000.safetensors cannot be read", True),
        (b"", "unit-000000.safetensors cannot be read", True),
        (b"x" * 1000, "unit-000000.safetensors cannot be read", True),
        (other, "unit-000000.safetensors is unit 1", True),
        (None, "To be computed: 0.", True),
    ):
        first.unlink() if held is None else first.write_bytes(held)
        done = run("jobs", "check", "job", "--quiet")
        assert done.exit_code == 1 and said in done.output
        assert "1 of 2 units are done, and as they were written." in done.output
        assert run("jobs", "status", "job").exit_code == computed_again  # it reads descriptions only
        if not computed_again:
            first.unlink()
        with (
            pytest.warns(UserWarning, match="computed again") if computed_again and held is not None else nullcontext()
        ):
            assert run(*asked).output == whole.output
        assert run("jobs", "check", "job").exit_code == 0


def test_ranges_of_units_are_short():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8" and ranges([3]) == "3" and ranges([]) == ""
    assert ranges([*range(0, 40, 2)]) == "0, 2, 4, 6, 8, 10, 12, 14, ..."


# ---------------------------------------------------------------------- interruptions and options


def test_an_interrupted_command_says_what_is_kept_and_goes_on(
    asked: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write = JobFolder.write

    def interrupted(job: JobFolder, unit: int, *rest: Any) -> None:
        if unit == 1:
            raise KeyboardInterrupt
        write(job, unit, *rest)

    def ended(arguments: list[str]) -> list[str]:
        monkeypatch.setattr("sys.argv", ["interp", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 130
        return capsys.readouterr().err.splitlines()

    with monkeypatch.context() as patched:
        patched.setattr(JobFolder, "write", interrupted)
        said = ended(asked)
    assert said == ["1 of 2 units are kept in job; the same command goes on from there.", "interp: interrupted"]
    kept = files(here / "job")
    assert run(*asked).exit_code == 0 and list(kept) == ["unit-000000.safetensors"]
    assert kept.items() < files(here / "job").items()

    def at_once(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # before there is a job, there is nothing to go on from
        patched.setattr(JobFolder, "open", at_once)
        assert ended([*asked, "--folder", "other"]) == ["interp: interrupted"]


def test_a_sweep_takes_threads_and_a_device_and_a_unit_is_as_large_as_the_functions(
    asked: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(*asked, "--threads", "2", "--device", "cpu").exit_code == 0
    assert JobFolder.at("job").specification["threads"] == 2
    for device in ("cdua", "meta", "cuda:99"):
        said = refusal(capsys, monkeypatch, [*asked, "--device", device])
        assert said.startswith(f"interp: --device {device!r}: ") and said.endswith("cpu, cuda, cuda:1 and the like")
    without = [word for word in asked if word not in ("--unit", "2")]
    assert run(*without, "--folder", "other").exit_code == 0
    sweep_dataset(asked[2], PromptPairs.read("pairs.csv"), site="z", over=("layer", "head"), folder="other", **QUIET)


# ---------------------------------------------------------------------- refusals


def test_what_can_be_known_without_a_model_is_said_before_one_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(HookedTransformer, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    (here / "file").write_text("")
    pairs, folder = ["--pairs", "ioi"], ["--folder", "job"]
    refused: dict[str, tuple[list[str], str]] = {
        "no pairs": (folder, "Missing option '--pairs'"),
        "no folder": (pairs, "Missing option '--folder'"),
        "name": (["--pairs", "oi", *folder], "did you mean 'ioi'"),
        "no file": (["--pairs", "x.csv", *folder], "No such file or directory: 'x.csv'"),
        "over": ([*pairs, *folder, "--over", "layer,hed"], "--over 'hed'; allowed: layer, pos, head, neuron; did you"),
        "direction": ([*pairs, *folder, "--direction", "noise"], "did you mean 'noising'"),
        "a file": ([*pairs, "--folder", "file"], "cannot write: Not a directory"),
        "out": ([*pairs, *folder, "--out", "."], "cannot write: Is a directory"),
        "unit": ([*pairs, *folder, "--unit", "0"], "--unit"),
        "workers": ([*pairs, *folder, "--workers", "0"], "--workers"),
        **{
            f"part {given}": ([*pairs, *folder, "--part", given], f"--part {given!r}; allowed: i/n, {allowed}")
            for given, allowed in (("3", "such as 2/8"), ("0/2", "from 1/2 to 2/2"), ("3/2", "from 1/2 to 2/2"),
                                   ("1/0", "such as 2/8"), ("-1/2", "such as 2/8"), ("\u0661/2", "such as 2/8"))
        },
    }  # fmt: skip
    for what, (options, said) in refused.items():
        assert said in refusal(capsys, monkeypatch, ["sweep", *options]), what
    assert [path.name for path in here.iterdir()] == ["file"]


def test_what_a_model_or_a_folder_refuses_is_one_line(
    asked: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "--site 'zz'; allowed: resid_pre" in refusal(capsys, monkeypatch, [*asked, "--site", "zz"])
    assert "ioi, line 1: a sequence of 14 tokens is longer than the context" in refusal(
        capsys, monkeypatch, [*asked, "--pairs", "ioi"]
    )
    assert not (here / "job").exists()
    run(*asked)
    said = refusal(capsys, monkeypatch, [*asked, "--unit", "3"])
    assert "job has another job, which differs in: pairs a unit (2 there, 3 here)" in said
    for command in ("status", "check"):
        assert "is no folder of a job" in refusal(capsys, monkeypatch, ["jobs", command, "nothing"])
    (here / "job" / "job.json").write_text("{")
    assert "job.json cannot be read as a job" in refusal(capsys, monkeypatch, ["jobs", "status", "job"])
