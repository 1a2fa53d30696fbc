"""A small model with a tokenizer, and harvests of a few texts."""

from pathlib import Path
from typing import Any

import tiny_corpus
from grid import SMALL, build

from interp import HookedTransformer, TransformerConfig
from interp.harvest import Store, harvest

SITES: list[Any] = [("resid_post", 1), ("z", 2)]
OPTIONS: dict[str, Any] = {"n_ctx": 16, "unit_tokens": 100, "batch": 3, "dtype": "float32", "progress": False}


def small_model(seed: int = 1, **fields: Any) -> HookedTransformer:
    """Three layers that read the texts of `tiny_corpus`."""
    tokenizer = tiny_corpus.tokenizer()
    values: dict[str, Any] = SMALL | {"d_vocab": tokenizer.d_vocab, "n_ctx": 32} | fields
    return build(TransformerConfig(**values), seed, tokenizer)


def small_harvest(folder: Path, model: HookedTransformer | None = None, **options: Any) -> Store:
    """A harvest of forty-one texts in a dozen units."""
    given: dict[str, Any] = {"texts": tiny_corpus.texts(41), "sites": SITES} | OPTIONS | options
    return harvest(small_model() if model is None else model, given.pop("texts"), given.pop("sites"), folder=folder,
                   **given)  # fmt: skip
