"""Safetensors files whose tensors can be mapped into memory and used where they lie.

A matrix product on a CPU may round otherwise where its operands begin at another place within a cache line. Memory that
torch allocates begins at a multiple of 64 bytes, and so do the tensors of these files. The format allows no gaps, so
that only a tensor behind one whose size is no multiple of 64 bytes can be misplaced: these come last in the file, and
whoever maps it copies those that are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.checkpoints.sources import DTYPES
from interp.errors import CheckpointError

ALIGNMENT = 64
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_aligned(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, one tensor after another, without a copy of them all.

    Raises `CheckpointError` for a tensor of complex numbers or another dtype that no checkpoint of a model has.
    """
    header, end = {}, 0
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, -tensors[name].itemsize))
    for name in order:
        tensor, begin = tensors[name], end
        if tensor.dtype not in NAMES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in NAMES)
            raise CheckpointError(f"tensor {name!r} has dtype {tensor.dtype}; allowed: {allowed}")
        end += tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    described = json.dumps(header).encode()
    described += b" " * (-(8 + len(described)) % ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(len(described).to_bytes(8, "little") + described)
        for name in order:
            opened.write(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def aligned(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The tensor, or a copy with the same strides of one that begins elsewhere than torch's own memory does."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def memory_order(tensor: Shaped[Tensor, "*shape"]) -> tuple[int, ...] | None:
    """The axes in the order in which the tensor lies in memory; None if it has gaps, or holds a number twice."""
    order = tuple(sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), -tensor.shape[axis])))
    if tensor.is_contiguous():
        return tuple(range(tensor.ndim))
    return order if tensor.permute(order).is_contiguous() else None


def in_order(tensor: Shaped[Tensor, "*permuted"], order: Sequence[int]) -> Shaped[Tensor, "*shape"]:
    """The tensor x of which `tensor` is `x.permute(order)`."""
    return tensor.permute([order.index(axis) for axis in range(tensor.ndim)])
