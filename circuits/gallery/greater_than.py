"""Greater than: "The war lasted from 17th 32 to 17th" is followed by a year after 32, and all of these are as good.

Hanna et al. 2023 ("How does GPT-2 compute greater-than?") found that heads of the last position attend to the last two
digits of the first year, and that their OV circuits, with the MLPs after them, raise all larger numbers. Here one head
does it all: its OV circuit is a triangle, in which every number leads to those above it.
"""

from circuits import Circuit, copy, match

YEARS = [f"{year:02}" for year in range(100)]
NOUNS, CENTURIES = ["war", "siege"], ["11th", "17th"]
TEMPLATE = "<s> The {} lasted from {} {} to {}"


def build() -> Circuit:
    """One layer."""
    words = dict.fromkeys(TEMPLATE.replace("{}", "").split())
    c = Circuit([*words, *NOUNS, *CENTURIES, *YEARS], n_ctx=9, bos="<s>")
    larger = copy(c.tok, c.out, {year: YEARS[i + 1 :] for i, year in enumerate(YEARS)})
    c.head("larger", qk=match(c.tok, c.tok, dict.fromkeys(CENTURIES, YEARS)), ov=larger)
    return c


def reference(text: str) -> list[dict[str, float]]:
    """The years after the first one, alike, at the last word."""
    first = next(word for word in text.split() if word in YEARS)
    return [{}] * 8 + [{year: 1.0 for year in YEARS if year > first}]


def inputs() -> list[str]:
    """All 400: a hundred years in two centuries, of a war or a siege."""
    return [TEMPLATE.format(noun, century, year, century) for noun in NOUNS for century in CENTURIES for year in YEARS]
