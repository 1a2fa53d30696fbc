"""The check: batch after batch of texts is run through model, interpreter and reference, and compared."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.compiler import CompiledTransformer, compile_circuit
from circuits.language import (
    Declaration,
    Head,
    Interpretation,
    Interpreter,
    Label,
    Layout,
    Number,
    checked_readout,
    decode,
    in_words,
    is_finite,
    key_as_written,
    listed,
    real_tensor,
)
from circuits.verify.answers import Reference, interpreted_answers, reference_answers
from circuits.verify.inputs import all_texts, batches, counted, sampled
from circuits.verify.limits import LONG, MANY, TRIAL, too_many
from circuits.verify.nonzeros import through_nonzeros
from circuits.verify.report import Report, Worst
from interp.errors import ConfigError, ShapeError, describe
from interp.indices import check_count, check_seed
from interp.keywords import known_keywords
from interp.model import HookedTransformer
from interp.progress import progress_bar
from interp.text import Vocabulary

SAID = 8
"""The most broken promises that a report says."""

RESTS = 1 - 1e-6
"""A head rests where the start of the text has this much of its attention, or more."""


class VerifyOptions(TypedDict, total=False):
    """What `Circuit.verify` takes besides inputs and reference; see `verify`."""

    model: HookedTransformer | None
    length: int | None
    sample: int | None
    seed: int
    limit: int | None
    tolerance: Number
    batch_size: int
    progress: bool
    title: str
    readout: str | None
    vectors: Callable[[str], Mapping[str, Any]] | None


@known_keywords
def verify(
    circuit: Declaration,
    inputs: Iterable[str] | None = None,
    reference: Reference | None = None,
    *,
    model: HookedTransformer | None = None,
    length: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    tolerance: Number = 1e-4,
    batch_size: int = 4096,
    progress: bool = True,
    title: str = "verifying",
    readout: str | None = None,
    vectors: Callable[[str], Mapping[str, Any]] | None = None,
) -> Report:
    """Run every input through the model and the interpreter, and compare both with the reference.

    Large tables are run through the nonzero entries of their weights (`through_nonzeros`).

    Args:
        inputs: texts; without them, all texts of `length` words after the start (never the start itself).
        reference: gives the right answer at each position of a text; by default the interpreter does.
        model: a model compiled from `circuit`, also one that was changed or saved and loaded since; by default
            `circuit.compile()`.
        length: words a text; by default as many as fit.
        sample: run so many of the inputs, drawn at random without replacement. The report says of how many.
        seed: of the sample.
        limit: the most inputs that are run. By default a million, or as many as take an hour.
        tolerance: how far logits may be from those that the reference gives, and logits and patterns of the model from
            the interpreter's; see `Report`.
        batch_size: texts a run.
        progress: show a progress bar, on standard error where that is a terminal.
        title: what the progress bar is called.
        readout: compare what this readout says, instead of the words that are predicted; answers are its labels.
        vectors: gives the vectors of a text, [pos, size], by space, for a circuit that reads some.

    Raises `ConfigError` for more inputs than the limit, which names the time that they would take and the ways out; for
    options that contradict each other, no inputs at all, a model of other sizes, or a reference that answers for
    another number of positions or with something else than words, None and mappings; `TokenError` for texts that the
    circuit does not take.
    """
    if isinstance(inputs, str) or not (inputs is None or isinstance(inputs, Iterable)):
        raise ConfigError(f"inputs = {describe(inputs)}; allowed: a list of texts")
    if reference is not None and not callable(reference):
        raise ConfigError(f"reference = {describe(reference)}; allowed: a function from a text to its answers")
    check_seed(seed)
    if inputs is not None and length is not None:
        raise ConfigError("verify takes inputs or length, not both")
    for name, value in (("length", length), ("sample", sample), ("limit", limit), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value)
    if not is_finite(tolerance) or tolerance <= 0:
        raise ConfigError(f"tolerance = {describe(tolerance)}; allowed: a finite number above 0")
    most = MANY if limit is None else limit
    given = counted(all_texts(circuit, length) if inputs is None else inputs, most)
    model = compile_circuit(circuit) if model is None else model
    _check_model(circuit, model)

    if vectors is not None and not callable(vectors):
        raise ConfigError(f"vectors = {describe(vectors)}; allowed: a function from a text to its vectors, by space")
    ends = _Ends(circuit, model, readout, vectors)

    def new_check() -> _Check:
        return _Check(circuit, model, reference, float(tolerance), ends)

    n_wanted = given.count if given.count is None or sample is None else min(sample, given.count)
    with through_nonzeros(model):
        if n_wanted is None or n_wanted > most:
            each = new_check().time_each(itertools.islice(given.texts, 2 * TRIAL), min(batch_size, TRIAL))
            raise too_many(n_wanted, most, each, shorter=inputs is None)
        given = given if sample is None else sampled(given, sample, seed)
        check = new_check()
        with progress_bar(title, given.count, progress) as advance:
            for texts, words in batches(circuit, given.texts, batch_size, first=(TRIAL, TRIAL)):
                seconds = check.add(texts, words)
                advance(len(texts))
                if limit is None and check.n_batches > 1 and seconds / len(texts) * n_wanted > LONG:
                    raise too_many(n_wanted, most, seconds / len(texts), shorter=inputs is None)
    return check.report(given.sampled_from)


def _check_model(circuit: Declaration, model: HookedTransformer) -> None:
    """Raise `ConfigError` for a model that cannot have been compiled from the circuit."""
    if not isinstance(model, HookedTransformer):
        raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer")
    cfg, heads = model.cfg, Counter(head.layer for head in circuit.heads)
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


def _places(circuit: Declaration, model: HookedTransformer) -> dict[str, tuple[int, int]]:
    """The layer and the index of every head, by name. A plain model has them where `compile` puts them by default.

    Raises `ConfigError` for a model that was compiled from a circuit with other heads.
    """
    if isinstance(model, CompiledTransformer):
        known = {name: (head.layer, head.index) for name, head in model.report.heads.items()}
        missing = next((head.name for head in circuit.heads if head.name not in known), None)
        if missing is not None:
            raise ConfigError(f"the model has no head {missing!r}: it was not compiled from this circuit")
        return {head.name: known[head.name] for head in circuit.heads}
    layers = {head.layer: [one.name for one in circuit.heads if one.layer == head.layer] for head in circuit.heads}
    return {name: (layer, index) for layer, names in layers.items() for index, name in enumerate(names)}


class _Ends:
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


class _Check:
    """The check so far: it takes batch after batch, and makes the report."""

    def __init__(
        self,
        circuit: Declaration,
        model: HookedTransformer,
        reference: Reference | None,
        tolerance: float,
        ends: "_Ends",
    ):
        self.circuit, self.model, self.reference, self.tolerance, self.ends = circuit, model, reference, tolerance, ends
        self.interpreter = Interpreter(Layout(circuit))
        self.heads = _places(circuit, model)
        self.labels = ends.labels
        self.nothing_below = self.interpreter.thresholds[ends.readout or circuit.out.name]
        self.n_batches = self.n_inputs = self.n_positions = self.n_right = self.n_symbolic = 0
        self.logit_error, self.largest, self.worst = 0.0, 1.0, None
        self.broken: dict[str, None] = {}
        self.fired: dict[str, Tensor] = {}
        self.woke: set[str] = set()
        self.pattern_errors = dict.fromkeys(self.heads, 0.0)
        self.words = {word: i for i, word in enumerate(circuit.vocabulary.words)}
        self.ids: dict[Label, int] = {label: i for i, label in enumerate(self.labels)}

    def add(self, texts: list[str], split: list[list[str]]) -> float:
        """Run texts of one length, given as they are and in words. Returns the seconds that it took."""
        start = time.perf_counter()
        tokens = self.circuit.tokens(torch.tensor([[self.words[word] for word in words] for words in split]))
        vectors = self.ends.vectors_of(texts)
        symbolic = self.interpreter.run(tokens, vectors)
        logits = self._run(tokens, vectors, symbolic)
        wanted = symbolic.logits if self.ends.readout is None else symbolic.space(self.ends.readout)
        self._note(symbolic)
        if self.reference is None:
            answers = interpreted_answers(wanted, self.nothing_below, self.labels)
        else:
            answers = reference_answers(self.reference, texts, tokens.shape[1], self.ids)
        margins = answers.margins(logits, self.nothing_below, self.tolerance)
        self.n_batches += 1
        self.n_inputs += len(texts)
        self.n_positions += tokens.numel()
        self.n_right += int((margins > 0).sum())
        self.n_symbolic += int((answers.margins(wanted, self.nothing_below, self.tolerance) > 0).sum())
        self.logit_error = max(self.logit_error, _largest(logits - wanted))
        self.largest = max(self.largest, _largest(wanted))
        row, position = divmod(int(margins.argmin()), tokens.shape[1])
        if self.worst is None or float(margins[row, position]) < self.worst.margin:
            said = in_words(decode(logits[row : row + 1], self.nothing_below), self.labels)
            expected = answers.given[row][position]
            self.worst = Worst(texts[row], position, float(margins[row, position]), said[0][position], expected)
        return time.perf_counter() - start

    def time_each(self, texts: Iterable[str], size: int) -> float:
        """The seconds that one of these texts takes, in batches of this size. The first of several is not counted."""
        times = [self.add(*batch) / len(batch[0]) for batch in batches(self.circuit, texts, size)]
        return sum(times[1:] or times) / len(times[1:] or times)

    def _note(self, symbolic: Interpretation) -> None:
        """Keep what the inputs break, which entries fire, and which heads look elsewhere than at the start."""
        self.broken.update(dict.fromkeys(symbolic.broken[: max(0, SAID - len(self.broken))]))
        for name, fired in symbolic.fired.items():
            self.fired[name] = fired | self.fired.get(name, torch.zeros_like(fired))
        self.woke.update(name for name, pattern in symbolic.patterns.items() if bool((pattern[:, 1:, 0] < RESTS).any()))

    def _dead(self) -> list[str]:
        """What never happened, in sentences."""
        said: list[str] = []
        for part in self.circuit.parts:
            if isinstance(part, Head):
                if part.sink and part.name not in self.woke:
                    said.append(f"head {part.name!r} never looks elsewhere than at the start")
            elif part.table is not None and (silent := (~self.fired[part.name]).nonzero()[:, 0].tolist()):
                entries = part.table.entries
                one = key_as_written(entries[silent[0]].key)
                said.append(f"mlp {part.name!r}: {len(silent)} of {len(entries)} entries never fire, such as {one}")
        return said

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
        patterns = [("pattern", layer) for layer in {layer for layer, _ in self.heads.values()}]
        end = [("resid_post", self.model.cfg.n_layers - 1)] if self.ends.readout is not None else []
        if not patterns and not end:
            return self.model(first, start_at_layer=start).double().cpu()
        logits, cache = self.model.run_with_cache(first, names_filter=[*patterns, *end], start_at_layer=start)
        if self.ends.readout is not None:
            logits = self.ends.read(cache["resid_post", self.model.cfg.n_layers - 1])
        for name, (layer, index) in self.heads.items():
            pattern = cache["pattern", layer][:, index].double().cpu()
            error = _largest(pattern - symbolic.patterns[name])
            self.pattern_errors[name] = max(self.pattern_errors[name], error)
        return logits.double().cpu()

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
        )


def _largest(differences: Tensor) -> float:
    """The largest absolute value; infinite where one is not a number."""
    return float(differences.abs().nan_to_num(math.inf).max())
