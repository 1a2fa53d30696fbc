"""The families of transformers' checkpoints by `model_type`, and the conversion that they share, in both directions.

A family is three pure functions and a few names. The functions read a configuration, write one, and describe every
tensor of a checkpoint. `plan` compares the tensors that are there with this description before any of them is read.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.checkpoints import gemma, gpt2, llama, neox, qwen
from interp.checkpoints.layout import Weight
from interp.checkpoints.options import Options, merged, per_layer
from interp.checkpoints.sources import DEQUANTIZE, SINGLE, Dictionary, TensorSource, check_tensors
from interp.config import TransformerConfig
from interp.errors import CheckpointError, ConfigError, did_you_mean
from interp.files import atomic_path, disk_errors

ATTENTION_BIAS = {"attention_bias": ("b_Q", "b_K", "b_V", "b_O")}
FREE_FIELDS = {"seed": None, "init_std": 1.0, "attn_implementation": "eager"}
"""Fields that a transformers configuration does not hold, and on which the weights of a checkpoint do not depend."""


@dataclass(frozen=True)
class Family:
    """The particulars of one `model_type`.

    Attributes:
        read_config, write_config, layout: the functions of these names in the family's file.
        prefix: what the names of all tensors but the head begin with. A checkpoint of the model without its head
            leaves it out.
        head: the name of the unembedding. A checkpoint with tied embeddings may hold it too, as a copy of `embedding`.
        embedding: the name of the embedding.
        aliases: for tensors that some versions of transformers call otherwise, the name that is used here.
        skipped: a pattern for the names of tensors that are no weights, such as stored masks.
        bias_flags: the options that say whether certain biases exist, each with the names of these biases here.
    """

    read_config: Callable[[Options, torch.dtype], TransformerConfig]
    write_config: Callable[[TransformerConfig], dict[str, Any]]
    layout: Callable[[TransformerConfig, Options], Iterable[Weight]]
    prefix: str = "model."
    head: str = "lm_head.weight"
    embedding: str = "model.embed_tokens.weight"
    aliases: Mapping[str, str] = field(default_factory=dict)
    skipped: str = llama.SKIPPED
    bias_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        gpt2.read_config,
        gpt2.write_config,
        gpt2.layout,
        prefix="transformer.",
        embedding="transformer.wte.weight",
        skipped=gpt2.SKIPPED,
    ),
    "gpt_neox": Family(
        neox.read_config,
        neox.write_config,
        neox.layout,
        prefix="gpt_neox.",
        head="embed_out.weight",
        aliases={"lm_head.weight": "embed_out.weight"},  # in the memory of transformers 5, not in its files
        embedding="gpt_neox.embed_in.weight",
        skipped=neox.SKIPPED,
        bias_flags=ATTENTION_BIAS,
    ),
    "llama": Family(
        llama.read_config,
        llama.write_config,
        llama.layout,
        bias_flags=ATTENTION_BIAS | {"mlp_bias": ("b_gate", "b_in", "b_out")},
    ),
    "mistral": Family(llama.read_mistral_config, llama.write_mistral_config, llama.mistral_layout),
    "qwen2": Family(qwen.read_qwen2_config, qwen.write_qwen2_config, qwen.qwen2_layout),
    "qwen3": Family(qwen.read_qwen3_config, qwen.write_qwen3_config, qwen.qwen3_layout, bias_flags=ATTENTION_BIAS),
    "gemma2": Family(gemma.read_gemma2_config, gemma.write_gemma2_config, gemma.layout, bias_flags=ATTENTION_BIAS),
    "gemma3_text": Family(gemma.read_gemma3_config, gemma.write_gemma3_config, gemma.layout, bias_flags=ATTENTION_BIAS),
}
"""Every supported `model_type`. SmolLM2 and TinyLlama call themselves llama, Pythia gpt_neox, Qwen2.5 qwen2."""


def family_of(model_type: Any) -> Family:
    """The family with this `model_type`. Raises `CheckpointError` listing those there are."""
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"model_type = {model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
            f"{did_you_mean(str(model_type), FAMILIES)}"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True)
class CheckpointPlan:
    """A checkpoint that has been checked and can be read.

    Attributes:
        cfg: the architecture.
        weights: every tensor to read, with its name in the source.
        source: where to read it.
    """

    cfg: TransformerConfig
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
    config: Mapping[str, Any], source: TensorSource, dtype: torch.dtype | None, config_name: str
) -> CheckpointPlan:
    """Compare a checkpoint with its configuration.

    Args:
        config: its `config.json`.
        source: its tensors.
        dtype: of the model. None stands for the checkpoint's own; where its tensors differ in dtype, that is the
            smallest dtype which holds the values of all of them.
        config_name: what messages call the configuration.

    Raises:
        CheckpointError: the configuration cannot be used, or a tensor is missing, surplus, of another shape, or not of
            floating-point numbers; with the name of the tensor and of the file.
    """
    try:
        options = Options(config)
        family = family_of(options.get("model_type", str))
        _refuse_quantised(options)
        options.refuse_unless("is_causal", True)
        _check_depth(options, source)
        names = _relevant_names(family, source)
        dtypes = {name: _floating(source, name) for name in names.values()}
        cfg = family.read_config(options, dtype or functools.reduce(torch.promote_types, {*dtypes.values()}))
        weights = list(family.layout(cfg, options))
        options.refuse_misspelt()
    except (CheckpointError, ConfigError) as error:
        text = str(error)
        raise CheckpointError(text if source.name in text else f"{config_name}: {text}") from error
    if cfg.tie_word_embeddings and family.head in names:
        head = names.pop(family.head)
        if family.embedding in names:
            _check_tied(source, head, names[family.embedding])
    return CheckpointPlan(cfg, _matched(weights, names, source), source)


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
    for key in ("num_hidden_layers", "n_layer"):
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
        full = family.aliases.get(name, name)
        full = family.prefix + full if bare and full != family.head else full
        if not re.fullmatch(family.skipped, full):
            names[full] = name
    if not names:
        raise CheckpointError(f"{source.name}: there are no tensors")
    return names


def _floating(source: TensorSource, name: str) -> torch.dtype:
    dtype = source.tensors[name][1]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise CheckpointError(
            f"{source.where(name)} (of {source.name}): tensor {name!r} has dtype {dtype}; "
            "allowed: float64, float32, float16, bfloat16"
        )
    return dtype


def _check_tied(source: TensorSource, head: str, embedding: str) -> None:
    first, second = source.read(head), source.read(embedding)
    if first.data_ptr() != second.data_ptr() and not torch.equal(first, second):
        raise CheckpointError(
            f"{source.where(head)}: tensor {head!r} differs from {embedding!r}, though tie_word_embeddings is true"
        )


def _matched(weights: list[Weight], names: dict[str, str], source: TensorSource) -> list[tuple[Weight, str]]:
    """Each described tensor with its name in the source, after the comparison of all names and shapes.

    `names` is what `_relevant_names` returns.
    """

    def where(full: str) -> str:
        name = names.get(full, full)
        return f"{source.where(name)}: tensor {name!r}"

    found = {full: source.tensors[name][0] for full, name in names.items()}
    check_tensors(found, {weight.theirs: weight.shape for weight in weights}, where, "the configuration says")
    return [(weight, names[weight.theirs]) for weight in weights]


def from_hf(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """The config and state dict of our model, from a transformers `config.json` and state dict.

    The tensors are views of those given where neither dtype nor value changes. Biases that the family lacks, which are
    zero in a model, are left out. Raises `CheckpointError` as `plan` does.
    """
    made = plan(config, Dictionary(tensors, "tensors"), dtype, "config")
    return made.cfg, {
        piece.ours: piece.take(made.source.read(name), made.cfg.dtype)
        for weight, name in made.weights
        for piece in weight.pieces
    }


def to_hf(
    cfg: TransformerConfig, state: Mapping[str, Tensor], model_type: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A transformers `config.json` and state dict that compute what a model of this config and state dict computes.

    Raises `CheckpointError` naming the field or the tensor that `model_type` has no place for.
    """
    family = family_of(model_type)
    state, device = dict(state), state["embed.W_E"].device
    config = {"model_type": model_type, "dtype": str(cfg.dtype).removeprefix("torch.")} | family.write_config(cfg)
    for flag, biases in family.bias_flags.items():
        config[flag] = any(tensor.any() for name, tensor in state.items() if name.rsplit(".", 1)[1] in biases)
    _check_expressed(cfg, config, family)

    tensors: dict[str, Tensor] = {}
    for weight in family.layout(cfg, Options(config)):
        theirs = tensors[weight.theirs] = torch.empty(weight.shape, dtype=cfg.dtype, device=device)
        for piece in weight.pieces:
            piece.put(state.pop(piece.ours), theirs)
    for name, tensor in state.items():
        if tensor.any():
            raise CheckpointError(f"{model_type} has no place for tensor {name!r}, which is not zero")
    return config, tensors


def _check_expressed(cfg: TransformerConfig, config: dict[str, Any], family: Family) -> None:
    """Raise unless the written configuration reads as the model's own."""
    model_type = config["model_type"]
    try:
        read = family.read_config(Options(config), cfg.dtype)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"this model cannot be a {model_type}: {error}") from error
    ours, theirs = (dataclasses.replace(c, **FREE_FIELDS) for c in (cfg, read))
    for name in (f.name for f in dataclasses.fields(TransformerConfig)):
        own, written = getattr(ours, name), getattr(theirs, name)
        if name in ("rotary_base", "rotary_scaling", "window_size"):
            own, written = merged(per_layer(ours, name)), merged(per_layer(theirs, name))
        if own != written:
            raise CheckpointError(f"this model cannot be a {model_type}: {name} = {own!r} would become {written!r}")


def save(folder: Path, cfg: TransformerConfig, state: Mapping[str, Tensor], model_type: str) -> None:
    """Write `config.json` and `model.safetensors` as transformers does, each file whole or not at all.

    Raises `CheckpointError` as `to_hf` does, before anything is written.
    """
    from safetensors.torch import save_file

    config, tensors = to_hf(cfg, state, model_type)
    with atomic_path(folder / SINGLE) as file, disk_errors(folder / SINGLE):
        save_file(tensors, file, metadata={"format": "pt"})
    with atomic_path(folder / "config.json") as file:
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")
