"""Pairs: a circuit with a source, compared on every source: word by word, and as it answers by itself."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.compiler import compile_pair
from circuits.language import SOURCE, Declaration, Interpretation, Number, Part
from circuits.verify.asked import Asked, AskedOptions
from circuits.verify.comparing import SAID, Check, Ends, check_model, patterns_of
from circuits.verify.nonzeros import through_nonzeros
from circuits.verify.report import Report
from interp.errors import ConfigError, describe
from interp.keywords import known_keywords
from interp.model import HookedEncoderDecoder

Answer = Sequence[str | None]
"""The words of a target after its start, in order. A None at the end says that nothing is to be predicted there."""


class VerifyPairOptions(AskedOptions, total=False):
    """What `EncoderDecoder.verify` takes besides inputs and reference; see `verify_pair`."""

    model: HookedEncoderDecoder | None


@known_keywords
def verify_pair(
    circuit: Declaration,
    inputs: Iterable[str] | None = None,
    reference: Callable[[str], Answer] | None = None,
    *,
    model: HookedEncoderDecoder | None = None,
    length: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    tolerance: Number = 1e-4,
    batch_size: int = 4096,
    progress: bool = True,
    title: str = "verifying",
) -> Report:
    """Run every source through the model and the interpreter, and compare both with the right answer.

    The answer to a source is a whole target. Model and interpreter read it (teacher forcing), and are compared at its
    start and at each of its words: predictions, logits, and the patterns of all heads, those of both stacks and those
    that go from one to the other. Then the model writes by itself, from the start on, and has to write that answer.

    Args:
        inputs: sources; without them, all sources of `length` words after their start, if they have one.
        reference: gives the answer to a source, a list of words; by default what the interpreter writes by itself. An
            answer that ends with None says that nothing is to be predicted after its last word.
        model: a model compiled from `circuit`, also one that was changed or saved and loaded since; by default
            `circuit.compile()`.
        length, sample, seed, limit, tolerance, batch_size, progress, title: as for `verify`, of sources.

    Raises as `verify` does; `ConfigError` also for an answer that is no list of words, is empty, or does not fit.

    >>> from circuits.gallery import pair
    >>> one = pair("copy_source")
    >>> verify_pair(one.build(), one.inputs(), one.reference, sample=10, progress=False).ok
    True
    """
    asked = Asked(inputs, reference, length, sample, seed, limit, tolerance, batch_size, progress, title)
    if circuit.source is None:
        raise ConfigError(f"{circuit!r} has no source; say verify")
    texts = asked.texts(circuit.source)
    model = compile_pair(circuit) if model is None else model
    if not isinstance(model, HookedEncoderDecoder):
        raise ConfigError(f"model = {describe(model)}; allowed: a HookedEncoderDecoder")
    check_model(circuit.source, model.encoder)
    check_model(circuit, model.decoder)
    with through_nonzeros(model.encoder), through_nonzeros(model.decoder):
        return asked.run(texts, lambda: PairCheck(circuit, model, reference, float(tolerance)))


class PairCheck(Check):
    """The check of a pair so far. Inputs are sources; positions are those of targets."""

    def __init__(
        self,
        circuit: Declaration,
        pair: HookedEncoderDecoder,
        answer: Callable[[str], Answer] | None,
        tolerance: float,
    ):
        super().__init__(circuit, pair.decoder, None, tolerance, Ends(circuit, pair.decoder, None, None))
        source = circuit.source
        assert source is not None
        self.pair, self.source, self.answer, self.reads = pair, source, answer, source
        self.has_reference = answer is not None
        of_source = patterns_of(source, pair.encoder, "encoder.")
        own = patterns_of(circuit, pair.decoder, "decoder.")
        self.patterns = {**{SOURCE + name: at for name, at in of_source.items()}, **own}
        self.n_generated, self.misgenerated = 0, list[str]()

    def add(self, texts: list[str], split: list[list[str]]) -> float:
        """Run sources of one length, given as they are and in words. Returns the seconds that it took."""
        start, ids = time.perf_counter(), {word: i for i, word in enumerate(self.source.vocabulary.words)}
        source = self.circuit.source_tokens(torch.tensor([[ids[word] for word in words] for words in split]))
        if self.answer is None:
            answers: list[Answer] = list(self.interpreter.generate(source))
        else:
            answers = [self._checked(text, self.answer(text)) for text in texts]
        for n in sorted({len(answer) for answer in answers}):
            rows = [row for row, answer in enumerate(answers) if len(answer) == n]
            self._force([texts[row] for row in rows], source[rows], [answers[row] for row in rows])
        self._generate(texts, source, answers)
        self.n_batches += 1
        return time.perf_counter() - start

    def _checked(self, text: str, answer: Answer) -> Answer:
        """The answer to a source. Raises `ConfigError` for one that cannot be written."""
        if isinstance(answer, str) or not isinstance(answer, Sequence) or not answer:
            raise ConfigError(
                f"the reference answers {describe(text)} with {describe(answer)}; allowed: a list of words"
            )
        for place, word in enumerate(answer):
            if word not in self.words and not (word is None and place == len(answer) - 1):
                raise ConfigError(f"the reference answers {describe(text)} with {describe(word)} at place {place}; "
                                  "allowed: a word of the circuit, or None at the end")  # fmt: skip
        if len(answer) > self.circuit.n_ctx:
            raise ConfigError(f"the reference answers {describe(text)} with {len(answer)} words, and n_ctx = "
                              f"{self.circuit.n_ctx} lets {self.circuit.n_ctx} be predicted")  # fmt: skip
        return list(answer)

    def _force(self, texts: list[str], source: Int[Tensor, "batch source_pos"], answers: list[Answer]) -> None:
        """Compare at the start and at each word of answers of one length, as if all before it had been written."""
        start = self.circuit.vocabulary.to_single_token(self.circuit.bos or "")
        targets = torch.tensor([[start, *(self.words[word] for word in answer[:-1] if word)] for answer in answers])
        symbolic = self.interpreter.run(self.circuit.tokens(targets), source=source)
        read = [f"{text} | {self.circuit.vocabulary.to_string(ids)}" for text, ids in zip(texts, targets, strict=True)]
        right = dict(zip(read, answers, strict=True))
        reference = None if self.answer is None else right.__getitem__
        self._compare(read, symbolic, self._run_pair(source, targets, symbolic), reference)

    @torch.no_grad()
    def _run_pair(
        self,
        source: Int[Tensor, "batch source_pos"],
        targets: Int[Tensor, "batch pos"],
        symbolic: Interpretation,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's logits; its patterns are compared on the way."""
        device, points = self.model.W_E.device, sorted({name for name, _ in self.patterns.values()})
        logits, cache = self.pair.run_with_cache(source.to(device), targets.to(device), names_filter=points)
        self._compare_patterns(cache, symbolic)
        return logits.double().cpu()

    def _generate(self, texts: list[str], source: Int[Tensor, "batch source_pos"], answers: list[Answer]) -> None:
        """Compare what the model writes by itself."""
        wanted = [[self.words[word] for word in answer if word is not None] for answer in answers]
        device, longest = self.model.W_E.device, max(1, *map(len, wanted))
        told = self.pair.generate(source.to(device), max_new_tokens=longest, progress=False).tokens[:, 1:].cpu()
        for row, words in enumerate(wanted):
            said = told[row, : len(words)].tolist()
            self.n_generated += said == words
            if said != words and len(self.misgenerated) < SAID:
                written, right = (self.circuit.vocabulary.to_string(torch.tensor(one)) for one in (said, words))
                self.misgenerated.append(f"{texts[row]!r} is answered {written!r}, and right is {right!r}")

    def _by_itself(self) -> dict[str, Any]:
        return {"n_generated": self.n_generated, "misgenerated": tuple(self.misgenerated)}

    def _parts(self) -> Iterator[tuple[str, Part]]:
        for part in self.source.parts:
            yield SOURCE + part.name, part
        yield from super()._parts()
