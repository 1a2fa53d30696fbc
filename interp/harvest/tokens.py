"""The tokens of a corpus on disk, in units: what workers run, so that none of them needs the corpus or its tokenizer.

A unit holds whole rows without their padding. Where units are cut depends on the rows alone.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.data import TextRow, TextRows
from interp.digests import digest_of, digest_of_text
from interp.errors import CheckpointError
from interp.files import load_about, load_json, load_tensors, save_json, save_tensors
from interp.indices import check_count
from interp.progress import progress_bar
from interp.text import MaskedTokens, TextCodec, Tokenizer, Vocabulary

KIND, INDEX, FORMAT = "interp.harvest.tokens", "index.json", 1
"""What the files of units say they are; the file that lists them; how both are written."""

CODECS: dict[str, type[TextCodec]] = {kind.__name__: kind for kind in (Vocabulary, Tokenizer)}
"""The tokenizers that are kept beside the tokens, so that a store can show them."""


@dataclass(frozen=True, eq=False)
class TokenUnit:
    """Rows of tokens that are computed together, one after another and without padding.

    Attributes:
        ids, text: the id of each token, and the number of its text.
        lengths: how many tokens each row has.
    """

    ids: Int[Tensor, "token"]
    text: Int[Tensor, "token"]
    lengths: Int[Tensor, "row"]

    @classmethod
    def of(cls, rows: list[TextRow]) -> "TokenUnit":
        """The unit of these rows."""
        ids, text = (torch.cat([getattr(row, name)[row.mask] for row in rows]).int() for name in ("ids", "text"))
        return cls(ids, text, torch.tensor([int(row.mask.sum()) for row in rows], dtype=torch.int32))

    @property
    def pos(self) -> Int[Tensor, "token"]:
        """The position of each token in its row."""
        return torch.cat([torch.arange(n, dtype=torch.int32) for n in self.lengths.tolist()])

    @property
    def digest(self) -> str:
        """A hash of everything."""
        return digest_of(vars(self))

    def batches(self, n_rows: int, device: torch.device) -> "Iterator[tuple[MaskedTokens, Batch]]":
        """So many rows at a time as a model runs them, padded to the longest of them, and which tokens these are."""
        first = 0
        for lengths in self.lengths.split(n_rows):
            end = first + int(lengths.sum())
            real = torch.arange(int(lengths.max())) < lengths[:, None]
            ids = torch.zeros(real.shape, dtype=torch.long)
            ids[real] = self.ids[first:end].long()
            mask = None if bool(real.all()) else real.to(device)
            yield MaskedTokens(ids.to(device), mask), Batch(slice(first, end), real.to(device))
            first = end


@dataclass(frozen=True, eq=False)
class Batch:
    """The place of a batch in its unit.

    Attributes:
        tokens: which tokens of the unit these are.
        real: where they stand in the batch, in their order; elsewhere is padding.
    """

    tokens: slice
    real: Bool[Tensor, "row pos"]


@dataclass(frozen=True)
class TokenFiles:
    """The units of a corpus in a folder.

    Attributes:
        folder: where they are.
        digest: a hash of all units in their order.
        n_units, n_tokens: how many there are.
    """

    folder: Path
    digest: str
    n_units: int
    n_tokens: int

    @classmethod
    def write(cls, folder: Path, rows: TextRows, unit_tokens: int, begun: bool, progress: bool) -> "TokenFiles":
        """Write the units of these rows, one after another; those that are there already are left as they are.

        Args:
            folder: where they go.
            rows: the corpus.
            unit_tokens: how many tokens a unit has at most; of a row that is longer, the row.
            begun: whether others may have computed on what is in the folder.
            progress: show a bar on a terminal.

        Raises `CheckpointError`, naming a text from which on they differ, if `begun` and the folder has another corpus.
        """
        known = _read_index(folder) if begun and (folder / INDEX).exists() else None
        about: dict[str, list[Any]] = {"digests": [], "n_tokens": [], "texts": []}
        with progress_bar("reading texts", None, progress) as advance:
            for number, unit in enumerate(token_units(rows, unit_tokens)):
                texts = [int(unit.text[0]), int(unit.text[-1])]
                for name, value in (("digests", unit.digest), ("n_tokens", len(unit.ids)), ("texts", texts)):
                    about[name].append(value)
                if known is not None and known["digests"][number : number + 1] != [unit.digest]:
                    _refuse(folder, f"the tokens differ in text {texts[0]} or one after it")
                if _digest_in(_file(folder, number)) != unit.digest:
                    save_tensors(_file(folder, number), KIND, vars(unit), {"digest": unit.digest})
                advance(0, f"{rows.n_texts:,}, {rows.n_tokens:,} tokens")
        if known is not None and len(known["digests"]) > len(about["digests"]):
            _refuse(folder, f"there are more than {rows.n_texts} there")
        counts = {"n_texts": rows.n_texts, "n_empty": rows.n_empty, "n_ctx": rows.n_ctx, "packed": rows.packed}
        if known is None:
            _write_index(folder, about | counts, rows.tokenizer)
        return cls(folder, _digest_of(about["digests"]), len(about["digests"]), rows.n_tokens)

    @classmethod
    def at(cls, folder: Path) -> "TokenFiles":
        """The units that `write` left in a folder. Raises `CheckpointError` for a folder without them."""
        index = _read_index(folder)
        return cls(folder, _digest_of(index["digests"]), len(index["digests"]), sum(index["n_tokens"]))

    @property
    def index(self) -> dict[str, Any]:
        """What is known of the units: their tokens, the first and last text of each, and the texts altogether.

        Raises `CheckpointError` if it is not that of these units.
        """
        index = _index_of(self.folder, self.digest)
        if _digest_of(index["digests"]) != self.digest:
            raise CheckpointError(f"{self.folder} holds other tokens than those this job began with")
        return index

    def unit(self, number: int) -> TokenUnit:
        """The tokens of a unit. Raises `CheckpointError` where they are not those that were written."""
        tensors, _ = load_tensors(_file(self.folder, number), KIND)
        unit = TokenUnit(**tensors)
        if unit.digest != self.index["digests"][number]:
            raise CheckpointError(
                f"{_file(self.folder, number)} does not hold the tokens that were written; remove it, and give the "
                "same call again"
            )
        return unit

    def describe(self, number: int) -> str:
        """The texts and tokens of a unit, for messages."""
        first, last = self.index["texts"][number]
        n_tokens = self.index["n_tokens"][number]
        return (
            f"{n_tokens} tokens of text {first}" if first == last else f"{n_tokens} tokens of texts {first} to {last}"
        )

    def tokenizer(self) -> TextCodec | None:
        """What the texts were read with, where that was kept."""
        kept = self.index["tokenizer"]
        return None if kept is None else CODECS[kept["kind"]].load(self.folder, kept["values"])


def token_units(rows: TextRows, unit_tokens: int) -> Iterator[TokenUnit]:
    """Rows in units of at most so many tokens; of a row that is longer, the row."""
    most, held, n_held = check_count("unit_tokens", unit_tokens), [], 0
    for row in rows:
        n_tokens = int(row.mask.sum())
        if held and n_held + n_tokens > most:
            yield TokenUnit.of(held)
            held, n_held = [], 0
        held.append(row)
        n_held += n_tokens
    if held:
        yield TokenUnit.of(held)


def _file(folder: Path, number: int) -> Path:
    return folder / f"tokens-{number:06}.safetensors"


def _digest_in(file: Path) -> str | None:
    """The digest that a file of a unit was written with, or None where there is no such file."""
    try:
        return load_about(file, KIND).get("digest")
    except CheckpointError:
        return None


def _digest_of(digests: list[str]) -> str:
    return digest_of_text("".join(digests))


def _refuse(folder: Path, what: str) -> None:
    raise CheckpointError(
        f"{folder.parent} has a job over other texts, or over these cut otherwise: {what}; give another folder, or "
        "remove it"
    )


def _write_index(folder: Path, about: dict[str, Any], tokenizer: TextCodec | None) -> None:
    kind = type(tokenizer).__name__
    values = tokenizer.save(folder) if tokenizer is not None and CODECS.get(kind) is type(tokenizer) else None
    kept = None if values is None else {"kind": kind, "values": values}
    save_json(folder / INDEX, FORMAT, {**about, "tokenizer": kept})


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    index = load_json(file, FORMAT, "a list of tokens")
    columns = [index.get(name) for name in ("digests", "n_tokens", "texts")]
    lengths = {len(column) if isinstance(column, list) else None for column in columns}
    if len(lengths) > 1 or None in lengths:
        raise CheckpointError(f"{file} does not describe every unit")
    return index


@functools.lru_cache(maxsize=4)
def _index_of(folder: Path, digest: str) -> dict[str, Any]:
    return _read_index(folder)
