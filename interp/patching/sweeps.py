"""Activation patching: what changes when a run gets a part of another run's activations.

Two prompts differ in one respect: the *clean* one shows a behaviour, the *corrupted* one does not. *Denoising* runs the
corrupted prompt and restores clean activations, place by place: what suffices to bring the behaviour back? *Noising*
runs the clean prompt and writes corrupted ones (or zeros, means, other prompts'): what is necessary? Redundant parts
hide from noising, parts that need each other from denoising (Heimersheim & Nanda 2024, section 2), so look at both.

`sweep` does this for every layer, position, head or neuron of a site; `packed.py` has the engine that makes it cheap.
Its results equal those of a loop over single runs with a hook, up to rounding.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import HookNotFoundError
from interp.interventions import Index
from interp.keywords import known_keywords
from interp.model import HookName, in_stack, two_stacks
from interp.patching.measure import Measurement, Metrics, Numbers, measure_rows
from interp.patching.options import Settings, SweepOptions
from interp.patching.pairs import PromptPair
from interp.patching.plan import Granularity, Site, SweepPlan, SweepSite, site_name
from interp.patching.prompts import AnyStacks, Source
from interp.patching.resume import ResumeFile, question_of
from interp.progress import progress_bar
from interp.results import Axis, as_variables, position_labels

if TYPE_CHECKING:
    import xarray

OF_HEADS = ("z", "q", "k", "v", "pattern", "result")
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", *OF_HEADS)
"""The usual ones; a sweep takes any hook point that every block has."""


@torch.no_grad()
@known_keywords
def sweep(
    model: AnyStacks,
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    site: Site = "resid_pre",
    over: Sequence[Granularity] = ("layer", "pos"),
    *,
    layers: Index = None,
    positions: Index = None,
    heads: Index = None,
    neurons: Index = None,
    **options: Unpack[SweepOptions],
) -> "xarray.DataArray":
    """Patch every place of a site, one at a time, and measure.

    Args:
        corrupted, clean: the two prompts (text, several texts, ids). The one whose activations are written may also be
            an `ActivationCache` of its run; in place of a corrupted prompt, `Zero()`, `Mean(cache)` or
            `Resample(cache)` write what these say. A prompt of an encoder with a decoder is (source, target), or a
            `SourceAndTarget`, which brings masks; a cache of it is a `PairCache`.
        metric: of the patched run: one of `interp.metrics`, a function of the logits, or several by name.
        site: short name of a hook point: resid_pre, resid_mid, attn_out, mlp_out, z, q, k, v, pattern, result, post,
            or any other that every block has. Where cross-attention has one as well, ("z", "cross_attn") is that;
            where both stacks have one, ("z", "encoder") and ("z", "decoder").
        over: what is patched at a time: the site in one layer ("layer"), at one position ("pos"; of a pattern: one
            query's row; of keys and values of cross-attention: one of the source), of one head ("head"; of k and v: a
            key-value head), of one neuron ("neuron"; site "post").
            What is left out is patched at all its places together.
        layers, positions, heads, neurons: only these; None for all.
        options: direction, effects, normalize, attention_mask, per_prompt, confidence, max_bytes, progress and
            checkpoint; see `SweepOptions`.

    Returns:
        Values over `over`, in that order, with a first axis `metric` where several were given by name. Coordinates:
        indices, and beside `pos` the run's tokens as `token`; with several prompts `ci_low` and `ci_high`. Sites of
        the encoder have the source's tokens, and so have keys and values of cross-attention, whose axis is
        `source_pos`. `attrs`: stack (of a model of two), metric, values (whether these are the "metric", an "effect" or
        a "fraction"), direction, ablation, site, granularity, positions, n (prompts), the metric of the run as it is
        (`baseline`) and of the other prompt (`target`), the model's hash.

    Raises, before any patched run:
        ConfigError: an unknown site, granularity or direction, an index out of range, a model with hooks, a source
            that the direction cannot use, a budget too small for one row, with `checkpoint` a metric that cannot be
            told from others in another process.
        ShapeError: prompts of unequal shape, positions that the metric cannot read, a metric of the wrong shape.
        TokenError: an answer that is not one token.
        CacheError: a cache of another model, or of the same before its weights changed.
        HookNotFoundError: a cache without the site, or without the last stream that `normalize` needs.
        CheckpointError: a checkpoint of another sweep.
    """
    settings = Settings.of(options)
    pair = PromptPair.of(model, corrupted, clean, settings.direction, settings.attention_mask)
    place = SweepSite.of(model, site, over, pair.n_pos, layers, positions, heads, neurons, pair.n_source)
    return _sweeps(pair, {place.site: place}, metric, settings)[place.site]


@torch.no_grad()
@known_keywords
def sweep_sites(
    model: AnyStacks,
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    sites: Mapping[Site, Sequence[Granularity]] | Sequence[Site] | None = None,
    **options: Unpack[SweepOptions],
) -> "xarray.Dataset":
    """A sweep of several sites in one call, a variable each; the prompts themselves run once.

    Args:
        sites: names, or granularities by name. By default all of `SITES` that the model has, of two stacks those of
            each, and of cross-attention; sites with heads over layer and head, the others over layer and position.

    It costs as much as its sweeps together: a patched run for each prompt and place of each site, which takes minutes
    where layers, heads and prompts are many. Name the `sites` that are wanted, and try few prompts first.

    The other arguments, and what is raised, are as for `sweep`. Key-value heads have an axis of their own, `kv_head`;
    intervals are variables too, such as `z_ci_low`. A site with a part or a stack is the variable "cross_attn.z" or
    "encoder.z". Axes of the encoder have names of their own (`encoder_layer`, `encoder_head`, ...), and so have
    positions of the source: `source_pos`, with `source_token`.

    >>> from interp.metrics import LogitDifference
    >>> metric = LogitDifference("Mary", "John")
    >>> found = sweep_sites(model, corrupted, clean, metric, ["z", "resid_pre"], progress=False)
    >>> found["z"].dims, found["resid_pre"].dims
    (('layer', 'head'), ('layer', 'pos'))
    """
    import xarray

    settings = Settings.of(options)
    pair = PromptPair.of(model, corrupted, clean, settings.direction, settings.attention_mask)
    if not isinstance(sites, Mapping):
        named = [sites] if isinstance(sites, str) else sites or _all_sites(model)
        sites = {site: _usual(model, site) for site in named}
    places = {
        site_name(site): SweepSite.of(model, site, over, pair.n_pos, n_source=pair.n_source)
        for site, over in sites.items()
    }
    found: dict[str, xarray.DataArray] = {}
    for site, effect in _sweeps(pair, places, metric, settings).items():
        found |= as_variables(site, _among_others(effect, places[site]))
    return xarray.Dataset(found)


def _all_sites(model: AnyStacks) -> list[Site]:
    """The usual sites that it has, stack by stack."""
    sites: list[Site] = list(SITES)
    if two_stacks(model) is not None:
        sites = [(site, stack) for stack in ("encoder", "decoder") for site in SITES]
    of_memory: list[Site] = ["resid_cross", "cross_attn_out", *((site, "cross_attn") for site in OF_HEADS)]
    return [site for site in (*sites, *of_memory) if _has(model, site)]


def _has(model: AnyStacks, site: Site) -> bool:
    try:
        stack, (short, *part) = model.stack_of(site)
        stack.resolve_hooks(cast(HookName, (short, 0, *part)))
    except HookNotFoundError:
        return False
    return True


def _usual(model: AnyStacks, site: Site) -> tuple[Granularity, ...]:
    stack, (short, *part) = model.stack_of(site)
    axes = stack.hook_points[stack.resolve_hooks(cast(HookName, (short, 0, *part)))[0]].axes
    return ("layer", "head") if {"head", "kv_head"} & set(axes) else ("layer", "pos")


def _among_others(effect: "xarray.DataArray", site: SweepSite) -> "xarray.DataArray":
    """A result whose axes differ by name where they are not those of the other stack's results."""
    renamed = {"token": "source_token", "pos": "source_pos"} if site.of_source else {}
    if site.of_encoder:
        renamed |= {str(dim): f"encoder_{dim}" for dim in effect.dims if dim in ("layer", "head", "kv_head", "neuron")}
    return effect.rename({old: new for old, new in renamed.items() if old in effect.coords or old in effect.dims})


# ---------------------------------------------------------------------- sweeps of one pair


def _sweeps(
    pair: PromptPair, sites: Mapping[str, SweepSite], metric: Metrics, settings: Settings
) -> "dict[str, xarray.DataArray]":
    """A result for each site."""
    measured, values = measure_sites(pair, sites, metric, settings)
    about = measured.about()
    return {
        name: site_result(
            measured.numbers(values[name]), site, labels_along(pair, site), measured.names, settings, about
        )
        for name, site in sites.items()
    }


def labels_along(pair: PromptPair, site: SweepSite) -> list[str] | None:
    """What stands at each position of a site; None at those of a memory whose source is not known."""
    if not site.of_source:
        return position_labels(pair.model, pair.prompts)
    return None if pair.both is None else position_labels(pair.both.model.encoder, pair.both.read.source)


def measure_sites(
    pair: PromptPair, sites: Mapping[str, SweepSite], metric: Metrics, settings: Settings
) -> tuple[Measurement, dict[str, Float[Tensor, "metric batch cell"]]]:
    """The metrics of the run as it is, and those of every patched run by site."""
    names = list(dict.fromkeys(name for site in sites.values() for name in site.names))
    runs = pair.run(names, target=settings.normalize)
    plans = {name: SweepPlan.of(runs, site, settings.max_bytes) for name, site in sites.items()}
    measured = Measurement.of(runs, metric, settings)
    values = {  # as long as a cell is not run, that of the run as it is
        name: measured.baseline[:, :, None].repeat(1, 1, len(plan.carried)) for name, plan in plans.items()
    }
    asked = {} if settings.checkpoint is None else question_of(measured, names, {"sites": _asked(sites)})
    file = ResumeFile(settings.checkpoint, asked, values)
    done = file.restore()
    for name, plan in plans.items():
        portions = plan.portions(done[name], many=settings.checkpoint is not None)
        work = sum(plan.work(cells) for cells in portions)
        with progress_bar(f"patching {plan.site.site}", work, settings.progress) as advance:
            packed = plan.packed(advance, measured.read)
            for cells in portions:
                rows = packed.run(plan.joining(cells))
                measure_rows(measured, rows, values[name])
                file.keep(name, cells)
    return measured, values


def _asked(sites: Mapping[str, SweepSite]) -> list[list[object]]:
    """Which cells there are; in which order a result has its axes does not matter."""
    return [[s.site, sorted(s.over), s.layers, s.positions, s.parts] for s in sites.values()]


def site_result(
    numbers: Numbers,
    site: SweepSite,
    labels: list[str] | None,
    metrics: list[str] | None,
    settings: Settings,
    about: Mapping[str, object],
) -> "xarray.DataArray":
    """What was measured at the cells of a site, as a result; `labels` say what stands at each position."""
    of_site = {
        "site": site.site,
        "granularity": " ".join(site.over),
        "positions": "together" if site.positions is None else " ".join(map(str, site.positions)),
    }
    if (stack := in_stack(site.names[0])[0]) is not None:
        of_site["stack"] = stack
    axes = _axes(site, labels)
    result = numbers.result(list(axes.values()), metrics, settings, {**about, **of_site})
    return result.transpose("metric", "prompt", *(axes[word].name for word in site.over), missing_dims="ignore")


def _axes(site: SweepSite, labels: list[str] | None) -> dict[Granularity, Axis]:
    """The axes of the cells, by the word that asked for each."""
    axes: dict[Granularity, Axis] = {"layer": Axis("layer", site.layers)}
    if site.positions is not None:
        tokens = None if labels is None else ("token", [labels[i] for i in site.positions])
        axes["pos"] = Axis("source_pos" if site.points[0].of_memory else "pos", site.positions, tokens)
    if site.parts is not None and site.part_axis is not None:
        axes["neuron" if site.part_axis == "neuron" else "head"] = Axis(site.part_axis, site.parts)
    return axes
