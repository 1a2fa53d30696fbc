"""Where tensors come from: safetensors files, whole or sharded, and dictionaries. Nothing here unpickles anything.

A source knows name, shape and dtype of every tensor before any of them is read, so that a checkpoint can be refused
before a model exists (`check_tensors`). Tensors are read one at a time. A `Checkpoint` is what every format becomes:
an architecture, a tokenizer, and weights that know how to fill named tensors. No format knows the model itself.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import CheckpointError, describe, did_you_mean
from interp.text import TextCodec

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

Architecture = TransformerConfig | EncoderDecoderConfig
"""That of a model of one stack, or of an encoder with a decoder."""

ADAPTER = re.compile(r"\.(base_layer|lora_[A-Za-z]\w*|ia3_l|modules_to_save)\.|\.lora_\w+$")
"""Names of tensors that only a model with an adapter (of the peft library) has."""
MERGE = (
    "the base model alone would be another model. Merge it with peft: "
    "PeftModel.from_pretrained(base, adapter).merge_and_unload(), and pass the result as hf_model= or save it"
)
DEQUANTIZE = "quantised weights become plain ones with transformers' model.dequantize(), to be passed as hf_model="


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


@runtime_checkable
class Weights(Protocol):
    """The weights of a checkpoint, of whatever format."""

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless they are those of a model with these tensors, which may be on "meta"."""
        ...

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy them into a model's tensors by name. Biases that the format does not have stay as they are."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found, and whose description was read; its weights were not read yet.

    Attributes:
        cfg: the architecture.
        tokenizer: what turns text into ids, or None; with an encoder and a decoder, the source.
        name: what messages call the checkpoint.
        weights: how a model is filled.
        target_tokenizer: what turns the target into ids, where it is another.
    """

    cfg: Architecture
    tokenizer: TextCodec | None
    name: str
    weights: Weights
    target_tokenizer: TextCodec | None = None

    def one_stack(self) -> TransformerConfig:
        """The architecture of a model of one stack. Raises `CheckpointError` for an encoder with a decoder."""
        if isinstance(self.cfg, TransformerConfig):
            return self.cfg
        raise CheckpointError(
            f"{self.name} is an encoder with a decoder; load it with HookedEncoderDecoder.from_pretrained"
        )

    def two_stacks(self) -> EncoderDecoderConfig:
        """The architecture of an encoder with a decoder. Raises `CheckpointError` for a model of one stack."""
        if isinstance(self.cfg, EncoderDecoderConfig):
            return self.cfg
        raise CheckpointError(
            f"{self.name} is a model of one stack, without a decoder beside an encoder; load it with "
            "HookedTransformer.from_pretrained"
        )

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless the weights are those of a model with these tensors (by name, on "meta")."""
        self.weights.check(expected)

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the weights into a model's tensors by name. Biases that the checkpoint lacks stay as they are."""
        self.weights.fill(targets)


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


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are one in memory, or hold equal numbers in the same shape."""
    return (first.data_ptr() == second.data_ptr() and first.shape == second.shape) or torch.equal(first, second)


def plain_names(names: Iterable[str], where: str) -> dict[str, str]:
    """The name of each tensor without what wrappers add to it, and the name that it is stored by.

    `torch.compile` puts "_orig_mod." before the names of what it compiles, and training on several devices "module.".
    Raises `CheckpointError` for adapters that were not merged into the weights, and where two names become one.
    """
    stored = list(names)
    for name in stored:
        if name.startswith("base_model.model.") or ADAPTER.search(name):
            raise CheckpointError(f"{where}: tensor {name!r} is of an adapter that is not merged; {MERGE}")
    short_names = [name.replace("_orig_mod.", "") for name in stored]
    parallel = all(name.startswith("module.") for name in short_names)
    plain: dict[str, str] = {}
    for name, short in zip(stored, short_names, strict=True):
        short = short.removeprefix("module.") if parallel else short
        if short in plain:
            raise CheckpointError(f"{where}: tensors {plain[short]!r} and {name!r} are one and the same in a model")
        plain[short] = name
    return plain


class Dictionary:
    """A state dict in memory. Raises `CheckpointError` for a tensor that does not hold its own numbers."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str):
        self.name = name
        for key in tensors:
            if not isinstance(key, str):
                raise CheckpointError(f"{name}: {describe(key)} is no name of a tensor, which is a string")
        self._held = {plain: tensors[stored] for plain, stored in plain_names(tensors, name).items()}
        for key, tensor in self._held.items():
            if type(tensor) not in (Tensor, torch.nn.Parameter):  # quantised, or spread over devices
                kind = f"{type(tensor).__module__}.{type(tensor).__name__}"
                raise CheckpointError(f"{name}: tensor {key!r} is a {kind}; allowed: plain tensors ({DEQUANTIZE})")
            if tensor.is_meta:
                raise CheckpointError(f"{name}: tensor {key!r} is on the meta device, without values")
        self.tensors = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in self._held.items()}

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
        stored: dict[str, tuple[Path, Shape, torch.dtype | str]] = {}
        if (folder / SINGLE).exists() or not (folder / INDEX).exists():
            if not (folder / SINGLE).exists():
                raise CheckpointError(no_weights(folder))
            stored = dict(_headers(folder / SINGLE))
        else:
            self.name = str(folder / INDEX)
            stored = self._of_shards(folder)
        self._stored = plain_names(stored, self.name)
        self._files = {name: stored[own][0] for name, own in self._stored.items()}
        self.tensors = {name: stored[own][1:] for name, own in self._stored.items()}

    def _of_shards(self, folder: Path) -> dict[str, tuple[Path, Shape, torch.dtype | str]]:
        shards = shard_of_each_tensor(folder / INDEX)
        stored: dict[str, tuple[Path, Shape, torch.dtype | str]] = {}
        for shard in sorted(set(shards.values())):
            if not (folder / shard).exists():
                first = next(name for name in shards if shards[name] == shard)
                raise CheckpointError(f"{folder / shard} is missing: {self.name} says it holds tensor {first!r}")
            stored |= _headers(folder / shard)
        for name, shard in shards.items():
            if name not in stored or stored[name][0] != folder / shard:
                raise CheckpointError(f"{folder / shard}: tensor {name!r} is missing, which {self.name} says it holds")
        return stored

    def read(self, name: str) -> Shaped[Tensor, "*shape"]:
        """One tensor, mapped from its file for as long as it is held. Raises `CheckpointError` naming both."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._files[name], "pt") as opened:
                return opened.get_tensor(self._stored[name])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self._files[name]}: tensor {name!r} cannot be read: {error}") from error

    def read_all(self) -> dict[str, Tensor]:
        """All tensors, mapped: each file once, for as long as one of its tensors is held.

        The pages are private: what is written to a tensor is seen in no file and in no other process.
        Raises `CheckpointError` as `read` does.
        """
        from safetensors import SafetensorError, safe_open

        found: dict[str, Tensor] = {}
        for path in set(self._files.values()):
            names = [name for name, file in self._files.items() if file == path]
            try:
                with safe_open(path, "pt") as opened:
                    found |= {name: opened.get_tensor(self._stored[name]) for name in names}
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
        return found

    def where(self, name: str) -> str:
        """The file that a tensor is in."""
        return str(self._files.get(name, self.name))


def _headers(file: Path) -> dict[str, tuple[Path, Shape, torch.dtype | str]]:
    """File, shape and dtype of every tensor in a file, by its name there."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, Shape, torch.dtype | str]] = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                about = opened.get_slice(name)
                kind = str(about.get_dtype())
                found[name] = file, tuple(about.get_shape()), DTYPES.get(kind, kind)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    return found


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
    return _read(path, dict)


def read_list(path: Path) -> list[Any]:
    """The list in a JSON file. Raises `CheckpointError` naming the file."""
    return _read(path, list)


def _read(path: Path, kind: type) -> Any:  # the run-time checks know no type variable of generic types
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as a configuration: {error}") from error
    if not isinstance(values, kind):
        raise CheckpointError(f"{path} cannot be read as a configuration: it holds a {type(values).__name__}")
    return values
