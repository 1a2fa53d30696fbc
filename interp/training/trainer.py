"""A small trainer for toy tasks on which circuits form.

    cfg = TransformerConfig(n_layers=2, d_model=64, n_ctx=64, d_vocab=48, n_heads=4, attn_only=True,
                            positional_embedding_type="rotary", seed=0)
    data = lambda generator: variable_offset_repeats(range(1, 48), 32, 64, bos=0, seed=generator)
    run = train(HookedTransformer(cfg), data, steps=600, lr=3e-3)
    run.model, run.losses, phase_change(run.copied_losses)

`train` leaves the model that it is given as it is and returns a trained one. What it trains on is a function that makes
a fresh batch for every step, so that nothing can be learned by heart, or a data set: token ids [n, pos], or a `Batch`
with labels, masks, and the sources of an encoder and a decoder. On one machine and with one number of threads, a seed
repeats a run bit for bit.
"""

import copy
import itertools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, RangeError
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.model import HookedEncoderDecoder, HookedTransformer
from interp.progress import progress_bar
from interp.training.targets import DataSource, Targets, Trainable, source_of

Measure = Callable[[Any], Tensor | float]
"""What is asked of a model during training, such as a score of every head."""


Model = TypeVar("Model", HookedTransformer, HookedEncoderDecoder)
"""What is trained."""


@dataclass(frozen=True, eq=False)
class Training(Generic[Model]):
    """What `train` returns.

    Attributes:
        model: the trained model, a new one.
        losses: the mean loss of each step's batch, before that step, in nats. Every prediction that counts has the same
            weight, as in `model(tokens, return_type="loss")` and unlike in `interp.metrics.Loss`.
        copied_losses: the same over the tokens that could be copied; NaN where a batch marks none.
        measured_at: after how many steps the measures were taken.
        measures: what each measure returned, stacked.
        checkpoints: the folders that were written, for `HookedTransformer.from_pretrained`.

    >>> def batch(generator):
    ...     return iid_tokens(torch.arange(5), 4, 8, seed=generator)
    >>> train(model, batch, steps=3, progress=False).losses.shape
    torch.Size([3])
    """

    model: Model
    losses: Float[Tensor, "step"]
    copied_losses: Float[Tensor, "step"]
    measured_at: Int[Tensor, "measurement"]
    measures: dict[str, Float[Tensor, "measurement ..."]]
    checkpoints: tuple[Path, ...]

    def __repr__(self) -> str:
        measures = "".join(f", {name}" for name in self.measures)
        first, last = self.losses[[0, -1]].tolist()
        return f"Training({len(self.losses)} steps, loss {first:.4g} to {last:.4g}{measures})"


@known_keywords
def train(
    model: Model,
    data: DataSource,
    steps: int,
    *,
    batch_size: int | None = None,
    lr: float = 1e-3,
    warmup: int = 50,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
    max_grad_norm: float | None = 1.0,
    seed: int = 0,
    measures: Mapping[str, Measure] | None = None,
    measure_every: int = 50,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    progress: bool = True,
) -> Training[Model]:
    """Train a copy of `model` to predict the next token, or labels, with AdamW (Loshchilov & Hutter 2019).

    Args:
        model: where to start from. Parameters that require no gradient stay as they are.
        data: a function that makes a batch, whose randomness comes from the generator that it is given; or a data set
            from which batches are drawn, every sequence once before any comes again. A batch and a data set are token
            ids [batch, pos], whose next tokens are learned, or a `Batch`, which also says what is to be predicted
            (`labels`), what of it counts (`loss_mask`) and what is padding (`attention_mask`), and for an encoder and a
            decoder what the encoder reads (`source`).
        steps: how many batches, with an update after each.
        batch_size: how many sequences of a data set a step takes; by default 32, or all where there are fewer.
        lr, weight_decay, betas: of AdamW.
        warmup: over this many steps the learning rate rises to `lr`, in a line; then it stays.
        max_grad_norm: longer gradients (all parameters as one vector) are scaled down to this length; None for never.
        seed: of the batches.
        measures: functions of the model in training, by name; without gradients. They must not change it.
        measure_every: they are called before the first step, after every so many, and after the last.
        folder: a new or empty folder for checkpoints, `step-000600` and so on, written by `save_pretrained`. They hold
            the model, not the state of the optimizer: training from one starts anew, it does not resume.
        save_every: a checkpoint after every so many steps; the last step always leaves one.
        progress: show a bar with the loss on a terminal (on standard error).

    Raises, before the first step:
        ConfigError: an option out of range, hooks on the model, nothing to train, a dtype too coarse for it, a batch in
            which nothing counts, or no labels for a model whose logits are not those of its tokens.
        TokenError, ShapeError: a batch that the model cannot take (or, later, another one), or labels or masks that do
            not fit it.
        CheckpointError: the folder is in use.
    And at any step:
        RangeError: the loss is no longer finite.
    """
    _check_options(steps, lr, warmup, weight_decay, betas, max_grad_norm, measure_every, folder, save_every)
    _check_trainable(model)
    generator = torch.Generator().manual_seed(seed)
    draw = source_of(data, batch_size, model)
    first = draw(generator)
    run = _Run(copy.deepcopy(model).train(), dict(measures or {}), _new_folder(folder))
    run.measure(0)
    fresh = itertools.chain([first], (draw(generator) for _ in range(steps - 1)))
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    with torch.enable_grad(), progress_bar("training", steps, progress) as advance:
        for step, batch in enumerate(fresh, start=1):
            loss = run.loss(step, batch)
            optimizer.zero_grad()
            loss.backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, step / max(warmup, 1))
            optimizer.step()
            advance(1, f"loss {run.losses[-1]:.3f}")
            if step % measure_every == 0 or step == steps:
                run.measure(step)
            if (save_every and step % save_every == 0) or step == steps:
                run.save(step)
    optimizer.zero_grad()
    return run.result(model.training)


def phase_change(losses: Float[Tensor, "step"], window: int = 50, at_least: float = 0.5) -> int | None:
    """The step at which the loss falls most steeply, or None where it nowhere falls steeply at all.

    That is the step where the mean over the `window` steps before exceeds the mean over the `window` steps from there
    on by most; a phase change if by `at_least` nats.

    Raises `ConfigError` for less than two windows of losses, `RangeError` for losses that are not finite.
    """
    window = check_count("window", window, len(losses) // 2)
    if not losses.isfinite().all():
        raise RangeError("losses that are not finite (NaN: a batch without a token of the kind) have no steepest fall")
    means = losses.double().unfold(0, window, 1).mean(dim=-1)  # means[i] is over steps i to i + window
    falls = means[:-window] - means[window:]
    steepest = int(falls.argmax())
    return steepest + window if falls[steepest] >= at_least else None


class _Run(Generic[Model]):
    """A training run in progress: the model, and what has been recorded."""

    def __init__(self, model: Model, measures: dict[str, Measure], folder: Path | None):
        self.model, self.folder, self.functions = model, folder, measures
        self.losses: list[float] = []
        self.copied_losses: list[float] = []
        self.measured_at: list[int] = []
        self.measured: dict[str, list[Tensor]] = {name: [] for name in measures}
        self.checkpoints: list[Path] = []

    def loss(self, step: int, targets: Targets) -> Float[Tensor, ""]:
        """The loss to go down, recorded as it is now."""
        loss, copied = targets.losses(self.model)
        if not loss.isfinite():
            raise RangeError(f"at step {step} the loss is {loss.item()}; a smaller lr or a longer warmup may help")
        self.losses.append(loss.item())
        self.copied_losses.append(copied.item())
        return loss

    @torch.no_grad()
    def measure(self, step: int) -> None:
        self.measured_at.append(step)
        for name, function in self.functions.items():
            value = torch.as_tensor(cast(Measure, function)(self.model), dtype=torch.float32)
            self.measured[name].append(value.cpu().clone())

    def save(self, step: int) -> None:
        if self.folder is not None:
            self.checkpoints.append(self.folder / f"step-{step:06}")
            self.model.save_pretrained(self.checkpoints[-1])

    def result(self, training: bool) -> Training[Model]:
        return Training(
            self.model.train(training),
            torch.tensor(self.losses),
            torch.tensor(self.copied_losses),
            torch.tensor(self.measured_at),
            {name: torch.stack(values) for name, values in self.measured.items()},
            tuple(self.checkpoints),
        )


# ---------------------------------------------------------------------------------------------- checks


def _check_options(
    steps: int,
    lr: float,
    warmup: int,
    weight_decay: float,
    betas: tuple[float, float],
    max_grad_norm: float | None,
    measure_every: int,
    folder: str | os.PathLike[str] | None,
    save_every: int | None,
) -> None:
    check_count("steps", steps)
    check_count("warmup", warmup, least=0)
    check_count("measure_every", measure_every)
    if save_every is not None:
        check_count("save_every", save_every)
    for wrong, message in (
        (not 0 < lr < math.inf, f"lr = {lr}; allowed: a finite number above 0"),
        (not 0 <= weight_decay < math.inf, f"weight_decay = {weight_decay}; allowed: 0 or more"),
        (not all(0 <= beta < 1 for beta in betas), f"betas = {betas}; allowed: two numbers from 0 up to but below 1"),
        (max_grad_norm is not None and not max_grad_norm > 0, f"max_grad_norm = {max_grad_norm}; allowed: above 0"),
        (save_every is not None and folder is None, f"save_every = {save_every} needs a folder to save to"),
    ):
        if wrong:
            raise ConfigError(message)


def _check_trainable(model: Trainable) -> None:
    if hooked := [name for name, point in model.hook_points.items() if point.hooks]:
        raise ConfigError(f"the model has hooks, at {hooked[0]!r} first, which would end up in the trained one; "
                          "model.reset_hooks() removes them")  # fmt: skip
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("no parameter of this model requires a gradient: there is nothing to train")
    if model.cfg.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"the parameters are {model.cfg.dtype}, too coarse for small updates; "
                          "model.to(torch.float32) trains")  # fmt: skip


def _new_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    if folder is None:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise CheckpointError(f"{path} is not empty; checkpoints need a new or an empty folder")
    except OSError as error:
        raise CheckpointError(f"{path} cannot hold checkpoints: {error.strerror}") from error
    return path
