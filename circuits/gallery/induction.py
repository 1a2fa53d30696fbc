"""The two-layer induction model as lectures on transformers teach it: a previous-token head and an induction head.

The construction is after Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", and Olsson et al.
2022, "In-context Learning and Induction Heads". Here every weight is written: two attention-only layers with one head
each, no norms, no 1/sqrt(d). For a vocabulary of V words and n positions the residual stream has 2 V + n dimensions:

    [ current token: V | previous token: V | position: n ]

- Layer 1, the *previous-token head*: the query is the position shifted by one, the key is the position, so position i
  attends to i - 1; the value reads `current` and is written to `previous`.
- Layer 2, the *induction head*: the query is `current`, the key is `previous`, so position i attends to each j whose
  predecessor is the token at i; the value reads `current` and is written to `current`, from where the (tied)
  unembedding reads it. It is written with a gain of 2, because with 1 the copied token would only tie with the token
  that stands there already.

`circuits.lecture` holds the model against the table of scores that such a lecture shows on a slide.
"""

from collections.abc import Iterable

from circuits import Circuit, copy, match, shift
from circuits.language import is_finite
from circuits.verify import EveryText, every_text
from interp import ConfigError, HookedTransformer, Vocabulary
from interp.errors import describe

TEXT = "!abacb"
WORDS = "!abc"
GAIN = 2.0


def induction_model(
    vocabulary: str | Iterable[str] | Vocabulary = WORDS,
    n_ctx: int = len(TEXT),
    previous_sharpness: float = 100.0,
    induction_sharpness: float = 100.0,
) -> HookedTransformer:
    """The two-layer model, for any vocabulary and context length; float32, in which its tables are exact.

    Args:
        vocabulary: the words, or a string of one-character words.
        n_ctx: longest text.
        previous_sharpness: score of the previous position in layer 1 (all others have 0). From 9.3 on the slide's
            table of `!abacb` (see `circuits.lecture`) comes out to one decimal; `ln((n - 1) (1 - eps) / eps)` leaves
            eps to the others.
        induction_sharpness: score of a match in layer 2; 100 on the slide.

    Raises `TokenError` for a vocabulary with repeated words, `ConfigError` for an impossible `n_ctx` or sharpness.
    """
    for name, sharpness in (("previous", previous_sharpness), ("induction", induction_sharpness)):
        if not is_finite(sharpness) or sharpness <= 0:
            raise ConfigError(f"{name}_sharpness = {describe(sharpness)}; allowed: a finite number above 0")
    vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
    circuit = lecture_circuit(vocabulary, n_ctx, previous_sharpness, induction_sharpness)
    return circuit.compile(d_head=max(vocabulary.d_vocab, n_ctx), attn_scale=1.0)


def lecture_circuit(
    vocabulary: str | Iterable[str] | Vocabulary,
    n_ctx: int,
    previous_sharpness: float = 100.0,
    induction_sharpness: float = 100.0,
) -> Circuit:
    """The lecture's two heads, without a sink; see `induction_model`."""
    c = Circuit(vocabulary, n_ctx, tied=True)
    previous = c.space("previous", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, previous), sink=0, sharp=previous_sharpness)
    c.head(1, "induction", qk=match(c.tok, previous), ov=GAIN * copy(c.tok, c.out), sink=0, sharp=induction_sharpness)
    return c


def build() -> Circuit:
    """The sizes of the lecture's example: four words, six positions."""
    return lecture_circuit(WORDS, len(TEXT))


def reference(text: str) -> list[dict[str, float]]:
    """Logits in the causal reading: 1 for the word itself, 2 spread over what followed it, or over all that is seen."""
    answers = []
    for i, word in enumerate(text):
        logits = dict.fromkeys(text, 0.0)
        logits[word] += 1
        matches = [j for j in range(i + 1) if text[max(j - 1, 0)] == word]  # position 0 attends to itself
        for j in matches or range(i + 1):
            logits[text[j]] += GAIN / len(matches or range(i + 1))
        answers.append(logits)
    return answers


def inputs() -> EveryText:
    """All 3^5 texts of five letters after the start."""
    return every_text("abc", len(TEXT) - 1)
