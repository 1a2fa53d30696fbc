"""Words and token ids: what a model reads, before it reads it.

`Vocabulary` splits text into words of your own, `Tokenizer` as a published model does; both are a `TextCodec`. The rest
checks ids and masks, names tokens in tables and pictures, reads answers given as text or ids, and draws random
sequences with repeats.
"""

from interp.text.answers import Answer, token_ids
from interp.text.codec import TextCodec, one_sequence
from interp.text.repeats import (
    Batch,
    iid_tokens,
    ordinary_tokens,
    random_repeats,
    repeated_tokens,
    variable_offset_repeats,
)
from interp.text.tokenizer import Spelling, Tokenizer
from interp.text.tokens import (
    AttentionMask,
    MaskedTokens,
    Text,
    check_mask,
    check_tokens,
    token_names,
    token_strings,
    visible,
)
from interp.text.vocabulary import Vocabulary

__all__ = [
    "Answer",
    "AttentionMask",
    "Batch",
    "MaskedTokens",
    "Spelling",
    "Text",
    "TextCodec",
    "Tokenizer",
    "Vocabulary",
    "check_mask",
    "check_tokens",
    "iid_tokens",
    "one_sequence",
    "ordinary_tokens",
    "random_repeats",
    "repeated_tokens",
    "token_ids",
    "token_names",
    "token_strings",
    "variable_offset_repeats",
    "visible",
]
