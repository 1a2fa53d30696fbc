"""`interp attention` and `interp patch` of an encoder with a decoder: what each of them reads, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from running import asks_nothing, refusal, rows, run
from test_model_commands import meta_of
from two_stacks import pair_config

from interp import HookedEncoderDecoder, HookedTransformer, Vocabulary
from interp.metrics import Logit, LogitDifference
from interp.patching import sweep
from interp.plot import attention

CLEAN, CORRUPTED, TARGET = "abcd", "abed", "opq"
SOURCES = ["--clean-source", CLEAN, "--corrupted-source", CORRUPTED]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pair")
    model = HookedEncoderDecoder(pair_config("t5_like"), Vocabulary("abcdefghijklm"), Vocabulary("nopqrstuvwx"))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("single")
    HookedTransformer(
        {"n_layers": 1, "d_model": 8, "n_heads": 2, "n_ctx": 8, "d_vocab": 4}, Vocabulary("abcd")
    ).save_pretrained(folder)
    return str(folder)


def test_attention_shows_all_three_kinds(pair: str, tmp_path: Path):
    out = tmp_path / "x.html"
    asked = ["attention", "--model", pair, "--source", CLEAN, "--out", str(out)]
    done = run(*asked, "--target", TARGET, "--correct", "r")
    assert "cross-attention: 2 layers x 4 heads over 4 target and 4 source tokens" in done.output
    assert f"Attention of {pair} on “{CLEAN}” → “{TARGET}”" in done.output
    assert [stack["name"] for stack in meta_of(out)["stacks"]] == ["encoder", "decoder", "cross_attn"]
    assert meta_of(out)["kind"] == 2 and asks_nothing(out)
    model = HookedEncoderDecoder.from_pretrained(pair)
    by_hand = str(attention(model.run_with_cache(CLEAN, TARGET)[1], TARGET, source_tokens=CLEAN))
    assert done.output.splitlines()[1] == by_hand.splitlines()[1]
    alone = run(*asked).output
    assert "over 1 target and 4 source tokens" in alone and f"on “{CLEAN}”\n" in alone  # the start token alone


@pytest.mark.parametrize("site", [None, "cross_attn.k", "decoder.z", "cross_attn.z"])
def test_patch_prints_the_sweep_of_both_stacks(site: str | None, pair: str, tmp_path: Path):
    model, over = HookedEncoderDecoder.from_pretrained(pair), "layer,head" if str(site).endswith("z") else "layer,pos"
    others = ["--corrupted-target", "orq"] if site == "decoder.z" else []
    place = ("resid_pre", "encoder") if site is None else (site.split(".")[1], site.split(".")[0])
    axes: Any = over.split(",")
    prompts = (CORRUPTED, "orq" if others else TARGET), (CLEAN, TARGET)
    result = sweep(model, *prompts, LogitDifference("n", "o"), place, axes, progress=False)
    out = tmp_path / "x.html"
    asked = ["--clean-target", TARGET, *others, "--correct", "n", "--incorrect", "o", "--over", over, "--out", str(out)]
    done = run("patch", "--model", pair, *SOURCES, *asked, *(["--site", site] if site else []), "--quiet")
    shown = rows(done.output)
    change = abs(result - result.attrs["baseline"])
    assert abs(float(shown[0][-2])) == pytest.approx(float(change.max()), abs=6e-4)
    if over == "layer,pos":  # of each position of the source one place, with its token
        assert [row[2] for row in shown] == [CORRUPTED[int(row[1])] for row in shown] and len(shown) == 4
    assert asks_nothing(out)


def test_a_target_may_be_left_out(pair: str, tmp_path: Path):
    model = HookedEncoderDecoder.from_pretrained(pair)
    result = sweep(model, (CORRUPTED, None), (CLEAN, None), Logit("n"), ("resid_pre", "encoder"), progress=False)
    done = run("patch", "--model", pair, *SOURCES, "--correct", "n", "--out", str(tmp_path / "x.html"))
    ends = f"{result.attrs['baseline']:.3f} on the corrupted prompt, {result.attrs['target']:.3f} on the clean one"
    assert ends in done.output


def test_patch_takes_every_site_of_both_stacks_that_it_says_is_allowed(
    pair: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    asked = ["patch", "--model", pair, *SOURCES, "--clean-target", TARGET, "--correct", "n", "--over", "layer"]
    asked += ["--out", str(tmp_path / "x.html"), "--quiet"]
    sites = refusal(capsys, monkeypatch, [*asked, "--site", "no"]).split("allowed: ")[1].split("; ")[0].split(", ")
    assert {"encoder.z", "decoder.z", "cross_attn.z", "decoder.resid_cross"} <= {*sites}
    for site in sites:
        assert run(*asked, "--site", site).exit_code == 0, site


def test_options_of_the_other_kind_of_model_are_refused_with_the_right_ones(
    pair: str, single: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = str(tmp_path / "x.html")
    texts, answer = ["--clean", "ab", "--corrupted", "ac"], ["--correct", "n"]
    for model, command, said in (
        (pair, ["attention", "--text", "ab"], "is an encoder with a decoder; interp attention (--source) and interp"),
        (pair, ["patch", *texts, *answer], "is an encoder with a decoder"),
        (pair, ["heads"], "is an encoder with a decoder"),
        (pair, ["circuit", *texts, *answer], "is an encoder with a decoder"),
        (pair, ["sweep", "--pairs", "ioi", "--folder", str(tmp_path / "job")], "is an encoder with a decoder"),
        (single, ["attention", "--source", "ab"], "is a model of one stack"),
        (single, ["patch", *SOURCES, *answer], "is a model of one stack"),
        (pair, ["attention", "--text", "ab", "--source", "ab"], "a model of one stack reads --text, an encoder"),
        (pair, ["attention", "--target", "ab"], "--source is missing"),
        (pair, ["attention", "--source", "ab", "--scores"], "--scores are of the heads of one stack"),
        (pair, ["attention"], "give --text; of an encoder with a decoder, --source"),
        (pair, ["patch", *SOURCES[:2], *answer], "--corrupted-source is missing"),
        (pair, ["patch", *texts[:2], *answer], "--corrupted is missing; give --clean and --corrupted"),
        (pair, ["patch", *texts, *SOURCES, *answer], "give one kind"),
        (pair, ["patch", "--clean-source", "ab", "--corrupted-source", "ab", *answer], "they must differ"),
    ):
        written = [] if command[0] in ("heads", "sweep") else ["--out", out]
        assert said in refusal(capsys, monkeypatch, [*command, "--model", model, *written, "--quiet"]), command
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_no_model_of_the_other_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    missing = str(tmp_path / "no such model")
    for command in (["attention", "--text", "ab"], ["attention", "--source", "ab"]):
        assert "does not exist" in refusal(capsys, monkeypatch, [*command, "--model", missing, "--quiet"])
