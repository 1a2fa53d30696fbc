"""How an intervention is carried out: the hook that acts for it at one point, in one run after another."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from interp.errors import ConfigError
from interp.model import HookPoint, RunHook, Span
from interp.precision import wide

if TYPE_CHECKING:
    from interp.interventions.core import Intervention


def span_along(word: str, hook: HookPoint) -> Span | None:
    """Along which positions a word of an address counts at a point: those of the sequence, or those of the source."""
    span = hook.span
    of_source = word == "key_pos" and "source_pos" in hook.axes and not hook.of_memory
    return span.source if span is not None and of_source else span


class Act(RunHook):
    """The hook that carries out an intervention at one point."""

    def __init__(self, item: "Intervention", point: HookPoint, sizes: Mapping[str, int], dtype: torch.dtype):
        self.item, self.point, self.sizes = item, point, sizes
        self.dtype = wide(dtype) if point.name.endswith("scale") else dtype
        self.left = {word: self._written(word) for word in ("pos", "key_pos") if getattr(item, word) is not None}

    def _written(self, word: str) -> list[int | str]:
        given = getattr(self.item, word)
        return list(given) if isinstance(given, tuple) else [given]

    def begin(self, span: Span) -> None:
        """Check that it fits this run. Raises `ConfigError` or `ShapeError`, naming the intervention."""
        n, sizes = span.n_new, self.sizes
        known = {**sizes, "batch": span.batch, "pos": n, "query_pos": n, "key_pos": span.n_keys, "1": 1}
        if span.source is not None:
            known["source_pos"] = span.source.n_new
        for word in self.left:
            self._refuse_padding(word)
        shape = [known[axis] for axis in self.point.axes]
        self.item.try_on(torch.empty(shape, dtype=self.dtype, device="meta"), self.point)

    def _refuse_padding(self, word: str) -> None:
        span = cast(Span, span_along(word, self.point))
        first = span.first if word == "pos" else 0
        for written, numbers in self.item.numbers(word, span).items():
            for number in numbers:
                mask = span.attention_mask
                if mask is None or not first <= number < span.n_keys or mask[:, number].all():
                    continue
                prompt = int((~mask[:, number]).nonzero()[0])
                raise ConfigError(
                    f"{self.item!r}: {word} = {written!r} is padding in prompt {prompt}; positions are columns of the "
                    "padded batch, so count from the side on which the prompts end or begin together"
                )

    def __call__(self, activation: Tensor, hook: HookPoint) -> Tensor:
        """The edit."""
        edited = self.item.edit(activation, hook)
        if self.left and edited is not activation and hook.span is not None:
            for word, left in self.left.items():
                first = hook.first_pos if word == "pos" else 0
                span = cast(Span, span_along(word, hook))
                numbers = self.item.numbers(word, span)
                left[:] = [one for one in left if not any(first <= n < span.n_keys for n in numbers[one])]
        return edited

    def undone(self) -> str | None:
        """The positions that no run had."""
        for word, left in self.left.items():
            if left:
                which = left[0] if len(left) == 1 else left
                return f"{self.item!r} was never carried out at {word} = {which!r}: no run had that position"
        return None
