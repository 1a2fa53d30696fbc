"""Folders of sentence-transformers: how the last stream becomes one vector for a text (Reimers & Gurevych 2019).

Beside the files of a transformers model such a folder has `modules.json`, the list of the steps. The first is the model
itself. Read and written here are pooling, by mean or at the first token, and division by the length.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from interp.checkpoints.sources import Architecture, read_json, read_list
from interp.config import EncoderDecoderConfig
from interp.errors import CheckpointError
from interp.files import atomic_path

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
PACKAGE = "sentence_transformers.models."
MODES: dict[str, Literal["mean", "cls"]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""The keys of a pooling's `config.json` that are supported, and our word for each."""


class Pooling(NamedTuple):
    """The fields of a config that such a folder decides."""

    pooling: Literal["mean", "cls"]
    normalize_pooled: bool


def read(folder: Path) -> Pooling | None:
    """How a folder's model is pooled; None for a folder that is not of sentence-transformers.

    Raises `CheckpointError` naming the file and the step that is not supported.
    """
    if not (folder / MODULES).exists():
        return None
    steps = read_list(folder / MODULES)
    kinds = [_kind(step, folder) for step in steps]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{folder / MODULES}: the steps {', '.join(kinds)} are not supported; allowed: Transformer, Pooling and, "
            "after these, Normalize. The encoder without them: load the folder with transformers, pass hf_model="
        )
    if path := steps[0].get("path"):
        raise CheckpointError(f"{folder / MODULES}: the model lies in {path!r}, not in this folder; give that one")
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    if (prompt := settings.get("default_prompt_name")) is not None:
        raise CheckpointError(f"{folder / SETTINGS}: default_prompt_name = {prompt!r} is not supported; allowed: null, "
                              "and prompts that are written out in the texts")  # fmt: skip
    return Pooling(_mode(folder / str(steps[1].get("path")) / "config.json"), len(kinds) == 3)


def files(folder: Path) -> list[str]:
    """The names of the files beside `modules.json` that `read` needs from other folders. Raises `CheckpointError`."""
    steps = [step for step in read_list(folder / MODULES) if _kind(step, folder) == "Pooling"]
    return [f"{step.get('path')}/config.json" for step in steps]


def _kind(step: Any, folder: Path) -> str:
    """The class of a step, by its last name: where the class lies differs between versions."""
    if not isinstance(step, dict) or not isinstance(step.get("type"), str):
        raise CheckpointError(f"{folder / MODULES}: {step!r} is no step, an object with a type")
    return step["type"].rsplit(".", 1)[1] if step["type"].startswith("sentence_transformers.") else step["type"]


def _mode(file: Path) -> Literal["mean", "cls"]:
    config = read_json(file)
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    word = config.get("pooling_mode")  # the spelling of later versions
    if word is not None:
        modes += [next((key for key, ours in MODES.items() if ours == word), f"pooling_mode = {word!r}")]
    if len(set(modes)) != 1 or modes[0] not in MODES:
        raise CheckpointError(f"{file}: {' with '.join(modes) or 'no pooling'} is not supported; allowed: one of "
                              f"{', '.join(MODES)}")  # fmt: skip
    if config.get("include_prompt") is False:
        raise CheckpointError(f"{file}: include_prompt = False is not supported; allowed: True")
    return MODES[modes[0]]


def pooling_of(cfg: Architecture) -> Pooling | None:
    """What such a folder says of this architecture; None where its pooling is none or one that transformers has."""
    if isinstance(cfg, EncoderDecoderConfig) or cfg.pooling not in MODES.values():
        return None
    return Pooling(cast(Literal["mean", "cls"], cfg.pooling), cfg.normalize_pooled)


def write(folder: Path, cfg: Architecture) -> None:
    """Write the files that say how this architecture is pooled, where transformers' own do not; `modules.json` last.

    Raises `CheckpointError` where there is a `modules.json` and should be none.
    """
    pooling = pooling_of(cfg)
    if pooling is None or isinstance(cfg, EncoderDecoderConfig):
        if (folder / MODULES).exists():
            raise CheckpointError(
                f"{folder / MODULES} is of another model: with it this one would be read with a pooling that it does "
                "not have; take another folder, or remove the file"
            )
        return
    steps = [("Transformer", ""), ("Pooling", "1_Pooling")]
    steps += [("Normalize", "2_Normalize")] if pooling.normalize_pooled else []
    modes = {key: ours == pooling.pooling for key, ours in MODES.items()}
    with atomic_path(folder / "1_Pooling" / "config.json") as file:
        file.write_text(json.dumps({"word_embedding_dimension": cfg.d_model} | modes, indent=2), encoding="utf-8")
    listed = [{"idx": i, "name": str(i), "path": path, "type": PACKAGE + kind} for i, (kind, path) in enumerate(steps)]
    with atomic_path(folder / MODULES) as file:
        file.write_text(json.dumps(listed, indent=2), encoding="utf-8")
