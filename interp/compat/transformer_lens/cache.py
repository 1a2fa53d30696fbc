"""`ActivationCache`: activations by name, and the stream taken apart, as bare tensors in TransformerLens's rows.

In every method `layer` counts blocks from 0, and n_layers, -1 and None all mean the final stream. `pos_slice` takes
positions, `apply_ln` passes the rows through the norm that reads the stream at `layer`, and `return_labels` gives
(rows, labels). Everything here is linear in what is cached, so that a cache of gradients or differences works as well.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

import interp
from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.utils import Slice, SliceInput, get_act_name
from interp.errors import HookNotFoundError, check_choice, describe, did_you_mean

if TYPE_CHECKING:
    from interp.compat.transformer_lens.model import HookedTransformer

Where = Slice | SliceInput
Rows = Float[Tensor, "row ..."]


class ActivationCache(Mapping[str, Tensor]):
    """What a run left, or a dictionary with such names.

    Attributes:
        cache_dict: the tensors by name.
        model: whose points these are.
        has_batch_dim: whether the first axis is the batch.
        core: the same run as an `interp.ActivationCache`, or None for a dictionary that is no run. It does not see what
            is written to `cache_dict`.
    """

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: "HookedTransformer",
        has_batch_dim: bool = True,
        core: interp.ActivationCache | None = None,
    ):
        self.cache_dict, self.model, self.has_batch_dim, self.core = cache_dict, model, has_batch_dim, core

    has_embed = property(lambda self: "hook_embed" in self.cache_dict, doc="Whether token vectors are here.")
    has_pos_embed = property(lambda self: "hook_pos_embed" in self.cache_dict, doc="Whether position vectors are.")

    # ------------------------------------------------------------------ a mapping

    def __getitem__(self, key: Any) -> Tensor:
        """By full name, by shorthand ("k3"), or by ("k", 3), ("scale", -1, "ln1")."""
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        parts = (key,) if isinstance(key, str) else tuple(key)
        if len(parts) > 1 and parts[1] is not None and parts[1] < 0:
            parts = (parts[0], self.model.cfg.n_layers + parts[1], *parts[2:])
        name = get_act_name(*parts)
        if name not in self.cache_dict:
            near = did_you_mean(name, self.cache_dict)
            raise HookNotFoundError(f"{describe(key)} is {name!r}, which is not in this cache{near}")
        return self.cache_dict[name]

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __repr__(self) -> str:
        return f"ActivationCache with keys {list(self.cache_dict)}"

    def to(self, device: str | torch.device, move_model: bool = False) -> "ActivationCache":
        """Move all tensors, and the model if asked, to a device; returns this cache."""
        self.cache_dict = {name: value.to(device) for name, value in self.items()}
        self.core = None if self.core is None else self.core.to(device)
        if move_model:
            self.model.to(device)
        return self

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Switch gradients on or off for all of torch, not for this cache alone."""
        warnings.warn(f"changed the global state: torch.set_grad_enabled({mode})", stacklevel=2)
        torch.set_grad_enabled(mode)

    def remove_batch_dim(self) -> "ActivationCache":
        """Take the batch axis of size 1 off all tensors; returns this cache. Raises `LensError` for a larger batch."""
        if not self.has_batch_dim:
            warnings.warn("this cache has no batch dimension any more", stacklevel=2)
            return self
        for name, value in self.items():
            ensure(len(value) == 1, f"cannot remove a batch dimension of size {len(value)}, that of {name}")
        self.cache_dict.update({name: value[0] for name, value in self.items()})
        self.has_batch_dim = False
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Where) -> "ActivationCache":
        """A cache of some prompts; one integer takes the batch axis away."""
        batch = Slice(batch_slice)
        ensure(self.has_batch_dim or batch.mode == "identity", "Cannot index into a cache without a batch dim")
        values = {name: batch.apply(value) for name, value in self.items()}
        return ActivationCache(values, self.model, self.has_batch_dim and batch.mode != "int")

    def stack_activation(
        self, activation_name: str, layer: int = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """One activation of all layers before `layer`, stacked; -1 for all layers."""
        n = self.model.cfg.n_layers if layer in (None, -1) else layer
        return torch.stack([self[activation_name, one, sublayer_type] for one in range(n)])

    # ------------------------------------------------------------------ the stream taken apart

    def _layer(self, layer: int | None) -> int:
        return self.model.cfg.n_layers if layer is None or layer == -1 else layer

    def _rows(
        self, rows: Rows, labels: list[str], layer: int, mlp_input: bool, apply_ln: bool, pos: Slice, labelled: bool
    ) -> Any:
        """What a method returns: the rows, through the norm and with labels if asked."""
        rows = self.apply_ln_to_stack(rows, layer, mlp_input, pos) if apply_ln else rows
        return (rows, labels) if labelled else rows

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Where = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream before each block up to `layer`, with `incl_mid` also between attention and MLP.

        With `apply_ln` every row is divided by the scale of the norm at `layer`, the last stream's.
        """
        layer, pos = self._layer(layer), Slice(pos_slice)
        rows: dict[str, Tensor] = {}
        for block in range(min(layer + 1, self.model.cfg.n_layers)):
            rows[f"{block}_pre"] = self["resid_pre", block]
            if (incl_mid and block < layer) or (mlp_input and block == layer):
                rows[f"{block}_mid"] = self["resid_mid", block]
        if layer == self.model.cfg.n_layers:
            rows["final_post"] = self["resid_post", layer - 1]
        stack = torch.stack([pos.apply(row, -2) for row in rows.values()])
        return self._rows(stack, list(rows), layer, mlp_input, apply_ln, pos, return_labels)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Where = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Embeddings and the output of every attention and MLP before `layer`, or of those that `mode` names."""
        check_choice("mode", mode, ("all", "mlp", "attn"))
        layer, pos = self._layer(layer), Slice(pos_slice)
        rows = self._embeds() if incl_embeds else {}
        parts = [*(["attn_out"] if mode != "mlp" else []),
                 *(["mlp_out"] if mode != "attn" and not self.model.cfg.attn_only else [])]  # fmt: skip
        rows |= {f"{block}_{part}": self[part, block] for block in range(layer) for part in parts}
        if mlp_input and mode != "mlp":
            rows[f"{layer}_attn_out"] = self["attn_out", layer]
        stack = torch.stack([pos.apply(row, -2) for row in rows.values()])
        return self._rows(stack, list(rows), layer, mlp_input, apply_ln, pos, return_labels)

    def _embeds(self) -> dict[str, Tensor]:
        return {name: self.cache_dict[f"hook_{name}"] for name in ("embed", "pos_embed")
                if f"hook_{name}" in self.cache_dict}  # fmt: skip

    def compute_head_results(self) -> None:
        """Put every head's own write, `z W_O`, into the cache, if it is not there."""
        if "blocks.0.attn.hook_result" in self.cache_dict:
            return
        for layer, block in enumerate(self.model.blocks):
            z = self["z", layer, "attn"]
            self.cache_dict[f"blocks.{layer}.attn.hook_result"] = torch.einsum(
                "...hd,hdm->...hm", z, block.attn.W_O.to(z)
            )

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Where = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head before `layer` writes, "L0H0", ..., and with `incl_remainder` the rest of the stream."""
        layer, pos = self._layer(layer), Slice(pos_slice)
        self.compute_head_results()
        written = [pos.apply(self["result", block, "attn"], -3) for block in range(layer)]
        labels = [f"L{block}H{head}" for block in range(layer) for head in range(self.model.cfg.n_heads)]
        stack = self._single_rows(written, labels, layer, pos, incl_remainder)
        return self._rows(stack, labels, layer, False, apply_ln, pos, return_labels)

    def get_neuron_results(
        self, layer: int, neuron_slice: Where = None, pos_slice: Where = None
    ) -> Float[Tensor, "... neuron d_model"]:
        """What each neuron of a layer writes."""
        neurons, acts = Slice(neuron_slice), Slice(pos_slice).apply(self["post", layer, "mlp"], -2)
        W_out = self.model.blocks[layer].mlp.W_out.to(acts)
        return neurons.apply(acts, -1)[..., None] * neurons.apply(W_out, 0)

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Where = None,
        neuron_slice: Where = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
    ) -> Any:
        """What each neuron before `layer` writes, "L0N0", ..., and with `incl_remainder` the rest of the stream."""
        layer, pos, neurons = self._layer(layer), Slice(pos_slice), Slice(neuron_slice)
        neurons = Slice([neurons.slice]) if neurons.mode == "int" else neurons
        written = [self.get_neuron_results(block, neurons, pos) for block in range(layer)]
        numbers = neurons.indices(self.model.cfg.d_mlp)
        labels = [f"L{block}N{neuron}" for block in range(layer) for neuron in numbers]
        stack = self._single_rows(written, labels, layer, pos, incl_remainder)
        return self._rows(stack, labels, layer, False, apply_ln, pos, return_labels)

    def _single_rows(
        self, written: list[Float[Tensor, "... part d_model"]], labels: list[str], layer: int, pos: Slice, rest: bool
    ) -> Rows:
        """Parts as rows, and what they leave of the stream after the last block before `layer`."""
        if written:
            stack = torch.cat(written, dim=-2).movedim(-2, 0)
        else:
            shape = pos.apply(self["hook_embed"] if not rest else self["resid_post", layer - 1], -2)
            stack = shape.new_zeros(0, *shape.shape)
        if rest:
            stack = torch.cat([stack, (pos.apply(self["resid_post", layer - 1], -2) - stack.sum(dim=0))[None]])
            labels.append("remainder")
        return stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Where = None,
        return_labels: bool = False,
        project_output_onto: Float[Tensor, "d_model ..."] | None = None,
    ) -> Any:
        """Heads, neurons (or MLPs), embeddings and "bias", all biases together, in this order.

        With `project_output_onto`, [d_model] or [d_model, d_out], the rows' products with that.
        """
        layer, pos = self._layer(layer), Slice(pos_slice)
        stack, labels = self.stack_head_results(layer + mlp_input, True, pos_slice=pos)
        rows = [stack]
        if not self.model.cfg.attn_only and layer > 0:
            mlps, more = (
                self.stack_neuron_results(layer, pos, return_labels=True)
                if expand_neurons
                else self.decompose_resid(layer, mlp_input, "mlp", False, pos, False, True)
            )
            rows, labels = [*rows, mlps], labels + more
        rows += [pos.apply(row, -2)[None] for row in self._embeds().values()]
        bias = self.model.accumulated_bias(layer, mlp_input, include_mlp_biases=expand_neurons)
        rows.append(bias.to(stack).expand(1, *stack.shape[1:]))
        labels = [*labels, *self._embeds(), "bias"]
        whole = self._rows(torch.cat(rows), labels, layer, mlp_input, apply_ln, pos, False)
        whole = whole if project_output_onto is None else whole @ project_output_onto
        return (whole, labels) if return_labels else whole

    # ------------------------------------------------------------------ norms and logits

    def apply_ln_to_stack(
        self,
        residual_stack: Rows,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Where = None,
        batch_slice: Where = None,
        has_batch_dim: bool = True,
    ) -> Rows:
        """Rows divided by the scale of the norm that reads the stream at `layer`, for LayerNorm without their mean.

        The norm's gain and bias are left out: this is the whole norm where they are folded into the weights. The slices
        say of which positions and prompts the rows are.
        """
        cfg = self.model.cfg
        if cfg.normalization_type is None:
            return residual_stack
        layer, pos, batch = self._layer(layer), Slice(pos_slice), Slice(batch_slice)
        stack = batch.apply(residual_stack, 1) if has_batch_dim else residual_stack
        if cfg.normalization_type.startswith("LN"):
            stack = stack - stack.mean(dim=-1, keepdim=True)
        norm = "ln_final" if layer == cfg.n_layers else f"blocks.{layer}.ln{2 if mlp_input else 1}"
        scale = pos.apply(self[f"{norm}.hook_scale"], -2)
        return stack / (batch.apply(scale) if self.has_batch_dim else scale)

    def logit_attrs(
        self,
        residual_stack: Rows,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Where = None,
        batch_slice: Where = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "row ..."]:
        """How much each row of a final stream adds to the logit of a token, or to the difference of two.

        Tokens are one (text or id), [batch] or [batch, pos]. Raises `ValueError` for two of different shapes.
        """
        answers = [tokens] if incorrect_tokens is None else [tokens, incorrect_tokens]
        ids = [torch.as_tensor(self.model.to_single_token(a) if isinstance(a, str) else a) for a in answers]
        if ids[0].shape != ids[-1].shape:
            shapes = " and ".join(str(tuple(one.shape)) for one in ids)
            raise ValueError(f"tokens and incorrect_tokens must have the same shape, not {shapes}")
        direction, *other = map(self.model.tokens_to_residual_directions, ids)
        direction = direction - other[0] if other else direction
        rows = self.apply_ln_to_stack(residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim)
        return (rows * direction.to(rows.device)).sum(dim=-1)
