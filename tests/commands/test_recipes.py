"""Every recipe of the reference runs as it stands, after the lines that stand before them all."""

import warnings
from pathlib import Path

import pytest
import torch

from interp.commands.reference import preamble, recipes

RECIPES = recipes()


def test_there_are_thirty_recipes_or_more_and_each_has_code():
    assert len(RECIPES) >= 30
    assert all(RECIPES.values())


@pytest.mark.parametrize("heading", list(RECIPES), ids=lambda heading: heading.replace(" ", "_"))
def test_a_recipe_runs_alone_without_a_warning(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_installed: None
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(f"{preamble()}\n{RECIPES[heading]}", heading, "exec"), {"__name__": "recipe"})
