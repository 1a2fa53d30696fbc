"""`HookedTransformer.from_pretrained`: find the files of a name, check them, and only then make a model."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.checkpoints import native
from interp.checkpoints.registry import plan
from interp.checkpoints.sources import INDEX, SINGLE, Dictionary, SafetensorsFolder, no_weights, read_json
from interp.checkpoints.sources import shard_of_each_tensor as shards_of
from interp.errors import CheckpointError, InterpError, did_you_mean
from interp.text import TextCodec

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Device = str | torch.device | None
DTYPES = ("float64", "float32", "float16", "bfloat16")
"""The dtypes that parameters can have."""


def load(
    kind: "type[HookedTransformer]",
    name_or_path: str | os.PathLike[str] | None,
    hf_model: Any,
    dtype: torch.dtype | str | None,
    device: Device,
    revision: str | None,
    tokenizer: TextCodec | None,
) -> "HookedTransformer":
    """See `HookedTransformer.from_pretrained`."""
    dtype = _checked(dtype, device)
    if hf_model is not None:
        if name_or_path is not None:
            raise CheckpointError(f"{name_or_path!r} and hf_model= are two models; give one of them")
        return _from_instance(kind, hf_model, dtype, device, tokenizer)
    if name_or_path is None:
        raise CheckpointError("from_pretrained needs a name, a path or hf_model=")
    path = _local(name_or_path)
    if revision is not None and path.exists():
        raise CheckpointError(f"revision = {revision!r} is for names on the hub, and {path} is here")
    if path.suffix == ".gguf":
        return _from_gguf(path, dtype, device, tokenizer)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the folder that holds it and config.json (or a .gguf file)")
    return _from_folder(kind, path if path.is_dir() else _download(str(name_or_path), revision),
                        dtype, device, tokenizer)  # fmt: skip


def _checked(dtype: torch.dtype | str | None, device: Device) -> torch.dtype | None:
    """The dtype, also by its name. Raises `CheckpointError` for one that parameters cannot have, or a bad device."""
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in DTYPES:
        raise CheckpointError(f"dtype = {dtype!r}; allowed: {', '.join(DTYPES)}{did_you_mean(name, DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise CheckpointError(f"device = {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return None if dtype is None else getattr(torch, name)


def _local(name_or_path: str | os.PathLike[str]) -> Path:
    """The path that a name stands for on this machine, or the file that was fetched under it; else the name as a path.

    Raises `CheckpointError` for a path that does not exist and cannot be a repository.
    """
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path).strip():
        raise CheckpointError(f"{name_or_path!r} is neither a name nor a path")
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    from interp.checkpoints import fetch

    name = name_or_path if isinstance(name_or_path, str) else None
    if name is None or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) or path.suffix == ".gguf":
        raise CheckpointError(
            f"{str(name_or_path)!r} does not exist: no folder with a config.json, and no .gguf file"
            f"{fetch.suggestion(str(name_or_path))}"
        )
    return fetch.local_path(name) or path


def _from_gguf(
    path: Path, dtype: torch.dtype | None, device: Device, tokenizer: TextCodec | None
) -> "HookedTransformer":
    from interp.checkpoints import gguf

    model = gguf.load(path, dtype, device)
    if tokenizer is not None:
        model.tokenizer = tokenizer
    return model


def _from_instance(
    kind: "type[HookedTransformer]",
    hf_model: Any,
    dtype: torch.dtype | None,
    device: Device,
    tokenizer: TextCodec | None,
) -> "HookedTransformer":
    name = type(hf_model).__name__
    if not (hasattr(hf_model, "state_dict") and hasattr(getattr(hf_model, "config", None), "to_dict")):
        raise CheckpointError(f"hf_model is an instance of a transformers model, not of {name}")
    made = plan(hf_model.config.to_dict(), Dictionary(hf_model.state_dict(), name), dtype, f"{name}.config")
    model = kind(made.cfg, tokenizer, device, init_weights=False)
    made.fill(model.state_dict())
    return model


def _from_folder(
    kind: "type[HookedTransformer]",
    folder: Path,
    dtype: torch.dtype | None,
    device: Device,
    tokenizer: TextCodec | None,
) -> "HookedTransformer":
    if not (folder / "config.json").exists():
        files = sorted(folder.glob("*.gguf"))
        hint = f"for a .gguf file give its own path, such as {files[0]}" if files else "it is no folder of a checkpoint"
        raise CheckpointError(f"{folder} has no config.json; {hint}")
    config = read_json(folder / "config.json")
    if config.get("model_type") == native.MODEL_TYPE:
        return native.load(kind, folder, config, dtype, device, tokenizer)
    made = plan(config, SafetensorsFolder(folder), dtype, str(folder / "config.json"))
    try:
        codec = _tokenizer(folder) if tokenizer is None else tokenizer
        model = kind(made.cfg, codec, device, init_weights=False)
    except InterpError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    made.fill(model.state_dict())
    return model


def _tokenizer(folder: Path) -> TextCodec | None:
    """The tokenizer of a folder that has one, else None."""
    if not (folder / "tokenizer.json").exists():
        return None
    from interp.text import Tokenizer

    about = folder / "tokenizer_config.json"
    return Tokenizer.from_file(folder / "tokenizer.json", config=read_json(about) if about.exists() else {})


def _download(name: str, revision: str | None) -> Path:
    """The folder with a snapshot of a repository on the hub: its JSON files, and the weights that are asked for.

    First the JSON files of its top folder, then one file of weights, or the shards that the index names; not the other
    formats that a repository may hold beside them. Raises `CheckpointError` naming repository and revision.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns="*.json", ignore_patterns="*/*"))
        wanted = sorted(set(shards_of(folder / INDEX).values())) if (folder / INDEX).exists() else [SINGLE]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if any(not (folder / file).exists() for file in wanted):
            raise CheckpointError(f"{name}: {no_weights(folder, list_repo_files(name, revision=revision))}")
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        from interp.checkpoints import fetch

        at = "" if revision is None else f" at revision {revision!r}"
        raise CheckpointError(
            f"{name!r} is no local folder, and cannot be had from the Hugging Face hub{at}: {_reason(error)}"
            f"{fetch.suggestion(name)}"
        ) from error
    return folder


def _reason(error: Exception) -> str:
    """Why the hub did not give a repository, in a few words: its own messages bury them in advice."""
    from huggingface_hub import errors

    reasons = {
        errors.GatedRepoError: "its owner has to grant access (log in with `hf auth login`)",
        errors.RepositoryNotFoundError: "there is no such repository, or it is private",
        errors.RevisionNotFoundError: "there is no such revision",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set, and no copy is in its cache",
        errors.LocalEntryNotFoundError: "no network, and no copy in its cache",
    }
    found = [why for kind, why in reasons.items() for one in (error.__cause__, error) if isinstance(one, kind)]
    return found[0] if found else str(error).strip().split("\n")[0].rstrip(".")
