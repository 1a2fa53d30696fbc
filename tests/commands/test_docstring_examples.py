"""Every example in a docstring runs, and prints what it says that it prints."""

import doctest
import warnings
from pathlib import Path

import pytest
import torch
from examples import all_rooms, docstring_examples, offered

from interp.commands.reference import preamble

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("room", all_rooms())
def test_the_examples_of_a_rooms_docstrings_say_the_truth(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_installed: None
):
    """An example is run after the lines that stand before all recipes, and with the names of its room at hand."""
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    for number, example in enumerate(docstring_examples(room)):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        torch.manual_seed(0)
        exec(compile(preamble(), "preamble", "exec"), example.globs)
        example.globs |= offered(room)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runner.run(example, out=said.append)
    assert not said, "".join(said)
