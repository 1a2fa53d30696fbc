"""What decompositions of the stream return: tensors with labels."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from interp.errors import HookNotFoundError, describe, did_you_mean
from interp.model.stream import StreamPlace


@dataclass(frozen=True, repr=False, eq=False)
class Rows:
    """Tensors with labels: `values[i]` belongs to `labels[i]`. `rows["L0H1"]` and `rows[i]` are single ones."""

    values: Tensor
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self.labels, self.values, strict=True)

    def __getitem__(self, row: int | str) -> Tensor:
        if isinstance(row, str):
            if row not in self.labels:
                raise HookNotFoundError(f"no row is called {describe(row)}{did_you_mean(row, self.labels)}")
            row = self.labels.index(row)
        return self.values[row]

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:6]) + (", ..." if len(self) > 6 else "")
        return f"{type(self).__name__}({len(self)} rows of shape {tuple(self.values.shape[1:])}: {shown})"


@dataclass(frozen=True, repr=False, eq=False)
class Stack(Rows):
    """Vectors in the residual stream: `values` is [component, batch, pos, d_model].

    Attributes:
        place: where in the stream the rows sum to it, or None where that is not known.

    >>> _, cache = model.run_with_cache(clean)
    >>> parts = cache.decompose_resid()
    >>> parts.labels[:3], parts.values.shape[1:]
    (['embed', 'pos_embed', '0_attn_out'], torch.Size([1, 10, 32]))
    """

    place: StreamPlace | None = None


@dataclass(frozen=True, repr=False, eq=False)
class LogitAttribution(Rows):
    """How much each component adds to a logit or a logit difference: `values` is [component, batch, pos].

    Attributes:
        correct, incorrect: the answers in words, as `direct_attribution` has them in `attrs`; "" where not known.

    >>> _, cache = model.run_with_cache(clean)
    >>> parts = cache.logit_attrs(cache.decompose_resid(), "Mary", "John")
    >>> parts.values.shape[1:]
    torch.Size([1, 10])
    >>> parts.correct, parts.incorrect
    ("'Mary'", "'John'")
    """

    correct: str = ""
    incorrect: str = ""
