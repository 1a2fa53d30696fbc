"""SentencePiece tokenizers of GGUF files, beside the algorithm spelt out: best-scored neighbours, leftmost first."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import CheckpointError, Tokenizer
from interp.checkpoints.gguf_tokenizer import tokenizer

UNKNOWN, CONTROL, USER_DEFINED, NORMAL, BYTE = 2, 3, 4, 1, 6
SPECIAL = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
JOINED = ["▁a", "he", "in", "▁the", "th", "▁t", "er", "▁▁", "an", "▁an", "and", "▁and", "▁▁▁▁", "ere", "here", "▁here"]
JOINED += ["aa", "aaa", "ab", "ba", "aba", "éa"]
"""Tokens of several characters, the best-scored first; some can be made in several ways"""
PIECES = [*JOINED, *"▁abcdehinrt1é日\n"]


def metadata(**changes: Any) -> dict[str, Any]:
    """A file's metadata, with some keys changed."""
    user = changes.pop("user", [])
    words = [*SPECIAL, *BYTES, *user, *PIECES]
    kinds = [*SPECIAL.values(), *[BYTE] * 256, *[USER_DEFINED] * len(user), *[NORMAL] * len(PIECES)]
    scores = [0.0] * (len(words) - len(PIECES)) + [-float(i) for i in range(len(PIECES))]
    keys = {"model": "llama", "tokens": words, "token_type": kinds, "scores": scores, "bos_token_id": 1} | changes
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def made(**changes: Any) -> Tokenizer:
    codec = tokenizer(metadata(**changes), Path("model.gguf"))
    assert codec is not None
    return codec


def reference(text: str, prefixed: bool = True) -> list[str]:
    """What SentencePiece makes of a text without special tokens."""
    rank = {piece: i for i, piece in enumerate(PIECES)}
    parts = list((" " * prefixed + text).replace(" ", "▁"))
    while True:
        joined = [left + right for left, right in itertools.pairwise(parts)]
        found = [(rank[pair], i) for i, pair in enumerate(joined) if pair in rank]
        if not found:
            break
        _, best = min(found)
        parts[best : best + 2] = [joined[best]]
    return [token for part in parts for token in ([part] if part in rank else [f"<0x{b:02X}>" for b in part.encode()])]


TEXT = st.text("  \n\tabehinrt12é日я🐈", min_size=1)


@given(text=TEXT)
def test_a_text_is_split_as_sentencepiece_splits_it_and_comes_back(text: str):
    codec = made()
    ids = codec.to_tokens(text, prepend_bos=False)
    assert [codec.backend.id_to_token(i) for i in ids[0].tolist()] == reference(text)
    assert codec.to_string(ids) == text
    assert codec.to_tokens(text)[0].tolist() == [1, *ids[0].tolist()]


@given(text=TEXT)
def test_without_a_space_before_it_a_text_is_split_as_it_stands(text: str):
    codec = made(add_space_prefix=False)
    ids = codec.to_tokens(text, prepend_bos=False)
    assert [codec.backend.id_to_token(i) for i in ids[0].tolist()] == reference(text, prefixed=False)
    assert codec.to_string(ids) == text


def test_special_tokens_in_a_text_are_themselves_and_the_bos_is_not_doubled():
    codec = made()
    assert codec.to_str_tokens("<s>a the</s>in") == ["<s>", " a", " the", "</s>", " ", "in"]
    assert codec.to_tokens("<s>the").tolist() == codec.to_tokens("the").tolist()
    assert codec.prepends_bos and not made(add_bos_token=False).prepends_bos


def test_tokens_that_users_defined_are_found_first_runs_of_spaces_too():
    codec = made(user=["<turn>", "▁▁▁"], add_space_prefix=False)
    assert codec.to_str_tokens("<turn>an   in", prepend_bos=False) == ["<turn>", "an", "   ", "in"]
    assert made(user=["<turn>"]).to_str_tokens("a<turn>", prepend_bos=False) == [" a", "<turn>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.0]}, "contradict each other"),
        ({"token_type": [1]}, "contradict each other"),
        ({"bos_token_id": 10_000}, "bos_token_id = 10000"),
        ({"tokens": ["a", "a"], "scores": [0.0, 0.0], "token_type": [1, 1]}, "token 'a' is there twice"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap = [1, 2]: such texts are not made here"),
    ],
)
def test_metadata_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{re.escape(message)}"):
        made(**changes)
