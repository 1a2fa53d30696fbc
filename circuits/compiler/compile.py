"""The compiler: a declared circuit becomes the weights of an ordinary `HookedTransformer`.

Each head's QK and OV circuits are written down as matrices between coordinates of the stream and factored by SVD,
`A = U S V^T`, through d_head dimensions: W_Q = U S (times sharpness, and times attn_scale, by which the model divides)
and W_K = V; W_V = U and W_O = S V^T. Each ramp of an MLP is two ReLUs. Then everything is put into a basis of the
stream.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from circuits.compiler.basis import EPS, make_basis
from circuits.compiler.encoding import Encoding
from circuits.compiler.factors import FactoredHead, factor_heads, fitting_d_head
from circuits.compiler.neurons import MergedNeurons, merge_neurons
from circuits.compiler.positions import OneHot, PositionCode, Rotary, position_code
from circuits.compiler.sharpness import check_resolution, choose_sharpness
from circuits.compiler.weights import write_ends, write_head, write_neurons
from circuits.language import (
    Coordinate,
    Declaration,
    Label,
    Layout,
    Neurons,
    Number,
    Ramp,
    decode,
    in_words,
    is_finite,
    shortened,
)
from interp.config import TransformerConfig
from interp.errors import ConfigError, describe
from interp.indices import is_index
from interp.keywords import known_keywords
from interp.model import HookedTransformer, head_label
from interp.text import Ids, Text, is_single

SHOWN = 12
"""The most heads that the repr of a report shows."""


class CompileOptions(TypedDict, total=False):
    """What `Circuit.compile` takes; see `compile_circuit`."""

    d_head: int | None
    d_model: int | None
    n_heads: int | None
    rotate: int | None
    compress: bool
    positions: str | PositionCode
    norm: Literal["LN", "RMS"] | None
    ballast: Number
    error: Number
    attn_scale: Number | None
    attn_only: bool | None
    dtype: torch.dtype


@dataclass(frozen=True)
class HeadReport:
    """What the compiler made of a head.

    Attributes:
        layer, index: its place in the model.
        sharp: the factor on its scores.
        largest_score: what they reach, or a bound on it.
        qk_rank, ov_rank: dimensions of the head that its circuits use, beside those that rotary positions turn.
    """

    layer: int
    index: int
    sharp: float
    largest_score: float
    qk_rank: int
    ov_rank: int


@dataclass(frozen=True, repr=False)
class CompileReport:
    """What the compiler chose.

    Attributes:
        heads: what was made of each head, by name.
        n_coordinates: the size of the stream that the circuit needs, before norm, rotation or compression.
        interference: the largest overlap of two coordinates; 0 unless compressed. `verify` measures what it costs.
        nothing_below: logits that stay below this predict nothing.
    """

    heads: dict[str, HeadReport]
    n_coordinates: int
    interference: float
    nothing_below: float

    def __repr__(self) -> str:
        lines = [
            f"CompileReport: {self.n_coordinates} coordinates, interference {self.interference:.2g}, "
            f"nothing below {self.nothing_below:.3g}"
        ]
        for name, head in list(self.heads.items())[:SHOWN]:
            scores = f"sharp {head.sharp:.3g}, scores up to {head.largest_score:.3g}"
            ranks = f"rank {head.qk_rank} (QK), {head.ov_rank} (OV)"
            lines.append(f"  {head_label(head.layer, head.index):7}{shortened(name, 24):25}{scores}, {ranks}")
        return "\n".join(lines + [f"  ... and {len(self.heads) - SHOWN} more heads"] * (len(self.heads) > SHOWN))


class CompiledTransformer(HookedTransformer):
    """A `HookedTransformer` that knows which circuit it was compiled from. Saved, it is a plain checkpoint."""

    circuit: Declaration
    report: CompileReport

    @torch.no_grad()
    def predict(self, text: Text | Ids) -> list[Any]:
        """For each position a word, or None where there is nothing to predict; a list of such lists for several texts.

        Several texts have equally many words. Raises `TokenError` as `Circuit.tokens` does.
        """
        tokens = self.circuit.tokens(text).to(self.W_E.device)
        logits = self(tokens)
        assert isinstance(logits, Tensor)
        words = in_words(decode(logits, self.report.nothing_below), self.circuit.vocabulary.words)
        single = is_single(text)
        return words[0] if single else words


@known_keywords
def compile_circuit(
    circuit: Declaration,
    *,
    d_head: int | None = None,
    d_model: int | None = None,
    n_heads: int | None = None,
    rotate: int | None = None,
    compress: bool = False,
    positions: str | PositionCode = "onehot",
    norm: Literal["LN", "RMS"] | None = None,
    ballast: Number = 1e3,
    error: Number = 1e-6,
    attn_scale: Number | None = None,
    attn_only: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> CompiledTransformer:
    """Write the weights.

    Args:
        d_head: width of a head; by default as wide as the circuit needs.
        d_model: width of the stream; by default as wide as the circuit needs.
        n_heads: heads a layer; by default as many as the fullest layer has.
        rotate: seed of a random orthogonal basis for the spaces; by default each coordinate is a dimension.
        compress: allow a `d_model` below what the circuit needs. Directions then overlap and nothing is promised; the
            model's `report` has the largest overlap, and `verify` measures what is left.
        positions: a position code or its name: "onehot", "quadratic", "circle", "sinusoidal", "rotary".
        norm: read through a norm ("LN" or "RMS") that the ballast makes nearly constant; see `make_basis`.
        ballast: the C of the stream [x, -x, C, -C]. The larger, the less the norm changes, and the more float32 rounds.
        error: share of attention that may go astray, below a half, for heads whose sharpness is not declared.
        attn_scale: what the model divides scores by; by default sqrt(d_head).
        attn_only: False gives every block an MLP, also where the circuit needs none.
        dtype: of the parameters; all of them are computed in float64.

    Raises:
        ConfigError: a space is read that nothing earlier writes; scores or weights that `dtype` cannot hold; a term
            that the position code cannot write; an option out of range.
        RankError: a head's circuit has a higher rank than `d_head`, or the spaces are more than `d_model`.
    """
    for name, size in (("d_head", d_head), ("d_model", d_model), ("n_heads", n_heads)):
        if size is not None and (not is_index(size) or size < 1):
            raise ConfigError(f"{name} = {describe(size)}; allowed: 1 or more, or None for what the circuit needs")
    _check_numbers(error, ballast, attn_scale, rotate, dtype)
    code = position_code(positions)
    layout = Layout(circuit, also=() if isinstance(code, OneHot) else (circuit.one,))
    encoding, heads = factor_heads(circuit.heads, layout.spaces, circuit.n_ctx, code, d_head)
    neurons = _neurons(circuit, encoding)
    basis = make_basis(encoding.size, d_model, rotate, compress, norm, float(ballast))
    d_head = fitting_d_head(heads, encoding, d_head)
    cfg = TransformerConfig(
        **_sizes(circuit, heads, neurons, n_heads, attn_only),
        **_positions(encoding.code),
        d_head=d_head,
        d_model=basis.d_model,
        act_fn="relu",
        normalization_type=norm,
        eps=EPS,
        attention_dir=circuit.attention_dir,
        attn_scale=math.sqrt(d_head) if attn_scale is None else float(attn_scale),
        tie_word_embeddings=circuit.out is circuit.tok and circuit.one.name not in encoding.slices and norm is None,
        dtype=dtype,
    )
    chosen = {one.head.name: choose_sharpness(one.head, encoding, circuit.attention_dir, float(error)) for one in heads}
    for name, (_, largest) in chosen.items():
        check_resolution(name, largest, dtype)
    model = CompiledTransformer(cfg, circuit.vocabulary, init_weights=False)
    model.circuit = circuit
    reports = _head_reports(heads, chosen)
    model.report = CompileReport(reports, encoding.size, basis.interference, layout.nothing_below())
    with torch.no_grad():
        write_ends(model, layout, encoding, basis)
        for one in heads:
            report = model.report.heads[one.head.name]
            factor = report.sharp * model.cfg.attn_scale
            write_head(model.blocks[report.layer].attn, report.index, one, factor, encoding, basis)
        for layer, of_layer in neurons.items():
            write_neurons(model.blocks[layer].mlp, of_layer, encoding, basis)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} has entries that {dtype} cannot hold; use torch.float64, or smaller numbers")
    return model


def _check_numbers(
    error: Number, ballast: Number, attn_scale: Number | None, rotate: int | None, dtype: torch.dtype
) -> None:
    """Raise `ConfigError` for what no circuit can be compiled with."""
    if not is_finite(error) or not 0 < error < 0.5:
        raise ConfigError(f"error = {describe(error)}; allowed: between 0 and .5")
    for name, value in (("ballast", ballast), ("attn_scale", attn_scale)):
        if value is not None and (not is_finite(value) or value <= 0):
            raise ConfigError(f"{name} = {describe(value)}; allowed: a finite number above 0")
    if rotate is not None and (not is_index(rotate) or not 0 <= rotate < 2**63):
        raise ConfigError(f"rotate = {describe(rotate)}; allowed: a seed, from 0 on, or None")
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype = {describe(dtype)}; allowed: a floating-point type, such as torch.float32")


def _head_reports(heads: list[FactoredHead], chosen: dict[str, tuple[float, float]]) -> dict[str, HeadReport]:
    """What is reported of each head; heads of a layer are numbered in order of declaration."""
    reports: dict[str, HeadReport] = {}
    for one in heads:
        index = sum(other.layer == one.head.layer for other in reports.values())
        reports[one.head.name] = HeadReport(one.head.layer, index, *chosen[one.head.name], one.qk_rank, one.ov_rank)
    return reports


def _sizes(
    circuit: Declaration,
    heads: list[FactoredHead],
    neurons: dict[int, MergedNeurons],
    n_heads: int | None,
    attn_only: bool | None,
) -> dict[str, Any]:
    """The sizes among the fields of the config."""
    n_layers = circuit.n_layers
    needed = max((sum(one.head.layer == layer for one in heads) for layer in range(n_layers)), default=0)
    if n_heads is not None and n_heads < max(needed, 1):
        raise ConfigError(f"n_heads = {n_heads}, but a layer of the circuit has {needed}")
    n_neurons = max(map(len, neurons.values()), default=0)
    if attn_only and neurons:
        raise ConfigError("attn_only = True, but the circuit has MLPs")
    attn_only = not neurons if attn_only is None else attn_only
    return {
        "n_layers": n_layers,
        "n_ctx": circuit.n_ctx,
        "d_vocab": circuit.vocabulary.d_vocab,
        "n_heads": n_heads or max(needed, 1),
        "attn_only": attn_only,
        "d_mlp": 0 if attn_only else max(n_neurons, 1),
    }


def _positions(code: PositionCode) -> dict[str, Any]:
    """The fields of the config for positions."""
    if isinstance(code, Rotary):
        return {"positional_embedding_type": "rotary", "rotary_dim": code.rotary_dim, "rotary_base": float(code.base)}
    return {"positional_embedding_type": "standard"}


def _neurons(circuit: Declaration, encoding: Encoding) -> dict[int, MergedNeurons]:
    """The neurons of every layer that has some."""
    index: dict[str, dict[Label, int]] = {}

    def place(coordinate: Coordinate) -> int:
        space = coordinate.space
        known = index.setdefault(space.name, {label: i for i, label in enumerate(space.labels)})
        return encoding.labels[space.name].start + known[coordinate.label]

    ramps: dict[int, list[Ramp]] = {}
    for part in circuit.parts:
        if isinstance(part, Neurons):
            ramps.setdefault(part.layer, []).extend(part.ramps)
    return {layer: merge_neurons(some, place, encoding.n_labels) for layer, some in ramps.items()}
