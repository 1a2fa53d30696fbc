"""The conversion that all families of transformers' checkpoints share, in both directions.

`plan` compares the tensors that are there with the family's description before any of them is read.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoints import sentence
from interp.checkpoints.families import FAMILIES, Family, family_of
from interp.checkpoints.layout import Weight
from interp.checkpoints.options import Options, merged, per_layer
from interp.checkpoints.sources import (
    DEQUANTIZE,
    SINGLE,
    Architecture,
    Dictionary,
    TensorSource,
    check_tensors,
    same_values,
)
from interp.config import EncoderDecoderConfig
from interp.errors import CheckpointError, ConfigError
from interp.files import atomic_path, disk_errors

STACKS = ("one stack", "an encoder with a decoder")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers")
DEPTHS += ("num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Keys of a number of layers."""
FREE_FIELDS = {"seed": None, "init_std": 1.0, "attn_implementation": "eager"}
"""Fields that a transformers configuration does not hold, and on which the weights of a checkpoint do not depend."""


@dataclass(frozen=True)
class CheckpointPlan:
    """A checkpoint that has been checked and can be read.

    Attributes:
        cfg: the architecture.
        weights: every tensor to read, with its name in the source.
        source: where to read it.
    """

    cfg: Architecture
    weights: list[tuple[Weight, str]]
    source: TensorSource

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless the model has every tensor that would be filled."""
        missing = [piece.ours for weight, _ in self.weights for piece in weight.pieces if piece.ours not in expected]
        if missing:
            raise CheckpointError(f"{self.source.name}: this model has no tensor {missing[0]!r}")

    def fill(self, targets: Mapping[str, Float[Tensor, "*shape"]]) -> None:
        """Copy the checkpoint into allocated tensors, one tensor after another."""
        with torch.no_grad():
            for weight, name in self.weights:
                theirs = self.source.read(name)
                for piece in weight.pieces:
                    targets[piece.ours].copy_(piece.take(theirs, targets[piece.ours].dtype))
                del theirs  # before the next is read


def plan(
    config: Mapping[str, Any],
    source: TensorSource,
    dtype: torch.dtype | None,
    config_name: str,
    pooling: sentence.Pooling | None = None,
) -> CheckpointPlan:
    """Compare a checkpoint with its configuration.

    Args:
        config: its `config.json`.
        source: its tensors.
        dtype: of the model. None stands for the checkpoint's own; where its tensors differ in dtype, that is the
            smallest dtype which holds the values of all of them.
        config_name: what messages call the configuration.
        pooling: how sentence-transformers pools, where the checkpoint is one of these.

    Raises:
        CheckpointError: the configuration cannot be used, or a tensor is missing, surplus, of another shape, or not of
            floating-point numbers; with the name of the tensor and of the file.
    """
    try:
        options = Options(config)
        family = family_of(options.get("model_type", str))
        _refuse_quantised(options)
        options.refuse_unless("is_causal", family.causal)
        _check_depth(options, source)
        names = _relevant_names(family, source)
        options.tensors = {full: source.tensors[name][0] for full, name in names.items()}
        dtypes = {name: _floating(source, name) for name in names.values()}
        if family.settle is not None:
            options = family.settle(options, lambda name: source.read(names[name]) if name in names else None)
        cfg = family.read_config(options, dtype or functools.reduce(torch.promote_types, {*dtypes.values()}))
        if pooling is not None:
            if family.pair:
                raise CheckpointError(f"sentence-transformers of a {options.values['model_type']} are not supported")
            cfg = dataclasses.replace(cfg, **pooling._asdict())
        weights = list(family.layout(cfg, options))
        options.refuse_misspelt()
    except (CheckpointError, ConfigError) as error:
        text = str(error)
        raise CheckpointError(text if source.name in text else f"{config_name}: {text}") from error
    return CheckpointPlan(cfg, _matched(weights, _without_copies(weights, names, source), source), source)


def _refuse_quantised(options: Options) -> None:
    """Refuse quantised weights by the name of their method; what such tensors hold is not the weights themselves."""
    about = options.get("quantization_config", object, None)
    if about is not None:
        method = about.get("quant_method", about) if isinstance(about, Mapping) else about
        raise CheckpointError(f"quantization_config: the weights are quantised ({method}); {DEQUANTIZE}")


def _check_depth(options: Options, source: TensorSource) -> None:
    """Refuse a number of layers that is larger than the number of tensors.

    Every layer has tensors, so that such a configuration is wrong; and to describe its layers could take for ever.
    """
    for key in DEPTHS:
        n_layers = options.values.get(key)
        if isinstance(n_layers, int) and n_layers > len(source.tensors) > 0:
            raise CheckpointError(f"{key} = {n_layers}: more layers than the checkpoint has weights")


def _relevant_names(family: Family, source: TensorSource) -> dict[str, str]:
    """The name that each tensor has in the source, by the name that the tensor has in a model with a head.

    Tensors that hold no weights are left out.
    """
    bare = not any(name.startswith(family.prefix) for name in source.tensors)
    names = {}
    for name in source.tensors:
        full = _respelt(name, family.aliases)
        full = family.prefix + full if bare and full != family.head else full
        if not re.fullmatch(family.skipped, full):
            names[full] = name
    if not names:
        raise CheckpointError(f"{source.name}: there are no tensors")
    return names


def _respelt(name: str, aliases: Mapping[str, str]) -> str:
    for pattern, here in aliases.items():
        if found := re.fullmatch(pattern, name):
            return found.expand(here)
    return name


def _floating(source: TensorSource, name: str) -> torch.dtype:
    dtype = source.tensors[name][1]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise CheckpointError(
            f"{source.where(name)} (of {source.name}): tensor {name!r} has dtype {dtype}; "
            "allowed: float64, float32, float16, bfloat16"
        )
    return dtype


def _without_copies(weights: list[Weight], names: dict[str, str], source: TensorSource) -> dict[str, str]:
    """`names` with each tensor once, by its first name. Raises `CheckpointError` for copies that differ."""
    once = dict(names)
    for weight in weights:
        held = [once.pop(name) for name in (weight.theirs, *weight.copies) if name in once]
        for copy in held[1:]:
            if not same_values(source.read(held[0]), source.read(copy)):
                raise CheckpointError(
                    f"{source.where(copy)}: tensor {copy!r} differs from {held[0]!r}, though the configuration says "
                    "that the two are one tensor (tied or shared embeddings)"
                )
        if held:
            once[weight.theirs] = held[0]
    return once


def _matched(weights: list[Weight], names: dict[str, str], source: TensorSource) -> list[tuple[Weight, str]]:
    """Each described tensor that is there with its name in the source, after the comparison of all names and shapes.

    `names` is what `_without_copies` returns.
    """
    weights = [weight for weight in weights if weight.theirs in names or not weight.optional]

    def where(full: str) -> str:
        name = names.get(full, full)
        return f"{source.where(name)}: tensor {name!r}"

    found = {full: source.tensors[name][0] for full, name in names.items()}
    check_tensors(found, {weight.theirs: weight.shape for weight in weights}, where, "the configuration says")
    return [(weight, names[weight.theirs]) for weight in weights]


def from_hf(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> tuple[Architecture, dict[str, Tensor]]:
    """The config and state dict of our model, from a transformers `config.json` and state dict.

    The tensors are views of those given where neither dtype nor value changes. Biases that the family lacks, which are
    zero in a model, are left out. Raises `CheckpointError` as `plan` does.

    >>> config, tensors = to_hf(cfg, model.state_dict(), "gpt2")
    >>> again, state = from_hf(config, tensors)
    >>> again.n_heads, torch.equal(state["unembed.W_U"], model.W_U)
    (4, True)
    """
    made = plan(config, Dictionary(tensors, "tensors"), dtype, "config")
    return made.cfg, {
        piece.ours: piece.take(made.source.read(name), made.cfg.dtype)
        for weight, name in made.weights
        for piece in weight.pieces
    }


def to_hf(cfg: Architecture, state: Mapping[str, Tensor], model_type: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A transformers `config.json` and state dict that compute what a model of this config and state dict computes.

    How the last stream is pooled by mean or at the first token is in neither; `save` writes it to files of its own.
    Raises `CheckpointError` naming the field or the tensor that `model_type` has no place for.

    >>> config, tensors = to_hf(cfg, model.state_dict(), "gpt2")
    >>> config["n_head"], tensors["transformer.wte.weight"].shape, "gpt2" in FAMILIES
    (4, torch.Size([12, 32]), True)
    """
    family = family_of(model_type)
    if family.pair != isinstance(cfg, EncoderDecoderConfig):
        alike = [name for name, other in FAMILIES.items() if other.pair != family.pair]
        raise CheckpointError(f"a {model_type} is {STACKS[family.pair]}, and this model is {STACKS[not family.pair]}; "
                              f"allowed: {', '.join(alike)}")  # fmt: skip
    state, device = dict(state), next(iter(state.values())).device
    config = {"model_type": model_type, "dtype": str(cfg.dtype).removeprefix("torch.")} | family.write_config(cfg)
    for flag, biases in family.bias_flags.items():
        config[flag] = any(tensor.any() for name, tensor in state.items() if _ends(name, biases))
    weights = list(family.layout(cfg, Options(config)))
    _check_expressed(cfg, Options(config, {weight.theirs: weight.shape for weight in weights}), family)

    tensors: dict[str, Tensor] = {}
    for weight in weights:
        theirs = tensors[weight.theirs] = torch.zeros(weight.shape, dtype=cfg.dtype, device=device)
        for piece in weight.pieces:
            piece.put(state[piece.ours], theirs)
    placed = {piece.ours for weight in weights for piece in weight.pieces}
    for name, tensor in state.items():
        if name not in placed and tensor.any():
            raise CheckpointError(f"{model_type} has no place for tensor {name!r}, which is not zero")
    return config, tensors


def _ends(name: str, ends: Iterable[str]) -> bool:
    """Whether a name ends with one of these, in whole words."""
    return any(f".{name}".endswith(f".{end}") for end in ends)


def _check_expressed(cfg: Architecture, options: Options, family: Family) -> None:
    """Raise unless the written configuration, with the written tensors, reads as the model's own."""
    model_type = options.values["model_type"]
    try:
        read = family.read_config(options, cfg.dtype)
        if (pooling := sentence.pooling_of(cfg)) is not None:  # which has files of its own
            read = dataclasses.replace(read, **pooling._asdict())
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"this model cannot be a {model_type}: {error}") from error
    ours, theirs = _fields(cfg), _fields(read)
    for name, own in ours.items():
        if own != theirs[name]:
            raise CheckpointError(
                f"this model cannot be a {model_type}: {name} = {own!r} would become {theirs[name]!r}"
            )


def _fields(cfg: Architecture) -> dict[str, Any]:
    """Every field on which the weights of a checkpoint depend, those of the two stacks of a pair with their names."""
    if isinstance(cfg, EncoderDecoderConfig):
        pairs = {"encoder": cfg.encoder, "decoder": cfg.decoder}
        found = {f"{stack}.{name}": value for stack, own in pairs.items() for name, value in _fields(own).items()}
        own = (field.name for field in dataclasses.fields(cfg) if field.name not in pairs)
        return found | {name: getattr(cfg, name) for name in own}
    cfg = dataclasses.replace(cfg, **FREE_FIELDS)
    found = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    return found | {name: merged(per_layer(cfg, name)) for name in ("rotary_base", "rotary_scaling", "window_size")}


def save(folder: Path, cfg: Architecture, state: Mapping[str, Tensor], model_type: str) -> None:
    """Write `config.json` and `model.safetensors` as transformers does, each file whole or not at all.

    A model that pools by mean or at the first token gets the files of sentence-transformers as well, which say so.

    Raises `CheckpointError` as `to_hf` does, before anything is written.
    """
    from safetensors.torch import save_file

    config, tensors = to_hf(cfg, state, model_type)
    sentence.write(folder, cfg)
    with atomic_path(folder / SINGLE) as file, disk_errors(folder / SINGLE):
        save_file(tensors, file, metadata={"format": "pt"})
    with atomic_path(folder / "config.json") as file:
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")
