"""Tensors that can be read and not written: copies, of which people may think that writing to them changes a model."""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from interp.errors import ReadOnlyError

Kind = TypeVar("Kind", bound="ReadOnly")


class ReadOnly(Tensor):
    """A tensor in which nothing can be written. Whatever is computed from it is an ordinary tensor.

    Only indexing gives another read-only one, where it gives a view: `model.W_Q[0][3] = 0` is refused as
    `model.W_Q[0, 3] = 0` is. Reading costs what it costs for any tensor, because torch's dispatch to subclasses is
    switched off.

    Attributes:
        instead: what to write to, for the error message.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore
    instead: str

    @classmethod
    def of(cls: type[Kind], tensor: Tensor, instead: str) -> Kind:
        """The same numbers in the same memory, read-only from here on."""
        made = tensor.as_subclass(cls)
        made.instead = instead
        return made

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ReadOnlyError(
            "these are weights of all layers stacked into a copy, and writing into it would change no model; to change "
            f"the model, write under torch.no_grad() to {self.instead}; for numbers of your own, write to a .clone()"
        )

    def __getitem__(self, index: Any) -> Tensor:
        found = super().__getitem__(index)
        shares = found._is_view()
        if found.is_inference():  # where views are not marked as such
            shares = found.untyped_storage()._cdata == self.untyped_storage()._cdata
        return self.of(found, self.instead) if shares else found

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    @property
    def data(self) -> Tensor:
        """The numbers without the graph, read-only too."""
        return self.of(self.detach(), self.instead)

    @data.setter
    def data(self, value: Any) -> None:
        self._refuse()

    def _plain(self) -> Tensor:
        return self.as_subclass(Tensor)

    def __deepcopy__(self, memo: dict[Any, Any]) -> Tensor:
        """A copy of one's own, which can be written."""
        return self._plain().__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold an ordinary tensor."""
        return self._plain().__reduce_ex__(protocol)

    def __repr__(self, **options: Any) -> str:
        return self._plain().__repr__(**options)


def _writers() -> list[str]:
    """The names of all methods that write in place: `fill_`, `__setitem__`, `__iadd__`, ..."""
    methods = [name for name in dir(Tensor) if callable(getattr(Tensor, name))]
    in_place = [name for name in methods if name.endswith("_") and not name.startswith("_")]
    operators = [name for name in methods if name.startswith("__i") and f"__{name[3:]}" in methods]
    return ["__setitem__", *in_place, *operators]


for _name in _writers():
    _refuse: Callable[..., NoReturn] = ReadOnly._refuse
    setattr(ReadOnly, _name, _refuse)
