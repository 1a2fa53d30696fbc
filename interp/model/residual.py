"""The algebra of the residual stream, on what one run left in a cache.

The stream is a sum of *writes*: token and position embeddings, every head, every MLP (or neuron), and biases. The
methods here return those writes as a `Stack` whose rows sum exactly to the stream they decompose. In post-norm models,
where the stream itself passes through norms, every earlier write is carried through each norm at the scale that the
norm had in this run (a norm at a fixed scale is linear), and the norms' biases join the row "bias". Where the run was
edited by hooks, a row "edits" holds what the edits added.

The difference of two caches is decomposed in the same way as far as no norm stands between: its rows sum to the
difference of the streams, and have no biases. Of gradients the rows are those at the writes, and sum to nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

import torch
from einops import einsum
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import CacheError, ConfigError, HookNotFoundError, ShapeError, check_choice, did_you_mean
from interp.indices import layer_index
from interp.model.attention import WRITE_PER_HEAD
from interp.model.derived import NO_RUN, Kind
from interp.model.graph import head_labels
from interp.model.norms import Norm
from interp.model.provenance import CHANGED, Provenance
from interp.model.rows import Stack
from interp.model.stream import STREAMS, NormAtScale, Step, StreamPlace, reading_norm, steps, streams_of_block
from interp.precision import (
    at_least_float32,
    coarsest,
    equal_up_to_rounding,
    of_one_dtype,
    wide_sum,
    without_autocast,
)

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer


class ResidualStream:
    """Decompositions of the stream, for an `ActivationCache`."""

    model: "HookedTransformer"
    cfg: TransformerConfig
    edited: bool
    kind: Kind
    made_by: Provenance
    _values: dict[str, Tensor]
    is_current: Callable[[], bool]

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        apply_ln: bool = False,
        mode: Literal["all", "attn", "mlp"] = "all",
        cross_input: bool = False,
    ) -> Stack:
        """Embeddings and the write of every attention and MLP below `layer`, which sum to `resid_pre` there.

        Args:
            layer: 0 to n_layers, negative from the end; None for the stream that the unembedding reads.
            mlp_input: go on to `resid_mid` of `layer`, what its MLP reads.
            cross_input: go on to `resid_cross` of `layer`, what its cross-attention reads.
            apply_ln: through the norm that reads the stream there, see `apply_ln_to_stack`.
            mode: "attn" leaves out what MLPs write, "mlp" what attention writes; both keep the embeddings. Only the
                rows of "all" sum to the stream, so only these have rows for biases and edits where there are any.

        Raises:
            ConfigError: a layer out of range, `mlp_input` where there is no `resid_mid` (`cross_input`, no
                `resid_cross`), another mode, or "mlp" for a model without MLPs.
            HookNotFoundError: a needed activation is not in the cache.
        """
        check_choice("mode", mode, ("all", "attn", "mlp"))
        if mode == "mlp" and self.cfg.attn_only:
            raise ConfigError("mode = 'mlp', but attn_only = True: this model has no MLPs")
        attn, mlp = (None if mode == "mlp" else "out"), (None if mode == "attn" else "out")
        place = self._place(layer, mlp_input, cross_input)
        return self._decompose(place, apply_ln, attn=attn, mlp=mlp, rest="all" if mode == "all" else "embed")

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        cross_input: bool = False,
    ) -> Stack:
        """Embeddings, every head ("L0H1", of cross-attention "L0X1"), every neuron ("L0N7") or MLP ("0_mlp_out"), and
        "bias": all biases together.

        Arguments and errors as for `decompose_resid`. Neurons need batch * pos * d_mlp * d_model numbers a layer.
        """
        place = self._place(layer, mlp_input, cross_input)
        return self._decompose(place, apply_ln, attn="heads", mlp="neurons" if expand_neurons else "out")

    @torch.no_grad()
    @without_autocast()
    def accumulated_resid(self, layer: int | None = None, incl_mid: bool = False, apply_ln: bool = False) -> Stack:
        """The stream itself before each block ("0_pre"), the last row being at `layer`.

        With `incl_mid` also between the parts of a block: "0_mid", and before cross-attention "0_cross".

        With `apply_ln` every row goes through the final norm with statistics of its own, as the logit lens reads it
        (nostalgebraist 2020). Errors as for `decompose_resid`.
        """
        stop = self._layer(layer)
        streams = streams_of_block(self.cfg, incl_mid)
        rows = [self._get(f"blocks.{block}.hook_{stream}") for block in range(stop) for stream in streams]
        labels = [f"{block}_{stream.removeprefix('resid_')}" for block in range(stop) for stream in streams]
        rows.append(self._stream(StreamPlace(stop)))
        labels.append("final_post" if stop == self.cfg.n_layers else f"{stop}_pre")
        stack = torch.stack(rows)
        if apply_ln:
            self.check_weights()
            norm = self.model.ln_final
            stack = norm.at_scale(stack, norm.scale(stack))
            stack = stack if norm.b is None else stack + norm.b.to(stack.device)
        return Stack(stack, labels)

    def stack_head_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every head below `layer` wrote ("L0H0", "L0H1", ...), carried to `layer`. Errors as there."""
        return self._decompose(self._place(layer), apply_ln, attn="heads", mlp=None, rest=None)

    def stack_neuron_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every neuron below `layer` wrote ("L0N0", ...), carried to `layer`. Errors as there."""
        if self.cfg.attn_only:
            raise ConfigError("attn_only = True: this model has no neurons")
        return self._decompose(self._place(layer), apply_ln, attn=None, mlp="neurons", rest=None)

    @torch.no_grad()
    @without_autocast()
    def apply_ln_to_stack(
        self, stack: Stack, layer: int | None = None, mlp_input: bool = False, cross_input: bool = False
    ) -> Stack:
        """Components as the norm at `layer` passes them on, at the scale it had in this run; its bias is a last row.

        The rows of a complete decomposition then sum to `hook_normalized`. The norm is ln1 of `layer`, with
        `mlp_input` ln2, with `cross_input` ln_cross, for None or n_layers the final one; where the stream is read as it
        is (post-norm, no norm) nothing changes. Raises `ConfigError` for rows that decompose the stream of another
        place.
        """
        if not isinstance(stack, Stack):
            raise ShapeError(f"rows with labels are needed, Stack(values, labels), not {type(stack).__name__}")
        self.check_weights(linear=self.cfg.normalization_type is None)
        place = self._place(layer, mlp_input, cross_input, norm=True)
        # Attention and MLP that stand beside each other read the same stream.
        decomposed = StreamPlace(place.layer) if self.cfg.parallel_attn_mlp else place
        if stack.place not in (None, decomposed):
            raise ConfigError(
                f"these rows decompose the stream that {stack.place.described(self.cfg.n_layers)} reads, not the one "
                f"that {place.described(self.cfg.n_layers)} reads; name their place, or pass "
                "Stack(rows.values, rows.labels) to read them elsewhere"
            )
        name = reading_norm(self.cfg, place)
        if name is None:
            return stack
        norm = self.norm(name)
        scale = self._get(f"{name}.hook_scale")
        if stack.values.shape[1:3] != scale.shape[:2]:
            raise ShapeError(
                f"rows [batch, pos] = {tuple(stack.values.shape[1:3])} do not fit the cache's "
                f"{tuple(scale.shape[:2])}; slice the cache first: cache.slice(batch=, pos=)"
            )
        if f"{name}_bias" in stack.labels:
            raise ShapeError(f"these rows went through {name} already (apply_ln=True?): they have a row '{name}_bias'")
        values, labels = norm.linear(stack.values), list(stack.labels)
        if norm.bias is not None:
            values = torch.cat([values, norm.bias.expand(values[:1].shape)])
            labels.append(f"{name}_bias")
        if "edits" in labels:  # the rows are complete, and hooks may have edited the norm's result as well
            edits = self._get(f"{name}.hook_normalized") - wide_sum(values, 0)
            values, labels = torch.cat([values, edits[None].to(values)]), [*labels, f"{name}_edits"]
        return Stack(values, labels)

    # ------------------------------------------------------------------ the walk along the stream

    @torch.no_grad()
    @without_autocast()
    def _decompose(
        self,
        place: StreamPlace,
        apply_ln: bool,
        *,
        attn: Literal["out", "heads"] | None,
        mlp: Literal["out", "neurons"] | None,
        rest: Literal["all", "embed"] | None = "all",
    ) -> Stack:
        """The writes up to a place, in order: of attention and MLPs whole, in parts or left out, and the rest.

        The rest is the embeddings and, with "all", the biases that are in no other row and what edits added, so that
        the rows sum to the stream.
        """
        self.check_weights(linear=True)
        if rest is None and place.layer == 0:
            raise ConfigError("layer = 0: there is no block below it")
        rows: list[Tensor] = []
        labels: list[str] = []
        bias: Tensor | float = 0.0

        def add(values: Tensor, names: list[str], constant: Tensor | None = None) -> None:
            nonlocal bias
            rows.append(values)
            labels.extend(names)
            bias = bias if constant is None else bias + at_least_float32(constant)

        def carry(name: str) -> None:
            """Everything so far through a norm of the stream, whose bias joins the others. Gradients stay."""
            nonlocal bias
            norm = NormAtScale() if self.kind == "gradient" else self.norm(name)
            rows[:] = [norm.linear(row) for row in rows]
            if rest == "all":
                bias = norm.linear(bias + torch.zeros_like(at_least_float32(rows[0][:1])))
                bias = bias if norm.bias is None else bias + norm.bias

        if rest == "all" and self.kind == "gradient":
            rest = "embed"  # nothing is added up
        if rest is not None:
            add(torch.stack([self._get(f"hook_{name}") for name in self._embeddings]), self._embeddings)
            if self.cfg.embed_norm:
                carry("embed_ln")
        for step in steps(self.cfg, place):
            split = mlp if step.part == "mlp" else attn
            if split == "out":
                add(self._get(step.hook_name)[None], [step.label])
            elif split is not None:
                add(*self._written(step, *(self._of_heads(step) if split == "heads" else self._of_neurons(step))))
            if step.stream_norm is not None:
                carry(step.stream_norm)

        taken_apart = attn == "heads" or mlp == "neurons" or self.cfg.normalizes_stream or self.cfg.embed_norm
        if rest == "all" and taken_apart and self.kind == "run":
            rows.append((bias + torch.zeros_like(rows[0][:1])).to(rows[0].dtype))
            labels.append("bias")
        values = torch.cat(rows)
        if rest == "all" and self.edited:
            values, labels = torch.cat([values, self._edits(values, place)]), [*labels, "edits"]
        elif rest == "all" and self.kind == "run":  # of a difference it is not known how large the rounding is
            self._check_sum(values, place)
        stack = Stack(values, labels, None if self.kind == "gradient" else place)
        if not apply_ln:
            return stack
        return self.apply_ln_to_stack(stack, place.layer, place.part == "mlp", place.part == "cross_attn")

    def _edits(self, values: Tensor, place: StreamPlace) -> Tensor:
        """What hooks added to the stream beside all that was written, one row."""
        return (self._stream(place) - wide_sum(values, 0))[None].to(values)

    def _of_heads(self, step: Step) -> tuple[Tensor, list[str]]:
        """What each head of a block writes, before any norm on the write path."""
        name = step.name
        result = self._values.get(f"{name}.hook_result")
        if result is None and self.kind == "gradient":
            raise HookNotFoundError(
                f"the gradient of what heads write is that at {name}.hook_result, which the cache does not hold; name "
                "it in names_filter= (it is lazy), beside what else is needed"
            )
        if result is None:
            z = self._get(f"{name}.hook_z")
            z, W_O = of_one_dtype(z, self.model.get_parameter(f"{name}.W_O").to(z.device))
            result = einsum(z, W_O, WRITE_PER_HEAD)
        return result.permute(2, 0, 1, 3), head_labels(self.cfg, step.part)[step.layer]

    def _of_neurons(self, step: Step) -> tuple[Tensor, list[str]]:
        """What each neuron of a block writes, before any norm on the write path."""
        if self.kind == "gradient":
            raise CacheError("what a neuron writes has no hook point, so its gradient was not kept: it is that at "
                             f"{step.hook_name}, the same for each")  # fmt: skip
        post = self._get(f"blocks.{step.layer}.mlp.hook_post")
        W_out = self.model.blocks[step.layer].mlp.W_out.to(post.device)
        written = post.permute(2, 0, 1)[..., None] * W_out[:, None, None, :]
        return written, [f"L{step.layer}N{neuron}" for neuron in range(self.cfg.d_mlp)]

    def _written(self, step: Step, rows: Tensor, labels: list[str]) -> tuple[Tensor, list[str], Tensor]:
        """Rows as they reach the stream, their labels, and the bias that is added beside them."""
        if self.kind == "gradient":
            return rows, labels, rows.new_zeros(())
        bias = self.model.get_parameter(step.bias_name).to(rows.device)
        norm = self.norm(step.write_norm)
        if step.write_norm is not None:
            bias = norm.linear(bias.expand(rows.shape[1:]))
        return norm.linear(rows), labels, bias if norm.bias is None else bias + norm.bias

    def norm(self, name: str | None) -> NormAtScale:
        """The norm of this full name (`blocks.3.ln1`, `ln_final`) at the scale that it had in this run.

        None, and the name of a norm that does nothing, give a norm that changes nothing. Raises `HookNotFoundError`
        where the cache does not hold the scale.
        """
        norm = None if name is None else cast(Norm, self.model.get_submodule(name))
        if norm is None or norm.kind is None:
            return NormAtScale()
        if self.kind != "run":
            written = ", through which a part is written" * str(name).endswith("_post")
            stands = ", which stands on the stream itself" if self.cfg.normalizes_stream else written
            raise CacheError(f"{name}{stands}: {NO_RUN[self.kind]}")
        return NormAtScale(norm, self._get(f"{name}.hook_scale"))

    def _stream(self, place: StreamPlace) -> Tensor:
        if place.layer < self.cfg.n_layers:
            return self._get(f"blocks.{place.layer}.hook_{STREAMS[place.part]}")
        if place.layer:
            return self._get(f"blocks.{place.layer - 1}.hook_resid_post")
        if self.cfg.embed_norm:  # no blocks: the embeddings are the stream
            return self._get("embed_ln.hook_normalized")
        return torch.stack([self._get(f"hook_{name}") for name in self._embeddings]).sum(dim=0)

    @property
    def _embeddings(self) -> list[str]:
        """What is added up to begin the stream."""
        there = {"embed": True, "pos_embed": self.cfg.positions_in_stream, "token_type_embed": self.cfg.n_token_types}
        return [name for name, is_there in there.items() if is_there]

    def _get(self, name: str) -> Tensor:
        """A needed activation."""
        if name not in self._values:
            raise HookNotFoundError(
                f"this needs {name!r}, which the cache does not hold; widen names_filter= (or stop_at_layer=)"
                f"{did_you_mean(name, self._values, 0.8)}"
            )
        return self._values[name]

    def check_weights(self, linear: bool = False) -> None:
        """Raise `CacheError` unless this is a run (or, where all is linear, made of runs) of the model's weights."""
        if not self.is_current():
            raise CacheError(CHANGED)
        if not linear:
            self.check_is_run()

    def check_made_by(self, model: "HookedTransformer", what: str = "the cache") -> None:
        """Raise `CacheError`, which calls it `what`, unless this is a run of a given model with the weights it has."""
        self.check_is_run()
        if differing := self.made_by.differences(model):
            if self.model is model:
                raise CacheError(f"the model's weights changed after {what} was made: run it again")
            raise CacheError(f"{what} was made by another model than the one given: {'; '.join(differing)}")

    def check_is_run(self) -> None:
        """Raise `CacheError`, saying why, for the difference of two runs and for gradients."""
        if self.kind != "run":
            raise CacheError(NO_RUN[self.kind])

    def coarsest_dtype(self) -> torch.dtype:
        """The dtype that rounded most in this run, as far as cached; under autocast it is not that of the weights."""
        return coarsest(self._values.values())

    def _check_sum(self, values: Tensor, place: StreamPlace) -> None:
        """A complete decomposition sums to the stream, as far as that was cached; weights may have changed unseen."""
        try:
            stream = self._stream(place)
        except HookNotFoundError:
            return
        if not equal_up_to_rounding(wide_sum(values, 0), stream, wide_sum(values.abs(), 0), self.coarsest_dtype()):
            raise CacheError("the rows do not sum to the cached stream: weights or activations changed since the run")

    def _place(
        self, layer: int | None, mlp_input: bool = False, cross_input: bool = False, norm: bool = False
    ) -> StreamPlace:
        """The place that a caller names; where a `norm` is named, MLPs beside their attention count too."""
        stop = self._layer(layer)
        if cross_input and (mlp_input or not self.cfg.cross_attention or stop == self.cfg.n_layers):
            cause = "the two inputs exclude each other" if mlp_input else f"layer = {layer} has no cross-attention"
            raise ConfigError(f"cross_input = True, but {cause}")
        if mlp_input and (self.cfg.attn_only or stop == self.cfg.n_layers):
            raise ConfigError(f"mlp_input = True, but layer = {layer} has no MLP")
        if mlp_input and not norm and self.cfg.parallel_attn_mlp:
            raise ConfigError(f"mlp_input = True, but layer = {layer} has no resid_mid (no MLP after its attention)")
        return StreamPlace(stop, "mlp" if mlp_input else "cross_attn" if cross_input else "attn")

    def _layer(self, layer: int | None) -> int:
        return self.cfg.n_layers if layer is None else layer_index(layer, self.cfg.n_layers, "layer", end=True)
