"""Report: what a verification found."""

from dataclasses import dataclass
from typing import Any

from circuits.language import Label, cut, shortened
from circuits.verify.limits import amount


@dataclass(frozen=True, repr=False)
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
    predicted: Label | None
    expected: Any

    def __repr__(self) -> str:
        said, wanted = shortened(self.predicted, 12), shortened(self.expected, 12)
        where = f"{shortened(self.text, 18)}, position={self.position}, margin={self.margin:.3g}"
        return f"Worst({where}, predicted={said}, expected={wanted})"


@dataclass(frozen=True, repr=False)
class Report:
    """How often model and interpreter were right, by what margin, and how far their numbers lie apart.

    Attributes:
        n_inputs, n_positions: how much was run.
        n_right: positions at which the model predicts what the reference says.
        n_symbolic: positions at which the interpreter predicts what the reference says.
        margin: the smallest distance of the model's predictions to other ones, in logits. Where a word is right, it is
            the distance to the next word, or to predicting nothing; where nothing is right, the distance to the first
            word; where all logits are given, what is left of the tolerance. It is 0 or less where one is wrong.
        worst: the position with that margin.
        logit_error: the largest difference between the model's logits and the interpreter's.
        pattern_errors: for each head, the largest difference between the model's pattern and the interpreter's.
        logit_tolerance, pattern_tolerance: how large these two may be: what `verify` was given, and the share of
            attention that the model was compiled to lose. For logits it is in units of the largest one, if above 1.
        broken: what inputs do that the declaration excludes, in sentences that name it.
        dead: what never happened on these inputs: entries that did not fire, heads that only rested. It is not wrong.
        n_generated: of a circuit with a source, the inputs to which the model writes the right answer by itself, from
            the start on; None for other circuits.
        misgenerated: what it writes instead to some of the others, in sentences.
        sampled_from: how many inputs there are, where only a random sample of them was run; None where all were.
        has_reference: whether `verify` was given one. Without, the interpreter's answers are taken for right: what is
            checked is that the model does what was declared, not that what was declared is what was meant.

    >>> from circuits.gallery import entry
    >>> report = entry("previous_token").verify(sample=10, progress=False)
    >>> report.ok, report.accuracy
    (True, 1.0)
    """

    n_inputs: int
    n_positions: int
    n_right: int
    n_symbolic: int
    margin: float
    worst: Worst | None
    logit_error: float
    pattern_errors: dict[str, float]
    logit_tolerance: float
    pattern_tolerance: float
    broken: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    sampled_from: int | None = None
    n_generated: int | None = None
    misgenerated: tuple[str, ...] = ()
    has_reference: bool = True

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
        """Whether model and interpreter are right everywhere, and agree in logits and in patterns.

        No input may do what the declaration excludes, and the model of a circuit with a source answers by itself.
        """
        right = self.n_right == self.n_symbolic == self.n_positions and self.n_generated in (None, self.n_inputs)
        close = self.logit_error <= self.logit_tolerance and self.pattern_error <= self.pattern_tolerance
        return right and close and not self.broken

    def __repr__(self) -> str:
        inputs = f"all {self.n_inputs:,} inputs" if self.n_inputs > 1 else "one input"
        if self.sampled_from is not None:
            inputs = f"a random sample of {self.n_inputs:,} of {amount(self.sampled_from)} inputs"
        margin, answers = f"{self.margin:.3g} logits", ""
        if self.worst is not None:
            margin += f", at position {self.worst.position} of {shortened(self.worst.text, 50)}"
            predicted, expected = shortened(self.worst.predicted, 22), shortened(self.worst.expected, 22)
            answers = f"where the model predicts {predicted}, and right is {expected}"
        right = f"model {self.n_right:,}, interpreter {self.n_symbolic:,}"
        if not self.has_reference:
            right = f"model {self.n_right:,}, by the interpreter's answers; no reference was given"
        heads = sorted(self.pattern_errors, key=lambda name: -self.pattern_errors[name])
        largest = f", most in head {shortened(heads[0], 30)}" if heads else ""
        return "\n".join(
            (
                f"Report: {'ok' if self.ok else 'wrong'}, {inputs}, {self.n_positions:,} positions",
                f"  right        {right}",
                f"  margin       {margin}",
                f"               {answers}".rstrip(),
                f"  logits       within {self.logit_error:.2g} of the interpreter's"
                + (f", not {self.logit_tolerance:.2g}" if self.logit_error > self.logit_tolerance else ""),
                f"  patterns     within {self.pattern_error:.2g} of the interpreter's{largest}"
                + (f", not {self.pattern_tolerance:.2g}" if self.pattern_error > self.pattern_tolerance else ""),
                *([] if self.n_generated is None else [f"  by itself    answers {self.n_generated:,} sources right"]),
                *(
                    f"  {what:12} {cut(one, 104)}"
                    for what, ones in (("wrong", self.misgenerated), ("broken", self.broken), ("dead", self.dead))
                    for one in ones
                ),
            )
        )
