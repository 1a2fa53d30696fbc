"""Copy suppression: what the model is about to say is held back if it has been said already.

The direct path predicts the next letter of the alphabet, and half as much the one after. A head attends to where the
first of the two stands in the text, and takes its logit away: then the second remains. McDougall et al. 2023 ("Copy
Suppression: Comprehensively Understanding an Attention Head") found this to be the job of head L10H7 of GPT-2 small.
"""

from circuits import Circuit, copy, match
from circuits.verify import EveryText, every_text

LETTERS = "abcde"
NEXT, SECOND = (dict(zip(LETTERS, LETTERS[n:] + LETTERS[:n], strict=True)) for n in (1, 2))


def build() -> Circuit:
    """One layer."""
    c = Circuit("!" + LETTERS, n_ctx=7, bos="!")
    guess = c.embed("guess", NEXT)
    c.direct(2 * copy(c.tok, c.out, NEXT) + copy(c.tok, c.out, SECOND))
    c.head("suppression", qk=match(guess, c.tok, {letter: letter for letter in LETTERS}), ov=-2 * copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """The next letter where it is new, else the one after."""
    return [None, *(SECOND[word] if NEXT[word] in text[:i] else NEXT[word] for i, word in enumerate(text[1:], 1))]


def inputs() -> EveryText:
    """All 5^6 texts of six letters."""
    return every_text(LETTERS, 6)
