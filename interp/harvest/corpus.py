"""Work over a corpus: what a harvest and a loss over texts have in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.data import TextRows, Texts
from interp.errors import CheckpointError
from interp.harvest.tokens import TokenFiles, TokenUnit, token_units
from interp.indices import check_count
from interp.jobs import JobFolder, ModelRef, ModelWork

BATCH = 8
"""Rows that run together by default. With rows of 128 tokens a core is fastest with four or eight; an accelerator takes
more."""

UNIT_TOKENS = 16_384
"""Of a unit, by default: some seconds of work of a small model, and a file of 19 MB for 576 numbers a token in half
precision."""


@dataclass(frozen=True, eq=False)
class CorpusWork(ModelWork):
    """Work of a model on every token of a corpus. A unit is some rows of it, of which `batch` run at a time.

    Attributes:
        tokens: the corpus.
        batch: how many rows run together. It can decide the last bits of a result.
    """

    tokens: TokenFiles
    batch: int

    @property
    def n_units(self) -> int:
        """As the tokens were cut."""
        return self.tokens.n_units

    def specification(self) -> dict[str, Any]:
        """The model, the tokens in their units, and how many rows run together."""
        return {"model": self.model.key(), "tokens": self.tokens.digest, "batch": self.batch}

    def called(self) -> dict[str, str]:
        """The model, and how large the corpus is."""
        return {**super().called(), "tokens": f"{self.tokens.n_tokens:,} tokens in {self.tokens.n_units} units"}

    def describe(self, unit: int) -> str:
        """The texts of a unit."""
        return self.tokens.describe(unit)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a corpus is cut into rows, batches and units, checked; see `harvest`."""

    n_ctx: int
    packed: bool
    batch: int
    unit_tokens: int

    def __post_init__(self) -> None:
        for name in ("n_ctx", "batch", "unit_tokens"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))

    def rows(self, texts: Texts | Iterable[Any], model: ModelRef) -> TextRows:
        """The corpus as rows. Raises as `Texts.rows`."""
        corpus = texts if isinstance(texts, Texts) else Texts(texts)
        return corpus.rows(model.load(), self.n_ctx, self.packed)

    def units(self, texts: Texts | Iterable[Any], model: ModelRef) -> Iterator[TokenUnit]:
        """The corpus in units, one after another. Raises as `Texts.rows`."""
        return token_units(self.rows(texts, model), self.unit_tokens)

    def write(self, texts: Texts | Iterable[Any], model: ModelRef, folder: Path, progress: bool) -> TokenFiles:
        """The same units in the folder of a job. Raises as `Texts.rows` and `TokenFiles.write`."""
        rows, begun = self.rows(texts, model), _has_job(folder)
        return TokenFiles.write(tokens_in(folder), rows, self.unit_tokens, begun, progress)


def tokens_in(folder: Path) -> Path:
    """Where a job over a corpus keeps its tokens; an absolute path, since workers may stand elsewhere."""
    return folder.absolute() / "tokens"


def _has_job(folder: Path) -> bool:
    """Whether a folder has a job over a corpus. Raises `CheckpointError` if it has another one."""
    try:
        job = JobFolder.at(folder)
    except CheckpointError:
        return False
    if "tokens" not in job.specification:
        raise CheckpointError(f"{folder} has another job, which is not one over texts; give another folder")
    return True
