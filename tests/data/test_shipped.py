"""The data sets that ship with the package: as they are made, and as SmolLM2 answers them."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp import ConfigError, HookedTransformer
from interp.data import PromptPairs, make
from interp.data.pairs import SHIPPED


def test_the_script_makes_the_shipped_files_byte_for_byte(tmp_path: Path):
    make.main(str(tmp_path))
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SHIPPED.iterdir()}
    assert len(made) == 5 and all(len(held) < 60_000 for held in made.values())


def test_shipped_pairs_are_named_and_an_unknown_name_is_answered_with_the_nearest():
    for name, made in make.SETS.items():
        pairs = PromptPairs.shipped(name)
        assert pairs == made() and 100 <= len(pairs) <= 200 and pairs.names[1] == f"{name}, line 2"
        assert len(set(zip(pairs.clean, pairs.corrupted, strict=True))) == len(pairs)
    for name in ("capital", "Capitals"):
        with pytest.raises(ConfigError, match="did you mean 'capitals'"):
            PromptPairs.shipped(name)
    with pytest.raises(ConfigError, match="'capitals', 'docstring', 'greater_than', 'ioi', 'pronouns'"):
        PromptPairs.shipped("../pairs")


def rows(name: str) -> list[tuple[str, ...]]:
    pairs = PromptPairs.shipped(name)
    columns = pairs.clean, pairs.corrupted, pairs.correct, pairs.incorrect or ()
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]


def test_in_ioi_the_giver_is_named_twice_as_often_first_as_second_and_swapped_in_the_corrupted_prompt():
    given_first = 0
    for clean, corrupted, taker, giver in rows("ioi"):
        for prompt, once, twice in ((clean, taker, giver), (corrupted, giver, taker)):
            names = re.findall(rf"(?:{taker}|{giver})\b", prompt)
            assert sorted(names) == sorted([once, twice, twice]) and names[-1] == twice
        given_first += clean.index(giver) < clean.index(taker)
        assert len(clean.split()) - 1 == sum(a == b for a, b in zip(clean.split(), corrupted.split(), strict=True))
    assert given_first == 64


def test_in_greater_than_only_the_right_decade_is_later():
    for clean, corrupted, correct, incorrect in rows("greater_than"):
        century, year, end = re.findall(r"(\d\d)(\d\d) to the year (\d\d)$", clean)[0]
        assert century == end and int(f"{correct}0") > int(year) > int(f"{incorrect}9")
        assert corrupted == clean.replace(f"{century}{year}", f"{century}01")


def test_in_docstring_the_argument_after_those_described_is_next():
    for clean, corrupted, correct, incorrect in rows("docstring"):
        for prompt, following in ((clean, correct), (corrupted, incorrect)):
            arguments = re.findall(r"\w+", prompt[prompt.index("(") : prompt.index(")")])
            described = re.findall(r":param (\w+):", prompt)
            place = arguments.index(following.strip())
            assert arguments[place - 2 : place] == described and len(arguments) == 6
        assert clean.partition("):")[2] == corrupted.partition("):")[2]


def differences(model: HookedTransformer, pairs: PromptPairs) -> tuple[Tensor, Tensor]:
    """The logit difference of every clean prompt and of every corrupted one. Nothing is padded."""
    tokens = pairs.tokens(model)
    clean, corrupted = torch.zeros(len(pairs)), torch.zeros(len(pairs))
    for group in tokens.groups(range(len(pairs))):
        for values, ids in ((clean, tokens.clean), (corrupted, tokens.corrupted)):
            logits = model(torch.tensor([ids[row] for row in group]))
            values[group] = pairs[group].metric(logits, model)
    return clean, corrupted


@torch.no_grad()
def test_smollm2_reads_all_pairs_and_shows_on_the_first_what_they_are_for(smollm2: HookedTransformer):
    for name in make.SETS:
        pairs = PromptPairs.shipped(name)
        assert len(pairs.tokens(smollm2).incorrect or ()) == len(pairs)
        clean, corrupted = differences(smollm2, pairs[:6])
        assert clean.mean() > 1 > 0 > corrupted.mean() and (clean > corrupted).all(), name


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_answers_as_the_table_says(smollm2: HookedTransformer):
    said = str(make.__doc__).splitlines()
    for name in make.SETS:
        pairs = PromptPairs.shipped(name)
        lengths = pairs.tokens(smollm2).lengths
        clean, corrupted = differences(smollm2, pairs)
        tokens = f"{min(lengths)}" + f" to {max(lengths)}" * (len({*lengths}) > 1)
        cells = [name, f"{len(pairs)}", tokens, f"{clean.mean():+.2f}", f"{corrupted.mean():+.2f}",
                 f"{int((clean > 0).sum())}", f"{int((clean > corrupted).sum())}"]  # fmt: skip
        assert f"| {' | '.join(cells)} |" in said, cells
