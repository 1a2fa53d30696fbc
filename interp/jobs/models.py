"""Which model a job runs on, as a value from which every process gets the model itself."""

import functools
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakValueDictionary

import torch

from interp.checkpoints import open_checkpoint
from interp.digests import digest_of_text
from interp.errors import CheckpointError, ConfigError, check_choice, describe
from interp.keywords import known_keywords
from interp.model import HookedTransformer, check_one_stack, forget_hash, signature
from interp.text import TextCodec, Tokenizer, Vocabulary
from interp.weights import (
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    refactor_factored_attn_matrices,
)

PROCESSES: dict[str, Callable[[HookedTransformer], HookedTransformer]] = {
    function.__name__: function
    for function in (
        fold_layer_norm,
        center_writing_weights,
        center_unembed,
        fold_value_biases,
        refactor_factored_attn_matrices,
    )
}
"""What can be done to a model on its way from the file, by name; see `interp.weights`."""

N_ALIVE = 2
"""So many models that were opened by reference stay in memory; the one that was asked for longest ago goes first."""


class Identity(NamedTuple):
    """What tells two models apart.

    Attributes:
        weights: the hash of the weights.
        signature: the hash of architecture and weights.
        tokenizer: the hash of the tokenizer, or the name of its class where it is one of the user's own.
    """

    weights: str
    signature: str
    tokenizer: str | None


class Opened(NamedTuple):
    """A model that was opened by reference.

    Attributes:
        model: which may have been written to since.
        identity: what it was.
        files: names, sizes and times of what it was read from.
    """

    model: HookedTransformer
    identity: Identity
    files: list[tuple[str, int, int]]


_opened: OrderedDict[tuple[Any, ...], Opened] = OrderedDict()
_live: WeakValueDictionary[tuple[Any, ...], HookedTransformer] = WeakValueDictionary()
"""The models of this process that references were made of; both by what makes references equal."""


class ModelRef:
    """A model by reference: plain data that is pickled without weights, and from which `load` gives the model.

    `ModelRef.of(model)` refers to a model of this process, as its weights are now. Other processes cannot load it
    before it lies in a folder: `snapshotted(folder)` writes it once, and returns the reference to the folder. Two
    references are equal if they name the same source and processing; those to live models, if these have the same
    class, architecture, weights and tokenizer.

    Args:
        source: a name, folder or file as `HookedTransformer.from_pretrained` takes it.
        process: names of functions of `interp.weights`, applied in this order, such as "fold_layer_norm".
        dtype, device, revision: as `from_pretrained` takes them.
        kind: the class of the model.

    Raises:
        ConfigError: an unknown word in `process`; a source that is neither a name nor a path.
    """

    @known_keywords
    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        process: Iterable[str] = (),
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        kind: type[HookedTransformer] = HookedTransformer,
    ):
        if not isinstance(source, str | os.PathLike) or not os.fspath(source).strip():
            raise ConfigError(f"source = {describe(source)}; allowed: a name or a path (ModelRef.of takes models too)")
        here = Path(source).expanduser()
        self.source: str | None = str(here.resolve()) if here.exists() else os.fspath(source)
        self.process = (process,) if isinstance(process, str) else tuple(process)
        for name in self.process:
            check_choice("process", name, tuple(PROCESSES))
        self.dtype = None if dtype is None else str(dtype).removeprefix("torch.")
        self.device = None if device is None else str(device)
        self.revision, self.kind = revision, kind
        self._fixed = False  # whether the weights were known when the reference was made
        self._known: Identity | None = None
        self._model: HookedTransformer | None = None  # the live one; it is not pickled

    @classmethod
    def of(cls, model: "HookedTransformer | str | os.PathLike[str] | ModelRef") -> "ModelRef":
        """The reference to a model of this process, a name or a path; a reference stays what it is.

        Raises `ConfigError` for a model with hooks or without values, and for anything else.
        """
        if isinstance(model, ModelRef):
            return model
        if isinstance(model, str | os.PathLike):
            return cls(model)
        check_one_stack(getattr(model, "cfg", None), "a job")
        if not isinstance(model, HookedTransformer):
            raise ConfigError(f"model = {describe(model)}; allowed: a HookedTransformer, a name, a path or a ModelRef")
        _refuse_hooks(model)
        if model.W_E.is_meta:
            raise ConfigError("the model is on the meta device, without values: there is nothing to refer to")
        forget_hash(model)  # what was written through `.data` is in no version of a tensor, but it is in results
        made = cls("live", device=model.W_E.device, kind=type(model))
        made.source = None
        made._fix(_identity(model), model)
        return made

    def _fix(self, known: Identity, model: HookedTransformer | None) -> None:
        self._fixed, self._known, self._model = True, known, model
        if model is not None:
            _live[self._same()] = model

    # ------------------------------------------------------------------ the model

    def load(self) -> HookedTransformer:
        """The model: the live one itself, or the one that is opened once in each process and then kept.

        Raises:
            CheckpointError: a live model of another process, or one whose weights have changed since; a source that
                holds other weights than when the reference was made or pickled (both are named); or as
                `from_pretrained` does.
            ConfigError: the model has hooks.
        """
        same = self._same()
        kept = _opened.get(same)
        if self._known is None and kept is not None and kept.files == _files_of(self.source):
            self._known = kept.identity
        for model in (self._model, _live.get(same), None if kept is None else kept.model):
            if model is not None and self._known is not None and _identity(model) == self._known:
                _refuse_hooks(model)
                if same in _opened:
                    _opened.move_to_end(same)
                return model
        if self.source is None:
            why = "is not in this process" if self._model is None else "has other weights now"
            raise CheckpointError(f"{self!r} {why}; a reference that every process can load at any time is made by "
                                  "snapshotted(folder), as long as the model is there")  # fmt: skip
        model = kept = None
        _opened.pop(same, None)  # before the next takes its memory
        while len(_opened) >= N_ALIVE:
            _opened.popitem(last=False)
        files = _files_of(self.source)
        model = self._open()
        found = _identity(model)
        if self._known is not None and found != self._known:
            raise CheckpointError(f"{self.source} holds another model than the one that is asked for: "
                                  f"{_named(found)}, not {_named(self._known)}")  # fmt: skip
        self._known = found
        _opened[same] = Opened(model, found, files)
        return model

    def _open(self) -> HookedTransformer:
        model = self.kind.from_pretrained(self.source, dtype=self.dtype, device=self.device, revision=self.revision)
        for name in self.process:
            model = PROCESSES[name](model)
        return model

    def snapshotted(self, folder: str | os.PathLike[str]) -> "ModelRef":
        """The reference to this model in a folder, where it is written as `HookedTransformer.save_snapshot` does.

        Nothing is written if the folder holds this very model already. Several processes may do this at once.
        Raises `CheckpointError` if the folder holds another model, or anything else with a `config.json`.
        """
        path = Path(folder).expanduser().resolve()
        model = self.load()
        if not self._lies_in(path):
            model.save_snapshot(path)
        made = ModelRef(path, device=self.device, kind=type(model))
        made._fix(self._settled(), self._model)
        return made

    def _lies_in(self, folder: Path) -> bool:
        """Whether a folder holds the snapshot; False for one that is to be written (again)."""
        if not (folder / "config.json").exists():
            return False
        model, wanted = self.load(), f"{self!r} cannot be written to {folder}"
        weights = _described(folder)
        if weights is None:
            raise CheckpointError(f"{wanted}: it holds something else, which is no snapshot; remove it or "
                                  "give another folder")  # fmt: skip
        if weights != self.hash:
            raise CheckpointError(f"{wanted}: it holds another model, with weights {weights}, not {self.hash}")
        try:
            found = open_checkpoint(folder)
        except CheckpointError:  # its own files, of which one is missing or damaged
            return False
        if found.one_stack().architecture() != model.cfg.architecture():
            raise CheckpointError(f"{wanted}: it holds the same weights with another configuration")
        if found.tokenizer != model.tokenizer:
            raise CheckpointError(f"{wanted}: it holds the same weights with another tokenizer, {found.tokenizer!r}")
        return True

    # ------------------------------------------------------------------ what it is

    @property
    def hash(self) -> str:
        """The hash of the weights, for which the model is loaded if need be."""
        return self._settled().weights

    @property
    def signature(self) -> str:
        """The hash of architecture and weights, for which the model is loaded if need be."""
        return self._settled().signature

    def key(self) -> dict[str, Any]:
        """All that the results of a run depend on, as JSON values: class, architecture, weights and tokenizer.

        A tokenizer of another class than `Vocabulary` and `Tokenizer` is known by its class alone.
        """
        model = self.load()
        return {
            "class": _path(self.kind),
            "config": model.cfg.architecture(),
            "weights": self.hash,
            "tokenizer": self._settled().tokenizer,
        }

    def _settled(self) -> Identity:
        if self._known is None:
            self.load()
        return cast(Identity, self._known)

    def _same(self) -> tuple[Any, ...]:
        known = self._known if self._fixed else None
        return _path(self.kind), self.source, self.process, self.dtype, self.device, self.revision, known

    def __eq__(self, other: object) -> bool:
        """Whether the other names the same source and processing, or the same weights of a live model."""
        return self._same() == other._same() if isinstance(other, ModelRef) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._same())

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: everything but the model, with the hash of its weights."""
        self._settled()
        return {**self.__dict__, "_model": None}

    def __repr__(self) -> str:
        options = {name: getattr(self, name) for name in ("process", "dtype", "device", "revision")}
        said = "".join(f", {name}={value!r}" for name, value in options.items() if value)
        kind = "" if self.kind is HookedTransformer else f", kind={self.kind.__name__}"
        if self.source is None and self._known is not None:
            return f"<ModelRef of a live {self.kind.__name__} with weights {self._known.weights}>"
        return f"ModelRef({self.source!r}{said}{kind})"


def _identity(model: HookedTransformer) -> Identity:
    """What the model is now. The hashes are taken once as long as no weight changes."""
    return Identity(model.weights_hash(), signature(model), _of_tokenizer(model.tokenizer))


def _files_of(source: str | None) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that a path stands for; none of a name, whose files do not change."""
    path = Path(source or "")
    files = sorted(path.iterdir()) if path.is_dir() and source else [path] if path.is_file() else []
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]


def _refuse_hooks(model: HookedTransformer) -> None:
    if hooked := [name for name, point in model.hook_points.items() if point.hooks]:
        raise ConfigError(f"the model has hooks, at {hooked[0]!r} first, which are no part of a job: leave the with "
                          "block, or call reset_hooks()")  # fmt: skip
    if hooked := [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]:
        raise ConfigError(f"the model has hooks of torch, at {hooked[0] or 'the whole model'!r} first, which are no "
                          "part of a job: remove them by the handles that registering them returned")  # fmt: skip


def _named(model: Identity) -> str:
    return f"weights {model.weights}, signature {model.signature}, tokenizer {model.tokenizer}"


def _described(folder: Path) -> str | None:
    """The hash of the weights that a snapshot says it holds, if the folder is one."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["snapshot"]["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _of_tokenizer(tokenizer: TextCodec | None) -> str | None:
    if isinstance(tokenizer, Vocabulary | Tokenizer):
        return _digest(tokenizer)
    return None if tokenizer is None else _path(type(tokenizer))


@functools.lru_cache(maxsize=8)
def _digest(tokenizer: Vocabulary | Tokenizer) -> str:
    if isinstance(tokenizer, Vocabulary):
        said: list[Any] = [tokenizer.words, tokenizer.sep, tokenizer.bos]
    else:
        own = tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.prepends_bos, tokenizer.adds_special_tokens
        said = [tokenizer.backend.to_str(), *own]
    return digest_of_text(json.dumps(said))


AnyModel = HookedTransformer | str | os.PathLike[str] | ModelRef
"""A model of this process, the name or the path of one, or a reference."""
