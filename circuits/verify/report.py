"""Report: what a verification found."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Worst:
    """The input with the smallest margin.

    Attributes:
        text: the input.
        position: where in it.
        margin: see `Report.margin`; negative where the prediction is wrong.
        predicted, expected: by the model and by the reference.
    """

    text: str
    position: int
    margin: float
    predicted: str | None
    expected: Any


@dataclass(frozen=True)
class Report:
    """What came out.

    Attributes:
        n_inputs, n_positions: how much was run.
        n_right: positions at which the model predicts what the reference says.
        n_symbolic: positions at which the interpreter does.
        margin: over all positions, the smallest distance to another prediction, in logits: of the right word to the
            next one and to nothing; of nothing to the first word; of a distribution to the tolerance.
        worst: where that is.
        logit_error: the largest difference between the model's logits and the interpreter's.
        pattern_errors: for each head, the largest difference between the model's pattern and the interpreter's.
    """

    n_inputs: int
    n_positions: int
    n_right: int
    n_symbolic: int
    margin: float
    worst: Worst | None
    logit_error: float
    pattern_errors: dict[str, float]

    @property
    def accuracy(self) -> float:
        """Share of positions at which the model is right."""
        return self.n_right / self.n_positions

    @property
    def symbolic_accuracy(self) -> float:
        """Share of positions at which the interpreter is right."""
        return self.n_symbolic / self.n_positions

    @property
    def pattern_error(self) -> float:
        """The largest of `pattern_errors`."""
        return max(self.pattern_errors.values(), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether model and interpreter are right everywhere."""
        return self.n_right == self.n_symbolic == self.n_positions
