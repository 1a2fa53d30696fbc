"""The data sets that ship with the package, made from templates: `python -m interp.data.make FOLDER` writes them anew.

Each is a function here. Templates follow the literature, in words of our own; names, words and numbers are drawn with a
fixed seed. Within a pair only what is studied differs, so that both prompts are equally long in every tokenizer that
has these names and words as single tokens, such as those of SmolLM2 and GPT-2. All answers are single tokens there.

How SmolLM2-135M-Instruct answers, measured by the logit difference of each pair's two answers: its mean over the clean
prompts and over the corrupted ones; in how many pairs it is above zero on the clean prompt (right), and in how many it
is larger there than on the corrupted one.

| data set | pairs | tokens | clean | corrupted | right | larger |
|---|---|---|---|---|---|---|
| ioi | 128 | 14 to 21 | +4.97 | -4.95 | 127 | 128 |
| greater_than | 140 | 17 | +4.42 | -0.91 | 140 | 140 |
| docstring | 100 | 36 to 37 | +2.82 | -2.70 | 90 | 100 |
| capitals | 128 | 8 to 13 | +11.57 | -11.60 | 128 | 128 |
| pronouns | 160 | 8 to 10 | +4.13 | -4.07 | 160 | 160 |
"""

# ruff: noqa: SIM905  (lists of words are easier to read as words)

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

from interp.data.pairs import PromptPairs

FEMALE = """Mary Anna Sarah Emma Alice Laura Kate Lucy Jane Lisa Susan Linda Karen Nancy Helen Ruth Emily Julia Amy
Rachel Jennifer Jessica Elizabeth Barbara Maria Margaret Anne Claire Sophie Amanda Melissa Michelle Angela Nicole
Rebecca Katherine Diana Martha Hannah Samantha""".split()

MALE = """John Tom James David Peter Robert Michael Paul George William Richard Thomas Charles Daniel Kevin Brian Steven
Eric Andrew Matthew Joseph Henry Simon Jack Adam Ryan Jason Justin Frank Greg Patrick Philip Luke Arthur Albert Stephen
Anthony Edward Harry Fred""".split()

GIVING = [
    "When {A} and {B} went to the {place}, {S} gave a {thing} to",
    "After {A} and {B} had met at the {place}, {S} handed a {thing} to",
    "While {A} and {B} were walking to the {place}, {S} showed a {thing} to",
    "Once {A} and {B} had come home from the {place}, {S} sent a {thing} to",
    "Last week {A} and {B} worked at the {place}, and {S} passed a {thing} to",
    "This morning {A} and {B} argued at the {place}. Later {S} offered a {thing} to",
    "Then {A} and {B} had a long talk at the {place}, and at the end {S} gave a {thing} to",
    "Friends said that {A} and {B} often sat at the {place}, where {S} lent a {thing} to",
]
PLACES = "store school park office station library museum market garden restaurant hospital beach".split()
THINGS = "book letter drink ring ticket picture key flower newspaper map gift toy".split()

EVENTS = """war siege voyage famine trial drought project treaty reign journey marriage strike plague mission campaign
survey debate lease contract experiment""".split()
CENTURIES = range(11, 18)

WORDS = """page size names files load text date color width model state event order group image title price point label
table level field token index block count query route owner score""".split()
ABOUT = "crime population unit dark message tree detail mine river tax minister shock horse paper market winter".split()
FUNCTIONS = "port old build fetch merge start check apply split share store close".split()

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Canada": "Ottawa", "Egypt": "Cairo", "Greece": "Athens", "Iraq": "Baghdad", "Iran": "Tehran",
    "Syria": "Damascus", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "England": "London",
    "Ireland": "Dublin", "Scotland": "Edinburgh", "Wales": "Cardiff", "Poland": "Warsaw", "Austria": "Vienna",
    "Hungary": "Budapest", "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki",
    "Belgium": "Brussels", "Portugal": "Lisbon", "Afghanistan": "Kabul", "Switzerland": "Bern", "Australia": "Canberra",
}  # fmt: skip
ASKING = [
    "The capital of {country} is the city of",
    "We flew to {country} and spent a week in its capital,",
    "The embassy in {country} is, of course, in the capital,",
    "Among the cities of {country}, the capital is called",
]

SPEAKING = [
    "So {name} is a really good friend, isn't",
    "Everyone in the office likes {name}, because",
    "When {name} came home from work that evening,",
    "Yesterday {name} lost the keys, so this morning",
]


def ioi() -> PromptPairs:
    """Indirect object identification: who is given something?

    After Wang et al. 2022, "Interpretability in the wild: a circuit for indirect object identification in GPT-2 small".
    Two people are named, and one of them again as the one who gives. The other is given to. In the corrupted prompt it
    is the other who gives. In half of the prompts the giver is named second ("ABBA"), in half first ("BABA").
    """
    draw = _Draw("ioi")
    rows = []
    for i in range(128):
        taker, giver = draw.several(FEMALE + MALE, 2)
        first, second = (taker, giver) if i // len(GIVING) % 2 else (giver, taker)
        words = {"A": first, "B": second, "place": draw.one(PLACES), "thing": draw.one(THINGS)}
        clean, corrupted = (GIVING[i % len(GIVING)].format(S=subject, **words) for subject in (giver, taker))
        rows.append((clean, corrupted, f" {taker}", f" {giver}"))
    return _pairs(rows)


def greater_than() -> PromptPairs:
    """A later year.

    After Hanna et al. 2023, "How does GPT-2 compute greater-than? Interpreting mathematical abilities in a pre-trained
    language model". Something ends in the century in which it began, so that the year of its end is the greater one.
    In the corrupted prompt it began in the year 01. The answers are the digits of the decade after that of the clean
    prompt's year, and of the decade before it. A model says one of them next if its tokenizer cuts numbers into digits,
    as SmolLM2's does. (GPT-2 says two digits at once, so that these pairs do not ask it anything.)
    """
    draw = _Draw("greater_than")
    rows = []
    for i in range(140):
        century, decade = CENTURIES[i % len(CENTURIES)], 2 + (i + i // len(CENTURIES)) % 6
        event, year = EVENTS[i % len(EVENTS)], f"{decade}{2 + int(7 * draw.share())}"
        clean, corrupted = (
            f"The {event} lasted from the year {century}{y} to the year {century}" for y in (year, "01")
        )
        rows.append((clean, corrupted, f"{decade + 1}", f"{decade - 1}"))
    return _pairs(rows)


def docstring() -> PromptPairs:
    """The argument that a docstring describes next.

    After Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer".
    Two arguments are described in the order of the definition, and the third is next. In the corrupted prompt the
    definition has the last two the other way round.
    """
    draw = _Draw("docstring")
    rows = []
    for i in range(100):
        before, first, second, third, after = draw.several(WORDS, 5)
        title, *described = (" ".join(draw.several(ABOUT, 2)) for _ in range(3))
        clean, corrupted = (
            f"def {FUNCTIONS[i % len(FUNCTIONS)]}(self, {before}, {first}, {second}, {last}):\n"
            f'    """{title}\n\n    :param {first}: {described[0]}\n    :param {second}: {described[1]}\n    :param'
            for last in (f"{third}, {after}", f"{after}, {third}")
        )
        rows.append((clean, corrupted, f" {third}", f" {after}"))
    return _pairs(rows)


def capitals() -> PromptPairs:
    """The capital of a country, which has to be recalled.

    As in Merullo et al. 2023, "Language models implement simple word2vec-style vector arithmetic". In the corrupted
    prompt it is another country, whose capital is the wrong answer.
    """
    countries = list(CAPITALS)
    rows = []
    for i in range(len(ASKING) * len(countries)):
        template, place = i % len(ASKING), i // len(ASKING)
        country, other = countries[place], countries[(place + 7 * template + 3) % len(countries)]
        clean, corrupted = (ASKING[template].format(country=one) for one in (country, other))
        rows.append((clean, corrupted, f" {CAPITALS[country]}", f" {CAPITALS[other]}"))
    return _pairs(rows)


def pronouns() -> PromptPairs:
    """The pronoun that a name suggests.

    After Vig et al. 2020, "Investigating gender bias in language models using causal mediation analysis", and Mathwin
    et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small", whose template is
    much like the first one here. In the corrupted prompt it is a name that suggests the other pronoun.
    """
    rows = []
    for i in range(len(SPEAKING) * len(FEMALE)):
        template, place = i % len(SPEAKING), i // len(SPEAKING)
        ends = [(FEMALE[place], " she"), (MALE[(place + 11 * template) % len(MALE)], " he")]
        (name, answer), (other, wrong) = ends if (place + template) % 2 else reversed(ends)
        clean, corrupted = (SPEAKING[template].format(name=one) for one in (name, other))
        rows.append((clean, corrupted, answer, wrong))
    return _pairs(rows)


SETS: dict[str, Callable[[], PromptPairs]] = {
    made.__name__: made for made in (ioi, greater_than, docstring, capitals, pronouns)
}


class _Draw:
    """Draws that are the same in every version of Python, as the numbers from 0 to 1 of its generator are.

    Attributes:
        share: gives the next of these numbers.
    """

    def __init__(self, seed: str):
        self.share = Random(seed).random

    def one(self, items: Sequence[str]) -> str:
        return items[int(self.share() * len(items))]

    def several(self, items: Sequence[str], n: int) -> list[str]:
        """Distinct ones."""
        left = list(items)
        return [left.pop(int(self.share() * len(left))) for _ in range(n)]


def _pairs(rows: Iterable[tuple[str, str, str, str]]) -> PromptPairs:
    return PromptPairs(*zip(*rows, strict=True))


def main(folder: str) -> None:
    """Write each data set to a file in a folder."""
    for name, made in SETS.items():
        path = Path(folder) / f"{name}.jsonl"
        pairs = made()
        pairs.save(path)
        print(f"{path}: {len(pairs)} pairs")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m interp.data.make FOLDER")
    main(sys.argv[1])
