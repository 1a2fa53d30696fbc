"""What a run is judged by: functions of the logits that know which logits they need.

A metric names the positions and the tokens that it reads, so that whoever runs the model for it (`patching.sweep`) can
compute these logits and no others. It can also be called: `LogitDifference(" Mary", " John")(logits, model)` is one
number a prompt.

Answers are a token id, the text of a single token, or a list or tensor with one of these for each prompt. Positions are
counted along the (padded) sequence, negative ones from its end; a metric that reads several is their mean. Logarithms
are natural, so that probabilities, divergences and losses are in nats.
"""

import dataclasses
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, ShapeError, TokenError, describe
from interp.indices import is_index
from interp.metrics.keys import key_of
from interp.metrics.plan import JudgedRun, MetricPlan, Positions
from interp.model import check_predicts_tokens, cross_entropy, predicted_places
from interp.precision import at_least_float32
from interp.text import Answer, AttentionMask, MaskedTokens, Text, check_mask

if TYPE_CHECKING:
    from interp.model import HookedTransformer


@dataclass(frozen=True)
class Metric:
    """A function of the logits, one value a prompt. See the subclasses; `Function` wraps any of your own."""

    needs_tokens: ClassVar[bool] = False
    """Whether it compares logits with the tokens of the run."""
    answers: ClassVar[tuple[str, ...]] = ()
    """Which of its attributes are answers, that is ids or texts of single tokens."""

    def key(self, run: JudgedRun) -> list[Any]:
        """What it computes of this run, in JSON values that are the same in every process (see `keys.py`).

        Raises `ConfigError` for a function that cannot be told from others in another process.
        """
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        asked = {name: run.ids(value).tolist() if name in self.answers else value for name, value in given.items()}
        code = [
            key_of(member, f"the metric {kind.__name__}")
            for kind in type(self).__mro__
            if kind.__module__.partition(".")[0] not in ("interp", "builtins")
            for name, member in sorted(vars(kind).items())
            if isinstance(member, FunctionType) and not name.startswith("__")
        ]
        return [type(self).__qualname__, key_of(asked, f"the metric {type(self).__name__}"), *code]

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Which logits of this run are needed, and what is made of them."""
        raise TypeError(f"{type(self).__name__} says not which logits it needs; take one of its subclasses")

    def on(self, model: "HookedTransformer", prompts: MaskedTokens) -> MetricPlan:
        """Which logits of a run of `model` on these prompts are needed, and what is made of them."""
        return self.plan(JudgedRun.of(model, prompts))

    def __call__(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        model: "HookedTransformer | None" = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: AttentionMask | None = None,
    ) -> Float[Tensor, "batch"]:
        """One value for each prompt.

        Args:
            logits: of a run.
            model: turns answers given as text into ids; not needed for ids.
            tokens, attention_mask: what the run read; `Loss` needs the tokens.

        Raises:
            TokenError: an answer that is not one token, or text without a model.
            ShapeError: positions or answers that do not fit the logits.
        """
        if tokens is None and self.needs_tokens:
            raise TokenError("a loss compares with the tokens of the run: give tokens=")
        if logits.ndim != 3 or (tokens is not None and tokens.shape != logits.shape[:2]):
            given = "" if tokens is None else f", and tokens {tuple(tokens.shape)}"
            raise ShapeError(f"a metric takes logits [batch, pos, d_vocab] and tokens [batch, pos], not logits "
                             f"{tuple(logits.shape)}{given}")  # fmt: skip
        mask = check_mask(attention_mask, logits)
        tokens = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device) if tokens is None else tokens
        d_vocab = logits.shape[-1]
        prompts = MaskedTokens(tokens, mask)
        to_id, cfg = (_no_text, None) if model is None else (model.to_answer, model.cfg)
        plan = self.plan(JudgedRun(prompts, to_id, d_vocab, model or _no_run, cfg=cfg))
        rows = torch.arange(len(logits), device=logits.device)
        read = logits[rows[:, None], plan.positions]
        if plan.tokens is not None:
            read = read.gather(-1, plan.tokens[:, None, :].expand(-1, read.shape[1], -1))
        return plan.score(at_least_float32(read), rows)


def _no_text(text: str) -> int:
    raise TokenError(f"the answer {describe(text)} is text: give model= as well, or token ids")


def _no_run(input: Any) -> Tensor:
    raise TokenError(f"the reference {describe(input)} has to be run: give model= as well, or logits")


def as_metric(metric: Metric | Callable[[Tensor], Any]) -> Metric:
    """A metric as it is, any other function of the logits as a `Function`. Raises `ConfigError` for anything else."""
    if isinstance(metric, Metric):
        return metric
    if callable(metric) and not isinstance(metric, type):
        return Function(metric)
    raise ConfigError(
        f"{describe(metric)} is not a metric; allowed: one of interp.metrics, or a function of the logits"
    )


# ---------------------------------------------------------------------- the metrics


@dataclass(frozen=True)
class _OfAnswer(Metric):
    """A metric of one answer's place in the distribution.

    Attributes:
        answer: whose.
        pos: where.
    """

    answers: ClassVar[tuple[str, ...]] = ("answer",)

    answer: Answer
    pos: Positions = -1

    def __post_init__(self) -> None:
        _freeze(self, "answer", "pos")

    def _whole(self, run: JudgedRun, what: str, value: Callable[[Tensor, Tensor], Tensor]) -> MetricPlan:
        """`value(logits [row read d_vocab], ids [row 1 1])`, averaged over positions."""
        ids = run.ids(self.answer)

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            return value(logits, ids[rows][:, None, None]).mean(dim=1)

        return MetricPlan(
            f"{what} of {_describe_answer(self.answer)}{_at(self.pos)}", run.positions(self.pos), None, score
        )


class Logit(_OfAnswer):
    """The logit of the answer."""

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs one column."""
        name = f"logit of {_describe_answer(self.answer)}{_at(self.pos)}"
        return MetricPlan(name, run.positions(self.pos), run.ids(self.answer)[:, None], _mean_logit)


@dataclass(frozen=True)
class LogitDifference(Metric):
    """The logit of the correct answer minus that of the incorrect one: the log of the ratio of their probabilities.

    Attributes:
        correct, incorrect: the answers: each an id, the text of a single token, or one of these for each prompt.
        pos: the positions whose logits are read (the mean over them); by default the last one.
    """

    answers: ClassVar[tuple[str, ...]] = ("correct", "incorrect")

    correct: Answer
    incorrect: Answer
    pos: Positions = -1

    def __post_init__(self) -> None:
        _freeze(self, "correct", "incorrect", "pos")

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs two columns."""
        name = f"logit difference {_describe_answer(self.correct)} - {_describe_answer(self.incorrect)}{_at(self.pos)}"
        tokens = torch.stack([run.ids(self.correct), run.ids(self.incorrect)], dim=1)
        return MetricPlan(name, run.positions(self.pos), tokens, _mean_difference)


class LogProbability(_OfAnswer):
    """The log of the answer's probability."""

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the whole vocabulary."""
        return self._whole(run, "log-probability", _log_probability)


class Probability(_OfAnswer):
    """The answer's probability."""

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the whole vocabulary."""
        return self._whole(run, "probability", lambda logits, ids: _log_probability(logits, ids).exp())


class Rank(_OfAnswer):
    """How many tokens have a larger logit than the answer: 0 for the top prediction."""

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the whole vocabulary."""
        return self._whole(run, "rank", _rank)


@dataclass(frozen=True, eq=False)
class KLDivergence(Metric):
    """KL(reference || run) = sum over tokens of p_reference (log p_reference - log p_run), in nats.

    Attributes:
        reference: logits [batch, pos, d_vocab], or text or ids of the run to compare with; None, in a sweep, for the
            run that the effects are measured against: the clean one.
        pos: where.

    Two are equal if their positions and, as far as they are tensors, the bits of their references are.
    """

    reference: Float[Tensor, "batch pos d_vocab"] | Int[Tensor, "batch pos"] | Text | None = None
    pos: Positions = -1

    def __post_init__(self) -> None:
        _freeze(self, "pos")
        if isinstance(self.reference, list):
            object.__setattr__(self, "reference", tuple(self.reference))

    @cached_property
    def _identity(self) -> tuple[str, Positions]:
        return json.dumps(key_of(self.reference, "the reference")), self.pos

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, KLDivergence) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the whole vocabulary. Raises `ShapeError` for a reference that does not fit the run."""
        positions = run.positions(self.pos)
        log_reference = at_least_float32(self._logits(run, positions)).log_softmax(dim=-1)

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            wanted = log_reference[rows]
            terms = wanted.exp() * (wanted - logits.log_softmax(dim=-1))
            return terms.where(wanted > -torch.inf, 0).sum(dim=-1).mean(dim=1)  # 0 log 0 = 0

        return MetricPlan(f"KL divergence from the reference{_at(self.pos)}", positions, None, score)

    def _logits(self, run: JudgedRun, positions: Int[Tensor, "batch read"]) -> Float[Tensor, "batch read d_vocab"]:
        given = self.reference
        if given is None:
            if run.reference is None:
                raise ConfigError("KLDivergence() has no reference here: give logits, text or ids of the run to "
                                  "compare with")  # fmt: skip
            return run.reference(positions)
        if not (isinstance(given, Tensor) and given.is_floating_point()):
            with torch.no_grad():
                given = run.logits_of(given)
        wanted = (*run.prompts.ids.shape, run.d_vocab)
        if tuple(given.shape) != wanted:
            raise ShapeError(f"the reference has logits of shape {tuple(given.shape)}, the run {wanted}")
        return given[torch.arange(len(given), device=given.device)[:, None], positions]


@dataclass(frozen=True)
class Loss(Metric):
    """The mean cross-entropy of every next token of a prompt, in nats.

    The mean over prompts gives every prompt the same weight. `model(tokens, return_type="loss")` gives every token the
    same weight instead, so that on prompts of unequal length the two differ.
    """

    needs_tokens: ClassVar[bool] = True

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs all positions but the last, and the whole vocabulary.

        Raises `TokenError` for a single token or one without a logit, `ConfigError` for a model whose logits are of
        other things than tokens.
        """
        tokens, mask = run.prompts.ids, run.prompts.attention_mask
        if tokens.shape[1] < 2:
            raise TokenError("a loss needs at least two tokens: one that predicts and one that is predicted")
        if run.cfg is not None:
            check_predicts_tokens(run.cfg, "the metric Loss")
        if (most := int(tokens.max())) >= run.d_vocab:
            raise TokenError(f"token {most} has no logit: a run has {run.d_vocab} of them, for tokens 0 to "
                             f"{run.d_vocab - 1}")  # fmt: skip
        n_predicted = tokens.shape[1] - 1
        predicted = None if mask is None else predicted_places(mask)
        if predicted is not None and not (any_one := predicted.any(dim=1)).all():
            raise TokenError(f"a loss needs at least two tokens, and prompt {int((~any_one).nonzero()[0])} has fewer")

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            losses = cross_entropy(logits, tokens[rows, 1:])
            if predicted is None:
                return losses.mean(dim=1)
            return losses.where(predicted[rows], 0).sum(dim=1) / predicted[rows].sum(dim=1)

        everywhere = torch.arange(n_predicted, device=tokens.device).expand(len(tokens), -1)
        return MetricPlan("loss", everywhere, None, score)


@dataclass(frozen=True)
class Function(Metric):
    """Any function of the logits.

    Attributes:
        fn: logits [batch, read, d_vocab] of one run of every prompt to one value a prompt, or to a single number for
            all of them together.
        pos: the positions that it is given; None for all.
        name: for labels; by default the function's own.
        key_text: what says to a checkpoint that this is still the same function; by default its code, and what this
            uses (see `keys.py`). Change it whenever the function computes something else.
    """

    fn: Callable[[Tensor], Any]
    pos: Positions = None
    name: str | None = None
    key_text: str | None = None

    def __post_init__(self) -> None:
        _freeze(self, "pos")

    def key(self, run: JudgedRun) -> list[Any]:
        """See `Metric.key`."""
        computed = self.key_text or key_of(self.fn, "the metric")
        return [type(self).__qualname__, computed, key_of(self.pos)]

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs the whole vocabulary."""
        name = self.name or getattr(self.fn, "__name__", None) or repr(self.fn)
        score = partial(_apply, self.fn, name)
        return MetricPlan(name, run.positions(self.pos), None, score, whole_batch=True)


# ---------------------------------------------------------------------- their arithmetic


def _apply(fn: Callable[[Tensor], Any], name: str, logits: Tensor, rows: Tensor) -> Tensor:
    value = fn(logits)
    try:
        value = torch.as_tensor(value, device=logits.device).to(logits.dtype)
    except (TypeError, ValueError, RuntimeError):
        raise ShapeError(
            f"the metric {name!r} made {describe(value)}; allowed: one number a prompt, or a single one"
        ) from None
    if value.ndim == 0:
        return value.expand(len(logits))
    if value.shape != (len(logits),):
        raise ShapeError(
            f"the metric {name!r} made {tuple(value.shape)} of logits {tuple(logits.shape)}; allowed: one value a "
            f"prompt, {(len(logits),)}, or a single one"
        )
    return value


def _mean_logit(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[..., 0].mean(dim=1)


def _mean_difference(logits: Tensor, rows: Tensor) -> Tensor:
    return (logits[..., 0] - logits[..., 1]).mean(dim=1)


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    return (logits.gather(-1, ids.expand(-1, logits.shape[1], 1)) - logits.logsumexp(dim=-1, keepdim=True))[..., 0]


def _rank(logits: Tensor, ids: Tensor) -> Tensor:
    return (logits > logits.gather(-1, ids.expand(-1, logits.shape[1], 1))).sum(dim=-1).to(logits.dtype)


def _freeze(metric: Metric, *names: str) -> None:
    """Lists as tuples, tensors and arrays of ids too, so that metrics compare and hash by what they ask."""
    for name in names:
        object.__setattr__(metric, name, _plain(getattr(metric, name), name))


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        if torch.as_tensor(value).is_floating_point() or value.ndim > 1:
            raise TokenError(f"{name} is ids, one a prompt, not {value.dtype} of shape {tuple(value.shape)}")
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(_plain(one, name) for one in value)
    return operator.index(value) if is_index(value) else value


def _describe_answer(answer: Answer) -> str:
    if isinstance(answer, str) or not isinstance(answer, Sequence):
        return repr(answer)
    several = list(dict.fromkeys(answer))
    return " / ".join(map(repr, several[:3])) + (" / ..." if len(several) > 3 else "")


def _at(pos: Positions) -> str:
    return " at every position" if pos is None else f" at position {pos}"
