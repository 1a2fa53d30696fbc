"""`interp patch`, `sweep` and `circuit` of a model that predicts masked tokens: `--pos` says where."""

from pathlib import Path

import pytest
from grid import GRID, SEED, build, config
from running import refusal, rows, run

from interp import HookedTransformer, Vocabulary
from interp.data import PromptPairs
from interp.discovery import Subgraph
from interp.metrics import LogitDifference
from interp.patching import sweep

WORDS = ["[PAD]", *"abcdefgh", "[MASK]", "[SEP]"]
CLEAN, CORRUPTED = "a b [MASK] c [SEP]", "a d [MASK] e [SEP]"
PROMPTS = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "f", "--incorrect", "g"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("masked")
    build(config(GRID["modernbert_like"]), SEED, Vocabulary(WORDS, sep=" ")).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pos", ["[MASK]", "2", "-3"])
def test_commands_read_where_they_are_told(pos: str, masked: str, tmp_path: Path):
    model = HookedTransformer.from_pretrained(masked)
    expected = sweep(model, CORRUPTED, CLEAN, LogitDifference("f", "g", pos=2), progress=False)
    pairs = tmp_path / "pairs.jsonl"
    PromptPairs([CLEAN], [CORRUPTED], ["f"], ["g"]).save(pairs)
    ends = f"{expected.attrs['baseline']:.3f} on the corrupted prompt, {expected.attrs['target']:.3f} on the clean one"
    for command in (
        ["patch", *PROMPTS, "--out", str(tmp_path / "x.html")],
        ["sweep", "--pairs", str(pairs), "--folder", str(tmp_path / f"job {pos}")],
    ):
        done = run(*command, "--model", masked, "--pos", pos, "--quiet")
        assert ends in done.output
        place = "'[MASK]'" if pos == "[MASK]" else f"position {pos}"
        assert f"logit difference 'f' - 'g' at {place}: " in done.output
        shown = abs(float(rows(done.output)[0][-2]))
        assert shown == pytest.approx(float(abs(expected - expected.attrs["baseline"]).max()), abs=6e-4)


def test_the_divergence_of_a_sweep_is_read_there_too(masked: str, tmp_path: Path):
    pairs = tmp_path / "pairs.jsonl"
    PromptPairs([CLEAN], [CORRUPTED], ["f"], ["g"]).save(pairs)
    asked = ["sweep", "--pairs", str(pairs), "--folder", str(tmp_path / "job"), "--model", masked, "--divergence"]
    assert "KL divergence from the reference at '[MASK]'" in run(*asked, "--pos", "[MASK]", "--quiet").output


def test_a_circuit_is_of_the_answer_at_the_mask(masked: str, tmp_path: Path):
    kept = tmp_path / "circuit.json"
    asked = ["circuit", "--model", masked, *PROMPTS, "--pos", "[MASK]", "--n", "5", "--json", str(kept), "--quiet"]
    assert "at '[MASK]': " in run(*asked, "--out", str(tmp_path / "x.html"), "--method", "eap").output
    assert len(Subgraph.load(kept)) == 5


def test_commands_ask_where_before_anything_is_patched(
    masked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "x.html"
    PromptPairs([CLEAN], [CORRUPTED], ["f"], ["g"]).save(pairs)
    of_pairs = ["--pairs", str(pairs), "--model", masked, "--quiet"]
    for command in (
        ["patch", *PROMPTS, "--model", masked, "--out", str(out)],
        ["circuit", *of_pairs, "--out", str(out)],
        ["sweep", *of_pairs, "--folder", str(tmp_path / "job")],
        ["sweep", *of_pairs, "--folder", str(tmp_path / "job"), "--divergence"],
    ):
        assert "Say where the metric reads: pos='[MASK]'" in refusal(capsys, monkeypatch, command)
        for pos, said in (("c", "'c' stands"), ("9", "pos = 9"), ("[MSK]", "did you mean '[MASK]'")):
            assert said in refusal(capsys, monkeypatch, [*command, "--pos", pos])
    assert not out.exists()
