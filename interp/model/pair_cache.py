"""PairCache: what one run of an encoder and a decoder left at its hook points."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.errors import CheckpointError, ConfigError, HookNotFoundError, describe, did_you_mean
from interp.files import load_tensors, save_tensors
from interp.model.cache import ActivationCache, held
from interp.model.names import STACKS, HookName, in_stack, of_stack, stack_of, stack_with
from interp.model.provenance import joint_signature
from interp.model.stacks import two_stacks

if TYPE_CHECKING:
    from interp.model.encoder_decoder import HookedEncoderDecoder
    from interp.model.transformer import HookedTransformer

KIND = "interp.PairCache"
"""Of the files that `save` writes."""

OWN_POSITIONS = (
    "source and target have positions of their own; cut the caches of the stacks, cache.encoder.slice(pos=) and "
    "cache.decoder.slice(pos=)"
)


class PairCache(Mapping[str, Tensor]):
    """Activations of both stacks by name: `cache["decoder.blocks.0.cross_attn.hook_pattern"]`.

    Short names say their stack, `cache["pattern", 3, "encoder"]`, where both have such a point;
    `cache["pattern", 3, "cross_attn"]` is the decoder's attention to the memory.

    Attributes:
        encoder, decoder: ordinary caches of the two stacks, whose names are those of a single model.

    >>> from interp import EncoderDecoderConfig, HookedEncoderDecoder
    >>> stack = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_ctx": 8, "d_vocab": 10}
    >>> pair = HookedEncoderDecoder(EncoderDecoderConfig(encoder=stack, decoder=stack, start_token=1))
    >>> _, cache = pair.run_with_cache([[3, 4, 5]], [[1, 6]])
    >>> cache["cross_attn.pattern", 0].shape
    torch.Size([1, 2, 2, 3])
    """

    def __init__(self, encoder: ActivationCache, decoder: ActivationCache):
        self.encoder, self.decoder = encoder, decoder

    @property
    def stacks(self) -> dict[str, ActivationCache]:
        """The two caches by the words with which names begin."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    def __getitem__(self, name: HookName) -> Tensor:
        stack, within = in_stack(name)
        if stack is not None and within in self.stacks[stack]:
            return self.stacks[stack][within]
        if stack is None and not isinstance(name, tuple):
            raise HookNotFoundError(f"{describe(name)} names nothing here: full names begin with 'encoder.' or "
                                    f"'decoder.'{did_you_mean(str(name), self)}")  # fmt: skip
        stack = stack_with(self._names, cast(tuple[Any, ...], name)) if stack is None else stack
        cache = self.stacks[stack]
        names, points = ([f"{stack}.{one}" for one in some] for some in (cache, cache.model.hook_points))
        return self[held(name, names, points, cache.cfg.n_layers)]

    @property
    def _names(self) -> dict[str, dict[str, None]]:
        """All that each stack has points or activations of, such as gradients, by its word."""
        return {word: dict.fromkeys([*cache.model.hook_points, *cache]) for word, cache in self.stacks.items()}

    def stack(self, site: str | tuple[str, ...]) -> Tensor:
        """One site of all layers of a stack, stacked: `stack(("pattern", "encoder"))`, `stack(("z", "cross_attn"))`.

        Raises as `ActivationCache.stack`, and `ConfigError` for what is no site.
        """
        stack, within = stack_of(self._names, site)
        return self.stacks[stack].stack(cast(Any, within))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            stack = self.__dict__.get("encoder")  # not there yet while a copy is being made
            if not name.startswith("_") and stack is not None and name in {*dir(type(stack)), *vars(stack)}:
                raise AttributeError(
                    f"a PairCache has no {name!r}; the caches of its stacks have: give cache.encoder or cache.decoder"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return (f"{stack}.{name}" for stack, cache in self.stacks.items() for name in cache)

    def __len__(self) -> int:
        return len(self.encoder) + len(self.decoder)

    def __repr__(self) -> str:
        return f"PairCache(encoder={self.encoder!r}, decoder={self.decoder!r})"

    @property
    def edited(self) -> bool:
        """Whether hooks edited anything in the run."""
        return self.encoder.edited or self.decoder.edited

    def stack_of(self, site: str | tuple[str, ...]) -> tuple["HookedTransformer", tuple[str, ...]]:
        """As `HookedEncoderDecoder.stack_of`."""
        stack, within = stack_of(self._names, site)
        return self.stacks[stack].model, within

    @property
    def signature(self) -> str:
        """Of the model that ran; see `interp.model.signature`. Raises `CacheError` if its weights are gone."""
        return joint_signature(cache.made_by.signature for cache in self.stacks.values())

    def check_weights(self) -> None:
        """Raise `CacheError` if the weights of a stack changed since the run."""
        for cache in self.stacks.values():
            cache.check_weights()

    def is_current(self) -> bool:
        """Whether the weights of both stacks are still those of the run."""
        return self.encoder.is_current() and self.decoder.is_current()

    def to(self, device: str | torch.device) -> "PairCache":
        """A cache with every tensor on `device`."""
        return PairCache(self.encoder.to(device), self.decoder.to(device))

    def slice(self, batch: int | slice | Sequence[int] | None = None, pos: None = None) -> "PairCache":
        """A cache of some sequences.

        Raises as `ActivationCache.slice`; `ConfigError` for positions, of which source and target have their own: cut
        the caches of the stacks, `cache.decoder.slice(pos=)`.
        """
        if pos is not None:
            raise ConfigError(f"pos = {describe(pos)}: {OWN_POSITIONS}")
        return PairCache(self.encoder.slice(batch=batch), self.decoder.slice(batch=batch))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all activations to one safetensors file, whole or not at all. Raises as `ActivationCache.save`."""
        parts = {stack: cache.to_file() for stack, cache in self.stacks.items()}
        tensors = {f"{stack}.{name}": value for stack, (values, _) in parts.items() for name, value in values.items()}
        save_tensors(path, KIND, tensors, {stack: about for stack, (_, about) in parts.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: "HookedEncoderDecoder") -> "PairCache":
        """The cache that `save` wrote, bit for bit, on the model's device.

        Raises as `ActivationCache.load`, and `ConfigError` for a model of one stack.
        """
        if two_stacks(model) is None:
            raise ConfigError(f"model = {describe(model)}; allowed: a HookedEncoderDecoder")
        tensors, about = load_tensors(path, KIND, str(model.decoder.W_E.device))
        if not set(STACKS) <= set(about):
            raise CheckpointError(f"{path} cannot be read as a saved PairCache")
        caches = []
        for stack, its_model in model.stacks.items():
            values = of_stack(stack, tensors)
            caches.append(its_model.cache_type.from_file(path, values, about[stack], its_model))
        return cls(*caches)
