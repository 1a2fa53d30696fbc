"""Batches of a store in random order, the same for any number of readers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from interp.errors import ConfigError, describe
from interp.indices import check_count, check_seed

if TYPE_CHECKING:
    from interp.harvest.store import Store


class Batches(IterableDataset[dict[str, Tensor]]):
    """What `Store.batches` returns. It can be iterated again, with the same batches.

    Attributes:
        store: whose rows they are.
        names: full names of the sites that they have.
        batch_size, seed, reader, shards: as given.
    """

    def __init__(
        self, store: "Store", names: tuple[str, ...], batch_size: int, seed: int, reader: tuple[int, int], shards: int
    ):
        self.store, self.names = store, names
        self.batch_size, self.shards = check_count("batch_size", batch_size), check_count("shards", shards)
        self.seed = check_seed(seed)
        if not isinstance(reader, tuple) or len(reader) != 2:
            raise ConfigError(f"reader = {describe(reader)}; allowed: (which, of how many), such as (0, 1)")
        n = check_count("reader's number of readers", reader[1])
        self.reader = check_count("reader", reader[0], n - 1, least=0), n
        store.most_mapped = max(store.most_mapped, 2 * self.shards + 1)

    def __len__(self) -> int:
        """How many batches this reader gets."""
        which, n = self.reader
        return max(0, -(-(self._n_all - which) // n))

    @property
    def _n_all(self) -> int:
        return -(-len(self.store) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        which, n = self.reader
        worker = get_worker_info()
        if worker is not None:  # a loader takes from its workers in turn, so they share this reader's batches in turn
            which, n = which + n * worker.id, n * worker.num_workers
        for number, rows in enumerate(self._order()):
            if number % n == which:
                yield {**self.store.gather([*self.names, "token", "text", "pos"], rows), "row": rows}

    def _order(self) -> Iterator[Int[Tensor, "row"]]:
        """The row numbers of every batch."""
        generator = torch.Generator().manual_seed(self.seed)
        held = torch.empty(0, dtype=torch.long)
        for places in torch.randperm(len(self.store.units), generator=generator).split(self.shards):
            rows = torch.cat([torch.arange(*self.store.span(int(place))) for place in places])
            held = torch.cat([held, rows[torch.randperm(len(rows), generator=generator)]])
            whole = len(held) - len(held) % self.batch_size
            yield from held[:whole].split(self.batch_size) if whole else ()
            held = held[whole:]
        if len(held):
            yield held
