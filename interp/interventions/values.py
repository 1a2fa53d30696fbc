"""Values: activations of another run that are written somewhere, compared by content, with the model they are of."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from interp.errors import HookNotFoundError, did_you_mean
from interp.model import ActivationCache, signature


class Values(Mapping[str, Tensor]):
    """Activations by full name that never change; equal and hashed by content.

    Attributes:
        made_by: the `signature` of the model whose run they are from, where that is known.
    """

    def __init__(self, tensors: Mapping[str, Tensor], made_by: str | None = None):
        self._tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._digest: str | None = None
        self.made_by = made_by

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise HookNotFoundError(f"no values for {name!r}{did_you_mean(name, self._tensors)}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def digest(self) -> str:
        """A hash of names, shapes, dtypes and bits."""
        if self._digest is None:
            digest = hashlib.blake2b(digest_size=16)
            for name, tensor in sorted(self._tensors.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._digest = digest.hexdigest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Values({', '.join(list(self)[:3])}{', ...' if len(self) > 3 else ''})"


def values_of(cache: ActivationCache, names: Sequence[str] | None) -> Values:
    """Some of a cache's activations, or all. Raises `CacheError` for a cache older than its model's weights."""
    cache.check_weights()
    made_by = signature(cache.model)
    return Values({name: cache[name] for name in (cache if names is None else names)}, made_by)
