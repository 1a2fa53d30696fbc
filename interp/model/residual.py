"""The algebra of the residual stream, on what one run left in a cache.

The stream is a sum of *writes*: token and position embeddings, every head, every MLP (or neuron), and biases. The
methods here return those writes as a `Stack` whose rows sum exactly to the stream they decompose. In post-norm models,
where the stream itself passes through norms, every earlier write is carried through each norm at the scale that the
norm had in this run (a norm at a fixed scale is linear), and the norms' biases join the row "bias". Where the run was
edited by hooks, a row "edits" holds what the edits added.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import CacheError, ConfigError, HookNotFoundError, ShapeError, check_choice, describe, did_you_mean
from interp.indices import layer_index
from interp.model.attention import WRITE_PER_HEAD
from interp.model.graph import head_label
from interp.model.norms import Norm
from interp.model.provenance import CHANGED
from interp.model.stream import NormAtScale, Step, StreamPlace, reading_norm, steps
from interp.precision import (
    at_least_float32,
    coarsest,
    equal_up_to_rounding,
    of_one_dtype,
    wide_sum,
    without_autocast,
)
from interp.text import Answer, token_ids

if TYPE_CHECKING:
    from interp.model.transformer import HookedTransformer


@dataclass(frozen=True, repr=False, eq=False)
class Rows:
    """Tensors with labels: `values[i]` belongs to `labels[i]`. `rows["L0H1"]` and `rows[i]` are single ones."""

    values: Tensor
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self.labels, self.values, strict=True)

    def __getitem__(self, row: int | str) -> Tensor:
        if isinstance(row, str):
            if row not in self.labels:
                raise HookNotFoundError(f"no row is called {describe(row)}{did_you_mean(row, self.labels)}")
            row = self.labels.index(row)
        return self.values[row]

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:6]) + (", ..." if len(self) > 6 else "")
        return f"{type(self).__name__}({len(self)} rows of shape {tuple(self.values.shape[1:])}: {shown})"


@dataclass(frozen=True, repr=False, eq=False)
class Stack(Rows):
    """Vectors in the residual stream: `values` is [component, batch, pos, d_model].

    Attributes:
        place: where in the stream the rows sum to it, or None where that is not known.
    """

    place: StreamPlace | None = None


class LogitAttribution(Rows):
    """How much each component adds to a logit or a logit difference: `values` is [component, batch, pos]."""


class ResidualStream:
    """Decompositions of the stream, for an `ActivationCache`."""

    model: "HookedTransformer"
    cfg: TransformerConfig
    edited: bool
    _values: dict[str, Tensor]
    is_current: Callable[[], bool]

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        apply_ln: bool = False,
        mode: Literal["all", "attn", "mlp"] = "all",
    ) -> Stack:
        """Embeddings and the write of every attention and MLP below `layer`, which sum to `resid_pre` there.

        Args:
            layer: 0 to n_layers, negative from the end; None for the stream that the unembedding reads.
            mlp_input: go on to `resid_mid` of `layer`, what its MLP reads.
            apply_ln: through the norm that reads the stream there, see `apply_ln_to_stack`.
            mode: "attn" leaves out what MLPs write, "mlp" what attention writes; both keep the embeddings. Only the
                rows of "all" sum to the stream, so only these have rows for biases and edits where there are any.

        Raises:
            ConfigError: a layer out of range, `mlp_input` where there is no `resid_mid`, another mode, or "mlp" for a
                model without MLPs.
            HookNotFoundError: a needed activation is not in the cache.
        """
        check_choice("mode", mode, ("all", "attn", "mlp"))
        if mode == "mlp" and self.cfg.attn_only:
            raise ConfigError("mode = 'mlp', but attn_only = True: this model has no MLPs")
        attn, mlp = (None if mode == "mlp" else "out"), (None if mode == "attn" else "out")
        return self._decompose(layer, mlp_input, apply_ln, attn=attn, mlp=mlp, rest="all" if mode == "all" else "embed")

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
    ) -> Stack:
        """Embeddings, every head ("L0H1"), every neuron ("L0N7") or MLP ("0_mlp_out"), and "bias": all biases together.

        Arguments and errors as for `decompose_resid`. Neurons need batch * pos * d_mlp * d_model numbers a layer.
        """
        return self._decompose(layer, mlp_input, apply_ln, attn="heads", mlp="neurons" if expand_neurons else "out")

    @torch.no_grad()
    @without_autocast()
    def accumulated_resid(self, layer: int | None = None, incl_mid: bool = False, apply_ln: bool = False) -> Stack:
        """The stream itself before each block ("0_pre", with `incl_mid` also "0_mid"), the last row being at `layer`.

        With `apply_ln` every row goes through the final norm with statistics of its own, as the logit lens reads it
        (nostalgebraist 2020). Errors as for `decompose_resid`.
        """
        stop = self._layer(layer)
        if incl_mid and not self.cfg.has_resid_mid:
            raise ConfigError("incl_mid = True, but blocks without or beside their MLP have no resid_mid")
        rows, labels = [], []
        for block in range(stop):
            rows.append(self._get(f"blocks.{block}.hook_resid_pre"))
            labels.append(f"{block}_pre")
            if incl_mid:
                rows.append(self._get(f"blocks.{block}.hook_resid_mid"))
                labels.append(f"{block}_mid")
        rows.append(self._stream(StreamPlace(stop)))
        labels.append("final_post" if stop == self.cfg.n_layers else f"{stop}_pre")
        stack = torch.stack(rows)
        if apply_ln:
            norm = self.model.ln_final
            stack = norm.at_scale(stack, norm.scale(stack))
            stack = stack if norm.b is None else stack + norm.b.to(stack.device)
        return Stack(stack, labels)

    def stack_head_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every head below `layer` wrote ("L0H0", "L0H1", ...), carried to `layer`. Errors as there."""
        return self._decompose(layer, False, apply_ln, attn="heads", mlp=None, rest=None)

    def stack_neuron_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every neuron below `layer` wrote ("L0N0", ...), carried to `layer`. Errors as there."""
        if self.cfg.attn_only:
            raise ConfigError("attn_only = True: this model has no neurons")
        return self._decompose(layer, False, apply_ln, attn=None, mlp="neurons", rest=None)

    @torch.no_grad()
    @without_autocast()
    def apply_ln_to_stack(self, stack: Stack, layer: int | None = None, mlp_input: bool = False) -> Stack:
        """Components as the norm at `layer` passes them on, at the scale it had in this run; its bias is a last row.

        The rows of a complete decomposition then sum to `hook_normalized`. The norm is ln1 of `layer`, with
        `mlp_input` ln2, for None or n_layers the final one; where the stream is read as it is (post-norm, no norm)
        nothing changes. Raises `ConfigError` for rows that decompose the stream of another place.
        """
        if not isinstance(stack, Stack):
            raise ShapeError(f"rows with labels are needed, Stack(values, labels), not {type(stack).__name__}")
        self.check_weights()
        stop = self._layer(layer)
        if mlp_input and (self.cfg.attn_only or stop == self.cfg.n_layers):
            raise ConfigError(f"layer = {layer} has no MLP, so mlp_input = True names no norm")
        place = StreamPlace(stop, mlp_input)
        # Attention and MLP that stand beside each other read the same stream.
        decomposed = StreamPlace(stop, mlp_input and not self.cfg.parallel_attn_mlp)
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

    # ------------------------------------------------------------------ logits

    @torch.no_grad()
    @without_autocast()
    def logit_attrs(self, stack: Stack, tokens: Answer, incorrect_tokens: Answer | None = None) -> LogitAttribution:
        """How much each component of a final-stream decomposition adds to the logits of `tokens`.

        With `incorrect_tokens`, to the difference of the two logits. Norms need not be folded: components pass the
        final norm at its scale in this run, gain included, its bias and `b_U` are the rows "ln_final_bias" and
        "unembed_bias", and all rows of a complete decomposition sum to the logit (before any soft cap). The values are
        in float32 at least.

        Raises:
            TokenError: a token out of range, or text without a tokenizer or of several tokens.
            ShapeError: answers of another shape than one, [batch] or [batch, pos].
            ConfigError: the rows decompose the stream of an earlier layer.
        """
        read = self.apply_ln_to_stack(stack)
        directions, offset = self.logit_directions(read.values[0], tokens, incorrect_tokens)
        rows = at_least_float32(read.values)
        values = einsum(rows, directions.to(rows), "row batch pos d_model, batch pos d_model -> row batch pos")
        return LogitAttribution(torch.cat([values, offset[None]]), [*read.labels, "unembed_bias"])

    def logit_directions(
        self,
        beside: Float[Tensor, "its_batch its_pos d_model"],
        tokens: Answer,
        incorrect_tokens: Answer | None = None,
    ) -> tuple[Float[Tensor, "its_batch its_pos d_model"], Float[Tensor, "its_batch its_pos"]]:
        """Columns of `W_U` and entries of `b_U` for each position of `beside`, on its device, in float32 at least; with
        two answers the differences. Raises as `logit_attrs`.
        """

        def of_answer(answer: Answer) -> tuple[Tensor, Tensor]:
            ids = self._answers(answer, beside).to(self.model.W_U.device)
            columns, entries = self.model.W_U.T[ids], self.model.b_U[ids]
            return at_least_float32(columns).to(beside.device), at_least_float32(entries).to(beside.device)

        directions, offset = of_answer(tokens)
        if incorrect_tokens is not None:
            others, their_offset = of_answer(incorrect_tokens)
            directions, offset = directions - others, offset - their_offset
        return directions, offset

    def _answers(
        self, tokens: Answer, beside: Float[Tensor, "its_batch its_pos d_model"]
    ) -> Int[Tensor, "its_batch its_pos"]:
        shape = beside.shape[:2]
        ids = token_ids(tokens, self.model.to_answer, self.cfg.d_vocab_out).to(beside.device)
        aligned = ids[:, None] if ids.ndim == 1 else ids
        if ids.ndim > 2 or any(n not in (1, m) for n, m in zip(aligned.shape, shape, strict=False)):
            raise ShapeError(
                f"answers have shape {tuple(ids.shape)}; allowed: one token, [batch] or [batch, pos] = {tuple(shape)}"
            )
        return aligned.expand(shape)

    # ------------------------------------------------------------------ the walk along the stream

    @torch.no_grad()
    @without_autocast()
    def _decompose(
        self,
        layer: int | None,
        mlp_input: bool,
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
        self.check_weights()
        stop = self._layer(layer)
        if mlp_input and (not self.cfg.has_resid_mid or stop == self.cfg.n_layers):
            raise ConfigError(f"mlp_input = True, but layer = {layer} has no resid_mid (no MLP after its attention)")
        if rest is None and stop == 0:
            raise ConfigError(f"layer = {layer}: there is no block below it")
        place = StreamPlace(stop, mlp_input)
        rows: list[Tensor] = []
        labels: list[str] = []
        bias: Tensor | float = 0.0

        def add(values: Tensor, names: list[str], constant: Tensor | float = 0.0) -> None:
            nonlocal bias
            rows.append(values)
            labels.extend(names)
            bias = bias + (at_least_float32(constant) if isinstance(constant, Tensor) else constant)

        def carry(norm: NormAtScale) -> None:
            """Everything so far through a norm of the stream, whose bias joins the others."""
            nonlocal bias
            rows[:] = [norm.linear(row) for row in rows]
            if rest == "all":
                bias = norm.linear(bias + torch.zeros_like(at_least_float32(rows[0][:1])))
                bias = bias if norm.bias is None else bias + norm.bias

        if rest is not None:
            add(self._get("hook_embed")[None], ["embed"])
            if self.cfg.positions_in_stream:
                add(self._get("hook_pos_embed")[None], ["pos_embed"])
        for step in steps(self.cfg, place):
            split = attn if step.part == "attn" else mlp
            if split == "out":
                add(self._get(step.hook_name)[None], [step.label])
            elif split is not None:
                add(*self._written(step, *(self._of_heads(step) if split == "heads" else self._of_neurons(step))))
            if step.stream_norm is not None:
                carry(self.norm(step.stream_norm))

        if rest == "all" and (attn == "heads" or mlp == "neurons" or self.cfg.normalizes_stream):
            rows.append((bias + torch.zeros_like(rows[0][:1])).to(rows[0].dtype))
            labels.append("bias")
        values = torch.cat(rows)
        if rest == "all" and self.edited:
            edits = self._stream(place) - wide_sum(values, 0)
            values = torch.cat([values, edits[None].to(values)])
            labels.append("edits")
        elif rest == "all":
            self._check_sum(values, place)
        stack = Stack(values, labels, place)
        return self.apply_ln_to_stack(stack, layer, mlp_input) if apply_ln else stack

    def _of_heads(self, step: Step) -> tuple[Tensor, list[str]]:
        """What each head of a block writes, before any norm on the write path."""
        attn = self.model.blocks[step.layer].attn
        result = self._values.get(f"blocks.{step.layer}.attn.hook_result")
        if result is None:
            z = self._get(f"blocks.{step.layer}.attn.hook_z")
            z, W_O = of_one_dtype(z, attn.W_O.to(z.device))
            result = einsum(z, W_O, WRITE_PER_HEAD)
        return result.permute(2, 0, 1, 3), [head_label(step.layer, head) for head in range(self.cfg.n_heads)]

    def _of_neurons(self, step: Step) -> tuple[Tensor, list[str]]:
        """What each neuron of a block writes, before any norm on the write path."""
        post = self._get(f"blocks.{step.layer}.mlp.hook_post")
        W_out = self.model.blocks[step.layer].mlp.W_out.to(post.device)
        written = post.permute(2, 0, 1)[..., None] * W_out[:, None, None, :]
        return written, [f"L{step.layer}N{neuron}" for neuron in range(self.cfg.d_mlp)]

    def _written(self, step: Step, rows: Tensor, labels: list[str]) -> tuple[Tensor, list[str], Tensor]:
        """Rows as they reach the stream, their labels, and the bias that is added beside them."""
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
        return NormAtScale(norm, self._get(f"{name}.hook_scale"))

    def _stream(self, place: StreamPlace) -> Tensor:
        stop = place.layer
        if place.mlp_input:
            return self._get(f"blocks.{stop}.hook_resid_mid")
        if stop < self.cfg.n_layers:
            return self._get(f"blocks.{stop}.hook_resid_pre")
        if stop:
            return self._get(f"blocks.{stop - 1}.hook_resid_post")
        vectors = self._get("hook_pos_embed") if self.cfg.positions_in_stream else 0.0
        return self._get("hook_embed") + vectors  # no blocks: the embeddings are the stream

    def _get(self, name: str) -> Tensor:
        """A needed activation."""
        if name not in self._values:
            raise HookNotFoundError(
                f"this needs {name!r}, which the cache does not hold; widen names_filter= (or stop_at_layer=)"
                f"{did_you_mean(name, self._values, 0.8)}"
            )
        return self._values[name]

    def check_weights(self) -> None:
        """The weights that a decomposition reads must still be those of the run."""
        if not self.is_current():
            raise CacheError(CHANGED)

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

    def _layer(self, layer: int | None) -> int:
        return self.cfg.n_layers if layer is None else layer_index(layer, self.cfg.n_layers, "layer", end=True)
