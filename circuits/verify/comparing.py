"""Comparing: batch after batch of texts is run through model and interpreter, and held against the right answers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.compiler import CompiledTransformer
from circuits.language import (
    SOURCE,
    Declaration,
    Head,
    Interpretation,
    Interpreter,
    Label,
    Layout,
    Part,
    checked_readout,
    decode,
    in_words,
    key_as_written,
    listed,
    real_tensor,
)
from circuits.verify.answers import Reference, interpreted_answers, reference_answers
from circuits.verify.inputs import batches
from circuits.verify.report import Report, Worst
from interp.errors import ConfigError, ShapeError, describe
from interp.model import HookedTransformer
from interp.text import Vocabulary

SAID = 8
"""The most broken promises that a report says."""

RESTS = 1 - 1e-6
"""A head rests where the start of the text has this much of its attention, or more."""


def check_model(circuit: Declaration, model: HookedTransformer) -> None:
    """Raise `ConfigError` for a model that cannot have been compiled from the circuit."""
    if not isinstance(model, HookedTransformer):
        raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer")
    cfg, heads = model.cfg, Counter((head.layer, head.phase) for head in circuit.heads)
    for what, has, needs in (
        ("words", cfg.d_vocab, circuit.vocabulary.d_vocab),
        ("positions", cfg.n_ctx, circuit.n_ctx),
        ("layers", cfg.n_layers, circuit.n_layers),
        ("heads a layer", cfg.n_heads, max(heads.values(), default=0)),
    ):
        more = ("heads a layer", "layers") if isinstance(model, CompiledTransformer) else ("heads a layer",)
        if has != needs and not (what in more and has > needs):
            raise ConfigError(f"the model has {has} {what}, the circuit {needs}: it was not compiled from it")
    words = model.tokenizer.words if isinstance(model.tokenizer, Vocabulary) else circuit.vocabulary.words
    if words != circuit.vocabulary.words:
        raise ConfigError(f"the model's words are {listed(words)}, the circuit's {listed(circuit.vocabulary.words)}")


def places(circuit: Declaration, model: HookedTransformer) -> dict[str, tuple[int, int]]:
    """The layer and the index of every head, by name. A plain model has them where `compile` puts them by default.

    Raises `ConfigError` for a model that was compiled from a circuit with other heads.
    """
    if isinstance(model, CompiledTransformer):
        known = {name: (head.layer, head.index) for name, head in model.report.heads.items()}
        missing = next((head.name for head in circuit.heads if head.name not in known), None)
        if missing is not None:
            raise ConfigError(f"the model has no head {missing!r}: it was not compiled from this circuit")
        return {head.name: known[head.name] for head in circuit.heads}
    found: dict[str, tuple[int, int]] = {}
    taken: Counter[tuple[int, float]] = Counter()
    for head in circuit.heads:
        found[head.name] = head.layer, taken[head.layer, head.phase]
        taken[head.layer, head.phase] += 1
    return found


def patterns_of(circuit: Declaration, model: HookedTransformer, stack: str = "") -> dict[str, tuple[str, int]]:
    """The hook point of every head's pattern, and which of its heads it is, by name.

    `stack` is what names of points begin with, such as "encoder.". Raises `ConfigError` as `places` does.
    """
    found = places(circuit, model)
    sites = {head.name: "cross_attn" if head.cross else "attn" for head in circuit.heads}
    return {
        name: (f"{stack}blocks.{layer}.{sites[name]}.hook_pattern", index) for name, (layer, index) in found.items()
    }


class Ends:
    """What is compared, and what is given beside words.

    Raises `ConfigError` for a readout that the circuit does not have, for vectors that are missing or not asked for,
    and for a plain model that is asked for either.
    """

    def __init__(
        self,
        circuit: Declaration,
        model: HookedTransformer,
        readout: str | None,
        vectors: Callable[[str], Mapping[str, Any]] | None,
    ):
        self.model, self.readout, self._vectors, self._spaces = model, readout, vectors, circuit.inputs
        self.labels: tuple[Label, ...] = circuit.vocabulary.words
        if readout is not None:
            self.labels = checked_readout(Layout(circuit), readout).labels
        if (vectors is None) != (not circuit.inputs):
            takes = f"reads vectors {listed(circuit.inputs)}" if circuit.inputs else "reads no vectors"
            raise ConfigError(f"the circuit {takes}, and vectors = {describe(vectors)}")
        if (readout is not None or vectors is not None) and not isinstance(model, CompiledTransformer):
            raise ConfigError("readouts and vectors need a model as `compile` returns it; a saved one is a plain model")

    def vectors_of(self, texts: list[str]) -> dict[str, Tensor] | None:
        """The vectors of texts of one length, [batch, pos, size]."""
        if self._vectors is None:
            return None
        together: dict[str, list[Tensor]] = {}
        for text in texts:
            given = self._vectors(text)
            if not isinstance(given, Mapping):
                raise ConfigError(f"the vectors of {describe(text)} are {describe(given)}; allowed: a mapping from "
                                  f"{listed(self._spaces)}")  # fmt: skip
            for name, value in given.items():
                together.setdefault(name, []).append(real_tensor(f"vectors {name!r} of {describe(text)}", value))
        for name, each in together.items():
            shapes = {tuple(one.shape) for one in each}
            if len(shapes) > 1 or len(each) != len(texts):
                raise ShapeError(f"vectors {name!r} have shapes {listed(shapes)} for {len(each)} of {len(texts)} texts "
                                 "of one length; allowed: one shape, [pos, size]")  # fmt: skip
        return {name: torch.stack(each) for name, each in together.items()}

    def read(self, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos labels"]:
        """What the readout says of the end of the stream."""
        assert isinstance(self.model, CompiledTransformer) and self.readout is not None
        return self.model.readout_at(stream, self.readout)


class Check:
    """The check so far: it takes batch after batch, and makes the report."""

    def __init__(
        self,
        circuit: Declaration,
        model: HookedTransformer,
        reference: Reference | None,
        tolerance: float,
        ends: Ends,
    ):
        self.circuit, self.model, self.reference, self.tolerance, self.ends = circuit, model, reference, tolerance, ends
        self.has_reference = reference is not None
        self.interpreter = Interpreter(Layout(circuit))
        self.reads = circuit  # whose texts the inputs are
        self.patterns = patterns_of(circuit, model)
        self.labels = ends.labels
        self.nothing_below = self.interpreter.thresholds[ends.readout or circuit.out.name]
        self.n_batches = self.n_inputs = self.n_positions = self.n_right = self.n_symbolic = 0
        self.logit_error, self.largest, self.worst = 0.0, 1.0, None
        self.broken: dict[str, None] = {}
        self.fired: dict[str, Tensor] = {}
        self.woke: set[str] = set()
        self.pattern_errors: dict[str, float] = {}
        self.words = {word: i for i, word in enumerate(circuit.vocabulary.words)}
        self.ids: dict[Label, int] = {label: i for i, label in enumerate(self.labels)}

    def add(self, texts: list[str], split: list[list[str]]) -> float:
        """Run texts of one length, given as they are and in words. Returns the seconds that it took."""
        start = time.perf_counter()
        tokens = self.circuit.tokens(torch.tensor([[self.words[word] for word in words] for words in split]))
        vectors = self.ends.vectors_of(texts)
        symbolic = self.interpreter.run(tokens, vectors)
        logits = self._run(tokens, vectors, symbolic)
        self._compare(texts, symbolic, logits, self.reference)
        self.n_batches += 1
        return time.perf_counter() - start

    def _compare(
        self,
        texts: list[str],
        symbolic: Interpretation,
        logits: Float[Tensor, "batch pos labels"],
        reference: Reference | None,
    ) -> None:
        """Hold the model's logits, or what its readout says, against the interpreter's and the right answers."""
        wanted, n_pos = symbolic.logits, symbolic.tokens.shape[1]
        if self.ends.readout is not None:
            wanted = symbolic.space(self.ends.readout)
        self._note(symbolic)
        if reference is None:
            answers = interpreted_answers(wanted, self.nothing_below, self.labels)
        else:
            answers = reference_answers(reference, texts, n_pos, self.ids)
        margins = answers.margins(logits, self.nothing_below, self.tolerance)
        self.n_inputs += len(texts)
        self.n_positions += symbolic.tokens.numel()
        self.n_right += int((margins > 0).sum())
        self.n_symbolic += int((answers.margins(wanted, self.nothing_below, self.tolerance) > 0).sum())
        self.logit_error = max(self.logit_error, largest(logits - wanted))
        self.largest = max(self.largest, largest(wanted))
        row, position = divmod(int(margins.argmin()), n_pos)
        if self.worst is None or float(margins[row, position]) < self.worst.margin:
            said = in_words(decode(logits[row : row + 1], self.nothing_below), self.labels)
            expected = answers.given[row][position]
            self.worst = Worst(texts[row], position, float(margins[row, position]), said[0][position], expected)

    def time_each(self, texts: Iterable[str], size: int) -> float:
        """The seconds that one of these texts takes, in batches of this size. The first of several is not counted."""
        times = [self.add(*batch) / len(batch[0]) for batch in batches(self.reads, texts, size)]
        return sum(times[1:] or times) / len(times[1:] or times)

    def _note(self, symbolic: Interpretation) -> None:
        """Keep what the inputs break, which entries fire, and which heads look elsewhere than at the start."""
        self.broken.update(dict.fromkeys(symbolic.broken[: max(0, SAID - len(self.broken))]))
        for name, fired in in_both(symbolic, lambda one: one.fired).items():
            self.fired[name] = fired | self.fired.get(name, torch.zeros_like(fired))
        for name, pattern in in_both(symbolic, lambda one: one.patterns).items():
            if bool((pattern[..., 0] < RESTS).any()):
                self.woke.add(name)

    def _dead(self) -> list[str]:
        """What never happened, in sentences."""
        said: list[str] = []
        for name, part in self._parts():
            if isinstance(part, Head):
                if part.sink and name not in self.woke:
                    said.append(f"head {name!r} never looks elsewhere than at the start")
            elif part.table is not None and (silent := (~self.fired[name]).nonzero()[:, 0].tolist()):
                entries = part.table.entries
                one = key_as_written(entries[silent[0]].key)
                said.append(f"mlp {name!r}: {len(silent)} of {len(entries)} entries never fire, such as {one}")
        return said

    def _parts(self) -> Iterator[tuple[str, Part]]:
        """All parts by name."""
        for part in self.circuit.parts:
            yield part.name, part

    @torch.no_grad()
    def _run(
        self, tokens: Int[Tensor, "batch pos"], vectors: dict[str, Tensor] | None, symbolic: Interpretation
    ) -> Float[Tensor, "batch pos labels"]:
        """The model's logits, or what its readout says; its patterns are compared on the way."""
        tokens = tokens.to(self.model.W_E.device)
        first: Tensor = tokens
        start = 0 if isinstance(self.model, CompiledTransformer) and vectors else None
        if isinstance(self.model, CompiledTransformer) and vectors:
            first = self.model.embedded(tokens, vectors)
        patterns = sorted({name for name, _ in self.patterns.values()})
        end = [f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"] if self.ends.readout is not None else []
        if not patterns and not end:
            return self.model(first, start_at_layer=start).double().cpu()
        logits, cache = self.model.run_with_cache(first, names_filter=[*patterns, *end], start_at_layer=start)
        if self.ends.readout is not None:
            logits = self.ends.read(cache[end[0]])
        self._compare_patterns(cache, symbolic)
        return logits.double().cpu()

    def _compare_patterns(self, cache: Mapping[str, Tensor], symbolic: Interpretation) -> None:
        """Hold the model's patterns against the interpreter's."""
        wanted = in_both(symbolic, lambda one: one.patterns)
        for name, (point, index) in self.patterns.items():
            error = largest(cache[point][:, index].double().cpu() - wanted[name])
            self.pattern_errors[name] = max(self.pattern_errors.get(name, 0.0), error)

    def _by_itself(self) -> dict[str, Any]:
        """What is reported of a model that answers by itself: nothing here."""
        return {}

    @property
    def _allowed(self) -> float:
        lost = self.model.report.error if isinstance(self.model, CompiledTransformer) else 0.0
        return self.tolerance + lost

    def report(self, sampled_from: int | None) -> Report:
        """All batches together. Raises `ConfigError` if nothing was run."""
        if self.worst is None:
            raise ConfigError("verify: there are no inputs")
        return Report(
            n_inputs=self.n_inputs,
            n_positions=self.n_positions,
            n_right=self.n_right,
            n_symbolic=self.n_symbolic,
            margin=self.worst.margin,
            worst=self.worst,
            logit_error=self.logit_error,
            pattern_errors=self.pattern_errors,
            logit_tolerance=self._allowed * self.largest,
            pattern_tolerance=self._allowed,
            broken=tuple(self.broken),
            dead=tuple(self._dead()),
            sampled_from=sampled_from,
            has_reference=self.has_reference,
            **self._by_itself(),
        )


Found = TypeVar("Found")


def in_both(symbolic: Interpretation, of: Callable[[Interpretation], Mapping[str, Found]]) -> dict[str, Found]:
    """Something of every part, of the circuit and of its source, whose parts are called "source/..."."""
    if symbolic.source is None:
        return dict(of(symbolic))
    return {**{SOURCE + name: one for name, one in of(symbolic.source).items()}, **of(symbolic)}


def largest(differences: Tensor) -> float:
    """The largest absolute value; infinite where one is not a number."""
    return float(differences.abs().nan_to_num(math.inf).max())
