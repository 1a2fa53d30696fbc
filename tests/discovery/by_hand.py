"""Scores of edges by whole runs with hooks, one edge at a time: what the engine of `interp.discovery` is compared with.

Nothing here is shared with it: a head's inputs are edited at the lazy points (`hook_q_input`, ...), gradients are
plain autograd, and every method is written down as it is defined.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from interp import HookedTransformer, HookPoint
from interp.model import Edge, EdgeGraph, Reader, Writer

EMBED = "blocks.0.hook_resid_pre"
Hooks = list[tuple[str, Callable[..., Any]]]


class ByHand:
    """The edges of a model on one pair of prompts.

    Every edge of a masked run carries `live + mask * (other - live)`, where `other` is what the writer writes in the
    run of the corrupted ids ("resample"), 0 ("zero"), or its mean over the clean prompts, at each position ("mean").
    """

    def __init__(
        self,
        model: HookedTransformer,
        corrupted: Tensor,
        clean: Tensor,
        metric: Any,
        ablation: str = "resample",
        attention_mask: Tensor | None = None,
    ):
        self.model, self.clean, self.corrupted, self.metric = model, clean, corrupted, metric
        self.graph = EdgeGraph.of(model)
        self.padding: dict[str, Any] = {} if attention_mask is None else {"attention_mask": attention_mask}
        own = self.writes(clean)
        if ablation == "resample":
            self.other = self.writes(corrupted)
        elif ablation == "zero":
            self.other = {writer: torch.zeros_like(write) for writer, write in own.items()}
        else:
            self.other = {writer: write.mean(0).expand_as(write) for writer, write in own.items()}
        self.own = own
        self._patched: dict[Edge, tuple[Tensor, dict[str, Tensor]]] = {}

    # ------------------------------------------------------------------ writes

    def point(self, writer: Writer) -> str:
        """Where a writer's write, or a head's z, is seen."""
        if writer.kind == "embed":
            return EMBED
        return f"blocks.{writer.layer}." + ("hook_mlp_out" if writer.kind == "mlp" else "attn.hook_z")

    def scale_point(self, layer: int) -> str | None:
        """Where the scale is seen of a norm on what attention writes, if there is one."""
        name = f"blocks.{layer}.ln1_post.hook_scale"
        return name if name in self.model.hook_points else None

    def write(self, writer: Writer, seen: Tensor, scale: Tensor | None) -> Tensor:
        if writer.head is None:
            return seen
        write = seen[:, :, writer.head] @ self.model.W_O[writer.layer, writer.head]
        return write if scale is None else self.model.blocks[writer.layer].ln1_post.at_scale(write, scale)

    @torch.no_grad()
    def writes(self, ids: Tensor) -> dict[Writer, Tensor]:
        _, cache = self.model.run_with_cache(ids, **self.padding)

        def write(writer: Writer) -> Tensor:
            name = self.scale_point(writer.layer) if writer.kind == "head" else None
            return self.write(writer, cache[self.point(writer)], None if name is None else cache[name])

        return {writer: write(writer) for writer in self.graph.writers}

    # ------------------------------------------------------------------ masked runs

    def logits(self, mask: Tensor, deltas: dict[Writer, Tensor] | None = None, also: Hooks | None = None) -> Tensor:
        """Logits of the clean run in which every edge is as far from it as `mask` says.

        It is [reader, writer], or [batch, reader, writer] with a gradient.

        With `deltas`, these are added in place of the difference from the live write.
        """
        live: dict[Writer, Tensor] = {}
        z: dict[int | None, Tensor] = {}

        def keep(writers: list[Writer], seen: Tensor, hook: HookPoint) -> None:
            if hook.name.endswith("hook_z") and self.scale_point(writers[0].layer):
                z[hook.layer()] = seen
            else:
                scaled = hook.name.endswith("hook_scale")
                whole, scale = (z[hook.layer()], seen) if scaled else (seen, None)
                live.update({writer: self.write(writer, whole, scale) for writer in writers})

        def moved(reader: Reader, stream: Tensor) -> Tensor:
            row = mask[..., self.graph.numbers[reader], :]
            for writer in self.graph.writers_of(reader):
                weight = row[..., self.graph.numbers[writer]]
                weight = weight[:, None, None] if weight.ndim else weight
                if weight.requires_grad or weight != 0:
                    change = self.other[writer] - live[writer] if deltas is None else deltas[writer]
                    stream = stream + weight * change
            return stream

        def read(readers: list[Reader], seen: Tensor, hook: HookPoint) -> Tensor:
            if readers[0].head is None:
                return moved(readers[0], seen)
            return torch.stack([moved(reader, seen[:, :, reader.head]) for reader in readers], dim=2)

        points: dict[str, list[Writer]] = {}
        for writer in self.graph.writers:
            points.setdefault(self.point(writer), []).append(writer)
            if writer.kind == "head" and (name := self.scale_point(writer.layer)):
                points.setdefault(name, []).append(writer)
        inputs: dict[str, list[Reader]] = {}
        for reader in self.graph.readers:
            inputs.setdefault(reader.hook_name, []).append(reader)
        hooks: Hooks = [
            (name, lambda seen, hook, writers=writers: keep(writers, seen, hook)) for name, writers in points.items()
        ]
        hooks += [
            (name, lambda seen, hook, readers=readers: read(readers, seen, hook)) for name, readers in inputs.items()
        ]
        return self.model.run_with_hooks(self.clean, fwd_hooks=[*(also or []), *hooks], **self.padding)

    def no_mask(self) -> Tensor:
        return torch.zeros(len(self.graph.readers), len(self.graph.writers), dtype=self.model.W_E.dtype)

    def one(self, edge: Edge) -> Tensor:
        mask = self.no_mask()
        mask[self.graph.numbers[edge.reader], self.graph.numbers[edge.writer]] = 1
        return mask

    def of_edges(self, value: Callable[[Edge], Tensor]) -> Tensor:
        """[batch, reader, writer], NaN where there is no edge."""
        found = torch.full((len(self.clean), *self.no_mask().shape), torch.nan, dtype=torch.float64)
        for edge in self.graph:
            found[:, self.graph.numbers[edge.reader], self.graph.numbers[edge.writer]] = value(edge).detach().double()
        return found

    # ------------------------------------------------------------------ methods

    @cached_property
    @torch.no_grad()
    def baseline(self) -> Tensor:
        return self.metric(self.model(self.clean, **self.padding))

    @torch.no_grad()
    def patched(self, edge: Edge) -> tuple[Tensor, dict[str, Tensor]]:
        """The metric's change in the run of one edge, and there what the reader's component makes of its input."""
        if edge not in self._patched:
            seen: dict[str, Tensor] = {}
            names = [] if edge.reader.kind == "logits" else self._outs(edge.reader)
            keep: Hooks = [(name, lambda out, hook: seen.update({hook.name: out})) for name in names]
            self._patched[edge] = self.metric(self.logits(self.one(edge), also=keep)) - self.baseline, seen
        return self._patched[edge]

    def exact(self) -> Tensor:
        return self.of_edges(lambda edge: self.patched(edge)[0])

    def _gradient(self, also: Hooks | None = None) -> Tensor:
        """d_u . dL/dz_v at the clean run, or where hooks move it, [batch, reader, writer]."""
        deltas = {writer: self.other[writer] - self.own[writer] for writer in self.graph.writers}
        mask = self.no_mask().repeat(len(self.clean), 1, 1).requires_grad_()
        (found,) = torch.autograd.grad(self.metric(self.logits(mask, deltas, also)).sum(), mask)
        return self.of_edges(lambda e: found[:, self.graph.numbers[e.reader], self.graph.numbers[e.writer]])

    def eap(self) -> Tensor:
        return self._gradient()

    def _interpolated(self, share: float) -> Hooks:
        """The embeddings, `share` of the way from the corrupted to the clean ones."""
        embed = self.graph.writers[0]
        start = self.other[embed]
        return [(EMBED, lambda seen, hook: start + share * (seen - start))]

    def _shares(self, steps: int, include: str) -> list[float]:
        return [(k + (include == "run")) / steps for k in range(steps)]

    def eap_ig(self, steps: int = 5, include: str = "run") -> Tensor:
        parts = [self._gradient(self._interpolated(share)) for share in self._shares(steps, include)]
        return torch.stack(parts).mean(0)

    def _outs(self, reader: Reader) -> list[str]:
        """What a reader's component makes of its input."""
        if reader.kind == "mlp":
            return [f"blocks.{reader.layer}.hook_mlp_out"]
        return [f"blocks.{reader.layer}.attn." + ("hook_z" if reader.input == "v" else "hook_pattern")]

    def _linearised(self, gradients: dict[str, Tensor], kinds: str, rest: Tensor) -> Tensor:
        """(out of a reader in the run of one edge - out as it is) . gradient, [batch, reader, writer]."""
        names = list(gradients)
        with torch.no_grad():
            _, as_it_is = self.model.run_with_cache(self.clean, names_filter=names, **self.padding)

            def value(edge: Edge) -> Tensor:
                reader = edge.reader
                place = (slice(None), self.graph.numbers[reader], self.graph.numbers[edge.writer])
                if reader.kind == "logits":
                    return self.patched(edge)[0] if kinds == "all" else rest[place]
                if kinds != "all" and reader.input not in ("q", "k"):
                    return rest[place]
                ((name, out),) = self.patched(edge)[1].items()
                change = (out - as_it_is[name]) * gradients[name]
                if reader.head is None:
                    return change.flatten(1).sum(1)
                heads = [writer.head for writer in self.graph.writes_of(reader)]
                change = change[:, :, heads] if reader.input == "v" else change[:, heads]
                return change.flatten(1).sum(1)

            return self.of_edges(value)

    def _gradients(self, also: Hooks | None = None) -> dict[str, Tensor]:
        """dL/d out of every reader but the logits."""
        names = dict.fromkeys(name for r in self.graph.readers if r.kind != "logits" for name in self._outs(r))
        outs: dict[str, Tensor] = {}

        def keep(out: Tensor, hook: HookPoint) -> Tensor:
            outs[hook.name] = out if out.requires_grad else out.detach().requires_grad_()
            return outs[hook.name]

        hooks = [*(also or []), *((name, keep) for name in names)]
        with torch.enable_grad():
            logits = self.model.run_with_hooks(self.clean, fwd_hooks=hooks, **self.padding)
            found = torch.autograd.grad(self.metric(logits).sum(), [outs[name] for name in names])
        return dict(zip(names, found, strict=True))

    def qk(self) -> Tensor:
        return self._linearised(self._gradients(), "qk", self.eap())

    def local(self) -> Tensor:
        return self._linearised(self._gradients(), "all", self.no_mask())

    def local_ig(self, steps: int = 5, include: str = "run") -> Tensor:
        parts = [self._gradients(self._interpolated(share)) for share in self._shares(steps, include)]
        mean = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
        return self._linearised(mean, "all", self.no_mask())

    def gim(self) -> Tensor:
        cfg, scores = self.model.cfg, {}

        def scaled(by: float, x: Tensor, hook: HookPoint) -> Tensor:
            return x.detach() + by * (x - x.detach())

        def softened(pattern: Tensor, hook: HookPoint) -> Tensor:
            soft = 2 * (scores[hook.layer()] / 2).softmax(-1)
            return pattern.detach() + soft - soft.detach()

        hooks: Hooks = []
        for layer in range(cfg.n_layers):
            at = f"blocks.{layer}."
            hooks += [
                (f"{at}attn.hook_q", lambda x, hook: scaled(0.25, x, hook)),
                (f"{at}attn.hook_k", lambda x, hook: scaled(0.25, x, hook)),
                (f"{at}attn.hook_v", lambda x, hook: scaled(0.5, x, hook)),
                (f"{at}attn.hook_attn_scores", lambda x, hook: scores.update({hook.layer(): x})),
                (f"{at}attn.hook_pattern", softened),
            ]
            if cfg.gated_mlp:
                hooks.append((f"{at}mlp.hook_post", lambda x, hook: scaled(0.5, x, hook)))
        scales = [name for name in self.model.hook_points if name.endswith("hook_scale")]
        return self._gradient([*hooks, *((name, lambda x, hook: x.detach()) for name in scales)])
