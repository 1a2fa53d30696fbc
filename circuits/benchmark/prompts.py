"""Prompts: pairs of texts that a circuit of the gallery answers differently, drawn from its own inputs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.gallery import Entry
from circuits.verify import EveryText, Expected
from interp.data import PromptPairs
from interp.errors import ConfigError
from interp.indices import check_count, check_seed
from interp.keywords import known_keywords

SAMPLED = 1000
"""Texts of a circuit's inputs from which prompts are drawn."""


@dataclass(frozen=True)
class Question:
    """A prompt whose last position has a single right answer.

    Attributes:
        prompt: its token ids.
        answer: the id of the word that is right there.
    """

    prompt: tuple[int, ...]
    answer: int


@known_keywords
def prompt_pairs(one: Entry, n: int = 8, seed: int = 0) -> PromptPairs:
    """`n` pairs of prompts of a circuit, as token ids, all of the same length.

    Texts are drawn at random from the circuit's inputs, and end at their last position with an answer; the longest are
    taken. The corrupted prompt of a pair is drawn in the same way, and has another answer, which is the wrong one to
    the clean prompt. It differs from that in any word but never in the positions: by resampling, no edge that carries
    positions alone has an effect. No prompt comes twice.

    Raises `ConfigError` for a circuit with fewer such pairs, or whose texts come with vectors.

    >>> from circuits.gallery import entry
    >>> pairs = prompt_pairs(entry("ioi"), n=2)
    >>> len(pairs)
    2
    """
    check_count("n", n)
    by_length: dict[int, list[Question]] = {}
    for question in _questions(one, check_seed(seed)):
        by_length.setdefault(len(question.prompt), []).append(question)
    most, draw = 0, random.Random(seed)
    for length in sorted(by_length, reverse=True):
        pairs = _paired(by_length[length], n, draw)
        most = max(most, len(pairs))
        if len(pairs) == n:
            columns = [(a.prompt, b.prompt, a.answer, b.answer) for a, b in pairs]
            clean, corrupted, correct, incorrect = zip(*columns, strict=True)
            return PromptPairs(clean, corrupted, correct, incorrect)
    raise ConfigError(f"circuit {one.name!r}: {SAMPLED} of its texts give {most} pairs of equally long prompts with "
                      f"different answers; {n} are asked for")  # fmt: skip


def _questions(one: Entry, seed: int) -> list[Question]:
    """What a sample of a circuit's inputs asks, in a random order, nothing twice."""
    circuit = one.build()
    if circuit.inputs:
        raise ConfigError(f"circuit {one.name!r}: its texts come with vectors ({', '.join(circuit.inputs)}), which no "
                          "file of prompts holds")  # fmt: skip
    inputs = one.inputs()
    inputs = inputs if isinstance(inputs, EveryText) else list(inputs)
    n_texts = inputs.total if isinstance(inputs, EveryText) else len(inputs)
    places = random.Random(seed).sample(range(n_texts), min(SAMPLED, n_texts))
    words, found = circuit.vocabulary.words, list[Question]()
    for text in (inputs.at(place) if isinstance(inputs, EveryText) else inputs[place] for place in places):
        answers = [_answer(answer, words) for answer in one.reference(text)]
        last = max((i for i, answer in enumerate(answers) if answer is not None), default=None)
        may_be_cut = circuit.attention_dir == "causal"  # otherwise a text without its end is another text
        if last is not None and (may_be_cut or last == len(answers) - 1):
            ids = circuit.tokens(text)[0, : last + 1].tolist()
            found.append(Question(tuple(ids), words.index(answers[last])))
    return list(dict.fromkeys(found))


def _answer(said: Expected, words: Sequence[str]) -> str | None:
    """The word that is right, where one alone is: that with the largest logit."""
    if isinstance(said, Mapping):
        best = max(said.values(), default=0)
        top = [word for word, logit in said.items() if logit == best]
        said = top[0] if len(top) == 1 and best > 0 else None
    return said if isinstance(said, str) and said in words else None


def _paired(questions: Sequence[Question], n: int, draw: random.Random) -> list[tuple[Question, Question]]:
    """`n` pairs with different answers, or as many as there are. Which of the two is the clean one is drawn.

    So an answer that most texts have is the right one of no more than half of the pairs.
    """
    left, pairs = list(questions), list[tuple[Question, Question]]()
    while left and len(pairs) < n:
        first = left.pop(0)
        place = next((i for i, question in enumerate(left) if question.answer != first.answer), None)
        if place is not None:
            second = left.pop(place)
            pairs.append((first, second) if draw.random() < 0.5 else (second, first))
    return pairs
