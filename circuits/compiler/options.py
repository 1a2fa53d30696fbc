"""Options: what `compile` can be asked for, and whether it can be."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch

from circuits.compiler.hidden import Distract, Noise
from circuits.compiler.positions import PositionCode
from circuits.language import Number, is_finite
from interp.config import TransformerConfig
from interp.errors import ConfigError, describe
from interp.indices import is_index
from interp.model import HookedTransformer

SIZES = ("d_head", "d_model", "n_heads", "d_mlp", "n_layers")


class PairOptions(TypedDict, total=False):
    """What `EncoderDecoder.compile` takes; see `compile_pair`."""

    d_head: int | None
    d_model: int | None
    n_heads: int | None
    d_mlp: int | None
    n_layers: int | None
    slack: Number
    rotate: int | None
    positions: str | PositionCode
    norm: Literal["LN", "RMS"] | None
    ballast: Number
    error: Number
    attn_scale: Number | None
    attn_only: bool | None
    dtype: torch.dtype


class CompileOptions(PairOptions, total=False):
    """What `Circuit.compile` takes; see `compile_circuit`."""

    layers: list[int] | tuple[int, ...] | None
    like: TransformerConfig | HookedTransformer | None
    fill: Noise | None
    distract: Distract | None
    compress: bool


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that were asked for; None for what the circuit needs."""

    d_head: int | None
    d_model: int | None
    n_heads: int | None
    d_mlp: int | None
    n_layers: int | None
    attn_only: bool | None


def asked_sizes(like: object, attn_only: bool | None, **given: Any) -> Sizes:
    """The sizes that are given, and for the others those of another model. Raises `ConfigError` for impossible ones."""
    for name, size in given.items():
        if size is not None and (not is_index(size) or size < 1):
            raise ConfigError(f"{name} = {describe(size)}; allowed: 1 or more, or None for what the circuit needs")
    if like is None:
        return Sizes(**given, attn_only=attn_only)
    cfg = like.cfg if isinstance(like, HookedTransformer) else like
    if not isinstance(cfg, TransformerConfig):
        raise ConfigError(f"like = {describe(like)}; allowed: a HookedTransformer, or its config")
    taken = {name: getattr(cfg, name) if given[name] is None else given[name] for name in SIZES}
    if cfg.attn_only and given["d_mlp"] is None:
        taken["d_mlp"] = None
        attn_only = True if attn_only is None else attn_only
    return Sizes(**taken, attn_only=attn_only)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a stack of layers is compiled: the arguments of `compile_circuit`, its sizes together."""

    sizes: Sizes
    code: PositionCode
    layers: list[int] | tuple[int, ...] | None = None
    fill: Noise | None = None
    distract: Distract | None = None
    slack: Number = 0.0
    rotate: int | None
    compress: bool = False
    norm: Literal["LN", "RMS"] | None
    ballast: Number
    error: Number
    attn_scale: Number | None
    dtype: torch.dtype

    def check(self) -> None:
        """Raise `ConfigError` for what no circuit can be compiled with, or hidden by."""
        if not is_finite(self.error) or not 0 < self.error < 0.5:
            raise ConfigError(f"error = {describe(self.error)}; allowed: between 0 and .5")
        if not is_finite(self.slack) or not 0 <= self.slack < 1:
            raise ConfigError(f"slack = {describe(self.slack)}; allowed: from 0 on, and below 1")
        for name, value in (("ballast", self.ballast), ("attn_scale", self.attn_scale)):
            if value is not None and (not is_finite(value) or value <= 0):
                raise ConfigError(f"{name} = {describe(value)}; allowed: a finite number above 0")
        if self.rotate is not None and (not is_index(self.rotate) or not 0 <= self.rotate < 2**63):
            raise ConfigError(f"rotate = {describe(self.rotate)}; allowed: a seed, from 0 on, or None")
        if not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ConfigError(f"dtype = {describe(self.dtype)}; allowed: a floating-point type, such as torch.float32")
        for name, given, kind in (("fill", self.fill, Noise), ("distract", self.distract, Distract)):
            if given is not None and not isinstance(given, kind):
                raise ConfigError(f"{name} = {describe(given)}; allowed: a {kind.__name__}, or None")
            if given is not None and self.compress:
                raise ConfigError(f"{name} = {given}: compress = True leaves no spare directions to write it to")
