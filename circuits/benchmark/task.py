"""Tasks: a model with a hidden circuit, pairs of prompts that use it, and its true edges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuits.benchmark.prompts import prompt_pairs
from circuits.benchmark.sizes import SIZES, SOFTNESS, as_values
from circuits.compiler import CompiledTransformer, CompileOptions
from circuits.gallery import entry
from circuits.language import Head, Part
from interp import HookedTransformer
from interp.data import PromptPairs
from interp.discovery import Subgraph, edge_scores
from interp.errors import ConfigError, InterpError, check_choice
from interp.indices import check_seed
from interp.interventions import Zero
from interp.keywords import known_keywords

SHOWN = ("n_layers", "n_heads", "d_head", "d_model", "d_mlp", "d_vocab", "n_ctx", "attn_only", "attention_dir")
"""The fields of a configuration that `Task.about` repeats."""


@dataclass(frozen=True, eq=False)
class Task:
    """A question for circuit discovery whose answer is known.

    Attributes:
        model: the circuit, among whatever else is there.
        pairs: prompts of one length with their answers, as token ids. The answer is asked for at the last position.
        edges: the true edges: those of the circuit. No other edge has an effect on any logit.
        effects: for "zero" and "resample", what ablation of a true edge does to the logit difference of the answers
            (mean over the pairs), by its name: the edge alone carries zeros, or the corrupted prompt's run.
        about: everything else that is said of it, as JSON values: the circuit, size, softness, seed and options of
            `compile`, the model's sizes, and what each component of the circuit is.
    """

    model: HookedTransformer
    pairs: PromptPairs
    edges: Subgraph
    effects: Mapping[str, Mapping[str, float]]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What its folder is called, such as "ioi-small-hard"."""
        return task_name(self.about["circuit"], self.about["size"], self.about["softness"])

    @property
    def clean(self) -> Tensor:
        """The clean prompts [batch, pos]."""
        return torch.tensor(self.pairs.clean)

    @property
    def corrupted(self) -> Tensor:
        """The corrupted prompts [batch, pos]."""
        return torch.tensor(self.pairs.corrupted)

    def __repr__(self) -> str:
        return f"Task({self.name}: {len(self.edges)} of {self.edges.graph.n_edges:,} edges, {len(self.pairs)} pairs)"


def task_name(circuit: str, size: str, softness: str) -> str:
    """What a task is called."""
    return f"{circuit}-{size}-{softness}"


@known_keywords
def make_task(circuit: str, size: str = "small", softness: str = "hard", n_pairs: int = 8, seed: int = 0) -> Task:
    """The task of one circuit of the gallery in one model, in float64.

    Prompts depend on the circuit and the seed; what is random in the model on its size as well. A hard and a soft model
    differ in nothing else.

    Raises `ConfigError` for unknown names, with the nearest; for a circuit without such prompts; for what `compile`
    raises, naming the task; for a model that answers a prompt wrong, and for one of which every edge is true.
    """
    check_choice("size", size, list(SIZES))
    check_choice("softness", softness, list(SOFTNESS))
    one, name = entry(circuit), task_name(circuit, size, softness)
    pairs, declared = prompt_pairs(one, n_pairs, seed), one.build()
    options: CompileOptions = {
        **SIZES[size].of(declared, check_seed(seed), circuit, size),
        **SOFTNESS[softness].of(declared),
        "dtype": torch.float64,
    }
    try:
        model = declared.compile(**options)
    except InterpError as error:
        raise ConfigError(f"{name}: {error}") from error
    _check_answers(name, model, pairs)
    edges = Subgraph.of_names(model, [edge for *_, edge in model.edges().edges(data="name")], "declared")
    if len(edges) == edges.graph.n_edges:
        raise ConfigError(f"{name}: all {len(edges)} edges of the model are true, and none is to be told from others")
    about = {
        "circuit": circuit,
        "does": one.summary,
        "size": size,
        "softness": softness,
        "seed": seed,
        "options": as_values(options),
        "model": {field: getattr(model.cfg, field) for field in SHOWN},
        "nodes": _nodes(model),
    }
    return Task(model, pairs, edges, _effects(model, pairs, edges), about)


def _check_answers(name: str, model: HookedTransformer, pairs: PromptPairs) -> None:
    """Raise `ConfigError` if the model gives another answer to a clean or a corrupted prompt than the right one."""
    assert pairs.incorrect is not None
    for prompts, answers in ((pairs.clean, pairs.correct), (pairs.corrupted, pairs.incorrect)):
        with torch.no_grad():
            said = model(torch.tensor(prompts))[:, -1].argmax(-1)
        if wrong := int((said != torch.tensor(answers)).sum()):
            raise ConfigError(f"{name}: the model answers {wrong} of {len(pairs)} prompts wrong")


def _effects(model: HookedTransformer, pairs: PromptPairs, edges: Subgraph) -> dict[str, dict[str, float]]:
    """The exact effects of some edges, to six digits, by ablation and name."""
    clean, found = torch.tensor(pairs.clean), dict[str, dict[str, float]]()
    readers = list(dict.fromkeys(str(edge.reader) for edge in edges))
    writers = list(dict.fromkeys(str(edge.writer) for edge in edges))
    for ablation, other in (("zero", Zero()), ("resample", torch.tensor(pairs.corrupted))):
        scores = edge_scores(
            model, other, clean, pairs.metric, "exact", readers=readers, writers=writers, probe=0, progress=False
        )
        by_name = {str(edge): scores.sel(reader=str(edge.reader), writer=str(edge.writer)) for edge in edges}
        found[ablation] = {name: float(f"{float(effect):.6g}") for name, effect in by_name.items()}
    return found


def _nodes(model: CompiledTransformer) -> dict[str, dict[str, str]]:
    """For each component of the circuit, the declared parts that it is, and what each does."""
    found: dict[str, dict[str, str]] = {}
    parts = {part.name: part for part in model.circuit.parts}
    for name, node in model.nodes.items():
        found.setdefault(node, {})[name] = _does(parts[name]) if name in parts else name
    return found


def _does(part: Part) -> str:
    """A part as it was declared, in a line."""
    if isinstance(part, Head):
        return f"head: QK {part.scores!r}; OV {part.ov!r}"
    if part.table is not None:
        reads, writes = (", ".join(space.name for space in spaces) for spaces in (part.table.reads, part.table.writes))
        return f"table: {reads} -> {writes}, {len(part.table.entries)} entries"
    read = ", ".join(dict.fromkeys(at.space.name for ramp in part.ramps for at, _ in ramp.reads))
    written = ", ".join(dict.fromkeys(at.space.name for ramp in part.ramps for at, _ in ramp.writes))
    return f"neurons: {read} -> {written}, {len(part.ramps)} ramps"
