"""Path patching: the effect of one component on another, and of chains of them.

Components are written as `interp.model.EdgeGraph` names them: `L5H3` is a head's write to the stream, `L5.mlp`
an MLP's, `embed` that of the embeddings. What reads the stream: `L9H6.q`, `L9H6.k`, `L9H6.v` (of keys and values a
key-value head), `L9.mlp`, and `logits`. Two forms are in use:

- `path_sweep`, *sender to receivers* (Wang et al. 2022, section 3.1): the sender's write is replaced, all other heads
  stay as they were in the run that is patched, and MLPs react or not (`mlps`). What reaches the receivers' inputs this
  way is then written there in a run in which everything else is live.
- `path_tree`, *the full tree of paths* (Goldowsky-Dill et al. 2023, section 3): only the named paths carry the
  replaced activations; every component on a path is computed anew from an input in which nothing but the edge from its
  predecessor on that path differs, so that two paths through one component do not mix.

Norms are computed anew from what they read (`norms="live"`), or keep the scales they had (`"frozen"`), which makes
them linear. The norm inside a masked-token head is always computed anew, behind an activation function.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import check_bytes, portions
from interp.errors import ConfigError, describe, did_you_mean
from interp.indices import chosen_indices
from interp.interventions import Index
from interp.keywords import known_keywords
from interp.model import EdgeGraph, HookPair, HookPoint, LayerContext, Reader, Writer, layer_of
from interp.patching.measure import Measurement, Metrics, Numbers
from interp.patching.options import Settings, SweepOptions
from interp.patching.pairs import PairRuns, PromptPair, Reaction, check_reactions
from interp.patching.prompts import Source, check_model
from interp.patching.resume import ResumeFile, question_of
from interp.patching.writes import EMBED, read_points, written_points
from interp.progress import progress_bar
from interp.results import Axis

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

# ---------------------------------------------------------------------- sender to receivers


@torch.no_grad()
@known_keywords
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
    positions: Index = None,
    **options: Unpack[SweepOptions],
) -> "xarray.DataArray":
    """The effect of every sender on the metric by way of the receivers.

    Args:
        corrupted, clean, metric: as for `patching.sweep`.
        receivers: one or several of `L9H6.q`, `.k`, `.v`, `L9.mlp`; or "logits" alone. What a sender does to the logits
            other than through heads is its direct effect with `mlps="frozen"`; with `mlps="live"` (the default) it
            includes what MLPs make of the sender's write.
        senders: "heads", "mlps", or a list of names.
        mlps: whether MLPs between sender and receivers react.
        norms: whether norms are computed anew, here and in the second run.
        positions: where the senders' writes are replaced, all of them together; None for everywhere. Between sender
            and receivers nothing moves from one position to another, so these are also the receivers' positions.
        options: as for `patching.sweep`; by default corrupted activations are written into the clean run ("noising").

    Returns:
        Values over (layer, head), (layer,) or (sender,); NaN for a sender that no receiver reads. `attrs` as for
        `patching.sweep`, and receivers, mlps, norms, and `paths`: "direct", or "direct and through MLPs".

    Raises as `patching.sweep`; `HookNotFoundError` for an unknown component, or one that does not write or read,
    `ConfigError` for receivers that cannot be combined.
    """
    settings = Settings.of(options)
    asked = PathQuestion.of(model, receivers, senders, mlps, norms)
    pair = PromptPair.of(model, corrupted, clean, settings.direction or "noising", settings.attention_mask)
    where = None if positions is None else chosen_indices("positions", positions, pair.prompts.ids.shape[1])
    measured, values = asked.measure(pair, metric, where, settings)
    return asked.result(measured.numbers(values), measured.names, where, settings, measured.about())


@dataclass(frozen=True)
class PathQuestion:
    """What a sweep of paths asks of every pair of prompts.

    Attributes:
        receivers, senders: checked.
        axes: of the senders.
        mlps, norms: how these react.
        attn_only: whether the model has no MLPs.
    """

    receivers: list[Reader]
    senders: list[Writer]
    axes: list[Axis]
    mlps: Reaction
    norms: Reaction
    attn_only: bool

    @classmethod
    def of(
        cls,
        model: "HookedTransformer",
        receivers: str | Sequence[str],
        senders: str | Sequence[str],
        mlps: Reaction,
        norms: Reaction,
    ) -> "PathQuestion":
        """Check what is asked. Raises as `path_sweep`."""
        check_model(model)
        check_reactions({"mlps": mlps, "norms": norms})
        graph = EdgeGraph.of(model)
        targets = _receivers(receivers, graph)
        sources, axes = _senders(senders, graph)
        return cls(targets, sources, axes, mlps, norms, model.cfg.attn_only)

    def measure(
        self, pair: PromptPair, metric: Metrics, positions: list[int] | None, settings: Settings
    ) -> tuple[Measurement, Float[Tensor, "metric batch sender"]]:
        """The metrics of the run as it is, and with every sender's paths patched; NaN where no receiver reads it."""
        model = pair.model
        written = written_points(model)
        runs = pair.run(written, read_points(model), settings.normalize)
        measured = Measurement.of(runs, metric, settings)
        graph = EdgeGraph.of(model)
        sender_runs = _SenderRuns(runs, graph, self.receivers, self.mlps, self.norms, positions)
        values = measured.baseline.new_full((len(measured.plans), len(pair.prompts), len(self.senders)), math.nan)
        question = (
            {}
            if settings.checkpoint is None
            else question_of(measured, written, {**self.specification(), "positions": positions})
        )
        file = ResumeFile(settings.checkpoint, question, {"senders": values})
        _measure_senders(sender_runs, measured, self.senders, values, file)
        return measured, values

    def specification(self) -> dict[str, Any]:
        """All but the positions, as JSON values."""
        names = {"receivers": list(map(str, self.receivers)), "senders": list(map(str, self.senders))}
        return {**names, "mlps": self.mlps, "norms": self.norms}

    def result(
        self,
        numbers: Numbers,
        metrics: list[str] | None,
        positions: list[int] | None,
        settings: Settings,
        about: Mapping[str, object],
    ) -> "xarray.DataArray":
        """What was measured, as a result."""
        of_paths = {
            "granularity": "senders to receivers",
            "receivers": " ".join(map(str, self.receivers)),
            "paths": "direct" if self.mlps == "frozen" or self.attn_only else "direct and through MLPs",
            "positions": "together" if positions is None else " ".join(map(str, positions)) + ", together",
            "mlps": self.mlps,
            "norms": self.norms,
        }
        return numbers.result(self.axes, metrics, settings, {**about, **of_paths})


def _measure_senders(
    sender_runs: "_SenderRuns",
    measured: Measurement,
    senders: list[Writer],
    values: Float[Tensor, "metric batch sender"],
    file: ResumeFile,
) -> None:
    """Run the senders that the file does not have, and write their metrics into `values`."""
    settings, done = measured.settings, file.restore()["senders"].tolist()
    waiting = [sender for sender, before in zip(senders, done, strict=True) if not before]
    groups = list(sender_runs.portions(waiting, settings.max_bytes))
    with progress_bar("patching paths", len(groups), settings.progress) as advance:
        for group in groups:
            cells = torch.tensor([senders.index(sender) for sender in group])
            final = sender_runs.final(group)  # [sender batch pos d_model]
            for cell, stream in zip(cells, final, strict=True):
                values[:, :, cell] = measured.of_run(stream, sender_runs.norms)
            file.keep("senders", cells)
            advance(1)


def _several(names: object) -> list[str]:
    return list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [cast(str, names)]


def _senders(senders: str | Sequence[str], graph: EdgeGraph) -> tuple[list[Writer], list[Axis]]:
    layers, heads = list(range(graph.n_layers)), list(range(graph.n_heads))
    if senders == "heads":
        return [w for w in graph.writers if w.kind == "head"], [Axis("layer", layers), Axis("head", heads)]
    if senders == "mlps":
        if graph.attn_only:
            raise ConfigError("senders = 'mlps': this model has no MLPs")
        return [w for w in graph.writers if w.kind == "mlp"], [Axis("layer", layers)]
    if isinstance(senders, str):
        near = did_you_mean(senders, ["heads", "mlps"])
        known = "'heads', 'mlps', or a list such as ['L0H1', 'L2.mlp']"
        raise ConfigError(f"senders = {describe(senders)}; allowed: {known}{near}")
    writers = [graph.writer(name) for name in senders]
    if not writers or len(set(writers)) < len(writers):
        raise ConfigError(f"senders = {describe(senders)} names nothing, or something twice")
    names = [str(writer) for writer in writers]
    return writers, [Axis("sender", list(range(len(writers))), ("component", names))]


def _receivers(receivers: str | Sequence[str], graph: EdgeGraph) -> list[Reader]:
    found = [graph.reader(name) for name in _several(receivers)]
    if not found:
        raise ConfigError("receivers = []: at least one is needed")
    if len(found) > 1 and any(reader.kind == "logits" for reader in found):
        raise ConfigError("'logits' reads what the other receivers would write: give it alone")
    return found


class _SenderRuns:
    """Sender-to-receiver runs, several senders of one layer at a time."""

    def __init__(
        self,
        runs: PairRuns,
        graph: EdgeGraph,
        receivers: list[Reader],
        mlps: Reaction,
        norms: Reaction,
        positions: list[int] | None,
    ):
        self.runs, self.model, self.graph, self.receivers = runs, runs.base.model, graph, receivers
        self.mlps: Reaction = mlps
        self.norms: Reaction = norms
        self.positions = slice(None) if positions is None else positions
        self.last = max(reader.layer for reader in receivers)

    def portions(self, senders: list[Writer], max_bytes: int) -> Iterator[list[Writer]]:
        """Senders that some receiver reads, by kind and layer, as many at once as the memory takes."""
        cfg, tokens = self.model.cfg, self.runs.base.prompts.ids
        # Three streams for each head (as its queries, keys and values read it), the MLP's neurons before and after
        # their activation function and gated, the stream and its copies in a block, and scores and patterns.
        width = 3 * cfg.n_heads * cfg.d_model + 3 * cfg.d_mlp + 10 * cfg.d_model + 3 * cfg.n_heads * tokens.shape[1]
        each = tokens.numel() * width * self.runs.base.final.element_size()
        budget = check_bytes(max_bytes, each, "one sender")
        heard = [s for s in senders if any(self.graph.reaches(s, receiver) for receiver in self.receivers)]
        groups: dict[tuple[str, int], list[Writer]] = {}
        for sender in heard:
            groups.setdefault((sender.kind, sender.layer), []).append(sender)
        for group in groups.values():
            yield from (group[part] for part in portions([each] * len(group), budget))

    def final(self, senders: list[Writer]) -> Float[Tensor, "sender batch pos d_model"]:
        """The stream after the last layer for each sender of one kind and layer."""
        n, batch = len(senders), len(self.runs.base.prompts)
        arrived = self._arriving(senders)
        if self.receivers[0].kind == "logits":
            return arrived[self.last, "stream"].unflatten(0, (n, batch))
        heard_by = [r for r in self.receivers if self.graph.reaches(senders[0], r)]  # the others read as before
        first = min(reader.layer for reader in heard_by)
        hooks = self._frozen_norms(n, range(first, self.model.cfg.n_layers))
        for reader in heard_by:
            stream = arrived[reader.layer, "mid" if reader.kind == "mlp" else "stream"]
            hooks.append((reader.hook_name, partial(read_instead, stream, reader.head)))
        mask = self.runs.base.prompts.attention_mask
        out = self.model.base_run_with_hooks(
            self._rows(f"blocks.{first}.hook_resid_pre", n),
            fwd_hooks=hooks,
            start_at_layer=first,
            stop_at_layer=self.model.cfg.n_layers,
            attention_mask=None if mask is None else mask.repeat(n, 1),
        )
        return out.unflatten(0, (n, batch))

    def _arriving(self, senders: list[Writer]) -> dict[tuple[int, str], Tensor]:
        """The stream before every later layer, and before its MLP, when only the senders' writes differ."""
        n, kind, layer, at = len(senders), senders[0].kind, max(senders[0].layer, 0), self.positions
        x = self._rows(f"blocks.{layer}.hook_resid_pre", n)
        if kind == "embed":  # the only sender of its kind
            x[:, at] = self.runs.written(EMBED)[:, at]
        arrived: dict[tuple[int, str], Tensor] = {(layer, "stream"): x}
        for i in range(layer, min(self.last + 1, self.model.cfg.n_layers)):
            z = self._rows(f"blocks.{i}.attn.hook_z", n)
            if kind == "head" and i == layer:
                other = self.runs.written(f"blocks.{i}.attn.hook_z")
                by_sender = z.unflatten(0, (n, -1))
                for row, sender in zip(by_sender, senders, strict=True):
                    row[:, at, sender.head] = other[:, at, sender.head]
            hooks = self._frozen_norms(n, range(i, i + 1))
            if not self.model.cfg.attn_only:
                hooks.append((f"blocks.{i}.hook_mlp_in", partial(record, arrived, (i, "mid"))))
                sent = kind == "mlp" and i == layer
                if sent or self.mlps == "frozen":
                    out = f"blocks.{i}.hook_mlp_out"
                    value = self._rows(out, n)
                    if sent:
                        value[:, at] = self.runs.written(out)[:, at]  # of an MLP's layer it is the only sender
                    hooks.append((out, partial(write_instead, value)))
            with self.model.hooks(fwd_hooks=hooks):
                frozen = LayerContext(self.runs.base.contexts[i].visible, None, None, attend=partial(_constant, z))
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
