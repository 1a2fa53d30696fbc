"""What everything here that runs a pair of prompts can be told."""

import os
from typing import TYPE_CHECKING, Any, TypedDict

from interp.interventions import Index
from interp.patching import PatchDirection, Reaction, Settings
from interp.text import AttentionMask

if TYPE_CHECKING:
    from interp.interventions import Intervention


class RunOptions(TypedDict, total=False):
    """How edges are ablated, and how runs are made.

    Attributes:
        ablation: what edges carry in place of the corrupted prompt's activations: `Zero()`, `Mean(cache)` or
            `Resample(cache)`. It can also be given as `corrupted` itself; with both, the corrupted prompt is not run.
        direction: "noising", the default, runs the clean prompt and lets edges carry the corrupted one's writes;
            "denoising" the reverse.
        norms: "live" norms compute their scales from what they read, "frozen" ones keep those of the run as it is.
        positions: where edges carry the other run, all of these together; None for everywhere.
        attention_mask: of ids that are padded.
        confidence: of intervals around means over prompts (Student's t); .95 by default.
        max_bytes: the memory that runs may take beside the model and the two runs of the pair; 2 GB by default. Results
            do not depend on it but for rounding.
        progress: show what is going on; by default yes.
    """

    ablation: "Intervention | None"
    direction: PatchDirection | None
    norms: Reaction
    positions: Index
    attention_mask: AttentionMask | None
    confidence: float
    max_bytes: int
    progress: bool


class JudgingOptions(RunOptions, total=False):
    """All of `RunOptions` (ablation, direction, norms, positions, attention_mask, confidence, max_bytes, progress).

    And also:

    Attributes:
        per_prompt: keep an axis `prompt` instead of the mean over prompts with its interval.
    """

    per_prompt: bool


class EdgeOptions(JudgingOptions, total=False):
    """All of `JudgingOptions` (per_prompt and those of `RunOptions`: ablation, direction, norms, positions,
    attention_mask, confidence, max_bytes, progress), and:

    Attributes:
        normalize: effects as fractions of the mean gap between the two runs.
    """

    normalize: bool


class ScoreOptions(EdgeOptions, total=False):
    """All of `EdgeOptions` (ablation, direction, norms, positions, normalize, attention_mask, per_prompt, confidence,
    max_bytes, progress), and:

    Attributes:
        checkpoint: a file that keeps the exact effects that are measured, written every few percent. The same question
            goes on from there, in any process and with any budget; another one is refused. Estimates take minutes at
            most and keep none.
    """

    checkpoint: str | os.PathLike[str] | None


RUN_OPTIONS = ("ablation", "norms", "positions")
"""Those that say what runs, rather than how effects are measured."""


def split_options(options: Any) -> tuple[Settings, dict[str, Any]]:
    """The settings of sweeps among the options, checked, and those of `EdgeRuns.of`. Raises `ConfigError`."""
    of_runs = {name: options[name] for name in RUN_OPTIONS if name in options}
    return Settings.of({"effects": True, **{k: v for k, v in options.items() if k not in RUN_OPTIONS}}), of_runs
