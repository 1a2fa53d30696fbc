"""A device that is none: for torch its tensors lie elsewhere, and the CPU computes what is asked of them.

With `INTERP_DEVICE=pretend` the tests marked `device` find, on a machine without any accelerator, a tensor made on the
CPU that meets one of the model's, a generator of another device, and an array asked of a tensor that is not on the CPU.
It does not round as an accelerator does. Torch has the device's name and guards from its backend registration for
Python, which needs torch 2.9; the rest is a tensor subclass, and a mode for the functions that make tensors.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "pretend"
TAKES_BOTH = ("aten::copy_", "aten::_to_copy", "aten::index.Tensor", "aten::index_put", "aten::_index_put_impl_")
"""What any device does with tensors of two: copies, and indexing with indices from the CPU."""


class Elsewhere(Tensor):
    """A tensor of the device, whose numbers are `raw`, a tensor on the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "Elsewhere":
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        made = Tensor._make_wrapper_subclass(cls, raw.shape, device=torch.device(NAME, 0), **layout)
        made.raw = raw
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.raw!r} on {NAME}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            new: Tensor = Elsewhere(self.raw.clone())
            whole = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = (
                torch.nn.Parameter(new, self.requires_grad) if whole else new.requires_grad_(self.requires_grad)
            )
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


class Factories(TorchDispatchMode):
    """While it is on, functions that make tensors make them there when they are told so."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


def computed(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the CPU makes of an operation, and the error that any device gives where tensors of two devices meet."""
    there: list[Elsewhere] = []
    here: list[Tensor] = []

    def raw(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            there.append(value)
            return value.raw
        if isinstance(value, Tensor) and value.ndim:  # single numbers go anywhere
            here.append(value)
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value

    name, wanted = op.name(), kwargs.get("device")
    arguments, options = tree_map(raw, args), tree_map(raw, kwargs)
    goes_there = bool(there) if wanted is None else torch.device(wanted).type == NAME
    if name.startswith("aten::copy_"):
        goes_there = isinstance(args[0], Elsewhere)
    if there and here and not name.startswith(TAKES_BOTH):
        raise RuntimeError(f"{name}: tensors on {NAME} and on the CPU ({[tuple(one.shape) for one in here]})")
    if name.startswith("aten::index") and there and not isinstance(args[0], Elsewhere):
        raise RuntimeError(f"{name}: a tensor on the CPU with indices on {NAME}")
    if goes_there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: a generator on {kwargs['generator'].device} for tensors on {NAME}")

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        same = [one for one in there if one.raw is value]  # written to in place
        return same[0] if same else Elsewhere(value) if goes_there else value

    return tree_map(back, op(*arguments, **options))


def empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    return Elsewhere(torch.empty_strided(size, stride, dtype=options.get("dtype"), device="cpu"))


def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    here = [one.raw if isinstance(one, Elsewhere) else one for one in (source, target)]
    here[1].copy_(here[0])
    return target


KERNELS = torch.library.Library("aten", "IMPL")
"""Of what torch calls below all modes, for lists of numbers that become a tensor of the device. Kept alive here."""


def install() -> torch.device:
    """Make `torch.device("pretend")` known, for the rest of the process."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

    register(NAME)
    KERNELS.impl("empty_strided", empty_strided, "PrivateUse1")
    KERNELS.impl("_copy_from", copy_from, "PrivateUse1")
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's `raw` would stay behind
    Factories().__enter__()
    return torch.device(NAME)
