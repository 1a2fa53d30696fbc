"""The weights of all layers at once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, ReadOnlyError
from interp.factored import FactoredMatrix
from interp.model.components import Embed, PosEmbed, Unembed
from interp.model.read_only import ReadOnly

if TYPE_CHECKING:
    from interp.model.block import Block


class StackedWeights:
    """A model's weights stacked over layers, keys and values repeated to the query heads.

    The stacked ones are copies, made when they are asked for, and cannot be written (`ReadOnlyError`): to change a
    model, write to a block's own parameter (`model.blocks[l].attn.W_Q[h] = ...` under `torch.no_grad()`).
    """

    cfg: TransformerConfig
    blocks: Sequence["Block"]
    embed: Embed
    pos_embed: PosEmbed
    unembed: Unembed

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(StackedWeights, name, None), property):
            self._refuse_assignment(name, value)
        else:
            super().__setattr__(name, value)

    def _refuse_assignment(self, name: str, value: Any) -> None:
        """Nothing after `model.W_E += 1`, which wrote in place before it came here; else `ReadOnlyError`."""
        own = getattr(self, name)
        if isinstance(value, Tensor) and isinstance(own, Tensor):
            same_numbers = value.data_ptr() == own.data_ptr() and value.stride() == own.stride()
            if same_numbers and value.shape == own.shape and value.dtype == own.dtype:
                return
        parts = [path for path, _ in cast(torch.nn.Module, self).named_parameters() if path.endswith(f".{name}")]
        where = f"such as model.{parts[0]}[:] = ..." if parts else "those that it is made of"
        raise ReadOnlyError(f"model.{name} is read from the parameters of the model's parts and cannot be replaced; to "
                            f"change the model, write to these under torch.no_grad(), {where}")  # fmt: skip

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """The position vectors. Raises `ConfigError` where positions have none (rotary, none)."""
        if not self.cfg.has_position_vectors:
            raise ConfigError(f"positions are {self.cfg.positional_embedding_type!r} in this model: there is no W_pos")
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """The unembedding; a writable view of `W_E^T` where the two are tied.

        Raises `ConfigError` for a model without one.
        """
        self._check_unembed("W_U")
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, "d_vocab_out"]:
        """The bias of the logits. Raises `ConfigError` for a model without an unembedding."""
        self._check_unembed("b_U")
        return self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Queries."""
        return self._of_heads("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Keys."""
        return self._of_heads("W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Values."""
        return self._of_heads("W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """What each head writes."""
        return self._of_heads("W_O")

    @property
    def QK(self) -> FactoredMatrix:
        """What queries seek in keys, `W_Q W_K^T / attn_scale` [layer, head, d_model, d_model] (Elhage et al. 2021).

        A score is `query_read @ QK @ key_read`, where each side is the stream as the head reads it, with the biases and
        (where there are any) the norms of queries and keys, the soft cap and the rotation left aside: in a rotary model
        it is the circuit at distance 0. These are the heads that attend to the stream: a head of cross-attention has
        `FactoredMatrix(W_Q / attn_scale, W_K.mT)` of `blocks[layer].cross_attn`, whose keys read the memory.
        """
        return FactoredMatrix(self.W_Q / self.cfg.attn_scale, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """What a head writes for what it attends to, `W_V W_O` [layer, head, d_model, d_model], biases left aside.

        These are the heads that attend to the stream, as for `QK`.
        """
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases."""
        return self._of_heads("b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases."""
        return self._of_heads("b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases."""
        return self._of_heads("b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """What attention writes whatever it attends to."""
        return self._of_attns("b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """What each neuron reads. Raises `ConfigError` without MLPs."""
        return self._of_mlps("W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """What each neuron's gate reads. Raises `ConfigError` without gated MLPs."""
        return self._of_mlps("W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """What each neuron writes. Raises `ConfigError` without MLPs."""
        return self._of_mlps("W_out")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """Biases of the neurons. Raises `ConfigError` without MLPs."""
        return self._of_mlps("b_in")

    @property
    def b_gate(self) -> Float[Tensor, "layer d_mlp"]:
        """Biases of the gates. Raises `ConfigError` without gated MLPs."""
        return self._of_mlps("b_gate")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """What an MLP writes whatever its neurons do. Raises `ConfigError` without MLPs."""
        return self._of_mlps("b_out")

    def _check_unembed(self, name: str) -> None:
        if not self.cfg.has_unembed:
            raise ConfigError(f"d_vocab_out = 0: this model has no unembedding, so there is no {name}")

    def _of_heads(self, name: str) -> Tensor:
        per_layer = self._stack("attn", name)
        repeated = per_layer.repeat_interleave(self.cfg.n_heads // per_layer.shape[1], dim=1)
        return ReadOnly.of(repeated, f"model.blocks[layer].attn.{name}")

    def _of_attns(self, name: str) -> Tensor:
        return ReadOnly.of(self._stack("attn", name), f"model.blocks[layer].attn.{name}")

    def _of_mlps(self, name: str) -> Tensor:
        if self.cfg.attn_only or (name.endswith("gate") and not self.cfg.gated_mlp and self.cfg.n_layers):
            kind = "attention-only" if self.cfg.attn_only else "without gates"
            raise ConfigError(f"this model is {kind}: there is no {name}")
        return ReadOnly.of(self._stack("mlp", name), f"model.blocks[layer].mlp.{name}")

    def _stack(self, part: str, name: str) -> Tensor:
        if self.cfg.n_layers == 0:
            raise ConfigError(f"n_layers = 0: this model is without blocks, so there is no {name}")
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])
