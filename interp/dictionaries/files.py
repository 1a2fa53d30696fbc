"""Files of sparse dictionaries as SAELens writes them: `cfg.json`, and `sae_weights.safetensors`.

Older releases put all keys of `cfg.json` beside each other; since release 6 those that say which model and which data
it was trained on are under "metadata".
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import CheckpointError, describe
from interp.indices import is_index

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

ARCHITECTURES = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "gated": "gated",
    "transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
}
"""The activation of each architecture."""

UNLESS: dict[str, tuple[Any, ...]] = {
    "reshape_activations": ("none", "hook_z"),
    "normalize_activations": ("none", "layer_norm", "constant_norm_rescale"),
    "rescale_acts_by_decoder_norm": (False,),
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
}
"""The keys that may have other values elsewhere, and the values that are computed here."""


def names_of(activation: str) -> tuple[str, ...]:
    """The weights of a dictionary: encoder, decoder and its bias, and then those that have a number a feature."""
    of_features = {"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "threshold")}
    return ("W_enc", "W_dec", "b_dec", *of_features.get(activation, ("b_enc",)))


@dataclass(frozen=True, eq=False)
class Described:
    """A dictionary as its files describe it.

    Attributes:
        weights: by the names of `SparseDictionary`.
        options: the other arguments of it.
        about: all keys of the configuration.
    """

    weights: dict[str, Tensor]
    options: dict[str, Any]
    about: dict[str, Any]


def read_dictionary(
    folder: str | os.PathLike[str], dtype: torch.dtype | None, device: str | torch.device | None
) -> Described:
    """What the two files in a folder say. Raises `CheckpointError` as `SparseDictionary.from_pretrained`."""
    config, file = Path(folder) / CONFIG, Path(folder) / WEIGHTS
    about = _read_config(config)
    try:
        options = _options(about)
    except CheckpointError as error:
        raise CheckpointError(f"{config}: {error}") from error
    weights = _read_weights(file)
    scaling = weights.pop("scaling_factor", None)
    if scaling is not None and about.get("finetuning_scaling_factor"):
        weights["W_dec"] = scaling[:, None] * weights["W_dec"]  # it multiplies the features before they are decoded
    _check(file, weights, about, options["activation"])
    kept = {name: tensor.to(device=device, dtype=dtype or tensor.dtype) for name, tensor in weights.items()}
    return Described(kept, options, about)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object")
    metadata = values.pop("metadata", None) or {}
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: metadata = {describe(metadata)}; allowed: an object")
    return {**metadata, **values}


def _options(about: Mapping[str, Any]) -> dict[str, Any]:
    architecture = about.get("architecture") or "standard"
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CheckpointError(f"architecture = {describe(architecture)} is not supported; supported: "
                              f"{', '.join(ARCHITECTURES)}")  # fmt: skip
    for key, allowed in UNLESS.items():
        value = about.get(key, allowed[0])
        if value not in allowed:
            why = "; its factor is not in the file, fold it in" if value == "expected_average_only_in" else ""
            raise CheckpointError(f"{key} = {describe(value)} is not supported{why}; allowed: "
                                  f"{' or '.join(map(repr, allowed))}")  # fmt: skip
    activation = ARCHITECTURES[architecture]
    named = about.get("activation_fn_str", about.get("activation_fn")) or activation
    if architecture == "standard" and named == "topk":
        activation = "topk"
    elif named not in (activation, "relu"):
        raise CheckpointError(f"activation_fn = {describe(named)} is not supported; allowed: 'relu' or 'topk'")
    options = about.get("activation_fn_kwargs") or {}
    k = about.get("k", options.get("k") if isinstance(options, dict) else options) if activation == "topk" else None
    if activation == "topk" and not is_index(k):
        raise CheckpointError(f"k = {describe(k)}; 'topk' needs a positive integer")
    crosses = "transcoder" in architecture
    hook_name = about.get("hook_name", about.get("hook_point"))
    if not isinstance(hook_name, str | None):
        raise CheckpointError(f"hook_name = {describe(hook_name)}; allowed: the name of a hook point, or null")
    out = about.get("hook_name_out") if crosses else None
    if crosses and not out:
        raise CheckpointError("hook_name_out is missing: a transcoder writes another point than it reads")
    return {
        "activation": activation,
        "k": k,
        "apply_b_dec_to_input": not crosses and bool(about.get("apply_b_dec_to_input", True)),
        "normalize_activations": "none" if crosses else about.get("normalize_activations", "none"),
        "flattens_heads": about.get("reshape_activations") == "hook_z" or str(hook_name).endswith("hook_z"),
        "hook_name": hook_name,
        "hook_name_out": out,
    }


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists() and (pickles := sorted(one.name for one in path.parent.glob("*.pt"))):
        raise CheckpointError(f"{path} is missing, and {pickles[0]} is a pickle, which can run any code when it is "
                              "loaded, and is never loaded here")  # fmt: skip
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _check(file: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any], activation: str) -> None:
    """Raise `CheckpointError` unless the tensors are those that the configuration says."""
    d_in, n = about.get("d_in"), about.get("d_sae")
    d_out = about.get("d_out", d_in)
    for name, size in {"d_in": d_in, "d_sae": n, "d_out": d_out}.items():
        if not is_index(size):
            raise CheckpointError(f"{file.parent / CONFIG}: {name} = {describe(size)}; an integer is needed")
    expected = dict.fromkeys(names_of(activation), (n,)) | {"W_enc": (d_in, n), "W_dec": (n, d_out), "b_dec": (d_out,)}
    for name in (*expected, *weights):
        if name not in weights or name not in expected:
            problem = "is missing" if name in expected else "is not part of such a dictionary"
            raise CheckpointError(f"{file}: tensor {name!r} {problem} ({', '.join(expected)})")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{file}: tensor {name!r} has shape {tuple(weights[name].shape)}; {CONFIG} says {shape}"
            )
