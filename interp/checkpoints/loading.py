"""A name, a path or an instance of a transformers model becomes a `Checkpoint`, and a model's tensors become files.

`open_checkpoint` finds the files and checks their description before any model exists; `HookedTransformer` makes the
model and has it filled.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.checkpoints import native, registry, sentence
from interp.checkpoints.sources import (
    DEQUANTIZE,
    INDEX,
    MERGE,
    SINGLE,
    Architecture,
    Checkpoint,
    Dictionary,
    SafetensorsFolder,
    no_weights,
    read_json,
)
from interp.checkpoints.sources import shard_of_each_tensor as shards_of
from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.errors import CheckpointError, ConfigError, InterpError, describe, did_you_mean
from interp.text import TextCodec, Tokenizer, as_tokenizer, check_vocabulary

Device = str | torch.device | None
DTYPES = ("float64", "float32", "float16", "bfloat16")
"""The dtypes that parameters can have."""
ADAPTER_CONFIG = "adapter_config.json"
"""The file of the peft library that makes a folder that of an adapter."""


def open_checkpoint(
    name_or_path: str | os.PathLike[str] | None = None,
    hf_model: Any = None,
    dtype: torch.dtype | str | None = None,
    device: Device = None,
    revision: str | None = None,
    tokenizer: Any = None,
    target_tokenizer: Any = None,
) -> Checkpoint:
    """The checkpoint that these arguments of `from_pretrained` name, found but not yet read.

    Raises `CheckpointError` as `from_pretrained` does, and `TokenError` for a tokenizer that is none.

    >>> model.save_pretrained("saved")
    >>> open_checkpoint("saved").cfg == cfg
    True
    """
    dtype, codec = _checked(dtype, device), as_tokenizer(tokenizer)
    if hf_model is not None:
        if name_or_path is not None:
            raise CheckpointError(f"{name_or_path!r} and hf_model= are two models; give one of them")
        found = _of_instance(hf_model, dtype, codec)
    elif name_or_path is None:
        raise CheckpointError("from_pretrained needs a name, a path or hf_model=")
    else:
        found = _of_name(name_or_path, dtype, revision, codec)
    found = _with_tokenizers(found, tokenizer, target_tokenizer)
    try:
        if isinstance(found.cfg, EncoderDecoderConfig):
            check_vocabulary(found.tokenizer, found.cfg.encoder.d_vocab)
            check_vocabulary(found.target_tokenizer or found.tokenizer, found.cfg.decoder.d_vocab)
        else:
            check_vocabulary(found.tokenizer, found.cfg.d_vocab)
    except ConfigError as error:
        raise CheckpointError(f"{found.name}: {error}") from error
    return found


def _with_tokenizers(found: Checkpoint, tokenizer: Any, target_tokenizer: Any) -> Checkpoint:
    """The checkpoint with these tokenizers, in any of their forms, in place of its own; None changes nothing.

    That of an encoder adds all its special tokens to a text. A tokenizer that is given alone is the target's as well,
    without the tokens that end a text.
    """
    encodes = isinstance(found.cfg, EncoderDecoderConfig) or found.cfg.attention_dir == "bidirectional"
    if tokenizer is not None:
        found = dataclasses.replace(found, tokenizer=as_tokenizer(tokenizer, add_special_tokens=encodes))
    target = _of_target(as_tokenizer(tokenizer)) if target_tokenizer is None else as_tokenizer(target_tokenizer)
    if isinstance(found.cfg, EncoderDecoderConfig) and target is not None:
        found = dataclasses.replace(found, target_tokenizer=target)
    return found


def _of_target(tokenizer: TextCodec | None) -> TextCodec | None:
    """A tokenizer of sources for targets, which can be continued: without the tokens that end a text."""
    return tokenizer.with_special_tokens(False) if isinstance(tokenizer, Tokenizer) else tokenizer


def save_checkpoint(
    folder: str | os.PathLike[str],
    cfg: Architecture,
    tokenizer: TextCodec | None,
    tensors: Mapping[str, Tensor],
    model_type: str | None = None,
    target_tokenizer: TextCodec | None = None,
) -> None:
    """Write what `save_pretrained` writes; `tensors` is the model's state dict.

    >>> save_checkpoint("saved", cfg, words, model.state_dict())
    >>> torch.equal(HookedTransformer.from_pretrained("saved")(clean), model(clean))
    True
    """
    if model_type is None:
        native.save(Path(folder), cfg, tokenizer, tensors, target_tokenizer=target_tokenizer)
    else:
        registry.save(Path(folder), cfg, tensors, model_type)


def save_snapshot(
    folder: str | os.PathLike[str],
    cfg: TransformerConfig,
    tokenizer: TextCodec | None,
    tensors: Mapping[str, Tensor],
    weights: str,
    frozen: Iterable[str],
) -> None:
    """Write what `HookedTransformer.save_snapshot` writes.

    Args:
        folder, cfg, tokenizer, tensors: as for `save_checkpoint`.
        weights: the hash of the tensors.
        frozen: the names of parameters that are not trained.

    >>> save_snapshot("snapshot", cfg, words, model.state_dict(), weights=model.weights_hash(), frozen=[])
    >>> torch.equal(HookedTransformer.from_pretrained("snapshot").W_U, model.W_U)
    True
    """
    native.save(Path(folder), cfg, tokenizer, tensors, native.Described(weights, tuple(frozen)))


def _of_name(
    name_or_path: str | os.PathLike[str], dtype: torch.dtype | None, revision: str | None, tokenizer: TextCodec | None
) -> Checkpoint:
    path = _local(name_or_path)
    if revision is not None and path.exists():
        raise CheckpointError(f"revision = {revision!r} is for names on the hub, and {path} is here")
    if path.suffix == ".gguf":
        from interp.checkpoints import gguf

        return gguf.read(path, dtype, tokenizer)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the folder that holds it and config.json (or a .gguf file)")
    return _of_folder(path if path.is_dir() else _download(str(name_or_path), revision), dtype, tokenizer)


def _checked(dtype: torch.dtype | str | None, device: Device) -> torch.dtype | None:
    """The dtype, which may be given by its name.

    Raises `CheckpointError` for a dtype that parameters cannot have, and for a device that cannot be used.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in DTYPES:
        raise CheckpointError(f"dtype = {dtype!r}; allowed: {', '.join(DTYPES)}{did_you_mean(name, DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise CheckpointError(f"device = {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return None if dtype is None else getattr(torch, name)


def _local(name_or_path: str | os.PathLike[str]) -> Path:
    """The path of a folder or a file on this machine: the one that is named, or the one that was fetched by that name.

    A name that may be that of a repository on the hub is returned as it is. Raises `CheckpointError` for any other name
    that is no path on this machine.
    """
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path).strip():
        hint = "; give a model of transformers as hf_model=" if hasattr(name_or_path, "state_dict") else ""
        raise CheckpointError(f"{describe(name_or_path)} is neither a name nor a path{hint}")
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


# ---------------------------------------------------------------------- instances of transformers models


def _of_instance(hf_model: Any, dtype: torch.dtype | None, tokenizer: TextCodec | None) -> Checkpoint:
    hf_model = _unwrapped(hf_model)
    name = type(hf_model).__name__
    if not (hasattr(hf_model, "state_dict") and hasattr(getattr(hf_model, "config", None), "to_dict")):
        raise CheckpointError(f"hf_model is an instance of a transformers model, not of {name}")
    if getattr(hf_model, "peft_config", None) or getattr(hf_model, "_hf_peft_config_loaded", False):
        raise CheckpointError(f"{name} has an adapter that is not merged; {MERGE}")
    quantizer = getattr(hf_model, "hf_quantizer", None)
    if quantizer is not None or getattr(hf_model, "is_quantized", False):
        method = getattr(hf_model, "quantization_method", None) or type(quantizer).__name__
        raise CheckpointError(f"{name}: the weights are quantised ({method}); {DEQUANTIZE}")
    source = Dictionary(hf_model.state_dict(), name)
    config = hf_model.config.to_dict() | {"architectures": [name]}  # those in it are of the checkpoint it came from
    made = registry.plan(config, source, dtype, f"{name}.config")
    return Checkpoint(made.cfg, tokenizer, name, made)


def _unwrapped(hf_model: Any) -> Any:
    """The model that was compiled, or wrapped for several devices."""
    while True:
        compiled = getattr(hf_model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            hf_model = compiled
        elif isinstance(hf_model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            hf_model = hf_model.module
        else:
            return hf_model


# ---------------------------------------------------------------------- folders, here and on the hub


def _of_folder(folder: Path, dtype: torch.dtype | None, tokenizer: TextCodec | None) -> Checkpoint:
    _refuse_adapter(folder)
    if not (folder / "config.json").exists():
        files = sorted(folder.glob("*.gguf"))
        hint = f"for a .gguf file give its own path, such as {files[0]}" if files else "it is no folder of a checkpoint"
        raise CheckpointError(f"{folder} has no config.json; {hint}")
    config = read_json(folder / "config.json")
    if config.get("model_type") == native.MODEL_TYPE:
        return native.read(folder, config, dtype, tokenizer)
    source, pooling = SafetensorsFolder(folder), sentence.read(folder)
    made = registry.plan(config, source, dtype, str(folder / "config.json"), pooling)
    try:
        tokenizer = _tokenizer(folder, made.cfg, config) if tokenizer is None else tokenizer
    except InterpError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    target = _of_target(tokenizer) if isinstance(made.cfg, EncoderDecoderConfig) else None
    return Checkpoint(made.cfg, tokenizer, str(folder), made, target)


def _refuse_adapter(folder: Path) -> None:
    """Raise `CheckpointError` for a folder with an adapter: weights that lie beside it are those of the base alone."""
    file = folder / ADAPTER_CONFIG
    if file.exists():
        base = read_json(file).get("base_model_name_or_path")
        raise CheckpointError(f"{file}: the folder holds an adapter of the base model {base!r}, not merged; {MERGE}")


def _tokenizer(folder: Path, cfg: Architecture, config: Mapping[str, Any]) -> TextCodec | None:
    """The tokenizer of a folder that has one, else None. That of an encoder adds all its special tokens to a text."""
    if not (folder / "tokenizer.json").exists():
        return None
    about = folder / "tokenizer_config.json"
    said, pad = read_json(about) if about.exists() else {}, config.get("pad_token_id")
    if isinstance(cfg, TransformerConfig) and cfg.attention_dir == "causal":
        return Tokenizer.from_file(folder / "tokenizer.json", said)
    return Tokenizer.from_file(
        folder / "tokenizer.json", said, add_special_tokens=True, pad_id=pad if isinstance(pad, int) else None
    )


def _download(name: str, revision: str | None) -> Path:
    """The folder with a copy of a repository on the hub: the JSON files of its top folder, and its weights.

    The JSON files come first, since one of them may name the files of weights, and another those of a pooling. Only
    these files are downloaded, and not the other formats that a repository may hold. Raises `CheckpointError` naming
    repository and revision.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns="*.json", ignore_patterns="*/*"))
        _refuse_adapter(folder)
        if (folder / sentence.MODULES).exists():
            snapshot_download(name, revision=revision, allow_patterns=sentence.files(folder))
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
