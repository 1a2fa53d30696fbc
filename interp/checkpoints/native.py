"""Our own format: a folder with `config.json` (architecture and vocabulary) and `model.safetensors` (weights)."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import CheckpointError, InterpError, did_you_mean
from interp.files import atomic_path
from interp.tokens import Vocabulary

if TYPE_CHECKING:
    from interp.model import HookedTransformer

MODEL_TYPE = "interp"


def save(model: "HookedTransformer", folder: str | os.PathLike[str]) -> None:
    """Write both files, the weights first, each whole or not at all."""
    from safetensors.torch import save_file

    about = {
        "model_type": MODEL_TYPE,
        "config": dataclasses.replace(model.cfg, dtype=model.W_E.dtype).to_dict(),
        "vocabulary": None if model.tokenizer is None else model.tokenizer.to_dict(),
    }
    with atomic_path(Path(folder) / "model.safetensors") as file:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    with atomic_path(Path(folder) / "config.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def load(
    kind: "type[HookedTransformer]",
    folder: str | os.PathLike[str],
    dtype: torch.dtype | None,
    device: str | torch.device | None,
) -> "HookedTransformer":
    """The saved model. Raises `CheckpointError` naming the file, and the tensor where it is one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_file, weights_file = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    try:
        about = json.loads(config_file.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("model_type") != MODEL_TYPE:
            raise CheckpointError(f"{config_file}: model_type is not {MODEL_TYPE!r}, the one format read so far")
        cfg = TransformerConfig.from_dict(about["config"])
        vocabulary = Vocabulary.from_dict(about["vocabulary"]) if about["vocabulary"] else None
        expected = kind(cfg, vocabulary, device="meta").state_dict()
    except CheckpointError:
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, InterpError) as error:
        raise CheckpointError(f"{config_file} cannot be read as a configuration: {error}") from error
    try:
        weights = load_file(weights_file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights_file} cannot be read: {error}") from error
    check(weights, expected, str(weights_file))
    model = kind(
        cfg if dtype is None else dataclasses.replace(cfg, dtype=dtype), vocabulary, device, init_weights=False
    )
    model.load_state_dict(weights)
    return model


def check(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise `CheckpointError` unless every tensor has the name, shape and dtype of the expected one."""
    for name in expected:
        if name not in weights:
            raise CheckpointError(f"{source}: tensor {name!r} is missing{did_you_mean(name, weights, 0.8)}")
    for name, tensor in weights.items():
        if name not in expected:
            raise CheckpointError(f"{source}: tensor {name!r} is not part of this model{did_you_mean(name, expected)}")
        for what, got, want in (
            ("shape", tuple(tensor.shape), tuple(expected[name].shape)),
            ("dtype", tensor.dtype, expected[name].dtype),
        ):
            if got != want:
                raise CheckpointError(f"{source}: tensor {name!r} has {what} {got}; the configuration says {want}")
