"""What the commands that are jobs share: options, and what is said where work is left, to others or for later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.commands.common import check_writable, loading
from interp.errors import ConfigError
from interp.indices import ranges

if TYPE_CHECKING:
    from interp.jobs import Engine, ModelRef

Folder = Annotated[
    Path, typer.Option(help="Where results are kept, unit by unit; the same command goes on from what is there.")
]
Workers = Annotated[int, typer.Option(help="How many processes of this machine work.", min=1)]
Threads = Annotated[
    int, typer.Option(help="Of the CPU, in each of them. It can decide the last bits of a result.", min=1)
]
Device = Annotated[str | None, typer.Option(help="Where the model runs, such as cuda.", show_default="cpu")]
Part = Annotated[
    str | None, typer.Option(help="A share of the work, such as 2/8, for machines that have the folder in common.")
]


def check_folder(folder: Path) -> Path:
    """The folder of a job, with `~` expanded. Raises `OSError` if nothing can be written there."""
    return check_writable(folder / "job.json").parent


def engine_of(workers: int, part: str | None) -> int | Engine:
    """Who computes which unit. Raises `ConfigError` for a part that is none."""
    from interp.jobs import part as part_of

    if part is None:
        return workers
    found = re.fullmatch(r"(\d+)/(\d+)", part, re.ASCII)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= i <= n:
        raise ConfigError(f"--part {part!r}; allowed: i/n, " + (f"from 1/{n} to {n}/{n}" if n else "such as 2/8"))
    return part_of(i, n, workers)


def reference(name: str, device: str | None, quiet: bool) -> ModelRef:
    """The model of a name, for this process and for workers. Raises as `common.load`, and `ConfigError`."""
    from interp.jobs import ModelRef

    ref = ModelRef(name, device=None if device is None else _usable(device))
    with loading(name, quiet):
        ref.load()
    return ref


def _usable(device: str) -> str:
    """The name of a device. Raises `ConfigError` for one that this machine, or this build of torch, does not have."""
    import torch

    try:
        torch.empty(0, device=device).cpu()  # one without values ("meta") has nothing to copy
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"--device {device!r}: {why}; allowed: cpu, cuda, cuda:1 and the like") from error
    return device


@contextmanager
def said_where_work_is_left(part: str | None, folder: Path) -> Iterator[None]:
    """Say what is left: after an interruption, and where this part is done and others are not, which ends well."""
    from interp.errors import CheckpointError, JobError
    from interp.jobs import JobFolder

    try:
        yield
    except KeyboardInterrupt:
        with suppress(CheckpointError):  # nothing to say where the job had not begun
            found = JobFolder.at(folder).status()
            kept = f"{len(found.done)} of {found.n_units} units are kept in {folder}"
            typer.echo(f"{kept}; the same command goes on from there.", err=True)
        raise
    except JobError as error:
        if part is None or error.failed:
            raise
        n, left = JobFolder.at(folder).n_units, error.missing
        typer.echo(
            f"Part {part} is done. Left to other parts: {len(left)} of {n} units ({ranges(left)}). When they are done, "
            "the same command shows the result."
        )
        raise typer.Exit from error
