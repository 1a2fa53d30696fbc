"""What attention heads do, as numbers: how much they attend where, and whether they copy what they attend to.

`head_scores(model)` scores all heads in one pass, and `score_table` sorts and filters the result; the functions of
`pattern_scores.py` score a pattern by itself. The scores:

| name | how much a head ... |
|---|---|
| `previous_token` | attends to the position before |
| `duplicate_token` | attends to earlier occurrences of the query's own token |
| `induction` | attends to what followed these earlier occurrences (prefix matching), summed over them |
| `induction_entry_mean` | the same as the mean of single pattern entries, as Olsson et al. 2022 average |
| `first_token` | attends to the first token (a sink) |
| `next_token`, `own_token`, `last_token` | attends to the position after, to itself, to the last token |
| `copying` | raises the logit of the token attended to, by the eigenvalues of its full OV circuit |
| `copying_top` | the same, by the share of tokens whose own logit it raises most |

Of patterns a causal model has the first five. A bidirectional one has those that do not go by what came before (no
induction), with other occurrences for earlier ones, and the next three. Cross-attention has scores of its own, see
`cross_scores_of`. Scores of patterns are means over prompts, 0 to 1. A score that is not defined is NaN, and says why
in its `attrs`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.budget import BLOCK_BYTES, check_bytes, portions
from interp.config import TransformerConfig
from interp.errors import ConfigError, ShapeError, describe, did_you_mean
from interp.heads.pattern_scores import (
    BIDIRECTIONAL_SCORES,
    CROSS_SCORES,
    PADDING,
    PATTERN_SCORES,
    PatternScore,
    attention_on,
)
from interp.indices import check_count, is_index, layer_index
from interp.keywords import known_keywords
from interp.model import HookFn, PairCache, Part, check_one_stack, check_predicts_tokens, head_labels
from interp.progress import shown
from interp.text import AttentionMask, Ids, MaskedTokens, Text, is_text, repeated_tokens
from interp.weights import copying_scores, copying_top_scores

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model import ActivationCache, HookedTransformer


WEIGHT_SCORES: dict[str, tuple[Callable[..., Any], str]] = {
    "copying": (copying_scores, "sum(Re eigenvalue) / sum(|eigenvalue|) of W_E W_OV W_U, gains of norms included"),
    "copying_top": (
        copying_top_scores,
        "share of up to 512 random tokens whose own logit, among theirs, W_E W_OV W_U raises most",
    ),
}
"""Scores that are read off the weights: the function, and a definition in words."""

# ---------------------------------------------------------------------- all heads at once


@torch.no_grad()
@known_keywords
def head_scores(
    model: "HookedTransformer",
    prompt: Text | Ids | None = None,
    *,
    scores: str | Sequence[str] | None = None,
    n_prompts: int | None = None,
    length: int | None = None,
    seed: int | None = None,
    attention_mask: AttentionMask | None = None,
    max_bytes: int = BLOCK_BYTES,
    progress: bool = True,
) -> "xr.Dataset":
    """Scores of all heads, in one run over the prompts; patterns are reduced as they arise and never kept.

    Args:
        model: hooks that it has act as in every run.
        prompt: text, texts or ids to score on, in place of random repeats (`interp.text.repeated_tokens`).
        scores: some of the names in this module's table, in the order wanted; None for all that this model has.
        n_prompts, length, seed: of the random repeats; by default 16, about 64 tokens, and 0.
        attention_mask: for a prompt with padding, as for calling the model.
        max_bytes: how much one layer's patterns may take: so many prompts run at a time, and one at least. The scores
            do not depend on it.
        progress: show a progress bar on a terminal.

    Returns:
        A variable [layer, head] for every score, and `<score>_se`, its standard error over prompts (NaN for a single
        one). A coordinate `label` has the heads' names ("L5H3"), `attrs` the definitions, the number of prompts and
        the hash of the weights. Grouped-key models have a score for every query head.

    Raises:
        ConfigError: an unknown score, one that is not defined for this model, options that contradict each other, or a
            model without heads.
        TokenError: as `random_repeats` and as calling the model.
    """
    check_one_stack(model.cfg, "head_scores")
    names = _checked_names(scores, model)
    if model.cfg.cross_attention:
        raise ConfigError(
            "this decoder attends to a source: run the pair, and score what it left, head_scores_of(cache.decoder, "
            "model.to_target_tokens(target)[0]) and cross_scores_of(cache)"
        )
    options = (prompt, n_prompts, length, seed, attention_mask)
    if all(name in WEIGHT_SCORES for name in names):
        if any(option is not None for option in options):
            raise ConfigError(f"{', '.join(names)}: of the weights alone, so prompts mean nothing")
        return _dataset(names, _Found.of(names, model, torch.empty(0, 0, dtype=torch.long)), {"prompts": "none"})
    prompts, attrs = _prompts(model, *options)
    ids = prompts.ids
    of_prompt = model.cfg.n_heads * ids.shape[1] ** 2 * model.W_E.element_size()
    some = portions([of_prompt] * len(ids), check_bytes(max_bytes))

    found = _Found.of(names, model, ids.masked_fill(~prompts.is_token, PADDING))
    for rows in shown(some, "scoring heads", len(some), progress):
        model.base_run_with_hooks(prompts[rows], None, [("blocks.*.attn.hook_pattern", found.watch(rows))])
    return _dataset(names, found, attrs)


@torch.no_grad()
def head_scores_of(
    cache: "ActivationCache",
    prompt: Text | Ids,
    *,
    scores: str | Sequence[str] | None = None,
) -> "xr.Dataset":
    """As `head_scores`, of the patterns that a run on `prompt` left in a cache.

    Where hooks edited the patterns, the edited ones are scored. What was padding in the run is not scored.

    Raises as `head_scores`, and:
        HookNotFoundError: the cache lacks a pattern.
        ShapeError: its patterns are not those of whole sequences of this prompt.
        CacheError: a score of the weights is asked for, and the weights changed since the run.
    """
    model = cache.model
    names = _checked_names(scores, model)
    ids = model.read_tokens(prompt).ids
    mask = cache.attention_mask
    of_target = model.cfg.cross_attention and is_text(prompt)
    started = "; a target begins with the start token, which model.to_target_tokens(target)[0] has" if of_target else ""
    if mask is not None and mask.shape != ids.shape:
        raise ShapeError(f"the cache is of a run on {tuple(mask.shape)} tokens, not on {tuple(ids.shape)}{started}")
    found = _Found.of(names, model, ids if mask is None else ids.masked_fill(~mask.to(ids.device), PADDING))
    if len(found.scores) < len(names):
        cache.check_weights()
    marks = found.marks(slice(None))
    for layer in range(model.cfg.n_layers) if found.scores else ():
        pattern = cache["pattern", layer]
        if (len(pattern), *pattern.shape[2:]) != (*ids.shape, ids.shape[1]):
            raise ShapeError(
                f"the cache holds patterns of shape {tuple(pattern.shape)} (batch head query_pos key_pos), which do "
                f"not fit tokens of shape {tuple(ids.shape)}; whole sequences are needed, not cut or continued ones"
                f"{started}"
            )
        found.add(layer, slice(None), pattern, marks)
    return _dataset(names, found, {"prompts": "given", "edited": int(cache.edited)})


@torch.no_grad()
def cross_scores_of(cache: "PairCache") -> "xr.Dataset":
    """Scores of the heads of cross-attention, of the patterns that a run of an encoder with a decoder left in a cache.

    | name | mean attention of the target's positions ... |
    |---|---|
    | `diagonal` | of the i-th to the i-th token of the source (the start token to the first) |
    | `first_token` | to the first token of the source |
    | `last_token` | to the last, which ends it where the tokenizer says so |

    What was padding in the run, on either side, is not scored. Returns as `head_scores_of`; heads are called "L5X3".

    Raises:
        ConfigError: no cache of a pair, or a decoder without layers.
        HookNotFoundError: the cache lacks a pattern.
        ShapeError: its patterns were cut along the target.

    >>> from circuits.gallery import pair
    >>> copying = pair("copy_source").build().compile()
    >>> _, cache = copying.run_with_cache("abc", "!ab")
    >>> [name for name in cross_scores_of(cache) if not name.endswith("_se")]
    ['diagonal', 'first_token', 'last_token']
    """
    if not isinstance(cache, PairCache):
        raise ConfigError(
            f"cache is a PairCache, of a run of an encoder with a decoder, not {type(cache).__name__}; for heads of "
            "self-attention there is head_scores_of"
        )
    source, target = cache.encoder, cache.decoder
    if target.cfg.n_layers == 0:
        raise ConfigError("n_layers = 0: this decoder has no heads")
    patterns = target.stack(("pattern", "cross_attn"))
    for cut, n, side in ((target, patterns.shape[3], "target"), (source, patterns.shape[4], "source")):
        if cut.attention_mask is not None and cut.attention_mask.shape[1] != n:
            raise ShapeError(f"patterns over {n} positions of the {side}, and a mask of {cut.attention_mask.shape[1]}")
    _, n_prompts, _, n_queries, n_keys = patterns.shape
    texts = [_places(target.attention_mask, n_prompts, n_queries), _places(source.attention_mask, n_prompts, n_keys)]
    found = _Found(CROSS_SCORES, target.model, texts)
    marks = found.marks(slice(None))
    for layer, pattern in enumerate(patterns):
        found.add(layer, slice(None), pattern, marks)
    return _dataset(list(CROSS_SCORES), found, {"prompts": "given", "edited": int(target.edited)}, "cross_attn")


def _places(mask: Tensor | None, n_prompts: int, n: int) -> Int[Tensor, "prompt pos"]:
    """In place of tokens where it only counts which positions are padding."""
    places = torch.arange(n).expand(n_prompts, n)
    return places if mask is None else places.masked_fill(~mask.cpu(), PADDING)


class _Found:
    """Scores of patterns as they come in: `values` is [score, layer, prompt, head].

    `texts` are the tokens of the queries, with padding marked, and in cross-attention also those of the keys.
    """

    def __init__(self, scores: dict[str, PatternScore], model: "HookedTransformer", texts: Sequence[Tensor]):
        self.scores, self.model, self.texts = scores, model, texts
        n_prompts = len(texts[0])
        shape = (len(scores), model.cfg.n_layers, n_prompts, model.cfg.n_heads)
        self.values = torch.full(shape, torch.nan, dtype=torch.float64)
        self.scored = torch.zeros(len(scores), n_prompts, dtype=torch.bool)  # prompts with anything to score

    @classmethod
    def of(cls, names: list[str], model: "HookedTransformer", tokens: Int[Tensor, "prompt pos"]) -> "_Found":
        """Of those of the names that are scores of patterns."""
        known = _pattern_scores(model.cfg)
        return cls({name: known[name] for name in names if name in known}, model, [tokens])

    def marks(self, rows: slice) -> list[Tensor]:
        marks = [score.marks(*(text[rows] for text in self.texts)) for score in self.scores.values()]
        for i, marked in enumerate(marks):
            self.scored[i, rows] = marked.flatten(1).any(dim=1).cpu()
        return marks

    def watch(self, rows: slice) -> HookFn:
        """A hook that adds the pattern it sees."""
        marks = self.marks(rows)
        return lambda pattern, hook: self.add(hook.layer(), rows, pattern, marks)

    def add(self, layer: int, rows: slice, pattern: Tensor, marks: list[Tensor]) -> None:
        for i, (score, marked) in enumerate(zip(self.scores.values(), marks, strict=True)):
            value = attention_on(pattern, marked.to(pattern.device), score.average)
            self.values[i, layer, rows] = value.cpu().double()


def _pattern_scores(cfg: TransformerConfig) -> dict[str, PatternScore]:
    """The scores of patterns that are defined in a model's self-attention."""
    return PATTERN_SCORES if cfg.attention_dir == "causal" else BIDIRECTIONAL_SCORES


def _prompts(
    model: "HookedTransformer",
    prompt: Text | Ids | None,
    n_prompts: int | None,
    length: int | None,
    seed: int | None,
    attention_mask: AttentionMask | None,
) -> tuple[MaskedTokens, dict[str, Any]]:
    """The prompts to score on, and what to say about them."""
    if prompt is not None:
        if (n_prompts, length, seed) != (None, None, None):
            raise ConfigError("n_prompts, length and seed are those of random repeats; with prompt= they mean nothing")
        return model.masked_tokens(prompt, attention_mask), {"prompts": "given"}
    if attention_mask is not None:
        raise ConfigError("attention_mask masks padding in prompt=; random repeats have none")
    seed = 0 if seed is None else seed
    ids = repeated_tokens(model.cfg, model.tokenizer, 16 if n_prompts is None else n_prompts, length, seed)
    ids = ids.to(model.W_E.device)
    about = {"prompts": "random repeats of varied length, offset and gap", "seed": seed}
    return MaskedTokens(ids), about


def _checked_names(scores: str | Sequence[str] | None, model: "HookedTransformer") -> list[str]:
    cfg = model.cfg
    known = list(dict.fromkeys([*PATTERN_SCORES, *BIDIRECTIONAL_SCORES, *WEIGHT_SCORES]))
    # Else no logit is a token's own, or what heads write is no share of a logit.
    linear = cfg.has_unembed and not cfg.predicts_other_things and not cfg.masked_token_head
    possible = [*_pattern_scores(cfg), *(WEIGHT_SCORES if linear else ())]
    names = possible if scores is None else [scores] if isinstance(scores, str) else list(scores)
    for name in names:
        if name not in known:
            raise ConfigError(f"no score is called {name!r}; allowed: {', '.join(possible)}{did_you_mean(name, known)}")
        if name not in possible:
            _refuse(name, cfg, possible)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"scores = {names}; allowed: one or more, each once; None for all")
    if cfg.n_layers == 0:
        raise ConfigError("n_layers = 0: this model has no heads")
    return names


def _refuse(name: str, cfg: TransformerConfig, possible: list[str]) -> NoReturn:
    """Say why a score is not defined in a model."""
    if name in WEIGHT_SCORES:
        check_predicts_tokens(cfg, f"the score {name!r}")
        why = "where a masked-token head stands between heads and logits (masked_token_head = True)"
    else:
        why = f"where attention is {cfg.attention_dir}"
    raise ConfigError(f"the score {name!r} is not defined {why}; allowed: {', '.join(possible)}")


def _dataset(names: list[str], found: _Found, attrs: dict[str, Any], part: Part = "attn") -> "xr.Dataset":
    import xarray as xr

    cfg, dims, order = found.model.cfg, ("layer", "head"), list(found.scores)
    labels = head_labels(cfg, part)
    variables: dict[str, Any] = {}
    for name in names:
        if name not in found.scores:
            of, definition = WEIGHT_SCORES[name]
            # Where the stream itself is normalised, gains belong to no head.
            values = of(found.model, fold_norms=cfg.norms_reads)
            reasons = values["reason"].to_numpy()
            undefined = [f"{labels[i][h]}: {reasons[i, h]}" for i, h in np.argwhere(reasons != "").tolist()]
            about = {"definition": definition} | ({"undefined": "; ".join(undefined)} if undefined else {})
            variables[name] = (dims, values.to_numpy(), about)
            continue
        i = order.index(name)
        values = found.values[i][:, found.scored[i]]
        n = values.shape[1]
        about = {"definition": found.scores[name].definition, "n": n}
        if n == 0:
            about["undefined"] = f"everywhere: no prompt has {found.scores[name].needs}"
        error = values.std(dim=1) / n**0.5 if n > 1 else torch.full_like(found.values[i, :, 0], torch.nan)
        variables[name] = (dims, values.mean(dim=1).numpy(), about)
        variables[f"{name}_se"] = (dims, error.numpy(), {"definition": f"standard error of {name} over prompts"})
    coords = {"layer": range(cfg.n_layers), "head": range(cfg.n_heads), "label": (dims, labels)}
    n_prompts, length = found.texts[0].shape
    attrs = attrs | {"n": n_prompts, "length": length, "model": found.model.weights_hash()}
    return xr.Dataset(variables, coords, attrs)


# ---------------------------------------------------------------------- the table


@known_keywords
def score_table(
    scores: "xr.Dataset",
    sort: str | None = None,
    *,
    at_least: float | None = None,
    layer: int | Sequence[int] | None = None,
    top_k: int | None = None,
) -> "pd.DataFrame":
    """What `head_scores` found as a table with a row for every head, called "L5H3".

    Args:
        scores: from `head_scores` or `head_scores_of`.
        sort: the score to sort by, largest first (undefined ones last), beside its standard error; None keeps the
            order of the model.
        at_least: keep the heads whose score `sort` reaches this.
        layer: keep the heads of this layer or these, negative from the end.
        top_k: keep the first so many rows.

    Raises `ConfigError` for a score or layer that is not there, `top_k` below 1, or `at_least` without `sort`.
    """
    names = [str(name) for name in scores.data_vars]
    if sort is not None and sort not in names:
        raise ConfigError(f"sort = {describe(sort)}; allowed: {', '.join(names)}{did_you_mean(sort, names)}")
    if at_least is not None and sort is None:
        raise ConfigError(f"at_least = {at_least} of which score? Name it with sort=")
    top_k = None if top_k is None else check_count("top_k", top_k)
    first = [] if sort is None else [name for name in (sort, f"{sort}_se") if name in names]
    columns = ["layer", "head", *first, *(n for n in names if n not in first and not n.endswith("_se"))]
    table = scores.to_dataframe().reset_index().set_index("label").rename_axis(None).filter(columns)
    layers = [int(i) for i in table["layer"]]
    rows = list(range(len(layers)))
    if layer is not None:
        asked = cast(Sequence[int], [layer] if is_index(layer) else layer)
        kept = {layer_index(i, max(layers) + 1, "layer") for i in asked}
        rows = [row for row in rows if layers[row] in kept]
    if sort is not None:
        values = [float(value) for value in table[sort]]
        rows.sort(key=lambda row: (math.isnan(values[row]), -values[row]))
        rows = rows if at_least is None else [row for row in rows if values[row] >= at_least]
    return table.iloc[rows[:top_k]]
