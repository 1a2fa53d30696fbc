"""Text and token ids: what a model reads, before it reads it.

A `Vocabulary` is a list of words of your own; a `Tokenizer` cuts text as a published model was trained with. Both are a
`TextCodec`, and a model calls either one its `tokenizer`. The rest of this room checks token ids and attention masks,
gives every token a string for tables and pictures, reads answers that are given as text or as ids, and draws random
sequences in which a segment is repeated.
"""

from interp.text.answers import Answer, answer_in_words, token_ids
from interp.text.codec import TextCodec, check_vocabulary
from interp.text.ids import INPUT, Arrays, Ids, OneSequence, Text, as_ids, is_single, is_text, one_sequence, sequences
from interp.text.repeats import Words, ordinary_tokens, random_repeats, repeated_tokens, word_ids
from interp.text.tokenizer import Spelling, Tokenizer, as_tokenizer
from interp.text.tokens import (
    AttentionMask,
    MaskedTokens,
    Memory,
    check_marks,
    check_mask,
    check_memory,
    check_token_types,
    check_tokens,
    token_names,
    token_strings,
    visible,
)
from interp.text.vocabulary import Vocabulary

__all__ = [
    "INPUT",
    "Answer",
    "Arrays",
    "AttentionMask",
    "Ids",
    "MaskedTokens",
    "Memory",
    "OneSequence",
    "Spelling",
    "Text",
    "TextCodec",
    "Tokenizer",
    "Vocabulary",
    "Words",
    "answer_in_words",
    "as_ids",
    "as_tokenizer",
    "check_marks",
    "check_mask",
    "check_memory",
    "check_token_types",
    "check_tokens",
    "check_vocabulary",
    "is_single",
    "is_text",
    "one_sequence",
    "ordinary_tokens",
    "random_repeats",
    "repeated_tokens",
    "sequences",
    "token_ids",
    "token_names",
    "token_strings",
    "visible",
    "word_ids",
]
