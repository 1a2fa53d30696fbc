"""GGUF files: their header is read once and checked against the file's size; their tensors are de-quantised in pieces.

The format is that of ggml's `docs/gguf.md`, in versions 2 and 3, little-endian. The header is read here and not by
`gguf.GGUFReader`: that makes two arrays for every word of a vocabulary, which takes longer than all the rest of
loading, and it does not stop where a corrupt file states an impossible length. Blocks of quantised numbers are decoded
by the `gguf` package.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CheckpointError

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The format of `struct` for each scalar type of metadata."""
STRING, ARRAY = 8, 9
VERSIONS = (2, 3)
MOST_AXES = 4
VALUES_AT_ONCE = 1 << 18
"""The number of values that are de-quantised together: few, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in the file, and how its numbers are written.

    Attributes:
        name: as in the file.
        shape: rows last, as torch has it (the file has it the other way round).
        kind: a `gguf.GGMLQuantizationType`.
        start: offset of its first byte in the file.
        row_bytes: bytes of one row, that is, of all values along the last axis.
    """

    name: str
    shape: tuple[int, ...]
    kind: Any
    start: int
    row_bytes: int

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return int(np.prod(self.shape[:-1], dtype=object))


class GGUFFile:
    """A GGUF file whose header has been read and found sound.

    Attributes:
        path: the file.
        metadata: its key-value pairs as Python values.
        tensors: its tensors by name.

    Raises:
        CheckpointError: no GGUF file, cut short, or corrupt; a tensor of an unknown quantisation. Names the file, and
            the key or the tensor.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._gguf = _package()
        try:
            with self.path.open("rb") as file:
                header = _Header(file, self.path)
                n_tensors, n_pairs = header.counts()
                self.metadata: dict[str, Any] = dict(header.pairs(n_pairs))
                entries = list(header.tensors(n_tensors))
                start, end = header.at, header.size
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror or error}") from error
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(f"{self.path}: general.alignment = {alignment!r}; allowed: a power of two")
        start += -start % alignment
        self.tensors: dict[str, StoredTensor] = {}
        for name, shape, kind, offset in entries:
            if name in self.tensors:
                raise CheckpointError(f"{self.path}: tensor {name!r} is there twice")
            self.tensors[name] = self._placed(name, shape, kind, start + offset, end)

    def _placed(self, name: str, shape: tuple[int, ...], kind: int, start: int, end: int) -> StoredTensor:
        gguf, where = self._gguf, f"{self.path}: tensor {name!r}"
        kinds = gguf.GGMLQuantizationType
        if kind not in list(kinds):
            known = ", ".join(sorted(k.name for k in kinds))
            raise CheckpointError(f"{where} has quantisation {kind}; the gguf package knows {known}")
        block, block_bytes = gguf.GGML_QUANT_SIZES[kinds(kind)]
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise CheckpointError(
                f"{where} has shape {shape}, which {kinds(kind).name} cannot have (blocks of {block})"
            )
        stored = StoredTensor(name, shape, kinds(kind), start, shape[-1] // block * block_bytes)
        if start + stored.n_rows * stored.row_bytes > end:
            raise CheckpointError(f"{where} reaches beyond the end of the file at byte {end}; the file is cut short")
        return stored

    def check_readable(self, name: str) -> None:
        """Raise `CheckpointError` unless the gguf package can de-quantise this tensor."""
        stored = self.tensors[name]
        block_bytes = self._gguf.GGML_QUANT_SIZES[stored.kind][1]
        try:
            self._gguf.quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), stored.kind)
        except NotImplementedError as error:
            message = f"{self.path}: tensor {name!r} has quantisation {stored.kind.name}: {error}"
            raise CheckpointError(message) from error

    def rows(self, name: str, multiple: int = 1) -> Iterator[tuple[int, Float[Tensor, "rows size"]]]:
        """The tensor's rows in float32, some at a time (a multiple of `multiple`), each with its first row's number."""
        stored = self.tensors[name]
        step = max(VALUES_AT_ONCE // (stored.shape[-1] * multiple), 1) * multiple
        with self.path.open("rb") as file:
            file.seek(stored.start)
            for first in range(0, stored.n_rows, step):
                wanted = min(step, stored.n_rows - first) * stored.row_bytes
                read = file.read(wanted)
                if len(read) < wanted:
                    raise CheckpointError(f"{self.path}: tensor {name!r}: the file ended while it was read")
                packed = np.frombuffer(bytearray(read), dtype=np.uint8).reshape(-1, stored.row_bytes)
                yield first, torch.from_numpy(self._gguf.quants.dequantize(packed, stored.kind))


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError("reading a .gguf file needs the gguf package: pip install 'interp[gguf]'") from error
    return gguf


class _Header:
    """The part of a file before the tensors' data, read from front to back."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.at = file, path, 0
        self.size = os.fstat(file.fileno()).st_size
        self.reading = "the header"

    def counts(self) -> tuple[int, int]:
        """How many tensors and how many key-value pairs follow."""
        if (magic := self.take(4)) != b"GGUF":
            raise CheckpointError(f"{self.path} is not a GGUF file: it begins with {magic!r} and not b'GGUF'")
        (version,) = self.unpack("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            what = "is big-endian" if swapped else f"has version {version}"
            raise CheckpointError(f"{self.path} {what}; allowed: little-endian files of versions 2 and 3")
        n_tensors, n_pairs = self.unpack("QQ")
        return n_tensors, n_pairs

    def pairs(self, n: int) -> Iterator[tuple[str, Any]]:
        """Metadata."""
        for i in range(n):
            self.reading = f"metadata entry {i}"
            key = self.string()
            self.reading = f"metadata {key!r}"
            yield key, self.value(*self.unpack("I"))

    def tensors(self, n: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape (rows last), kind and offset of every tensor."""
        for i in range(n):
            self.reading = f"the entry of tensor {i}"
            name = self.string()
            self.reading = f"the entry of tensor {name!r}"
            (n_axes,) = self.unpack("I")
            if n_axes > MOST_AXES:
                raise CheckpointError(f"{self.path}: {self.reading} is corrupt: it has {n_axes} axes")
            shape = self.unpack(f"{n_axes}Q")
            kind, offset = self.unpack("IQ")
            yield name, tuple(reversed(shape)), kind, offset

    def take(self, n: int) -> bytes:
        """The next `n` bytes. Raises `CheckpointError` if the file has fewer."""
        if n > self.size - self.at:
            raise CheckpointError(
                f"{self.path}: {self.reading} reaches beyond the end of the file at byte {self.size}; "
                "the file is cut short or corrupt"
            )
        self.at += n
        return self.file.read(n)

    def unpack(self, what: str) -> tuple[Any, ...]:
        """The next numbers, in a format of `struct`."""
        return struct.unpack("<" + what, self.take(struct.calcsize("<" + what)))

    def string(self) -> str:
        """The next string: a length and so many bytes of UTF-8."""
        text = self.take(self.unpack("Q")[0])
        with suppress(UnicodeDecodeError):
            return text.decode()
        raise CheckpointError(f"{self.path}: {self.reading} is corrupt: {text[:40]!r} is not UTF-8")

    def value(self, kind: int) -> Any:
        """The next metadata value."""
        if kind in SCALARS:
            return self.unpack(SCALARS[kind])[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise CheckpointError(f"{self.path}: {self.reading} is corrupt: there is no type {kind}")
        element, n = self.unpack("IQ")
        if element in SCALARS:
            width = struct.calcsize("<" + SCALARS[element])
            return list(struct.unpack(f"<{n}{SCALARS[element]}", self.take(n * width)))
        if n > self.size - self.at:  # every other element has at least a byte
            self.take(n)
        return [self.value(element) for _ in range(n)]
