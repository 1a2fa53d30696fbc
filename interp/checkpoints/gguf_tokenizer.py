"""The tokenizer that a GGUF file describes: byte-level BPE, in the ways of splitting text that are known here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import CheckpointError, TokenError, did_you_mean
from interp.tokens import Tokenizer

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

LETTERS_AND_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and Qwen 2 split a text; they differ in how many digits stay together."""
PATTERNS = {"llama-bpe": LETTERS_AND_DIGITS % "{1,3}", "qwen2": LETTERS_AND_DIGITS % ""}
SPLITS = ("smollm", "gpt-2", *PATTERNS)
"""Values of `tokenizer.ggml.pre` that are known here."""
CONTROL, USER_DEFINED = 3, 4


def tokenizer(metadata: Mapping[str, Any], path: Path) -> Tokenizer | None:
    """The tokenizer, or None where the file has none.

    Raises `CheckpointError` naming the file, for a kind of tokenizer that is not known here or metadata that contradict
    each other.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind in (None, "none", "no_vocab"):
        return None
    if kind != "gpt2":
        raise CheckpointError(f"{path}: tokenizer.ggml.model = {kind!r}; allowed: 'gpt2' (byte-level BPE)")
    if split not in SPLITS:
        nearest = did_you_mean(str(split), SPLITS)
        raise CheckpointError(f"{path}: tokenizer.ggml.pre = {split!r}; allowed: {', '.join(SPLITS)}{nearest}")
    try:
        return _byte_level(metadata, split)
    except (TokenError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the metadata of the tokenizer contradict each other: {error}") from error


def _byte_level(metadata: Mapping[str, Any], split: str) -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as Backend

    words: list[str] = metadata["tokenizer.ggml.tokens"]
    ids = {word: i for i, word in enumerate(words)}
    if len(ids) < len(words):
        twice = next(word for i, word in enumerate(words) if ids[word] != i)
        raise ValueError(f"token {twice!r} is there twice")
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
    return Tokenizer(backend, **_special(metadata, words, split))


def _pre_tokenizer(split: str) -> "PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    whole_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split == "gpt-2":
        return whole_gpt2
    if split == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole_gpt2])
    cut = pre_tokenizers.Split(Regex(PATTERNS[split]), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _special(metadata: Mapping[str, Any], words: list[str], split: str) -> dict[str, Any]:
    """The tokens with a part to play, by name, and whether a text starts with the bos."""
    named: dict[str, Any] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        i = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if i is not None and not 0 <= i < len(words):
            raise IndexError(f"{key}_token_id = {i}, of {len(words)} tokens")
        named[name] = None if i is None else words[i]
    # llama.cpp, too, takes Llama 3 to begin with its bos unless the file says otherwise.
    habit = metadata.get("tokenizer.ggml.add_bos_token", split == "llama-bpe")
    return named | {"prepend_bos": bool(habit) and named["bos"] is not None}
