"""Rows that are patched in an encoder: through its layers, and through the decoder's, which read what it made of them.

Each row has a memory of its own in the end, which every position of the decoder may read: there a row carries all
positions from the first layer on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from interp.patching.packed import PackedForward
from interp.patching.packed_rows import PackedRows


@runtime_checkable
class Passes(Protocol):
    """What takes rows through all layers, from those that join at each."""

    def run(self, joining: dict[int, list[PackedRows]]) -> list[PackedRows]:
        """All rows after the last layer."""
        ...


class EnteringRows:
    """Rows that enter the first layer as the base run does, and differ from it by what they remember alone."""

    def before(self, layer: int, rows: list[PackedRows], packed: PackedForward) -> list[PackedRows]:
        """The rows with the base run's stream."""
        return [packed.entered(layer, some) for some in rows]

    def through(self, layer: int, rows: list[PackedRows], packed: PackedForward) -> list[PackedRows]:
        """Not asked for: they differ before the layer."""
        raise NotImplementedError


class PackedThroughMemory:
    """A pass of many rows through an encoder and then through a decoder.

    Args:
        encoder: of rows that vary the run on the source.
        decoder: of rows that vary the run on the target, by their memory.
    """

    def __init__(self, encoder: PackedForward, decoder: PackedForward):
        self.encoder, self.decoder = encoder, decoder

    @torch.no_grad()
    def run(self, joining: Mapping[int, list[PackedRows]]) -> list[PackedRows]:
        """All rows after the decoder's last layer, from those that join at each layer of the encoder."""
        rows = self.encoder.run(dict(joining))
        return self.decoder.run({0: [self._remembering(some) for some in rows]})

    def _remembering(self, rows: PackedRows) -> PackedRows:
        """The rows before the decoder, with what the encoder made of them."""
        base = self.encoder.base
        before = base.final[rows.prompt, : rows.start]
        stream = torch.cat([before.expand(len(rows.cells), -1, -1), rows.stream], dim=1)
        return replace(rows, start=0, x=None, memory=base.model.read_out(stream))
