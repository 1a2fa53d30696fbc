"""Asked: which inputs are run, in which batches, and how many of them unasked."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from circuits.language import Declaration, Number, is_finite
from circuits.verify.comparing import Check
from circuits.verify.inputs import Inputs, all_texts, batches, counted, sampled
from circuits.verify.limits import LONG, MANY, TRIAL, too_many
from circuits.verify.report import Report
from interp.errors import ConfigError, describe
from interp.indices import check_count, check_seed
from interp.progress import progress_bar


class AskedOptions(TypedDict, total=False):
    """Which inputs a verification runs, and how; see `verify`."""

    length: int | None
    sample: int | None
    seed: int
    limit: int | None
    tolerance: Number
    batch_size: int
    progress: bool
    title: str


@dataclass(frozen=True)
class Asked:
    """What a verification is asked to run; attributes and errors are those of `verify`."""

    inputs: Iterable[str] | None
    reference: Callable[[str], Any] | None
    length: int | None
    sample: int | None
    seed: int
    limit: int | None
    tolerance: Number
    batch_size: int
    progress: bool
    title: str

    def __post_init__(self) -> None:
        if isinstance(self.inputs, str) or not (self.inputs is None or isinstance(self.inputs, Iterable)):
            raise ConfigError(f"inputs = {describe(self.inputs)}; allowed: a list of texts")
        if self.reference is not None and not callable(self.reference):
            raise ConfigError(f"reference = {describe(self.reference)}; allowed: a function from a text to its answers")
        check_seed(self.seed)
        if self.inputs is not None and self.length is not None:
            raise ConfigError("verify takes inputs or length, not both")
        for name in ("length", "sample", "limit", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_count(name, value)
        if not is_finite(self.tolerance) or self.tolerance <= 0:
            raise ConfigError(f"tolerance = {describe(self.tolerance)}; allowed: a finite number above 0")

    def texts(self, circuit: Declaration) -> Inputs:
        """The inputs, or all texts of a circuit, counted as far as they may be run."""
        return counted(all_texts(circuit, self.length) if self.inputs is None else self.inputs, self._most)

    @property
    def _most(self) -> int:
        return MANY if self.limit is None else self.limit

    def run(self, given: Inputs, new_check: Callable[[], Check]) -> Report:
        """Run the inputs through a new check, after a trial where they may be too many. Raises `ConfigError` then."""
        n_wanted, shorter = given.count, self.inputs is None
        if n_wanted is not None and self.sample is not None:
            n_wanted = min(self.sample, n_wanted)
        if n_wanted is None or n_wanted > self._most:
            each = new_check().time_each(itertools.islice(given.texts, 2 * TRIAL), min(self.batch_size, TRIAL))
            raise too_many(n_wanted, self._most, each, shorter)
        given = given if self.sample is None else sampled(given, self.sample, self.seed)
        check = new_check()
        with progress_bar(self.title, given.count, self.progress) as advance:
            for texts, words in batches(check.reads, given.texts, self.batch_size, first=(TRIAL, TRIAL)):
                seconds = check.add(texts, words)
                advance(len(texts))
                if self.limit is None and check.n_batches > 1 and seconds / len(texts) * n_wanted > LONG:
                    raise too_many(n_wanted, self._most, seconds / len(texts), shorter)
        return check.report(given.sampled_from)
