"""Precision: what is summed, averaged, compared or made a probability is computed in float32 at least.

Half precision is enough to hold weights and activations, not to reduce them: a sum in float16 overflows at 65,504, and
a loss in bfloat16 has two to three digits. Inside `torch.autocast` products of float32 tensors are rounded to half
precision, too, which is right for the run of a model and wrong for the arithmetic of an analysis.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in a precision that sums and differences can be taken in: half precision becomes float32."""
    return x.to(wide(x.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which numbers of `dtype` are summed: float32 for half precision, else `dtype` itself."""
    return torch.float32 if dtype in HALVES else dtype


def wide_sum(x: Float[Tensor, "..."], dim: int | tuple[int, ...]) -> Float[Tensor, "..."]:
    """The sum over some axes, in float32 at least."""
    return x.sum(dim=dim, dtype=wide(x.dtype))


def wide_mean(x: Float[Tensor, "..."], dim: int | tuple[int, ...], keepdim: bool = False) -> Float[Tensor, "..."]:
    """The mean over some axes, in float32 at least."""
    return x.mean(dim=dim, keepdim=keepdim, dtype=wide(x.dtype))


def of_one_dtype(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype that holds the numbers of them all, so that they can be multiplied.

    They differ where a run under autocast left half precision beside the float32 weights.
    """
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def coarsest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The floating dtype that rounds most among those of the tensors; float64 without any."""
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return max(found, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


def equal_up_to_rounding(
    total: Float[Tensor, "*axes"], whole: Float[Tensor, "*axes"], size: Float[Tensor, "*axes"], dtype: torch.dtype
) -> bool:
    """Whether a sum of terms is what it should be, but for the rounding of the terms.

    Args:
        total: the sum.
        whole: what it should be.
        size: the sum of the absolute terms.
        dtype: the coarsest that the terms were computed in.
    """
    tolerance = 0.1 if dtype in HALVES else 1e-3
    total, whole, size = (at_least_float32(x) for x in (total, whole, size))
    return bool(((total - whole).abs() <= tolerance * (1 + size)).all())


# ---------------------------------------------------------------------------------------------- autocast


def autocast_devices() -> list[str]:
    """The types of the devices on which `torch.autocast` is on right now."""
    accelerator = torch.accelerator.current_accelerator()
    types = ["cpu", *([] if accelerator is None else [accelerator.type])]
    return [device for device in types if torch.is_autocast_enabled(device)]


@contextmanager
def without_autocast() -> Iterator[None]:
    """Arithmetic in the dtypes of its operands, whatever surrounds it; also a decorator: `@without_autocast()`."""
    with ExitStack() as stack:
        for device in autocast_devices():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
