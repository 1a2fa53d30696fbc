"""Losses as metrics: the cross-entropy of next tokens, and of tokens that were masked, each one value a prompt."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.errors import ShapeError, TokenError
from interp.metrics.kinds import Metric
from interp.metrics.plan import JudgedRun, MetricPlan
from interp.model import check_predicts_next_token, check_predicts_tokens, cross_entropy, predicted_places
from interp.text import Ids, as_ids


@dataclass(frozen=True)
class Loss(Metric):
    """The mean cross-entropy of every next token of a prompt, in nats.

    The mean over prompts gives every prompt the same weight. `model(tokens, return_type="loss")` gives every token the
    same weight instead, so that on prompts of unequal length the two differ.

    >>> from interp.patching import sweep
    >>> effect = sweep(model, corrupted, clean, Loss(), "resid_post", ("layer",), normalize=True, progress=False)
    >>> float(effect[-1])  # the last stream is all that the loss reads
    1.0
    """

    needs_tokens: ClassVar[bool] = True

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs all positions but the last, and the whole vocabulary.

        Raises `TokenError` for a single token or one without a logit, `ConfigError` for a model whose logits are not of
        the next token.
        """
        tokens, mask = run.prompts.ids, run.prompts.attention_mask
        if tokens.shape[1] < 2:
            raise TokenError("a loss needs at least two tokens: one that predicts and one that is predicted")
        if run.cfg is not None:
            check_predicts_next_token(run.cfg, "the metric Loss")
        if (most := int(tokens.max())) >= run.d_vocab:
            raise TokenError(f"token {most} has no logit: a run has {run.d_vocab} of them, for tokens 0 to "
                             f"{run.d_vocab - 1}")  # fmt: skip
        n_predicted = tokens.shape[1] - 1
        predicted = None if mask is None else predicted_places(mask)
        if predicted is not None and not (any_one := predicted.any(dim=1)).all():
            raise TokenError(f"a loss needs at least two tokens, and prompt {int((~any_one).nonzero()[0])} has fewer")

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            losses = cross_entropy(logits, tokens[rows, 1:])
            if predicted is None:
                return losses.mean(dim=1)
            return losses.where(predicted[rows], 0).sum(dim=1) / predicted[rows].sum(dim=1)

        everywhere = torch.arange(n_predicted, device=tokens.device).expand(len(tokens), -1)
        return MetricPlan("loss", everywhere, None, score)


@dataclass(frozen=True)
class MaskedTokenLoss(Metric):
    """The mean cross-entropy of the tokens that a prompt was asked for, in nats (Devlin et al. 2019, section 3.1).

    It is the loss of masked-token models, whose logits at a position are of the token that stands there. The prompts
    hold a mask token (or whatever hides the true one) at these positions.

    Attributes:
        targets: the true token ids, [batch, pos] beside the tokens of the run, or [pos] for all prompts alike; -100, or
            any other negative number, where nothing is asked. Every prompt is asked for one token at least.

    >>> from interp.patching import sweep
    >>> sizes = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_ctx": 8, "d_vocab": 10}
    >>> encoder = HookedTransformer(TransformerConfig(**sizes, attention_dir="bidirectional"))
    >>> asked = MaskedTokenLoss([-100, 4, -100])  # the true token of position 1
    >>> sweep(encoder, [1, 2, 3], [1, 4, 3], asked, "resid_pre", ("layer",), progress=False).shape
    (1,)
    """

    targets: Ids

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _nested(as_ids(self.targets, "targets").tolist()))

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the positions that are asked for, and the whole vocabulary.

        Raises `ShapeError` for targets that do not fit the prompts, or at padding, `TokenError` for one that has no
        logit, or a prompt without any, and `ConfigError` for a model whose logits are of other things than tokens.
        """
        if run.cfg is not None:
            check_predicts_tokens(run.cfg, "the metric MaskedTokenLoss")
        ids = run.prompts.ids
        targets = torch.tensor(self.targets, device=ids.device)
        if targets.shape not in (ids.shape, ids.shape[1:]):
            raise ShapeError(f"targets have shape {tuple(targets.shape)}; allowed: that of the tokens [batch, pos], "
                             f"{tuple(ids.shape)}, or {tuple(ids.shape[1:])} for all prompts alike")  # fmt: skip
        targets = targets.expand(ids.shape)
        asked = targets >= 0
        if not (any_one := asked.any(dim=1)).all():
            raise TokenError(f"prompt {int((~any_one).nonzero()[0])} is asked for no token: its targets are negative")
        if (asked & ~run.prompts.is_token).any():
            row, pos = (asked & ~run.prompts.is_token).nonzero()[0].tolist()
            raise ShapeError(f"targets ask for a token at position {pos} of prompt {row}, which is padding")
        if (most := int(targets.max())) >= run.d_vocab:
            raise TokenError(f"target {most} has no logit: a run has {run.d_vocab} of them, for tokens 0 to "
                             f"{run.d_vocab - 1}")  # fmt: skip
        # Of each prompt the positions that are asked for come first; as many are read in all prompts.
        n_read = int(asked.sum(dim=1).max())
        positions = (~asked).long().argsort(dim=1, stable=True)[:, :n_read]
        counted, wanted = asked.gather(1, positions), targets.gather(1, positions).clamp(min=0)

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            losses = cross_entropy(logits, wanted[rows]).where(counted[rows], 0)
            return losses.sum(dim=1) / counted[rows].sum(dim=1)

        return MetricPlan("masked-token loss", positions, None, score)


def _nested(value: Any) -> Any:
    """Lists in lists as tuples."""
    return tuple(map(_nested, value)) if isinstance(value, list) else value
