"""Answers: what is right at each position of a text, and how far a prediction is from another one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.language import Label, decode, in_words, is_finite, leading, plain
from interp.errors import ConfigError, describe, did_you_mean

Expected = Label | Mapping[Any, float] | EllipsisType | None
"""The right answer at one position: a word (or a label, where a readout is asked), None for nothing to predict, the
logits of all words (0 where a word is not given), or `...` where anything will do."""

Reference = Callable[[str], Sequence[Expected]]
"""A function from a text to the right answer at each of its positions."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The right answers for a batch of texts.

    A position is answered in one of three ways. The prediction must be one of a set of words; an empty set means that
    nothing is to be predicted. Or all logits must have certain values. Or anything will do.

    Attributes:
        given: the answers as they were given, by text and position.
        words: marks the words of the set.
        by_logits: marks the positions that are answered by the logits of all words.
        logits: the values which all logits must have there.
        anything: marks the positions at which anything will do.
    """

    given: Sequence[Sequence[Expected]]
    words: Bool[Tensor, "batch pos d_vocab"]
    by_logits: Bool[Tensor, "batch pos"]
    logits: Float[Tensor, "batch pos d_vocab"]
    anything: Bool[Tensor, "batch pos"]

    def margins(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        nothing_below: Float[Tensor, "d_vocab"],
        tolerance: float,
    ) -> Float[Tensor, "batch pos"]:
        """How far the predictions of a model with these logits are from other ones; above 0 where they are right.

        A word is predicted if its logit reaches its threshold, and no other that reaches its own is larger.
        """
        right, best = logits.masked_fill(~self.words, -math.inf).max(-1)
        short_of_own = nothing_below - logits  # above 0 where a word is not heard
        ahead_of = torch.maximum(right[..., None] - logits, short_of_own).masked_fill(self.words, math.inf)
        of_words = torch.minimum(right - nothing_below[best], ahead_of.amin(-1))
        of_words = torch.where(self.words.any(-1), of_words, short_of_own.amin(-1))
        of_logits = tolerance - (logits - self.logits).abs().amax(-1)
        margins = torch.where(self.by_logits, of_logits, of_words)
        margins = margins.where(~self.anything | logits.isnan().any(-1), math.inf)
        return margins.nan_to_num(nan=-math.inf, neginf=-math.inf, posinf=math.inf)


def interpreted_answers(
    logits: Float[Tensor, "batch pos d_vocab"], nothing_below: Float[Tensor, "d_vocab"], labels: Sequence[Label]
) -> Answers:
    """What the interpreter predicts, from its logits; where several words tie, any of them is right."""
    given = in_words(decode(logits, nothing_below), labels)
    nowhere = torch.zeros(logits.shape[:2], dtype=torch.bool)
    return Answers(given, leading(logits, nothing_below), nowhere, logits, nowhere)


def reference_answers(reference: Reference, texts: Sequence[str], n_pos: int, ids: Mapping[Label, int]) -> Answers:
    """What the reference predicts for texts of `n_pos` words; `ids` are those of all words.

    Raises `ConfigError` for answers of another number, and for an answer that is no word, None or mapping of words.
    """
    given = [_checked(reference(text), text, n_pos) for text in texts]
    words = torch.zeros(len(texts), n_pos, len(ids), dtype=torch.bool)
    by_logits = torch.zeros(len(texts), n_pos, dtype=torch.bool)
    anything = torch.zeros(len(texts), n_pos, dtype=torch.bool)
    logits = torch.zeros(len(texts), n_pos, len(ids), dtype=torch.float64)
    chosen: list[tuple[int, int, int]] = []
    for row, text in enumerate(texts):
        for position, answer in enumerate(map(plain, given[row])):
            place = row, position
            if isinstance(answer, EllipsisType):
                anything[place] = True
            elif isinstance(answer, str | int) and not isinstance(answer, bool):
                chosen.append((*place, _id(answer, text, position, ids)))
            elif isinstance(answer, Mapping):
                by_logits[place] = True
                for word, logit in answer.items():
                    logits[(*place, _id(word, text, position, ids))] = _logit(logit, word, text, position)
            elif answer is not None:
                raise _refused(
                    f"answers {describe(answer)}", text, position, "a word, None, a mapping of logits, or ..."
                )
    if chosen:
        words[tuple(torch.tensor(chosen).T)] = True
    return Answers(given, words, by_logits, logits, anything)


def _checked(answers: Any, text: str, n_pos: int) -> Sequence[Expected]:
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        said = f"the reference answers {describe(text)} with {describe(answers)}"
        raise ConfigError(f"{said}; allowed: a list, an answer a position")
    if len(answers) != n_pos:
        raise ConfigError(f"the reference answers for {len(answers)} positions of {describe(text)}, which has {n_pos}")
    return answers


def _logit(logit: Any, word: str, text: str, position: int) -> float:
    if not is_finite(logit):
        raise _refused(f"gives {word!r} the logit {describe(logit)}", text, position, "a finite number")
    return float(logit)


def _id(word: Any, text: str, position: int, ids: Mapping[Label, int]) -> int:
    word = plain(word)
    if not isinstance(word, str | int) or isinstance(word, bool) or word not in ids:
        near = did_you_mean(str(word), map(str, ids), said={str(one): repr(one) for one in ids})
        raise _refused(f"predicts {describe(word)}", text, position, f"a word of the circuit{near}")
    return ids[word]


def _refused(what: str, text: str, position: int, allowed: str) -> ConfigError:
    return ConfigError(f"the reference {what} at position {position} of {describe(text)}; allowed: {allowed}")
