"""What a metric reads: the prompts it is applied to, and the positions and tokens whose logits it needs."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, TokenError, describe
from interp.indices import as_indices
from interp.model import HookedEncoderDecoder, SourceAndTarget, two_stacks
from interp.text import Answer, MaskedTokens, is_text, token_ids

if TYPE_CHECKING:
    from interp.model import HookedTransformer

NO_LOGITS = (
    "this model has no unembedding (d_vocab_out = 0), so there are no logits; interp.similarity.Similarity is a metric "
    "of the last stream"
)
"""What messages say to a metric of logits in such a model."""

Positions = int | str | Sequence[int] | None
"""Where: one position, several, or (None) all. The text of a token is the place where it stands in each prompt."""


class Default(enum.IntEnum):
    """Where a metric reads unless it is told."""

    LAST = -1
    """The last position, whose logits are of the next token; refused in a model that predicts masked tokens."""

    __repr__ = int.__repr__


LAST: Final = Default.LAST


def no_text(text: str) -> int:
    """Raise `TokenError`: there is no tokenizer here."""
    raise TokenError(f"{describe(text)} is text: give model= as well, or a number")


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
        to_token: the id of a single token's text, as the model reads it (`to_id` is of those that it predicts).
    """

    prompts: MaskedTokens
    to_id: Callable[[str], int]
    d_vocab: int
    logits_of: Callable[[Any], Tensor]
    reference: Callable[[Int[Tensor, "batch read"]], Float[Tensor, "batch read d_vocab"]] | None = None
    cfg: TransformerConfig | None = None
    to_token: Callable[[str], int] = no_text

    @classmethod
    def of(
        cls,
        model: "HookedTransformer | HookedEncoderDecoder",
        prompts: "MaskedTokens | SourceAndTarget",
        reference: Callable[[Int[Tensor, "batch read"]], Float[Tensor, "batch read d_vocab"]] | None = None,
    ) -> "JudgedRun":
        """A run of `model`; of an encoder with a decoder it is the decoder's on the target that is judged.

        What another text or ids are is then a pair (source, target) as well. It is run with what the prompts have
        beside their ids: mask, token types and memory.
        """
        both = two_stacks(model)
        stack = cast("HookedTransformer", model) if both is None else both.decoder
        read = prompts.target if isinstance(prompts, SourceAndTarget) else prompts

        def logits_of(prompt: Any) -> Tensor:
            if both is not None:
                return both.base_run(_pair_read_as(both, prompt, prompts))
            return stack.base_run(_beside(read, prompt, stack.read_tokens(prompt)))

        return cls(read, stack.to_answer, stack.cfg.d_vocab_out, logits_of, reference, stack.cfg,
                   stack.to_single_token)  # fmt: skip

    def positions(self, pos: Positions) -> Int[Tensor, "batch read"]:
        """The positions that `pos` means for each prompt, counted from 0.

        Raises `ShapeError` out of range, or where a prompt has padding there; `TokenError` for a token that a prompt
        does not hold once; `ConfigError` where nothing was said, and the model predicts masked tokens.
        """
        if isinstance(pos, str):
            return self._places_of(pos)
        if pos is LAST and self.cfg is not None and self.cfg.predicts_masked_tokens:
            raise ConfigError(
                "this model predicts masked tokens: its logits at a position are of the token that stands there, and "
                "the last one is where a text ends, such as [SEP]. Say where the metric reads: pos='[MASK]', "
                "pos=model.get_token_position('[MASK]', text), or pos=-1 if the last position is meant"
            )
        (batch, n), mask = self.prompts.ids.shape, self.prompts.attention_mask
        try:
            wanted = list(range(n)) if pos is None else as_indices(pos)
        except TypeError:
            raise ShapeError(f"pos = {describe(pos)}; allowed: integers from {-n} to {n - 1}, the text of "
                             "one token, or None") from None  # fmt: skip
        if bad := [p for p in wanted if not -n <= p < n]:
            raise ShapeError(f"pos = {bad[0]}; allowed: {-n} to {n - 1} (the prompts have {n} positions)")
        if not wanted:
            raise ShapeError("pos = (): a metric reads at least one position")
        found = torch.tensor([p % n for p in wanted], device=self.prompts.ids.device)
        if mask is not None and pos is not None and not mask[:, found].all():
            place = [int(i) for i in (~mask[:, found]).nonzero()[0]]
            raise ShapeError(f"pos = {wanted[place[1]]} is padding in prompt {place[0]}")
        return found.expand(batch, -1)

    def _places_of(self, token: str) -> Int[Tensor, "batch 1"]:
        """Where a token stands in each prompt."""
        try:
            wanted = self.to_token(token)
        except TokenError as error:
            raise TokenError(f"pos: {error}") from error
        stands = (self.prompts.ids == wanted) & self.prompts.is_token
        counts = stands.sum(dim=1)
        if (counts != 1).any():
            prompt = int((counts != 1).nonzero()[0])
            raise TokenError(f"pos = {token!r} stands {int(counts[prompt])} times in prompt {prompt}; allowed: a token "
                             "that stands in every prompt once, or numbers of positions")  # fmt: skip
        return stands.int().argmax(dim=1, keepdim=True)

    def ids(self, answer: Answer) -> Int[Tensor, "batch"]:
        """The token id that `answer` means for each prompt. Raises `TokenError`, `ConfigError` where no token has a
        logit.
        """
        if self.d_vocab == 0:
            raise ConfigError(f"answer {describe(answer)}: {NO_LOGITS}")
        batch = len(self.prompts)
        ids = token_ids(answer, self.to_id, self.d_vocab).to(self.prompts.ids.device)
        if ids.ndim and ids.shape != (batch,):
            raise ShapeError(f"answers of shape {tuple(ids.shape)} for {batch} prompts; allowed: one for all, or one a "
                             "prompt")  # fmt: skip
        return ids.expand(batch)


def _pair_read_as(model: HookedEncoderDecoder, given: Any, run: "MaskedTokens | SourceAndTarget") -> SourceAndTarget:
    """Another (source, target), to be compared with `run`. Sources given as texts may have any length and padding."""
    if isinstance(given, SourceAndTarget):
        return given
    source, target = given if isinstance(given, tuple) else (given, None)
    read = model.masked_tokens(source, target)
    of_run = run.target if isinstance(run, SourceAndTarget) else run
    told = read.target if target is None else _beside(dataclasses.replace(of_run, memory=None), target, read.target)
    if isinstance(run, SourceAndTarget) and not is_text(source):
        return SourceAndTarget(_beside(run.source, source, read.source), told)
    return SourceAndTarget(read.source, told)


def _beside(run: MaskedTokens, given: Any, read: MaskedTokens) -> MaskedTokens:
    """`read`, with the mask, the token types and the memory of a run; as it is where `given` brought its own.

    Raises `ShapeError` for ids of another shape than those of the run, and texts that are padded differently.
    """
    if isinstance(given, MaskedTokens):
        return read
    if is_text(given) and not torch.equal(read.is_token, run.is_token) and read.ids.shape == run.ids.shape:
        raise ShapeError(
            "the texts of the reference are padded differently than the run, so that positions do not correspond; give "
            "the run's attention_mask=, or the reference as model.masked_tokens(...) makes it"
        )
    if run.attention_mask is run.token_types is run.memory is None:
        return read
    if read.ids.shape != run.ids.shape:
        raise ShapeError(
            f"the reference has tokens {tuple(read.ids.shape)} [batch, pos], and the run, whose mask, token types and "
            f"memory it is read with, {tuple(run.ids.shape)}; give it as model.masked_tokens(...) makes it"
        )
    return dataclasses.replace(run, ids=read.ids)


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
        space: "logits"; or "stream" for a metric that needs no logits: `score` gets the last streams there, past the
            final norm and without a masked-token head.
        whole_batch: `score` must see one run of every prompt at once, in order.
    """

    name: str
    positions: Int[Tensor, "batch read"]
    tokens: Int[Tensor, "batch d_read"] | None
    score: Score
    whole_batch: bool = False
    space: Literal["logits", "stream"] = "logits"


def is_pooled(values: Float[Tensor, "row"]) -> bool:
    """Whether a score that saw all prompts at once made a single number of them, which then stands for each.

    >>> is_pooled(torch.tensor(0.5).expand(2)), is_pooled(torch.tensor([0.5, 0.5]))
    (True, False)
    """
    return len(values) > 1 and values.stride(0) == 0
