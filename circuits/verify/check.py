"""Verification: the compiled model, the symbolic interpreter and a reference function, on every input.

The reference is plain Python: from a text to what should be predicted at each position, a word, None for nothing to
predict, or a mapping from words to logits (a distribution, for instance). Without one, the interpreter is the
reference.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.compiler import compile_circuit
from circuits.language import (
    Declaration,
    Interpretation,
    Interpreter,
    Layout,
    Number,
    decode,
    in_words,
    is_finite,
    listed,
)
from circuits.verify.inputs import all_texts, batches
from circuits.verify.report import Report, Worst
from interp.errors import ConfigError, did_you_mean
from interp.indices import is_index
from interp.model import HookedTransformer
from interp.progress import progress_bar
from interp.text import Vocabulary

Expected = str | Mapping[str, float] | None
"""What should be predicted at one position: a word, nothing, or the logits of all words (0 where not given)."""

Reference = Callable[[str], Sequence[Expected]]
"""A function from a text to what should be predicted at each of its positions."""


class VerifyOptions(TypedDict, total=False):
    """What `Circuit.verify` takes besides inputs and reference; see `verify`."""

    model: HookedTransformer | None
    length: int | None
    samples: int | None
    seed: int
    tolerance: Number
    batch_size: int
    progress: bool
    title: str
    total: int | None


def verify(
    circuit: Declaration,
    inputs: Iterable[str] | None = None,
    reference: Reference | None = None,
    *,
    model: HookedTransformer | None = None,
    length: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    tolerance: Number = 1e-4,
    batch_size: int = 4096,
    progress: bool = True,
    title: str = "verifying",
    total: int | None = None,
) -> Report:
    """Run every input through the model and the interpreter, and compare both with the reference.

    Args:
        inputs: texts; without them, all texts of `length` words after the start (never the start itself).
        reference: see the module; by default the interpreter.
        model: a model compiled from `circuit`, also one that was changed or saved and loaded since; by default
            `circuit.compile()`.
        length: words a text; by default as many as fit.
        samples: in place of all texts, so many random ones.
        seed: of the samples.
        tolerance: how far logits may be from a distribution that the reference gives.
        batch_size: texts a run.
        progress: show a progress bar, on standard error where that is a terminal.
        title: what the progress bar is called.
        total: how many `inputs` there are, for the progress bar.

    Raises `ConfigError` for options that contradict each other, no inputs at all, a model of other sizes, or a
    reference that answers for another number of positions or with something else than words, None and mappings;
    `TokenError` for texts that the circuit does not take.
    """
    if isinstance(inputs, str) or not (inputs is None or isinstance(inputs, Iterable)):
        raise ConfigError(f"inputs = {inputs!r}; allowed: a list of texts")
    if reference is not None and not callable(reference):
        raise ConfigError(f"reference = {reference!r}; allowed: a function from a text to its answers")
    if not is_index(seed) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed!r}; allowed: an integer from 0 on")
    if inputs is not None and (length is not None or samples is not None):
        raise ConfigError("verify takes inputs, or length and samples, not both")
    for name, value in (("length", length), ("samples", samples), ("batch_size", batch_size)):
        if value is not None and (not is_index(value) or value < 1):
            raise ConfigError(f"{name} = {value!r}; allowed: 1 or more")
    if not is_finite(tolerance) or tolerance <= 0:
        raise ConfigError(f"tolerance = {tolerance!r}; allowed: a finite number above 0")
    if inputs is None:
        inputs, total = all_texts(circuit, length, samples, seed)
    elif total is None and isinstance(inputs, Sequence):
        total = len(inputs)
    model = compile_circuit(circuit) if model is None else model
    _check_model(circuit, model)
    check = _Check(circuit, model, reference, float(tolerance))
    with progress_bar(title, total, progress) as advance:
        for texts, words in batches(circuit, inputs, batch_size):
            check.add(texts, words)
            advance(len(texts))
    return check.report()


def _check_model(circuit: Declaration, model: HookedTransformer) -> None:
    """Raise `ConfigError` for a model that cannot have been compiled from the circuit."""
    if not isinstance(model, HookedTransformer):
        raise ConfigError(f"model = {model!r}; allowed: a HookedTransformer")
    cfg, heads = model.cfg, Counter(head.layer for head in circuit.heads)
    for what, has, needs in (
        ("words", cfg.d_vocab, circuit.vocabulary.d_vocab),
        ("positions", cfg.n_ctx, circuit.n_ctx),
        ("layers", cfg.n_layers, circuit.n_layers),
        ("heads a layer", cfg.n_heads, max(heads.values(), default=0)),
    ):
        if has != needs and not (what == "heads a layer" and has > needs):
            raise ConfigError(f"the model has {has} {what}, the circuit {needs}: it was not compiled from it")
    words = model.tokenizer.words if isinstance(model.tokenizer, Vocabulary) else circuit.vocabulary.words
    if words != circuit.vocabulary.words:
        raise ConfigError(f"the model's words are {listed(words)}, the circuit's {listed(circuit.vocabulary.words)}")


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What should be predicted.

    Attributes:
        words: the word, or several of which one will do; none for nothing to predict.
        logits: of all words, where they count as a whole.
        whole: where they do.
        answers: the same as the reference gave it, for each text.
    """

    words: Bool[Tensor, "batch pos d_vocab"]
    logits: Float[Tensor, "batch pos d_vocab"]
    whole: Bool[Tensor, "batch pos"]
    answers: Sequence[Sequence[Expected]]


class _Check:
    """The check so far: it takes batch after batch, and makes the report."""

    def __init__(self, circuit: Declaration, model: HookedTransformer, reference: Reference | None, tolerance: float):
        self.circuit, self.model, self.reference, self.tolerance = circuit, model, reference, tolerance
        self.interpreter = Interpreter(Layout(circuit))
        layers = {head.layer: [one.name for one in circuit.heads if one.layer == head.layer] for head in circuit.heads}
        self.heads = {name: (layer, index) for layer, names in layers.items() for index, name in enumerate(names)}
        self.nothing_below = self.interpreter.nothing_below
        self.n_inputs = self.n_positions = self.n_right = self.n_symbolic = 0
        self.logit_error, self.worst = 0.0, None
        self.pattern_errors = dict.fromkeys(self.heads, 0.0)
        self.ids = {word: i for i, word in enumerate(circuit.vocabulary.words)}

    def add(self, texts: list[str], split: list[list[str]]) -> None:
        """Run texts of one length, given as they are and in words."""
        tokens = self.circuit.tokens(torch.tensor([[self.ids[word] for word in words] for words in split]))
        symbolic = self.interpreter.run(tokens)
        logits = self._run(tokens, symbolic)
        expected = self._symbolic(symbolic) if self.reference is None else self._expected(texts, tokens)
        margins = self._margins(logits, expected)
        self.n_inputs += len(texts)
        self.n_positions += tokens.numel()
        self.n_right += int((margins > 0).sum())
        self.n_symbolic += int((self._margins(symbolic.logits, expected) > 0).sum())
        self.logit_error = max(self.logit_error, _largest(logits - symbolic.logits))
        row, position = divmod(int(margins.argmin()), tokens.shape[1])
        if self.worst is None or float(margins[row, position]) < self.worst.margin:
            said = in_words(decode(logits[row : row + 1], self.nothing_below), self.circuit.vocabulary.words)
            answer = expected.answers[row][position]
            self.worst = Worst(texts[row], position, float(margins[row, position]), said[0][position], answer)

    @torch.no_grad()
    def _run(self, tokens: Int[Tensor, "batch pos"], symbolic: Interpretation) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's logits; its patterns are compared on the way."""
        tokens = tokens.to(self.model.W_E.device)
        if not self.heads:
            return self.model(tokens).double().cpu()
        patterns = [("pattern", layer) for layer in {layer for layer, _ in self.heads.values()}]
        logits, cache = self.model.run_with_cache(tokens, names_filter=patterns)
        for name, (layer, index) in self.heads.items():
            pattern = cache["pattern", layer][:, index].double().cpu()
            error = _largest(pattern - symbolic.patterns[name])
            self.pattern_errors[name] = max(self.pattern_errors[name], error)
        return logits.double().cpu()

    def _symbolic(self, symbolic: Interpretation) -> "_Wanted":
        """What the interpreter predicts; where words tie, any of them."""
        logits = symbolic.logits
        top = logits.amax(-1, keepdim=True)
        words = (logits >= top - self.nothing_below / 10) & (top >= self.nothing_below)
        return _Wanted(words, logits, torch.zeros(logits.shape[:2], dtype=torch.bool), symbolic.predictions)

    def _expected(self, texts: list[str], tokens: Int[Tensor, "batch pos"]) -> "_Wanted":
        """What the reference predicts."""
        assert self.reference is not None
        ids, given, d_vocab = [], [], len(self.ids)
        whole = torch.zeros(tokens.shape, dtype=torch.bool)
        logits = torch.zeros(*tokens.shape, d_vocab, dtype=torch.float64)
        for row, text in enumerate(texts):
            answers = self.reference(text)
            if isinstance(answers, str) or not isinstance(answers, Sequence):
                raise ConfigError(
                    f"the reference answers {text!r} with {answers!r}; allowed: a list, an answer a position"
                )
            if len(answers) != tokens.shape[1]:
                raise ConfigError(
                    f"the reference answers for {len(answers)} positions of {text!r}, which has {tokens.shape[1]}"
                )
            given.append(answers)
            ids.append([d_vocab] * len(answers))
            for position, answer in enumerate(answers):
                if answer is None:
                    continue
                if isinstance(answer, str):
                    ids[row][position] = self._id(answer, text, position)
                    continue
                if not isinstance(answer, Mapping):
                    raise ConfigError(f"the reference answers {answer!r} at position {position} of {text!r}; allowed: "
                                      "a word, None, or a mapping from words to logits")  # fmt: skip
                whole[row, position] = True
                for word, logit in answer.items():
                    if not is_finite(logit):
                        raise ConfigError(f"the reference gives {word!r} the logit {logit!r} at position {position} of "
                                          f"{text!r}; allowed: a finite number")  # fmt: skip
                    logits[row, position, self._id(word, text, position)] = logit
        words = torch.nn.functional.one_hot(torch.tensor(ids), d_vocab + 1)[..., :d_vocab].bool()
        return _Wanted(words, logits, whole, given)

    def _id(self, word: str, text: str, position: int) -> int:
        if word not in self.ids:
            said = f"the reference predicts {word!r} at position {position} of {text!r}"
            raise ConfigError(f"{said}, which is not a word{did_you_mean(str(word), self.ids)}")
        return self.ids[word]

    def _margins(self, logits: Float[Tensor, "batch pos d_vocab"], wanted: "_Wanted") -> Float[Tensor, "batch pos"]:
        """How far each prediction is from being another one; not above 0 where it is not the wanted one."""
        own = logits.masked_fill(~wanted.words, -math.inf).amax(-1)
        others = logits.masked_fill(wanted.words, -math.inf).amax(-1).clamp(min=self.nothing_below)
        of_nothing = self.nothing_below - logits.amax(-1)
        as_whole = self.tolerance - (logits - wanted.logits).abs().amax(-1)
        of_word = torch.where(wanted.words.any(-1), own - others, of_nothing)
        return torch.where(wanted.whole, as_whole, of_word).nan_to_num(nan=-math.inf, neginf=-math.inf, posinf=math.inf)

    def report(self) -> Report:
        """All batches together. Raises `ConfigError` if nothing was run."""
        if self.worst is None:
            raise ConfigError("verify: there are no inputs")
        return Report(
            self.n_inputs,
            self.n_positions,
            self.n_right,
            self.n_symbolic,
            self.worst.margin,
            self.worst,
            self.logit_error,
            self.pattern_errors,
        )


def _largest(differences: Tensor) -> float:
    """The largest absolute value; infinite where one is not a number."""
    return float(differences.abs().nan_to_num(math.inf).max())
