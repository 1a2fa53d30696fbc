"""Which model made something: the one answer to "is this from this model?", for caches, interventions, sweeps, files.

Weights are compared first by what costs nothing: in which storages they lie, and how often these were written to. Where
that differs (a copy, another process, equal weights loaded once more), a hash of their bits decides. The hash can only
be taken while the weights are there, so it is taken when somebody needs it, and at the last moment: before a cache is
copied or pickled, and before weights under a cache are replaced (`load_state_dict`, `.to` and the like).
"""

import json
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from interp.config import EncoderDecoderConfig, TransformerConfig
from interp.digests import digest_of, digest_of_text
from interp.errors import CacheError, ConfigError, describe

if TYPE_CHECKING:
    from interp.model.hooked import Watched

KEPT = ("_provenance", "_hashed", "_storages")
"""The attributes of a model that remember its provenance; copies and pickles go without."""

CHANGED = "the model's weights changed after this cache was made: run it again"
"""What those are told who need weights that are gone."""

Version = list[tuple[int, torch.dtype, int | None]]


class Provenance:
    """A model's architecture and its weights, at the time when something was made.

    Attributes:
        cfg: the architecture.
        weights: the hash of the weights, as `weights_hash` gives it, or None as long as nobody needed it.
    """

    def __init__(self, cfg: TransformerConfig | EncoderDecoderConfig, weights: str | None = None):
        self.cfg, self.weights = cfg, weights
        self._version: Version | None = None
        self._storages: list[StorageWeakRef] = []  # as long as these are held, no other storage has the same address
        self._model: Callable[[], Watched | None] = _nobody

    @classmethod
    def of(cls, model: "Watched") -> "Provenance":
        """That of what the model makes now; the same object until a weight changes (other than through `.data`)."""
        now = _version(model)
        for kept in (model.__dict__.get("_hashed"), model.__dict__.get("_provenance", _nobody)()):
            if kept is not None and kept._version == now and (kept.cfg is model.cfg or kept.cfg == model.cfg):
                return kept
        made = cls(model.cfg)
        made._remember(model, now)
        model.__dict__["_provenance"] = weakref.ref(made)
        return made

    def _remember(self, model: "Watched", version: Version) -> None:
        self._version, self._model = version, weakref.ref(model)
        held = model.__dict__.get("_storages")  # made once for these weights, and not for every cached run
        if held is None or held[0] != version:
            held = version, [StorageWeakRef(tensor.untyped_storage()) for tensor in _tensors(model)]
            model.__dict__["_storages"] = held
        self._storages = held[1]

    def settle(self) -> None:
        """Take the hash, if the weights that this speaks of are still there, so that it outlives them."""
        model = self._model()
        if self.weights is None and model is not None and self._version == _version(model):
            self.weights = digest_of(all_weights(model))
            model.__dict__["_hashed"] = self

    def is_of(self, model: "Watched") -> bool:
        """Whether `model` computes what the one that this speaks of computed."""
        return not self.differences(model)

    def differences(self, model: "Watched") -> list[str]:
        """What is other in `model`, in words; nothing if it computes the same.

        Weights that were overwritten in place before anybody took their hash count as other, even by equal ones.
        """
        now = _version(model)
        if self._version == now and (self.cfg is model.cfg or self.cfg == model.cfg):
            return []
        theirs, ours = self.cfg.architecture(), model.cfg.architecture()
        if differing := [f"{k} = {theirs[k]!r} (here {ours[k]!r})" for k in ours if theirs[k] != ours[k]]:
            return differing
        self.settle()
        if self.weights is None or self.weights != model.weights_hash():
            return ["other weights"]
        if self._version is None:  # of a copy or a file: from now on the cheap comparison suffices
            self._remember(model, now)
        return []

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, from which `from_dict` makes it again. Raises `CacheError` if the weights are gone."""
        self.settle()
        if self.weights is None:
            raise CacheError(CHANGED)
        return {"config": self.cfg.architecture(), "weights": self.weights}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Provenance":
        """The provenance whose `to_dict` this is. Raises `ConfigError` for what is none."""
        try:
            return cls(TransformerConfig.from_dict(values["config"]), values["weights"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{describe(values)} is no provenance") from error

    @property
    def signature(self) -> str:
        """Architecture and weights as one hash, for files. Raises `CacheError` if the weights are gone."""
        return digest_of_text(json.dumps(self.to_dict()))

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: the hash, for neither storages nor the model mean anything there."""
        self.settle()
        return {**self.__dict__, "_version": None, "_storages": [], "_model": _nobody}


def forget_hash(model: "Watched") -> None:
    """Have the hash taken anew when it is asked for next, whatever was written to weights without their noticing.

    >>> forget_hash(model)  # the next signature reads all weights again
    """
    model.__dict__.pop("_hashed", None)
    model.__dict__.pop("_provenance", None)


def signature(model: "Watched") -> str:
    """The signature of what the model makes now; of a model of two stacks, that of both together.

    >>> before = signature(model)
    >>> with torch.no_grad():
    ...     _ = model.W_U.mul_(2)
    >>> signature(model) == before
    False
    """
    stacks = getattr(model, "stacks", None)
    return Provenance.of(model).signature if stacks is None else joint_signature(map(signature, stacks.values()))


def joint_signature(signatures: Iterable[str]) -> str:
    """The signature of a model whose stacks have these."""
    return digest_of_text(json.dumps(list(signatures)))


def settle(model: "Watched") -> None:
    """To be called before weights may be replaced: what was made by them can be recognised afterwards.

    Of a model of two stacks, that of both: one may hold a weight of the other.
    """
    for one in (model, *getattr(model, "stacks", {}).values()):
        alive = one.__dict__.get("_provenance", _nobody)()
        if alive is not None:
            alive.settle()


def _nobody() -> None:
    return None


def _tensors(model: "Watched") -> list[torch.Tensor]:
    """All parameters and buffers; `model.parameters()` takes a twentieth of a run on a short prompt."""
    found: list[torch.Tensor | None] = []
    modules: list[torch.nn.Module | None] = [model]
    while modules:
        if (module := modules.pop()) is not None:
            found.extend((*module._parameters.values(), *module._buffers.values()))
            modules.extend((*module._modules.values(), *module.__dict__.get("shared_with", ())))
    return [tensor for tensor in found if tensor is not None]


def all_weights(model: "Watched") -> dict[str, torch.Tensor]:
    """All weights by name, one that is shared with another model included."""
    weights = model.state_dict()
    for path, module in model.named_modules():
        for other in module.__dict__.get("shared_with", ()):
            weights |= {f"{path}.{name}": tensor for name, tensor in other.state_dict().items()}
    return weights


def _version(model: "Watched") -> Version:
    """Changes whenever a weight is replaced, cast, moved or written to (other than through `.data`)."""
    return [(t.untyped_storage()._cdata, t.dtype, None if t.is_inference() else t._version) for t in _tensors(model)]
