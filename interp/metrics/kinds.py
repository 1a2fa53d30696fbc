"""What a run is judged by: functions of the logits that know which logits they need.

A metric names the positions and the tokens that it reads, so that whoever runs the model for it (`patching.sweep`) can
compute these logits and no others. It can also be called: `LogitDifference(" Mary", " John")(logits, model)` is one
number a prompt.

Answers are a token id, the text of a single token, or a list or tensor with one of these for each prompt. Positions are
counted along the (padded) sequence, negative ones from its end; a metric that reads several is their mean. The text of
a token, such as "[MASK]", is where it stands in each prompt. By default the last position is read, which a model that
predicts masked tokens refuses. Logarithms are natural, so that probabilities, divergences and losses are in nats.
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
from interp.metrics.plan import LAST, Default, JudgedRun, MetricPlan, Positions, no_text
from interp.model import SourceAndTarget
from interp.precision import at_least_float32
from interp.text import Answer, AttentionMask, Ids, MaskedTokens, Text, check_mask

if TYPE_CHECKING:
    from interp.model import HookedEncoderDecoder, HookedTransformer


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
        asked |= {name: int(value) for name, value in given.items() if value is LAST}
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

    def on(
        self, model: "HookedTransformer | HookedEncoderDecoder", prompts: "MaskedTokens | SourceAndTarget"
    ) -> MetricPlan:
        """Which logits of a run of `model` on these prompts are needed, and what is made of them."""
        return self.plan(JudgedRun.of(model, prompts))

    def __call__(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        model: "HookedTransformer | HookedEncoderDecoder | None" = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: AttentionMask | None = None,
    ) -> Float[Tensor, "batch"]:
        """One value for each prompt.

        Args:
            logits: of a run.
            model: turns answers given as text into ids; not needed for ids.
            tokens, attention_mask: what the run read, of an encoder with a decoder the target; `Loss` and a `pos`
                that is a token need the tokens.

        Raises:
            TokenError: an answer that is not one token, or text without a model.
            ShapeError: positions or answers that do not fit the logits.
        """
        if tokens is None and (self.needs_tokens or isinstance(getattr(self, "pos", None), str)):
            raise TokenError(f"{type(self).__name__} looks at the tokens of the run: give tokens=")
        if logits.ndim != 3 or (tokens is not None and tokens.shape != logits.shape[:2]):
            given = "" if tokens is None else f", and tokens {tuple(tokens.shape)}"
            raise ShapeError(f"a metric takes logits [batch, pos, d_vocab] and tokens [batch, pos], not logits "
                             f"{tuple(logits.shape)}{given}")  # fmt: skip
        mask = check_mask(attention_mask, logits)
        tokens = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device) if tokens is None else tokens
        d_vocab = logits.shape[-1]
        prompts = MaskedTokens(tokens, mask)
        run = JudgedRun(prompts, no_text, d_vocab, _no_run) if model is None else JudgedRun.of(model, prompts)
        plan = self.plan(dataclasses.replace(run, d_vocab=d_vocab))
        if plan.space != "logits":
            raise ConfigError(f"{type(self).__name__} reads the last stream, not logits; it is for interp.patching and "
                              "run_with_cache(gradient_of=)")  # fmt: skip
        rows = torch.arange(len(logits), device=logits.device)
        read = logits[rows[:, None], plan.positions]
        if plan.tokens is not None:
            read = read.gather(-1, plan.tokens[:, None, :].expand(-1, read.shape[1], -1))
        return plan.score(at_least_float32(read), rows)


def _no_run(input: Any) -> Tensor:
    raise TokenError(f"the reference {describe(input)} has to be run: give model= as well, or logits")


def as_metric(metric: Metric | Callable[[Tensor], Any]) -> Metric:
    """A metric as it is, any other function of the logits as a `Function`. Raises `ConfigError` for anything else.

    >>> type(as_metric(lambda logits: logits[:, -1, 0])).__name__
    'Function'
    """
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
    pos: Positions = LAST

    def __post_init__(self) -> None:
        _freeze(self, "answer", "pos")

    def _whole(self, run: JudgedRun, what: str, value: Callable[[Tensor, Tensor], Tensor]) -> MetricPlan:
        """`value(logits [row read d_vocab], ids [row 1 1])`, averaged over positions."""
        ids = run.ids(self.answer)

        def score(logits: Tensor, rows: Tensor) -> Tensor:
            return value(logits, ids[rows][:, None, None]).mean(dim=1)

        return MetricPlan(f"{what} of {_whose(self.answer)}{_at(self.pos)}", run.positions(self.pos), None, score)


class Logit(_OfAnswer):
    """The logit of the answer."""

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs one column."""
        name = f"logit of {_whose(self.answer)}{_at(self.pos)}"
        return MetricPlan(name, run.positions(self.pos), run.ids(self.answer)[:, None], _mean_logit)


@dataclass(frozen=True)
class LogitDifference(Metric):
    """The logit of the correct answer minus that of the incorrect one: the log of the ratio of their probabilities.

    Attributes:
        correct, incorrect: the answers: each an id, the text of a single token, or one of these for each prompt.
        pos: the positions whose logits are read (the mean over them), or the text of a token that stands there; by
            default the last one.

    Planning it raises `TokenError` for a prompt whose two answers are the same token.
    """

    answers: ClassVar[tuple[str, ...]] = ("correct", "incorrect")

    correct: Answer
    incorrect: Answer
    pos: Positions = LAST

    def __post_init__(self) -> None:
        _freeze(self, "correct", "incorrect", "pos")

    def plan(self, run: JudgedRun) -> MetricPlan:
        """Needs two columns."""
        name = f"logit difference {_whose(self.correct, self.incorrect)}{_at(self.pos)}"
        tokens = torch.stack([run.ids(self.correct), run.ids(self.incorrect)], dim=1)
        if (same := tokens[:, 0] == tokens[:, 1]).any():
            prompt = int(same.nonzero()[0])
            raise TokenError(f"{name}: both answers of prompt {prompt} are the token with id {int(tokens[prompt, 0])}, "
                             "so that their difference is 0 whatever the model does")  # fmt: skip
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


Reference = Float[Tensor, "batch pos d_vocab"] | Text | Ids | MaskedTokens | SourceAndTarget | tuple[Any, Any]
"""What a divergence is from: logits, or what a run reads; of an encoder with a decoder (source, target)."""


@dataclass(frozen=True, eq=False)
class KLDivergence(Metric):
    """KL(reference || run) = sum over tokens of p_reference (log p_reference - log p_run), in nats.

    Attributes:
        reference: logits [batch, pos, d_vocab], or text or ids of the run to compare with; None, in a sweep, for the
            run that the effects are measured against: the clean one. Text and ids are read with the token types (and
            the memory), and ids with the mask, of the run that is judged; `model.masked_tokens(...)` brings its own.
        pos: where.

    Two are equal if their positions and, as far as they are tensors, the bits of their references are.
    """

    reference: Reference | None = None
    pos: Positions = LAST

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
    if isinstance(value, Default):
        return value
    if isinstance(value, list | tuple | range):
        return tuple(_plain(one, name) for one in value)
    return operator.index(value) if is_index(value) else value


def _whose(*answers: Answer) -> str:
    """The answer, or the first minus the second; where prompts have their own, those of the first as an example."""
    several = [(one,) if isinstance(one, str) or not isinstance(one, Sequence) else tuple(one) for one in answers]
    example = " - ".join(repr(one[0]) for one in several if one)
    if all(len(set(one)) <= 1 for one in several):
        return example
    return f"each prompt's answer, as {example}," if len(answers) == 1 else f"of each prompt's answers, as {example},"


def _at(pos: Positions) -> str:
    if isinstance(pos, str):
        return f" at {pos!r}"
    return " at every position" if pos is None else f" at position {pos}"
