"""`interp circuit`, on a small saved model with a tokenizer that pads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray
from letters import PAIRS, as_csv, as_jsonl, save_letters
from running import asks_nothing, refusal, rows, run

from interp import HookedTransformer, TransformerConfig
from interp.data import PromptPairs
from interp.discovery import Subgraph, edge_scores, faithfulness
from interp.metrics import Logit, LogitDifference

CLEAN, CORRUPTED = "a b c a d", "a b c b d"
PAIR = ["--clean", CLEAN, "--corrupted", CORRUPTED, "--correct", "b", "--incorrect", "a"]
QUIET: Any = {"progress": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_letters(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(checkpoint: str) -> HookedTransformer:
    return HookedTransformer.from_pretrained(checkpoint)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_the_ends_the_largest_edges_the_probe_and_how_the_circuit_is_judged(
    model: HookedTransformer, checkpoint: str, here: Path
):
    done = run("circuit", "--model", checkpoint, *PAIR, "--method", "eap", "--n", "9", "--top-k", "3")
    assert done.exit_code == 0, done.output
    metric = LogitDifference("b", "a")
    scores = edge_scores(model, CORRUPTED, CLEAN, metric, "eap", **QUIET)
    about = scores.attrs
    first, *_ = done.output.splitlines()
    assert first.startswith(about["metric"])
    assert f"{about['baseline']:.3f} on the clean prompt, {about['target']:.3f} on the corrupted one" in first

    edges, circuits = rows(done.output)[:3], rows(done.output)[3:]
    flat = scores.stack(edge=("reader", "writer")).dropna("edge")
    order = abs(flat).argsort().to_numpy()[::-1][:3]
    for row, place in zip(edges, order, strict=True):
        reader, writer = flat["edge"].to_numpy()[place]
        exact = scores.exact.sel(reader=reader, writer=writer)
        assert row == [f"{writer} -> {reader}", f"{float(flat[place]):+z.3f}", f"{float(exact):+z.3f}"]
    assert f"Probe: {about['probe_n']} edges were patched exactly" in done.output
    for name in ("rms", "rank_correlation", "largest_error", "largest_miss"):
        assert f"{about['probe_' + name]:.3f}" in done.output
    assert f"of {about['probe_largest_error_edge']}" in done.output

    circuit = Subgraph.top(scores, 9)
    judged = faithfulness(model, circuit, CORRUPTED, CLEAN, metric, **QUIET)
    assert [row[0] for row in circuits] == ["the whole model", "the circuit", "as many edges at random", "no edge"]
    own = [float(judged[name]) for name in ("value", "faithfulness")]
    assert circuits[1][1:] == ["9", str(len(circuit.pruned())), *(f"{one:z.3f}" for one in own)]
    assert circuits[0][3:] == [f"{about['baseline']:z.3f}", "1.000"]
    assert circuits[2][1] == "9" and circuits[3][1:] == ["0", "0", f"{about['target']:z.3f}", "0.000"]


def test_keys_and_values_that_heads_share_are_said_to_be_shared(checkpoint: str, here: Path):
    cfg = TransformerConfig(n_layers=2, d_model=12, n_heads=4, n_key_value_heads=2, n_ctx=8, d_vocab=5, init_std=0.5,
                            seed=1)  # fmt: skip
    HookedTransformer(cfg, HookedTransformer.from_pretrained(checkpoint).tokenizer).save_pretrained(here / "grouped")
    asked = ["circuit", *PAIR, "--n", "9", "--top-k", "30", "--quiet"]
    done = run(*asked, "--model", str(here / "grouped"))
    reader = next(row[0].split(" -> ")[1] for row in rows(done.output) if row[0].endswith((".k", ".v")))
    heads = [f"{reader[:2]}H{head}" for head in (2 * int(reader[3]), 2 * int(reader[3]) + 1)]
    assert (
        f"{reader}: keys and values count by key-value head; this one is shared by {', '.join(heads)}." in done.output
    )
    assert "key-value" not in run(*asked, "--model", checkpoint).output


def test_it_writes_a_page_that_opens_offline_and_the_circuit_as_json(
    model: HookedTransformer, checkpoint: str, here: Path
):
    done = run("circuit", "--model", checkpoint, *PAIR, "--n", "9", "--out", "new/page.html", "--json", "found.json")
    assert done.exit_code == 0, done.output
    page = here / "new" / "page.html"
    assert page.read_text("utf-8").count('<figure class="panel') == 4 and asks_nothing(page)
    scores = edge_scores(model, CORRUPTED, CLEAN, LogitDifference("b", "a"), **QUIET)
    found = Subgraph.load(here / "found.json")
    assert found == Subgraph.top(scores, 9) and found.found_by == Subgraph.top(scores, 9).found_by
    assert "Wrote new/page.html" in done.output and "Wrote found.json" in done.output


def test_pairs_of_several_lengths_are_one_question_from_either_kind_of_file(
    model: HookedTransformer, checkpoint: str, here: Path
):
    options = ["--model", checkpoint, "--n", "9", "--json", "found.json", "--quiet"]
    printed = []
    for file in (as_csv(here / "pairs.csv"), as_jsonl(here / "pairs.jsonl")):
        printed.append(run("circuit", "--pairs", file, *options).output)
    assert printed[0] == printed[1]
    tokens = PromptPairs.read(here / "pairs.csv").tokens(model)
    PromptPairs(tokens.clean, tokens.corrupted, tokens.correct, tokens.incorrect).save(here / "ids.jsonl")
    of_ids = run("circuit", "--pairs", "ids.jsonl", *options).output
    assert of_ids.splitlines()[1:] == printed[0].splitlines()[1:]  # the first names the answers
    single = [edge_scores(model, one["corrupted"], one["clean"], LogitDifference(one["correct"], one["incorrect"]),
                          **QUIET) for one in PAIRS]  # fmt: skip
    ends = [sum(one.attrs[end] for one in single) / len(PAIRS) for end in ("baseline", "target")]
    first, *_ = printed[0].splitlines()
    assert f"{ends[0]:.3f} on the clean prompts, {ends[1]:.3f} on the corrupted ones, means over 4" in first
    mean = xarray.concat(single, "pair").mean("pair").assign_attrs(single[0].attrs)
    assert Subgraph.load(here / "found.json") == Subgraph.top(mean, 9)
    edge, estimate, interval, _ = rows(printed[0])[0]
    writer, reader = edge.split(" -> ")
    assert float(estimate) == pytest.approx(float(mean.sel(reader=reader, writer=writer)), abs=6e-4)
    low, high = interval.split(" to ")
    assert float(low) < float(estimate) < float(high)


def test_a_data_set_that_ships_goes_by_its_name(
    checkpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options = ["circuit", "--model", checkpoint, "--n", "9", "--quiet", "--pairs"]
    (here / "capitals").mkdir()  # such as the folder of an earlier job
    assert "capitals, line 1: the two prompts" in refusal(capsys, monkeypatch, [*options, "capitals"])  # all unknown
    monkeypatch.setattr("interp.data.pairs.SHIPPED", here)
    assert run(*options, as_jsonl(here / "letters.jsonl")).output == run(*options, "letters").output


def test_exact_effects_need_no_probe_and_go_on_from_a_file(
    model: HookedTransformer, checkpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch
):
    options = ["circuit", "--model", checkpoint, *PAIR, "--method", "exact", "--n", "9", "--checkpoint", "done"]
    done = run(*options)
    assert "Every effect is exact" in done.output and "estimate" not in done.output
    exact = edge_scores(model, CORRUPTED, CLEAN, LogitDifference("b", "a"), "exact", **QUIET)
    assert abs(float(rows(done.output)[0][1])) == pytest.approx(float(abs(exact).max()), abs=6e-4)
    monkeypatch.setattr("interp.discovery.exact.measure_rows", lambda *_: pytest.fail("an edge was patched again"))
    assert run(*options).output == done.output


def test_sizes_without_a_sign_and_the_other_direction_are_said(checkpoint: str, here: Path):
    done = run("circuit", "--model", checkpoint, *PAIR, "--method", "combined", "--direction", "denoising", "--n", "9")
    assert "Estimates (combined, sizes without a sign)" in done.output
    assert "estimate of its size" in done.output and all(row[1][0].isdigit() for row in rows(done.output)[:10])
    first, *_ = done.output.splitlines()
    assert "on the corrupted prompt, " in first and first.endswith("on the clean one")


def test_without_a_wrong_answer_it_is_the_logit_of_the_right_one(model: HookedTransformer, checkpoint: str, here: Path):
    file = as_jsonl(here / "pairs.jsonl", [{k: v for k, v in one.items() if k != "incorrect"} for one in PAIRS])
    done = run("circuit", "--model", checkpoint, "--pairs", file, "--n", "9")
    values = [Logit(one["correct"])(model(one["clean"]), model) for one in PAIRS]
    first, *_ = done.output.splitlines()
    assert first.startswith("logit of each prompt's answer, as 'a', at position -1: ")
    assert f"{float(torch.cat(values).mean().detach()):.3f} on the clean prompts" in first


def test_pairs_that_cancel_are_refused_before_an_edge_is_scored(
    checkpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    turned = PAIRS[0] | {"clean": PAIRS[0]["corrupted"], "corrupted": PAIRS[0]["clean"]}
    monkeypatch.setattr("interp.discovery.edge_scores", lambda *_, **__: pytest.fail("edges were scored"))
    file = as_csv(here / "pairs.csv", [PAIRS[0], turned])
    assert "is noise" in refusal(capsys, monkeypatch, ["circuit", "--model", checkpoint, "--pairs", file, "--n", "9"])
    assert not (here / "circuit.html").exists()


Refused = tuple[list[str] | Callable[[Path], list[str]], str]

BEFORE_A_MODEL: dict[str, Refused] = {
    "nothing": ([], "give --pairs, or --clean, --corrupted and --correct; --clean is missing"),
    "no answer": (PAIR[:4], "--correct is missing"),
    "both": ([*PAIR, "--pairs", "x.csv"], "--pairs and --clean are two sources of prompts"),
    "method": ([*PAIR, "--method", "eap-ig"], "did you mean 'eap_ig'"),
    "direction": ([*PAIR, "--direction", "noise"], "did you mean 'noising'"),
    "checkpoint": ([*PAIR, "--checkpoint", "x"], "--checkpoint goes with --method exact"),
    "equal prompts": ([*PAIR, "--corrupted", CLEAN], f"--clean and --corrupted are both {CLEAN!r}"),
    "equal answers": ([*PAIR, "--incorrect", "b"], "--correct and --incorrect are both 'b'"),
    "one file": ([*PAIR, "--json", "circuit.html"], "two of them have one name"),
    "folder": ([*PAIR, "--json", "."], "cannot write: Is a directory"),
    "n": ([*PAIR, "--n", "0"], "--n"),
    "no file": (["--pairs", "x.csv"], "No such file or directory: 'x.csv'"),
    "format": (["--pairs", "x.json"], "allowed: a file whose name ends in .csv or .jsonl"),
    "name": (["--pairs", "capital"], "--pairs 'capital'; allowed: a file whose name ends in .csv or .jsonl, or one of "
             "capitals, docstring, greater_than, ioi, pronouns; did you mean 'capitals'"),
}  # fmt: skip

FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("x.csv", b"", "x.csv: there are no pairs in it"),
    "only a header": ("x.csv", b"clean,corrupted,correct\n", "there are no pairs in it"),
    "blank": ("x.jsonl", b"\n\n", "there are no pairs in it"),
    "no text": ("x.csv", b"\xff\xfe\x00", "this is no text in UTF-8"),
    "no JSON": ("x.jsonl", b'{"clean": 1\n', "x.jsonl, line 1: this is no JSON"),
    "no object": ("x.jsonl", b"[1]\n", "x.jsonl, line 1: this is [1], not an object"),
    "a number": ("x.jsonl", b'{"clean": 1}', "line 1: clean is 1; allowed: a text"),
    "missing": ("x.jsonl", b'\n{"clean": "a", "corrupted": "b"}', "line 2: correct is missing"),
    "unknown": ("x.csv", b"clean,corupted\na,b\n", "unknown column 'corupted'; allowed: clean, corrupted, correct, "
                "incorrect; did you mean 'corrupted'"),
    "twice": ("x.csv", b"clean,clean,correct\na,b,c\n", "a column is there twice"),
    "ragged": ("x.csv", b"clean,corrupted,correct\na,b\n", "x.csv, line 2: 2 entries under 3 columns"),
    "open quote": ("x.csv", b'clean,corrupted,correct\n"a,b,c\n', "this is no CSV"),
    "equal": ("x.csv", b"clean,corrupted,correct\na,b,c\na,a,c\n", "line 3: clean and corrupted are both 'a'"),
    "some without": (
        "x.jsonl",
        b'{"clean": "a", "corrupted": "b", "correct": "c", "incorrect": "d"}\n'
        b'{"clean": "a", "corrupted": "b", "correct": "c"}',
        "line 2: incorrect is missing",
    ),
    "some with": (
        "x.jsonl",
        b'{"clean": "a", "corrupted": "b", "correct": "c"}\n'
        b'{"clean": "a", "corrupted": "b", "correct": "c", "incorrect": "d"}',
        "line 2: incorrect is given here, but not in the first row",
    ),
}  # fmt: skip


def test_what_can_be_known_without_a_model_is_said_before_one_is_loaded(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(HookedTransformer, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    for what, (arguments, message) in BEFORE_A_MODEL.items():
        assert isinstance(arguments, list)
        assert message in refusal(capsys, monkeypatch, ["circuit", *arguments]), what
        assert list(here.iterdir()) == [], what
    for what, (name, held, message) in FILES.items():
        (here / name).write_bytes(held)
        assert message in refusal(capsys, monkeypatch, ["circuit", "--pairs", name]), what


def test_what_a_model_refuses_is_one_line_and_no_page(
    checkpoint: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    uneven = as_csv(here / "uneven.csv", [PAIRS[0], PAIRS[1] | {"corrupted": "d b"}])
    for arguments, message in (
        (PAIR, "--n = 200; allowed: 1 to 46"),
        ([*PAIR, "--n", "9", "--corrupted", "a b"], "interp: the clean prompt has 5 tokens, the corrupted one 2"),
        (["--pairs", uneven, "--n", "9"], "uneven.csv, line 3: the clean prompt has 3 tokens, the corrupted one 2"),
        ([*PAIR, "--n", "9", "--correct", "a b"], "'a b' is 2 tokens"),
    ):
        assert message in refusal(capsys, monkeypatch, ["circuit", "--model", checkpoint, *arguments])
    assert [path.name for path in here.iterdir()] == ["uneven.csv"]
