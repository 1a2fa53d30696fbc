"""What a metric reads: the prompts it is applied to, and the positions and tokens whose logits it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ShapeError, describe
from interp.indices import as_indices
from interp.text import Answer, MaskedTokens, token_ids

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Positions = int | Sequence[int] | None
"""Where: one position, several, or (None) all."""


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """The run that a metric is applied to.

    Attributes:
        prompts: what the run reads.
        to_id: the id of a single token's text.
        d_vocab: number of logits.
        logits_of: logits of another text or ids.
        reference: logits of the run that a divergence is taken from, at [batch, read] positions, or None.
        cfg: the architecture of the model, or None where only logits are known.
    """

    prompts: MaskedTokens
    to_id: Callable[[str], int]
    d_vocab: int
    logits_of: Callable[[Any], Tensor]
    reference: Callable[[Int[Tensor, "batch read"]], Float[Tensor, "batch read d_vocab"]] | None = None
    cfg: TransformerConfig | None = None

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        prompts: MaskedTokens,
        reference: Callable[[Int[Tensor, "batch read"]], Float[Tensor, "batch read d_vocab"]] | None = None,
    ) -> "JudgedRun":
        """A run of `model`."""
        return cls(prompts, model.to_answer, model.cfg.d_vocab_out, model, reference, model.cfg)

    def positions(self, pos: Positions) -> Int[Tensor, "batch read"]:
        """The positions that `pos` means for each prompt, counted from 0.

        Raises `ShapeError` out of range, or where a prompt has padding there.
        """
        (batch, n), mask = self.prompts.ids.shape, self.prompts.attention_mask
        try:
            wanted = list(range(n)) if pos is None else as_indices(pos)
        except TypeError:
            raise ShapeError(f"pos = {describe(pos)}; allowed: integers from {-n} to {n - 1}, or None") from None
        if bad := [p for p in wanted if not -n <= p < n]:
            raise ShapeError(f"pos = {bad[0]}; allowed: {-n} to {n - 1} (the prompts have {n} positions)")
        if not wanted:
            raise ShapeError("pos = (): a metric reads at least one position")
        found = torch.tensor([p % n for p in wanted], device=self.prompts.ids.device)
        if mask is not None and pos is not None and not mask[:, found].all():
            place = [int(i) for i in (~mask[:, found]).nonzero()[0]]
            raise ShapeError(f"pos = {wanted[place[1]]} is padding in prompt {place[0]}")
        return found.expand(batch, -1)

    def ids(self, answer: Answer) -> Int[Tensor, "batch"]:
        """The token id that `answer` means for each prompt. Raises `TokenError`."""
        batch = len(self.prompts)
        ids = token_ids(answer, self.to_id, self.d_vocab).to(self.prompts.ids.device)
        if ids.ndim and ids.shape != (batch,):
            raise ShapeError(f"answers of shape {tuple(ids.shape)} for {batch} prompts; allowed: one for all, or one a "
                             "prompt")  # fmt: skip
        return ids.expand(batch)


Score = Callable[[Float[Tensor, "row read d_read"], Int[Tensor, "row"]], Float[Tensor, "row"]]
"""Logits of some rows, and which prompt each row is a run of, to a value for each."""


@dataclass(frozen=True, eq=False)
class MetricPlan:
    """What a metric makes of a given run: which logits it needs, and how these become values.

    Attributes:
        name: for labels.
        positions: where logits are needed.
        tokens: the columns that are needed for each prompt, in this order; None for the whole vocabulary.
        score: those logits to values.
        whole_batch: `score` must see one run of every prompt at once, in order.
    """

    name: str
    positions: Int[Tensor, "batch read"]
    tokens: Int[Tensor, "batch d_read"] | None
    score: Score
    whole_batch: bool = False


def is_pooled(values: Float[Tensor, "row"]) -> bool:
    """Whether a score that saw all prompts at once made a single number of them, which then stands for each."""
    return len(values) > 1 and values.stride(0) == 0
