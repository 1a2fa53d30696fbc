"""Models of two stacks as the rest of the package meets them: which models these are, and what they read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor

from interp.config import EncoderDecoderConfig
from interp.errors import ConfigError, ShapeError
from interp.text import MaskedTokens

if TYPE_CHECKING:
    from interp.model.encoder_decoder import HookedEncoderDecoder


def two_stacks(model: object) -> "HookedEncoderDecoder | None":
    """The model itself, compiled or not, if it is an encoder with a decoder; else None.

    >>> two_stacks(model) is None
    True
    """
    of_two = isinstance(getattr(model, "cfg", None), EncoderDecoderConfig)
    return cast("HookedEncoderDecoder", model) if of_two else None


def check_one_stack(cfg: object, what: str) -> None:
    """Raise `ConfigError` for the config of an encoder with a decoder; `what` is defined for one stack.

    >>> check_one_stack(cfg, "a logit lens")  # nothing to say
    """
    if isinstance(cfg, EncoderDecoderConfig):
        raise ConfigError(f"{what} is defined for one stack: give model.encoder or model.decoder")


@dataclass(frozen=True, eq=False)
class SourceAndTarget:
    """Everything that a run of a pair reads, checked.

    Attributes:
        source: what the encoder reads.
        target: what the decoder reads, from the start token on; its memory is what the encoder makes of the source.

    Raises `ShapeError` for another number of targets than of sources, and for a target with a memory of its own.
    """

    source: MaskedTokens
    target: MaskedTokens

    def __post_init__(self) -> None:
        if self.target.memory is not None:
            raise ShapeError("the target brings a memory, and this model makes one of the source; run model.decoder on "
                             "the target alone, or leave its memory out")  # fmt: skip
        if len(self.target) != len(self.source):
            raise ShapeError(f"{len(self.target)} targets for {len(self.source)} sources; allowed: one for each")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: slice) -> "SourceAndTarget":
        """Some of the sequences, padded as they were."""
        return SourceAndTarget(self.source[rows], self.target[rows])

    @property
    def masks(self) -> tuple[tuple[Tensor | None, None], tuple[Tensor | None, Tensor | None]]:
        """What the caches of encoder and decoder hold: the mask of their positions, and that of what they attend to."""
        source = self.source.attention_mask
        return (source, None), (self.target.attention_mask, source)
