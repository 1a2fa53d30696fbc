"""The parts that the commands share: options, loading a model, checking where a page goes, printing a table."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from interp.model import HookedEncoderDecoder, HookedTransformer

MODEL = "smollm2-135m-instruct"

ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="A folder of safetensors, a .gguf file, a fetched model, or a name on the Hugging Face hub."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]

WithPlotly = Annotated[
    bool, typer.Option("--plotly", help="With plotly's script and its tools in the page, which then weighs 4.8 MB.")
]


def paragraphs(text: str) -> str:
    """Help as a terminal should wrap it: its own line breaks are not kept, empty lines are."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def load(name: str, quiet: bool) -> HookedTransformer:
    """The model that `from_pretrained` finds under a name. Raises `CheckpointError`."""
    from interp.model import HookedTransformer

    with loading(name, quiet):
        return HookedTransformer.from_pretrained(name)


def load_pair(name: str, quiet: bool) -> HookedEncoderDecoder:
    """As `load`, an encoder with a decoder."""
    from interp.model import HookedEncoderDecoder

    with loading(name, quiet, two_stacks=True):
        return HookedEncoderDecoder.from_pretrained(name)


@contextmanager
def loading(name: str, quiet: bool, two_stacks: bool = False) -> Iterator[None]:
    """A spinner on a terminal while a model is loaded in the block, which downloads silently if `quiet`.

    Raises `ConfigError` for a model of one stack where two are wanted, or the other way round.
    """
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with busy(f"loading {name}", quiet):
        try:
            yield
        except CheckpointError as error:
            if _has_other_stacks(name, two_stacks):
                raise ConfigError(f"--model {name!r} {OF_ONE_STACK if two_stacks else OF_TWO_STACKS}") from error
            raise


OF_ONE_STACK = "is a model of one stack; it has no encoder that reads a source beside what it reads"
OF_TWO_STACKS = (
    "is an encoder with a decoder; interp attention (--source) and interp patch (--clean-source, --corrupted-source) "
    "take these, other commands models of one stack"
)


def _has_other_stacks(name: str, two_stacks: bool) -> bool:
    """Whether a model is there, and has one stack where two are wanted, or two where one is."""
    from interp.checkpoints import open_checkpoint
    from interp.config import EncoderDecoderConfig

    try:
        return isinstance(open_checkpoint(name).cfg, EncoderDecoderConfig) != two_stacks
    except CheckpointError:
        return False


@contextmanager
def busy(doing: str, quiet: bool) -> Iterator[None]:
    """A spinner on a terminal while the block runs."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(escape(doing)):
        yield


def check_different(first: object, second: object, what: str) -> None:
    """Raise `ConfigError` if two options, named by `what`, are equal: nothing could be measured between them."""
    if first == second:
        raise ConfigError(f"{what} are both {first!r}; they must differ")


def check_writable(path: Path) -> Path:
    """The path of a page that is to be written, with `~` (which shells leave alone in `--out=~/x`) expanded.

    Raises `OSError` if it cannot be written there; asked before the work that the page takes.
    """
    path = path.expanduser()
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    code = errno.EISDIR if path.is_dir() else errno.ENOTDIR if not folder.is_dir() else errno.EACCES
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(code, f"cannot write: {os.strerror(code)}", str(path))
    return path


def said_of_ends(about: Mapping[str, Any]) -> str:
    """The metric of the prompts that run and of the others, from the `attrs` of a result, in words."""
    from interp.patching import ROLES

    runs, other = ROLES[about["direction"]]
    several = about["n"] > 1
    one, ones, over = ("prompts", "ones", f", means over {about['n']}") if several else ("prompt", "one", "")
    ends = f"{about['baseline']:.3f} on the {runs} {one}, {about['target']:.3f} on the {other} {ones}"
    return f"{about['metric']}: {ends}{over}"


def wrote(path: Path, what: str) -> None:
    """Print where a page is."""
    typer.echo(f"Wrote {path}: {what}; it opens offline.")


def print_whole(table: Table) -> None:
    """Print a table as wide as it needs to be, also where the terminal is narrower."""
    from rich.console import Console

    console = Console()
    needed = table.__rich_measure__(console, console.options.update(max_width=10_000)).maximum
    Console(width=max(console.width, needed)).print(table)
