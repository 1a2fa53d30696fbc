"""A few texts of several lengths, and a small byte-level tokenizer, for tests of what runs over texts."""

import random

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from interp import Tokenizer

BOS, PAD = "<s>", "<pad>"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "another", "dog", ".", "it", "was", "123", "naïve", "猫"]


def texts(n: int = 12, seed: int = 0) -> list[str]:
    """Texts of 0 to 39 words; the third is empty."""
    draw = random.Random(seed)
    made = [" ".join(draw.choices(WORDS, k=draw.randrange(1, 40))) for _ in range(n)]
    return [*made[:2], "", *made[3:]]


def tokenizer(prepend_bos: bool | None = None) -> Tokenizer:
    """A byte-level tokenizer that was trained on such texts."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=[BOS, PAD], show_progress=False
    )
    backend.train_from_iterator(texts(50), trainer)
    return Tokenizer(backend, bos=BOS, pad=PAD, prepend_bos=prepend_bos)
