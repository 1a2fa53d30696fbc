"""State dicts of the `HookedTransformer` of TransformerLens 1 to 3, to ours and back.

Most names are the same on both sides. There, grouped keys and values have an underscore (`_W_K`), the norm of the
embeddings is a part of these, an unembedding that is tied is stored nevertheless, and `embed_scale` is multiplied into
`W_E`. Norms without gain and bias ("LNPre", "RMSPre": these were folded) have no tensors. Causal masks and rotary
tables are stored, too; they say nothing that a config does not say, so they are only compared with it.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.checkpoints.layout import Weight, weight
from interp.checkpoints.sources import Dictionary, check_tensors
from interp.config import TransformerConfig, rotary_angles
from interp.errors import CheckpointError, ConfigError, describe

NAME = "TransformerLens state dict"
UNEMBED = "unembed.W_U"


def from_transformer_lens(
    weights: Mapping[str, Tensor] | str | os.PathLike[str], cfg: TransformerConfig
) -> dict[str, Tensor]:
    """The state dict of our model, from that of a `HookedTransformer` of TransformerLens.

        model = HookedTransformer(cfg)
        model.load_state_dict(from_transformer_lens(their_model.state_dict(), cfg))

    Args:
        weights: their state dict, or a `.safetensors` file of it. A file of torch is a pickle, which can run any code;
            it is never loaded here (`torch.load(path, weights_only=True)` gives what may be passed).
        cfg: the architecture in our words. What a state dict does not show (activation function, `eps`, scales, caps)
            is taken on trust.

    Tensors are views of those given where no value changes, in the dtype that they have. Gains and biases of norms that
    were folded are ones and zeros.

    Raises `CheckpointError` naming the tensor that is missing, surplus, of another shape, or at odds with `cfg`; and
    `ConfigError` for an architecture that TransformerLens does not have.
    """
    _check_expressible(cfg)
    source = Dictionary(_read(weights), NAME)
    held = {_our_spelling(name, source): name for name in source.tensors}
    for name in [name for name in held if name.rsplit(".", 1)[-1] in CONSTANTS]:
        _check_constant(name, source.read(held.pop(name)), cfg)
    layout = list(_layout(cfg))
    folded = [one for one in layout if one.optional]
    if not any(one.theirs in held for one in folded):
        layout = [one for one in layout if not one.optional]
    found = {name: source.tensors[own][0] for name, own in held.items()}
    expected = {one.theirs: one.shape for one in layout} | dict(_beside(cfg))
    check_tensors(found, expected, lambda name: f"{NAME}: tensor {held.get(name, name)!r}", "the config says")
    ours = {}
    for one in layout:
        theirs = source.read(held[one.theirs])
        ours |= {piece.ours: piece.take(theirs, theirs.dtype) for piece in one.pieces}
    some = next(iter(ours.values()))
    for one in folded if len(folded) and folded[0] not in layout else ():
        fill = torch.ones if one.theirs.endswith(".w") else torch.zeros
        ours[one.pieces[0].ours] = fill(one.shape, dtype=some.dtype, device=some.device)
    return ours | _from_beside({name: source.read(held[name]) for name, _ in _beside(cfg)}, ours, cfg)


def to_transformer_lens(weights: Mapping[str, Tensor], cfg: TransformerConfig) -> dict[str, Tensor]:
    """The state dict of a `HookedTransformer` of TransformerLens, from that of our model of this config.

        their_model.load_state_dict(to_transformer_lens(model.state_dict(), model.cfg))

    Their norms have gains and biases then ("LN" or "RMS", not "LNPre" or "RMSPre"), and masks and rotary tables are
    included. Positions that are a fixed table are learned ones there.

    Raises `CheckpointError` naming the tensor that is missing, surplus or of another shape, or has no place there, and
    `ConfigError` for an architecture that TransformerLens does not have.
    """
    _check_expressible(cfg)
    source = Dictionary(weights, "state dict")
    gates = [f"blocks.{layer}.mlp.{name}" for layer in range(cfg.n_layers) for name in ("b_gate", "b_in")]
    expected = {one.pieces[0].ours: one.shape for one in _layout(cfg)}
    expected |= dict.fromkeys(gates if cfg.gated_mlp else (), (cfg.d_mlp,))
    found = {name: shape for name, (shape, _) in source.tensors.items()}
    check_tensors(found, expected, lambda name: f"tensor {name!r} of the state dict", "the config says")
    weights = {name: source.read(name) for name in found}
    theirs: dict[str, Tensor] = {}
    for one in _layout(cfg):
        some = weights[one.pieces[0].ours]
        theirs[one.theirs] = torch.zeros(one.shape, dtype=some.dtype, device=some.device)
        for piece in one.pieces:
            piece.put(weights[piece.ours], theirs[one.theirs])
    if cfg.tie_word_embeddings:
        theirs[UNEMBED] = weights["embed.W_E"].T.clone(memory_format=torch.contiguous_format)
    for layer in range(cfg.n_layers if cfg.gated_mlp else 0):
        for name in (f"blocks.{layer}.mlp.b_gate", f"blocks.{layer}.mlp.b_in"):
            if weights[name].any():
                raise CheckpointError(f"TransformerLens has no place for tensor {name!r}, which is not zero")
        theirs[name] = torch.zeros_like(weights[name])  # theirs is added after the product with the gate
    W_E = weights["embed.W_E"]
    for layer in range(cfg.n_layers):
        theirs |= {name: table.to(W_E.device) for name, table in _constants(cfg, layer, W_E.dtype).items()}
    return theirs


def _read(weights: Any) -> Mapping[str, Tensor]:
    if isinstance(weights, Mapping):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise CheckpointError(
            f"weights = {describe(weights)}; allowed: a state dict, or the path of a .safetensors file"
        )
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is no .safetensors file. Files of torch are pickles, which can run any code when they are loaded, "
            "and are never loaded here; pass torch.load(path, weights_only=True), which takes tensors alone"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


# ---------------------------------------------------------------------------------------------- what is where


def _check_expressible(cfg: TransformerConfig) -> None:
    """Raise `ConfigError` for what their `HookedTransformer` does not compute."""
    theirs = {
        "norm_position": ("pre", "both") if cfg.normalization_type else (cfg.norm_position,),
        "positional_embedding_type": (
            "standard", "onehot", "sinusoidal", "sinusoidal_halves", "rotary", "shortformer"
        ),
        "first_ln1": (True,),
        "n_token_types": (0,),
        "d_memory": (0,),
        "masked_token_head": (False,),
        "pooling": (None,),
    }  # fmt: skip
    for name, allowed in theirs.items():
        if getattr(cfg, name) not in allowed:
            raise ConfigError(f"{name} = {getattr(cfg, name)!r}: the HookedTransformer of TransformerLens has "
                              f"{' or '.join(map(repr, allowed))} only")  # fmt: skip
    if not cfg.has_unembed:
        raise ConfigError("d_vocab_out = 0: the HookedTransformer of TransformerLens always has an unembedding")
    if cfg.embed_norm and cfg.positions_in_stream:
        raise ConfigError("embed_norm = True: TransformerLens normalises token vectors before positions are added, and "
                          "this model the sum of the two")  # fmt: skip
    if cfg.gated_mlp and cfg.norms_neurons:
        raise ConfigError("act_fn = 'solu_ln' with gated_mlp = True is another function in TransformerLens")


def _layout(cfg: TransformerConfig) -> Iterator[Weight]:
    """Every tensor of theirs that is one of ours; optional are the gains and biases that folding removes."""
    d, heads, d_head, kv_heads = cfg.d_model, cfg.n_heads, cfg.d_head, cfg.n_key_value_heads
    yield weight("embed.W_E", (cfg.d_vocab, d), "embed.W_E", times=1 / cfg.embed_scale)
    if not cfg.tie_word_embeddings:
        yield weight(UNEMBED, (d, cfg.d_vocab_out), UNEMBED)
    yield weight("unembed.b_U", (cfg.d_vocab_out,), "unembed.b_U")
    if cfg.embed_norm:
        yield from _norm(cfg, "embed.ln", "embed_ln", optional=False)
    if cfg.has_position_vectors:
        yield weight("pos_embed.W_pos", (cfg.n_ctx, d), "pos_embed.W_pos")
    for layer in range(cfg.n_layers):
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        yield from _norm(cfg, f"blocks.{layer}.ln1")
        for x, n in (("Q", heads), ("K", kv_heads), ("V", kv_heads)):
            underscore = "_" if n < heads else ""
            yield weight(f"{attn}.{underscore}W_{x}", (n, d, d_head), f"{attn}.W_{x}")
            yield weight(f"{attn}.{underscore}b_{x}", (n, d_head), f"{attn}.b_{x}")
        yield weight(f"{attn}.W_O", (heads, d_head, d), f"{attn}.W_O")
        yield weight(f"{attn}.b_O", (d,), f"{attn}.b_O")
        for x in "qk" if cfg.use_qk_norm else "":
            yield weight(f"{attn}.{x}_norm.w", (d_head,), f"{attn}.{x}_norm.w")
        if cfg.norm_position == "both":
            yield from _norm(cfg, f"blocks.{layer}.ln1_post", optional=False)
        if cfg.attn_only:
            continue
        yield from _norm(cfg, f"blocks.{layer}.ln2")
        for x in ("in", "gate") if cfg.gated_mlp else ("in",):
            yield weight(f"{mlp}.W_{x}", (d, cfg.d_mlp), f"{mlp}.W_{x}")
        if not cfg.gated_mlp:
            yield weight(f"{mlp}.b_in", (cfg.d_mlp,), f"{mlp}.b_in")
        if cfg.norms_neurons:
            for x in "wb":
                yield weight(f"{mlp}.ln.{x}", (cfg.d_mlp,), f"{mlp}.ln.{x}", optional=True)
        yield weight(f"{mlp}.W_out", (cfg.d_mlp, d), f"{mlp}.W_out")
        yield weight(f"{mlp}.b_out", (d,), f"{mlp}.b_out")
        if cfg.norm_position == "both":
            yield from _norm(cfg, f"blocks.{layer}.ln2_post", optional=False)
    if cfg.norms_reads:
        yield from _norm(cfg, "ln_final")


def _norm(cfg: TransformerConfig, theirs: str, ours: str | None = None, optional: bool = True) -> Iterator[Weight]:
    for x in {"LN": "wb", "RMS": "w", None: ""}[cfg.normalization_type]:
        yield weight(f"{theirs}.{x}", (cfg.d_model,), f"{ours or theirs}.{x}", optional=optional)


def _our_spelling(name: str, source: Dictionary) -> str:
    """Their name without the underscore, where a model with as many key heads as query heads was made as if grouped."""
    plain = name.replace(".attn._", ".attn.")
    if plain == name or plain in source.tensors:
        return name
    query = source.tensors.get(plain[:-1] + "Q")
    return plain if query is not None and query[0] == source.tensors[name][0] else name


# ---------------------------------------------------------------------------------------------- what is no weight

CONSTANTS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
"""Buffers that follow from the config."""


def _constants(cfg: TransformerConfig, layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The buffers of a layer: the mask [n_ctx, n_ctx], what hidden scores are, rotary tables [n_ctx, rotary_dim]."""
    mask = torch.ones(cfg.n_ctx, cfg.n_ctx, dtype=torch.bool).tril()
    window = cfg.in_layer(cfg.window_size, layer)
    found = {"mask": mask if window is None else mask.triu(1 - window), "IGNORE": torch.tensor(-torch.inf)}
    base = cfg.in_layer(cfg.rotary_base, layer)
    if base is not None and cfg.rotary_dim is not None:
        scaling, positions = cfg.in_layer(cfg.rotary_scaling, layer), torch.arange(cfg.n_ctx)[None]
        cos, sin = rotary_angles(base, cfg.rotary_dim, scaling, positions, dtype)
        # Both dimensions of a pair turn by its angle, and the two are half a head apart.
        found |= {"rotary_sin": torch.cat([sin[0, :, 0]] * 2, dim=-1), "rotary_cos": torch.cat([cos[0, :, 0]] * 2, -1)}
    return {f"blocks.{layer}.attn.{name}": table for name, table in found.items()}


def _check_constant(name: str, theirs: Tensor, cfg: TransformerConfig) -> None:
    """Raise `CheckpointError` for a buffer that says something else than the config."""
    _, layer, *_ = [*name.split("."), "", ""]
    own = _constants(cfg, int(layer), torch.float64) if layer.isdecimal() and int(layer) < cfg.n_layers else {}
    if name not in own:
        raise CheckpointError(f"{NAME}: tensor {name!r} is not part of this model")
    if name.endswith("IGNORE"):
        fits = theirs.numel() == 1 and bool(theirs <= -1e4)
    elif name.endswith("mask"):
        fits = cfg.attention_dir == "bidirectional" or torch.equal(theirs.cpu().bool(), own[name])
    else:  # theirs were computed in float32 and rounded to the dtype of the model
        error = 1e-6 * cfg.n_ctx + 2 * torch.finfo(theirs.dtype).eps
        fits = theirs.shape == own[name].shape and torch.allclose(theirs.cpu().double(), own[name], rtol=0, atol=error)
    if not fits:
        fields = "rotary_base, rotary_dim, rotary_scaling, n_ctx" if "rotary" in name else "n_ctx, window_size"
        raise CheckpointError(f"{NAME}: tensor {name!r} is not the one that the config has ({fields}); neighbouring "
                              "dimensions that turn together (rotary_adjacent_pairs) are not supported")  # fmt: skip


def _beside(cfg: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of theirs that are none of ours, and their shapes."""
    if cfg.tie_word_embeddings:
        yield UNEMBED, (cfg.d_model, cfg.d_vocab)
    for layer in range(cfg.n_layers if cfg.gated_mlp else 0):
        yield f"blocks.{layer}.mlp.b_in", (cfg.d_mlp,)


def _from_beside(beside: Mapping[str, Tensor], ours: Mapping[str, Tensor], cfg: TransformerConfig) -> dict[str, Tensor]:
    """What those tensors say. Raises `CheckpointError` where it cannot be said in a model of ours."""
    found = {}
    for name, tensor in beside.items():
        if name == UNEMBED:
            error = 8 * torch.finfo(tensor.dtype).eps  # `embed_scale` was multiplied in and is divided out
            if not torch.allclose(tensor.T, ours["embed.W_E"], rtol=error, atol=0):
                raise CheckpointError(f"{NAME}: tensor {name!r} is not W_E^T, though tie_word_embeddings = True")
            found["embed.W_E"] = tensor.T
        elif tensor.any():
            raise CheckpointError(f"{NAME}: tensor {name!r} is not zero. Beside a gate it is added after the product; "
                                  "here a bias is part of a factor. Add b_in @ W_out to b_out instead")  # fmt: skip
        else:
            found |= {name: tensor, name.replace("b_in", "b_gate"): tensor}
    return found
