"""What the weights alone say of a head: its circuits over the vocabulary, copying, singular directions.

A head is two bilinear circuits (Elhage et al. 2021): `W_QK = W_Q W_K^T / attn_scale` decides where it attends, and
`W_OV = W_V W_O` what it writes for what it attends to; `model.QK` and `model.OV` are those of all heads. With
embeddings on both sides they are matrices over pairs of tokens, which exist here only as a `FactoredMatrix`.

All of this is of heads that attend to the stream. Keys and values of cross-attention read the last stream of an
encoder, which no embedding alone makes, so that its heads have no circuit over the vocabulary.

Weights are taken as they are, and without `fold_norms` a circuit is that of a model whose norms do nothing. Biases
belong to no circuit.

A norm does two things. It divides by a scale, a positive number that depends on what it reads. And it multiplies by a
matrix that does not depend on it: its gain and, in a LayerNorm, the projection that takes the mean off. With
`fold_norms=True` this matrix is multiplied into the weights beside the norm, as `fold_layer_norm` does. What is left
out then is the scales alone, one positive number for each position that reads or writes. So an entry of a circuit has
the sign that it has in the model, is zero where it is zero there, and the tokens that an attended token promotes come
in the model's order.

A norm of the embeddings (`embed_norm`) stands between `W_E` and the stream, and is counted in likewise. The head of a
masked-token model stands between the stream and `W_U`. Its activation function is no matrix, so that there a circuit
that ends in `W_U` is an error.

With `norm_position="post"` the stream itself passes through norms. The matrix of such a norm stands between two layers
and belongs to neither of them, so there `fold_norms=True` is an error. `lens.expand_logits` follows the norms of a run
in every architecture.
"""

import itertools
import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from interp.errors import ConfigError, check_choice
from interp.factored import FactoredMatrix
from interp.indices import check_count, head_index, layer_index
from interp.keywords import known_keywords
from interp.model import HookedTransformer, check_one_stack, check_predicts_tokens, head_label
from interp.precision import at_least_float32, without_autocast
from interp.results import array_of
from interp.text import ordinary_tokens, token_strings
from interp.weights.head_weights import check_reads_stream, embedding, of_all_heads, of_head, table_of_heads, through

if TYPE_CHECKING:
    import xarray


VANISHES = "W_E W_OV W_U is 0: nothing that the head reads from tokens reaches the logits"
NILPOTENT = "every eigenvalue is 0: no mixture of tokens raises or lowers itself"


@torch.no_grad()
@without_autocast()
def qk_circuit(model: HookedTransformer, layer: int, head: int, *, fold_norms: bool = False) -> FactoredMatrix:
    """How much a token wants to attend to another, `W_E W_QK W_E^T` [d_vocab (query), d_vocab (key)].

    An entry is the part of a score that the embeddings of the two tokens (times `embed_scale`) make by themselves. In a
    rotary model it is the score at distance 0, as in `model.QK`. With `fold_norms` (see the module) an entry differs
    from the model's by a positive factor of its row and one of its column.

    Raises `ConfigError` for a layer or head out of range, or `fold_norms` with post-norm.
    """
    check_one_stack(model.cfg, "qk_circuit")
    weights = of_head(model, layer, head, fold_norms)
    W_E = embedding(model, fold_norms)
    return FactoredMatrix(W_E @ weights.W_Q, (W_E @ weights.W_K).T)


@torch.no_grad()
@without_autocast()
def ov_circuit(model: HookedTransformer, layer: int, head: int, *, fold_norms: bool = False) -> FactoredMatrix:
    """How attending to a token changes the logits, `W_E W_OV W_U` [d_vocab (attended), d_vocab_out (logit)].

    `W_E` is taken times `embed_scale`. With `fold_norms` (see the module) a row is what the direct path from that token
    through the head adds to the logits, before any soft cap and up to one positive factor.

    Raises `ConfigError` for a layer or head out of range, `fold_norms` with post-norm, a masked-token head or no
    unembedding.
    """
    check_one_stack(model.cfg, "ov_circuit")
    check_reads_stream(model, "ov_circuit")
    weights = of_head(model, layer, head, fold_norms)
    written = through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
    return FactoredMatrix(embedding(model, fold_norms) @ weights.W_V, written @ at_least_float32(model.W_U))


@torch.no_grad()
@without_autocast()
def copying_scores(model: HookedTransformer, *, fold_norms: bool = False) -> "xarray.DataArray":
    """How much each head copies, `sum(Re lambda) / sum(|lambda|)` over the eigenvalues of `W_E W_OV W_U`.

    The result has the axes [layer, head]. A head that raises the logits of what it attends to, and of mixtures of it,
    scores 1; one that lowers them scores -1; a permutation of the tokens that leaves none in place scores 0 (Elhage et
    al. 2021, "copying" matrices). The eigenvalues are those of a [d_head, d_head] product, computed in float64. A score
    is NaN where all eigenvalues are 0, up to rounding; the coordinate `reason` says why, and is "" elsewhere. For
    `fold_norms` see the module.

    Raises `ConfigError` for a model without blocks, `fold_norms` with post-norm, logits of other things than tokens, or
    a masked-token head.
    """
    check_predicts_tokens(model.cfg, "copying_scores")
    check_reads_stream(model, "copying_scores")
    W_V, W_O = (weight.double() for weight in of_all_heads(model, fold_norms)[2:])
    written = through(model.ln_final, W_O) if fold_norms else W_O
    W_U, W_E = at_least_float32(model.W_U), embedding(model, fold_norms)
    circuits = FactoredMatrix(W_V, written @ (W_U @ W_E).double())  # [d_model, d_model], the same eigenvalues
    eigenvalues, size = circuits.eigenvalues(), circuits.norm()
    total = eigenvalues.abs().sum(-1)
    rounding = torch.finfo(W_U.dtype).eps
    factors = torch.linalg.matrix_norm(W_V) * torch.linalg.matrix_norm(written) * W_U.norm() * W_E.norm()
    vanishes = size <= rounding * factors
    nilpotent = total <= 4 * math.sqrt(rounding) * size  # as sharp as a repeated eigenvalue can be told from 0
    scores = (eigenvalues.real.sum(-1) / total).where(~(vanishes | nilpotent), math.nan)
    reasons = np.where(vanishes.cpu(), VANISHES, np.where(nilpotent.cpu(), NILPOTENT, ""))
    definition = "sum(Re lambda) / sum(|lambda|) over the eigenvalues of W_E W_OV W_U"
    result = table_of_heads(model, scores, ("layer", "head"), "copying", definition, fold_norms)
    return result.assign_coords(reason=(("layer", "head"), reasons.astype(object)))


@torch.no_grad()
@without_autocast()
@known_keywords
def copying_top_scores(
    model: HookedTransformer, n_tokens: int = 512, seed: int = 0, *, fold_norms: bool = False
) -> "xarray.DataArray":
    """The share of tokens whose own logit a head raises most when it attends to them, [layer, head].

    A score is the share of rows of `W_E W_OV W_U` whose largest entry stands on the diagonal. Rows and columns are
    those of `n_tokens` ordinary tokens, chosen at random where there are more, so that chance is 1 / n_tokens. A score
    is NaN where the circuit is 0; the coordinate `reason` says so, and is "" elsewhere. For `fold_norms` see the
    module.

    Raises `ConfigError` for fewer than two tokens, and as `copying_scores`.
    """
    check_predicts_tokens(model.cfg, "copying_top_scores")
    check_reads_stream(model, "copying_top_scores")
    words, _ = ordinary_tokens(model.tokenizer, model.cfg.d_vocab)
    if min(n_tokens, len(words)) < 2:
        raise ConfigError(f"n_tokens = {n_tokens}, of {len(words)} ordinary tokens; allowed: 2 or more")
    chosen = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))[:n_tokens]]
    chosen = chosen.to(model.W_E.device)
    embedded, unembedded = embedding(model, fold_norms)[chosen], at_least_float32(model.W_U)[:, chosen]
    rounding = torch.finfo(embedded.dtype).eps * embedded.norm(dim=1).max() * unembedded.norm(dim=0).max()
    scores = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        weights = of_head(model, layer, head, fold_norms)
        W_V, W_O = weights.W_V, through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
        logits = (embedded @ W_V) @ (W_O @ unembedded)
        writes_something = logits.abs().max() > rounding * W_V.norm() * W_O.norm()
        own = logits.diagonal().clone()
        raises_own = own > logits.fill_diagonal_(-torch.inf).amax(dim=1)
        scores[layer, head] = raises_own.float().mean() if writes_something else torch.nan
    definition = f"share of {len(chosen)} tokens whose own logit, among theirs, W_E W_OV W_U raises most"
    result = table_of_heads(model, scores, ("layer", "head"), "copying_top", definition, fold_norms)
    reasons = np.where(scores.isnan(), VANISHES, "").astype(object)
    return result.assign_coords(reason=(("layer", "head"), reasons))


@torch.no_grad()
@without_autocast()
@known_keywords
def singular_directions(
    model: HookedTransformer,
    layer: int,
    head: int,
    circuit: Literal["OV", "QK"] = "OV",
    *,
    n_directions: int | None = None,
    top_k: int | None = None,
    fold_norms: bool = False,
) -> "xarray.Dataset":
    """The leading singular directions of a head, and the tokens that they read and write (Millidge & Black 2022).

    With `W_OV = U S Vh`, a stream that points along column i of U makes the head write along row i of Vh, S[i] times as
    strongly. The tokens of the reading side are ranked by how far their embeddings (times `embed_scale`) lie along the
    column of U, those of the writing side by how much the row of Vh raises their logits. In a "QK" circuit both sides
    are read: a query along a column of U attends to a key along the row of Vh.

    Args:
        n_directions: how many directions, the strongest first; by default 10, or all where there are fewer.
        top_k: how many tokens at each end of a direction; by default 10, or all where there are fewer.
        fold_norms: see the module.

    Returns:
        A dataset with `singular_value [direction]`, and for each side (`read` and `write`, or `query` and `key`)
        `<side>_token`, `<side>_id` and `<side>_value [direction, end, top]`. A direction has two ends, "+" and "-".
        What lies at the "+" end of the reading side makes the head write along the "+" end of the writing side, and the
        same holds for "-". The token that lies farthest along what is read is at "+". A token is the tokenizer's own
        string, or its number in angle brackets where the tokenizer has no such token.

    Raises `ConfigError` for a layer or head out of range, more directions or tokens than there are, another circuit
    than those two, `fold_norms` with post-norm, or in an "OV" circuit a masked-token head or no unembedding.
    """
    check_one_stack(model.cfg, "singular_directions")
    import xarray

    check_choice("circuit", circuit, ("OV", "QK"))
    if circuit == "OV":
        check_reads_stream(model, "the OV side of singular_directions")
    weights = of_head(model, layer, head, fold_norms)
    n_directions = _at_most("n_directions", n_directions, min(model.cfg.d_head, model.cfg.d_model))
    most = model.cfg.d_vocab if circuit == "QK" else min(model.cfg.d_vocab, model.cfg.d_vocab_out)
    top_k = _at_most("top_k", top_k, most)
    if circuit == "QK":
        U, S, Vh = FactoredMatrix(weights.W_Q, weights.W_K.mT).svd()
    else:
        written = through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
        U, S, Vh = FactoredMatrix(weights.W_V, written).svd()
    W_E = embedding(model, fold_norms)
    first = (W_E @ U[:, :n_directions]).T
    second = Vh[:n_directions] @ (W_E.T if circuit == "QK" else at_least_float32(model.W_U))  # [direction, token]
    farthest = first.gather(1, first.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(farthest < 0, -1.0, 1.0).to(first)

    dims = ("direction", "end", "top")
    columns: dict[str, object] = {"singular_value": ("direction", S[:n_directions].cpu().numpy())}
    for side, along in zip(("query", "key") if circuit == "QK" else ("read", "write"), (first, second), strict=True):
        tokenizer = model.output_tokenizer if side == "write" else model.tokenizer
        turned = sign * along
        ends = torch.stack([turned, -turned], dim=1).topk(top_k)
        words = token_strings(tokenizer, ends.indices.flatten().tolist())
        columns |= {
            f"{side}_token": (dims, array_of(words, ends.indices.shape)),
            f"{side}_id": (dims, ends.indices.cpu().numpy()),
            f"{side}_value": (dims, (ends.values * ends.values.new_tensor([[1], [-1]])).cpu().numpy()),
        }
    layer, head = layer_index(layer, model.cfg.n_layers, "layer"), head_index(head, model.cfg.n_heads)
    about = {
        "circuit": f"{circuit} of {head_label(layer, head)}",
        "fold_norms": int(fold_norms),
        "model": model.weights_hash(),
    }
    return xarray.Dataset(columns, coords={"direction": range(n_directions), "end": ["+", "-"]}, attrs=about)


def _at_most(name: str, given: int | None, most: int) -> int:
    return min(10, most) if given is None else check_count(name, given, most)
