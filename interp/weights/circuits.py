"""What the weights alone say: circuits over the vocabulary, composition of heads, copying, singular directions.

A head is two bilinear circuits (Elhage et al. 2021): `W_QK = W_Q W_K^T / attn_scale` decides where it attends, and
`W_OV = W_V W_O` what it writes for what it attends to; `model.QK` and `model.OV` are those of all heads. With
embeddings on both sides they are matrices over pairs of tokens, which exist here only as a `FactoredMatrix`.

Weights are taken as they are, and without `fold_norms` a circuit is that of a model whose norms do nothing. Biases
belong to no circuit.

A norm does two things. It divides by a scale, a positive number that depends on what it reads. And it multiplies by a
matrix that does not depend on it: its gain and, in a LayerNorm, the projection that takes the mean off. With
`fold_norms=True` this matrix is multiplied into the weights beside the norm, as `fold_layer_norm` does. What is left
out then is the scales alone, one positive number for each position that reads or writes. So an entry of a circuit has
the sign that it has in the model, is zero where it is zero there, and the tokens that an attended token promotes come
in the model's order.

With `norm_position="post"` the stream itself passes through norms. The matrix of such a norm stands between two layers
and belongs to neither of them, so there `fold_norms=True` is an error. `lens.expand_logits` follows the norms of a run
in every architecture.
"""

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import check_bytes, portions
from interp.errors import ConfigError, check_choice
from interp.factored import FactoredMatrix
from interp.indices import check_count, head_index, layer_index
from interp.keywords import known_keywords
from interp.model import HookedTransformer, Norm, check_predicts_tokens, head_label
from interp.precision import at_least_float32, without_autocast
from interp.progress import shown
from interp.results import array_of
from interp.text import ordinary_tokens, token_strings

if TYPE_CHECKING:
    import xarray

Kind = Literal["Q", "K", "V"]
"""Through which input of a later head an earlier one is read."""


VANISHES = "W_E W_OV W_U is 0: nothing that the head reads from tokens reaches the logits"
NILPOTENT = "every eigenvalue is 0: no mixture of tokens raises or lowers itself"


class HeadWeights(NamedTuple):
    """Of some heads, in float32 at least; W_Q is divided by attn_scale."""

    W_Q: Float[Tensor, "*heads d_model d_head"]
    W_K: Float[Tensor, "*heads d_model d_head"]
    W_V: Float[Tensor, "*heads d_model d_head"]
    W_O: Float[Tensor, "*heads d_head d_model"]


# ---------------------------------------------------------------------------------------------- over the vocabulary


@torch.no_grad()
@without_autocast()
def qk_circuit(model: HookedTransformer, layer: int, head: int, *, fold_norms: bool = False) -> FactoredMatrix:
    """How much a token wants to attend to another, `W_E W_QK W_E^T` [d_vocab (query), d_vocab (key)].

    An entry is the part of a score that the embeddings of the two tokens (times `embed_scale`) make by themselves. In a
    rotary model it is the score at distance 0, as in `model.QK`. With `fold_norms` (see the module) an entry differs
    from the model's by a positive factor of its row and one of its column.

    Raises `ConfigError` for a layer or head out of range, or `fold_norms` with post-norm.
    """
    weights = _of_head(model, layer, head, fold_norms)
    W_E = _embedding(model)
    return FactoredMatrix(W_E @ weights.W_Q, (W_E @ weights.W_K).T)


@torch.no_grad()
@without_autocast()
def ov_circuit(model: HookedTransformer, layer: int, head: int, *, fold_norms: bool = False) -> FactoredMatrix:
    """How attending to a token changes the logits, `W_E W_OV W_U` [d_vocab (attended), d_vocab_out (logit)].

    `W_E` is taken times `embed_scale`. With `fold_norms` (see the module) a row is what the direct path from that token
    through the head adds to the logits, before any soft cap and up to one positive factor.

    Raises `ConfigError` for a layer or head out of range, or `fold_norms` with post-norm.
    """
    weights = _of_head(model, layer, head, fold_norms)
    written = _through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
    return FactoredMatrix(_embedding(model) @ weights.W_V, written @ at_least_float32(model.W_U))


@torch.no_grad()
@without_autocast()
def copying_scores(model: HookedTransformer, *, fold_norms: bool = False) -> "xarray.DataArray":
    """How much each head copies, `sum(Re lambda) / sum(|lambda|)` over the eigenvalues of `W_E W_OV W_U`.

    The result has the axes [layer, head]. A head that raises the logits of what it attends to, and of mixtures of it,
    scores 1; one that lowers them scores -1; a permutation of the tokens that leaves none in place scores 0 (Elhage et
    al. 2021, "copying" matrices). The eigenvalues are those of a [d_head, d_head] product, computed in float64. A score
    is NaN where all eigenvalues are 0, up to rounding; the coordinate `reason` says why, and is "" elsewhere. For
    `fold_norms` see the module.

    Raises `ConfigError` for a model without blocks, `fold_norms` with post-norm, or logits of other things than tokens.
    """
    check_predicts_tokens(model.cfg, "copying_scores")
    W_V, W_O = (weight.double() for weight in _all_heads(model, fold_norms)[2:])
    written = _through(model.ln_final, W_O) if fold_norms else W_O
    W_U, W_E = at_least_float32(model.W_U), _embedding(model)
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
    result = _table(model, scores, ("layer", "head"), "copying", definition, fold_norms)
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
    words, _ = ordinary_tokens(model.tokenizer, model.cfg.d_vocab)
    if min(n_tokens, len(words)) < 2:
        raise ConfigError(f"n_tokens = {n_tokens}, of {len(words)} ordinary tokens; allowed: 2 or more")
    chosen = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))[:n_tokens]]
    chosen = chosen.to(model.W_E.device)
    embedded, unembedded = _embedding(model)[chosen], at_least_float32(model.W_U)[:, chosen]
    rounding = torch.finfo(embedded.dtype).eps * embedded.norm(dim=1).max() * unembedded.norm(dim=0).max()
    scores = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        weights = _of_head(model, layer, head, fold_norms)
        W_V, W_O = weights.W_V, _through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
        logits = (embedded @ W_V) @ (W_O @ unembedded)
        writes_something = logits.abs().max() > rounding * W_V.norm() * W_O.norm()
        own = logits.diagonal().clone()
        raises_own = own > logits.fill_diagonal_(-torch.inf).amax(dim=1)
        scores[layer, head] = raises_own.float().mean() if writes_something else torch.nan
    definition = f"share of {len(chosen)} tokens whose own logit, among theirs, W_E W_OV W_U raises most"
    result = _table(model, scores, ("layer", "head"), "copying_top", definition, fold_norms)
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
    than those two, or `fold_norms` with post-norm.
    """
    import xarray

    check_choice("circuit", circuit, ("OV", "QK"))
    weights = _of_head(model, layer, head, fold_norms)
    n_directions = _at_most("n_directions", n_directions, min(model.cfg.d_head, model.cfg.d_model))
    top_k = _at_most("top_k", top_k, min(model.cfg.d_vocab, model.cfg.d_vocab_out))
    if circuit == "QK":
        U, S, Vh = FactoredMatrix(weights.W_Q, weights.W_K.mT).svd()
    else:
        written = _through(model.ln_final, weights.W_O) if fold_norms else weights.W_O
        U, S, Vh = FactoredMatrix(weights.W_V, written).svd()
    W_E = _embedding(model)
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
    return xarray.Dataset(columns, coords={"end": ["+", "-"]}, attrs=about)


# ---------------------------------------------------------------------------------------------- composition


PRODUCT_BYTES = 2**24
"""How much the products of heads take at a time by default: 2048 x 2048 numbers in float32."""


@torch.no_grad()
@without_autocast()
@known_keywords
def composition_scores(
    model: HookedTransformer,
    kinds: Iterable[Kind] = ("Q", "K", "V"),
    score: Literal["raw", "aligned"] = "raw",
    *,
    fold_norms: bool = False,
    max_bytes: int = PRODUCT_BYTES,
    progress: bool = True,
) -> "xarray.DataArray":
    """How much of what each head writes each later head can read: all pairs, from the weights alone.

    A is W_OV of the writer. B depends on the kind: W_QK of the reader for Q-composition, its transpose for
    K-composition, W_OV of the reader for V-composition. The raw score is `|AB| / (|A| |B|)` in Frobenius norms (Elhage
    et al. 2021); two heads that copy the same r orthonormal directions score `1 / sqrt(r)`. The aligned score is
    `|AB| / sqrt(sum_i s_i(A)^2 s_i(B)^2)`, with singular values in falling order. It divides by the most that `|AB|`
    could be (von Neumann), so that perfectly composed heads of any rank score 1. In a rotary model W_QK is that at
    distance 0.

    Args:
        kinds: which compositions.
        score: "raw" or "aligned".
        fold_norms: see the module.
        max_bytes: how much the products of writing and reading heads may take at a time; of one pair of heads they are
            always made. Results do not depend on it.
        progress: show a progress bar on a terminal.

    Returns:
        [kind, writer_layer, writer_head, reader_layer, reader_head], in float32 at least; NaN where the writer is not
        in an earlier layer than the reader, or one of both circuits is 0. `attrs` hold definition and model hash.

    Raises `ConfigError` for another kind or score, a budget that is none, no blocks, or `fold_norms` with post-norm.
    """
    kinds = list(kinds)
    for kind in kinds:
        check_choice("kinds", kind, get_args(Kind))
    check_choice("score", score, ("raw", "aligned"))
    if not kinds or len(set(kinds)) < len(kinds):
        raise ConfigError(f"kinds = {kinds}; allowed: at least one, each once")
    heads_at_once = math.isqrt(check_bytes(max_bytes) // 4) // model.cfg.d_head  # on either side of a product
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    n, weights = layers * heads, HeadWeights(*(weight.flatten(0, 1) for weight in _all_heads(model, fold_norms)))
    writer = FactoredMatrix(weights.W_V, weights.W_O)
    written, sizes = writer.reduced(), writer.singular_values()
    blocks = portions([1] * n, heads_at_once)
    steps = [(i, block) for i in range(len(kinds)) for block in blocks]

    scores = torch.full((len(kinds), n, n), math.nan, dtype=written.dtype)
    for i, readers in shown(steps, "composition", len(steps), progress):
        reader = _reader(weights, kinds[i], readers)
        read, most = reader.T.reduced().mT, _most(sizes, reader.singular_values(), score)
        for writers in blocks:
            if writers.start // heads < (readers.stop - 1) // heads:  # else none of them comes before any reader
                norms = _norms_of_products(written[writers], read)
                scores[i, writers, readers] = (norms / most[writers]).cpu()
    layer_of = torch.arange(n) // heads
    scores.masked_fill_((layer_of[:, None] >= layer_of) | scores.isinf(), math.nan)

    definition = "|AB| / (|A| |B|)" if score == "raw" else "|AB| / sqrt(sum_i s_i(A)^2 s_i(B)^2)"
    dims = ("kind", "writer_layer", "writer_head", "reader_layer", "reader_head")
    values = scores.view(len(kinds), layers, heads, layers, heads)
    where_b = "B = W_QK (Q), W_QK^T (K), W_OV (V) of the reader"
    result = _table(model, values, dims, f"{score} composition", f"{definition}; A = W_OV, {where_b}", fold_norms)
    return result.assign_coords(kind=kinds)


def _reader(weights: HeadWeights, kind: Kind, heads: slice) -> FactoredMatrix:
    """B, by which a later head reads a write `A` as `A @ B`."""
    W_Q, W_K, W_V, W_O = (weight[heads] for weight in weights)
    return {"Q": FactoredMatrix(W_Q, W_K.mT), "K": FactoredMatrix(W_K, W_Q.mT), "V": FactoredMatrix(W_V, W_O)}[kind]


def _most(
    writers: Float[Tensor, "writer k"], readers: Float[Tensor, "reader k"], score: str
) -> Float[Tensor, "writer reader"]:
    """What `|AB|` is compared with, from the singular values of both."""
    if score == "raw":
        return writers.norm(dim=-1)[:, None] * readers.norm(dim=-1)
    return (writers.square() @ readers.square().T).sqrt()


def _norms_of_products(
    written: Float[Tensor, "writer rank d_model"], read: Float[Tensor, "reader d_model rank"]
) -> Float[Tensor, "writer reader"]:
    """Frobenius norms of all products at once."""
    (writers, rank, _), (readers, _, width) = written.shape, read.shape
    products = written.flatten(0, 1) @ read.transpose(0, 1).flatten(1)
    squares = products.square_().view(-1, readers, width).sum(dim=-1)  # of each row, in two steps: memory in order
    return squares.view(writers, rank, readers).sum(dim=1).sqrt()


# ---------------------------------------------------------------------------------------------- weights of heads


def _of_layer(model: HookedTransformer, layer: int, fold_norms: bool) -> HeadWeights:
    """Of the heads of one layer [head, ...], keys and values repeated to them."""
    if fold_norms and model.cfg.normalizes_stream:
        raise ConfigError(
            "fold_norms = True, but norm_position = 'post' normalises the stream itself: its gains belong to no head; "
            "leave fold_norms out"
        )
    block, groups = model.blocks[layer], model.cfg.n_heads // model.cfg.n_key_value_heads
    attn = block.attn
    W_Q, W_K, W_V, W_O = (at_least_float32(weight) for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O))
    if fold_norms:
        W_Q, W_K, W_V = (_as_read_through(block.ln1, weight) for weight in (W_Q, W_K, W_V))
        W_O = _through(block.ln1_post, W_O)
    W_K, W_V = (weight.repeat_interleave(groups, dim=0) for weight in (W_K, W_V))
    return HeadWeights(W_Q / model.cfg.attn_scale, W_K, W_V, W_O)


def _all_heads(model: HookedTransformer, fold_norms: bool) -> HeadWeights:
    """[layer, head, ...]. Raises `ConfigError` for a model without blocks."""
    if model.cfg.n_layers == 0:
        raise ConfigError("n_layers = 0: this model has no blocks, so it has no heads")
    layers = [_of_layer(model, layer, fold_norms) for layer in range(model.cfg.n_layers)]
    return HeadWeights(*(torch.stack(weights) for weights in zip(*layers, strict=True)))


def _of_head(model: HookedTransformer, layer: int, head: int, fold_norms: bool) -> HeadWeights:
    layer, head = layer_index(layer, model.cfg.n_layers, "layer"), head_index(head, model.cfg.n_heads)
    return HeadWeights(*(weight[head] for weight in _of_layer(model, layer, fold_norms)))


def _at_most(name: str, given: int | None, most: int) -> int:
    return min(10, most) if given is None else check_count(name, given, most)


def _through(norm: Norm, written: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """Writes after the matrix of a norm: what it does at scale 1."""
    return norm.at_scale(written, written.new_ones(*written.shape[:-1], 1))


def _as_read_through(
    norm: Norm, weight: Float[Tensor, "*heads d_model d_head"]
) -> Float[Tensor, "*heads d_model d_head"]:
    """A reading weight with the matrix of the norm before it counted in."""
    if norm.w is None:
        return weight
    weight = at_least_float32(norm.w)[:, None] * weight
    return weight - weight.mean(dim=-2, keepdim=True) if norm.kind == "LN" else weight


def _embedding(model: HookedTransformer) -> Float[Tensor, "d_vocab d_model"]:
    """`W_E` as it enters the stream."""
    return model.embed.scaled(at_least_float32(model.W_E))


def _table(
    model: HookedTransformer, values: Tensor, dims: tuple[str, ...], name: str, definition: str, fold_norms: bool
) -> "xarray.DataArray":
    """Numbers with their axes named and counted, and what they are."""
    import xarray

    counted = {dim: range(size) for dim, size in zip(dims, values.shape, strict=True) if dim != "kind"}
    about = {"definition": definition, "fold_norms": int(fold_norms), "model": model.weights_hash()}
    return xarray.DataArray(values.cpu().numpy(), dims=dims, coords=counted, name=name, attrs=about)
