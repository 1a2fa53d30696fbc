"""A sweep's checkpoint: what has been measured, cell by cell, in a file that only the same question goes on from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.digests import digest_of, digest_of_text
from interp.errors import CheckpointError
from interp.files import load_tensors, save_tensors
from interp.interventions import Intervention
from interp.metrics import key_of
from interp.model import ActivationCache, PairCache, SourceAndTarget, signature
from interp.patching.measure import Measurement
from interp.text import MaskedTokens

KIND = "interp.patching.checkpoint"


def question_of(measured: Measurement, places: list[str], more: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep asks, part by part, as JSON values: model, prompts, what is written, metrics, and `more`.

    Neither a schedule (budgets, portions) nor how results are shown is part of it. `places` are the points that are
    written to. Raises `ConfigError` for a metric that has no key.
    """
    runs = measured.runs
    source = runs.pair.source
    if isinstance(source, ActivationCache | PairCache):
        written: Any = digest_of({name: runs.written(name) for name in places})
    elif isinstance(source, Intervention):
        written = key_of(source)
    elif isinstance(source, SourceAndTarget):
        written = [_read(part) for part in (source.source, source.target)]
    else:
        written = _read(source)
    prompts, both = runs.base.prompts, runs.pair.both
    if both is None:
        read = _read(prompts)
    else:  # the memory is made of the source
        read = _read(both.read.target) | {f"source {part}": asked for part, asked in _read(both.read.source).items()}
    return {
        "model": signature(runs.pair.whole),
        **read,
        "direction": runs.pair.direction,
        "other prompts": written,
        "metric": measured.keys(),
        **more,
    }


def _read(prompts: MaskedTokens) -> dict[str, Any]:
    """Everything that a run reads: tokens, which of them are padding, and what there is beside them."""
    read: dict[str, Any] = {"prompts": prompts.ids.tolist(), "attention mask": prompts.is_token.tolist()}
    if prompts.token_types is not None:
        read["token types"] = prompts.token_types.tolist()
    if prompts.memory is not None:
        read["memory"] = digest_of({"stream": prompts.memory.stream, "mask": prompts.memory.is_token})
    return read


class ResumeFile:
    """What has been measured so far.

    Args:
        path: of the file; None for none, where nothing is restored or kept.
        question: what is asked, part by part.
        values: where results go, by name, with cells last. `restore` fills in those that the file has.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        question: Mapping[str, Any],
        values: Mapping[str, Float[Tensor, "metric batch cell"]],
    ):
        self.path = None if path is None else Path(path)
        self.question = {part: digest_of_text(json.dumps(asked)) for part, asked in question.items()}
        self.values = values
        self.done = {name: torch.zeros(of.shape[-1], dtype=torch.bool) for name, of in values.items()}

    def restore(self) -> dict[str, Bool[Tensor, "cell"]]:
        """Fill in what the file has, and say which cells these are. Raises `CheckpointError` for another's file."""
        if self.path is None:
            return self.done
        if not self.path.exists():
            self._write()  # a path that cannot be written to fails now
            return self.done
        tensors, about = load_tensors(self.path, KIND)
        theirs = about.get("question", {})
        if differing := [part for part in {**self.question, **theirs} if self.question.get(part) != theirs.get(part)]:
            raise CheckpointError(
                f"{self.path} is the checkpoint of another sweep (it differs in: {', '.join(differing)}); give another "
                "path, or remove it"
            )
        for name, values in self.values.items():
            values.copy_(tensors[f"values of {name}"])
            self.done[name] = tensors[f"done of {name}"]
        return self.done

    def keep(self, name: str, cells: Tensor) -> None:
        """These cells' values are there: write them down."""
        self.done[name][cells.cpu()] = True
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        assert self.path is not None
        tensors = {f"values of {name}": values for name, values in self.values.items()}
        tensors |= {f"done of {name}": done for name, done in self.done.items()}
        save_tensors(self.path, KIND, tensors, {"question": self.question})
