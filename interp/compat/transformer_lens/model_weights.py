"""The weights of a `HookedTransformer` in TransformerLens's words."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import interp
from interp.checkpoints import from_transformer_lens
from interp.compat.transformer_lens import utils
from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.config import FOLDED
from interp.compat.transformer_lens.factored_matrix import FactoredMatrix
from interp.compat.transformer_lens.hook_points import HookedRootModule
from interp.errors import check_choice

THEIR_ORDER = ("W_E", "W_pos", "W_Q", "W_O", "W_K", "W_V", "W_in", "W_out", "W_gate", "W_U")
"""Of weights within a layer, as TransformerLens draws them, so that a seed gives the same numbers."""


def _of_core(name: str) -> Any:
    return property(lambda self: getattr(self.core, name), doc=f"`{name}` of the core, of all layers where it has any.")


class HasWeights(HookedRootModule):
    """The part of a model that names its weights, draws them and takes others."""

    core: interp.HookedTransformer
    cfg: Any
    blocks: Any

    W_E, W_pos, W_U, b_U = map(_of_core, ("W_E", "W_pos", "W_U", "b_U"))
    W_Q, W_K, W_V, W_O = map(_of_core, ("W_Q", "W_K", "W_V", "W_O"))
    b_Q, b_K, b_V, b_O = map(_of_core, ("b_Q", "b_K", "b_V", "b_O"))
    W_in, W_out, b_in, b_out = map(_of_core, ("W_in", "W_out", "b_in", "b_out"))
    W_gate = property(lambda self: self.core.W_gate if self.cfg.gated_mlp else None, doc="Gates, or None.")
    W_E_pos = property(lambda self: torch.cat([self.W_E, self.W_pos]), doc="Token and position vectors as one table.")
    QK = property(lambda self: FactoredMatrix(self.W_Q, self.W_K.mT), doc="`W_Q W_K^T`, not divided by the scale.")
    OV = property(lambda self: FactoredMatrix(self.W_V, self.W_O), doc="`W_V W_O`.")

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, "d_model"]:
        """The sum of all biases written before `layer`, with `mlp_input` also by its attention."""
        total = torch.zeros(self.cfg.d_model, device=self.core.W_E.device)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O
            total = total + block.mlp.b_out if include_mlp_biases and not self.cfg.attn_only else total
        ensure(not mlp_input or layer < self.cfg.n_layers, "Cannot include attn_bias from beyond the final layer")
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    def all_composition_scores(self, mode: str) -> Float[Tensor, "layer head later_layer later_head"]:
        """How much each head is read by each later one, through its "Q", "K" or "V"; 0 for heads that are not later."""
        check_choice("mode", mode, ("Q", "K", "V"))
        scores = utils.composition_scores(self.OV, {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode])
        layers = torch.arange(self.cfg.n_layers, device=scores.device)
        return torch.where(layers[:, None, None, None] < layers[:, None], scores, 0)

    def all_head_labels(self) -> list[str]:
        """The names of all heads: "L0H0", ..."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw all weights anew, normal as GPT-2's, from torch's generator, which `cfg.seed` sets first."""
        if self.cfg.seed is not None:
            torch.manual_seed(self.cfg.seed)
        layers = {"embed": -1, "pos_embed": -1, "unembed": self.cfg.n_layers}
        weights = {tuple(name.split(".")): weight for name, weight in self.named_parameters() if ".W_" in f".{name}"}
        for at in sorted(
            weights, key=lambda at: (int(at[1]) if at[0] == "blocks" else layers[at[0]], THEIR_ORDER.index(at[-1]))
        ):
            weights[at].normal_(std=self.cfg.initializer_range)

    def _left_out(self) -> set[str]:
        """Weights that TransformerLens has not: gains that are folded, and biases of gates that are 0."""
        norms = ("ln1", "ln2", "ln_final", "mlp.ln") if self.cfg.normalization_type in FOLDED.values() else ()
        folded = tuple(f"{norm}.{kind}" for norm in norms for kind in ("w", "b"))
        found = super().named_parameters()
        return {name for name, one in found if name.endswith(folded) or (name.endswith("b_gate") and not one.any())}

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name; without `b_in` beside a gate, which in TransformerLens does what `b_out` does."""
        gone = (*self._left_out(), *(["mlp.b_in", "mlp.b_gate"] if self.cfg.gated_mlp else []))
        return ((name, one) for name, one in super().named_parameters(*args, **kwargs) if not name.endswith(gone))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights by the names that TransformerLens gives them, which scales token vectors, and ties none."""
        gone, cfg, underscore = self._left_out(), self.core.cfg, "_" * (self.cfg.n_key_value_heads is not None)
        found = {
            re.sub(r"attn\.(?=[Wb]_[KV])", f"attn.{underscore}", name.replace("embed_ln.", "embed.ln.")): value
            for name, value in super().state_dict(*args, **kwargs).items()
            if name not in gone
        }
        tied = {"unembed.W_U": found["embed.W_E"].T} if cfg.tie_word_embeddings else {}
        scaled = {"embed.W_E": found["embed.W_E"] * cfg.embed_scale} if cfg.embed_scale != 1 else {}
        return found | scaled | tied

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take weights by TransformerLens's names; see `interp.checkpoints.from_transformer_lens`.

        With `strict=False` those that are there are taken. Raises `CheckpointError` naming the tensor that is missing,
        surplus, or of another shape, and `RuntimeError` as every module.
        """
        if strict:
            return self.core.load_state_dict(from_transformer_lens(state_dict, self.core.cfg), assign=assign)
        found = {name.replace("attn._", "attn.").replace("embed.ln.", "embed_ln."): value
                 for name, value in state_dict.items()}  # fmt: skip
        own = self.core.state_dict()
        beside_gates = [name for name in found if name.endswith("mlp.b_in") and self.cfg.gated_mlp]
        wrong = [name for name in beside_gates if found[name].any() and not found[name].equal(own[name])]
        ensure(not wrong, f"{wrong} are not zero: there they are added after the product with the gate, here before; "
                          "add b_in @ W_out to b_out instead")  # fmt: skip
        if "embed.W_E" in found and self.core.cfg.embed_scale != 1:
            found["embed.W_E"] = found["embed.W_E"] / self.core.cfg.embed_scale
        return self.core.load_state_dict(found, strict=False, assign=assign)
