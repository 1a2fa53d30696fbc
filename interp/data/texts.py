"""Texts: a corpus as rows of tokens that a model can run, read as a stream.

Rows are *packed*, with the texts one after another and cut wherever a row is full, or hold *one text* each. Nothing is
left out: the last row is padded rather than dropped, and a text that is longer than a row goes on in further rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.data.text_files import Paths, TextFiles
from interp.errors import ConfigError, ShapeError, TokenError, describe
from interp.indices import check_count, counted, is_index
from interp.keywords import known_keywords
from interp.text import TextCodec, one_sequence

if TYPE_CHECKING:
    from interp.model import HookedTransformer

MOST_TEXTS, MOST_CHARACTERS = 256, 2**20
"""How many texts, and of how many characters together, a tokenizer is given at a time."""


class Texts:
    """A corpus: texts, or the token ids of texts, that are read when they are wanted.

        Texts(["One text.", "Another."])
        Texts(record["text"] for record in records)     # may be read once
        Texts([[5, 3, 8], [2, 2]])                      # token ids, for a model without a tokenizer
        Texts.read("corpus/")                           # files; see `Texts.read`

    Args:
        texts: strings, or sequences of token ids. Ids are taken as they are.

    Raises `ConfigError` for anything else.
    """

    def __init__(self, texts: Iterable[Any]):
        if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
            raise ConfigError(f"texts = {describe(texts)}; allowed: several texts, such as Texts(['one', 'two'])")
        self._source: Iterable[Any] | TextFiles = texts
        self._begun = False

    @classmethod
    @known_keywords
    def read(cls, paths: Paths, column: str = "text") -> "Texts":
        """The texts in files. Text files hold one text each; JSONL holds an object with one text on each line.

        Args:
            paths: a file, a folder, a glob such as "corpus/**/*.txt", or several of these. Of a folder, and of those
                in it, all files are taken that end in .txt, .md, .rst, .py, .jsonl or .ndjson, in the order of their
                paths. A file that is named, or matched by a glob, may have any other ending.
            column: the field of JSONL that holds the text, or a list of token ids.

        Files are UTF-8. Blank lines of JSONL are no texts.

        Raises `ConfigError`, naming the file, for a path that stands for no file, and for .json, .csv and .tsv, which
        are neither; when the texts are read, for a file that cannot be read or is no UTF-8, and for a line of JSONL
        without the column.
        """
        texts = cls(())
        texts._source = TextFiles.of(paths, column)
        return texts

    def __iter__(self) -> Iterator[Any]:
        """The texts, or ids, one by one, empty ones included."""
        return (given for _, given in self.named())

    def named(self) -> Iterator[tuple[str, Any]]:
        """What messages call each text, and the text.

        Raises `ConfigError` if the texts came from an iterator that was begun before, and as `Texts.read` says.
        """
        if isinstance(self._source, TextFiles):
            yield from self._source
            return
        if self._begun and iter(self._source) is self._source:
            raise ConfigError(
                "these texts came from an iterator, which can be read once; give Texts a list, or anything else that "
                "can be iterated again"
            )
        self._begun = True
        yield from ((f"text {number}", given) for number, given in enumerate(self._source))

    @known_keywords
    def rows(
        self,
        model: "HookedTransformer | TextCodec | None" = None,
        n_ctx: int = 128,
        packed: bool = True,
        prepend_bos: bool | None = None,
    ) -> "TextRows":
        """The texts as rows of `n_ctx` tokens, an iterator that holds little more than a text at a time.

        Args:
            model: whose tokenizer reads the texts, or a tokenizer. Token ids need none.
            n_ctx: tokens of a row.
            packed: whether texts follow one another, several in a row, or each begins a row of its own.
            prepend_bos: whether a text starts with the tokenizer's bos (those that do already get no second one). By
                default it does where texts are packed and there is a bos, since that is what separates them; where
                each has a row, by the tokenizer's own habit. Token ids get none.

        A string in a text that spells a special token is that token, as in every run of a text. Texts without a token
        are skipped and counted.

        Raises:
            ConfigError: `model` is neither; `n_ctx` is no count, or more than the model's.
            TokenError: `prepend_bos` without a bos. When the rows are read, naming the text: texts without a
                tokenizer, a text that cannot be encoded, ids that are none or that the model does not have, and
                after the last text, a corpus without a token.
        """
        return TextRows(self, model, n_ctx, packed, prepend_bos)

    def __repr__(self) -> str:
        source = self._source
        if isinstance(source, TextFiles):
            return f"Texts.read({counted(len(source.files), 'file')})"
        try:
            return f"Texts({counted(len(source), 'text')})"  # pyright: ignore[reportArgumentType]
        except TypeError:
            return f"Texts({type(source).__name__})"


@dataclass(frozen=True, eq=False)
class TextRow:
    """Tokens that are run together.

    Attributes:
        ids: of the tokens; those of padding, which comes last, mean nothing.
        mask: true for tokens and false for padding.
        text: the number of the text that each token is of, counted in the order of the texts from 0, with empty ones;
            -1 for padding. The bos in front of a text is of that text.
        pos: the position of each token in the row.
    """

    ids: Int[Tensor, "n_ctx"]
    mask: Bool[Tensor, "n_ctx"]
    text: Int[Tensor, "n_ctx"]
    pos: Int[Tensor, "n_ctx"]


class TextRows(Iterator[TextRow]):
    """The rows of a corpus, one after another; see `Texts.rows`.

    Attributes:
        n_rows, n_tokens: of the rows read so far; padding does not count.
        n_texts, n_empty: how many texts were read so far, and how many of them had no token.
    """

    def __init__(self, texts: Texts, model: Any, n_ctx: int, packed: bool, prepend_bos: bool | None):
        cfg = getattr(model, "cfg", None)
        tokenizer = model if cfg is None else model.tokenizer
        if tokenizer is not None and not isinstance(tokenizer, TextCodec):
            raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer, a tokenizer, or None")
        for name, given in (("packed", packed), ("prepend_bos", prepend_bos)):
            if not isinstance(given, bool) and not (given is None and name == "prepend_bos"):
                raise ConfigError(f"{name} = {describe(given)}; allowed: True or False")
        self.n_ctx, self.packed = check_count("n_ctx", n_ctx, None if cfg is None else cfg.n_ctx), packed
        self.n_rows = self.n_tokens = self.n_texts = self.n_empty = 0
        self._texts, self.tokenizer = texts, tokenizer
        self._d_vocab = None if cfg is None else cfg.d_vocab
        self._bos = None if tokenizer is None else tokenizer.bos_id
        if prepend_bos and self._bos is None:
            raise TokenError("prepend_bos = True, but there is no tokenizer with a bos")
        wanted = (packed or tokenizer.prepends_bos) if prepend_bos is None and tokenizer is not None else prepend_bos
        self._bos = self._bos if wanted else None
        self._pad = (tokenizer.pad_id if tokenizer is not None else None) or 0
        self._rows = self._cut()

    def __next__(self) -> TextRow:
        return next(self._rows)

    def _cut(self) -> Iterator[TextRow]:
        """Texts cut into rows; one that is not full goes on with the next text where rows are packed."""
        ids, text = np.empty((2, self.n_ctx), dtype=np.int64)
        filled = 0
        for number, tokens in self._tokenized():
            begin = 0
            while begin < len(tokens):
                part = tokens[begin : begin + self.n_ctx - filled]
                end = filled + len(part)
                ids[filled:end], text[filled:end] = part, number
                begin, filled = begin + len(part), end % self.n_ctx
                if not filled:
                    yield self._row(ids, text, self.n_ctx)
            if filled and not self.packed:
                yield self._row(ids, text, filled)
                filled = 0
        if filled:
            yield self._row(ids, text, filled)
        if not self.n_tokens:
            raise TokenError(f"there is no token in the corpus: {self.n_texts} texts, {self.n_empty} of them empty")

    def _row(self, ids: np.ndarray, text: np.ndarray, n_tokens: int) -> TextRow:
        self.n_rows, self.n_tokens = self.n_rows + 1, self.n_tokens + n_tokens
        ids[n_tokens:], text[n_tokens:] = self._pad, -1
        pos = torch.arange(self.n_ctx)
        return TextRow(torch.tensor(ids), pos < n_tokens, torch.tensor(text), pos)

    def _tokenized(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each text that is not empty, and its ids."""
        for portion in self._portions():
            encoded = iter(self._encoded([(where, given) for where, given in portion if isinstance(given, str)]))
            for where, given in portion:
                ids = next(encoded) if isinstance(given, str) else _given_ids(where, given)
                number, self.n_texts = self.n_texts, self.n_texts + 1
                if not ids:
                    self.n_empty += 1
                    continue
                if isinstance(given, str) and self._bos is not None and ids[0] != self._bos:
                    ids = [self._bos, *ids]
                yield number, self._checked(where, ids)

    def _portions(self) -> Iterator[list[tuple[str, Any]]]:
        """The texts, as many at a time as are encoded together."""
        held: list[tuple[str, Any]] = []
        n_characters = 0
        for where, given in self._texts.named():
            held.append((where, given))
            n_characters += len(given) if isinstance(given, str) else 0
            if len(held) >= MOST_TEXTS or n_characters >= MOST_CHARACTERS:
                yield held
                held, n_characters = [], 0
        if held:
            yield held

    def _encoded(self, texts: list[tuple[str, str]]) -> list[list[int]]:
        if texts and self.tokenizer is None:
            raise TokenError(f"{texts[0][0]} is text, and there is no tokenizer to read it; give token ids")
        if not texts or self.tokenizer is None:
            return []
        try:
            return self.tokenizer.encode([text for _, text in texts])
        except TokenError:
            for where, text in texts:  # which of them was it?
                try:
                    self.tokenizer.encode(text)
                except TokenError as error:
                    raise TokenError(f"{where}: {error}") from error
            raise

    def _checked(self, where: str, ids: list[int]) -> np.ndarray:
        tokens = np.array(ids, dtype=np.int64)
        bad = tokens < 0 if self._d_vocab is None else (tokens < 0) | (tokens >= self._d_vocab)
        if bad.any():
            place = int(bad.argmax())
            most = "or more" if self._d_vocab is None else f"to {self._d_vocab - 1}"
            raise TokenError(f"{where}: token {tokens[place]} at place {place}; allowed: 0 {most}")
        return tokens


def _given_ids(where: str, given: Any) -> list[int]:
    """The ids that stand in place of a text."""
    try:
        if is_index(given) or given is None or isinstance(given, bytes | Mapping):
            raise TokenError(f"{describe(given)} is neither a text nor a list of token ids")
        return one_sequence(given)
    except (TokenError, ShapeError) as error:
        raise TokenError(f"{where}: {error}") from error
