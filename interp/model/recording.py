"""What a cached run keeps of what flows by, and what it differentiates."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CacheError, ConfigError, HookNotFiredError, ShapeError
from interp.model.cache import select
from interp.model.hooks import HookPoint, LastPointReached
from interp.model.loss import check_predicts_next_token, next_token_loss
from interp.precision import at_least_float32
from interp.text import MaskedTokens

if TYPE_CHECKING:
    from interp.model.components import Unembed
    from interp.model.transformer import HookedTransformer


@runtime_checkable
class LogitPlan(Protocol):
    """Which logits of given prompts a metric reads, and what it makes of them.

    Attributes:
        positions: where logits are read, for each prompt.
        tokens: whose logits are read, for each prompt in this order; None for the whole vocabulary.
        space: "stream" for a metric that gets the last streams in place of logits.
        score: those logits [row, read, d_read], and which prompt each row is a run of, to one value a row.
    """

    @property
    def positions(self) -> Int[Tensor, "batch read"]: ...  # noqa: D102
    @property
    def tokens(self) -> Int[Tensor, "batch d_read"] | None: ...  # noqa: D102
    @property
    def space(self) -> Literal["logits", "stream"]: ...  # noqa: D102
    @property
    def score(self) -> Callable[[Tensor, Tensor], Tensor]: ...  # noqa: D102


@runtime_checkable
class LogitMetric(Protocol):
    """A metric that knows which logits of a run it needs; those of `interp.metrics` do.

    Attributes:
        needs_tokens: whether it compares the logits with the tokens of the run.

    >>> from interp.metrics import LogitDifference
    >>> isinstance(LogitDifference("Mary", "John"), LogitMetric)
    True
    """

    needs_tokens: Any

    def on(self, model: "HookedTransformer", prompts: MaskedTokens) -> LogitPlan:
        """What it reads in a run of `model` on these prompts."""
        ...


Differentiable = Literal["loss"] | LogitMetric | Callable[[Tensor], Tensor]
"""What a cached run can differentiate: the mean loss, a metric, or a function of the logits [batch, pos, d_vocab] to
one value a prompt or a single one."""


class Logits:
    """The logits of a run, which are computed only as far as somebody asks for them."""

    def __init__(self, unembed: "Unembed | None", read: Float[Tensor, "batch pos d_model"]):
        self._unembed, self.read = unembed, read

    @property
    def unembed(self) -> "Unembed":
        """The unembedding. Raises `ConfigError` for a model without one."""
        if self._unembed is None:
            raise ConfigError("this model has no unembedding (d_vocab_out = 0), so there are no logits to "
                              "differentiate; interp.similarity.Similarity reads the stream")  # fmt: skip
        return self._unembed

    @cached_property
    def whole(self) -> Float[Tensor, "batch pos d_vocab"]:
        """All logits, in the dtype of the run."""
        return self.unembed(self.read)

    def at(
        self, positions: Int[Tensor, "batch read"], tokens: Int[Tensor, "batch d_read"] | None
    ) -> Float[Tensor, "batch read d_read"]:
        """The logits of some positions and tokens, chosen for each prompt, in float32 at least."""
        rows = torch.arange(len(self.read), device=self.read.device)[:, None]
        if "whole" in vars(self) or tokens is None:
            logits = self.whole[rows, positions] if "whole" in vars(self) else self.unembed(self.read[rows, positions])
            if tokens is not None:
                logits = logits.gather(-1, tokens[:, None, :].expand(-1, logits.shape[1], -1))
        else:
            logits = self.unembed.of_tokens(self.read[rows, positions], tokens)
        return at_least_float32(logits)


def objective(
    asked: Differentiable,
    model: "HookedTransformer",
    entering: Tensor,
    prompts: MaskedTokens | None,
    mask: Bool[Tensor, "batch pos"] | None,
    whole: tuple[Any, Any] | None = None,
) -> Callable[[Logits], Tensor]:
    """The function from the logits of a run to the values that are differentiated: one a prompt, or a single one.

    `whole` is the encoder with a decoder that `model` is the decoder of, and what it reads, if `model` is part of one.
    Raises `ConfigError` for what is none of `Differentiable`, or needs tokens where the run begins with a stream.
    """
    tokens = None if prompts is None else prompts.ids
    if tokens is None and (asked == "loss" or getattr(asked, "needs_tokens", False)):
        raise ConfigError("a loss compares with the tokens of the run, so it excludes start_at_layer")
    if isinstance(asked, str):
        if asked != "loss":
            raise ConfigError(f"gradient_of = {asked!r}; allowed: 'loss', a metric, or a function of the logits")
        check_predicts_next_token(model.cfg, "gradient_of = 'loss'")
        return lambda logits: next_token_loss(logits.whole, tokens, mask)  # pyright: ignore[reportArgumentType]
    if isinstance(asked, type) or not (isinstance(asked, LogitMetric) or callable(asked)):
        raise ConfigError(
            f"gradient_of takes 'loss', a metric, or a function of the logits, not {type(asked).__name__}"
        )
    if isinstance(asked, LogitMetric):
        if prompts is None:
            prompts = MaskedTokens(torch.zeros(entering.shape[:2], dtype=torch.long, device=entering.device), mask)
        plan = asked.on(*(whole or (model, prompts)))
        rows = torch.arange(len(entering), device=entering.device)
        if plan.space == "stream":
            if model.cfg.masked_token_head:
                raise ConfigError(f"gradient_of: {type(asked).__name__} reads the stream before the masked-token head, "
                                  "and what is differentiated is made after it")  # fmt: skip
            return lambda logits: plan.score(at_least_float32(logits.read[rows[:, None], plan.positions]), rows)
        return lambda logits: plan.score(logits.at(plan.positions, plan.tokens), rows)
    name = getattr(asked, "__name__", type(asked).__name__)

    def values(logits: Logits) -> Tensor:
        value = asked(at_least_float32(logits.whole))
        if not isinstance(value, Tensor) or tuple(value.shape) not in ((), (len(entering),)):
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"gradient_of: {name} made {what}; allowed: a tensor of one value a prompt, or of one")
        return value

    return values


class Recording:
    """The hook of a cached run, and what it keeps.

    Attributes:
        names: what each of its points is called among what is kept.
        kept: activations by name, and gradients as `name + "_grad"`.
        in_graph: the activations as the run goes on with them, where it is to be differentiated.
    """

    def __init__(
        self,
        points: Mapping[str, HookPoint],
        device: str | torch.device | None,
        pos_slice: int | slice | Sequence[int] | None,
        graph: bool,
    ):
        self.names = {point: name for name, point in points.items()}
        self.device, self.pos_slice, self.graph = device, pos_slice, graph
        self.kept: dict[str, Tensor] = {}
        self.in_graph: dict[str, Tensor] = {}

    def part(self, value: Tensor, point: HookPoint | None = None, of_memory: bool = False) -> Tensor:
        """The part of the tensor at a point, or of a mask [batch, pos], that is kept: the positions and the device that
        were asked for. Positions of a memory are kept whole.
        """
        value = value.detach() if value.requires_grad else value
        whole = of_memory if point is None else point.of_memory
        if self.pos_slice is not None and not whole:  # a copy, so that the whole tensor is not held
            value = select(value, 1 if point is None else point.pos_axis, self.pos_slice, "pos").clone()
        return value if self.device is None else value.to(self.device)

    def keep(self, value: Tensor, hook: HookPoint) -> Tensor:
        """The hook function, which keeps the value. If nothing before it has a gradient, the graph begins here."""
        name = self.names[hook]
        if name in self.kept:
            raise CacheError(f"{hook.name} ran twice in one cached run: by a run inside a hook, or in another thread")
        self.kept[name] = self.part(value, hook)
        if self.graph and value.is_floating_point():  # not ids
            self.in_graph[name] = value if value.requires_grad else value.requires_grad_()
        return value

    def differentiate(self, values: Float[Tensor, "batch"] | Float[Tensor, ""]) -> None:
        """Keep the gradient of the sum of `values` at every point that it depends on.

        No prompt sees another one, so that each prompt has the gradient of its own value.
        """
        if not values.requires_grad:
            raise HookNotFiredError(
                "no gradient flows to a point that the cache holds from what is differentiated (a rank, or the place "
                "of the largest logit, has none)"
            )
        gradients = torch.autograd.grad(
            values.sum(), list(self.in_graph.values()), allow_unused=True, retain_graph=True
        )
        points = {name: point for point, name in self.names.items()}
        for name, gradient in zip(self.in_graph, gradients, strict=True):
            if gradient is not None:
                self.kept[f"{name}_grad"] = self.part(gradient, points[name])


def stop_here(value: Tensor, hook: HookPoint) -> None:
    """The hook on the last point that somebody watches."""
    raise LastPointReached
