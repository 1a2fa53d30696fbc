"""Our own format: a folder with `config.json` (architecture and vocabulary) and `model.safetensors` (weights).

A trained tokenizer has a file of its own, `tokenizer.json`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.checkpoints.sources import SINGLE, SafetensorsFolder, TensorSource, check_tensors
from interp.config import TransformerConfig
from interp.errors import CheckpointError, InterpError
from interp.files import atomic_path
from interp.text import TextCodec, Tokenizer, Vocabulary

if TYPE_CHECKING:
    from interp.model import HookedTransformer

MODEL_TYPE = "interp"
CODECS: dict[str, type[TextCodec]] = {"vocabulary": Vocabulary, "tokenizer": Tokenizer}
"""The kinds of tokenizer that are saved with a model, by the key of `config.json` that holds what they return."""


def save(model: "HookedTransformer", folder: str | os.PathLike[str]) -> None:
    """Write the files, `config.json` last, each whole or not at all.

    Raises `CheckpointError` for a tokenizer that is neither a `Vocabulary` nor a `Tokenizer`.
    """
    from safetensors.torch import save_file

    folder, codec = Path(folder), model.tokenizer
    if not isinstance(codec, (*CODECS.values(), NoneType)):
        raise CheckpointError(
            f"a tokenizer of type {type(codec).__name__} cannot be saved; allowed: Vocabulary, Tokenizer or None"
        )
    with atomic_path(folder / SINGLE) as file:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    about = {
        "model_type": MODEL_TYPE,
        "config": dataclasses.replace(model.cfg, dtype=model.W_E.dtype).to_dict(),
        **{key: codec.save(folder) if isinstance(codec, kind) else None for key, kind in CODECS.items()},
    }
    with atomic_path(folder / "config.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def load(
    kind: "type[HookedTransformer]",
    folder: Path,
    about: Mapping[str, Any],
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    tokenizer: TextCodec | None = None,
) -> "HookedTransformer":
    """The model that was saved in a folder, with this tokenizer or its own; `about` is what `config.json` holds.

    Raises `CheckpointError` naming the file, and the tensor where it is one.
    """
    config_file = folder / "config.json"
    try:
        cfg = TransformerConfig.from_dict(about["config"])
        if tokenizer is None:
            made = [codec.load(folder, about[key]) for key, codec in CODECS.items() if about.get(key)]
            tokenizer = made[0] if made else None
        weights = SafetensorsFolder(folder)
        if cfg.n_layers > len(weights.tensors):  # describing them could take endlessly
            raise CheckpointError(f"{config_file}: n_layers = {cfg.n_layers}, with {len(weights.tensors)} tensors")
        expected = kind(cfg, tokenizer, device="meta").state_dict()
    except CheckpointError:
        raise
    except (KeyError, TypeError, InterpError) as error:
        raise CheckpointError(f"{config_file} cannot be read as a configuration: {error}") from error
    check(weights, expected)
    model = kind(cfg if dtype is None else dataclasses.replace(cfg, dtype=dtype), tokenizer, device, init_weights=False)
    with torch.no_grad():
        for name, target in model.state_dict().items():
            target.copy_(weights.read(name))
    return model


def check(weights: TensorSource, expected: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` unless every tensor has the name, shape and dtype of the expected one."""

    def where(name: str) -> str:
        return f"{weights.where(name)}: tensor {name!r}"

    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    check_tensors(
        {name: shape for name, (shape, _) in weights.tensors.items()}, shapes, where, "the configuration says"
    )
    for name, (_, dtype) in weights.tensors.items():
        if dtype != expected[name].dtype:
            raise CheckpointError(f"{where(name)} has dtype {dtype}; the configuration says {expected[name].dtype}")
