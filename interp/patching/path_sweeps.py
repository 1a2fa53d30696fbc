"""Path patching: the effect of one component on another, and of chains of them.

Components are written as in the tables of this package: `L5H3` is a head's write to the stream, `L5.mlp` an MLP's,
`embed` the token embedding. What reads the stream: `L9H6.q`, `L9H6.k`, `L9H6.v` (a key-value head where these are
shared), `L9.mlp`, and `logits`. Two forms are in use:

- `path_sweep`, *sender to receivers* (Wang et al. 2022, section 3.1): the sender's write is replaced, all other heads
  stay as they were in the run that is patched, and MLPs react or not (`mlps`). What reaches the receivers' inputs this
  way is then written there in a run in which everything else is live.
- `path_tree`, *the full tree of paths* (Goldowsky-Dill et al. 2023, section 3): only the named paths carry the
  replaced activations; every component on a path is computed anew from an input in which nothing but the edge from its
  predecessor on that path differs, so that two paths through one component do not mix.

Norms are computed anew from what they read (`norms="live"`), or keep the scales they had (`"frozen"`), which makes
them linear.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, check_choice, describe, did_you_mean
from interp.metrics import MetricPlan
from interp.model import HookPair, HookPoint, SideInputs, layer_of
from interp.patching.nodes import Node
from interp.patching.pairs import Direction, Pair, Runs, Source
from interp.patching.sweeps import GIGABYTE, Metrics, as_named
from interp.progress import progress_bar
from interp.results import Axis, check_confidence, labelled
from interp.text import AttentionMask

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Reaction = Literal["live", "frozen"]


# ---------------------------------------------------------------------- sender to receivers


@torch.no_grad()
def path_sweep(
    model: "HookedTransformer",
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    receivers: str | Sequence[str],
    senders: Literal["heads", "mlps"] | Sequence[str] = "heads",
    *,
    mlps: Reaction = "live",
    norms: Reaction = "live",
    direction: Direction = "noising",
    attention_mask: AttentionMask | None = None,
    per_prompt: bool = False,
    confidence: float = 0.95,
    max_bytes: int = 2 * GIGABYTE,
    progress: bool = True,
) -> "xarray.DataArray":
    """The effect of every sender on the metric by way of the receivers.

    Args:
        corrupted, clean, metric: as for `patching.sweep`.
        receivers: one or several of `L9H6.q`, `.k`, `.v`, `L9.mlp`; or "logits" alone, for direct effects.
        senders: "heads", "mlps", or a list of names.
        mlps: whether MLPs between sender and receivers react.
        norms: whether norms are computed anew, here and in the second run.
        direction: "noising" writes corrupted activations into the clean run, "denoising" the reverse.
        attention_mask, per_prompt, confidence, max_bytes, progress: as for `patching.sweep`.

    Returns:
        Values over (layer, head), (layer,) or (sender,); NaN for a sender that no receiver reads.

    Raises as `patching.sweep`; `HookNotFoundError` for an unknown component, `ConfigError` for receivers that cannot
    be combined.
    """
    check_confidence(confidence)
    check_reactions(mlps=mlps, norms=norms)
    pair = Pair.of(model, corrupted, clean, direction, attention_mask)
    targets = [Node.of(name, model) for name in _several(receivers)]
    sources, axes = _senders(senders, model)
    _check_receivers(targets)
    metrics, names = as_named(metric)
    runs = pair.run(needed_points(model))
    readings = [runs.planned(m) for m in metrics.values()]
    final_norm = final_norm_of(runs, norms)
    paths = _Paths(runs, targets, mlps, norms)
    values = runs.base.final.new_full((len(readings), len(pair.prompts), len(sources)), math.nan)
    portions = list(paths.portions(sources, max_bytes))
    with progress_bar("patching paths", len(portions), progress) as advance:
        for portion in portions:
            final = paths.final(portion)  # [sender batch pos d_model]
            for i, reading in enumerate(readings):
                for sender, stream in zip(portion, final, strict=True):
                    values[i, :, sources.index(sender)] = runs.whole_run(reading, stream, final_norm)
            advance(1)
    about = about_paths(runs, readings, mlps, norms) | {
        "granularity": "senders to receivers",
        "receivers": " ".join(map(str, targets)),
    }
    cells = values.unflatten(2, [len(axis.indices) for axis in axes])
    return labelled(cells, axes, names, per_prompt, confidence, about)


def _several(names: object) -> list[str]:
    return list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [cast(str, names)]


def _senders(senders: str | Sequence[str], model: "HookedTransformer") -> tuple[list[Node], list[Axis]]:
    layers, heads = list(range(model.cfg.n_layers)), list(range(model.cfg.n_heads))
    if senders == "heads":
        return [Node("head", i, h) for i in layers for h in heads], [Axis("layer", layers), Axis("head", heads)]
    if senders == "mlps":
        if model.cfg.attn_only:
            raise ConfigError("senders = 'mlps': this model has no MLPs")
        return [Node("mlp", i) for i in layers], [Axis("layer", layers)]
    if isinstance(senders, str):
        near = did_you_mean(senders, ["heads", "mlps"])
        known = "'heads', 'mlps', or a list such as ['L0H1', 'L2.mlp']"
        raise ConfigError(f"senders = {describe(senders)}; allowed: {known}{near}")
    nodes = [Node.of(name, model) for name in senders]
    if not nodes or len(set(nodes)) < len(nodes):
        raise ConfigError(f"senders = {describe(senders)} names nothing, or something twice")
    for node in nodes:
        if node.kind == "logits" or node.reads:
            raise ConfigError(f"{node} does not write to the stream; senders are such as 'L0H1', 'L2.mlp' or 'embed'")
    return nodes, [Axis("sender", list(range(len(nodes))), ("component", [str(node) for node in nodes]))]


def _check_receivers(receivers: list[Node]) -> None:
    if not receivers:
        raise ConfigError("receivers = []: at least one is needed")
    for node in receivers:
        if node.kind == "embed" or (node.kind == "head" and not node.reads):
            raise ConfigError(f"{node} is not an input; receivers are such as 'L9H6.q', 'L2.mlp' or 'logits'")
    if len(receivers) > 1 and any(node.kind == "logits" for node in receivers):
        raise ConfigError("'logits' reads what the other receivers would write: give it alone")


def check_reactions(**given: str) -> None:
    """Raise `ConfigError` unless each is "live" or "frozen"."""
    for name, value in given.items():
        check_choice(name, value, get_args(Reaction))


def needed_points(model: "HookedTransformer") -> list[str]:
    """What is needed of both runs: everything that is written, the norms' scales, and what MLPs read."""
    ends = ("hook_embed", "attn.hook_z", "hook_mlp_out", "hook_scale", "hook_mlp_in")
    return [name for name in model.hook_points if name.endswith(ends) and not name.startswith("ln_final")]


def final_norm_of(runs: Runs, norms: Reaction) -> Callable[[Tensor], Tensor] | None:
    """The norm before the unembedding at the scale of the run that is patched; None for a live one."""
    norm, base = runs.base.model.ln_final, runs.base.final
    if norms == "live" or norm.kind is None:
        return None
    scale, bias = norm.scale(base), 0.0 if norm.b is None else norm.b
    return lambda stream: norm.at_scale(stream, scale) + bias


def about_paths(runs: Runs, readings: list[MetricPlan], mlps: str, norms: str) -> dict[str, object]:
    """What a result says of itself."""
    baseline = torch.stack([runs.whole_run(reading, runs.base.final) for reading in readings])
    return {
        "metric": "; ".join(reading.name for reading in readings),
        "direction": runs.pair.direction,
        "ablation": "none" if runs.ablation is None else repr(runs.ablation),
        "positions": "together",
        "mlps": mlps,
        "norms": norms,
        "n": len(runs.base.prompts.ids),
        "baseline": baseline.mean(dim=1).tolist() if len(baseline) > 1 else float(baseline.mean()),
        "model": runs.base.model.weights_hash(),
    }


class _Paths:
    """Sender-to-receiver runs, several senders of one layer at a time."""

    def __init__(self, runs: Runs, receivers: list[Node], mlps: Reaction, norms: Reaction):
        self.runs, self.model, self.receivers = runs, runs.base.model, receivers
        self.mlps, self.norms = mlps, norms
        self.last = max(node.layer for node in receivers)

    def portions(self, senders: list[Node], max_bytes: int) -> Iterator[list[Node]]:
        """Senders that some receiver reads, by kind and layer, as many at once as the memory takes."""
        cfg, tokens = self.model.cfg, self.runs.base.prompts.ids
        parallel = cfg.parallel_attn_mlp
        width = 3 * cfg.n_heads * cfg.d_model + 3 * cfg.d_mlp + 10 * cfg.d_model + 3 * cfg.n_heads * tokens.shape[1]
        each = tokens.numel() * width * self.runs.base.final.element_size()
        if each > max_bytes:
            raise ConfigError(f"max_bytes = {max_bytes} is too small: one sender needs {each}")
        heard = [s for s in senders if any(s.reaches(receiver, parallel) for receiver in self.receivers)]
        groups: dict[tuple[str, int], list[Node]] = {}
        for sender in heard:
            groups.setdefault((sender.kind, sender.layer), []).append(sender)
        for group in groups.values():
            most = max_bytes // each
            yield from (group[i : i + most] for i in range(0, len(group), most))

    def final(self, senders: list[Node]) -> Float[Tensor, "sender batch pos d_model"]:
        """The stream after the last layer for each sender of one kind and layer."""
        n, batch = len(senders), len(self.runs.base.prompts.ids)
        arrived = self._arriving(senders)
        if self.receivers[0].kind == "logits":
            return arrived[self.last, "stream"].unflatten(0, (n, batch))
        parallel = self.model.cfg.parallel_attn_mlp
        heard_by = [node for node in self.receivers if senders[0].reaches(node, parallel)]  # the others read as before
        first = min(node.layer for node in heard_by)
        hooks = self._frozen_norms(n, range(first, self.model.cfg.n_layers))
        for node in heard_by:
            point = f"blocks.{node.layer}." + ("hook_mlp_in" if node.kind == "mlp" else f"hook_{node.reads}_input")
            stream = arrived[node.layer, "mid"] if node.kind == "mlp" else arrived[node.layer, "stream"]
            hooks.append((point, partial(read_instead, stream, node.head)))
        mask = self.runs.base.prompts.attention_mask
        out = self.model.run_with_hooks(
            self._rows(f"blocks.{first}.hook_resid_pre", n),
            fwd_hooks=hooks,
            start_at_layer=first,
            stop_at_layer=self.model.cfg.n_layers,
            attention_mask=None if mask is None else mask.repeat(n, 1),
        )
        return out.unflatten(0, (n, batch))

    def _arriving(self, senders: list[Node]) -> dict[tuple[int, str], Tensor]:
        """The stream before every later layer, and before its MLP, when only the senders' writes differ."""
        n, kind, layer = len(senders), senders[0].kind, max(senders[0].layer, 0)
        x = self._rows(f"blocks.{layer}.hook_resid_pre", n)
        if kind == "embed":
            x = x + self.runs.other("hook_embed") - self.runs.base.cache["hook_embed"]  # the only sender of its kind
        arrived: dict[tuple[int, str], Tensor] = {(layer, "stream"): x}
        for i in range(layer, min(self.last + 1, self.model.cfg.n_layers)):
            z = self._rows(f"blocks.{i}.attn.hook_z", n)
            if kind == "head" and i == layer:
                other = self.runs.other(f"blocks.{i}.attn.hook_z")
                by_sender = z.unflatten(0, (n, -1))
                for row, sender in zip(by_sender, senders, strict=True):
                    row[:, :, sender.head] = other[:, :, sender.head]
            hooks = self._frozen_norms(n, range(i, i + 1))
            if not self.model.cfg.attn_only:
                hooks.append((f"blocks.{i}.hook_mlp_in", partial(record, arrived, (i, "mid"))))
                sent = kind == "mlp" and i == layer
                if sent or self.mlps == "frozen":
                    out = f"blocks.{i}.hook_mlp_out"
                    value = self.runs.other(out).repeat(n, 1, 1) if sent else self._rows(out, n)
                    hooks.append((out, partial(write_instead, value)))
            with self.model.hooks(fwd_hooks=hooks):
                frozen = SideInputs(self.runs.base.sides[i].visible, None, None, attend=partial(_constant, z))
                x = self.model.blocks[i](x, frozen)
            arrived[i + 1, "stream"] = x
        return arrived

    def _rows(self, name: str, n: int) -> Tensor:
        """An activation of the run that is patched, once for each of n senders."""
        own = self.runs.base.cache[name]
        return own.repeat(n, *[1] * (own.ndim - 1))

    def _frozen_norms(self, n: int, layers: range) -> list[HookPair]:
        if self.norms == "live":
            return []
        names = [name for name in self.model.hook_points if name.endswith("hook_scale") and layer_of(name) in layers]
        return [(name, partial(write_instead, self._rows(name, n))) for name in names]


def _constant(z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return z


def write_instead(value: Tensor, activation: Tensor, hook: HookPoint) -> Tensor:
    """A hook, once `value` is given: the activation becomes `value`."""
    return value


def read_instead(stream: Tensor, head: int | None, activation: Tensor, hook: HookPoint) -> Tensor:
    """The MLP's input, or one head's own copy of the stream, becomes `stream`."""
    if head is None:
        return stream
    activation[:, :, head] = stream
    return activation


def record(kept: dict[Any, Tensor], key: object, activation: Tensor, hook: HookPoint) -> None:
    """A hook, once a place is given: the activation is kept there."""
    kept[key] = activation
