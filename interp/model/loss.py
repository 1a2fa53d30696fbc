"""Loss: the cross-entropy of every next token, and how it falls along a text."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, TokenError
from interp.model.stacks import check_one_stack
from interp.precision import at_least_float32


def check_predicts_tokens(cfg: TransformerConfig, what: str) -> None:
    """Raise `ConfigError` for a model whose logits are of other things than tokens; `what` needs those of tokens.

    >>> check_predicts_tokens(cfg, "a logit lens")  # nothing to say
    """
    check_one_stack(cfg, what)
    if not cfg.has_unembed:
        raise ConfigError(f"{what} needs logits, and this model has no unembedding (d_vocab_out = 0)")
    if cfg.predicts_other_things:
        raise ConfigError(
            f"{what} needs logits of tokens, but this model reads d_vocab = {cfg.d_vocab} tokens and has logits of "
            f"d_vocab_out = {cfg.d_vocab_out} other things"
        )


def check_predicts_next_token(cfg: TransformerConfig, what: str) -> None:
    """Raise `ConfigError` unless the logits at a position are of the token that follows it; `what` needs those.

    >>> check_predicts_next_token(cfg, "generation")  # nothing to say
    >>> check_predicts_next_token(TransformerConfig(**cfg.to_dict() | {"attention_dir": "bidirectional"}), "generation")
    Traceback (most recent call last):
    interp.errors.ConfigError: generation is of next tokens, and with attention_dir = 'bidirectional' ...
    """
    check_predicts_tokens(cfg, what)
    if not cfg.predicts_next_token:
        raise ConfigError(
            f"{what} is of next tokens, and with attention_dir = {cfg.attention_dir!r} each position has seen the next "
            "one; of tokens that were masked there is the metric interp.metrics.MaskedTokenLoss"
        )


def predicted_places(attention_mask: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch predicted"]:
    """Which next tokens count in a loss: those that are no padding and follow a token that is no padding.

    >>> predicted_places(torch.tensor([[False, False, True, True, True]]))
    tensor([[False, False,  True,  True]])
    """
    return attention_mask[:, 1:] & attention_mask[:, :-1]


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Float[Tensor, ""] | Float[Tensor, "batch predicted"]:
    """Cross-entropy in nats of every token given those before it, in float32 at least.

    The result is one number, the mean over all predicted tokens of the batch, or with `per_token` one a predicted
    token. The mean gives every token the same weight, so that a longer prompt counts for more; the metric
    `interp.metrics.Loss` gives every prompt the same weight. Padding (`attention_mask` false) neither predicts nor is
    predicted; its places hold 0. Raises `TokenError` if nothing is predicted at all.

    >>> tokens = model.to_tokens(clean)
    >>> torch.equal(next_token_loss(model(tokens), tokens), model(tokens, return_type="loss"))
    True
    """
    real = None if attention_mask is None else predicted_places(attention_mask)
    if tokens.shape[1] < 2 or (real is not None and not real.any()):
        raise TokenError("a loss needs at least two tokens: one that predicts and one that is predicted")
    losses = cross_entropy(logits[:, :-1], tokens[:, 1:])
    if real is None:
        return losses if per_token else losses.mean()
    losses = losses.where(real, 0)
    return losses if per_token else losses.sum() / real.sum()


def cross_entropy(
    logits: Float[Tensor, "batch predicted d_vocab"], targets: Int[Tensor, "batch predicted"]
) -> Float[Tensor, "batch predicted"]:
    """`-log softmax(logits)[target]` of every place, in nats and in float32 at least.

    >>> evenly = torch.zeros(1, 2, 10)
    >>> torch.allclose(cross_entropy(evenly, torch.tensor([[3, 7]])), torch.tensor(10.0).log())
    True
    """
    return F.cross_entropy(at_least_float32(logits).transpose(1, 2), targets, reduction="none")


def in_context_learning_score(
    losses: Float[Tensor, "*batch predicted"], early: int = 50, late: int = 500
) -> Float[Tensor, "*batch"]:
    """The loss of the token at position `late` minus that at position `early`, in nats (Olsson et al. 2022).

    `losses` are those of a run with `loss_per_token=True`, whose first one belongs to position 1. The score is in
    float32 at least. Raises `ConfigError` for positions that no loss belongs to.

    >>> in_context_learning_score(torch.tensor([4.0, 3.0, 1.0]), early=1, late=3)
    tensor(-3.)
    """
    n = losses.shape[-1]
    if not 1 <= early < late <= n:
        raise ConfigError(f"early = {early}, late = {late}; allowed: 1 <= early < late <= {n}, the positions predicted")
    return at_least_float32(losses[..., late - 1]) - at_least_float32(losses[..., early - 1])
