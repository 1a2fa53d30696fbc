"""Top examples: the tokens of a store at which something is largest, with the tokens around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError, describe
from interp.indices import as_indices, is_index
from interp.precision import at_least_float32, of_one_dtype
from interp.text import token_strings, visible

if TYPE_CHECKING:
    from interp.harvest.store import Store, StoredSite

Score = Tensor | int | tuple[int, ...] | Callable[[Tensor], Tensor]
"""What examples are ranked by: a direction, a neuron, or a function from rows to a score for each."""


@dataclass(frozen=True)
class Example:
    """A token, with those around it.

    Attributes:
        score: by which it was found.
        row: its number in the store.
        text, pos: the number of its text, and its position among the tokens that ran together.
        ids, tokens: it and the tokens around it, as ids and as strings.
        at: which of these it is.
    """

    score: float
    row: int
    text: int
    pos: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    at: int

    @property
    def token(self) -> str:
        """The token itself."""
        return self.tokens[self.at]

    @property
    def before(self) -> tuple[str, ...]:
        """The tokens before it."""
        return self.tokens[: self.at]

    @property
    def after(self) -> tuple[str, ...]:
        """The tokens after it."""
        return self.tokens[self.at + 1 :]

    def __str__(self) -> str:
        before, token, after = ("".join(map(visible, part)) for part in (self.before, (self.token,), self.after))
        return f"{self.score:10.4g}  {before}«{token}»{after}"


class TopExamples(Sequence[Example]):
    """The tokens with the largest scores, largest first; a table in a terminal and in a notebook."""

    def __init__(self, examples: Sequence[Example]):
        self._examples = tuple(examples)

    @classmethod
    def of(
        cls, store: "Store", rows: Int[Tensor, "example"], scores: Float[Tensor, "example"], context: int
    ) -> "TopExamples":
        """The examples of these rows."""
        return cls([_example(store, int(row), float(score), context) for row, score in zip(rows, scores, strict=True)])

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "TopExamples": ...

    def __getitem__(self, index: int | slice) -> "Example | TopExamples":
        found = self._examples[index]
        return found if isinstance(found, Example) else TopExamples(found)

    def __len__(self) -> int:
        return len(self._examples)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopExamples) and self._examples == other._examples

    def __hash__(self) -> int:
        return hash(self._examples)

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "no examples"

    def _repr_html_(self) -> str:
        def shown(tokens: Sequence[str]) -> str:
            return escape("".join(map(visible, tokens)))

        lines = "".join(
            f"<tr><td>{example.score:.4g}</td><td>{example.text}</td><td>{example.pos}</td>"
            f'<td style="text-align:left"><code>{shown(example.before)}<mark>{shown([example.token])}</mark>'
            f"{shown(example.after)}</code></td></tr>"
            for example in self
        )
        head = "".join(f"<th>{column}</th>" for column in ("score", "text", "position", "token in its context"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def score_of(of: Any, site: "StoredSite") -> Callable[[Tensor], Tensor]:
    """The function from rows to scores that a `Score` stands for."""
    size = site.shape[1:]
    if isinstance(of, Tensor) and of.ndim:
        if of.shape != size or not of.is_floating_point():
            raise ConfigError(f"{describe(of)} is no direction at {site.name}, where a row has the shape {size}")

        def along(rows: Tensor) -> Tensor:
            flat, direction = of_one_dtype(rows.flatten(1), of.detach().flatten().to(rows.device))
            return flat @ direction

        return along
    if is_index(of) or isinstance(of, tuple):
        place = tuple(as_indices(of))
        if len(place) != len(size) or any(not -n <= i < n for i, n in zip(place, size, strict=True)):
            raise ConfigError(f"{describe(of)} is no neuron of {site.name}, where a row has the shape {size}")
        return lambda rows: rows[:, *place]
    if not callable(of):
        raise ConfigError(f"top_examples({describe(of)}); allowed: a direction, the number of a neuron, or a function")

    def called(rows: Tensor) -> Tensor:
        made = of(rows)
        if not isinstance(made, Tensor) or made.shape != rows.shape[:1]:
            raise ShapeError(f"the function made {describe(made)} of {describe(rows)}; it must make one score a row")
        return made

    return called


@torch.no_grad()
def best_rows(
    site: "StoredSite", fn: Callable[[Tensor], Tensor], top_k: int
) -> list[tuple[Int[Tensor, "best"], Float[Tensor, "best"]]]:
    """The rows with the largest of each score [row, score], and these; of equal scores the earlier row."""
    best: Tensor | None = None
    numbers = torch.empty(0)
    for first, rows in site.blocks():
        scores = fn(at_least_float32(rows))
        if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(rows):
            raise ShapeError(f"the function made {describe(scores)} of {describe(rows)}; it must make [row, score]")
        scores = at_least_float32(scores.cpu())
        if bool(scores.isnan().any()):
            bad = int(scores.isnan().any(1).nonzero()[0])
            raise RangeError(f"the score of row {first + bad} is no number")
        here = torch.arange(first, first + len(rows))[:, None].expand(scores.shape)
        if best is not None:  # earlier rows first, which a stable sort keeps in front of later ones that are equal
            scores, here = torch.cat([best, scores]), torch.cat([numbers, here])
        best, order = scores.sort(dim=0, descending=True, stable=True)
        best, numbers = best[:top_k], here.gather(0, order[:top_k])
    assert best is not None
    return list(zip(numbers.unbind(1), best.unbind(1), strict=True))


def _example(store: "Store", row: int, score: float, context: int) -> Example:
    """A row with the tokens around it that are of its text and ran with it."""
    first = max(0, row - context)
    near = store.gather(["token", "text", "pos"], torch.arange(first, min(len(store), row + context + 1)))
    own = row - first
    steps = torch.arange(len(near["pos"])) - own
    with_it = (near["text"] == near["text"][own]) & (near["pos"] - near["pos"][own] == steps)
    begin = own - int(with_it[:own].flip(0).int().cumprod(0).sum())
    end = own + int(with_it[own:].int().cumprod(0).sum())
    ids = tuple(near["token"][begin:end].tolist())
    tokens = tuple(token_strings(store.tokenizer, ids))
    return Example(score, row, int(near["text"][own]), int(near["pos"][own]), ids, tokens, own - begin)
