"""Indirect object identification: "When Mary and John went to the store John gave a drink to" - Mary.

The circuit that was found in GPT-2 (Wang et al. 2022), in its simplest form. A duplicate-token head marks the name that
occurs twice, an S-inhibition head carries the mark to the last word, and there a name mover attends to the names that
are not marked.
"""

import itertools

from circuits import Circuit, copy, match

NAMES = ["Mary", "John", "Anna", "Paul", "Lisa", "Mark", "Jane", "Tom", "Kate", "Sam"]
TEMPLATE = "<s> When {} and {} went to the store {} gave a drink to"


def build() -> Circuit:
    """Three layers."""
    words = dict.fromkeys(TEMPLATE.replace("{}", "").split())
    c = Circuit([*words, *NAMES], n_ctx=14, bos="<s>")
    twice, inhibited = c.space("twice", NAMES), c.space("inhibited", NAMES, holds="one")
    same_name = {name: name for name in NAMES}
    elsewhere = match(c.tok, c.tok, same_name) - 2 * match(c.pos, c.pos)
    c.head("duplicate token", qk=elsewhere, ov=copy(c.tok, twice, same_name))
    c.head("S-inhibition", qk=match(c.tok, twice, {"to": NAMES}), ov=copy(twice, inhibited))
    other_name = match(inhibited, c.tok, lambda name, word: word in NAMES and word != name)
    c.head("name mover", qk=other_name, ov=copy(c.tok, c.out))
    return c


def reference(text: str) -> list[str | None]:
    """At every "to" that comes after a name has occurred twice: the other name."""
    answers: list[str | None] = []
    words = text.split()
    for i, word in enumerate(words):
        names = [name for name in words[:i] if name in NAMES]
        once = [name for name in names if names.count(name) == 1]
        answers.append(once[0] if word == "to" and len(once) < len(names) and once else None)
    return answers


def inputs() -> list[str]:
    """All 180: two of ten names in either order, either of them the subject."""
    pairs = itertools.permutations(NAMES, 2)
    return [TEMPLATE.format(first, second, subject) for first, second in pairs for subject in (first, second)]
