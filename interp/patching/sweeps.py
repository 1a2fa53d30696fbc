"""Activation patching: what changes when a run gets a part of another run's activations.

Two prompts differ in one respect: the *clean* one shows a behaviour, the *corrupted* one does not. *Denoising* runs the
corrupted prompt and restores clean activations, place by place: what suffices to bring the behaviour back? *Noising*
runs the clean prompt and writes corrupted ones (or zeros, means, other prompts'): what is necessary? Redundant parts
hide from noising, parts that need each other from denoising (Heimersheim & Nanda 2024, section 2), so look at both.

`sweep` does this for every layer, position, head or neuron of a site; `packed.py` has the engine that makes it cheap.
Its results equal those of a loop over single runs with a hook, up to rounding.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, HookNotFoundError
from interp.files import atomic_path
from interp.interventions import Index, Values
from interp.metrics import Function, KLDivergence, Metric, MetricPlan
from interp.model import ActivationCache, signature
from interp.patching.packed import Rows, Walk
from interp.patching.pairs import Direction, Pair, Runs, Source, at
from interp.patching.plan import Granularity, Place, Plan
from interp.progress import progress_bar
from interp.results import Axis, check_confidence, labelled, position_labels
from interp.text import AttentionMask

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Metrics = Metric | Callable[[Tensor], Any] | Mapping[str, Metric | Callable[[Tensor], Any]]
"""One, or several by name."""

SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "result")
"""The usual ones; a sweep takes any hook point that every block has."""

GIGABYTE = 10**9


@torch.no_grad()
def sweep(
    model: "HookedTransformer",
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    site: str = "resid_pre",
    over: Sequence[Granularity] = ("layer", "pos"),
    *,
    direction: Direction | None = None,
    normalize: bool = False,
    layers: Index = None,
    positions: Index = None,
    heads: Index = None,
    neurons: Index = None,
    attention_mask: AttentionMask | None = None,
    per_prompt: bool = False,
    confidence: float = 0.95,
    max_bytes: int = 2 * GIGABYTE,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> "xarray.DataArray":
    """Patch every place of a site, one at a time, and measure.

    Args:
        corrupted, clean: the two prompts (text, several texts, ids). The one whose activations are written may also be
            an `ActivationCache` of its run; in place of a corrupted prompt, `Zero()`, `Mean(cache)` or
            `Resample(cache)` write what these say.
        metric: of the patched run: one of `interp.metrics`, a function of the logits, or several by name.
        site: short name of a hook point: resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, pattern, result, post,
            or any other that every block has.
        over: what is patched at a time: the site in one layer ("layer"), at one position ("pos"; of a pattern: one
            query's row), of one head ("head"; of k and v: a key-value head), of one neuron ("neuron"; site "post").
            What is left out is patched at all its places together.
        direction: "denoising" runs the corrupted prompt, "noising" the clean one; by default the first, or the
            second with `Zero()` and the like.
        normalize: effects as fractions, 0 for the run as it is and 1 for the other prompt's; over several prompts,
            fractions of the mean gap.
        layers, positions, heads, neurons: only these; None for all.
        attention_mask: of ids that are padded.
        per_prompt: keep a first axis `prompt` instead of the mean over prompts.
        confidence: of the interval around the mean (Student's t over prompts).
        max_bytes: memory that the rows may take beside the model and the cached runs.
        progress: show a bar on a terminal.
        checkpoint: a file that keeps what is done, written every few percent; the same call goes on from there.

    Returns:
        Values over `over`, in that order, with a first axis `metric` where several were given by name. Coordinates:
        indices, and beside `pos` the run's tokens as `token`; with several prompts `ci_low` and `ci_high`. `attrs`:
        metric, direction, ablation, site, granularity, n (prompts), normalized, the metric of the run as it is
        (`baseline`) and of the other prompt (`target`), the model's hash.

    Raises, before any patched run:
        ConfigError: an unknown site, granularity or direction, an index out of range, a model with hooks, a source
            that the direction cannot use, a budget too small for one row.
        ShapeError: prompts of unequal shape, positions that the metric cannot read, a metric of the wrong shape.
        TokenError: an answer that is not one token.
        CacheError: a cache of another model, or of the same before its weights changed.
        HookNotFoundError: a cache without the site, or without the last stream that `normalize` needs.
        CheckpointError: a checkpoint of another sweep.
    """
    pair = Pair.of(model, corrupted, clean, direction, attention_mask)
    place = Place.of(model, site, over, pair.prompts.ids.shape[1], layers, positions, heads, neurons)
    runs = pair.run(place.names, target=normalize)
    plan = Plan.of(runs, place, max_bytes, many=checkpoint is not None)
    return _sweep(plan, metric, normalize, per_prompt, confidence, max_bytes, progress, checkpoint)


@torch.no_grad()
def every(
    model: "HookedTransformer",
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    sites: Mapping[str, Sequence[Granularity]] | Sequence[str] | None = None,
    *,
    direction: Direction | None = None,
    normalize: bool = False,
    attention_mask: AttentionMask | None = None,
    per_prompt: bool = False,
    confidence: float = 0.95,
    max_bytes: int = 2 * GIGABYTE,
    progress: bool = True,
) -> "xarray.Dataset":
    """A sweep of several sites in one call, a variable each; the prompts themselves run once.

    Args:
        sites: names, or granularities by name. By default all of `SITES` that the model has; sites with heads over
            layer and head, the others over layer and position.

    It costs as much as its sweeps together: a patched run for each prompt and place of each site, which takes minutes
    where layers, heads and prompts are many. Name the `sites` that are wanted, and try few prompts first.

    The other arguments, and what is raised, are as for `sweep`. Key-value heads have an axis of their own, `kv_head`;
    intervals are variables too, such as `z_ci_low`.
    """
    import xarray

    pair = Pair.of(model, corrupted, clean, direction, attention_mask)
    sites = [sites] if isinstance(sites, str) else sites
    if not isinstance(sites, Mapping):
        sites = {site: _usual(model, site) for site in (sites or [s for s in SITES if _has(model, s)])}
    places = {site: Place.of(model, site, over, pair.prompts.ids.shape[1]) for site, over in sites.items()}
    names = list(dict.fromkeys(name for place in places.values() for name in place.names))
    runs = pair.run(names, target=normalize)
    plans = {site: Plan.of(runs, place, max_bytes, many=False) for site, place in places.items()}
    options = (normalize, per_prompt, confidence, max_bytes, progress, None)
    found: dict[str, xarray.DataArray] = {}
    for site, plan in plans.items():
        effect = _sweep(plan, metric, *options)
        bounds = [str(name) for name in effect.coords if str(name).startswith("ci_")]
        found |= {site: effect.drop_vars(bounds)} | {f"{site}_{b}": effect[b].drop_vars(bounds) for b in bounds}
    return xarray.Dataset(found)


def as_named(metric: Metrics) -> tuple[dict[str, Any], list[str] | None]:
    """Metrics by name, and the names where the caller gave them. Raises `ConfigError` for none at all."""
    if not isinstance(metric, Mapping):
        return {"": metric}, None
    if not metric:
        raise ConfigError("metric = {}: at least one is needed")
    return dict(metric), list(metric)


def _has(model: "HookedTransformer", site: str) -> bool:
    try:
        model.resolve_hooks((site, 0))
    except HookNotFoundError:
        return False
    return True


def _usual(model: "HookedTransformer", site: str) -> tuple[Granularity, ...]:
    axes = model.hook_points[model.resolve_hooks((site, 0))[0]].axes
    return ("layer", "head") if {"head", "kv_head"} & set(axes) else ("layer", "pos")


# ---------------------------------------------------------------------- one sweep


def _sweep(
    plan: Plan,
    metric: Metrics,
    normalize: bool,
    per_prompt: bool,
    confidence: float,
    max_bytes: int,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> "xarray.DataArray":
    check_confidence(confidence)
    runs, place = plan.runs, plan.place
    metrics, names = as_named(metric)
    readings = [runs.planned(m) for m in metrics.values()]
    baseline = torch.stack([runs.whole_run(reading, runs.base.final) for reading in readings])
    target = None
    if runs.final is not None:
        target = torch.stack([runs.whole_run(reading, runs.final) for reading in readings])
        gap = (target - baseline).mean(dim=1)
        if normalize and not (gap.abs() > 1e-6 * (1 + target.abs().mean(dim=1))).all():
            raise ConfigError(f"normalize = True, but both prompts give the same metric, {_plain(baseline)}")
    values = baseline[:, :, None].repeat(1, 1, math.prod(place.shape))  # [metric batch cell]
    saved = None if checkpoint is None else _Saved(checkpoint, plan, metrics, baseline)
    done = 0 if saved is None else saved.restore(values)
    with progress_bar(f"patching {place.site}", plan.work(done), progress) as advance:
        walk = Walk(runs.base, plan.names.__getitem__, plan.written, advance, plan.slab)
        for number in range(done, len(plan.chunks)):
            if joining := plan.joining(number):
                _measure(runs, readings, walk.run(joining), values, max_bytes)
            if saved is not None:
                saved.keep(values, number + 1)
    if normalize and target is not None:
        values = (values - baseline[:, :, None]) / (target - baseline).mean(dim=1)[:, None, None]
    about = _about(plan, readings, baseline, target) | {"normalized": int(normalize)}
    axes = _axes(plan)
    cells = values.unflatten(2, [len(axis.indices) for axis in axes.values()])
    result = labelled(cells, list(axes.values()), names, per_prompt, confidence, about)
    return result.transpose("metric", "prompt", *(axes[word].name for word in place.over), missing_dims="ignore")


def _measure(
    runs: Runs,
    readings: list[MetricPlan],
    groups: list[Rows],
    values: Float[Tensor, "metric batch cell"],
    max_bytes: int,
) -> None:
    """Write each row's metrics into `values`."""
    for reading, of_metric in zip(readings, values, strict=True):
        base = at(runs.base.final, reading.positions)
        if reading.whole_batch:  # one run of every prompt at once: those that a patch does not change are as they were
            streams = {cell: base.clone() for rows in groups for cell in rows.cells.tolist()}
            for rows in groups:
                for cell, stream in zip(rows.cells.tolist(), _at_read(rows, base, reading), strict=True):
                    streams[cell][rows.prompt] = stream
            prompts = torch.arange(len(base), device=base.device)
            for cell, stream in streams.items():
                of_metric[:, cell] = runs.measure(reading, stream, prompts)
            continue
        logits = reading.positions.shape[1] * runs.base.model.cfg.d_vocab_out * base.element_size()
        at_once = max(1, max_bytes // (8 * logits))
        for rows in groups:
            stream = _at_read(rows, base, reading)
            for cells, part in zip(rows.cells.split(at_once), stream.split(at_once), strict=True):
                prompts = torch.full_like(cells, rows.prompt)
                of_metric[rows.prompt, cells] = runs.measure(reading, part, prompts)


def _at_read(
    rows: Rows, base: Float[Tensor, "batch read d_model"], reading: MetricPlan
) -> Float[Tensor, "row read d_model"]:
    """The last stream where a metric reads: the rows' own from `start` on, the base run's before."""
    positions = reading.positions[rows.prompt]
    own = rows.stream[:, (positions - rows.start).clamp(min=0)]
    return torch.where((positions >= rows.start)[:, None], own, base[rows.prompt])


def _about(
    plan: Plan, readings: list[MetricPlan], baseline: Float[Tensor, "metric batch"], target: Tensor | None
) -> dict[str, object]:
    """What a result says of itself."""
    runs, place = plan.runs, plan.place
    about: dict[str, object] = {
        "metric": "; ".join(reading.name for reading in readings),
        "direction": runs.pair.direction,
        "ablation": "none" if runs.ablation is None else repr(runs.ablation),
        "site": place.site,
        "granularity": " ".join(place.over),
        "positions": "together" if place.positions is None else " ".join(map(str, place.positions)),
        "n": len(runs.base.prompts.ids),
        "edited": int(isinstance(runs.pair.source, ActivationCache) and runs.pair.source.edited),
        "baseline": _plain(baseline),
        "model": runs.base.model.weights_hash(),
    }
    return about if target is None else about | {"target": _plain(target)}


def _axes(plan: Plan) -> dict[Granularity, Axis]:
    """The axes of the cells, by the word that asked for each."""
    runs, place = plan.runs, plan.place
    axes: dict[Granularity, Axis] = {"layer": Axis("layer", place.layers)}
    if place.positions is not None:
        tokens = position_labels(runs.base.model, runs.base.prompts.ids)
        axes["pos"] = Axis("pos", place.positions, ("token", [tokens[i] for i in place.positions]))
    if place.parts is not None and place.part_axis is not None:
        axes["neuron" if place.part_axis == "neuron" else "head"] = Axis(place.part_axis, place.parts)
    return axes


def _plain(of_prompts: Float[Tensor, "metric batch"]) -> float | list[float]:
    means = of_prompts.mean(dim=1).tolist()
    return means[0] if len(means) == 1 else means


def _told(metric: Any) -> str:
    """What a metric is, in words that mean the same in another process: a function by its name and its code."""
    if isinstance(metric, KLDivergence) and isinstance(metric.reference, Tensor):
        return f"KLDivergence({Values({'reference': metric.reference}).digest}, {metric.pos})"
    fn, pos = (metric.fn, metric.pos) if isinstance(metric, Function) else (metric, None)
    if isinstance(fn, Metric):
        return repr(fn)
    code = getattr(fn, "__code__", None)
    body = "" if code is None else f"{code.co_code.hex()} {code.co_consts} {code.co_names}"
    return f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)} {body} {pos}"


class _Saved:
    """What a sweep has done so far, in a file."""

    def __init__(self, path: str | os.PathLike[str], plan: Plan, metrics: Mapping[str, Any], baseline: Tensor):
        self.path = Path(path)
        place, base = plan.place, plan.runs.base
        told: list[Any] = [place.site, place.over, place.layers, place.positions, place.parts, str(plan.chunks)]
        told += [plan.runs.pair.direction, signature(base.model), base.prompts.ids.tolist()]
        told += [
            None if base.prompts.attention_mask is None else base.prompts.attention_mask.tolist(),
            {n: _told(m) for n, m in metrics.items()},
        ]
        written = {point.name: plan.runs.other(point.name) for point in place.points}
        told += [Values(written | {"final": base.final, "baseline": baseline}).digest]
        self.key = hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def restore(self, values: Float[Tensor, "metric batch cell"]) -> int:
        """Fill in what the file has; how many chunks that are. Raises `CheckpointError` for another sweep's file."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            self.keep(values, 0)  # a path that cannot be written to fails now
            return 0
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                key, done, kept = about["sweep"], int(about["done"]), file.get_tensor("values")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read as the checkpoint of a sweep: {error!r}") from error
        if key != self.key or kept.shape != values.shape:
            raise CheckpointError(
                f"{self.path} is the checkpoint of another sweep (other weights, prompts, site, metric or max_bytes); "
                "give another path, or remove it"
            )
        values.copy_(kept)
        return done

    def keep(self, values: Float[Tensor, "metric batch cell"], done: int) -> None:
        """Write the file anew."""
        from safetensors.torch import save_file

        with atomic_path(self.path) as file:
            save_file({"values": values.contiguous()}, file, metadata={"sweep": self.key, "done": str(done)})
