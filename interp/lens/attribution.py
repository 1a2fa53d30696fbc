"""Direct logit attribution: what each part of the model wrote for a logit, or for the difference of two.

A logit is a dot product of the last stream with a direction, a column of the unembedding. Going back from there, each
norm on the way, at the scale that it had in the run, turns the direction into the one that counts before that norm. A
part's share of the logit is the dot product of what it wrote with the direction that counts where it wrote. No weight
is folded for this, and no part is made a vector of the stream. The biases have rows of their own, so that all parts sum
to the logit.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, check_choice, describe, did_you_mean
from interp.indices import check_count, layer_index
from interp.keywords import known_keywords
from interp.lens.over_prompts import OverPrompts, Pos
from interp.model import ActivationCache, Part, Step, head_labels, select, steps
from interp.precision import at_least_float32, without_autocast
from interp.text import Answer, Ids, Text, answer_in_words, token_ids

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

By = Literal["component", "head", "neuron", "position", "cross_head", "cross_position", "mlm_neuron"]


@torch.no_grad()
@without_autocast()
@known_keywords
def direct_attribution(
    cache: ActivationCache,
    correct: Answer,
    incorrect: Answer | None = None,
    *,
    by: By = "component",
    pos: Pos = None,
    prompt: Text | Ids | None = None,
) -> "xr.Dataset":
    """What each part of the model wrote for a logit, or for the difference of two (Elhage et al. 2021).

    Args:
        cache: of a run with everything (or `names_filter` wide enough, which an error tells).
        correct: the answer whose logit is split: an id, a text of one token, one of these a prompt, or ids [batch, pos]
            beside the positions of the cache.
        incorrect: the answer whose logit is taken off; None for the logit of `correct` alone.
        by: what to split the logit into:

            - "component": embeddings, attention and MLP of each layer, and biases, over `component`;
            - "head": each head, over `layer` and `head`;
            - "neuron": each neuron, over `layer` and `neuron`;
            - "position": each head and each position that it attended to, over `layer`, `head` and `key_pos`:
              pattern times value (its bias included) through W_O;
            - "cross_head", "cross_position": the same for heads of cross-attention; they attend over `source_pos`;
            - "mlm_neuron": each neuron of a masked-token head, over `neuron`. In a model with such a head this is the
              only split there is: its logits are not linear in components.
        pos: where the logit is read.
        prompt: what the run read, for the token strings.

    Returns:
        `attribution` over the axes named, and `prompt` and `pos`, in float32 at least. With a split finer than
        components there is also `rest` over `component`: everything that was not split, and the biases of what was,
        under names such as "3_attn_bias". Both together sum to `logit`, which is taken before any soft cap. Where hooks
        edited the run, rows named "edits" hold what the hooks added beside the parts.

    Raises:
        ConfigError: an unknown `by`, or one for which the model has no parts.
        TokenError, ShapeError: as `ActivationCache.logit_attrs`; positions out of range; for "position" a cache that
            was cut or continued, whose values are not those of all the positions attended to.
        HookNotFoundError: a needed activation is not in the cache.
        CacheError: the weights changed since the run.
    """
    kinds = ("component", *SPLITS, "mlm_neuron")
    if by not in kinds:
        raise ConfigError(f"by = {describe(by)}; allowed: {', '.join(kinds)}{did_you_mean(str(by), kinds)}")
    cfg = cache.cfg
    if missing := _missing(cfg, by):
        raise ConfigError(f"by = {describe(by)}: this model has no {missing}")
    over, cut = OverPrompts.of_cache(cache, prompt, pos), cache.slice(pos=pos)
    if by != "mlm_neuron":
        cut.check_linear_read_out()
    correct, incorrect = (_cut_answer(answer, over) for answer in (correct, incorrect))
    if by == "mlm_neuron":
        return _of_masked_token_head(cut, over, correct, incorrect)
    components = cut.logit_attrs(cut.decompose_resid(), correct, incorrect)
    about = {"by": by, "unit": "logit, before any soft cap", "edited": int(cache.edited)}
    about |= {"correct": answer_in_words(correct), "incorrect": answer_in_words(incorrect)}
    axes = ("component", "prompt", "pos")
    if by == "component":
        variables = {"attribution": (axes, components.values), "logit": (axes[1:], components.values.sum(dim=0))}
        return over.dataset(variables, {"component": components.labels}, about)

    split = SPLITS[by]
    directions, _ = cut.logit_directions(cut["hook_embed"], correct, incorrect)
    rest = dict(components)
    parts = []
    for write in _writes(cut, split.site, directions):
        part = split.parts(write, cache)
        bias, whole = write.bias(), rest.pop(write.step.label)
        rest[f"{write.step.layer}_{split.site}_bias"] = bias
        if cache.edited:
            rest[f"{write.step.layer}_{split.site}_edits"] = whole - bias - _total(part)
        parts.append(part)
    others = torch.stack(list(rest.values()))
    logit = others.sum(dim=0) + torch.stack([_total(part) for part in parts]).sum(dim=0)
    dims = ("layer", split.dims[0], "prompt", "pos", *split.dims[1:])
    coords: dict[str, Any] = {
        "component": list(rest),
        "layer": range(cfg.n_layers),
        split.dims[0]: range(len(parts[0])),
    }
    if split.site != "mlp":
        coords["label"] = (dims[:2], head_labels(cfg, split.site))
    variables = {"attribution": (dims, torch.stack(parts)), "rest": (axes, others), "logit": (axes[1:], logit)}
    return over.dataset(variables, coords, about)


def _missing(cfg: TransformerConfig, by: By) -> str | None:
    """What a split needs and the architecture lacks, in words."""
    if by == "mlm_neuron":
        return None if cfg.masked_token_head else "masked-token head"
    if by == "component":
        return None
    if by.startswith("cross"):
        return None if cfg.cross_attention and cfg.n_layers else "cross-attention"
    if by == "neuron":
        return None if not cfg.attn_only and cfg.n_layers else "neurons"
    return None if cfg.n_layers else "heads"


def _of_masked_token_head(
    cache: ActivationCache, over: OverPrompts, correct: Answer, incorrect: Answer | None
) -> "xr.Dataset":
    """The shares of the head's neurons; the rest are biases, and what hooks edited after the neurons."""
    cache.check_weights()
    post, norm = cache["mlm_head.hook_post"], cache.norm("mlm_head.ln")
    directions, offset = cache.logit_directions(post, correct, incorrect)
    parts = (at_least_float32(post) * norm.pull_back(directions)).permute(2, 0, 1)
    rest = {"unembed_bias": offset}
    if norm.bias is not None:
        rest["mlm_head.ln_bias"] = directions @ norm.bias.to(directions)
    if cache.edited:
        read = at_least_float32(cache["mlm_head.ln.hook_normalized"]) if norm.norm is not None else post
        rest["mlm_head.ln_edits"] = (read * directions).sum(dim=-1) + offset - parts.sum(dim=0) - sum(rest.values())
    others = torch.stack(list(rest.values()))
    axes = ("component", "prompt", "pos")
    variables = {
        "attribution": (("neuron", *axes[1:]), parts),
        "rest": (axes, others),
        "logit": (axes[1:], parts.sum(dim=0) + others.sum(dim=0)),
    }
    about = {"by": "mlm_neuron", "unit": "logit, before any soft cap", "edited": int(cache.edited)}
    about |= {"correct": answer_in_words(correct), "incorrect": answer_in_words(incorrect)}
    return over.dataset(variables, {"component": list(rest), "neuron": range(len(parts))}, about)


@dataclass(frozen=True, eq=False)
class Write:
    """One write of attention or of an MLP, and the directions that its parts are compared with.

    Attributes:
        cache: cut to the positions asked for.
        step: which write it is.
        added: the direction that counts where the write is added to the stream: the dot product of it with what is
            added is the write's share of the logit.
        written: the direction that counts before the norm on the write path; without such a norm, the same as `added`.
    """

    cache: ActivationCache
    step: Step
    added: Float[Tensor, "batch pos d_model"]
    written: Float[Tensor, "batch pos d_model"]

    def bias(self) -> Float[Tensor, "batch pos"]:
        """What the biases on the way add."""
        bias = self.cache.model.get_parameter(self.step.bias_name)
        value, norm = self.written @ bias.to(self.written), self.cache.norm(self.step.write_norm)
        return value if norm.bias is None else value + self.added @ norm.bias.to(self.added)

    def heads(self, cache: ActivationCache) -> Float[Tensor, "head batch pos"]:
        """Of each head: `z W_O`."""
        read = self._read_by_heads()
        return (self.cache[f"{self.step.name}.hook_z"].to(read) * read).sum(dim=-1).permute(2, 0, 1)

    def keys(self, cache: ActivationCache) -> Float[Tensor, "head batch pos key_pos"]:
        """Of each head and position attended to: `pattern v W_O`; the values come from the whole `cache`."""
        pattern = at_least_float32(self.cache[f"{self.step.name}.hook_pattern"])
        v = at_least_float32(cache[f"{self.step.name}.hook_v"])
        if v.shape[1] != pattern.shape[3]:
            raise ShapeError(
                f"the cache holds values of {v.shape[1]} of the {pattern.shape[3]} positions attended to; cache a "
                "whole run, and say with pos= where the logit is read"
            )
        v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
        worth = einsum(
            v, self._read_by_heads(), "batch key_pos head d_head, batch pos head d_head -> head batch pos key_pos"
        )
        return pattern.transpose(0, 1) * worth

    def neurons(self, cache: ActivationCache) -> Float[Tensor, "neuron batch pos"]:
        """Of each neuron: activation times `W_out`, which meets the direction first."""
        W_out = self.cache.model.blocks[self.step.layer].mlp.W_out.to(self.written)
        return (self.cache[f"{self.step.name}.hook_post"].to(self.written) * (self.written @ W_out.T)).permute(2, 0, 1)

    def _read_by_heads(self) -> Float[Tensor, "batch pos head d_head"]:
        W_O = self.cache.model.get_parameter(f"{self.step.name}.W_O").to(self.written)
        return einsum(self.written, W_O, "batch pos d_model, head d_head d_model -> batch pos head d_head")


@dataclass(frozen=True)
class Split:
    """A way to split what attention or MLPs write.

    Attributes:
        site: which part of a block writes what is split.
        parts: from a write and the whole cache to the shares of its parts, [dims[0], batch, pos, *dims[1:]].
        dims: the axes that the split adds.
    """

    site: Part
    parts: Callable[[Write, ActivationCache], Tensor]
    dims: tuple[str, ...]


SPLITS: dict[str, Split] = {
    "head": Split("attn", Write.heads, ("head",)),
    "neuron": Split("mlp", Write.neurons, ("neuron",)),
    "position": Split("attn", Write.keys, ("head", "key_pos")),
    "cross_head": Split("cross_attn", Write.heads, ("head",)),
    "cross_position": Split("cross_attn", Write.keys, ("head", "source_pos")),
}


def _writes(cache: ActivationCache, site: Part, directions: Float[Tensor, "batch pos d_model"]) -> list[Write]:
    """The writes of every layer, first to last: directions of the logits carried back through the norms on the way."""
    here = cache.norm("ln_final").pull_back(directions)
    writes = []
    for step in reversed(list(steps(cache.cfg))):
        here = cache.norm(step.stream_norm).pull_back(here)
        if step.part == site:
            writes.append(Write(cache, step, here, cache.norm(step.write_norm).pull_back(here)))
    return writes[::-1]


def _total(part: Tensor) -> Float[Tensor, "batch pos"]:
    """All parts of a layer together."""
    return part.flatten(3).sum(dim=3).sum(dim=0) if part.ndim == 4 else part.sum(dim=0)


def _cut_answer(answer: Any, over: OverPrompts) -> Any:
    """An answer for every position of the run, cut to the positions asked for; any other answer as it is."""
    if answer is None:
        return None
    ids = token_ids(answer, over.model.to_answer, over.model.cfg.d_vocab_out)
    return select(ids, 1, over.pos, "pos") if ids.ndim == 2 and ids.shape[1] == over.n_pos else answer


def attribution_table(result: "xr.Dataset", top_k: int = 10) -> "pd.DataFrame":
    """The `top_k` largest parts, by size, of what `direct_attribution` found for one prompt and position.

    Rows are called as everywhere: "L5H3", "L5N17", "4_mlp_out", "unembed_bias"; "L5H3 from 2" is what head L5H3
    carried from position 2, "L5X3 from 2" what a head of cross-attention carried from there in the source. Raises
    `ConfigError` for a result over several prompts or positions, or `top_k` below 1.
    """
    import pandas as pd

    top_k = check_count("top_k", top_k)
    if several := {axis: n for axis, n in result["logit"].sizes.items() if n > 1}:
        raise ConfigError(f"a table is of one place, not of {several}; choose it: result.isel(prompt=0, pos=-1)")
    rows = []
    for name in ("attribution", "rest"):
        if name in result:
            values = result[name].squeeze([axis for axis in ("prompt", "pos") if axis in result[name].dims])
            rows += zip(_row_labels(values), values.to_numpy().ravel().tolist(), strict=True)
    rows.sort(key=lambda row: -abs(row[1]))
    labels, values = zip(*rows[:top_k], strict=True)
    return pd.DataFrame({"attribution": values}, index=list(labels))


def _row_labels(values: "xr.DataArray") -> Iterator[str]:
    signs = {"layer": "L", "neuron": "N", "component": "", "key_pos": " from ", "source_pos": " from "}
    named = values["label"] if "label" in values.coords else None  # heads have names of their own
    axes = [] if named is None else [named.to_numpy().ravel().tolist()]
    others = [axis for axis in values.dims if named is None or axis not in named.dims]
    axes += [[f"{signs[str(axis)]}{i}" for i in values[axis].to_numpy()] for axis in others]
    return map("".join, itertools.product(*axes))


# ---------------------------------------------------------------------- each position attended to, by whatever query


@torch.no_grad()
@without_autocast()
def value_norms(
    cache: ActivationCache, layer: int, part: Literal["attn", "cross_attn"] = "attn"
) -> Float[Tensor, "batch head key_pos"]:
    """`|v W_O|`: the length of what each head would write if it attended to one position alone.

    The length is the root of `v (W_O W_O^T) v`, so that no vector of d_model is held for a head and a position. It is
    computed in float64. Layers may be negative, from the end.

    Raises `HookNotFoundError` for a cache without `hook_v`, `ConfigError` for a layer or a part that is not there,
    `CacheError` where the weights changed since the run.

    Source: Kobayashi et al. 2020.

    >>> _, cache = model.run_with_cache(clean)
    >>> value_norms(cache, 1).shape  # [batch, head, key_pos]
    torch.Size([1, 4, 10])
    """
    cache.check_weights()
    v, W_O = _values_and_W_O(cache, _part_of(cache, layer, part))
    gram = einsum(W_O, W_O, "head i d_model, head j d_model -> head i j")
    return einsum(v, gram, v, "batch pos head i, head i j, batch pos head j -> batch head pos").clamp(min=0).sqrt()


@torch.no_grad()
@without_autocast()
def key_effects(
    cache: ActivationCache,
    layer: int,
    correct: int | str,
    incorrect: int | str | None = None,
    part: Literal["attn", "cross_attn"] = "attn",
) -> tuple[Float[Tensor, "batch head key_pos"], Float[Tensor, "batch pos"]]:
    """What a head adds to a logit (or the difference of two) for each position attended to, in two factors.

    `pattern[batch, head, pos, key_pos] * effects[batch, head, key_pos] * factors[batch, pos]` is what
    `direct_attribution(..., by="position")` returns for these answers; here no array has all four axes. The effects are
    the products of `v W_O` with the direction of the logit, which the weights of the norms on the way have turned. The
    factors are 1 over the scales that these norms had in the run. Both are in float64.

    Raises as `direct_attribution` and `value_norms`.
    """
    cache.check_weights()
    cache.check_linear_read_out()
    own = _part_of(cache, layer, part)
    v, W_O = _values_and_W_O(cache, own)
    directions, _ = cache.logit_directions(cache.model.W_E[None, :1], correct, incorrect)
    direction = directions[0, 0].to(v)
    factors = v.new_ones(cache[f"{own.name}.hook_pattern"].shape[::2])
    for name in reversed(_norms_after(cache.cfg, own)):
        norm = cache.norm(name)
        if norm.norm is not None and norm.scale is not None:
            direction = norm.norm.pull_back(direction, direction.new_ones(1))
            factors = factors / norm.scale[..., 0]
    effects = einsum(v, W_O @ direction, "batch pos head d_head, head d_head -> batch head pos")
    return effects, factors


def _part_of(cache: ActivationCache, layer: int, part: Literal["attn", "cross_attn"]) -> Step:
    """The write of the heads of a layer. Raises `ConfigError` for a layer or a part that is not there."""
    layer = layer_index(layer, cache.cfg.n_layers, "layer")
    check_choice("part", part, ("attn", "cross_attn") if cache.cfg.cross_attention else ("attn",))
    return next(step for step in steps(cache.cfg) if (step.layer, step.part) == (layer, part))


def _values_and_W_O(
    cache: ActivationCache, step: Step
) -> tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "head d_head d_model"]]:
    """Values, repeated for all heads that share them, and what the heads write them with, in float64."""
    v, W_O = cache[f"{step.name}.hook_v"].double(), cache.model.get_parameter(f"{step.name}.W_O")
    return v.repeat_interleave(len(W_O) // v.shape[2], dim=2), W_O.to(v.device).double()


def _norms_after(cfg: TransformerConfig, own: Step) -> list[str | None]:
    """The norms that a write of these heads passes on its direct way to the logits, in order."""
    later = itertools.islice(itertools.dropwhile(lambda step: step != own, steps(cfg)), 1, None)
    return [own.write_norm, own.stream_norm, *(step.stream_norm for step in later), "ln_final"]
