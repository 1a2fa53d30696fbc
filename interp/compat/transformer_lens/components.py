"""`transformer_lens.components`: names for the core's parts, to make them and to recognise them.

`isinstance(model.ln_final, LayerNorm)` holds for a LayerNorm of any model, and not for an RMSNorm. A norm whose gain
and bias are folded away is a LayerNormPre or RMSNormPre, too. `MLP(cfg)` makes the core's part, its weights not set.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

import interp.model as core
from interp.compat.transformer_lens.checks import ensure, refusals
from interp.compat.transformer_lens.config import HookedTransformerConfig
from interp.config import TransformerConfig


class Part:
    """Stands where a class stands: a call makes a part, and `isinstance` knows such parts of any model."""

    def __init__(self, fits: Callable[[Any], bool], make: Callable[..., nn.Module]):
        self._fits, self._make = fits, make

    def __instancecheck__(self, part: object) -> bool:
        return self._fits(part)

    def __call__(self, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        """Of a config, or its fields as a dictionary, and what TransformerLens's class takes beside it."""
        said = HookedTransformerConfig.unwrap(cfg)
        return self._make((said.of_model(d_vocab=1, d_vocab_out=1) if said.d_vocab == -1 else said).to_core(),
                          *args, **kwargs)  # fmt: skip


def _norm(kind: Any, folded: bool) -> Any:
    def fits(part: Any) -> bool:
        if not isinstance(part, core.Norm) or part.kind != kind or part.w is None:
            return False
        return not folded or bool((part.w == 1).all() and (part.b is None or (part.b == 0).all()))

    def make(cfg: TransformerConfig, length: int | None = None) -> nn.Module:
        return core.Norm(kind, length or cfg.d_model, cfg.eps).requires_grad_(not folded)

    return Part(fits, make)


def _attention(fits: Callable[[int, int], bool]) -> Any:
    def make(cfg: TransformerConfig, attn_type: str = "global", layer_id: int | None = None) -> nn.Module:
        part, window = core.Attention(cfg, layer_id or 0), cfg.window_size
        size = window[part.layer] if isinstance(window, tuple) else window
        ensure((size is None) == (attn_type == "global"), f"attn_type = {attn_type!r}, and the config says otherwise")
        return part

    return Part(lambda part: isinstance(part, core.Attention) and fits(len(part.W_K), len(part.W_Q)), make)


def _mlp(gated: bool) -> Any:
    return Part(lambda part: isinstance(part, core.MLP) and part.gated == gated,
                lambda cfg: core.MLP(dataclasses.replace(cfg, gated_mlp=gated)))  # fmt: skip


def _unembed(cfg: TransformerConfig) -> nn.Module:
    cfg = dataclasses.replace(cfg, tie_word_embeddings=False)
    return core.Unembed(cfg, core.Embed(cfg))


LayerNorm, LayerNormPre = _norm("LN", folded=False), _norm("LN", folded=True)
RMSNorm, RMSNormPre = _norm("RMS", folded=False), _norm("RMS", folded=True)
MLP, GatedMLP = _mlp(gated=False), _mlp(gated=True)
Embed: Any = Part(lambda part: isinstance(part, core.Embed), core.Embed)
Unembed: Any = Part(lambda part: isinstance(part, core.Unembed), _unembed)
TransformerBlock: Any = Part(lambda part: isinstance(part, core.Block), core.Block)
Attention = _attention(lambda keys, heads: keys == heads)
GroupedQueryAttention = _attention(lambda keys, heads: keys < heads)
AbstractAttention = _attention(lambda keys, heads: True)


class PosEmbed(core.PosEmbed):
    """Rows of `W_pos` for the positions of tokens."""

    @classmethod
    def over(cls, part: core.PosEmbed) -> "PosEmbed":
        """The same parameters, to be called with tokens."""
        made = cls.__new__(cls)
        vars(made).update(vars(part))
        return made

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens: Int[Tensor, "batch pos"],
        past_kv_pos_offset: int = 0,
        attention_mask: Int[Tensor, "batch offset_pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The same rows for every sequence, whatever its tokens are; by a mask of all positions, none for padding."""
        end = past_kv_pos_offset + tokens.shape[1]
        mask = tokens.new_ones(len(tokens), end) if attention_mask is None else attention_mask
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past_kv_pos_offset:]
        return super().forward(positions) * mask[:, past_kv_pos_offset:end, None]


__getattr__ = refusals(__name__)
