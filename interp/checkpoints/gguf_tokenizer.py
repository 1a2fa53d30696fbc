"""The tokenizer that a GGUF file describes.

There are two kinds. One is byte-level BPE, with the ways of splitting a text that are listed here. The other is
SentencePiece's BPE (Kudo & Richardson 2018), which falls back to bytes for characters without a token.

SentencePiece has no list of merges. At every step it joins the two neighbours that together make the token with the
highest score. A list of merges that does the same holds every way of splitting every token in two, ordered by the score
of the token.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import CheckpointError, TokenError, did_you_mean
from interp.text import Tokenizer

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

LETTERS_AND_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern by which Llama 3 and Qwen 2 split a text; they differ in how many digits stay together."""
PATTERNS = {"llama-bpe": LETTERS_AND_DIGITS % "{1,3}", "qwen2": LETTERS_AND_DIGITS % ""}
SPLITS = ("smollm", "gpt-2", *PATTERNS)
"""Values of `tokenizer.ggml.pre` that are known here."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of tokens."""
SPACE = "▁"
"""SentencePiece's character for a space."""


def tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer | None:
    """The tokenizer, or None where the file has none.

    Raises `CheckpointError` naming the file, for a kind of tokenizer that is not known here or metadata that contradict
    each other.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama"):
        allowed = "'gpt2' (byte-level BPE) or 'llama' (SentencePiece)"
        raise CheckpointError(f"{path}: tokenizer.ggml.model = {kind!r}; allowed: {allowed}")
    if kind == "gpt2" and split not in SPLITS:
        nearest = did_you_mean(str(split), SPLITS)
        raise CheckpointError(f"{path}: tokenizer.ggml.pre = {split!r}; allowed: {', '.join(SPLITS)}{nearest}")
    for key in ("remove_extra_whitespaces", "precompiled_charsmap"):
        if kind == "llama" and (value := metadata.get(f"tokenizer.ggml.{key}")):
            raise CheckpointError(f"{path}: tokenizer.ggml.{key} = {str(value)[:40]}: such texts are not made here")
    try:
        return _sentencepiece(metadata) if kind == "llama" else _byte_level(metadata, str(split))
    except (TokenError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the metadata of the tokenizer contradict each other: {error}") from error


def _byte_level(metadata: Mapping[str, Any], split: str) -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend

    words, ids = _words(metadata)
    merges = [(first, second) for first, second in (pair.split(" ") for pair in metadata["tokenizer.ggml.merges"])]
    for pair in merges:
        if "".join(pair) not in ids or not ids.keys() >= set(pair):
            raise ValueError(f"the merge {pair} is of or to no token")
    backend = Backend(models.BPE(vocab=ids, merges=merges, ignore_merges=split == "llama-bpe"))
    backend.pre_tokenizer = _pre_tokenizer(split)
    backend.decoder = decoders.ByteLevel()
    if split == "qwen2":
        backend.normalizer = normalizers.NFC()
    kinds = metadata.get("tokenizer.ggml.token_type") or []
    for word, kind in zip(words, kinds, strict=bool(kinds)) if kinds else ():
        if kind in (CONTROL, USER_DEFINED):
            backend.add_tokens([AddedToken(word, normalized=False, special=kind == CONTROL)])
    # llama.cpp, too, takes Llama 3 to begin with its bos unless the file says otherwise.
    return Tokenizer(backend, **_special(metadata, words, begins=split == "llama-bpe"))


def _words(metadata: Mapping[str, Any]) -> tuple[list[str], dict[str, int]]:
    words: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {word: i for i, word in enumerate(words)}
    if len(ids) < len(words):
        twice = next(word for i, word in enumerate(words) if ids[word] != i)
        raise ValueError(f"token {twice!r} is there twice")
    return words, ids


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend

    words, ids = _words(metadata)
    scores, kinds = metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"]
    pieces = {word for word, kind in zip(words, kinds, strict=True) if kind in (NORMAL, USER_DEFINED)}
    prefixed = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    unknown = next((word for word, kind in zip(words, kinds, strict=True) if kind == UNKNOWN), None)
    merges = _merges(dict(zip(words, scores, strict=True)), pieces)
    backend = Backend(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    escape = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), escape]) if prefixed else escape
    decoding: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(decoding + ([decoders.Strip(" ", 1, 0)] if prefixed else []))
    for word, kind in zip(words, kinds, strict=True):
        if kind in (UNKNOWN, CONTROL):
            backend.add_tokens([AddedToken(word, normalized=False, special=True)])
        elif kind == USER_DEFINED:  # of escaped text, such as runs of spaces, where nothing is put before it
            backend.add_tokens([AddedToken(word, normalized=not prefixed, special=False)])
    return Tokenizer(backend, **_special(metadata, words, begins=True))


def _merges(scores: Mapping[str, float], pieces: set[str]) -> list[tuple[str, str]]:
    """Every way to split a piece into two pieces, those of the highest score first."""
    ordered = sorted(sorted(pieces), key=lambda piece: -scores[piece])  # ties: as good as any, but the same each time
    halves = ((piece[:i], piece[i:]) for piece in ordered for i in range(1, len(piece)))
    return [(left, right) for left, right in halves if left in pieces and right in pieces]


def _pre_tokenizer(split: str) -> "PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    whole_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split == "gpt-2":
        return whole_gpt2
    if split == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole_gpt2])
    cut = pre_tokenizers.Split(Regex(PATTERNS[split]), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _special(metadata: Mapping[str, Any], words: list[str], begins: bool) -> dict[str, Any]:
    """The arguments of `Tokenizer` for the special tokens, and for whether a text starts with the bos.

    `begins` is the answer to the latter for a file that does not say.
    """
    named: dict[str, Any] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        i = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if i is not None and not 0 <= i < len(words):
            raise IndexError(f"{key}_token_id = {i}, of {len(words)} tokens")
        named[name] = None if i is None else words[i]
    habit = metadata.get("tokenizer.ggml.add_bos_token", begins)
    return named | {"prepend_bos": bool(habit) and named["bos"] is not None}
