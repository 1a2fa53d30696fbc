"""What `help(HookedTransformer)` says first: the model's own words."""

import inspect
import re
import textwrap

from torch import nn

from interp import HookedTransformer, TransformerConfig, Vocabulary

SCREEN = 40
"""Lines."""


def words() -> str:
    return inspect.getdoc(HookedTransformer) or ""


def test_the_models_own_words_fit_two_screens_and_name_what_is_there():
    assert len(words().splitlines()) <= 2 * SCREEN
    table = "\n".join(line for line in words().splitlines() if line.startswith("| "))
    named = re.findall(r"`(\w+)`", table)
    assert len(named) >= 20
    assert not [name for name in named if not hasattr(HookedTransformer, name)]
    model = HookedTransformer(TransformerConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=3, seed=0))
    weights = [path for path in re.findall(r"`([\w.\[\]]+\.\w+)`", table) if path not in named]
    assert weights and all(isinstance(eval(f"model.{path}", {"model": model}), nn.Parameter) for path in weights)


def test_the_models_own_example_runs():
    example = re.search(r"(?:^    .+\n)+", words(), flags=re.MULTILINE)
    assert example is not None
    found = {"HookedTransformer": HookedTransformer, "TransformerConfig": TransformerConfig, "Vocabulary": Vocabulary}
    exec(textwrap.dedent(example[0]), found)
    assert found["pattern"].shape == (4, 4)
