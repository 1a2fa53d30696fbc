"""Sets of tasks as plain files, on which others can score their methods without this package."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuits.benchmark.readme import readme
from circuits.benchmark.sizes import SIZES, SOFTNESS
from circuits.benchmark.task import Task, make_task, task_name
from circuits.gallery import entry
from interp import HookedTransformer
from interp.data import PromptPairs
from interp.discovery import Subgraph
from interp.errors import CheckpointError, ConfigError, InterpError, check_choice, describe, did_you_mean
from interp.files import atomic_folder, atomic_path, load_json, save_json
from interp.indices import check_count, check_seed
from interp.keywords import known_keywords
from interp.progress import progress_bar

CIRCUITS = ("induction_latest", "induction_pointer", "virtual_head", "ioi", "dyck1", "sort")
"""The circuits of a set by default: composition by keys, queries and values; three layers, also of MLPs; and ties."""

PROMPTS, EDGES, MANIFEST, README = "prompts.jsonl", "edges.json", "manifest.json", "README.md"
FORMAT = 1


@known_keywords
def make(
    folder: str | os.PathLike[str],
    circuits: Sequence[str] = CIRCUITS,
    sizes: Sequence[str] = tuple(SIZES),
    softness: Sequence[str] = tuple(SOFTNESS),
    *,
    n_pairs: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write a benchmark set: a folder for each task, which is a circuit in one size and softness.

    A task has the model as `save_pretrained` writes it (`config.json`, `model.safetensors`), `prompts.jsonl` as
    `PromptPairs` reads it, and `edges.json`: the true edges as `EdgeGraph` spells them, the number of all edges, the
    exact effects of the true ones, and what `Task.about` says. At the top are `README.md`, which says how to read the
    files and score methods without this package, and `manifest.json`, with the SHA-256 of every file. The same
    arguments write the same files.

    The set is written beside `folder`, and takes its place when it is whole.

    Args:
        folder: a new or an empty folder.
        circuits: of the gallery.
        sizes, softness: some of `SIZES`, and of `SOFTNESS`.
        n_pairs: pairs of prompts for each circuit.
        seed: of everything that is random.
        progress: show a bar on a terminal.

    Returns the folder. Raises, before any work, `ConfigError` for unknown names, with the nearest, and for none;
    `CheckpointError` for a folder that is not empty; `OSError` where nothing can be written; else as `make_task`.

    >>> folder = make("tasks", ["sort"], ["small"], ["hard"], n_pairs=2, progress=False)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'manifest.json', 'sort-small-hard']
    """
    chosen = [_listed("circuits", circuits), _listed("sizes", sizes), _listed("softness", softness)]
    for name in chosen[0]:
        entry(name)
    for what, names, known in zip(("size", "softness"), chosen[1:], (SIZES, SOFTNESS), strict=True):
        for name in names:
            check_choice(what, name, list(known))
    check_count("n_pairs", n_pairs)
    check_seed(seed)
    wanted, tasks = list(itertools.product(*chosen)), dict[str, Any]()
    target = Path(folder).expanduser()
    with atomic_folder(target) as new, progress_bar("making tasks", len(wanted), progress) as advance:
        for which in wanted:
            advance(0, task_name(*which))
            task = make_task(*which, n_pairs=n_pairs, seed=seed)
            tasks[task.name] = _save_task(task, new / task.name)
            advance(1, task.name)
        with atomic_path(new / README) as file:
            file.write_text(readme(tasks, n_pairs, seed), encoding="utf-8")
        about = {"seed": seed, "n_pairs": n_pairs, "files": _digests(new, [README]), "tasks": tasks}
        save_json(new / MANIFEST, FORMAT, about)
    return target


def _listed(what: str, given: Sequence[str]) -> list[str]:
    """Names, none twice. Raises `ConfigError` for none, for one text, and for what is no name."""
    names = given if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{what} = {describe(given)}; allowed: a list of names")
    return list(dict.fromkeys(names))


def _save_task(task: Task, folder: Path) -> dict[str, Any]:
    """Write the files of a task; return what the manifest says of it."""
    task.model.save_pretrained(folder)
    task.pairs.save(folder / PROMPTS)
    n_edges, names = task.edges.graph.n_edges, task.edges.names
    effects = {ablation: [of_edge[name] for name in names] for ablation, of_edge in task.effects.items()}
    save_json(folder / EDGES, FORMAT, {**task.about, "n_edges": n_edges, "edges": names, "effects": effects})
    shown = {word: task.about[word] for word in ("circuit", "size", "softness", "model")}
    files = _digests(folder, sorted(file.name for file in folder.iterdir()))
    return {**shown, "n_edges": n_edges, "n_true": len(names), "files": files}


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of some files, by name."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_task(folder: str | os.PathLike[str]) -> Task:
    """The task in a folder of a set, as `make_task` made it: `task.model`, `task.pairs`, `task.edges`.

    Its files are compared with the digests in the `manifest.json` of the folder above, where there is one; a task's
    folder may be taken out of its set.

    Raises `CheckpointError` for files that are missing, have changed, cannot be read or do not fit each other.

    >>> folder = make("tasks", ["sort"], ["small"], ["hard"], n_pairs=2, progress=False)
    >>> task = read_task(folder / "sort-small-hard")
    >>> len(task.pairs), task.model.cfg.n_layers
    (2, 3)
    """
    path = Path(folder).expanduser()
    _check_digests(path)
    about = load_json(path / EDGES, FORMAT, "the edges of a task")
    model = HookedTransformer.from_pretrained(path)
    try:
        pairs = PromptPairs.read(path / PROMPTS)
        pairs.tokens(model)
        del about["format"]
        names, n_edges = about.pop("edges"), about.pop("n_edges")
        edges = Subgraph.of_names(model, names, "declared")
        effects = {how: dict(zip(names, values, strict=True)) for how, values in about.pop("effects").items()}
    except (InterpError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no task of a benchmark set: {error!r}") from error
    if n_edges != edges.graph.n_edges:
        there = edges.graph.n_edges
        raise CheckpointError(f"{path / EDGES} is of a model with {describe(n_edges)} edges; this one has {there}")
    return Task(model, pairs, edges, effects, about)


def _check_digests(folder: Path) -> None:
    """Raise `CheckpointError` for files of a task that are not those which the manifest names."""
    manifest = folder.absolute().parent / MANIFEST
    if not manifest.exists():
        return
    tasks = load_json(manifest, FORMAT, "the manifest of a benchmark set").get("tasks")
    if not isinstance(tasks, dict) or folder.absolute().name not in tasks:
        near = did_you_mean(folder.name, tasks or ())
        raise CheckpointError(f"{folder} is no task of {manifest}{near}")
    try:
        expected = tasks[folder.absolute().name]["files"]
        found = _digests(folder, list(expected))
    except (OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} has not the files that {manifest} names: {error!r}") from error
    if changed := [name for name, digest in expected.items() if found[name] != digest]:
        raise CheckpointError(f"{folder / changed[0]} has changed: {manifest} has another SHA-256 of it")
