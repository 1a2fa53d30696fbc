"""What a batch asks of a model: which of its logits are compared with what, after every check that can fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, InterpError, ShapeError, TokenError, describe, naming
from interp.indices import is_index
from interp.model import (
    HookedEncoderDecoder,
    HookedTransformer,
    check_predicts_next_token,
    cross_entropy,
    predicted_places,
    two_stacks,
)
from interp.text import AttentionMask, Ids, MaskedTokens, as_ids, check_marks, check_mask, check_tokens
from interp.training.toy_data import Batch

BATCH_SIZE = 32
"""How many sequences of a data set a step takes, unless a caller says otherwise or there are fewer."""

Trainable = HookedTransformer | HookedEncoderDecoder
"""What can be trained."""

DataSource = Callable[[torch.Generator], "Batch | Tensor"] | Batch | Ids
"""What there is to train on: a function that makes a batch, or a data set from which batches are drawn."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Checked sequences, and what is to be predicted in them.

    Attributes:
        tokens: what the model reads.
        attention_mask: true for tokens and false for padding; None where nothing is padding.
        positions: those whose logits are compared, as a slice of all.
        ids: what these logits are to say.
        counted: where the loss counts; None for everywhere.
        copied: where the loss is recorded as that of copied tokens.
        source: what the encoder reads, where there is one.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"] | None
    positions: slice
    ids: Int[Tensor, "batch read"]
    counted: Bool[Tensor, "batch read"] | None
    copied: Bool[Tensor, "batch read"]
    source: MaskedTokens | None = None

    def rows(self, index: Int[Tensor, "row"]) -> "Targets":
        """Some of the sequences."""
        mask, counted = (None if part is None else part[index] for part in (self.attention_mask, self.counted))
        source = None if self.source is None else self.source[index]
        return Targets(self.tokens[index], mask, self.positions, self.ids[index], counted, self.copied[index], source)

    def losses(self, model: Trainable) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The mean loss of all that counts, and that of the copied tokens among it (NaN without any), in nats."""
        device = reader_of(model).W_E.device
        read = MaskedTokens(self.tokens, self.attention_mask).to(device)
        logits = (model(read) if self.source is None else model(self.source.to(device), read))[:, self.positions]
        losses, copied = cross_entropy(logits, self.ids.to(device)), self.copied.to(device)
        if self.counted is None:
            return losses.mean(), losses.detach()[copied].mean()
        counted = self.counted.to(device)
        return losses.where(counted, 0).sum() / counted.sum(), losses.detach()[copied & counted].mean()


def source_of(data: DataSource, batch_size: int | None, model: Trainable) -> Callable[[torch.Generator], Targets]:
    """What makes the next batch from a generator, which all its randomness comes from.

    Of a data set every sequence is drawn once before any is drawn again.

    Raises `ConfigError` for a batch size that is out of range, or beside a function that makes batches; for a data set
    everything that `targets_of` raises.
    """
    if callable(data):
        if batch_size is not None:
            raise ConfigError(f"batch_size = {batch_size}, but here a function makes the batches: it says how large")
        return lambda generator: targets_of(data(generator), model)
    whole = targets_of(data, model)
    n = len(whole.tokens)
    size = min(BATCH_SIZE, n) if batch_size is None else batch_size
    if not is_index(size) or not 1 <= size <= n:
        raise ConfigError(f"batch_size = {describe(batch_size)}; allowed: 1 to {n}, the sequences that there are")
    left = torch.empty(0, dtype=torch.long)

    def draw(generator: torch.Generator) -> Targets:
        nonlocal left
        if len(left) < size:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        chosen, left = left[:size], left[size:]
        return whole.rows(chosen.to(whole.tokens.device))

    return draw


def reader_of(model: Trainable) -> HookedTransformer:
    """The stack whose logits are compared: the model, or the decoder of a pair."""
    both = two_stacks(model)
    return cast(HookedTransformer, model) if both is None else both.decoder


def targets_of(data: Any, model: Trainable) -> Targets:
    """The targets of a batch or a data set: a `Batch`, or token ids [batch, pos] whose every next token is one.

    Raises:
        TokenError: token ids that are none, or that the model does not have; labels that the logits do not have.
        ShapeError: marks or labels that do not fit the tokens, a single position without labels, or one label for a
            sequence that ends with padding.
        ConfigError: nothing counts, marks beside one label a sequence, a model whose logits are not of the next token
            and a batch without labels, or sources for a model of one stack, or none for a pair.
    """
    batch = data if isinstance(data, Batch) else Batch(_plain_tokens(data))
    reader, source = reader_of(model), _source(batch, model)
    tokens = check_tokens(batch.tokens, reader.cfg.d_vocab, reader.cfg.n_ctx, batch.tokens.device)
    mask, n_logits = check_mask(batch.attention_mask, tokens), len(reader.b_U)
    counted, copied = _marks(batch.loss_mask, tokens, "loss_mask"), _marks(batch.copied, tokens, "copied")
    assert copied is not None
    if batch.labels is None:
        check_predicts_next_token(reader.cfg, "a batch without labels")
        if tokens.shape[1] < 2:
            raise ShapeError(
                f"tokens {tuple(tokens.shape)} [batch, pos] have no next token: at least two positions, or labels, "
                "needed"
            )
        ids, positions = tokens[:, 1:], slice(0, -1)
        real = None if mask is None else predicted_places(mask)
        counted, copied = None if counted is None else counted[:, 1:], copied[:, 1:]
    else:
        ids, positions = _labels(batch.labels, tokens)
        if mask is not None and positions.start == -1 and not mask[:, -1].all():
            row = int((~mask[:, -1]).nonzero()[0])
            raise ShapeError(
                f"sequence {row} ends with padding, and one label a sequence is of the last position: pad on the left, "
                "or give labels [batch, pos]"
            )
        real = None if mask is None else mask[:, positions]
        copied = copied[:, positions]
        if counted is not None and counted.shape != ids.shape:
            raise ConfigError("loss_mask marks positions, and one label a sequence is of the last alone; leave it out")
    if real is not None:
        counted = real if counted is None else counted & real
    if counted is not None:
        if not counted.any():
            raise ConfigError("nothing in this batch counts: loss_mask and attention_mask leave no prediction")
        ids = ids.where(counted, 0)
    if (outside := (ids < 0) | (ids >= n_logits)).any():
        row, column = (int(i) for i in outside.nonzero()[0])
        label = int(ids[row, column])
        way_out = "; a place that does not count is marked by loss_mask=, not by a label" if label < 0 else ""
        raise TokenError(f"label {label} in sequence {row}; allowed: 0 to {n_logits - 1}{way_out}")
    return Targets(tokens, mask, positions, ids, counted, copied, source)


def _source(batch: Batch, model: Trainable) -> MaskedTokens | None:
    """The checked sources of a batch for a pair, None for a model of one stack."""
    if (both := two_stacks(model)) is None:
        for name in ("source", "source_mask"):
            if getattr(batch, name) is not None:
                raise ConfigError(f"{name}: this model has one stack, which reads the tokens alone")
        return None
    if batch.source is None:
        raise ConfigError("an encoder and a decoder train on a Batch(tokens=targets, source=sources)")
    cfg = both.cfg.encoder
    with naming("source"):
        ids = as_ids(batch.source, "a batch's source")
        ids = check_tokens(ids, cfg.d_vocab, cfg.n_ctx, ids.device)
        mask = check_mask(batch.source_mask, ids)
    if len(ids) != len(batch.tokens):
        raise ShapeError(f"{len(ids)} sources for {len(batch.tokens)} targets; allowed: one for each")
    return MaskedTokens(ids, mask)


def _plain_tokens(given: Any) -> Int[Tensor, "batch pos"]:
    """Ids that were given without a `Batch` around them."""
    try:
        ids = as_ids(given, "tokens to train on")
    except InterpError as error:
        raise type(error)(f"{error}; allowed: token ids [batch, pos], or a Batch") from None
    if ids.ndim != 2:
        raise ShapeError(f"tokens to train on have shape {tuple(ids.shape)}; allowed: [batch, pos], or a Batch")
    return ids


def _marks(given: AttentionMask | None, tokens: Tensor, name: str) -> Bool[Tensor, "batch pos"] | None:
    return None if given is None else check_marks(given, tokens, name, "marked places", "others")


def _labels(given: Any, tokens: Int[Tensor, "batch pos"]) -> tuple[Int[Tensor, "batch read"], slice]:
    """The labels [batch, read], and the positions whose logits are to say them."""
    labels = as_ids(given, "labels").to(tokens.device)
    if labels.shape == tokens.shape:
        return labels, slice(None)
    if labels.shape != tokens.shape[:1]:
        raise ShapeError(
            f"labels have shape {tuple(labels.shape)} and tokens {tuple(tokens.shape)}; allowed: [batch, pos], or "
            "[batch] for the last position"
        )
    return labels[:, None], slice(-1, None)
