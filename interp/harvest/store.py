"""The store: activations of a corpus on disk, a row for every token, read by memory map.

Row numbers go through the corpus: row 0 is its first token. Files are opened when they are needed; what is read of them
is what is asked for.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, HookNotFoundError, JobError, describe
from interp.files import atomic_path
from interp.harvest.corpus import tokens_in
from interp.harvest.examples import Score, TopExamples, best_rows, score_of
from interp.harvest.tokens import TokenFiles
from interp.indices import as_indices, check_count
from interp.jobs import JobFolder
from interp.keywords import known_keywords
from interp.model import HookName, resolve
from interp.text import TextCodec

if TYPE_CHECKING:
    from interp.harvest.batches import Batches

ABOUT = "about"
"""Of a unit's values, the one that describes its activations."""

BESIDE = ("token", "text", "pos")
"""What is kept of every token beside its activations: its id, the number of its text, its position in its row."""

ROWS_AT_ONCE = 4096
"""So many rows are handled at a time where the whole store is gone through. Sums depend on it in their last bits."""


class Store:
    """Activations of a corpus, as `harvest` left them in a folder.

        store = Store.open("layer-12")
        store["resid_post", 12].rows([5, 3])           # [2, d_model]
        for batch in store.batches(2048, seed=0): ...  # shuffled; by full name, such as batch[store.sites[0]]

    Copies and pickles of it are as small as the path: files are opened again.

    Attributes:
        folder: where it is.
        sites: the full names of the hook points.
        signature, n_layers: of the model that ran: the hash of its architecture and weights, and its layers.
        units: which units of the harvest it has: all, unless it was opened as a partial one.

    >>> from interp.harvest import harvest
    >>> _ = harvest(model, corpus, ("resid_post", 1), folder="layer-1", n_ctx=10, packed=False, progress=False)
    >>> Store.open("layer-1")["resid_post", 1].rows(slice(2)).shape
    torch.Size([2, 32])
    """

    def __init__(self, job: JobFolder, partial: bool = False):
        if job.specification.get("analysis") != "harvest":
            raise CheckpointError(f"{job.path} is the folder of another job than a harvest")
        self.folder, self._job = job.path, job
        self._tokens = TokenFiles.at(tokens_in(job.path))
        if self._tokens.digest != job.specification["tokens"]:
            raise CheckpointError(f"{self._tokens.folder} holds other tokens than those that were harvested")
        self.units = job.units(partial)
        if not self.units:
            raise JobError(f"{job.path}: no unit is done yet", missing=range(job.n_units))
        about = job.mapped(self.units[0])[ABOUT]
        self.sites: tuple[str, ...] = tuple(about["ran_in"])
        self.signature: str = about["signature"]
        self._ran_in = {name: getattr(torch, dtype) for name, dtype in about["ran_in"].items()}
        self.n_layers: int = about["n_layers"]
        n_tokens = self._tokens.index["n_tokens"]
        self._ends = torch.tensor([n_tokens[unit] for unit in self.units]).cumsum(0)
        self._mapped: OrderedDict[int, Mapping[str, Tensor]] = OrderedDict()
        self.most_mapped = 64

    @classmethod
    def open(cls, folder: str | os.PathLike[str], partial: bool = False) -> "Store":
        """The store in a folder.

        Args:
            folder: that was given to `harvest`.
            partial: take what is there, where units are missing; rows are numbered without them.

        Raises `CheckpointError` for a folder without a harvest, and `JobError` where units are missing.
        """
        return cls(JobFolder.at(Path(folder).expanduser().absolute()), partial)

    def __len__(self) -> int:
        """How many rows there are: tokens of the corpus."""
        return int(self._ends[-1])

    def __getitem__(self, site: HookName) -> "StoredSite":
        """The rows of a site, by its name in any form. Raises `HookNotFoundError` for one that is not here."""
        found = resolve(site, self.sites, self.n_layers)
        if len(found) > 1:
            raise HookNotFoundError(f"{describe(site)} fits {len(found)} sites: {', '.join(found[:4])}; name one")
        return StoredSite(self, found[0])

    @property
    def token(self) -> "StoredRows":
        """The id of each row's token."""
        return StoredRows(self, "token")

    @property
    def text(self) -> "StoredRows":
        """The number of the text that each row's token is of."""
        return StoredRows(self, "text")

    @property
    def pos(self) -> "StoredRows":
        """The position of each row's token among those that ran together."""
        return StoredRows(self, "pos")

    @cached_property
    def tokenizer(self) -> TextCodec | None:
        """What the texts were read with, if it is a `Tokenizer` or a `Vocabulary`."""
        return self._tokens.tokenizer()

    def mean_of(self, name: str) -> Tensor:
        """The mean of a site in the dtype in which the model ran, as `interventions.Mean(store)` writes it."""
        return self[name].mean().to(self._ran_in[name])

    # ------------------------------------------------------------------ rows

    def unit(self, place: int) -> Mapping[str, Tensor]:
        """The tensors of the unit at a place among `units`, by name, mapped from the file."""
        if place in self._mapped:
            self._mapped.move_to_end(place)
        else:
            while len(self._mapped) >= self.most_mapped:
                self._mapped.popitem(last=False)
            held = self._job.mapped(self.units[place])
            first, end = self.span(place)
            n = end - first
            for name in (*self.sites, *BESIDE):
                if name not in held or len(held[name]) != n:
                    raise CheckpointError(f"{self._job.file(self.units[place])} does not hold {n} rows of {name}")
            self._mapped[place] = held
        return self._mapped[place]

    def span(self, place: int) -> tuple[int, int]:
        """The number of the first row of the unit at a place, and that after its last."""
        return int(self._ends[place - 1]) if place else 0, int(self._ends[place])

    def gather(self, names: Sequence[str], rows: Int[Tensor, "row"]) -> dict[str, Tensor]:
        """Rows by their numbers, in the order given, of sites and of what is beside them."""
        ordered, order = rows.sort()
        places, counts = torch.searchsorted(self._ends, ordered, right=True).unique_consecutive(return_counts=True)
        parts: dict[str, list[Tensor]] = {name: [self.unit(0)[name][:0]] for name in names}
        for place, here in zip(places.tolist(), ordered.split(counts.tolist()), strict=True):
            unit, here = self.unit(place), here - self.span(place)[0]
            for name, found in parts.items():
                found.append(unit[name].index_select(0, here))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return {name: torch.cat(found).index_select(0, back) for name, found in parts.items()}

    @known_keywords
    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        sites: Any = None,
        reader: tuple[int, int] = (0, 1),
        shards: int = 8,
    ) -> "Batches":
        """All rows in random order, some at a time: what a probe or a dictionary is trained on.

        The order is drawn twice, by the seed: that of the units, and that of the rows within `shards` of them at a
        time, of which the files are mapped. Every row comes once, and the batches and their order are the same for any
        number of readers, of which each gets every n-th batch; so take another seed for the next epoch. The result is
        a torch `IterableDataset`, for a `DataLoader(..., batch_size=None)` with any number of workers.

        Args:
            batch_size: rows of a batch; the last may have fewer.
            seed: of the order.
            sites: which; all by default.
            reader: which of several readers this is: (0, 3), (1, 3) and (2, 3) have every batch once between them.
            shards: how many units are shuffled together. More mix better, and want more memory for files.

        Each batch is a dictionary: by full name the rows of each site, as they are stored, and `row`, `token`, `text`
        and `pos` of each.

        Raises `ConfigError` for a number out of range, and `HookNotFoundError` for a site that is not here.
        """
        from interp.harvest.batches import Batches  # torch's class, of annotations that checks at run time warn of

        asked = self.sites if sites is None else sites if isinstance(sites, list) else [sites]
        names = [StoredSite(self, self[site].name).name for site in asked]
        return Batches(self, tuple(dict.fromkeys(names)), batch_size, seed, reader, shards)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: all but what is read from files."""
        state = {**self.__dict__, "_mapped": OrderedDict()}
        state.pop("tokenizer", None)
        return state

    def __repr__(self) -> str:
        shown = ", ".join(self.sites[:3]) + (", ..." if len(self.sites) > 3 else "")
        part = "" if len(self.units) == self._job.n_units else f", {len(self.units)} of {self._job.n_units} units"
        return f"Store({str(self.folder)!r}: {len(self):,} tokens, {shown}{part})"


class StoredRows:
    """One thing that is kept of every token, such as its activations at a site.

    Attributes:
        store: where it is kept.
        name: of the site in full, or "token", "text" or "pos".
    """

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows, and what a row has: (len(store), d_model), for instance."""
        return len(self.store), *self.store.unit(0)[self.name].shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """In which it is stored."""
        return self.store.unit(0)[self.name].dtype

    def __len__(self) -> int:
        return len(self.store)

    def rows(self, index: Any) -> Tensor:
        """Some rows, in the order given: a number, several (also twice), or a slice; negative ones count from the end.

        A tensor or an array of truth values, one for every row, stands for those that are true. Raises `ConfigError`
        for one that is not there.
        """
        return self.store.gather([self.name], _row_numbers(index, len(self)))[self.name]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows in their order, some thousand at a time, each time with the number of the first."""
        for place in range(len(self.store.units)):
            first, rows = self.store.span(place)[0], self.store.unit(place)[self.name]
            for part in rows.split(ROWS_AT_ONCE):
                yield first, part
                first += len(part)

    @overload
    def numpy(self, path: None = None) -> np.ndarray: ...

    @overload
    def numpy(self, path: str | os.PathLike[str]) -> Path: ...

    def numpy(self, path: str | os.PathLike[str] | None = None) -> np.ndarray | Path:
        """All rows as one array, in memory or as a file.

        bfloat16, which numpy does not have, becomes float32.

        Args:
            path: of a .npy file, which is written unit by unit, whole or not at all, and can be memory-mapped
                (`np.load(path, mmap_mode="r")`). It is returned. None for an array in memory.
        """
        dtype = np.dtype(str(_of_numpy(torch.empty(0, dtype=self.dtype)).dtype))
        if path is None:
            array = np.empty(self.shape, dtype)
            self._fill(array)
            return array
        with atomic_path(path) as file:
            array = np.lib.format.open_memmap(file, "w+", dtype, self.shape)
            self._fill(array)
            array.flush()
        return Path(path)

    def _fill(self, array: np.ndarray) -> None:
        for first, rows in self.blocks():
            array[first : first + len(rows)] = _of_numpy(rows)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({self.name!r}: {' x '.join(map(str, self.shape))} {dtype})"


class StoredSite(StoredRows):
    """The activations of a site, a row for every token."""

    def mean(self) -> Float[Tensor, "*size"]:
        """The mean over all tokens, in float64."""
        total = torch.zeros(self.shape[1:], dtype=torch.float64)
        for _, rows in self.blocks():
            total += rows.double().sum(0)
        return total / len(self)

    def covariance(self) -> Float[Tensor, "*lead size size"]:
        """The covariance of the numbers of a row over all tokens, in float64, divided by their number less one.

        Of a site with heads it is that of each head, [head, d_head, d_head]. Raises `ConfigError` for a single token.
        """
        if len(self) < 2:
            raise ConfigError("a covariance needs two tokens or more")
        mean = self.mean()
        total = torch.zeros(*self.shape[1:], self.shape[-1], dtype=torch.float64)
        for _, rows in self.blocks():
            off = (rows.double() - mean).movedim(0, -1)  # [*lead, size, row]
            total += off @ off.mT
        return total / (len(self) - 1)

    def top_examples(self, of: Score, top_k: int = 10, context: int = 12) -> TopExamples:
        """The tokens at which something is largest, each with the tokens around it.

        Args:
            of: a direction (a tensor of the shape of a row, of which the product with each row is taken), a neuron (its
                number, or its place in a row: a tuple), or a function from rows [row, *size], in float32 at least, to
                a score for each.
            top_k: how many; fewer where there are fewer tokens. Of equal scores the earlier row comes first.
            context: how many tokens to show on either side. They are of the same text, and ran in the same row.

        Raises `ConfigError` for no such thing, or `RangeError` for scores that are not numbers.
        """
        score = score_of(of, self)
        return self.top_examples_of_each(lambda rows: score(rows)[:, None], top_k, context)[0]

    def top_examples_of_each(
        self, fn: Callable[[Tensor], Tensor], top_k: int = 10, context: int = 12
    ) -> list[TopExamples]:
        """As `top_examples` for several scores at once, such as features: `fn` gives [row, score]."""
        found = best_rows(self, fn, check_count("top_k", top_k))
        context = check_count("context", context, least=0)
        return [TopExamples.of(self.store, rows, scores, context) for rows, scores in found]


def _row_numbers(index: Any, n: int) -> Int[Tensor, "row"]:
    """Rows as callers name them, as numbers from 0."""
    if isinstance(index, slice):
        return torch.from_numpy(np.arange(*index.indices(n)))
    refused = ConfigError(f"rows({describe(index)}); allowed: a number, several, a slice, or a mask of all {n} rows")
    if isinstance(index, Tensor | np.ndarray):
        given = torch.as_tensor(index)
        if given.dtype == torch.bool and given.shape == (n,):
            given = given.nonzero()[:, 0]
        if given.is_floating_point() or given.dtype == torch.bool or given.ndim > 1:
            raise refused
        given = given.reshape(-1).long()
    else:
        try:
            given = torch.tensor(as_indices(index), dtype=torch.long)
        except TypeError:
            raise refused from None
    if bool((bad := (given < -n) | (given >= n)).any()):
        raise ConfigError(f"row {int(given[bad][0])}; allowed: {-n} to {n - 1}")
    return given % n


def _of_numpy(rows: Tensor) -> np.ndarray:
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
