"""A small saved model of four letters, with a tokenizer that pads, and pairs of prompts for it."""

import csv
import json
from pathlib import Path

import tokenizers

from interp import HookedTransformer, TransformerConfig
from interp.text import Tokenizer

PAIRS = [  # on each of them the model's two runs are about as far apart
    {"clean": "d c b", "corrupted": "d c c", "correct": "a", "incorrect": "c"},
    {"clean": "d b a", "corrupted": "d b d", "correct": "c", "incorrect": " b"},
    {"clean": "c a d d b", "corrupted": "c a d a b", "correct": "b", "incorrect": "c"},
    {"clean": "d b a d c", "corrupted": "d b a b c", "correct": "b", "incorrect": "c"},
]


def save_letters(folder: Path) -> str:
    words = {word: i for i, word in enumerate(["<pad>", *"abcd"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    cfg = TransformerConfig(n_layers=2, d_model=12, n_heads=2, n_ctx=8, d_vocab=5, init_std=0.5, seed=1)
    HookedTransformer(cfg, Tokenizer(backend, pad="<pad>")).save_pretrained(folder)
    return str(folder)


def as_csv(path: Path, pairs: list[dict[str, str]] = PAIRS) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(pairs[0]))
        writer.writeheader()
        writer.writerows(pairs)
    return str(path)


def as_jsonl(path: Path, pairs: list[dict[str, str]] = PAIRS) -> str:
    path.write_text("\n".join(map(json.dumps, pairs)) + "\n\n", encoding="utf-8")
    return str(path)
