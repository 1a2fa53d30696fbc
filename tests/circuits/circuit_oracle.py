"""Holds a compiled circuit to its interpreter: every pattern, every logit and every prediction, within what follows.

The interpreter says what a circuit means. The compiled model may differ from it by the declared `error` of each head's
attention, by what its dtype rounds and its norm changes, and by what these do to the parts that read them. `Bound`
follows all of it through the circuit.
"""

import itertools
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits import Circuit
from circuits.compiler import CompiledTransformer, OneHot, PositionCode, position_code
from circuits.language import Declaration, Form, Head, Interpretation, Interpreter, Layout, Neurons, leading
from interp.errors import InterpError

DTYPES = (torch.float64, torch.float32)
"""What circuits are compiled to."""

EXACT: dict[str, Any] = {"error": 1e-12, "ballast": 1e6}
"""Options in float64, which can keep them."""

ROUNDS = 16.0
"""How many roundings of the dtype a number of the stream goes through between two layers, at most."""

CAP = 0.02
"""The share of a weight or of a logit beyond which nothing is excused."""


@dataclass(frozen=True)
class Verdict:
    """What came of one circuit in one dtype.

    Attributes:
        kind: "agrees", "refused", "disagrees", "broken" where the interpreter says that a text breaks the declaration,
            or "threshold" where a logit lies on `nothing_below`.
        said: the message of a refusal, what is broken, or where the two disagree.
        bound: how far logits may be apart.
        worst: how far they are.
    """

    kind: str
    said: str = ""
    bound: float = 0.0
    worst: float = 0.0


def texts(circuit: Circuit, rng: random.Random, at_most: int) -> Iterator[Int[Tensor, "batch pos"]]:
    """All texts of every length, or so many of a length drawn at random where there are more."""
    start = [] if circuit.bos is None else [circuit.vocabulary.to_single_token(circuit.bos)]
    rests = any(head.sink for head in circuit.heads)  # then the start cannot come again
    words = [word for word in range(circuit.vocabulary.d_vocab) if not (rests and word in start)]
    for length in range(1, circuit.n_ctx + 1):
        free = length - len(start)
        if len(words) ** free <= at_most:
            rows = list(itertools.product(words, repeat=free))
        else:
            rows = [tuple(rng.choice(words) for _ in range(free)) for _ in range(at_most)]
        yield torch.tensor([[*start, *row] for row in rows]).reshape(len(rows), length)


class Bound:
    """How far a model may be from its interpreter, followed through the layers.

    For each coordinate of the stream, by label, there is the most it can be (`most`) and the most it can be off
    (`off`).

    Attributes:
        patterns: how far the patterns of each head may be off.
        logits: how far any logit may be off.
        readouts: how far any number of a readout may be off, by its name.
    """

    def __init__(self, circuit: Circuit, model: CompiledTransformer, options: dict[str, Any]):
        self.layout, self.model, self.circuit = Layout(circuit), model, circuit
        self.eps, self.error = torch.finfo(model.cfg.dtype).eps, options.get("error", 1e-6)
        self.ballast = options.get("ballast", 1e3) if model.cfg.normalization_type else None
        self.rotated, self.slack = "rotate" in options or "fill" in options, options.get("slack", 0.0)
        self.most = self._embedded()
        self.off = torch.zeros_like(self.most)
        self._read_positions(position_code(options.get("positions", "onehot")))
        if "distract" in options:
            self.code += 4.0 * options["distract"].heads
        if "fill" in options:
            n_writers = 2 + model.cfg.n_layers * (model.cfg.n_heads + model.cfg.d_mlp)
            self.code += options["fill"].std ** 2 * model.cfg.d_model * n_writers
        self.patterns: dict[str, float] = {}
        self._round()
        for layer in range(circuit.n_layers):
            parts = [part for part in circuit.parts if part.layer == layer]
            self._add([self._head(part) for part in parts if isinstance(part, Head)])
            self._add([self._neurons(part) for part in parts if isinstance(part, Neurons)])
        read = self._unembedding()
        self.off = self.off + self.eps  # what factors leave of zeros
        capped = torch.minimum(self.off, CAP * self.most.clamp(min=1))
        self.logits = float(torch.minimum(self.off @ read, CAP * (self.most @ read).clamp(min=1)).max())
        self.readouts = {name: float(capped[self.layout.slices[name]].max()) for name in circuit.readouts}

    def _read_positions(self, code: PositionCode) -> None:
        """A low-rank code is large, and labels are read from it with large factors."""
        vectors = code.vectors(self.circuit.n_ctx)
        self.code = float(vectors.square().sum(-1).max()) if vectors.numel() else 0.0
        if vectors.numel() and code != OneHot() and (where := self.layout.slices.get(self.circuit.pos.name)):
            factors = torch.linalg.pinv(vectors).abs().sum(0)  # [n_ctx]
            self.off[where] = ROUNDS * self.eps * factors * vectors.abs().max()

    def _embedded(self) -> Float[Tensor, "size"]:
        most = torch.zeros(self.layout.size, dtype=torch.float64)
        for name, where in self.layout.slices.items():
            if name in self.circuit.embeddings:
                most[where] = self.circuit.embeddings[name].abs().amax(0)
            elif name == self.circuit.pos.name:
                most[where] = 1
            elif name in self.circuit.inputs:
                most[where] = max(map(abs, self.circuit.inputs[name]))
        return most

    def _unembedding(self) -> Float[Tensor, "size d_vocab"]:
        out, read = self.circuit.out, torch.zeros(self.layout.size, len(self.circuit.out), dtype=torch.float64)
        if out.name in self.layout.slices:
            read[self.layout.slices[out.name]] = torch.eye(len(out), dtype=torch.float64)
        for form in self.circuit.directs:
            for term in form.terms:
                read[self.layout.slices[term.rows.name]] += term.weighted.abs()
        return read

    def _form(self, form: Form) -> Float[Tensor, "size size"]:
        """A form as one matrix, without signs."""
        whole = torch.zeros(self.layout.size, self.layout.size, dtype=torch.float64)
        for term in form.terms:
            whole[self.layout.slices[term.rows.name], self.layout.slices[term.columns.name]] += term.weighted.abs()
        return whole

    def _sums(self, sums: Sequence[Sequence[tuple[Any, float]]]) -> Float[Tensor, "sums size"]:
        """Sums of coordinates as rows, without signs."""
        rows = torch.zeros(len(sums), self.layout.size, dtype=torch.float64)
        for row, terms in zip(rows, sums, strict=True):
            for one, factor in terms:
                row[self.layout.slices[one.space.name].start + one.space.index(one.label)] += abs(factor)
        return rows

    def _round(self) -> None:
        """What the dtype and the norm do to the whole stream."""
        length, rounds = float(self.most.square().sum()) + self.code, ROUNDS * self.eps
        self.off = self.off + rounds * self.most
        if self.rotated:
            self.off = self.off + rounds * length**0.5
        if self.ballast is not None:
            self.off = self.off + (length / self.ballast**2 + rounds) * self.most

    def _add(self, written: Sequence[tuple[Tensor, Tensor]]) -> None:
        for most, off in written:
            self.most, self.off = self.most + most, self.off + off
        self._round()

    def _head(self, head: Head) -> tuple[Float[Tensor, "size"], Float[Tensor, "size"]]:
        """The most a head writes, and how far that is off."""
        report, n = self.model.report.heads[head.name], self.circuit.n_ctx
        qk, ov = self._form(head.scores), self._form(head.ov)
        off = float(self.most @ qk @ self.off + self.off @ qk @ self.most + self.off @ qk @ self.off)
        off = min(25.0, report.sharp * off + 8 * self.eps * max(report.largest_score, 1.0))
        error, shares = self.error, torch.tensor(2 * off).expm1()
        if head.attend == "soft":
            error = 0.0
        elif head.sharp is not None:
            error = min(1.0, n * float(torch.tensor(-head.sharp * (head.gap or 0)).exp()))
        if head.ties != "mean":  # one key has it all, and what goes astray is small however far scores are off
            shares = error * shares
        pattern, most = min(1.0, error + float(shares) + 8 * n * self.eps), self.most @ ov
        self.patterns[head.name] = min(pattern, CAP)
        return most, 2 * pattern * most + self.off @ ov

    def _neurons(self, part: Neurons) -> tuple[Float[Tensor, "size"], Float[Tensor, "size"]]:
        """The most that neurons write, and how far that is off: nothing where a ramp snaps."""
        reads = self._sums([ramp.reads for ramp in part.ramps])
        writes = self._sums([ramp.writes for ramp in part.ramps])
        rise = torch.tensor([ramp.high - ramp.low for ramp in part.ramps], dtype=torch.float64)
        height = torch.tensor([abs(ramp.low) + abs(ramp.high) for ramp in part.ramps], dtype=torch.float64)
        snaps = torch.tensor([ramp.snaps for ramp in part.ramps])
        off, rounded = reads @ self.off, 8 * self.eps * (height + reads @ self.most) / rise
        off = (off / rise).clamp(max=1.0)
        off = torch.where(snaps & (off < 0.5), self.slack * off, off) + rounded
        return torch.ones_like(off) @ writes, off @ writes


def compare(circuit: Circuit, options: dict[str, Any], dtype: torch.dtype, rng: random.Random, at_most: int) -> Verdict:
    """Compile a circuit, and hold it to its interpreter on all texts, or so many of each length."""
    options = {**options, **(EXACT if dtype == torch.float64 else {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large scores, which the bound counts
            model, interpreter = circuit.compile(**options, dtype=dtype), Interpreter(circuit.layout())
    except InterpError as error:
        return Verdict("refused", f"{type(error).__name__}: {error}")
    return held(model, interpreter, Bound(circuit, model, options), texts(circuit, rng, at_most))


@torch.no_grad()
def held(
    model: CompiledTransformer, interpreter: Interpreter, bound: Bound, batches: Iterable[Int[Tensor, "batch pos"]]
) -> Verdict:
    """What comes of a model, held to its interpreter on these texts, and on random vectors where it takes any."""
    circuit, worst = model.circuit, 0.0
    layers = [("pattern", layer) for layer in sorted({model.report.heads[head.name].layer for head in circuit.heads})]
    for tokens in batches:
        vectors = {name: _uniform(tokens, len(circuit.spaces[name]), *ends) for name, ends in circuit.inputs.items()}
        meant = interpreter.run(circuit.tokens(tokens), vectors)
        if meant.broken:
            return Verdict("broken", f"on texts such as {_text(circuit, tokens[-1])}: {meant.broken[0]}")
        stream = model.embedded(tokens, vectors)
        cache: Any = {}
        if layers:
            logits, cache = model.run_with_cache(stream, start_at_layer=0, names_filter=layers)
        else:
            logits = model(stream, start_at_layer=0)
        assert isinstance(logits, Tensor)
        compared: list[tuple[str, Tensor, Tensor, float]] = []
        for name, pattern in meant.patterns.items():
            place = model.report.heads[name]
            compared.append((f"pattern of {name!r}", cache["pattern", place.layer][:, place.index], pattern,
                             bound.patterns[name]))  # fmt: skip
        compared += [(f"readout {name!r}", model.readout(stream, name), meant.space(name), bound.readouts[name])
                     for name in circuit.readouts]  # fmt: skip
        for what, is_now, should_be, may_be in [*compared, ("logits", logits, meant.logits, bound.logits)]:
            off, row = _largest(is_now.double() - should_be)
            worst = max(worst, off) if what == "logits" else worst
            if not off <= may_be:
                said = f"{what} on {_text(circuit, tokens[row])}: {off:.2g} > {may_be:.2g}"
                return Verdict("disagrees", said, bound.logits, off)
        for name, may_be in {circuit.out.name: bound.logits, **bound.readouts}.items():
            if (wrong := _wrong_prediction(model, interpreter, meant, vectors, name, may_be)) is not None:
                return Verdict(*wrong, bound.logits, worst)
    return Verdict("agrees", bound=bound.logits, worst=worst)


def _wrong_prediction(
    model: CompiledTransformer,
    interpreter: Interpreter,
    meant: Interpretation,
    vectors: dict[str, Tensor],
    name: str,
    bound: float,
) -> tuple[str, str] | None:
    """A prediction of `out` or of a readout that the interpreter does not allow.

    None is looked for where the bound is wider than a tie.
    """
    below, circuit = interpreter.thresholds[name], model.circuit
    if bound >= float(below.amin()) / 20:
        return None
    readout = None if name == circuit.out.name else name
    labels = circuit.vocabulary.words if readout is None else circuit.readouts[readout].labels
    numbers = meant.logits if readout is None else meant.space(readout)
    allowed = leading(numbers, below)
    for row, said in enumerate(model.predict(meant.tokens, readout, vectors)):
        for place, label in enumerate(said):
            right = allowed[row, place]
            if not right.any() if label is None else right[labels.index(label)]:
                continue
            near = bool(((numbers[row, place] - below).abs() <= bound).any())
            text = _text(circuit, meant.tokens[row])
            return ("threshold" if near else "disagrees"), f"{name!r} says {label!r} at {place} of {text}"
    return None


def _uniform(tokens: Int[Tensor, "batch pos"], size: int, low: float, high: float) -> Float[Tensor, "batch pos size"]:
    """Random vectors, the same for the same shape."""
    generator = torch.Generator().manual_seed(tokens.numel())
    return low + (high - low) * torch.rand(*tokens.shape, size, generator=generator, dtype=torch.float64)


def _text(circuit: Declaration, tokens: Int[Tensor, "pos"]) -> str:
    return repr(circuit.vocabulary.to_string(tokens))


def _largest(differences: Float[Tensor, "batch query key"]) -> tuple[float, int]:
    """The largest absolute value and its row; infinite where something is not a number."""
    off = differences.abs().nan_to_num(torch.inf).flatten(1).amax(1)
    return float(off.max()), int(off.argmax())
