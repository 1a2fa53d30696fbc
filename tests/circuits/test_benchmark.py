"""Benchmark sets: what is in their files, that their edges are true, and what is refused."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray
from typer.testing import CliRunner

from circuits import benchmark
from circuits.benchmark import CIRCUITS, SIZES, SOFTNESS, Task, make, make_task, prompt_pairs, read_task
from circuits.benchmark.sizes import Softness
from circuits.commands import gallery as commands
from circuits.gallery import Entry, entries, entry
from interp import CheckpointError, ConfigError, HookedTransformer
from interp.data import PromptPairs
from interp.discovery import OnlyCircuit, Subgraph, auroc, edge_scores, hit, precision_recall
from interp.interventions import Zero
from interp.metrics import LogitDifference

FEW: dict[str, Any] = {"circuits": ["dyck1", "virtual_head"], "sizes": ["small", "medium"], "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight tasks, which no test writes to."""
    return make(tmp_path_factory.mktemp("sets") / "few", **FEW, n_pairs=4)


def in_readme(folder: Path) -> dict[str, Any]:
    """What the README of a set defines in Python, without this package."""
    names: dict[str, Any] = {}
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert not re.search("interp|circuits", code)
    exec(code, names)
    return names


def by_name(scores: xarray.DataArray) -> dict[str, float]:
    flat = scores.stack(edge=("writer", "reader")).dropna("edge")
    return {
        f"{writer} -> {reader}": float(value)
        for (writer, reader), value in zip(flat["edge"].values, flat.values, strict=True)
    }


# ---------------------------------------------------------------------------------------------- files


def test_a_set_that_is_scored_from_its_files_alone_gives_what_is_measured_in_memory(folder: Path):
    told = in_readme(folder)
    for name in ("dyck1-medium-soft", "virtual_head-small-hard"):
        circuit, size, softness = name.split("-")
        task, path = make_task(circuit, size, softness, n_pairs=4), folder / name
        model = HookedTransformer.from_pretrained(path)
        rows = [json.loads(line) for line in (path / "prompts.jsonl").read_text().splitlines()]
        clean, corrupted = ([row[column] for row in rows] for column in ("clean", "corrupted"))
        config, weights = told["load"](path)
        for ids in clean:
            logits = told["logits"](config, weights, np.array(ids))
            np.testing.assert_allclose(logits, task.model(torch.tensor([ids]))[0].detach().numpy(), atol=1e-12)
        metric = LogitDifference([row["correct"] for row in rows], [row["incorrect"] for row in rows])
        for how, other in (("zero", Zero()), ("resample", torch.tensor(corrupted))):
            found, own = (
                {method: edge_scores(*of, method, probe=0, progress=False) for method in ("exact", "eap")}
                for of in (
                    (model, other, torch.tensor(clean), metric),
                    (task.model, Zero() if how == "zero" else task.corrupted, task.clean, task.pairs.metric),
                )
            )
            for method in found:
                scores = by_name(found[method])
                assert told["auroc"](path, scores) == pytest.approx(auroc(own[method], task.edges), abs=1e-12)
                assert told["hit"](path, scores, how) == hit(own[method], own["exact"], task.edges)
        chosen = [*task.edges.names[1:], "embed -> logits"]
        expected = precision_recall(Subgraph.of_names(task.model, chosen), task.edges)
        assert told["precision_recall"](path, chosen) == pytest.approx(expected)


def test_the_forward_pass_of_the_readme_is_that_of_every_kind_of_circuit(tmp_path: Path):
    told = in_readme(
        make(tmp_path / "set", ["histogram_bidirectional", "induction"], ["small"], ["hard"], progress=False)
    )
    for name in ("histogram_bidirectional-small-hard", "induction-small-hard"):  # both directions; a tied unembedding
        task = read_task(tmp_path / "set" / name)
        logits = told["logits"](*told["load"](tmp_path / "set" / name), np.array(task.pairs.clean[0]))
        np.testing.assert_allclose(logits, task.model(task.clean[:1])[0].detach().numpy(), atol=1e-12)


def test_a_task_comes_back_as_it_was_made(folder: Path):
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        task, back = make_task(*name.split("-"), n_pairs=4), read_task(folder / name)
        assert type(back.model) is HookedTransformer
        assert back.model.weights_hash() == task.model.weights_hash()
        assert (back.name, back.pairs, back.edges, back.about) == (name, task.pairs, task.edges, task.about)
        assert back.effects == task.effects
        assert repr(back) == repr(task)


def test_the_manifest_has_every_file_with_its_sha_256_and_the_sizes(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    said = dict(manifest["files"])
    for name, about in manifest["tasks"].items():
        assert set(about["files"]) == {"config.json", "model.safetensors", "prompts.jsonl", "edges.json"}
        said |= {f"{name}/{file}": digest for file, digest in about["files"].items()}
        task, edges = read_task(folder / name), json.loads((folder / name / "edges.json").read_text())
        assert about["n_edges"] == edges["n_edges"] == len(task.edges.graph)
        assert about["n_true"] == len(edges["edges"]) == len(task.edges)
        assert about["model"]["d_model"] == task.model.cfg.d_model
        assert f"`{name}` | {task.model.cfg.n_layers} | " in (folder / "README.md").read_text()
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del there["manifest.json"]
    assert said == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}


def test_the_components_are_called_as_declared():
    nodes = make_task("dyck1").about["nodes"]
    assert nodes == {
        "embed": {"embed": "embed", "pos_embed": "pos_embed"},
        "L0H0": {"balance": "head: QK nothing; OV copy(tok, balance) - 1 * copy(tok, balance)"},
        "L0.mlp": {"sign": "neurons: one, balance -> sign, 3 ramps"},
        "L1H0": {"any negative": "head: QK match(one, sign) + 0.5 * sink; OV copy(sign, so far)"},
        "L1.mlp": {"answer": "table: so far, sign -> out, 3 entries"},
        "logits": {"unembed": "unembed"},
    }


# ---------------------------------------------------------------------------------------------- the edges


def cut(task: Task, circuit: Subgraph, how: str) -> torch.Tensor:
    """The logits of a run of some edges alone."""
    other = Zero() if how == "zero" else task.corrupted
    with torch.no_grad(), task.model.intervene(OnlyCircuit(circuit, other)):
        return task.model(task.clean)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("softness", SOFTNESS)
def test_the_true_edges_alone_give_the_logits_and_each_has_the_effect_that_is_said(size: str, softness: str):
    for circuit in ("ioi",) if size == "large" else ("dyck1", "ioi"):
        task = make_task(circuit, size, softness, n_pairs=2)
        with torch.no_grad():
            logits = task.model(task.clean)
        before = task.pairs.metric(logits)
        whole = Subgraph.whole(task.model)
        for how in ("zero", "resample"):
            torch.testing.assert_close(cut(task, task.edges, how), logits, rtol=0, atol=1e-9)
            for edge, effect in task.effects[how].items():
                without = task.pairs.metric(cut(task, whole - Subgraph.of_names(task.model, [edge]), how))
                assert float((without - before).mean()) == pytest.approx(effect, rel=1e-5, abs=1e-9), (edge, how)
        seen = [edge for edge, effect in task.effects["zero"].items() if abs(effect) > 0.1]
        assert len(seen) > len(task.edges) / 2
        assert {edge for edge, effect in task.effects["resample"].items() if abs(effect) > 0.1} < {*task.edges.names}


@torch.no_grad()
def test_what_hides_a_circuit_is_as_loud_as_the_circuit_and_its_heads_lie_anywhere():
    tasks = [make_task(circuit, "medium", n_pairs=2) for circuit in ("previous_token", "virtual_head", "ioi")]
    for task in tasks:
        layers = range(task.model.cfg.n_layers)
        looked_at = [(point, layer) for point in ("result", "mlp_out") for layer in layers]
        _, cache = task.model.run_with_cache(task.clean, names_filter=looked_at)
        for layer in layers:
            written = cache["result", layer].norm(dim=-1).mean((0, 1))
            assert written.min() > 0.05 and cache["mlp_out", layer].norm(dim=-1).mean() > 0.05
    places = [node for task in tasks for node in task.about["nodes"] if "H" in node]
    assert len({node.split("H")[1] for node in places}) > 2
    assert all({"L0.mlp", "L1.mlp"}.isdisjoint(task.about["nodes"]) for task in tasks)


def test_in_soft_models_gradients_flow_where_in_hard_ones_they_are_nothing():
    for circuit in ("induction_latest", "dyck1"):
        shares = {}
        for softness in SOFTNESS:
            task = make_task(circuit, "small", softness)
            scores = by_name(
                edge_scores(task.model, Zero(), task.clean, task.pairs.metric, "eap", probe=0, progress=False)
            )
            effects = task.effects["zero"].items()
            inside = [edge for edge, _ in effects if not edge.endswith((".v", "logits"))]
            seen = [edge for edge in inside if abs(task.effects["zero"][edge]) > 0.1]
            assert seen
            shares[softness] = [abs(scores[edge] / task.effects["zero"][edge]) for edge in seen]
        assert max(shares["hard"]) < 1e-4 < min(shares["soft"])


# ---------------------------------------------------------------------------------------------- prompts


def test_prompts_end_in_the_answers_of_the_reference_and_corrupted_ones_in_others():
    for name in ("ioi", "rhyme", "sort", "adjectives", "histogram_bidirectional", "induction"):
        one, pairs = entry(name), prompt_pairs(entry(name), 8, seed=3)
        words = one.build().vocabulary
        assert pairs.incorrect is not None
        assert len({*pairs.clean, *pairs.corrupted}) == 16 and len({*map(len, [*pairs.clean, *pairs.corrupted])}) == 1
        both = [*zip(pairs.clean, pairs.correct, strict=True), *zip(pairs.corrupted, pairs.incorrect, strict=True)]
        for ids, id in both:
            answer = one.reference(words.to_string(torch.tensor(ids)))[-1]
            best = answer if isinstance(answer, str) else max(answer, key=answer.__getitem__)  # pyright: ignore
            assert words.words[int(id)] == best
        assert pairs == prompt_pairs(one, 8, seed=3) != prompt_pairs(one, 8, seed=4)


def test_an_answer_that_most_texts_have_is_not_always_the_right_one():
    pairs = prompt_pairs(entry("dyck1"), 40)  # most strings of parentheses are beyond repair
    fail = entry("dyck1").build().vocabulary.words.index("F")
    assert 0.2 < sum(one == fail for one in pairs.correct) / 40 < 0.8


def test_every_circuit_of_the_gallery_has_prompts_or_says_why_not():
    for one in entries().values():
        if one.slow or not isinstance(one, Entry):
            continue
        try:
            pairs = prompt_pairs(one, 2)
        except ConfigError as error:
            assert f"circuit {one.name!r}" in str(error)
        else:
            assert len(pairs) == 2


def test_too_many_pairs_are_refused_with_how_many_there_are():
    with pytest.raises(
        ConfigError, match=r"circuit 'adjectives': 1000 of its texts give \d+ pairs .* 400 are asked for"
    ):
        prompt_pairs(entry("adjectives"), 400)
    with pytest.raises(ConfigError, match="n = 0"):
        prompt_pairs(entry("ioi"), 0)


# ---------------------------------------------------------------------------------------------- seeds


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_files_and_another_one_others(tmp_path: Path):
    few: dict[str, Any] = {"circuits": ["dyck1"], "sizes": ["medium"], "progress": False}
    first, again, other = (make(tmp_path / str(i), **few, seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert all_bytes(first) == all_bytes(again)
    for name in ("dyck1-medium-hard/model.safetensors", "dyck1-medium-soft/prompts.jsonl"):
        assert all_bytes(first)[name] != all_bytes(other)[name]
    alone = make(tmp_path / "alone", ["dyck1"], ["medium"], ["soft"], seed=1, progress=False)
    for name, content in all_bytes(alone).items():  # a task is the same in whatever set it is
        assert "/" not in name or all_bytes(first)[name] == content


def test_nothing_random_shares_a_seed_with_anything_else():
    options = [SIZES[size].of(entry(name).build(), 0, name, size) for name in ("ioi", "dyck1") for size in SIZES]
    seeds = [one["rotate"] for one in options if "rotate" in one]
    seeds += [part.seed for one in options for part in (one.get("fill"), one.get("distract")) if part]
    assert len({*seeds}) == len(seeds) == 6 + 4 + 4


def test_a_hard_and_a_soft_model_differ_in_nothing_else():
    hard, soft = (make_task("ioi", "small", softness) for softness in SOFTNESS)
    assert hard.pairs == soft.pairs and hard.edges == soft.edges
    assert hard.about["options"]["rotate"] == soft.about["options"]["rotate"]
    assert torch.equal(hard.model.W_E, soft.model.W_E)
    assert not torch.equal(hard.model.W_Q, soft.model.W_Q)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"circuits": ["dyck"]}, "the gallery has no circuit 'dyck'.*did you mean"),
        ({"sizes": ["smal"]}, "size = 'smal'.*did you mean 'small'"),
        ({"softness": ["sof"]}, "softness = 'sof'.*did you mean 'soft'"),
        ({"circuits": []}, "circuits = .*allowed: a list of names"),
        ({"circuits": "ioi"}, "circuits = 'ioi'; allowed: a list of names"),
        ({"sizes": [3]}, r"sizes = \[3\]; allowed: a list of names"),
        ({"n_pairs": 0}, "n_pairs = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        make(tmp_path / "set", **{**FEW, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CheckpointError, match=r"is not empty: it has \['mine.txt'\]"):
        make(tmp_path, **FEW)
    with pytest.raises(CheckpointError, match="is a file"):
        make(tmp_path / "mine.txt", **FEW)
    assert all_bytes(tmp_path) == {"mine.txt": b"precious"}


def test_a_set_that_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = iter([make_task("dyck1")])

    def fail_at_the_second(*which: str, **options: Any) -> Task:
        if (task := next(made, None)) is None:
            raise KeyboardInterrupt
        return task

    monkeypatch.setattr(f"{benchmark.__name__}.files.make_task", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set", **FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SIZES["medium"].options, "d_model", 16)
    with pytest.raises(ConfigError, match="ioi-medium-hard: "):
        make_task("ioi", "medium")


def test_a_model_of_which_every_edge_is_true_is_refused():
    for circuit in ("caesar", "copy_suppression"):
        with pytest.raises(ConfigError, match=rf"{circuit}-small-hard: all \d edges of the model are true"):
            make_task(circuit)
    assert len(make_task("copy_suppression", "medium").edges) == 5


def test_a_model_that_answers_wrong_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(cast(Any, SOFTNESS), "soft", Softness("very", 0.49))
    monkeypatch.setattr("circuits.benchmark.task.prompt_pairs", lambda *of: PromptPairs([[0, 1]], [[0, 2]], [3], [4]))
    with pytest.raises(ConfigError, match="previous_token-small-soft: the model answers 1 of 1 prompts wrong"):
        make_task("previous_token", "small", "soft")


@pytest.fixture
def task_folder(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A task that was taken out of its set, to be written to."""
    copied = tmp_path / "dyck1-small-hard"
    copied.mkdir()
    for file in (folder / copied.name).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    yield copied


def test_a_file_that_has_changed_is_named_as_long_as_the_manifest_is_there(folder: Path, task_folder: Path):
    assert read_task(task_folder).name == "dyck1-small-hard"
    (task_folder.parent / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    assert read_task(task_folder).name == "dyck1-small-hard"
    with (task_folder / "prompts.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(CheckpointError, match=r"prompts\.jsonl has changed"):
        read_task(task_folder)
    (task_folder / "prompts.jsonl").unlink()
    with pytest.raises(CheckpointError, match="has not the files"):
        read_task(task_folder)
    with pytest.raises(CheckpointError, match=r"dyck1-small-hart is no task.*did you mean 'dyck1-small-hard'"):
        read_task(task_folder.with_name("dyck1-small-hart"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"edges": ["embed -> L9H0.q"]}, "L9H0"),
        ({"edges": None}, "is no task"),
        ({"effects": {"zero": [1.0]}}, "is no task"),
        ({"n_edges": 7}, "is of a model with 7 edges"),
        ({"format": 99}, "format 99"),
    ],
)
def test_edges_that_do_not_fit_the_model_are_refused(task_folder: Path, change: dict[str, Any], said: str):
    about = json.loads((task_folder / "edges.json").read_text())
    (task_folder / "edges.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(CheckpointError, match=said):
        read_task(task_folder)


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_writes_the_set_that_it_is_told(tmp_path: Path):
    told = "benchmark --circuits virtual_head --sizes small --soft hard,soft --pairs 3 --seed 5 --quiet --out"
    done = CliRunner().invoke(commands.app, [*told.split(), str(tmp_path / "set")], catch_exceptions=False)
    assert done.exit_code == 0 and "2 tasks" in done.output
    same = make(tmp_path / "same", ["virtual_head"], ["small"], n_pairs=3, seed=5, progress=False)
    assert all_bytes(tmp_path / "set") == all_bytes(same)


def test_the_command_refuses_with_the_nearest_and_status_2(tmp_path: Path):
    command = [sys.executable, "-c", "from interp.commands import main; main()", "circuits", "benchmark", "--out"]
    done = subprocess.run(
        [*command, "set", "--circuits", "ioi,dyck"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "did you mean" in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_has_help_with_an_example():
    shown = CliRunner().invoke(commands.app, ["benchmark", "--help"]).output
    assert "Example: interp circuits benchmark" in shown and "--quiet" in shown


def test_the_circuits_of_a_set_by_default_are_in_the_gallery():
    assert {*CIRCUITS} <= {*entries()}
