"""The attention of one cell of a sweep: the run that the sweep patched, and that run with the cell patched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from interp.errors import CacheError, ConfigError, ShapeError, describe
from interp.indices import is_index
from interp.interventions import Patch
from interp.model import (
    ActivationCache,
    HookedEncoderDecoder,
    HookedTransformer,
    HookName,
    PairCache,
    SourceAndTarget,
    two_stacks,
)
from interp.plot.explorer import AttentionExplorer, attention
from interp.text import Ids, MaskedTokens, Text

if TYPE_CHECKING:
    import xarray as xr

Prompt = (
    Text | Ids | MaskedTokens | SourceAndTarget | tuple[Text | Ids | MaskedTokens, Text | Ids | MaskedTokens | None]
)
"""What the model of a sweep reads; an encoder with a decoder reads (source, target)."""

SHOWN = ("hook_pattern", "hook_attn_scores", "hook_v", "hook_scale")
AXES = {"layer": ("layer",), "pos": ("pos", "source_pos"), "head": ("head", "kv_head"), "neuron": ("neuron",)}
"""For each word of a granularity, what the axis of a result may be called; of an encoder also "encoder_layer"."""


def attention_of_cell(
    model: HookedTransformer | HookedEncoderDecoder,
    corrupted: Prompt | ActivationCache | PairCache,
    clean: Prompt | ActivationCache | PairCache,
    cell: xr.DataArray,
    **options: Any,
) -> AttentionExplorer:
    """Every head's attention before and after the patch that a cell of `sweep` measured, side by side.

    Args:
        model: that was swept, of one stack or an encoder with a decoder; neither side may be edited by a hook.
        corrupted, clean: the prompts, as in the sweep. In denoising the corrupted run is shown, and what the clean run
            had at the cell is written into it; in noising the other way round. The one that is written may be the cache
            of its run. A prompt of a sweep with a mask is what `model.masked_tokens` makes. Of `sweep_dataset` they are
            those of one pair, with `batch=0`; a position is then counted from the pair's end, as it was patched.
        cell: one number of a result of `sweep`, `sweep_sites` or `sweep_dataset`, whose coordinates and `attrs` say
            what was patched. Where it is of one prompt of several (`per_prompt=True`), this one is shown, else the
            first.
        options: of `attention`; `batch` is the prompt to show. The page opens on the head that changes most; of a site
            of an encoder beside a decoder, in the encoder.

    Raises:
        ConfigError: the cell is no single number of a sweep between two prompts, or of a column that a pair does not
            reach; the model has hooks, or a cache is of an edited run.
        CacheError: the sweep, or a cache, was of a model with other weights.
        ShapeError: there is no such prompt.

    >>> from interp.metrics import LogitDifference
    >>> from interp.patching import sweep
    >>> effect = sweep(model, corrupted, clean, LogitDifference("Mary", "John"), "resid_pre", progress=False)
    >>> attention_of_cell(model, corrupted, clean, effect.sel(layer=1, pos=5)).to_html("cell.html")
    """
    about, axes = _about(cell), _place(cell)
    if hooked := [name for name, point in model.hook_points.items() if point.hooks]:
        raise ConfigError(f"the model has hooks, at {hooked[0]!r} first, and the sweep had none: leave the with block, "
                          "or call reset_hooks()")  # fmt: skip
    if about["model"] != model.weights_hash():
        raise CacheError("the sweep was of a model with other weights")
    prompts = {"corrupted": corrupted, "clean": clean}
    shown, source = prompts if about["direction"] == "denoising" else reversed(prompts)
    batch, running = options.pop("batch", int(cell.coords.get("prompt", 0))), cast(Any, model)
    read, written = _read(model, prompts[shown], shown, batch), prompts[source]
    if "pos" in axes and "n_pos" in about and isinstance(read, MaskedTokens):
        axes["pos"] = _in_pair(axes["pos"], int(about["n_pos"]), read)
    *parts, short = about["site"].split(".")
    site = (short, *parts) if parts else short
    with torch.no_grad():
        if not isinstance(written, ActivationCache | PairCache):
            names = [(short, axes["layer"], *parts)]
            _, written = running.run_with_cache(_read(model, written, source, batch), names_filter=names)
        elif written.edited:
            raise ConfigError(f"{source} is the cache of a run that hooks edited; the sweep wrote one that none did")
        else:
            written = written.slice(batch=batch)
        _, before = running.run_with_cache(read, names_filter=_is_shown)
        with model.intervene(Patch(written, site=site, **_address(model, short, parts, axes))):
            _, after = running.run_with_cache(read, names_filter=_is_shown)
    place = ", ".join(f"{word} {at}" for word, at in axes.items())
    title = f"Attention before and after {about['site']} of the {source} run is written in at {place}"
    given: dict[str, Any] = {"title": title, "run_names": (shown, "patched"), "run": "side by side"}
    if isinstance(read, SourceAndTarget):
        given |= {"tokens": read.target.ids, "source_tokens": read.source.ids}
        given |= {"stack": "encoder"} if about["stack"] == "encoder" else {}
    else:
        given["tokens"] = read.ids
    return attention(before, patched=after, **given | options)


def _about(cell: Any) -> Mapping[str, Any]:
    """The `attrs` of a cell. Raises `ConfigError` for what is no number of a sweep between two prompts."""
    about = getattr(cell, "attrs", {})
    said = {"site", "direction", "granularity", "ablation", "edited", "model"}
    of_sweep = said <= set(about) and about["direction"] in ("denoising", "noising")
    if getattr(cell, "dims", None) != () or not of_sweep:
        raise ConfigError(f"cell = {describe(cell)}; allowed: one number of a sweep, such as result.sel(layer=3)")
    if about["ablation"] != "none" or about["edited"]:
        raise ConfigError("cell is of an ablation or of an edited run; allowed: of a sweep between two prompts")
    return about


def _place(cell: xr.DataArray) -> dict[str, int]:
    """The index of the cell by each word of its granularity. Raises `ConfigError` where a coordinate is gone."""
    found = {}
    for word in cell.attrs["granularity"].split():
        names = [start + name for name in AXES[word] for start in ("", "encoder_")]
        if (name := next((name for name in names if name in cell.coords), None)) is None:
            raise ConfigError(f"cell has lost its coordinate {names[0]!r}, which says what was patched; "
                              "choose it without drop=True")  # fmt: skip
        found[word] = int(cell[name])
    return found


def _in_pair(column: int, n_pos: int, read: MaskedTokens) -> int:
    """Where a column of the batch of all pairs, padded on the left to `n_pos`, is in one of them.

    Raises `ConfigError` for one that the pair does not reach, where nothing was patched in it.
    """
    tokens = read.is_token[0].nonzero().flatten().tolist()
    missing = n_pos - len(tokens)
    if not 0 <= column - missing < len(tokens):
        raise ConfigError(f"cell is of position {column} of {n_pos}, and this pair has {len(tokens)} tokens, the first "
                          f"at {missing}: nothing was patched there in it")  # fmt: skip
    return tokens[column - missing]


def _read(
    model: HookedTransformer | HookedEncoderDecoder, prompt: Any, name: str, batch: int
) -> MaskedTokens | SourceAndTarget:
    """What a run of the model on one of the prompts reads.

    Raises `ConfigError` for a cache, or for no pair of prompts where these are read; `ShapeError` for no such prompt.
    """
    if isinstance(prompt, ActivationCache | PairCache):
        raise ConfigError(f"{name} is a cache, but this run is patched; give the prompt")
    if (both := two_stacks(model)) is None:
        read = cast(HookedTransformer, model).masked_tokens(prompt)
    elif isinstance(prompt, SourceAndTarget):
        read = prompt
    elif isinstance(prompt, tuple) and len(prompt) == 2:
        read = both.masked_tokens(*prompt)
    else:
        raise ConfigError(f"{name} = {describe(prompt)}; an encoder with a decoder reads (source, target)")
    n = len(read)
    if not is_index(batch) or not -n <= batch < n:
        raise ShapeError(f"batch = {describe(batch)}; allowed: {-n} to {n - 1}")
    return read[batch % n : batch % n + 1]


def _address(
    model: HookedTransformer | HookedEncoderDecoder, short: str, parts: list[str], axes: dict[str, int]
) -> dict[str, int]:
    """The words of an intervention for a place; positions of the source at keys of cross-attention are `key_pos`."""
    name = model.resolve_hooks(cast(HookName, (short, axes["layer"], *parts)))[0]
    of_source = not {"pos", "query_pos"} & set(model.hook_points[name].axes)
    return {"key_pos" if word == "pos" and of_source else word: at for word, at in axes.items()}


def _is_shown(name: str) -> bool:
    return name.endswith(SHOWN)
