"""PromptPairs: pairs of prompts with their answers, as a value; and the same pairs as a model's tokens."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from interp.data.cells import COLUMNS, Prompt, as_cell, check_row, of_pair
from interp.data.pair_files import read_rows, write_rows
from interp.digests import digest_of_text
from interp.errors import ConfigError, ShapeError, TokenError, check_choice, describe
from interp.indices import as_indices, counted, is_index
from interp.metrics import Logit, LogitDifference, Metric
from interp.text import Ids, MaskedTokens, token_ids, token_strings

if TYPE_CHECKING:
    from interp.model import HookedTransformer

SHIPPED = Path(__file__).parent / "files"

Column = Iterable[str | Ids] | Tensor | np.ndarray
"""A cell for each pair; ids may also come as a tensor or an array."""


@dataclass(frozen=True, init=False, repr=False)
class PromptPairs:
    """Pairs of prompts, alike but for what is studied, with the answers to the clean one of each.

    Prompts are texts, or token ids where a model has no tokenizer; answers are the texts of single tokens, or their
    ids. Two data sets are equal if their columns are. A slice or a list of row numbers gives some of the pairs:
    `pairs[:10]`, `pairs[[0, 3, 7]]`.

    Attributes:
        clean, corrupted: the prompts: the one that shows a behaviour, and the one that does not.
        correct: the right answer to each clean prompt.
        incorrect: the wrong one; None where the logit of the right one is all that is asked for.
        names: what messages call each pair: its file and line, or its number. They are no part of the content.

    Raises:
        ConfigError: no pairs, columns of unequal lengths, a cell that is empty or of another type, a pair whose two
            prompts or whose two answers are the same. Messages name the pair.
        TokenError: a token id below 0.
    """

    clean: tuple[Prompt, ...]
    corrupted: tuple[Prompt, ...]
    correct: tuple[str | int, ...]
    incorrect: tuple[str | int, ...] | None
    names: tuple[str, ...] = field(compare=False)

    def __init__(
        self,
        clean: Column,
        corrupted: Column,
        correct: Column,
        incorrect: Column | None = None,
        *,
        names: Sequence[str] | None = None,
    ):
        columns = dict(zip(COLUMNS, map(_listed, COLUMNS, (clean, corrupted, correct, incorrect)), strict=True))
        lists = {column: cells for column, cells in columns.items() if cells is not None}
        called = [f"pair {row}" for row in range(len(lists["clean"]))] if names is None else list(names)
        counts = {column: len(cells) for column, cells in [*lists.items(), ("names", called)]}
        if len({*counts.values()}) > 1:
            raise ConfigError(
                f"{', '.join(f'{n} {column}' for column, n in counts.items())}: each pair has one of each"
            )
        if not called:
            raise ConfigError("there are no pairs")
        rows = []
        for where, *cells in zip(called, *lists.values(), strict=True):
            rows.append({column: as_cell(column, cell, where) for column, cell in zip(lists, cells, strict=True)})
            check_row(rows[-1], where)
        for column in COLUMNS:
            object.__setattr__(self, column, tuple(row[column] for row in rows) if column in lists else None)
        object.__setattr__(self, "names", tuple(called))

    # ------------------------------------------------------------------ files

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "PromptPairs":
        """The pairs of a file: .jsonl with an object on each line, or .csv under a line of column names.

        The columns are clean, corrupted, correct and, if all pairs have it, incorrect. In a .jsonl, prompts may be
        lists of token ids and answers ids; a .csv holds texts. Spaces count: answers often begin with one.

        Raises `ConfigError` and `TokenError`, naming the file and the line, for what is no such file and for what the
        class refuses; `OSError` for a file that cannot be read.
        """
        names, rows = zip(*read_rows(Path(path).expanduser()), strict=True)
        columns: dict[str, Any] = {column: [row[column] for row in rows] for column in rows[0]}
        return cls(**columns, names=names)

    @classmethod
    def shipped(cls, name: str) -> "PromptPairs":
        """A data set that comes with the package, of 100 to 160 pairs that SmolLM2 answers.

        - "ioi": indirect object identification, *When Mary and John went to the store, John gave a drink to*;
        - "greater_than": *The war lasted from the year 1732 to the year 17*;
        - "docstring": the argument that a docstring describes next;
        - "capitals": *The capital of France is the city of*;
        - "pronouns": *So Lisa is a really good friend, isn't*.

        `interp/data/make.py` makes them, and says from which papers they are and how SmolLM2 answers.

        Raises `ConfigError` for another name.
        """
        check_choice("name", name, shipped_names())
        pairs = cls.read(SHIPPED / f"{name}.jsonl")
        return cls(**pairs._columns(), names=[f"{name}, line {row}" for row in range(1, len(pairs) + 1)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pairs to a file, .jsonl or .csv, that `read` reads; whole or not at all.

        Raises `ConfigError` for another format, and for token ids in a .csv; `OSError` if it cannot be written.
        """
        write_rows(Path(path).expanduser(), self._columns())

    # ------------------------------------------------------------------ the value

    def _columns(self) -> dict[str, tuple[Any, ...]]:
        return {column: cells for column in COLUMNS if (cells := getattr(self, column)) is not None}

    @cached_property
    def digest(self) -> str:
        """A hash of all columns, the same in every process. It differs if any cell does; a text "1" is not an id 1."""
        return digest_of_text(json.dumps(self._columns()))

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: slice | Iterable[SupportsIndex]) -> "PromptPairs":
        """Some of the pairs: a slice, or a list of row numbers. Raises `ConfigError` for others, and for none."""
        chosen = range(len(self))[rows] if isinstance(rows, slice) else self._chosen(rows)
        if not chosen:
            raise ConfigError(f"rows {describe(rows)}: these are none of the {len(self)} pairs")
        columns = {name: [cells[row] for row in chosen] for name, cells in self._columns().items()}
        return PromptPairs(**columns, names=[self.names[row] for row in chosen])

    def _chosen(self, rows: Any) -> list[int]:
        n = len(self)
        allowed = f"allowed: a slice, or a list of integers from {-n} to {n - 1}"
        try:
            chosen = as_indices(rows)
        except TypeError:
            raise ConfigError(f"rows {describe(rows)}; {allowed}") from None
        if is_index(rows):
            raise ConfigError(f"row {chosen[0]} is a single one; take pairs[[{chosen[0]}]]")
        if bad := [row for row in chosen if not -n <= row < n]:
            raise ConfigError(f"row {bad[0]}; {allowed}")
        return chosen

    def __repr__(self) -> str:
        n = len(self)
        columns = ", ".join(f"{name}={describe(cells[0])}" for name, cells in self._columns().items())
        return f"PromptPairs({counted(n, 'pair')}{', the first' * (n > 1)}: {columns})"

    # ------------------------------------------------------------------ for a model

    @property
    def metric(self) -> Metric:
        """The logit difference of each pair's own answers, or the logit of the right one where there is no wrong one.

        It belongs to these pairs in this order, and reads the last position. For another, or a model that predicts
        masked tokens: `dataclasses.replace(pairs.metric, pos="[MASK]")`.
        """
        return Logit(self.correct) if self.incorrect is None else LogitDifference(self.correct, self.incorrect)

    def tokens(self, model: "HookedTransformer") -> "PairTokens":
        """The pairs as tokens of a model. All of them are checked, which takes milliseconds, before any is run.

        Texts become tokens as `model.to_tokens` makes them, with the tokenizer's habit of a bos; ids are taken as they
        are. Pairs may differ in length. In a model without logits answers are any single tokens, and metrics that read
        the stream judge it.

        Raises, naming the first pair that is refused and saying how many are:
            ShapeError: the two prompts of a pair are not equally long, so that positions do not correspond.
            TokenError: a prompt that the model cannot read, an answer that is not a single token, or two prompts or
                two answers that are the same tokens.
        """
        found: list[dict[str, Any]] = []
        refused: list[tuple[str, TokenError | ShapeError]] = []
        for row, where in enumerate(self.names):
            try:
                found.append(self._tokens_of(row, model))
            except (TokenError, ShapeError) as error:
                refused.append((where, error))
        if refused:
            where, error = refused[0]
            more = f" ({len(refused) - 1} more of the {len(self)} pairs are refused)" if len(refused) > 1 else ""
            raise type(error)(f"{of_pair(where)}{error}{more}") from error
        columns: dict[str, Any] = {column: [row[column] for row in found] for column in self._columns()}
        return PairTokens(**columns)

    def _tokens_of(self, row: int, model: "HookedTransformer") -> dict[str, Any]:
        """The ids of one pair. Raises as `tokens` does, without its name."""
        cells = {column: cells[row] for column, cells in self._columns().items()}
        clean, corrupted = (model.masked_tokens(cells[one]).ids[0].tolist() for one in ("clean", "corrupted"))
        if len(clean) != len(corrupted):
            raise ShapeError(
                f"the clean prompt has {len(clean)} tokens, the corrupted one {len(corrupted)}; positions must "
                f"correspond, so make them equally long: {_words(model, clean)} and {_words(model, corrupted)}"
            )
        ids: dict[str, Any] = {"clean": clean, "corrupted": corrupted}
        n_logits = model.cfg.d_vocab_out
        to_id, n = (model.to_answer, n_logits) if n_logits else (model.to_single_token, model.cfg.d_vocab)
        for column in ("correct", "incorrect"):
            if column in cells:
                ids[column] = int(token_ids(cells[column], to_id, n, column))
        for one, other, what in (("clean", "corrupted", "prompts"), ("correct", "incorrect", "answers")):
            if other in ids and ids[one] == ids[other]:
                raise TokenError(
                    f"the two {what} {describe(cells[one])} and {describe(cells[other])} are the same to this model: "
                    f"token ids {describe(ids[one])}"
                )
        return ids


def shipped_names() -> list[str]:
    """The names that `PromptPairs.shipped` takes.

    >>> "ioi" in shipped_names()
    True
    """
    return sorted(path.stem for path in SHIPPED.glob("*.jsonl"))


def _listed(column: str, given: Any) -> list[Any] | None:
    if given is None and column == "incorrect":
        return None
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"{column} is {describe(given)}; allowed: a list with one for each pair")
    return list(given)


def _words(model: "HookedTransformer", ids: list[int]) -> str:
    """How a prompt was cut into tokens."""
    return "|".join(token_strings(model.tokenizer, ids)) if model.tokenizer is not None else str(ids)


@dataclass(frozen=True)
class PairTokens:
    """Pairs of prompts as token ids of one model. `PromptPairs.tokens` makes and checks them.

    Attributes:
        clean, corrupted: the ids of each prompt. Those of one pair are equally long.
        correct: the id of each right answer.
        incorrect: that of each wrong one, or None.
    """

    clean: list[list[int]]
    corrupted: list[list[int]]
    correct: list[int]
    incorrect: list[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each pair's prompts."""
        return [len(ids) for ids in self.clean]

    @property
    def n_pos(self) -> int:
        """The number of tokens of the longest."""
        return max(self.lengths)

    @property
    def digest(self) -> str:
        """A hash of all ids, the same in every process."""
        return digest_of_text(json.dumps(asdict(self)))

    @property
    def metric(self) -> Metric:
        """That of `PromptPairs`, by token ids."""
        return Logit(self.correct) if self.incorrect is None else LogitDifference(self.correct, self.incorrect)

    def clean_batch(self, device: torch.device | str = "cpu") -> MaskedTokens:
        """All clean prompts in one batch, padded on the left."""
        return _in_one_batch(self.clean, device)

    def corrupted_batch(self, device: torch.device | str = "cpu") -> MaskedTokens:
        """All corrupted prompts in one batch, padded as the clean ones."""
        return _in_one_batch(self.corrupted, device)

    def groups(self, rows: Sequence[int]) -> list[list[int]]:
        """Row numbers in groups of equal length, so that nothing is padded: the longest first, each in order."""
        lengths = self.lengths
        return [
            [row for row in rows if lengths[row] == length]
            for length in sorted({lengths[row] for row in rows}, reverse=True)
        ]


def _in_one_batch(prompts: list[list[int]], device: torch.device | str) -> MaskedTokens:
    ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), True
    return MaskedTokens(ids.to(device), None if mask.all() else mask.to(device))
