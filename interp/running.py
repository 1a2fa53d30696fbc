"""Runs that watch or change what flows through the hook points."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from interp.cache import ActivationCache
from interp.config import TransformerConfig
from interp.errors import ConfigError, HookNotFiredError
from interp.hooks import HookedModule, HookFn, HookName, HookPoint, as_list, layer_of
from interp.tokens import Text

if TYPE_CHECKING:
    from interp.model import HookedTransformer

ReturnType = Literal["logits", "loss", "both"] | None


class Runs(HookedModule):
    """`run_with_hooks` and `run_with_cache`, for a module whose `forward` can start and stop at a layer."""

    cfg: TransformerConfig

    def run_with_hooks(
        self,
        input: Text | Tensor,
        return_type: ReturnType = "logits",
        fwd_hooks: Sequence[tuple[HookName, HookFn]] = (),
        bwd_hooks: Sequence[tuple[HookName, HookFn]] = (),
        **forward: Any,
    ) -> Any:
        """One run with hooks that live for this call, also when it raises.

        Backward hooks stay on the graph that this call builds: they act when the caller differentiates the result.

        Raises what `forward` raises, and before the run:
            HookNotFoundError: a name matches nothing.
            HookNotFiredError: a name matches only points that these layers do not reach.
        """
        for asked, _ in [*fwd_hooks, *bwd_hooks]:
            self._reached(asked, return_type, forward)
        active = self._attach(fwd_hooks, "fwd")
        try:
            active += self._attach(bwd_hooks, "bwd")
            return self(input, return_type, **forward)
        finally:
            self._detach(active, graphs=False)

    def run_with_cache(
        self,
        input: Text | Tensor,
        return_type: ReturnType = "logits",
        names_filter: HookName | Iterable[HookName] | None = None,
        device: str | torch.device | None = None,
        pos_slice: int | slice | Sequence[int] | None = None,
        incl_bwd: bool = False,
        **forward: Any,
    ) -> tuple[Any, ActivationCache]:
        """One run, and what flowed through its hook points (detached from the graph).

        Args:
            input, return_type, forward: as for calling the model.
            names_filter: which points; None stands for all that are not lazy.
            device: where the cache is kept.
            pos_slice: the positions to keep (for scores and patterns: query positions).
            incl_bwd: also the gradient of the loss at each point, as `name + "_grad"`; needs `return_type="loss"`.
                No parameter's `.grad` is touched.

        Raises as `run_with_hooks`; `ConfigError` for `incl_bwd` without a scalar loss.
        """
        if incl_bwd and (return_type != "loss" or forward.get("loss_per_token")):
            raise ConfigError("incl_bwd differentiates the mean loss: pass return_type='loss', loss_per_token=False")
        reached = {name for asked in as_list(names_filter) for name in self._reached(asked, return_type, forward)}
        edited = any(not h.observes and h.direction == "fwd" for p in self.hook_points.values() for h in p.hooks)
        kept: dict[str, Tensor] = {}
        in_graph: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: HookPoint) -> Tensor:
            in_graph[hook.name] = value
            kept[hook.name] = value.detach()
            return value

        names = [name for name in self.hook_points if name in reached]
        active = self._attach([(name, keep) for name in names], "fwd", observes=not incl_bwd)
        try:
            with torch.set_grad_enabled(incl_bwd or torch.is_grad_enabled()):
                output = self(input, return_type, **forward)
                if incl_bwd:
                    for name, gradient in self._gradients(output, in_graph).items():
                        kept[f"{name}_grad"] = gradient
        finally:
            self._detach(active, graphs=True)
        cache = ActivationCache(kept, cast("HookedTransformer", self), edited=edited)
        if pos_slice is not None:
            cache = cache.slice(pos=pos_slice)
        return output, cache if device is None else cache.to(device)

    @staticmethod
    def _gradients(loss: Tensor, in_graph: dict[str, Tensor]) -> dict[str, Tensor]:
        if not loss.requires_grad:
            raise HookNotFiredError("incl_bwd: no parameter requires a gradient, so no gradient flows")
        inputs = {name: value for name, value in in_graph.items() if value.requires_grad}
        gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, retain_graph=True)
        return {n: g.detach() for n, g in zip(inputs, gradients, strict=True) if g is not None}

    def _reached(self, asked: HookName | None, return_type: ReturnType, forward: dict[str, Any]) -> list[str]:
        """The points that `asked` names and a run with these options passes; an error if there are none."""
        start, stop = forward.get("start_at_layer"), forward.get("stop_at_layer")
        first, last = self._layer_range(start, stop)

        def passed(name: str) -> bool:
            layer = layer_of(name)
            if layer is not None:
                return first <= layer < last
            if name.startswith("ln_final"):
                return stop is None and return_type is not None
            return start is None or name == "hook_pos_embed"

        found = [name for name in self.resolve_hooks(asked) if passed(name)]
        if not found:
            limits = f"start_at_layer = {start}, stop_at_layer = {stop}, return_type = {return_type!r}"
            raise HookNotFiredError(f"{asked!r} is not reached by a run with {limits}")
        return found

    def _layer_range(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.cfg.n_layers
        for name, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
            if layer is not None and not -n <= layer <= n:
                raise ConfigError(f"{name} = {layer}; allowed: {-n} to {n} ({n} layers)")
        first = 0 if start is None else start + n * (start < 0)
        last = n if stop is None else stop + n * (stop < 0)
        if first > last:
            raise ConfigError(f"start_at_layer = {start} comes after stop_at_layer = {stop}")
        return first, last
