"""Our own format: a folder with `config.json` (architecture and vocabulary) and `model.safetensors` (weights).

A trained tokenizer has a file of its own, `tokenizer.json`.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from interp.checkpoints.sources import SINGLE, Checkpoint, SafetensorsFolder, TensorSource, check_tensors
from interp.config import TransformerConfig
from interp.errors import CheckpointError, InterpError
from interp.files import atomic_path
from interp.text import TextCodec, Tokenizer, Vocabulary

MODEL_TYPE = "interp"
KINDS: dict[str, type[TextCodec]] = {"vocabulary": Vocabulary, "tokenizer": Tokenizer}
"""The kinds of tokenizer that are saved with a model, by the key of `config.json` that holds what they return."""


def save(folder: Path, cfg: TransformerConfig, tokenizer: TextCodec | None, tensors: Mapping[str, Tensor]) -> None:
    """Write the files, `config.json` last, each whole or not at all.

    Raises `CheckpointError` for a tokenizer that is neither a `Vocabulary` nor a `Tokenizer`.
    """
    from safetensors.torch import save_file

    if not isinstance(tokenizer, (*KINDS.values(), NoneType)):
        raise CheckpointError(
            f"a tokenizer of type {type(tokenizer).__name__} cannot be saved; allowed: Vocabulary, Tokenizer or None"
        )
    with atomic_path(folder / SINGLE) as file:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    about = {
        "model_type": MODEL_TYPE,
        "config": cfg.to_dict(),
        **{key: tokenizer.save(folder) if isinstance(tokenizer, kind) else None for key, kind in KINDS.items()},
    }
    with atomic_path(folder / "config.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def read(
    folder: Path, about: Mapping[str, Any], dtype: torch.dtype | None = None, tokenizer: TextCodec | None = None
) -> Checkpoint:
    """The checkpoint in a folder, of which `about` is the `config.json`, with this tokenizer or its own.

    Raises `CheckpointError` naming the file.
    """
    config_file = folder / "config.json"
    try:
        saved = TransformerConfig.from_dict(about["config"])
        if tokenizer is None:
            made = [kind.load(folder, about[key]) for key, kind in KINDS.items() if about.get(key)]
            tokenizer = made[0] if made else None
    except CheckpointError:
        raise
    except (KeyError, TypeError, InterpError) as error:
        raise CheckpointError(f"{config_file} cannot be read as a configuration: {error}") from error
    source = SafetensorsFolder(folder)
    if saved.n_layers > len(source.tensors):  # describing them could take endlessly
        raise CheckpointError(f"{config_file}: n_layers = {saved.n_layers}, with {len(source.tensors)} tensors")
    cfg = saved if dtype is None else dataclasses.replace(saved, dtype=dtype)
    return Checkpoint(cfg, tokenizer, str(config_file), NamedWeights(source, saved.dtype))


@dataclass(frozen=True)
class NamedWeights:
    """Weights that have the names they have in the model.

    Attributes:
        source: where they are.
        dtype: the dtype that the configuration says they have.
    """

    source: TensorSource
    dtype: torch.dtype

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless every tensor has the name and shape of the expected one, and the dtype."""

        def where(name: str) -> str:
            return f"{self.source.where(name)}: tensor {name!r}"

        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        found = {name: shape for name, (shape, _) in self.source.tensors.items()}
        check_tensors(found, shapes, where, "the configuration says")
        for name, (_, dtype) in self.source.tensors.items():
            if dtype != self.dtype:
                raise CheckpointError(f"{where(name)} has dtype {dtype}; the configuration says {self.dtype}")

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy every tensor into the model's tensor of the same name."""
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(self.source.read(name))
