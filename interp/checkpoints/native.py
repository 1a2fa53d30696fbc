"""Our own format: a folder with `config.json` (architecture and vocabulary) and `model.safetensors` (weights).

A trained tokenizer has a file of its own, `tokenizer.json`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.checkpoints.sources import SafetensorsFolder
from interp.config import TransformerConfig
from interp.errors import CheckpointError, InterpError, did_you_mean
from interp.files import atomic_path
from interp.tokens import TextCodec, Tokenizer, Vocabulary

if TYPE_CHECKING:
    from interp.model import HookedTransformer

MODEL_TYPE = "interp"


def save(model: "HookedTransformer", folder: str | os.PathLike[str]) -> None:
    """Write the files, `config.json` last, each whole or not at all.

    Raises `CheckpointError` for a tokenizer that is neither a `Vocabulary` nor a `Tokenizer`.
    """
    from safetensors.torch import save_file

    tokenizer = model.tokenizer
    if not isinstance(tokenizer, Vocabulary | Tokenizer | None):
        raise CheckpointError(f"a tokenizer of type {type(tokenizer).__name__} cannot be saved; allowed: Vocabulary, "
                              "Tokenizer or None")  # fmt: skip
    about = {
        "model_type": MODEL_TYPE,
        "config": dataclasses.replace(model.cfg, dtype=model.W_E.dtype).to_dict(),
        "vocabulary": tokenizer.to_dict() if isinstance(tokenizer, Vocabulary) else None,
        "tokenizer": tokenizer.settings() if isinstance(tokenizer, Tokenizer) else None,
    }
    with atomic_path(Path(folder) / "model.safetensors") as file:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    if isinstance(tokenizer, Tokenizer):
        with atomic_path(Path(folder) / "tokenizer.json") as file:
            file.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    with atomic_path(Path(folder) / "config.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def load(
    kind: "type[HookedTransformer]",
    folder: str | os.PathLike[str],
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    tokenizer: TextCodec | None = None,
) -> "HookedTransformer":
    """The saved model, with this tokenizer or its own.

    Raises `CheckpointError` naming the file, and the tensor where it is one.
    """
    config_file = Path(folder) / "config.json"
    try:
        about = json.loads(config_file.read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("model_type") != MODEL_TYPE:
            raise CheckpointError(f"{config_file}: model_type is not {MODEL_TYPE!r}, the one format read so far")
        cfg = TransformerConfig.from_dict(about["config"])
        tokenizer = _tokenizer(about, Path(folder)) if tokenizer is None else tokenizer
        weights = SafetensorsFolder(Path(folder))
        if cfg.n_layers > len(weights.tensors):  # before what would take for ever
            raise CheckpointError(f"{config_file}: n_layers = {cfg.n_layers}, with {len(weights.tensors)} tensors")
        expected = kind(cfg, tokenizer, device="meta").state_dict()
    except CheckpointError:
        raise
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, InterpError) as error:
        raise CheckpointError(f"{config_file} cannot be read as a configuration: {error}") from error
    check(weights.tensors, expected, weights.name)
    model = kind(cfg if dtype is None else dataclasses.replace(cfg, dtype=dtype), tokenizer, device, init_weights=False)
    with torch.no_grad():
        for name, target in model.state_dict().items():
            target.copy_(weights.read(name))
    return model


def _tokenizer(about: Mapping[str, Any], folder: Path) -> TextCodec | None:
    if about.get("tokenizer"):
        return Tokenizer.from_settings(folder / "tokenizer.json", about["tokenizer"])
    return Vocabulary.from_dict(about["vocabulary"]) if about["vocabulary"] else None


def check(
    weights: Mapping[str, tuple[tuple[int, ...], torch.dtype | str]], expected: Mapping[str, Tensor], source: str
) -> None:
    """Raise `CheckpointError` unless every tensor has the name, shape and dtype of the expected one."""
    for name in expected:
        if name not in weights:
            raise CheckpointError(f"{source}: tensor {name!r} is missing{did_you_mean(name, weights, 0.8)}")
    for name, (shape, dtype) in weights.items():
        if name not in expected:
            raise CheckpointError(f"{source}: tensor {name!r} is not part of this model{did_you_mean(name, expected)}")
        for what, got, want in (
            ("shape", shape, tuple(expected[name].shape)),
            ("dtype", dtype, expected[name].dtype),
        ):
            if got != want:
                raise CheckpointError(f"{source}: tensor {name!r} has {what} {got}; the configuration says {want}")
