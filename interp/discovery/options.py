"""What everything here that runs a pair of prompts can be told."""

import os
from typing import TYPE_CHECKING, Any, TypedDict

from interp.interventions import Index
from interp.patching import PairsOptions, PatchDirection, Reaction, Settings
from interp.text import AttentionMask

if TYPE_CHECKING:
    from interp.interventions import Intervention


class AblationOptions(TypedDict, total=False):
    """How edges are ablated, and how runs are made.

    Attributes:
        ablation: what edges carry in place of the corrupted prompt's activations: `Zero()`, `Mean(cache)` or
            `Resample(cache)`. It can also be given as `corrupted` itself; with both, the corrupted prompt is not run.
            Results have it in their `attrs`; "none" there means that edges carry the other prompt's activations.
        direction: "noising", the default, runs the clean prompt and lets edges carry the corrupted one's writes;
            "denoising" the reverse.
        norms: "live" norms compute their scales from what they read, "frozen" ones keep those of the run as it is; that
            of a masked-token head is always live.
        positions: where edges carry the other run, all of these together; None for everywhere.
        attention_mask: of ids that are padded.
        max_bytes: the memory that runs may take beside the model and the two runs of the pair; 2 GB by default. Results
            do not depend on it but for rounding.
        progress: show what is going on; by default yes.
    """

    ablation: "Intervention | None"
    direction: PatchDirection | None
    norms: Reaction
    positions: Index
    attention_mask: AttentionMask | None
    max_bytes: int
    progress: bool


class AcdcOptions(AblationOptions, total=False):
    """How circuits are run, and how long work is kept.

    All of `AblationOptions` too (ablation, direction, norms, positions, attention_mask, max_bytes, progress).

    Attributes:
        checkpoint: a file that keeps what is done. The same question goes on from there, in any process and with any
            budget; another one is refused.
    """

    checkpoint: str | os.PathLike[str] | None


class ClaimOptions(AblationOptions, total=False):
    """How circuits are run, and which differences between their metrics are more than noise.

    All of `AblationOptions` too (ablation, direction, norms, positions, attention_mask, max_bytes, progress).

    Attributes:
        confidence: of intervals around means over prompts (Student's t); .95 by default.
    """

    confidence: float


class JudgingOptions(ClaimOptions, total=False):
    """How circuits are run, and how prompts are put together.

    All of `ClaimOptions` too (ablation, direction, norms, positions, attention_mask, max_bytes, progress, confidence).

    Attributes:
        per_prompt: keep an axis `prompt` instead of the mean over prompts with its interval.
    """

    per_prompt: bool


class EdgeOptions(JudgingOptions, total=False):
    """How edges are ablated, and how effects are measured.

    All of `JudgingOptions` too (ablation, direction, norms, positions, attention_mask, max_bytes, progress, confidence,
    per_prompt).

    Attributes:
        normalize: effects as fractions of the mean gap between the two runs.
    """

    normalize: bool


class ScoreOptions(EdgeOptions, total=False):
    """How edges are ablated, how effects are measured, and how long work is kept.

    All of `EdgeOptions` too (ablation, direction, norms, positions, attention_mask, max_bytes, progress, confidence,
    per_prompt, normalize).

    Attributes:
        checkpoint: a file that keeps the exact effects that are measured, written every few percent. The same question
            goes on from there, in any process and with any budget; another one is refused. Estimates take minutes at
            most and keep none.
    """

    checkpoint: str | os.PathLike[str] | None


class JudgingDatasetOptions(PairsOptions, total=False):
    """How circuits are run over a data set, and how the job is done.

    All of `PairsOptions` too (ablation, direction, per_prompt, confidence, unit, max_bytes, folder, workers, threads,
    retries, progress).

    Attributes:
        norms: as in `AblationOptions`.
        positions: where edges carry the other run, all of these together, as columns of the batch of all pairs padded
            on the left; None for everywhere.
    """

    norms: Reaction
    positions: Index


class ScoreDatasetOptions(JudgingDatasetOptions, total=False):
    """How edges are scored over a data set, and how the job is done.

    All of `JudgingDatasetOptions` too (norms, positions, ablation, direction, per_prompt, confidence, unit, max_bytes,
    folder, workers, threads, retries, progress).

    Attributes:
        normalize: effects as fractions of the mean gap between the two runs, over all prompts.
    """

    normalize: bool


OF_RUNS = ("ablation", "norms", "positions")
"""Those that say what runs, rather than how effects are measured."""


def split_options(options: Any) -> tuple[Settings, dict[str, Any]]:
    """The settings of sweeps among the options, checked, and those of `EdgeRuns.of`. Raises `ConfigError`."""
    of_runs = {name: options[name] for name in OF_RUNS if name in options}
    return Settings.of({"effects": True, **{k: v for k, v in options.items() if k not in OF_RUNS}}), of_runs
