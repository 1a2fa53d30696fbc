"""Files and folders that are either whole or not there: JSON with a format, tensors with a description in one file."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import CheckpointError, describe

TEMPORARY = ".interp-"
"""How the name of a file begins that is not whole yet; those of a killed process stay."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed otherwise.

    What has taken its place is on the disk, and outlives the machine that wrote it.
    """
    target = Path(os.path.realpath(path))  # through a link, to the file itself
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY)
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(target)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private; an ordinary file is not
        _to_disk(temporary)
        temporary.replace(target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and is removed otherwise.

    Raises `CheckpointError`, before the block, for a place where there is something already, unless it is an empty
    folder; `OSError` where nothing can be written. What came to be there in the meantime is not replaced.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir() and (there := sorted(one.name for one in target.iterdir())):
            raise CheckpointError(f"{path} is not empty: it has {describe(there)}; name a new or an empty folder")
        if target.exists() and not target.is_dir():
            raise CheckpointError(f"{path} is a file; name a new or an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY))
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(target)) from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.is_dir():
            target.rmdir()  # which takes an empty one only; some systems put no folder in the place of another
        temporary.rename(target)
        _to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_json(path: str | os.PathLike[str], format: int, about: Mapping[str, Any]) -> None:
    """Write JSON values by name, and in which format they are, whole or not at all."""
    with atomic_path(path) as file:
        file.write_text(json.dumps({"format": format, **about}, indent=1), encoding="utf-8")


def load_json(path: str | os.PathLike[str], format: int, what: str) -> dict[str, Any]:
    """The values that `save_json` wrote.

    Raises `CheckpointError` for a file that cannot be read as `what`, such as "a job", or that has another format.
    """
    try:
        about = json.loads(Path(path).read_text(encoding="utf-8"))
        theirs = about["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as {what}: {error!r}") from error
    if theirs != format:
        raise CheckpointError(f"{path} has format {describe(theirs)}; this version reads {format}")
    return about


def save_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write tensors and a description (JSON values) to one safetensors file, whole or not at all.

    Args:
        path: of the file.
        kind: what the file is, such as "interp.ActivationCache"; `load_tensors` asks for it.
        tensors: by name.
        about: by name.

    Raises `OSError` where the file cannot be written.
    """
    from safetensors.torch import save_file

    metadata = {"kind": kind, **{name: json.dumps(value) for name, value in about.items()}}
    own = {
        name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()
    }  # the format shares no memory
    with atomic_path(path) as file, disk_errors(path):
        save_file(own, file, metadata=metadata)


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the disk refuses while safetensors writes, such as a full one, as the `OSError` that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def load_tensors(
    path: str | os.PathLike[str], kind: str, device: str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that `save_tensors` wrote.

    Raises `CheckpointError` for a file that cannot be read, or that is of another kind.
    """
    with _opened(path, kind, device) as (file, about):
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def load_about(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The description alone. The length of the file is compared with that of its tensors, which are not read.

    Raises as `load_tensors`.
    """
    with _opened(path, kind, "cpu") as (_, about):
        return about


@contextmanager
def _opened(path: str | os.PathLike[str], kind: str, device: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device=device) as file:
            about = file.metadata() or {}
            if about.pop("kind", None) != kind:
                raise CheckpointError(f"{path} is a safetensors file, but not a saved {kind.removeprefix('interp.')}")
            yield file, {name: json.loads(value) for name, value in about.items()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        what = kind.removeprefix("interp.")
        raise CheckpointError(f"{path} cannot be read as a saved {what}: {error!r}") from error
