"""Path patching on the full tree of paths (Goldowsky-Dill et al. 2023, section 3); see `path_sweeps.py`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError, describe
from interp.keywords import known_keywords
from interp.model import EdgeGraph, HookPair, Reader, Writer, layer_of
from interp.patching.measure import Measurement, Metrics
from interp.patching.options import EffectOptions, Settings
from interp.patching.pairs import PairRuns, PromptPair, Reaction, check_reactions
from interp.patching.path_sweeps import read_instead, record, write_instead
from interp.patching.prompts import Source
from interp.patching.writes import Writes, check_writes_add_up, heads_write, read_points, written_points

if TYPE_CHECKING:
    import xarray

    from interp.model import HookedTransformer

Tree = dict[Writer, Any]
"""What changes at a place that reads. Its keys are the components that write to this place along some path. The value
is None where the path starts with that write, which is then the other run's; otherwise it is a dictionary by the
component's own inputs, whose values are again trees: what changes there, so that the write is computed anew."""


@torch.no_grad()
@known_keywords
def path_tree(
    model: "HookedTransformer",
    corrupted: Source,
    clean: Source,
    metric: Metrics,
    paths: Sequence[Sequence[str]],
    *,
    norms: Reaction = "live",
    **options: Unpack[EffectOptions],
) -> "xarray.DataArray":
    """The metric when only these paths carry the other run's activations.

    Args:
        corrupted, clean, metric: as for `patching.sweep`.
        paths: each from a write to "logits" by way of inputs, such as `["L0H1", "L5H2.v", "logits"]` or
            `["embed", "L0.mlp", "L3H0.q", "logits"]`. Keys and values that several heads share are followed by the
            head that the path goes on from: `["embed", "L3H1.k", "L3H5", "logits"]`.
        norms: whether each component's norm is computed anew from what it reads. Norms on what is written (Gemma) keep
            their scales.
        options: direction, effects, normalize, attention_mask, per_prompt and confidence; see `EffectOptions`. By
            default corrupted activations are written into the clean run ("noising").

    Returns:
        One value, or one for each metric and prompt as in `patching.sweep`.

    Raises as `path_sweep`; `ConfigError` for a path that cannot be, a component that is at once the start of one path
    and on the way of another into the same place, and for norms on the stream itself, where writes do not add up.
    """
    settings = Settings.of(options)
    check_reactions({"norms": norms})
    check_writes_add_up(model)
    pair = PromptPair.of(model, corrupted, clean, settings.direction or "noising", settings.attention_mask)
    if not paths or any(isinstance(path, str) for path in paths):
        raise ConfigError(f"paths = {describe(paths)}: a list of at least one path is needed, each a list of names")
    graph = EdgeGraph.of(model)
    tree: Tree = {}
    for path in paths:
        _grow(tree, _Path(list(path), graph))
    runs = pair.run(written_points(model), read_points(model), settings.normalize)
    measured = Measurement.of(runs, metric, settings)
    final = runs.base.final + _TreeRun(runs, norms).change(tree)
    values = measured.of_run(final, norms)
    about = {
        "granularity": "paths",
        "paths": "; ".join(" -> ".join(path) for path in paths),
        "positions": "together",
        "norms": norms,
    }
    return measured.result(values, [], about)


class _Path:
    """A path in steps.

    Attributes:
        start: the write that it starts with.
        steps: the inputs on the way, in order, each with the write that the path goes on from.

    Raises `ConfigError` for a path that cannot be, `HookNotFoundError` for an unknown component.
    """

    def __init__(self, names: list[str], graph: EdgeGraph):
        self.shown, self.graph = " -> ".join(map(str, names)), graph
        if len(names) < 2 or names[-1] != "logits":
            raise ConfigError(f"{self.shown}: a path goes from a write, such as 'L0H1', to 'logits'")
        self.start = last = graph.writer(names[0])
        self.steps: list[tuple[Reader, Writer]] = []
        rest = names[1:-1]
        while rest:
            reader = self._read(rest.pop(0), last)
            last = self._written(reader, rest)
            self.steps.append((reader, last))

    def _read(self, name: str, last: Writer) -> Reader:
        """The next input, which must read what was written last."""
        for head in self.graph.writers:
            if head.kind == "head" and str(head) == name:
                inputs = ", ".join(map(str, self.graph.reads_of(head)))
                raise ConfigError(f"{self.shown}: {head} is on the way, so say by which input: {inputs}")
        reader = self.graph.reader(name)
        if not self.graph.reaches(last, reader):
            raise ConfigError(f"{self.shown}: {reader} does not read what {last} writes")
        return reader

    def _written(self, reader: Reader, rest: list[str]) -> Writer:
        """The write that the path goes on from: the only one of that input, or the one named next."""
        writers = self.graph.writes_of(reader)
        if not writers:
            raise ConfigError(f"{self.shown}: 'logits' can only be the end")
        named = [writer for writer in writers if rest and str(writer) == rest[0] and writer.kind == "head"]
        if named:
            rest.pop(0)
        elif len(writers) > 1:
            heads = ", ".join(map(str, writers))
            raise ConfigError(
                f"{self.shown}: {reader} serves {heads}; name the one that the path goes on from after it, such as "
                f"{str(reader)!r}, {str(writers[0])!r}"
            )
        return (named or list(writers))[0]


def _grow(tree: Tree, path: _Path) -> None:
    """Add a path to the tree below the logits. Raises `ConfigError` for one that clashes with another."""
    place = tree
    for reader, writer in reversed(path.steps):
        below = place.setdefault(writer, {})
        if below is None:
            raise ConfigError(f"{path.shown}: {writer} starts another path into the same place")
        place = below.setdefault(reader, {})
    if place.get(path.start) is not None:
        raise ConfigError(f"{path.shown}: {path.start} is on the way of another path into the same place")
    place[path.start] = None


class _TreeRun:
    """Components computed anew along a tree of paths."""

    def __init__(self, runs: PairRuns, norms: Reaction):
        self.runs, self.model, self.norms, self.own = runs, runs.base.model, norms, runs.base.cache
        self.writes = Writes(runs, norms == "frozen")

    def change(self, tree: Tree) -> Float[Tensor, "batch pos d_model"]:
        """By how much the stream differs where a component with this tree below it reads."""
        total = torch.zeros_like(self.runs.base.final)
        for writer, below in tree.items():
            anew = self.writes.of(writer, other=True) if below is None else self._anew(writer, below)
            total += anew - self.writes.of(writer, other=False)
        return total

    def _anew(self, writer: Writer, below: dict[Reader, Tree]) -> Float[Tensor, "batch pos d_model"]:
        """What a component writes when its inputs differ by what the trees below them say."""
        layer, kept = writer.layer, {}
        hooks: list[HookPair] = []
        for reader, tree in below.items():
            own = self.own["mlp_in" if reader.kind == "mlp" else "resid_pre", layer]
            hooks.append((reader.hook_name, partial(read_instead, own + self.change(tree), reader.head)))
        if self.norms == "frozen":
            scales = [n for n in self.model.hook_points if n.endswith("hook_scale") and layer_of(n) == layer]
            hooks += [(name, partial(write_instead, self.own[name])) for name in scales]
        out = f"blocks.{layer}." + ("hook_mlp_out" if writer.kind == "mlp" else "attn.hook_z")
        hooks.append((out, partial(record, kept, out)))
        self.model.base_run_with_hooks(
            self.own["resid_pre", layer],
            fwd_hooks=hooks,
            start_at_layer=layer,
            stop_at_layer=layer + 1,
            attention_mask=self.runs.base.prompts.attention_mask,
        )
        if writer.head is None:
            return kept[out]
        return heads_write(self.model.blocks[layer], kept[out], self.writes.scale(layer))[:, :, writer.head]
