"""The trial: a model whose arithmetic is in doubt is run before it is handed out.

Beside it run the interpreter, and a twin: the same circuit compiled plainly in float64. Texts on which the twin does
not do what was declared are no evidence; on all others the model must do what the twin does.
"""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.compiler.basis import Basis
from circuits.compiler.encoding import POS, Encoding
from circuits.compiler.positions import OneHot
from circuits.compiler.sparse import Sparse
from circuits.language import Declaration, Interpretation, Interpreter, Layout, leading, shortened
from interp.errors import ConfigError
from interp.model import HookName

if TYPE_CHECKING:
    from circuits.compiler.model import CompiledTransformer

ALLOWED = 0.1
"""The most that a pattern may differ from the twin's."""

UNDECIDED = 0.25
"""Where the twin's logits are further from those declared, it does not do what was declared: a ramp is half way up."""

POSITIONS = 2**14
"""About how many positions are run."""

PRODUCTS = 2**34
"""About how many products are computed at most, one a position and parameter."""

FAR = 3.0
"""Vectors of unknown size are taken to have numbers up to this, as normally distributed ones do."""

LENGTHS = 8
"""The most lengths of texts, where shorter texts are not the beginnings of longer ones."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A stack that is tried.

    Attributes:
        model: the stack.
        twin: its circuit in float64, in coordinates.
        basis: where the model has the coordinates.
    """

    model: "CompiledTransformer"
    twin: "CompiledTransformer"
    basis: Basis

    @property
    def n_parameters(self) -> int:
        """Of the model and its twin."""
        return self.twin.cfg.n_params.total + self.model.cfg.n_params.total


def run_trial(tried: Tried, advice: str, source: Tried | None = None) -> None:
    """Compare a model with its twin and the interpreter.

    Args:
        advice: what to do about it; the message ends with it.
        source: the stack that cross heads read, of a circuit with a source.

    Raises `ConfigError`, naming the head or the table that is furthest off, for a prediction that differs, or a pattern
    that differs by more than `ALLOWED`.
    """
    interpreter = Interpreter(Layout(tried.model.circuit))
    trial, n_positions = _Trial(tried, interpreter), min(POSITIONS, PRODUCTS // tried.n_parameters)
    texts = trial_texts(tried.model.circuit, n_positions)
    if source is None:
        for tokens in texts:
            for some in tokens.split(max(1, 2**22 // tokens.shape[1] ** 2)):
                trial.add(some)
        return trial.judge(advice)
    assert interpreter.source is not None
    of_source = _Trial(source, interpreter.source)
    for read, told in itertools.product(trial_texts(source.model.circuit, n_positions), texts):
        rows = torch.arange(max(len(read), len(told)))
        for some in rows.split(max(1, 2**22 // max(read.shape[1], told.shape[1]) ** 2)):
            sources = read[some % len(read)]
            trial.add(told[some % len(told)], sources, of_source.add(sources))
    of_source.judge(advice)
    trial.judge(advice)


def trial_texts(circuit: Declaration, n_positions: int) -> list[Int[Tensor, "batch pos"]]:
    """Texts that have every word and every position in them: random ones, half of them made of a few words only.

    Where keys may come later than the query, texts of several lengths; else, every beginning is a shorter text.
    """
    draw, n_ctx = random.Random(0), circuit.n_ctx
    start = [] if circuit.bos is None else [circuit.vocabulary.to_single_token(circuit.bos)]
    words = [i for i in range(circuit.vocabulary.d_vocab) if i not in start] or start
    lengths = {n_ctx}
    if circuit.attention_dir == "bidirectional":
        lengths |= {1 + round(i * (n_ctx - 1) / LENGTHS) for i in range(LENGTHS)}
    deck: list[int] = []

    def dealt() -> int:
        if not deck:
            deck.extend(draw.sample(words, len(words)))
        return deck.pop()

    found = []
    for length in sorted(lengths):
        for_all_words = 2 * -(-len(words) // max(length - len(start), 1)) if length == n_ctx else 2
        n_texts = max(for_all_words, n_positions // (length * len(lengths)))
        texts = []
        for i in range(n_texts):
            few = draw.sample(words, min(len(words), 2 + i % 3))
            rest = range(length - len(start))
            texts.append([*start, *([dealt() for _ in rest] if i % 2 else [draw.choice(few) for _ in rest])][:length])
        found.append(torch.tensor(texts))
    return found


def random_vectors(
    circuit: Declaration, tokens: Int[Tensor, "batch pos"], generator: torch.Generator
) -> dict[str, Tensor]:
    """Random vectors, [batch, pos, size], for every space that the user gives vectors for."""
    found: dict[str, Tensor] = {}
    for name, (low, high) in circuit.inputs.items():
        shape = *tokens.shape, len(circuit.spaces[name])
        if math.isinf(low) or math.isinf(high):
            found[name] = torch.randn(shape, dtype=torch.float64, generator=generator)
        else:
            found[name] = low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)
    return found


def squared_length(encoding: Encoding, interpreter: Interpreter) -> float:
    """A bound on the squared length of the stream, the ballast aside: with it, a norm divides by more than its gain.

    Vectors that the user gives without saying how large they are count with numbers of `FAR`.
    """
    total = 0.0
    for space in interpreter.layout.spaces:
        held = interpreter.holdings.at(space)
        if space.name == POS and not isinstance(encoding.code, OneHot):
            total += float(encoding.vectors.square().sum(-1).amax()) if encoding.vectors.numel() else 0.0
        elif space.states:
            total += max(sum(x * x for x in state) for state in space.states)
        elif held.kind != "numbers":
            total += 1.0
        else:
            total += float(torch.maximum(held.low.abs(), held.high.abs()).nan_to_num(posinf=FAR).square().sum())
    return total


@dataclass(frozen=True)
class _Off:
    """By how much a part is off, and where."""

    size: float
    text: str
    position: int


Memories = tuple[Float[Tensor, "_batch _source_pos _exact"], Float[Tensor, "_batch _source_pos _found"]]
"""What cross heads read: the last stream of the source, as the twin has it and as the model has it."""


class _Trial:
    """What was found so far of one stack."""

    def __init__(self, tried: Tried, interpreter: Interpreter):
        self.model, self.twin, self.interpreter = tried.model, tried.twin, interpreter
        self.circuit, twin, basis = tried.model.circuit, tried.twin, tried.basis
        self.generator = torch.Generator().manual_seed(0)
        self.heads: dict[str, _Off] = {}
        self.tables: dict[str, _Off] = {}
        self.wrong = ""
        self._written = {name: neurons.writes.rows.unique() for name, neurons in twin.plan.tables.items()}
        self._reads = {name: basis.reads(self._columns(rows)) for name, rows in self._written.items()}

    @torch.no_grad()
    def add(
        self,
        tokens: Int[Tensor, "batch pos"],
        source: Int[Tensor, "batch source_pos"] | None = None,
        memories: Memories | tuple[None, None] = (None, None),
    ) -> Memories:
        """Run some texts of one length, with their sources and what cross heads read of these.

        Returns what the final norms leave of the last streams.
        """
        vectors = random_vectors(self.circuit, tokens, self.generator)
        symbolic = self.interpreter.run(tokens, vectors, source)
        (exact, exact_cache, last), (found, cache, own_last) = (
            self._run(one, tokens, vectors, memory)
            for one, memory in zip((self.twin, self.model), memories, strict=True)
        )
        wrong = torch.zeros_like(tokens, dtype=torch.bool)
        for name in exact:
            wrong |= self._compare(name, found[name], exact[name], symbolic)
        for name, head in self.model.report.heads.items():
            at = self.twin.report.heads[name]
            pattern = exact_cache[at.pattern][:, at.index]
            off = (cache[head.pattern][:, head.index].double() - pattern).abs().nan_to_num(torch.inf).amax(-1)
            declared = (pattern - symbolic.patterns[name]).abs().amax(-1) < ALLOWED
            self._note(self.heads, name, off * declared, tokens)
        for name, rows in self._written.items():
            layer = self.model.plan.places[name].layer, self.twin.plan.places[name].layer
            written = cache["resid_post", layer[0]].double() @ self._reads[name]
            off = (written - exact_cache["resid_post", layer[1]][..., rows]).abs().nan_to_num(torch.inf).amax(-1)
            self._note(self.tables, name, off * wrong, tokens)
        return last, own_last

    def _columns(self, rows: Int[Tensor, "coordinates"]) -> Sparse:
        """Coordinates of the twin as columns over those of the model, which may have more spaces."""
        here, there = self.model.plan.encoding, self.twin.plan.encoding
        moved = torch.cat([torch.arange(here.slices[name].start, here.slices[name].stop) for name in there.slices])
        shape = here.size, len(rows)
        return Sparse.of(moved[rows], torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.float64), shape)

    def _run(
        self,
        model: "CompiledTransformer",
        tokens: Int[Tensor, "batch pos"],
        vectors: dict[str, Tensor],
        memory: Float[Tensor, "batch source_pos d_memory"] | None,
    ) -> tuple[dict[str, Tensor], Mapping[Any, Tensor], Float[Tensor, "batch pos d_model"]]:
        """The logits and all that readouts say, in float64, the activations on the way, and the last stream."""
        entering, start = (model.embedded(tokens, vectors), 0) if vectors else (tokens, None)
        looked_at: set[HookName] = {head.pattern for head in model.report.heads.values()}
        looked_at |= {("resid_post", model.plan.places[name].layer) for name in model.plan.tables}

        def itself(read: Tensor) -> Tensor:
            return read

        if not looked_at:  # such as in a model without layers
            last, cache = model(entering, itself, start_at_layer=start, memory=memory), {}
        else:
            last, cache = model.run_with_cache(
                entering, itself, names_filter=list(looked_at), start_at_layer=start, memory=memory
            )
        said = {self.circuit.out.name: model.unembed(last).double()} if model.cfg.has_unembed else {}
        for name in model.ends.readouts:
            said[name] = (last @ model.ends.readouts[name].to(last)).double()
        return said, cache, last

    def _compare(
        self,
        name: str,
        found: Float[Tensor, "batch pos labels"],
        exact: Float[Tensor, "batch pos labels"],
        symbolic: Interpretation,
    ) -> Bool[Tensor, "batch pos"]:
        """Where the twin does what was declared, and the model does not.

        Its prediction is another one; or, of a circuit that reads numbers as logits, a number is another one.
        """
        out, below = name == self.circuit.out.name, self.interpreter.thresholds[name]
        labels = self.circuit.vocabulary.words if out else self.circuit.spaces[name].labels
        declared = symbolic.logits if out else symbolic.space(name)
        right, scale = leading(declared, below), declared.abs().amax().clamp(min=1)
        said, of_twin = leading(found, below), leading(exact, below)
        kept, agrees = (
            (one.any(-1) == right.any(-1)) & ~(one & ~right).any(-1)  # one of the labels that lead, and no other
            for one in (of_twin, said)
        )
        kept &= (exact - declared).abs().amax(-1) < UNDECIDED * scale
        kept &= ~((exact - below).abs() < ALLOWED * below).any(-1)  # on the threshold, rounding decides
        off = (found - exact).abs().nan_to_num(torch.inf).amax(-1) > ALLOWED * scale
        wrong = kept & (~agrees | off if out and self.circuit.directs else ~agrees)
        if not self.wrong and bool(wrong.any()):
            row, position = (int(i) for i in wrong.nonzero()[0])
            at = f"at position {position} of {shortened(self.circuit.vocabulary.to_string(symbolic.tokens[row]), 60)}"
            if bool(agrees[row, position]):
                size = float((found - exact)[row, position].abs().max())
                self.wrong = f"its logits are off by {size:.2g} {at}"
            else:
                words = [
                    " and ".join(repr(labels[i]) for i in one[row, position].nonzero()[:, 0].tolist()) or "nothing"
                    for one in (said, of_twin)
                ]
                self.wrong = f"it predicts {words[0]} instead of {words[1]} {at}"
        return wrong

    def _note(
        self, parts: dict[str, _Off], name: str, off: Float[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"]
    ) -> None:
        if name not in parts or float(off.max()) > parts[name].size:
            row, position = divmod(int(off.argmax()), off.shape[1])
            text = shortened(self.circuit.vocabulary.to_string(tokens[row]), 60)
            parts[name] = _Off(float(off.max()), text, position)

    def judge(self, advice: str) -> None:
        """Raise `ConfigError` if something was found.

        It names the head whose pattern is furthest off. Where patterns are right and a prediction is not, it names the
        table that writes what is furthest off.
        """
        dtype = self.model.cfg.dtype
        for kind, parts, what, most in (
            ("head", self.heads, "its pattern", ALLOWED),
            ("mlp", self.tables, "what it writes", ALLOWED if not self.wrong else 0.0),
        ):
            worst = max(parts, key=lambda name: parts[name].size, default=None)
            if worst is not None and parts[worst].size > most:
                off = parts[worst]
                where = f"by {off.size:.2g} at position {off.position} of {off.text}"
                predicted = f", and {self.wrong}" if self.wrong else ""
                raise ConfigError(f"{kind} {worst!r}: in {dtype} {what} is off {where}{predicted}; {advice}")
        if self.wrong:
            raise ConfigError(f"in {dtype} {self.wrong}; {advice}")
