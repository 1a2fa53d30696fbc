"""Path expansion: the stream, the logits and the scores of a run as sums over paths through its heads.

With the patterns of a run frozen, a head is a linear map of the stream: it moves what it attends to, and multiplies it
by `W_V W_O`. The stream is then a sum over *paths*. A path begins at a source and goes through a chain of heads (Elhage
et al. 2021, "path expansion trick"). A chain of one head is that head's direct reading of the source; a longer chain is
a virtual head. A norm is linear too, once it is taken at the scale that it had in the run, so the sum is exact in every
architecture. An MLP is not linear, so what it wrote is a source of its own; so is what cross-attention wrote, which
comes from another stream.

A label names its path from left to right: "embed -> L0H2 -> L1H0". The sources are:

- "embed", "pos_embed", "token_type_embed": the vectors of tokens, positions and types of tokens.
- "3_mlp_out", "3_cross_attn_out": what the MLP or the cross-attention of layer 3 added to the stream, biases included.
- "bias": the biases of attention and norms. A path from it through a head also holds that head's own value bias.

One row, "longer", is the sum of all chains longer than `max_length`, so that the rows still sum to the whole. In runs
that hooks edited, a row "edits" holds what the paths do not account for.
"""

import math
from typing import TYPE_CHECKING, Literal, cast

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig, rotary_angles
from interp.errors import CacheError, ConfigError, describe
from interp.indices import head_index, is_index, layer_index
from interp.keywords import known_keywords
from interp.model import (
    ActivationCache,
    LogitAttribution,
    Norm,
    Stack,
    Step,
    StreamPlace,
    head_label,
    rotate,
    steps,
)
from interp.precision import at_least_float32, equal_up_to_rounding, without_autocast
from interp.progress import shown
from interp.text import Answer

if TYPE_CHECKING:
    import xarray

MAX_TERMS = 10_000
"""How many terms are computed unless a caller allows more."""


@torch.no_grad()
@without_autocast()
@known_keywords
def expand_stream(
    cache: ActivationCache,
    layer: int | None = None,
    max_length: int | None = None,
    *,
    max_terms: int = MAX_TERMS,
    progress: bool = True,
) -> Stack:
    """The stream that enters `layer` as a sum over paths, shorter chains first, in float32 at least.

    Args:
        cache: of a whole run: all positions, no `kv_cache`, and every point that is not lazy.
        layer: 0 to n_layers, negative from the end; None for the stream that the unembedding reads.
        max_length: the longest chain of heads with a row of its own; None for all.
        max_terms: how many rows may be computed, each of [batch, pos, d_model] numbers.
        progress: show a progress bar on a terminal.

    Raises:
        ConfigError: a layer out of range, a negative length, or more rows than `max_terms`; nothing was computed then.
        CacheError: the weights changed since the run, or the cache holds only some of its positions.
        HookNotFoundError: a needed activation is not in the cache.

    >>> _, cache = model.run_with_cache(clean)
    >>> paths = expand_stream(cache, layer=1, progress=False)
    >>> torch.allclose(paths.values.sum(dim=0), cache["resid_pre", 1], atol=1e-5)
    True
    """
    stop = cache.cfg.n_layers if layer is None else layer_index(layer, cache.cfg.n_layers, "layer", end=True)
    _check_count(cache.cfg, stop, max_length, max_terms, sides=1)
    paths = _Paths(cache, stop, max_length)
    walk = list(steps(cache.cfg, StreamPlace(stop)))
    for step in shown(walk, "paths", len(walk), progress):
        paths.take(step)
    return paths.stack()


@torch.no_grad()
@without_autocast()
@known_keywords
def expand_logits(
    cache: ActivationCache,
    correct: Answer,
    incorrect: Answer | None = None,
    max_length: int | None = None,
    *,
    max_terms: int = MAX_TERMS,
    progress: bool = True,
) -> LogitAttribution:
    """How much each path adds to the logit of `correct`; with `incorrect`, to the difference of the two logits.

    A row of `expand_stream` passes the final norm, at the scale that the norm had in this run, and meets the direction
    of the logit. The bias of the norm and `b_U` are the last rows. All rows sum to the logit, before any soft cap.

    Args:
        correct, incorrect: as for `direct_attribution`.
        cache, max_length, max_terms, progress: as for `expand_stream`.

    Raises what `expand_stream` and `ActivationCache.logit_attrs` raise.
    """
    cache.check_linear_read_out()
    cache.logit_directions(cache["hook_embed"], correct, incorrect)  # wrong answers fail before the long work
    stack = expand_stream(cache, None, max_length, max_terms=max_terms, progress=progress)
    return cache.logit_attrs(stack, correct, incorrect)


@torch.no_grad()
@without_autocast()
@known_keywords
def expand_scores(
    cache: ActivationCache,
    layer: int,
    head: int,
    max_length: int | None = None,
    *,
    max_terms: int = MAX_TERMS,
    progress: bool = True,
) -> "xarray.DataArray":
    """The scores of a head as a sum over pairs of paths: one that its queries read, and one that its keys read.

    The terms are the direct ones, and those of Q-, K- and Q-and-K-composition (Elhage et al. 2021). They sum exactly to
    `hook_attn_scores` before any soft cap, because rotations at fixed positions are linear, and so are norms of queries
    and keys at the scales of the run. Keys that the mask hides have terms as well. The bias of the queries belongs to
    the path "bias" of the queries, and the bias of the keys to the path "bias" of the keys. What relative positions add
    to a score belongs to the pair of these two.

    Args:
        cache, max_length, progress: as for `expand_stream`.
        layer, head: negative ones count from the end.
        max_terms: how many pairs may be computed, each of [batch, pos, pos] numbers.

    Returns:
        [query_path, key_path, prompt, query_pos, key_pos], in float32 at least:
        `scores.sel(query_path="embed", key_path="embed -> L0H0")` is a table for each sequence.

    Raises what `expand_stream` raises, and `CacheError` if the terms do not sum to the scores in the cache.
    """
    import xarray

    cfg = cache.cfg
    layer = layer_index(layer, cfg.n_layers, "layer")
    head = head_index(head, cfg.n_heads)
    _check_count(cfg, layer, max_length, max_terms, sides=2)
    rotation = _rotation(cache, layer)
    stack = _read(cache, layer, expand_stream(cache, layer, max_length, max_terms=max_terms, progress=progress))
    q = _project(cache, layer, "q", head, stack, rotation)
    k = _project(cache, layer, "k", head // (cfg.n_heads // cfg.n_key_value_heads), stack, rotation)
    scores = einsum(q / cfg.attn_scale, k, "batch query one d_head, batch key two d_head -> one two batch query key")
    if cfg.positional_embedding_type == "relative":
        bias = stack.labels.index("bias")
        scores[bias, bias] += cache["rel_bias.hook_bias"][:, head].to(scores)
    if not cache.edited:
        _check_scores(cache, layer, head, scores)
    return xarray.DataArray(
        scores.cpu().numpy(),
        dims=("query_path", "key_path", "prompt", "query_pos", "key_pos"),
        coords={"query_path": stack.labels, "key_path": stack.labels}
        | {name: range(n) for name, n in zip(("prompt", "query_pos", "key_pos"), scores.shape[2:], strict=True)},
        name=f"{head_label(layer, head)} scores",
        attrs={
            "definition": "q . k / attn_scale by pairs of paths, patterns and norm scales frozen",
            "model": cache.model.weights_hash(),
        },
    )


# ---------------------------------------------------------------------------------------------- along the stream


class _Paths:
    """The paths to the place in the stream that the walk has reached, and what each has put there."""

    def __init__(self, cache: ActivationCache, stop: int, max_length: int | None):
        self.cache, self.stop = cache, stop
        self.max_length = math.inf if max_length is None else max_length
        embeddings = cache.decompose_resid(0)
        wide = at_least_float32(embeddings.values)
        self.embedded = wide.sum(dim=0)
        sources = [i for i, label in enumerate(embeddings.labels) if label.endswith("embed")]
        self.labels = [*(embeddings.labels[i] for i in sources), "bias"]
        bias = wide[embeddings.labels.index("bias")] if "bias" in embeddings.labels else torch.zeros_like(self.embedded)
        self.values = torch.cat([wide[sources], bias[None]])
        self.lengths = [0] * len(self.labels)
        self.longer = torch.zeros_like(self.embedded[None])  # all chains above max_length

    def take(self, step: Step) -> None:
        """What a step makes of the paths so far, and the ones that it adds."""
        if step.part == "attn":
            self._attend(step)
            b_O = self.cache.model.get_parameter(step.bias_name).to(self.values).expand_as(self.embedded)
            norm = self.cache.norm(step.write_norm)
            _add_to(self.values, self.labels.index("bias"), norm.linear(b_O))
            _add_to(self.values, self.labels.index("bias"), norm.bias)
        else:
            self._add([step.label], self.cache[step.hook_name][None].to(self.values), [0])
        if step.stream_norm is not None:
            norm = self.cache.norm(step.stream_norm)
            self.values, self.longer = norm.linear(self.values), norm.linear(self.longer)
            _add_to(self.values, self.labels.index("bias"), norm.bias)

    def _attend(self, step: Step) -> None:
        """Every path goes on through every head, too; as a path of its own, or in `longer`."""
        n_heads, bias = self.cache.cfg.n_heads, self.labels.index("bias")
        grown = [i for i, length in enumerate(self.lengths) if length < self.max_length]
        ended = [i for i, length in enumerate(self.lengths) if length >= self.max_length]
        if ended:
            rows = self.longer + self.values[ended].sum(dim=0)
            self.longer = self.longer + self._through_heads(step, rows, 0 if bias in ended else None).sum(dim=1)
        if grown:
            written = self._through_heads(step, self.values[grown], grown.index(bias) if bias in grown else None)
            labels = [f"{self.labels[i]} -> {head_label(step.layer, head)}" for i in grown for head in range(n_heads)]
            self._add(labels, written.flatten(0, 1), [self.lengths[i] + 1 for i in grown for _ in range(n_heads)])

    def _through_heads(
        self, step: Step, rows: Float[Tensor, "row batch pos d_model"], bias: int | None
    ) -> Float[Tensor, "row head batch pos d_model"]:
        """What each head writes of each row; the row number `bias` carries the biases on the way."""
        cfg, attn = self.cache.cfg, self.cache.model.blocks[step.layer].attn
        pattern = self.cache["pattern", step.layer]
        if pattern.shape[-2:] != (rows.shape[2], rows.shape[2]):
            raise CacheError(
                f"the pattern of layer {step.layer} is {tuple(pattern.shape[-2:])} for {rows.shape[2]} cached "
                "positions; paths need all positions of a run, before any slice and without kv_cache="
            )
        norm = self.cache.norm(step.read_norm)
        rows = norm.linear(rows)
        _add_to(rows, bias, norm.bias)
        v = einsum(rows, attn.W_V.to(rows), "row batch pos d_model, n d_model d_head -> row batch pos n d_head")
        _add_to(v, bias, attn.b_V)
        v = v.repeat_interleave(cfg.n_heads // cfg.n_key_value_heads, dim=3)
        z = einsum(pattern.to(v), v, "batch head query key, row batch key head d_head -> row head batch query d_head")
        written = einsum(
            z, attn.W_O.to(z), "row head batch pos d_head, head d_head d_model -> row head batch pos d_model"
        )
        return self.cache.norm(step.write_norm).linear(written)

    def _add(self, labels: list[str], values: Tensor, lengths: list[int]) -> None:
        self.labels += labels
        self.lengths += lengths
        self.values = torch.cat([self.values, values])

    def stack(self) -> Stack:
        """The paths by length, then "longer" and "edits" where there are any; checked against the cached stream."""
        order = sorted(range(len(self.labels)), key=lambda i: self.lengths[i])
        labels, values = [self.labels[i] for i in order], self.values[order]
        if self.stop > self.max_length:
            labels, values = [*labels, "longer"], torch.cat([values, self.longer])
        whole = self.embedded
        if self.stop:
            last = ("resid_pre", self.stop) if self.stop < self.cache.cfg.n_layers else ("resid_post", self.stop - 1)
            whole = at_least_float32(self.cache[last])
        if self.cache.edited:
            labels, values = [*labels, "edits"], torch.cat([values, (whole - values.sum(dim=0))[None]])
        elif not equal_up_to_rounding(values.sum(dim=0), whole, values.abs().sum(dim=0), self.cache.coarsest_dtype()):
            raise CacheError("the paths do not sum to the cached stream: weights or activations changed since the run")
        return Stack(values, labels, StreamPlace(self.stop))


# ---------------------------------------------------------------------------------------------- queries and keys


def _read(cache: ActivationCache, layer: int, stack: Stack) -> Stack:
    """The paths as queries and keys read them: through the norm, and in shortformer models beside the positions."""
    rows, labels = stack.values, stack.labels
    if cache.cfg.norms_reads:
        norm = cache.norm(f"blocks.{layer}.ln1")
        rows = norm.linear(rows)
        _add_to(rows, labels.index("bias"), norm.bias)
    if cache.cfg.positional_embedding_type == "shortformer":
        rows, labels = torch.cat([rows, cache["hook_pos_embed"][None].to(rows)]), [*labels, "pos_embed"]
    return Stack(rows, labels)


def _project(
    cache: ActivationCache,
    layer: int,
    side: Literal["q", "k"],
    index: int,
    read: Stack,
    rotation: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "batch pos path d_head"]:
    """Queries (or keys) of one head, as the scores multiply them, by path."""
    attn = cache.model.blocks[layer].attn
    W, b = (attn.W_Q, attn.b_Q) if side == "q" else (attn.W_K, attn.b_K)
    rows = read.values @ W[index].to(read.values)
    _add_to(rows, read.labels.index("bias"), b[index])
    if cache.cfg.use_qk_norm:
        scale = cache[f"blocks.{layer}.attn.{side}_norm.hook_scale"][:, :, index]
        rows = cast(Norm, attn.get_submodule(f"{side}_norm")).at_scale(rows, scale)
    paths = rows.permute(1, 2, 0, 3)
    if rotation is not None:
        paths = rotate(paths, rotation)
    if cache.edited:
        cached = at_least_float32(cache[side if rotation is None else f"rot_{side}", layer][:, :, index])
        _add_to(paths.permute(2, 0, 1, 3), read.labels.index("edits"), cached - paths.sum(dim=2))
    return paths


def _rotation(cache: ActivationCache, layer: int) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines of the rotary angles of the run, or None."""
    cfg, embed, mask = cache.cfg, cache["hook_embed"], cache.attention_mask
    base = cfg.in_layer(cfg.rotary_base, layer)
    if base is None or cfg.rotary_dim is None:
        return None
    positions = torch.arange(embed.shape[1], device=embed.device)[None]
    if mask is not None:
        positions = (mask.to(embed.device).cumsum(dim=1) - 1).clamp(min=0)
    # the run's own angles, rounded as there
    angles = rotary_angles(base, cfg.rotary_dim, cfg.in_layer(cfg.rotary_scaling, layer), positions, embed.dtype)
    return at_least_float32(angles[0]), at_least_float32(angles[1])


def _check_scores(cache: ActivationCache, layer: int, head: int, terms: Tensor) -> None:
    """Where the cache holds the scores, the terms must sum to them."""
    name, cap = f"blocks.{layer}.attn.hook_attn_scores", cache.cfg.attn_scores_soft_cap
    if name not in cache:
        return
    cached, total = cache[name][:, head], terms.sum(dim=(0, 1))
    total = total if cap is None else cap * torch.tanh(total / cap)
    seen = cached.isfinite()
    size, rounded = terms.abs().sum(dim=(0, 1)), cache.coarsest_dtype()
    if not equal_up_to_rounding(total[seen], cached[seen], size[seen], rounded):
        raise CacheError("the terms do not sum to the scores in the cache: are they of another run, or other weights?")


# ---------------------------------------------------------------------------------------------- small steps


def _add_to(rows: Tensor, i: int | None, addend: Tensor | None) -> None:
    """Add to row i, in place, if there is such a row and something to add."""
    if i is not None and addend is not None:
        rows[i] += addend.to(rows)


def _check_count(cfg: TransformerConfig, stop: int, max_length: int | None, max_terms: int, sides: int) -> None:
    """Raise `ConfigError` for an impossible length, or for more terms than allowed."""
    if max_length is not None and (not is_index(max_length) or max_length < 0):
        raise ConfigError(
            f"max_length = {describe(max_length)}; allowed: 0 or more heads, or None for chains of any length"
        )
    wanted = count_paths(cfg, stop, max_length) ** sides
    if wanted <= max_terms:
        return
    fits = [n for n in range(stop) if count_paths(cfg, stop, n) ** sides <= max_terms]
    advice = f"; max_length = {fits[-1]} makes {count_paths(cfg, stop, fits[-1]) ** sides:,}" if fits else ""
    raise ConfigError(f"max_length = {max_length} makes {wanted:,} terms, above max_terms = {max_terms:,}{advice}")


def count_paths(cfg: TransformerConfig, layer: int, max_length: int | None = None) -> int:
    """How many rows `expand_stream` has for an unedited run."""
    of_length = [2 + cfg.positions_in_stream + bool(cfg.n_token_types)] + [0] * layer
    longest = layer if max_length is None else min(max_length, layer)
    for _ in range(layer):
        for length in range(longest, 0, -1):
            of_length[length] += cfg.n_heads * of_length[length - 1]
        of_length[0] += cfg.cross_attention + (not cfg.attn_only)
    return sum(of_length) + (longest < layer)
