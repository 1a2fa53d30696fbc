"""Vocabulary: a list of words of your own as a model's tokenizer."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import TokenError, did_you_mean
from interp.text.codec import TextCodec


class Vocabulary(TextCodec):
    """A list of words of your own. The id of a word is its place in the list.

    Attributes:
        words: the words. All are different, and none is empty.
        sep: what stands between two words of a text. With "" the words follow each other directly, and at every place
            the longest word that fits is taken. By default it is "" where every word is one character, and else " ".
        bos: the word that starts a text, or None. It is put in front only where `prepend_bos=True` asks for it.

    A text that can be split into words comes back unchanged: `to_string(to_tokens(text)) == text`. Nothing is padded,
    so that all texts of a batch must have the same number of words. Two vocabularies with the same words, separator
    and bos are equal.

    Raises:
        TokenError: a word is empty, repeated, or contains the separator; `bos` is not a word.
    """

    prepends_bos = False

    def __init__(self, words: Iterable[str], *, sep: str | None = None, bos: str | None = None):
        self.words = tuple(words)
        self.bos = bos
        self._ids = {word: i for i, word in enumerate(self.words)}
        if not self.words or not all(isinstance(word, str) and word for word in self.words):
            raise TokenError("a vocabulary needs at least one word, and every word is a string that is not empty")
        self._longest = max(map(len, self.words))
        self.sep = ("" if all(len(word) == 1 for word in self.words) else " ") if sep is None else sep
        for i, word in enumerate(self.words):
            if self._ids[word] != i:
                raise TokenError(f"word {word!r} stands at places {i} and {self._ids[word]} of the vocabulary")
            if self.sep and self.sep in word:
                raise TokenError(f"word {word!r} contains the separator {self.sep!r}; give another sep=")
        if isinstance(bos, str) and bos not in self._ids:
            raise TokenError(f"bos = {bos!r} is an unknown word; it must be one of the vocabulary's {self.d_vocab:,} "
                             f"words{did_you_mean(bos, self.words)}")  # fmt: skip
        if bos is not None:
            self.to_single_token(bos)

    @property
    def d_vocab(self) -> int:
        """How many words there are."""
        return len(self.words)

    @property
    def d_vocab_base(self) -> int:
        """How many words a model must know: all of them."""
        return self.d_vocab

    @property
    def bos_id(self) -> int | None:
        """The id of `bos`, or None."""
        return None if self.bos is None else self._ids[self.bos]

    @property
    def pad_id(self) -> None:
        """No id: nothing is padded."""
        return None

    def split(self, text: str) -> list[str]:
        """The words of `text`. Raises `TokenError` naming the first unknown word, its place and its character."""
        if not text:
            return []
        found: list[str] = []
        at = 0
        for part in text.split(self.sep) if self.sep else ():
            if part not in self._ids:
                raise self._unknown(part, len(found), at, text)
            found.append(part)
            at += len(part) + len(self.sep)
        while not self.sep and at < len(text):
            lengths = range(min(self._longest, len(text) - at), 0, -1)
            word = next((text[at : at + n] for n in lengths if text[at : at + n] in self._ids), None)
            if word is None:
                raise self._unknown(text[at], len(found), at, text)
            found.append(word)
            at += len(word)
        return found

    def _unknown(self, word: str, place: int, character: int, text: str) -> TokenError:
        shown = text if len(text) <= 60 else text[:57] + "..."
        return TokenError(
            f"unknown word {word!r} at place {place} (character {character}) of {shown!r}; the vocabulary has "
            f"{self.d_vocab} words{self._few()}{did_you_mean(word, self.words)}"
        )

    def _few(self) -> str:
        return f": {' '.join(map(repr, self.words))}" if self.d_vocab <= 12 else ""

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [[self._ids[word] for word in self.split(text)] for text in texts]

    def _decode(self, ids: list[int]) -> list[str]:
        return [self.words[i] for i in ids]

    def _join(self, ids: list[int]) -> str:
        return self.sep.join(self._strings(ids))

    def save(self, folder: Path) -> dict[str, Any]:
        """The words, the separator and the bos as JSON values; no file is written."""
        return {"words": list(self.words), "sep": self.sep, "bos": self.bos}

    @classmethod
    def load(cls, folder: Path, values: Mapping[str, Any]) -> "Vocabulary":
        """The vocabulary whose `save` returned `values`; no file is read."""
        return cls(values["words"], sep=values["sep"], bos=values["bos"])

    def __eq__(self, other: object) -> bool:
        """Whether the other is a vocabulary of the same words, separator and bos."""
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.words, self.sep, self.bos) == (other.words, other.sep, other.bos)

    def __hash__(self) -> int:
        return hash((self.words, self.sep, self.bos))

    def __repr__(self) -> str:
        return f"Vocabulary({self.d_vocab} words, sep={self.sep!r}, bos={self.bos!r})"
