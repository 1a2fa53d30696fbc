"""Tokenizer: a trained tokenizer (of the `tokenizers` library) as a `TextCodec`."""

import copy
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import CheckpointError, TokenError, describe, did_you_mean
from interp.files import atomic_path
from interp.text.codec import TextCodec

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"
"""The file of a checkpoint that holds a trained tokenizer."""


class Tokenizer(TextCodec):
    """Turns text into token ids and back as a published model was trained with.

    Args:
        backend: the trained tokenizer. It is not changed. Padding and truncation that it was set up for are ignored.
        bos, eos, pad: the token that starts a text, the one that ends it, and the one that fills up a batch; None for
            those that do not exist.
        prepend_bos: whether a text starts with `bos` where the caller does not say. None stands for what the backend
            itself does.
        add_special_tokens: whether a text gets all tokens that the backend puts around it, as encoders read texts
            ("[CLS] a text [SEP]"). Otherwise it gets `bos` alone, as decoders read texts that they go on with.

    With a byte-level backend that does not normalise, every text comes back as it was:
    `to_string(to_tokens(text)) == text`. Two tokenizers with equal backends, special tokens and habits are equal.

    Attributes:
        adds_special_tokens: as `add_special_tokens`. With it a text gets exactly the ids that transformers gives it.

    Raises:
        TokenError: `bos`, `eos` or `pad` is not a token; `prepend_bos` without a bos.

    >>> from tokenizers import Tokenizer as Trained
    >>> from tokenizers.models import WordLevel
    >>> from tokenizers.pre_tokenizers import Whitespace
    >>> trained = Trained(WordLevel({"the": 0, "milk": 1, "[UNK]": 2}, unk_token="[UNK]"))
    >>> trained.pre_tokenizer = Whitespace()
    >>> Tokenizer(trained).to_tokens("the milk")
    tensor([[0, 1]])
    """

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        prepend_bos: bool | None = None,
        add_special_tokens: bool = False,
    ):
        if backend.padding is not None or backend.truncation is not None:
            backend = copy.deepcopy(backend)
            backend.no_padding()
            backend.no_truncation()
        self.backend, self.bos, self.eos, self.pad = backend, bos, eos, pad
        self._spelling = Spelling.of(backend)
        for name, token in (("bos", bos), ("eos", eos), ("pad", pad)):
            if token is not None and backend.token_to_id(token) is None:
                raise TokenError(f"{name} = {token!r} is not a token{did_you_mean(token, self._added().values())}")
        if prepend_bos and bos is None:
            raise TokenError("prepend_bos = True, but this tokenizer was made without bos=")
        habit = bos is not None and backend.encode("").ids[:1] == [backend.token_to_id(bos)]
        self.prepends_bos = habit if prepend_bos is None else prepend_bos
        self.adds_special_tokens, self._backend_prepends_bos = add_special_tokens, habit
        self._lost: set[int] = set()  # bytes without a token, which the backend would leave out in silence
        if self._spelling.byte_level and getattr(backend.model, "unk_token", None) is None:
            self._lost = {byte for char, byte in BYTE_OF.items() if backend.token_to_id(char) is None}

    # ------------------------------------------------------------------ ids

    @cached_property
    def d_vocab(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The number of token ids: one more than the largest, so that ids without a token count as well."""
        n, added = self.backend.get_vocab_size(), self.backend.get_added_tokens_decoder()
        if n and self.backend.id_to_token(n - 1) is None:  # there are gaps
            n = 1 + max(self.backend.get_vocab().values())
        return max(n, 1 + max(added, default=-1))

    @property
    def d_vocab_base(self) -> int:
        """How many tokens there are without the added ones."""
        return min(self.backend.get_vocab_size(with_added_tokens=False), self.d_vocab)

    def has_token(self, token: int) -> bool:
        """Whether there is a token with this id; there may be gaps between the ids of added tokens."""
        return self._spelt(token) is not None

    def _spelt(self, token: int) -> str | None:
        """A token as the backend spells it, or None where there is none with this id."""
        return self.backend.id_to_token(token) if 0 <= token < self.d_vocab else None

    @property
    def bos_id(self) -> int | None:
        """The id of `bos`, or None."""
        return None if self.bos is None else self.backend.token_to_id(self.bos)

    @property
    def pad_id(self) -> int:
        """The id that fills up a batch: the id of `pad`, else of `eos`, else 0. Every mask hides it."""
        token = self.pad if self.pad is not None else self.eos
        return (None if token is None else self.backend.token_to_id(token)) or 0

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Raises `TokenError` for a text that UTF-8 cannot hold, or of which this tokenizer would leave out a part."""
        for text in texts:
            self._check(text)
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _rows(self, texts: list[str], prepend_bos: bool | None) -> list[list[int]]:
        """With all special tokens the backend's own template decides, so that nothing is taken for a bos."""
        if not self.adds_special_tokens:
            return super()._rows(texts, prepend_bos)
        bos_id, wanted = self._wanted_bos(prepend_bos)
        for text in texts:
            self._check(text)
        rows = [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]
        if wanted == self._backend_prepends_bos or bos_id is None:
            return rows
        return [[bos_id, *row] if wanted else row[1:] for row in rows]

    @property
    def behind_text(self) -> list[int]:
        """The ids that every text ends with, such as that of [SEP]; empty without `adds_special_tokens`."""
        some = self.backend.encode("a")
        n = sum(1 for _ in itertools.takewhile(bool, reversed(some.special_tokens_mask)))
        return some.ids[len(some.ids) - n :] if self.adds_special_tokens else []

    def _pairs(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Raises `TokenError` where texts do not get all special tokens: one would run into the other."""
        if not self.adds_special_tokens:
            raise TokenError(
                "this tokenizer puts nothing between two texts; one with add_special_tokens=True does, as the models "
                "with bidirectional attention have it"
            )
        for text in (text for pair in pairs for text in pair):
            self._check(text)
        return [(encoding.ids, encoding.type_ids) for encoding in self.backend.encode_batch(list(pairs))]

    def _check(self, text: str) -> None:
        try:
            held = text.encode()
        except UnicodeEncodeError as error:
            raise TokenError(f"character {error.start} of the text is half of a surrogate pair") from error
        if not self._lost or self._lost.isdisjoint(held):
            return
        place, char = next((i, c) for i, c in enumerate(text) if not self._lost.isdisjoint(c.encode()))
        raise TokenError(f"character {place} of the text, {char!r}, has a byte without a token; it would be left out")

    # ------------------------------------------------------------------ text

    def _decode(self, ids: list[int]) -> list[str]:
        r"""Joined, they are the text; but bytes that are only a part of a character show as escapes, such as "\xf0"."""
        return [part.decode(errors="backslashreplace") for part in self._bytes(ids)]

    def _bytes(self, ids: list[int]) -> list[bytes]:
        """The bytes of each token, or those of its number in angle brackets where there is no such token."""
        added, parts = self._added(), []
        for i in ids:
            spelt = self._spelt(i)
            if spelt is None or i in added:
                parts.append(added.get(i, f"<{i}>").encode())
            else:
                parts.append(self._spelling.bytes_of(spelt))
        return parts

    def _added(self) -> dict[int, str]:
        """The text of each added token, by id; one that is not special may be spelt as ordinary tokens are."""
        spelt = self._spelling
        return {
            i: token.content if token.special or spelt.byte_level else spelt.replaced(token.content)
            for i, token in self.backend.get_added_tokens_decoder().items()
        }

    def _join(self, ids: list[int]) -> str:
        """Special tokens are included; bytes that are no UTF-8 show as escapes."""
        if self._spelling.byte_level:
            return b"".join(self._bytes(ids)).decode(errors="backslashreplace")
        spelt = [self._spelt(i) for i in ids]
        if None not in spelt:
            return self.backend.decode(ids, skip_special_tokens=False)
        # The backend itself leaves out in silence what it does not have.
        shown = [f"<{i}>" if word is None else word for i, word in zip(ids, spelt, strict=True)]
        return " ".join(shown) if self.backend.decoder is None else self.backend.decoder.decode(shown)

    # ------------------------------------------------------------------ files

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the backend to `tokenizer.json`; returns what the backend does not know, as JSON values."""
        with atomic_path(folder / FILE) as file:
            file.write_text(self.backend.to_str(), encoding="utf-8")
        special = {"bos": self.bos, "eos": self.eos, "pad": self.pad, "prepend_bos": self.prepends_bos}
        return special | {"add_special_tokens": self.adds_special_tokens}

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer whose `save` returned `values`. Raises `CheckpointError` as `from_file` does."""
        special = {name: values[name] for name in ("bos", "eos", "pad", "prepend_bos")}
        options = {"add_special_tokens": values.get("add_special_tokens", False), **special}
        return cls._of_file(folder / FILE, _backend_in(folder / FILE), **options)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        add_special_tokens: bool = False,
        pad_id: int | None = None,
    ) -> "Tokenizer":
        """The tokenizer of a `tokenizer.json`.

        Args:
            path: of the file.
            config: what `tokenizer_config.json` holds, where there is one.
            add_special_tokens: see the class.
            pad_id: the token that fills up a batch, where `config` names none.

        Raises `CheckpointError` naming the file.
        """
        config, backend = config or {}, _backend_in(path)
        special = {name: _content(config.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
        if special["bos"] is None and ("bos_token" not in config or add_special_tokens):
            special["bos"] = _first_added(backend)
        if special["pad"] is None and pad_id is not None:
            special["pad"] = backend.id_to_token(pad_id)
        habit = config.get("add_bos_token") if special["bos"] is not None else None
        return cls._of_file(path, backend, **special, prepend_bos=habit, add_special_tokens=add_special_tokens)

    @classmethod
    def _of_file(cls, path: str | os.PathLike[str], backend: Any, **options: Any) -> "Tokenizer":
        """The tokenizer of a backend from a file. Raises `CheckpointError` naming the file."""
        try:
            return cls(backend, **options)
        except TokenError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def with_special_tokens(self, added: bool) -> "Tokenizer":
        """The same tokenizer, whose texts get all special tokens or the bos alone (`add_special_tokens`)."""
        special = {"bos": self.bos, "eos": self.eos, "pad": self.pad}
        return Tokenizer(self.backend, **special, prepend_bos=self.prepends_bos, add_special_tokens=added)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokenizer":
        """Itself: nothing about it changes, and a copy of the model need not copy its vocabulary."""
        return self

    def __eq__(self, other: object) -> bool:
        """Whether the other is a tokenizer with an equal backend, the same special tokens and the same habit."""
        if not isinstance(other, Tokenizer):
            return NotImplemented
        if self._own_key != other._own_key:
            return False
        return self.backend is other.backend or self.backend.to_str() == other.backend.to_str()

    def __hash__(self) -> int:
        return hash(self._own_key)

    @property
    def _own_key(self) -> tuple[Any, ...]:
        return self.d_vocab, self.bos, self.eos, self.pad, self.prepends_bos, self.adds_special_tokens

    def __repr__(self) -> str:
        kind = type(self.backend.model).__name__
        return f"Tokenizer({kind} of {self.d_vocab} tokens, bos={self.bos!r}, eos={self.eos!r}, pad={self.pad!r})"


class Spelling:
    """How a tokenizer spells the bytes of its tokens. This is read off its decoder.

    Attributes:
        byte_level: whether every byte is spelt as one printable character, as GPT-2 does.
        byte_fallback: whether a token such as `<0x0A>` stands for that byte, as in SentencePiece.
        replacements: what a piece of a spelt token stands for, such as "▁" for a space.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]]):
        kinds = {step["type"] for step in steps}
        self.byte_level, self.byte_fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.replacements = {
            pattern: step["content"]
            for step in steps
            if step["type"] == "Replace" and (pattern := step["pattern"].get("String"))
        } | {step["replacement"]: " " for step in steps if step["type"] == "Metaspace"}

    @classmethod
    def of(cls, backend: "tokenizers.Tokenizer") -> "Spelling":
        """The spelling of this tokenizer, empty where it has no decoder."""
        if backend.decoder is None:
            return cls([])
        decoder = json.loads(backend.decoder.__getstate__())
        return cls(decoder["decoders"] if decoder["type"] == "Sequence" else [decoder])

    def bytes_of(self, token: str) -> bytes:
        """The bytes that a token stands for."""
        if self.byte_level and all(char in BYTE_OF for char in token):
            return bytes(BYTE_OF[char] for char in token)
        if self.byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return self.replaced(token).encode()

    def replaced(self, token: str) -> str:
        """A token with all that stands for something else replaced by it."""
        for shown, meant in self.replacements.items():
            token = token.replace(shown, meant)
        return token


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for.

    Printable characters stand for themselves. The other bytes, in order, are spelt as the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
"""The byte behind each character of a byte-level token (Radford et al. 2019, section 2.2)."""


def _content(token: Any) -> str | None:
    """The text of a special token: a string, or an object with `content`, as files and libraries write it."""
    return token.get("content") if isinstance(token, Mapping) else getattr(token, "content", token)


def _backend_in(path: str | os.PathLike[str]) -> Any:
    """What a `tokenizer.json` holds. Raises `CheckpointError` naming the file."""
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_str(Path(path).read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises no narrower type
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error


def _first_added(backend: "tokenizers.Tokenizer") -> str | None:
    """The token that the backend itself puts before a text, or None."""
    some = backend.encode("a")  # around an empty text, what stands before it and what stands after it look the same
    return backend.id_to_token(some.ids[0]) if some.special_tokens_mask[:1] == [1] else None


def as_tokenizer(given: Any, add_special_tokens: bool = False) -> TextCodec | None:
    """What turns text into ids, from any of the forms that it is published in; None stays None.

    A `TextCodec` is taken as it is. A tokenizer of the `tokenizers` library, or a fast tokenizer of transformers, which
    wraps one, is copied into a `Tokenizer` with the same special tokens and the same habit of starting with a bos; with
    `add_special_tokens`, which an encoder wants, with all its habits.

    Raises `TokenError` for a slow tokenizer of transformers, which is Python code of its own, and for anything else.

    >>> as_tokenizer(words) is words, as_tokenizer(None)
    (True, None)
    """
    if given is None or isinstance(given, TextCodec):
        return given
    backend, kind = getattr(given, "backend_tokenizer", given), type(given).__name__
    if hasattr(backend, "encode_batch_fast") and hasattr(backend, "id_to_token"):
        bos, eos, pad = (_content(getattr(given, f"{name}_token", None)) for name in ("bos", "eos", "pad"))
        backend = copy.deepcopy(backend)  # transformers sets up padding in its own, at every call
        bos = bos or _first_added(backend)
        return Tokenizer(backend, bos=bos, eos=eos, pad=pad, add_special_tokens=add_special_tokens)
    if hasattr(given, "convert_ids_to_tokens"):
        raise TokenError(
            f"{kind} is a slow tokenizer of transformers, without a backend of the tokenizers library; load the fast "
            "one with AutoTokenizer.from_pretrained(name, use_fast=True), or the tokenizer.json of its checkpoint with "
            "Tokenizer.from_file(path)"
        )
    allowed = "a Vocabulary, a Tokenizer or another TextCodec, a fast tokenizer of transformers, or None"
    raise TokenError(f"tokenizer = {describe(given)}; allowed: {allowed}")
