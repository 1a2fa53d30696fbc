"""Where tensors come from: safetensors files, whole or sharded, and dictionaries. Nothing here unpickles anything.

A source knows name, shape and dtype of every tensor before any of them is read, so that a checkpoint can be refused
before a model exists (`check_tensors`). Tensors are read one at a time.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.errors import CheckpointError, did_you_mean

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of dtypes in a safetensors header; every other stands for a kind of quantised number."""

Shape = tuple[int, ...]


@runtime_checkable
class TensorSource(Protocol):
    """Tensors that can be read by name."""

    @property
    def tensors(self) -> Mapping[str, tuple[Shape, torch.dtype | str]]:
        """Shape and dtype of every tensor; the dtype's name where torch has none for it."""
        ...

    @property
    def name(self) -> str:
        """The name of the whole in messages."""
        ...

    def read(self, name: str) -> Shaped[Tensor, "*shape"]:
        """The tensor of that name."""
        ...

    def where(self, name: str) -> str:
        """The file that a tensor is in."""
        ...


def check_tensors(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], where: Callable[[str], str], authority: str
) -> None:
    """Raise `CheckpointError` unless a checkpoint has the tensors of a model, no others, each of its shape.

    Args:
        found, expected: shapes by name, in the checkpoint and in the model.
        where: how a message about a tensor begins: its file, and its name there.
        authority: what the expected shapes were read off, with its verb: "the configuration says".
    """
    missing, surplus = [[name for name in a if name not in b] for a, b in ((expected, found), (found, expected))]
    for name in missing:
        raise CheckpointError(f"{where(name)} is missing{did_you_mean(name, surplus, 0.8)}")
    for name in surplus:
        raise CheckpointError(f"{where(name)} is not part of this model{did_you_mean(name, expected, 0.8)}")
    for name, shape in found.items():
        if shape != expected[name]:
            raise CheckpointError(f"{where(name)} has shape {shape}; {authority} {expected[name]}")


class Dictionary:
    """A state dict in memory."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str):
        self._held, self.name = tensors, name
        self.tensors = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
        for key, tensor in tensors.items():
            if tensor.is_meta:
                raise CheckpointError(f"{name}: tensor {key!r} is on the meta device, without values")

    def read(self, name: str) -> Shaped[Tensor, "*shape"]:
        """The tensor of that name, as it is held."""
        return self._held[name].detach()

    def where(self, name: str) -> str:
        """The name of the dictionary: its tensors are in no file."""
        return self.name


class SafetensorsFolder:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` names.

    A file is opened anew for every tensor: what is read stays mapped, and would count as memory, while it is open.

    Raises:
        CheckpointError: a file is missing, truncated or corrupt, or a shard does not hold what the index says.
    """

    def __init__(self, folder: Path):
        self.name = str(folder / SINGLE)
        self._files: dict[str, Path] = {}
        self.tensors: dict[str, tuple[Shape, torch.dtype | str]] = {}
        if (folder / SINGLE).exists() or not (folder / INDEX).exists():
            if not (folder / SINGLE).exists():
                raise CheckpointError(no_weights(folder))
            self._add(folder / SINGLE)
            return
        self.name = str(folder / INDEX)
        shards = shard_of_each_tensor(folder / INDEX)
        for shard in sorted(set(shards.values())):
            if not (folder / shard).exists():
                first = next(name for name in shards if shards[name] == shard)
                raise CheckpointError(f"{folder / shard} is missing: {self.name} says it holds tensor {first!r}")
            self._add(folder / shard)
        for name, shard in shards.items():
            if self._files.get(name) != folder / shard:
                raise CheckpointError(f"{folder / shard}: tensor {name!r} is missing, which {self.name} says it holds")

    def _add(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                    about = opened.get_slice(name)
                    kind = str(about.get_dtype())
                    self.tensors[name] = tuple(about.get_shape()), DTYPES.get(kind, kind)
                    self._files[name] = file
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def read(self, name: str) -> Shaped[Tensor, "*shape"]:
        """One tensor, mapped from its file for as long as it is held. Raises `CheckpointError` naming both."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._files[name], "pt") as opened:
                return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self._files[name]}: tensor {name!r} cannot be read: {error}") from error

    def where(self, name: str) -> str:
        """The file that a tensor is in."""
        return str(self._files.get(name, self.name))


def shard_of_each_tensor(index: Path) -> dict[str, str]:
    """The file name for every tensor name. Raises `CheckpointError`, also for a shard outside the index's folder."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise CheckpointError(f"{index}: weight_map does not give a file for each tensor")
    for file in shards.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: shard {file!r} is not a .safetensors file in the same folder")
    return shards


def no_weights(folder: Path, others: list[str] | None = None) -> str:
    """The message about a checkpoint without safetensors; `others` are its files where they are not in the folder."""
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    pickles += [name for name in others or () if any(Path(name).match(pattern) for pattern in PICKLES)]
    missing = f"{folder}: neither {SINGLE} nor {INDEX} is there"
    if not pickles:
        return missing
    return (
        f"{missing}, only {', '.join(pickles)}. These are pickles, which can run any code when they are loaded, and "
        "are never loaded here; convert them with transformers' save_pretrained, or pass hf_model="
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `CheckpointError` naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} cannot be read as a configuration: it holds a {type(values).__name__}")
    return values
