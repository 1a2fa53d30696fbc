"""What all sweeps can be told: the options of effects, and those of long work, checked once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from interp.budget import GIGABYTE, check_bytes
from interp.errors import ConfigError, check_choice, describe
from interp.patching.pairs import PatchDirection
from interp.results import check_confidence
from interp.text import AttentionMask


class EffectOptions(TypedDict, total=False):
    """How effects are measured.

    Attributes:
        direction: "denoising" runs the corrupted prompt and writes clean activations, "noising" the reverse. By default
            `sweep` and `sweep_sites` denoise, or noise where `Zero()` and the like stand for the corrupted prompt;
            `path_sweep` and `path_tree` noise.
        effects: effects in place of the metric's own values: each value minus that of the run as it is.
        normalize: effects as fractions: 0 for the run as it is, 1 for the other prompt's; over several prompts,
            fractions of the mean gap between the two.
        attention_mask: of ids that are padded.
        per_prompt: keep a first axis `prompt` instead of the mean over prompts.
        confidence: of the interval around the mean (Student's t over prompts); .95 by default.
    """

    direction: PatchDirection | None
    effects: bool
    normalize: bool
    attention_mask: AttentionMask | None
    per_prompt: bool
    confidence: float


class SweepOptions(EffectOptions, total=False):
    """How effects are measured, and how long work is done.

    All of `EffectOptions` too (direction, effects, normalize, attention_mask, per_prompt, confidence).

    Attributes:
        max_bytes: the memory that patched runs may take beside the model and the cached runs; 2 GB by default. Results
            do not depend on it but for rounding.
        progress: show a bar on a terminal; by default yes.
        checkpoint: a file that keeps what is done, written every few percent. The same question goes on from there, in
            any process and with any budget; another one is refused.

    >>> from interp.metrics import Logit
    >>> asked: SweepOptions = {"direction": "noising", "normalize": True, "progress": False}
    >>> sweep(model, corrupted, clean, Logit("Mary"), "z", ("layer",), **asked).attrs["direction"]
    'noising'
    """

    max_bytes: int
    progress: bool
    checkpoint: str | os.PathLike[str] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """The options of a call, with their defaults; see `SweepOptions`."""

    direction: PatchDirection | None = None
    effects: bool = False
    normalize: bool = False
    attention_mask: AttentionMask | None = None
    per_prompt: bool = False
    confidence: float = 0.95
    max_bytes: int = 2 * GIGABYTE
    progress: bool = True
    checkpoint: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Settings":
        """The options of a call, whose names `known_keywords` has checked. Raises `ConfigError` for a wrong value."""
        settings = cls(**options)
        if settings.direction is not None:
            check_choice("direction", settings.direction, get_args(PatchDirection))
        check_confidence(settings.confidence)
        check_bytes(settings.max_bytes)
        for name in ("effects", "normalize", "per_prompt", "progress"):
            if not isinstance(given := getattr(settings, name), bool):
                raise ConfigError(f"{name} = {describe(given)}; allowed: True or False")
        if not isinstance(settings.checkpoint, str | os.PathLike | None):
            raise ConfigError(f"checkpoint = {describe(settings.checkpoint)}; allowed: a path, or None")
        return settings

    @property
    def values(self) -> Literal["metric", "effect", "fraction"]:
        """What the results hold, in a word."""
        return "fraction" if self.normalize else "effect" if self.effects else "metric"
