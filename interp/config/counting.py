"""How many parameters a configuration means, without making any."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.config.architecture import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters by component, over all layers.

    Attributes:
        embed: `W_E`.
        pos_embed: `W_pos` where it is learned; fixed tables are not parameters.
        attention: `W_Q W_K W_V W_O` and their biases.
        mlp: `W_in W_out`, `W_gate` where there is one, and their biases.
        norms: gains and biases, of the norms of queries and keys too.
        unembed: `W_U` and `b_U`; `b_U` alone where `W_U` is tied to `W_E`.
    """

    embed: int
    pos_embed: int
    attention: int
    mlp: int
    norms: int
    unembed: int

    @property
    def total(self) -> int:
        """All of them, each parameter counted once."""
        return sum(dataclasses.astuple(self))


def count_parameters(cfg: "TransformerConfig") -> ParameterCounts:
    """The parameters that a `HookedTransformer` of this configuration has."""
    embedding, learned = cfg.d_vocab * cfg.d_model, cfg.positional_embedding_type in ("standard", "shortformer")
    queries, keys = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
    attention = 2 * (queries + keys) * cfg.d_model + (queries + 2 * keys + cfg.d_model)
    neuron_reads = (2 if cfg.gated_mlp else 1) * (cfg.d_model + 1)
    mlp = 0 if cfg.attn_only else cfg.d_mlp * (neuron_reads + cfg.d_model) + cfg.d_model
    return ParameterCounts(
        embed=embedding,
        pos_embed=cfg.n_ctx * cfg.d_model if learned else 0,
        attention=cfg.n_layers * attention,
        mlp=cfg.n_layers * mlp,
        norms=_count_norms(cfg),
        unembed=cfg.d_vocab + (0 if cfg.tie_word_embeddings else embedding),
    )


def _count_norms(cfg: "TransformerConfig") -> int:
    of_queries_and_keys = cfg.n_layers * 2 * cfg.d_head if cfg.use_qk_norm else 0
    if cfg.normalization_type is None:
        return of_queries_and_keys
    sublayers = cfg.n_layers * (1 if cfg.attn_only else 2)
    norms = sublayers * (2 if cfg.norm_position == "both" else 1) + (1 if cfg.norms_reads else 0)
    return norms * (2 if cfg.normalization_type == "LN" else 1) * cfg.d_model + of_queries_and_keys
