"""`transformer_lens.evals`, as far as nothing is downloaded."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.compat.transformer_lens.checks import ensure, refusals
from interp.compat.transformer_lens.utils import lm_cross_entropy_loss

__getattr__ = refusals(__name__)


@torch.inference_mode()
def evaluate_on_dataset(
    model: Any, data_loader: Iterable[Mapping[str, Tensor]], truncate: int = 100, device: Any = "cuda"
) -> float:
    """The mean loss over at most `truncate + 1` batches {"tokens": [batch, pos]}."""
    batches = itertools.islice(data_loader, truncate + 1)
    losses = [model(batch["tokens"].to(device), return_type="loss").mean().item() for batch in batches]
    return sum(losses) / len(losses)


@torch.inference_mode()
def induction_loss(
    model: Any,
    tokenizer: Any = None,
    batch_size: int = 4,
    subseq_len: int = 384,
    prepend_bos: bool | None = None,
    device: Any = "cuda",
) -> Float[Tensor, ""]:
    """The loss on the second half of random sequences that repeat, from its third token on: low with induction heads.

    With `prepend_bos` the first token *replaces* the first of the sequence, as in TransformerLens.
    """
    tokens = torch.randint(100, 20000, (batch_size, subseq_len)).to(device).repeat(1, 2)
    if model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
        bos: Any = model.special_token("bos") if tokenizer is None else tokenizer.bos_token_id
        ensure(bos is not None, "prepend_bos=True needs a tokenizer that has a first token")
        tokens[:, 0] = bos
    losses = lm_cross_entropy_loss(model(tokens, return_type="logits"), tokens, per_token=True)
    return losses[:, subseq_len + 1 :].mean()
