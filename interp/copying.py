"""Whether heads copy: what they write, read out as logits, against what they attend to. From the weights alone."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError
from interp.repeats import ordinary_tokens

if TYPE_CHECKING:
    from interp.model import HookedTransformer


@torch.no_grad()
def copying_scores(model: "HookedTransformer") -> Float[Tensor, "layer head"]:
    """`sum(Re eigenvalue) / sum(|eigenvalue|)` of every head's full OV circuit `W_E W_V W_O W_U`, on the CPU.

    1 for a head that raises the logit of every token it attends to (and of sums of tokens), -1 for one that lowers
    them, 0 for a permutation without fixed tokens; NaN where all eigenvalues are 0 but for rounding: the unembedding
    reads nothing of what the head writes, or the head nothing of what is embedded. The circuit's gains count, the
    norms' scales, which depend on the position, do not: folding norms into the weights changes nothing. In post-norm
    models the weights are taken without norms. The eigenvalues are those of the d_head x d_head core
    `W_O W_U W_E W_V`, in float64; no d_vocab x d_vocab matrix is made.

    Source: Elhage et al. 2021, "Detecting copying behavior".
    """
    wide = torch.promote_types(model.W_E.dtype, torch.float32)
    inner = (model.W_U.to(wide) @ model.W_E.to(wide)).cpu().double()
    scores = []
    for layer in range(model.cfg.n_layers):
        reads, writes = _ov(model, layer)
        core = writes @ inner @ reads
        eigenvalues = torch.linalg.eigvals(core)
        size = eigenvalues.abs().sum(dim=-1)
        bound = writes.norm(dim=(1, 2)) * inner.norm() * reads.norm(dim=(1, 2))
        scores.append((eigenvalues.real.sum(dim=-1) / size).where(size > _rounding(model) * bound, torch.nan))
    return torch.stack(scores)


@torch.no_grad()
def copying_top_scores(model: "HookedTransformer", n_tokens: int = 512, seed: int = 0) -> Float[Tensor, "layer head"]:
    """The share of tokens whose own logit a head raises most when it attends to them, on the CPU.

    Of `W_E W_V W_O W_U` restricted to `n_tokens` ordinary tokens (a random choice where there are more), the share of
    rows whose largest entry is on the diagonal; chance is 1 / n_tokens. Norms count as in `copying_scores`; NaN where
    the circuit is 0.
    """
    words, _ = ordinary_tokens(model)
    if min(n_tokens, len(words)) < 2:
        raise ConfigError(f"n_tokens = {n_tokens}, of {len(words)} ordinary tokens; allowed: 2 or more")
    chosen = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))[:n_tokens]]
    chosen = chosen.to(model.W_E.device)
    wide = torch.promote_types(model.W_E.dtype, torch.float32)
    embedded, unembedded = model.W_E[chosen].to(wide).cpu(), model.W_U[:, chosen].to(wide).cpu()
    scores = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    size = embedded.norm(dim=1).max() * unembedded.norm(dim=0).max()
    for layer in range(model.cfg.n_layers):
        for head, (read, write) in enumerate(zip(*(part.to(wide) for part in _ov(model, layer)), strict=True)):
            logits = (embedded @ read) @ (write @ unembedded)
            writes_something = logits.abs().max() > _rounding(model) * size * read.norm() * write.norm()
            own = logits.diagonal().clone()
            raises_own = own > logits.fill_diagonal_(-torch.inf).amax(dim=1)
            scores[layer, head] = raises_own.float().mean() if writes_something else torch.nan
    return scores


def _ov(
    model: "HookedTransformer", layer: int
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """`W_V` and `W_O` of every query head in float64 on the CPU, with the gains of the norms before and after them."""
    block, cfg = model.blocks[layer], model.cfg
    reads = block.attn.W_V.double().transpose(1, 2)
    if cfg.norms_reads:
        reads = block.ln1.pull_back(reads, torch.ones_like(reads[..., :1]))
    reads = reads.transpose(1, 2).repeat_interleave(cfg.n_heads // cfg.n_key_value_heads, dim=0)
    writes = block.attn.W_O.double()
    for norm in (block.ln1_post, model.ln_final):
        writes = norm.at_scale(writes, torch.ones_like(writes[..., :1]))
    return reads.cpu(), writes.cpu()


def _rounding(model: "HookedTransformer") -> float:
    """Relative size up to which a product of weights may be nothing but rounding."""
    return 100 * torch.finfo(torch.promote_types(model.W_E.dtype, torch.float32)).eps
