"""Our own format: a folder with `config.json` (architecture and vocabulary) and `model.safetensors` (weights).

A trained tokenizer has a file of its own, `tokenizer.json`. In an encoder with a decoder, a tokenizer of the target
that is another one lies in the folder `target`. In a snapshot, `config.json` has one more key: what a model needs that
takes the tensors from the file as they lie there, by memory map, in place of copies.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from interp.checkpoints.aligned import aligned, in_order, memory_order, write_aligned
from interp.checkpoints.sources import SINGLE, Architecture, Checkpoint, SafetensorsFolder, check_tensors
from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import CheckpointError, InterpError, describe
from interp.files import atomic_path
from interp.text import TextCodec, Tokenizer, Vocabulary

MODEL_TYPE = "interp"
PAIR = "is_encoder_decoder"
"""The key of `config.json` that is true of an encoder with a decoder."""
TARGET = "target"
"""The key, and the folder, of the tokenizer of the target."""
KINDS: dict[str, type[TextCodec]] = {"vocabulary": Vocabulary, "tokenizer": Tokenizer}
"""The kinds of tokenizer that are saved with a model, by the key of `config.json` that holds what they return."""


@dataclass(frozen=True)
class Described:
    """What a snapshot says of its weights.

    Attributes:
        weights: their hash, as `HookedTransformer.weights_hash` gives it.
        frozen: the names of parameters that are not trained.
        orders: for each tensor that does not lie in memory in the order of its axes, this order. The file holds such a
            tensor permuted.
    """

    weights: str
    frozen: tuple[str, ...] = ()
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Any) -> "Described":
        """The snapshot that this JSON value describes. Raises `CheckpointError` for what describes none."""
        try:
            orders = {str(name): tuple(order) for name, order in about["orders"].items()}
            found = cls(about["weights"], tuple(about["frozen"]), orders)
            fits = set(about) == {part.name for part in dataclasses.fields(cls)} and isinstance(found.weights, str)
            fits &= all(sorted(order) == list(range(len(order))) for order in orders.values())
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"snapshot = {describe(about)} is no description of a snapshot: {error!r}") from error
        if not fits:
            raise CheckpointError(f"snapshot = {describe(about)} is no description of a snapshot")
        return found


def save(
    folder: Path,
    cfg: Architecture,
    tokenizer: TextCodec | None,
    tensors: Mapping[str, Tensor],
    snapshot: Described | None = None,
    target_tokenizer: TextCodec | None = None,
) -> None:
    """Write the files, `config.json` last, each whole or not at all.

    With a `snapshot`, in which nothing is said of orders, tensors are written in the order in which they lie in memory.
    A `target_tokenizer` that is the other one is not written again.

    Raises `CheckpointError` for a tokenizer that is neither a `Vocabulary` nor a `Tokenizer`, and for a snapshot of
    tensors that cannot be taken from a file as they lie here.
    """
    for codec in (tokenizer, target_tokenizer):
        if not isinstance(codec, (*KINDS.values(), NoneType)):
            raise CheckpointError(
                f"a tokenizer of type {type(codec).__name__} cannot be saved; allowed: Vocabulary, Tokenizer or None"
            )
    if snapshot is not None:
        orders = {name: _order(name, tensor, cfg.dtype) for name, tensor in tensors.items()}
        orders = {name: order for name, order in orders.items() if order != tuple(range(len(order)))}
        snapshot = dataclasses.replace(snapshot, orders=orders)
        tensors = {**tensors, **{name: tensors[name].permute(order) for name, order in orders.items()}}
    with atomic_path(folder / SINGLE) as file:
        write_aligned(tensors, file)
    about = {
        "model_type": MODEL_TYPE,
        "config": cfg.to_dict(),
        **_saved_tokenizer(tokenizer, folder),
        **({} if snapshot is None else {"snapshot": dataclasses.asdict(snapshot)}),
    }
    if isinstance(cfg, EncoderDecoderConfig):
        about[PAIR] = True
        if target_tokenizer is not None and target_tokenizer != tokenizer:
            about[TARGET] = _saved_tokenizer(target_tokenizer, folder / TARGET)
    with atomic_path(folder / "config.json") as file:
        file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def _saved_tokenizer(tokenizer: TextCodec | None, folder: Path) -> dict[str, Any]:
    """What `config.json` says of a tokenizer, whose files are written into a folder."""
    return {key: tokenizer.save(folder) if isinstance(tokenizer, kind) else None for key, kind in KINDS.items()}


def _tokenizer(about: Mapping[str, Any], folder: Path) -> TextCodec | None:
    """The tokenizer of which `_saved_tokenizer` wrote the files and returned `about`."""
    made = [kind.load(folder, about[key]) for key, kind in KINDS.items() if about.get(key)]
    return made[0] if made else None


def _order(name: str, tensor: Tensor, dtype: torch.dtype) -> tuple[int, ...]:
    """The order of a tensor's axes in memory. Raises `CheckpointError` if a file cannot hold it as it lies there."""
    if tensor.dtype != dtype:
        raise CheckpointError(f"tensor {name!r} has dtype {tensor.dtype}; the configuration says {dtype}")
    order = memory_order(tensor)
    if order is None:
        raise CheckpointError(f"tensor {name!r} of shape {tuple(tensor.shape)} has strides {tensor.stride()}: it is a "
                              "part of a larger one, which a snapshot does not hold; make it contiguous()")  # fmt: skip
    return order


def read(
    folder: Path,
    about: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    tokenizer: TextCodec | None = None,
    target_tokenizer: TextCodec | None = None,
) -> Checkpoint:
    """The checkpoint in a folder, of which `about` is the `config.json`, with these tokenizers or its own.

    Raises `CheckpointError` naming the file.
    """
    config_file = folder / "config.json"
    try:
        saved = (EncoderDecoderConfig if about.get(PAIR) else TransformerConfig).from_dict(about["config"])
        snapshot = None if about.get("snapshot") is None else Described.of(about["snapshot"])
        if tokenizer is None:
            tokenizer = _tokenizer(about, folder)
        if target_tokenizer is None and about.get(TARGET):
            target_tokenizer = _tokenizer(about[TARGET], folder / TARGET)
    except (KeyError, TypeError, AttributeError, InterpError) as error:
        if str(config_file.parent) in str(error):
            raise
        raise CheckpointError(f"{config_file} cannot be read as a configuration: {error}") from error
    source = SafetensorsFolder(folder)
    for stack in (saved.encoder, saved.decoder) if isinstance(saved, EncoderDecoderConfig) else (saved,):
        if stack.n_layers > len(source.tensors):  # describing them could take endlessly
            raise CheckpointError(f"{config_file}: n_layers = {stack.n_layers}, with {len(source.tensors)} tensors")
    cfg = saved if dtype is None else _in_dtype(saved, dtype)
    weights = NamedWeights(source, saved.dtype) if snapshot is None else Snapshot(source, saved.dtype, snapshot)
    return Checkpoint(cfg, tokenizer, str(config_file), weights, target_tokenizer)


def _in_dtype(cfg: Architecture, dtype: torch.dtype) -> Architecture:
    if isinstance(cfg, TransformerConfig):
        return dataclasses.replace(cfg, dtype=dtype)
    encoder, decoder = (dataclasses.replace(stack, dtype=dtype) for stack in (cfg.encoder, cfg.decoder))
    return dataclasses.replace(cfg, encoder=encoder, decoder=decoder)


@dataclass(frozen=True)
class NamedWeights:
    """Weights that have the names they have in the model.

    Attributes:
        source: where they are.
        dtype: the dtype that the configuration says they have.
    """

    source: SafetensorsFolder
    dtype: torch.dtype

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless every tensor has the name and shape of the expected one, and the dtype."""
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        found = {name: shape for name, (shape, _) in self.source.tensors.items()}
        check_tensors(found, shapes, self.where, "the configuration says")
        for name, (_, dtype) in self.source.tensors.items():
            if dtype != self.dtype:
                raise CheckpointError(f"{self.where(name)} has dtype {dtype}; the configuration says {self.dtype}")

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy every tensor into the model's tensor of the same name."""
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(self.source.read(name))

    def where(self, name: str) -> str:
        """How a message about a tensor begins."""
        return f"{self.source.where(name)}: tensor {name!r}"


@dataclass(frozen=True)
class Snapshot(NamedWeights):
    """The weights of a snapshot, which a model takes as they lie in the file.

    Attributes:
        about: what the snapshot says of them.

    >>> model.save_snapshot("snapshot")
    >>> isinstance(open_checkpoint("snapshot").weights, Snapshot)
    True
    """

    about: Described

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """As for other weights, with the axes of each tensor in the order of the file."""
        stored = dict(expected)
        for name, order in self.about.orders.items():
            if name not in stored or len(order) != stored[name].ndim:
                raise CheckpointError(f"{self.where(name)} is said to have its axes in the order {order}, but has not")
            stored[name] = stored[name].permute(order)
        for name in self.about.frozen:
            if name not in expected:
                raise CheckpointError(f"{self.where(name)} is said to be not trained, but it is not part of this model")
        super().check(stored)

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy every tensor into the model's tensor of the same name."""
        with torch.no_grad():
            for name, tensor in self.mapped(self.dtype, "cpu").items():
                targets[name].copy_(tensor)

    def mapped(self, dtype: torch.dtype, device: str | torch.device | None) -> dict[str, Tensor]:
        """The tensors by name, mapped from the file where dtype and device allow it, else copies of them.

        Their strides are those that the model's tensors had when the snapshot was made.
        """
        found, device = {}, torch.device(device or torch.get_default_device())
        for name, tensor in self.source.read_all().items():
            order = self.about.orders.get(name, range(tensor.ndim))
            found[name] = aligned(in_order(tensor, order).to(device, dtype))
        return found
