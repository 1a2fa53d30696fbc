"""The order in which a model writes to its residual stream, and the norms on the way.

A model writes to the stream step by step: the attention of a block, its cross-attention, then its MLP. Everything that
walks along the stream (decompositions, attributions, path expansion, folding) takes the order from `steps`, so that a
new kind of step is added here and nowhere else.

A norm divides by a scale, which depends on what it reads. At the scale that it had in one run a norm is a linear map
plus a bias; `NormAtScale` is that map.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError
from interp.model.norms import Norm

Part = Literal["attn", "cross_attn", "mlp"]
"""What reads the stream and writes to it within a block."""

NORMS: dict[Part, str] = {"attn": "ln1", "cross_attn": "ln_cross", "mlp": "ln2"}
"""The norm around each part."""

STREAMS: dict[Part, str] = {"attn": "resid_pre", "cross_attn": "resid_cross", "mlp": "resid_mid"}
"""The hook point that shows the stream before each part."""


class StreamPlace(NamedTuple):
    """A place in the stream: before a part of a layer; with `layer` n_layers, before the final norm."""

    layer: int
    part: Part = "attn"

    def described(self, n_layers: int) -> str:
        """What reads the stream there, in words."""
        if self.layer == n_layers:
            return "the final norm"
        words = {"attn": "attention", "cross_attn": "cross-attention", "mlp": "MLP"}
        return f"the {words[self.part]} of layer {self.layer}"


@dataclass(frozen=True)
class Step:
    """One write to the stream, and the norms around it by their full names; None where the model has no such norm.

    Attributes:
        layer: the block that writes.
        part: which part of the block.
        read_norm: the norm through which the part reads the stream.
        write_norm: the norm through which its output is added to the stream (`norm_position="both"`).
        stream_norm: the norm through which the whole stream passes after the addition (`norm_position="post"`).
    """

    layer: int
    part: Part
    read_norm: str | None
    write_norm: str | None
    stream_norm: str | None

    @property
    def name(self) -> str:
        """The full name of the part that writes."""
        return f"blocks.{self.layer}.{self.part}"

    @property
    def label(self) -> str:
        """What the write is called among the rows of a decomposition."""
        return f"{self.layer}_{self.part}_out"

    @property
    def hook_name(self) -> str:
        """The hook point that shows what is added to the stream."""
        return f"blocks.{self.layer}.hook_{self.part}_out"

    @property
    def bias_name(self) -> str:
        """The parameter that is written whatever the part reads."""
        return f"{self.name}." + ("b_out" if self.part == "mlp" else "b_O")


def parts(cfg: TransformerConfig) -> tuple[Part, ...]:
    """The parts of a block, in the order in which they write."""
    there = {"attn": True, "cross_attn": cfg.cross_attention, "mlp": not cfg.attn_only}
    return tuple(part for part in NORMS if there[part])


def streams_of_block(cfg: TransformerConfig, incl_mid: bool) -> list[str]:
    """The points that show the stream of a block: where it enters, and with `incl_mid` between the parts of the block.

    Raises `ConfigError` for `incl_mid` where no part follows another.

    >>> streams_of_block(cfg, incl_mid=True)
    ['resid_pre', 'resid_mid']
    """
    found = [STREAMS[part] for part in parts(cfg) if part != "mlp" or cfg.has_resid_mid]
    if incl_mid and len(found) == 1:
        raise ConfigError("incl_mid = True, but blocks without or beside their MLP have no resid_mid")
    return found if incl_mid else found[:1]


def steps(cfg: TransformerConfig, until: StreamPlace | None = None) -> Iterator[Step]:
    """The writes to the stream in their order, those before a place; None is the stream that the unembedding reads.

    >>> [step.part for step in steps(cfg)]
    ['attn', 'mlp', 'attn', 'mlp']
    """
    until = until or StreamPlace(cfg.n_layers)
    for layer in range(cfg.n_layers):
        for part in parts(cfg):
            if (layer, part) == until:
                return
            yield _step(cfg, layer, part)


def _step(cfg: TransformerConfig, layer: int, part: Part) -> Step:
    name = f"blocks.{layer}.{NORMS[part]}"
    return Step(
        layer,
        part,
        read_norm=reading_norm(cfg, StreamPlace(layer, part)),
        write_norm=f"{name}_post" if cfg.normalization_type and cfg.norm_position == "both" else None,
        stream_norm=name if cfg.normalizes_stream else None,
    )


def reading_norm(cfg: TransformerConfig, place: StreamPlace) -> str | None:
    """The full name of the norm that reads the stream at a place; None where it is read as it is.

    >>> from interp.model import StreamPlace
    >>> reading_norm(cfg, StreamPlace(1)), reading_norm(cfg, StreamPlace(cfg.n_layers))
    ('blocks.1.ln1', 'ln_final')
    """
    if cfg.normalization_type is None or not cfg.norms_reads:
        return None
    if place.layer == cfg.n_layers:
        return "ln_final"
    if place == StreamPlace(0) and not cfg.first_ln1:
        return None
    return f"blocks.{place.layer}.{NORMS[place.part]}"


@dataclass(frozen=True, eq=False)
class NormAtScale:
    """A norm at the scale that it had in a run: a linear map plus a bias.

    Attributes:
        norm: the norm, or None for no norm, which changes nothing.
        scale: what it divided by, [batch, pos, 1] (or whatever broadcasts to what it is applied to).

    >>> _, cache = model.run_with_cache(clean)
    >>> norm = NormAtScale(model.ln_final, cache["ln_final.hook_scale"])
    >>> torch.allclose(norm.linear(cache["resid_post", -1]), cache["ln_final.hook_normalized"], atol=1e-5)
    True
    """

    norm: Norm | None = None
    scale: Float[Tensor, "*axes 1"] | None = None

    def linear(self, x: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
        """`x` through the norm without its bias."""
        return x if self.norm is None or self.scale is None else self.norm.at_scale(x, self.scale)

    def pull_back(self, directions: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
        """Directions of the norm's output as directions of its input.

        For all x, `linear(x) . directions = x . pull_back(directions)`.
        """
        return directions if self.norm is None or self.scale is None else self.norm.pull_back(directions, self.scale)

    @property
    def bias(self) -> Float[Tensor, "size"] | None:
        """What the norm adds after its linear map (LayerNorm), or None."""
        if self.norm is None or self.norm.b is None or self.scale is None:
            return None
        return self.norm.b.to(self.scale.device)
