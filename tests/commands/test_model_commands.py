"""`interp attention`, `heads` and `patch`, as a user runs them: on a saved checkpoint, and on a real model."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from running import asks_nothing, refusal, rows, run
from typer.testing import CliRunner

from circuits.gallery.induction import induction_model
from interp import ConfigError, HookedTransformer, TransformerConfig, Vocabulary
from interp.checkpoints import fetch
from interp.commands.cli import app, main
from interp.commands.sweeps import table_of
from interp.heads import head_scores, score_table
from interp.metrics.kinds import Logit, LogitDifference
from interp.patching.sweeps import sweep

CLEAN, CORRUPTED = "!abacb", "!acacb"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "ein Modell für Köpfe"
    induction_model("!abc", n_ctx=16).save_pretrained(folder)
    return str(folder)


def meta_of(page: Path) -> dict[str, Any]:
    """What an explorer's page tells its script."""
    return json.loads(page.read_text("utf-8").split('<script type="application/json">')[1].split("</script>")[0])


# ---------------------------------------------------------------------- attention


def test_attention_writes_the_explorer_of_the_text(checkpoint: str, tmp_path: Path):
    out = tmp_path / "neue Köpfe" / "page.html"
    done = run("attention", "--model", checkpoint, "--text", CLEAN, "--out", str(out), "--quiet")
    assert done.exit_code == 0
    assert "2 layers x 1 head over 6 tokens" in done.output
    assert f"Attention of {checkpoint} on “{CLEAN}”" in done.output
    assert f"<title>Attention of {checkpoint} on “{CLEAN}”</title>" in out.read_text(encoding="utf-8")
    assert meta_of(out)["kind"] == 0 and meta_of(out)["notes"] == []
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>") and asks_nothing(out)


def test_badges_and_a_logit_difference_are_shown_when_asked_for(checkpoint: str, tmp_path: Path):
    out = tmp_path / "page.html"
    options = ["--scores", "--correct", "a", "--incorrect", "b", "--out", str(out)]
    done = run("attention", "--model", checkpoint, "--text", CLEAN, *options)
    assert "induction: L1H0 " in done.output
    assert "previous_token: L0H0 1.00" in done.output
    meta = meta_of(out)
    assert meta["stacks"][0]["answer"] == "logit “a” \u2212 logit “b”"
    assert meta["notes"] == ["Scores: of 16 random-repeat prompts, not of this text."]
    assert meta["kind"] == 2  # the contributions are what was asked for


# ---------------------------------------------------------------------- heads


def test_heads_prints_the_best_by_the_score_asked_for(checkpoint: str, tmp_path: Path):
    done = run("heads", "--model", checkpoint, "--sort", "previous_token", "--top-k", "1")
    assert [row[:2] for row in rows(done.output)] == [["L0H0", "1.000"]]
    assert list(tmp_path.iterdir()) == []


def test_heads_says_what_its_columns_are_and_where_the_sorting_one_is_from(checkpoint: str):
    of_patterns = run("heads", "--model", checkpoint, "--sort", "induction").output
    assert "Heads by induction, on 16 prompts of random repeats" in of_patterns
    header = next(line for line in of_patterns.splitlines() if "head " in line)
    assert "±" in header and "entry mean" not in header
    lines = [line.partition(": ")[0] for line in of_patterns.splitlines() if ": " in line]
    assert lines[:3] == ["induction", "previous token", "duplicate token"]
    assert {"±", "copying", "copying top"} < set(lines)
    assert "induction entry mean: as induction" in of_patterns

    of_weights = run("heads", "--model", checkpoint, "--sort", "copying").output
    assert "Heads by copying, read off the weights" in of_weights and "±" not in of_weights
    assert "Patterns are scored on 16 prompts of random repeats; copying and copying top are read off the" in of_weights


def test_the_mean_of_entries_is_a_column_where_it_says_something_of_its_own(checkpoint: str):
    for options in (["--text", "!abababab"], ["--sort", "induction_entry_mean"]):
        done = run("heads", "--model", checkpoint, *options)
        assert "entry mean" in next(line for line in done.output.splitlines() if "head " in line)
        assert "as induction" not in done.output


def test_heads_scores_a_given_text(checkpoint: str):
    done = run("heads", "--model", checkpoint, "--text", "!abcabc")
    assert "on '!abcabc'" in done.output
    assert rows(done.output)[0][:2] == ["L1H0", "1.000"]
    unrepeated = run("heads", "--model", checkpoint, "--text", "!abc", "--sort", "previous_token")
    assert "induction is undefined everywhere: no prompt has a token that occurs twice" in unrepeated.output


def test_heads_says_what_a_text_of_one_token_leaves_undefined(checkpoint: str):
    done = run("heads", "--model", checkpoint, "--text", "!")
    assert done.exit_code == 0
    assert "previous_token is undefined everywhere: no prompt has two tokens" in done.output
    assert "copying is undefined for L0H0: " in done.output
    assert {cell for row in rows(done.output) for cell in row[1:-2]} == {"-"}


def test_patch_takes_every_site_that_it_says_is_allowed(checkpoint: str, tmp_path: Path):
    prompts = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b", "--out", str(tmp_path / "x.html")]
    refused = CliRunner().invoke(app, ["patch", "--model", checkpoint, *prompts, "--site", "no"]).exception
    for site in str(refused).split("allowed: ")[1].split("; ")[0].split(", "):
        done = run("patch", "--model", checkpoint, *prompts, "--over", "layer", "--site", site)
        assert done.exit_code == 0, site


def test_a_model_that_looks_both_ways_is_shown_and_scored_by_what_is_defined_there(tmp_path: Path):
    cfg = TransformerConfig(n_layers=1, n_heads=2, d_model=8, n_ctx=16, d_vocab=4, attention_dir="bidirectional")
    HookedTransformer(cfg, Vocabulary("!abc", bos="!")).save_pretrained(tmp_path / "model")
    out, model = tmp_path / "page.html", str(tmp_path / "model")
    done = run("attention", "--model", model, "--text", CLEAN, "--scores", "--out", str(out))
    assert "last_token: L0H" in done.output and "induction" not in done.output
    assert meta_of(out)["stacks"][0]["name"] == "encoder"
    scored = run("heads", "--model", model, "--sort", "next_token")
    assert scored.exit_code == 0 and "next token: mean attention to the position after" in scored.output
    by_default = run("heads", "--model", model)
    assert by_default.exit_code == 0 and "Heads by previous token" in by_default.output
    refused = CliRunner().invoke(app, ["heads", "--model", model, "--sort", "induction"]).exception
    assert isinstance(refused, ConfigError) and "--sort 'induction': not defined where attention is bidir" in str(
        refused
    )


def test_heads_writes_a_map_for_every_score(checkpoint: str, tmp_path: Path):
    out = tmp_path / "heads.html"
    assert run("heads", "--model", checkpoint, "--out", str(out)).exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert page.count('<figure class="panel') == 8  # the table and seven scores
    assert "Largest: L1H0." in page and asks_nothing(out)
    assert "Top heads by induction" in page and "The first 2 of 2 heads." in page
    assert len(page) < 300_000
    assert run("heads", "--model", checkpoint, "--plotly", "--out", str(out)).exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert page.count('class="plotly-graph-div"') == 8 and asks_nothing(out)


# ---------------------------------------------------------------------- patch


def test_patch_prints_the_places_that_change_most(checkpoint: str, tmp_path: Path):
    out = tmp_path / "patch.html"
    prompts = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b", "--incorrect", "a"]
    done = run("patch", "--model", checkpoint, *prompts, "--top-k", "2", "--out", str(out))
    assert done.exit_code == 0
    result = sweep(
        HookedTransformer.from_pretrained(checkpoint), CORRUPTED, CLEAN, LogitDifference("b", "a"), progress=False
    )
    changes = abs(result - result.attrs["baseline"])
    first = changes.stack(place=("layer", "pos")).idxmax().item()
    shown = rows(done.output)
    assert len(shown) == 2
    assert "corrupted token" in done.output
    assert [int(cell) for cell in shown[0][:2]] == list(first)
    assert shown[0][2] == str(result["token"][first[1]].item())
    assert float(shown[0][4]) == pytest.approx(float((result - result.attrs["baseline"])[first]), abs=6e-4)
    assert abs(float(shown[0][4])) >= abs(float(shown[1][4]))
    page = out.read_text(encoding="utf-8")
    assert page.count('<figure class="panel') == 1 and asks_nothing(out)


def test_a_change_that_rounds_to_zero_is_shown_without_a_minus():
    attrs = {"site": "z", "baseline": 1.0, "target": 2.0, "direction": "denoising"}
    result = xarray.DataArray([1.0 - 1e-6], dims=["layer"], coords={"layer": [0]}, attrs=attrs)
    shown = [next(iter(column.cells)) for column in table_of(result, 1).columns]
    assert [str(cell) for cell in shown] == ["0", "1.000", "+0.000", "0%"]


@pytest.mark.parametrize("over", ["layer,pos", "pos,layer,head"])
def test_patch_prints_one_place_a_position_and_says_whose_tokens_these_are(over: str, checkpoint: str, tmp_path: Path):
    prompts = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b", "--direction", "noising", "--site", "z"]
    done = run("patch", "--model", checkpoint, *prompts, "--over", over, "--out", str(tmp_path / "x.html"))
    axes = over.split(",")
    model = HookedTransformer.from_pretrained(checkpoint)
    granularities: Any = axes
    result = sweep(model, CORRUPTED, CLEAN, Logit("b"), "z", granularities, direction="noising", progress=False)
    changes = abs(result - result.attrs["baseline"])
    best = changes.max([axis for axis in axes if axis != "pos"]).to_numpy()
    shown = rows(done.output)
    at = axes.index("pos")
    assert sorted(int(row[at]) for row in shown) == list(range(len(CLEAN)))
    got = {int(row[at]): abs(float(row[-2])) for row in shown}
    np.testing.assert_allclose([got[i] for i in range(len(CLEAN))], best, atol=6e-4)
    assert [row[len(axes)] for row in shown] == [CLEAN[int(row[at])] for row in shown]
    assert "clean token" in done.output and "corrupted token" not in done.output


@pytest.mark.parametrize(
    ("options", "figures"),
    [
        (["--site", "z", "--over", "layer,head"], 1),
        (["--site", "z", "--over", "layer, pos, head", "--direction", "noising"], 1),
        (["--site", "pattern", "--over", "layer,pos"], 1),
    ],
)
def test_patch_takes_any_site_over_any_axes(options: list[str], figures: int, checkpoint: str, tmp_path: Path):
    out = tmp_path / "patch.html"
    prompts = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b"]
    done = run("patch", "--model", checkpoint, *prompts, *options, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8").count('<figure class="panel') == figures


# ---------------------------------------------------------------------- what all share


PATCH = ["patch", "--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b", "--out", "x.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention"], "give --text; of an encoder with a decoder, --source"),
        (["attention", "--text", "!abx"], "unknown word 'x' at place 3"),
        (["attention", "--text", ""], "an empty sequence"),
        (["attention", "--text", "!" + 8 * "ab"], "longer than the context, n_ctx = 16"),
        (["heads", "--text", ""], "an empty sequence"),
        (["heads", "--text", "!" + 8 * "ab"], "longer than the context, n_ctx = 16"),
        ([*PATCH, "--clean", "", "--corrupted", "a"], "an empty sequence"),
        ([*PATCH, "--correct", "ab"], "'ab' is 2 tokens"),
        ([*PATCH, "--correct", ""], "'' is 0 tokens"),
        (["attention", "--text", "!ab", "--incorrect", "a"], "--incorrect goes with --correct"),
        (["attention", "--text", "!ab", "--correct", "a", "--incorrect", "x"], "'x'"),
        (["attention", "--text", "!ab", "--out", "/dev/null/x.html"], "cannot write"),
        (["attention", "--text", "!ab", "--out", "."], "cannot write: Is a directory"),
        (["attention", "--text", "!ab", "--scroes"], "No such option: --scroes"),
        (["heads", "--sort", "inductoin"], "did you mean 'induction'"),
        (["heads", "--top-k", "0"], "--top-k"),
        ([*PATCH, "--direction", "denoise"], "did you mean 'denoising'"),
        ([*PATCH, "--over", "layer,tokens"], "--over 'tokens'"),
        ([*PATCH, "--site", "resid_per"], "did you mean 'resid_pre'"),
        ([*PATCH, "--site", "scale"], "--site 'scale'; allowed: "),
        ([*PATCH, "--site", "embed"], "--site 'embed'; allowed: resid_pre, "),
        ([*PATCH, "--incorrect", "ab"], "'ab'"),
        ([*PATCH, "--corrupted", "!ab"], "positions must correspond"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(
    arguments: list[str],
    message: str,
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_installed: None,
):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, monkeypatch, [*arguments, "--model", checkpoint])
    assert line.startswith("interp: ") and message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["attention", "--text", "!ab", "--correct", "a", "--incorrect", "a"],
            "--correct and --incorrect are both 'a'",
        ),
        (["attention", "--text", "!ab", "--out", ""], "cannot write: Is a directory: '.'"),
        (["heads", "--top-k", "-1"], "--top-k"),
        (["heads", "--sort", "nothing like it"], "--sort 'nothing like it'; allowed: "),
        ([*PATCH, "--incorrect", "b"], "--correct and --incorrect are both 'b'"),
        ([*PATCH, "--corrupted", CLEAN], f"--clean and --corrupted are both {CLEAN!r}"),
        ([*PATCH, "--over", "head"], "--over 'head'; allowed: layer, and at most once each"),
        ([*PATCH, "--over", "layer,layer"], "--over 'layer,layer'"),
        ([*PATCH, "--over", ""], "--over ''"),
        ([*PATCH, "--top-k", "0"], "--top-k"),
        (["fetch", "smolm2"], "did you mean 'smollm2'"),
        (["fetch", ""], "no model ''"),
    ],
)
def test_what_can_be_known_without_a_model_is_said_before_one_is_loaded(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HookedTransformer, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    assert message in refusal(capsys, monkeypatch, arguments)
    assert list(tmp_path.iterdir()) == []


def a_file(path: Path, held: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(held)
    return path


NO_CHECKPOINTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an empty folder": (lambda folder: folder, "has no config.json; it is no folder of a checkpoint"),
    "an empty config": (lambda folder: a_file(folder / "config.json", b"").parent, "config.json cannot be read as"),
    "a config alone": (
        lambda folder: a_file(folder / "config.json", b'{"model_type": "gpt2"}').parent,
        "neither model.safetensors nor",
    ),
    "a folder of GGUF files": (
        lambda folder: a_file(folder / "a.gguf", b"GGUF").parent,
        "for a .gguf file give its own path, such as ",
    ),
    "a GGUF file cut short": (lambda folder: a_file(folder / "a.gguf", b"GGUF\x03\0\0\0\1"), "the file is cut short"),
    "another file with its name": (lambda folder: a_file(folder / "a.gguf", b"hello"), "is not a GGUF file"),
    "another file": (lambda folder: a_file(folder / "a.txt", b"hello"), "a.txt is a file; give the folder"),
}


@pytest.mark.parametrize("what", NO_CHECKPOINTS)
def test_what_is_here_but_no_checkpoint_is_one_line_about_it_and_no_other_model(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make, message = NO_CHECKPOINTS[what]
    line = refusal(capsys, monkeypatch, ["heads", "--model", str(make(tmp_path))])
    assert message in line and "interp fetch" not in line


def in_a_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from interp.commands import main; main()", *arguments]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize(("name", "said"), [("smolm2", "did you mean 'smollm2"), ("me/mine", "`interp fetch smollm2`")])
def test_a_name_on_the_hub_without_a_network_is_one_line(name: str, said: str, tmp_path: Path):
    done = in_a_process("heads", "--model", name, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"interp: {name!r} is no local folder") and said in line
    assert len(line) < 200 and "snapshot" not in line


def test_a_page_goes_where_a_tilde_points(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("attention", "--model", checkpoint, "--text", CLEAN, "--out=~/page.html", "--quiet").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_interrupting_a_sweep_ends_it_with_one_line_and_no_page(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("interp.patching.sweep", interrupt)
    monkeypatch.setattr(sys, "argv", ["interp", *PATCH, "--model", checkpoint])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr().err.splitlines() == ["interp: interrupted"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end in another way")
def test_a_reader_that_leaves_early_ends_the_run_in_silence(checkpoint: str):
    code = "from interp.commands import main; main()"
    command = [sys.executable, "-c", code, "heads", "--model", checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


@pytest.mark.parametrize("command", [["attention", "--text", "a"], ["heads"], PATCH])
@pytest.mark.parametrize("name", ["./no/such/folder", "smollm2", "smollm2-135m-instruct"])
def test_a_model_that_is_not_there_says_what_to_fetch(
    command: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "cache_folder", lambda: tmp_path / "cache")
    assert "interp fetch smollm2" in refusal(capsys, monkeypatch, [*command, "--model", name])


@pytest.mark.parametrize("command", ["attention", "heads", "patch", "circuit", "fetch"])
def test_every_command_has_help_with_an_example_and_can_be_quiet(command: str):
    assert re.search(rf"^│ {command} ", run("--help").output, re.MULTILINE)
    text = " ".join(run(command, "--help").output.split())
    assert f"Example: interp {command}" in text and "--quiet" in text


def test_the_help_of_fetch_names_every_model_that_there_is():
    text = " ".join(run("fetch", "--help").output.split())
    for word, model in fetch.MODELS.items():
        assert f"{word}: {model.about}; {model.size / 1e6:.0f} MB" in text and model.name in text


@pytest.mark.parametrize("command", [["attention"], ["heads"], ["circuits", "verify"], []])
def test_no_flag_looks_as_if_it_took_a_value(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["interp", *command, "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "--help" in shown and not re.search("<bool>|BOOLEAN", shown)


def test_an_unknown_command_is_told_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert "'headz'" in refusal(capsys, monkeypatch, ["headz"])


def test_the_command_line_imports_nothing_heavy():
    heavy = ("plotly", "xarray", "networkx", "pandas")
    code = f"import interp.commands, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_three_commands_read_a_real_model(smollm2: HookedTransformer, tmp_path: Path):
    model = smollm2
    text = "When Mary and John went to the store, John gave a drink to"
    other = "When Mary and John went to the store, Mary gave a drink to"
    page = tmp_path / "page.html"
    done = run("attention", "--text", text, "--correct", " Mary", "--incorrect", " John", "--out", str(page), "--quiet")
    assert "30 layers x 9 heads over 14 tokens" in done.output and asks_nothing(page)

    best = score_table(head_scores(model, text, progress=False), "induction", top_k=2)
    done = run("heads", "--model", "smollm2", "--text", text, "--top-k", "2", "--quiet")
    assert [row[0] for row in rows(done.output)] == list(best.index)

    prompts = ["--clean", text, "--corrupted", other, "--correct", " Mary", "--incorrect", " John"]
    done = run(
        "patch", *prompts, "--over", "layer", "--site", "attn_out", "--top-k", "1", "--out", str(page), "--quiet"
    )
    result = sweep(model, other, text, LogitDifference(" Mary", " John"), "attn_out", ("layer",), progress=False)
    strongest = int(abs(result - result.attrs["baseline"]).to_numpy().argmax())
    assert rows(done.output)[0][0] == str(strongest)
    assert "·" not in rows(done.output)[0] and asks_nothing(page)
