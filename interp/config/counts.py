"""How many parameters a model of a given architecture has."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.config.architecture import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters by component, over all layers.

    Attributes:
        embed: `W_E`, and the vectors of token types.
        pos_embed: `W_pos` where it is learned, or `W_rel`; fixed tables are not parameters.
        attention: `W_Q W_K W_V W_O` and their biases, of cross-attention too.
        mlp: `W_in W_out`, `W_gate` where there is one, and their biases.
        norms: gains and biases, of the norms of queries and keys and of neurons ("solu_ln") too.
        unembed: `W_U` and `b_U`; `b_U` alone where `W_U` is tied to `W_E`; with the head of a masked-token model.
        pooler: of the vector of a whole sequence, and of the classes on it.
    """

    embed: int
    pos_embed: int
    attention: int
    mlp: int
    norms: int
    unembed: int
    pooler: int = 0

    @property
    def total(self) -> int:
        """All of them, each parameter counted once."""
        return sum(dataclasses.astuple(self))


def count_parameters(cfg: "TransformerConfig") -> ParameterCounts:
    """The parameters that a `HookedTransformer` of this configuration has."""
    d, learned = cfg.d_model, cfg.positional_embedding_type in ("standard", "shortformer")
    attention = _count_attention(cfg, d) + (_count_attention(cfg, cfg.d_memory) if cfg.cross_attention else 0)
    neuron_reads = (2 if cfg.gated_mlp else 1) * (d + 1)
    mlp = 0 if cfg.attn_only else cfg.d_mlp * (neuron_reads + d) + d
    unembed = cfg.d_vocab_out * (1 if cfg.tie_word_embeddings else 1 + d)
    return ParameterCounts(
        embed=(cfg.d_vocab + cfg.n_token_types) * d,
        pos_embed=(cfg.n_ctx * d if learned else 0) + (cfg.relative_buckets or 0) * cfg.n_heads,
        attention=cfg.n_layers * attention,
        mlp=cfg.n_layers * mlp,
        norms=_count_norms(cfg),
        unembed=unembed + (d * (d + 1) if cfg.masked_token_head else 0),
        pooler=(d * (d + 1) if cfg.pooling == "pooler" else 0) + cfg.n_pooled_classes * (d + 1),
    )


def _count_attention(cfg: "TransformerConfig", d_read: int) -> int:
    """Of one layer, whose keys and values read vectors of `d_read`."""
    queries, keys = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
    return 2 * queries * cfg.d_model + 2 * keys * d_read + (queries + 2 * keys + cfg.d_model)


def _count_norms(cfg: "TransformerConfig") -> int:
    inside = 2 * cfg.d_head * (2 if cfg.cross_attention else 1) if cfg.use_qk_norm else 0
    inside += 2 * cfg.d_mlp if cfg.norms_neurons else 0  # d_mlp is 0 in an attention-only model
    if cfg.normalization_type is None:
        return cfg.n_layers * inside
    sublayers = cfg.n_layers * (1 + (not cfg.attn_only) + cfg.cross_attention)
    norms = sublayers * (2 if cfg.norm_position == "both" else 1)
    norms += cfg.norms_reads + cfg.embed_norm + cfg.masked_token_head - (cfg.n_layers > 0 and not cfg.first_ln1)
    return norms * (2 if cfg.normalization_type == "LN" else 1) * cfg.d_model + cfg.n_layers * inside
