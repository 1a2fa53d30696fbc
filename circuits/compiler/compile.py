"""The compiler: a declared circuit becomes the weights of an ordinary `HookedTransformer`.

Each head's QK and OV circuits are written down as matrices between coordinates of the stream and factored by SVD,
`A = U S V^T`, through d_head dimensions: W_Q = U S (times sharpness, and times attn_scale, by which the model divides)
and W_K = V; W_V = U and W_O = S V^T. Each ramp of an MLP is two ReLUs. Then everything is put into a basis of the
stream.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.basis import EPS, make_basis
from circuits.compiler.edges import Place, Plan
from circuits.compiler.encoding import POS, Encoding
from circuits.compiler.factors import FactoredHead, factor_heads, fitting_d_head
from circuits.compiler.model import CompiledTransformer, CompileReport, Ends, HeadReport
from circuits.compiler.neurons import MergedNeurons, merge_neurons
from circuits.compiler.positions import OneHot, PositionCode, Rotary, position_code
from circuits.compiler.sharpness import COARSE, check_resolution, choose_sharpness, warn_of_rounding
from circuits.compiler.sparse import Sparse
from circuits.compiler.trial import run_trial
from circuits.compiler.weights import write_model
from circuits.language import (
    Coordinate,
    Declaration,
    Head,
    Interpreter,
    Label,
    Layout,
    Neurons,
    Number,
    Ramp,
    check_alive,
    is_finite,
)
from interp.config import TransformerConfig
from interp.errors import ConfigError, describe
from interp.indices import is_index
from interp.keywords import known_keywords

HALF = (torch.float16, torch.bfloat16)


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
        dtype: of the parameters; all of them are computed in float64. Where its rounding may matter, as it always may
            in half precision, the model is tried on texts of every word and position before it is returned.

    Raises:
        ConfigError: a space is read that nothing earlier writes; scores or weights that `dtype` cannot hold, or a trial
            in which its rounding changes a prediction or a pattern; a term that the position code cannot write; an
            option out of range.
        RankError: a head's circuit has a higher rank than `d_head`, or the spaces are more than `d_model`.
    """
    for name, size in (("d_head", d_head), ("d_model", d_model), ("n_heads", n_heads)):
        if size is not None and (not is_index(size) or size < 1):
            raise ConfigError(f"{name} = {describe(size)}; allowed: 1 or more, or None for what the circuit needs")
    _check_numbers(error, ballast, attn_scale, rotate, dtype)
    code = position_code(positions)
    layout = Layout(circuit, also=() if isinstance(code, OneHot) else (circuit.one,))
    check_alive(layout)
    interpreter = Interpreter(layout)
    encoding, heads = factor_heads(circuit.heads, layout.spaces, circuit.n_ctx, code, d_head)
    plan = _plan(layout, encoding, heads)
    basis = make_basis(encoding.size, d_model, rotate, compress, norm, float(ballast))
    d_head = fitting_d_head(heads, encoding, d_head)
    cfg = TransformerConfig(
        **_sizes(circuit, plan, n_heads, attn_only),
        **_positions(encoding.code),
        d_head=d_head,
        d_model=basis.d_model,
        act_fn="relu",
        normalization_type=norm,
        eps=EPS,
        attention_dir=circuit.attention_dir,
        attn_scale=math.sqrt(d_head) if attn_scale is None else float(attn_scale),
        tie_word_embeddings=_ties(circuit, encoding) and norm is None,
        dtype=dtype,
    )
    chosen = {one.head.name: choose_sharpness(one.head, encoding, circuit.attention_dir, float(error)) for one in heads}
    steps = {name: check_resolution(name, largest, dtype) for name, (_, largest) in chosen.items()}
    model = CompiledTransformer(cfg, circuit.vocabulary, init_weights=False)
    model.circuit, model.plan = circuit, plan
    model.report = CompileReport(
        heads=_head_reports(plan, chosen),
        n_coordinates=encoding.size,
        interference=basis.interference,
        nothing_below=tuple(interpreter.nothing_below.tolist()),
        error=float(error),
    )
    model.ends = Ends(
        readouts={name: basis.reads(read) for name, read in plan.readouts.items()},
        thresholds={name: interpreter.thresholds[name] for name in plan.readouts},
        vectors={name: basis.writes(written) for name, written in plan.vectors.items()},
    )
    with torch.no_grad():
        write_model(model, plan, {name: sharp for name, (sharp, _) in chosen.items()}, basis)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ConfigError(f"{name} has entries that {dtype} cannot hold; use torch.float64, or smaller numbers")
    rounding = torch.finfo(dtype).eps * float(ballast if norm else 0)
    in_doubt = [sharp for name, (sharp, _) in chosen.items() if max(steps[name], sharp * rounding) > COARSE]
    if (in_doubt or dtype in HALF) and not compress:
        twin = compile_circuit(circuit, positions=encoding.code, error=error, dtype=torch.float64)
        run_trial(model, twin, basis, _finer(dtype, norm))
    for name, step in steps.items():
        warn_of_rounding(name, chosen[name][1], step, dtype)
    return model


def _finer(dtype: torch.dtype, norm: str | None) -> str:
    """What to do about rounding."""
    finer = "torch.float32 or torch.float64" if dtype in HALF else "torch.float64"
    ballast = "a smaller ballast=, " if norm else ""
    return f"use dtype={finer}, {ballast}a position code with smaller scores, or a lower sharp="


def _ties(circuit: Declaration, encoding: Encoding) -> bool:
    """Whether the unembedding is the embedding, transposed: words write `tok`, predictions read `tok`, and no more."""
    embedded = {name for name in circuit.embeddings if name in encoding.slices}
    return circuit.out is circuit.tok and not circuit.directs and embedded == {circuit.tok.name}


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


def _plan(layout: Layout, encoding: Encoding, heads: list[FactoredHead]) -> Plan:
    """Everything in coordinates. Heads of a layer are numbered in order of declaration."""
    circuit = layout.declaration
    tables = {name: table.T for name in layout.slices if (table := layout.embedding(name)) is not None}
    positions = {POS: torch.eye(circuit.n_ctx, dtype=torch.float64)} if POS in layout.slices else {}
    places: dict[str, Place] = {}
    for part in circuit.parts:
        of_layer = [one for one in places.values() if one.layer == part.layer and one.index is not None]
        places[part.name] = Place(part.layer, len(of_layer) if isinstance(part, Head) else None)
    place = _finder(encoding)

    def merged(ramps: Iterable[Ramp], who: str) -> MergedNeurons:
        return merge_neurons(ramps, place, encoding.n_labels).encoded(encoding, f"{who}: its read of 'pos'")

    declared = [part for part in circuit.parts if isinstance(part, Neurons)]
    by_layer: dict[int, list[Ramp]] = {}
    for part in declared:
        by_layer.setdefault(part.layer, []).extend(part.ramps)
    return Plan(
        encoding=encoding,
        embedding=encoding.written(_by_label(tables, circuit.vocabulary.d_vocab, encoding)),
        positions=encoding.written(_by_label(positions, circuit.n_ctx, encoding)),
        unembedding=encoding.read(
            _by_label(layout.unembedding, circuit.vocabulary.d_vocab, encoding), "the unembedding"
        ),
        readouts={
            name: encoding.read(_labels(circuit, name, encoding), f"readout {name!r}") for name in circuit.readouts
        },
        vectors={name: encoding.written(_labels(circuit, name, encoding)) for name in circuit.inputs},
        heads=heads,
        tables={part.name: merged(part.ramps, part.title) for part in declared},
        neurons={layer: merged(ramps, f"layer {layer}") for layer, ramps in by_layer.items()},
        places=places,
        n_layers=circuit.n_layers,
    )


def _by_label(blocks: Mapping[str, Float[Tensor, "labels columns"]], n_columns: int, encoding: Encoding) -> Sparse:
    """What is read or written of each space, as columns over all labels."""
    shape, found = (encoding.n_labels, n_columns), []
    for name, block in blocks.items():
        one = Sparse.dense(block)
        found.append(Sparse.of(one.rows + encoding.labels[name].start, one.columns, one.values, shape))
    return Sparse.total(found, shape)


def _labels(circuit: Declaration, name: str, encoding: Encoding) -> Sparse:
    """Each label of a space, as a column."""
    n = len(circuit.spaces[name])
    return _by_label({name: torch.eye(n, dtype=torch.float64)}, n, encoding)


def _finder(encoding: Encoding) -> Callable[[Coordinate], int]:
    """Where among the labels a coordinate is. Every space is listed once."""
    index: dict[str, dict[Label, int]] = {}

    def place(coordinate: Coordinate) -> int:
        space = coordinate.space
        if space.name not in index:
            index[space.name] = {label: i for i, label in enumerate(space.labels)}
        return encoding.labels[space.name].start + index[space.name][coordinate.label]

    return place


def _head_reports(plan: Plan, chosen: dict[str, tuple[float, float]]) -> dict[str, HeadReport]:
    """What is reported of each head."""
    reports: dict[str, HeadReport] = {}
    for one in plan.heads:
        place = plan.places[one.head.name]
        reports[one.head.name] = HeadReport(
            place.layer, place.index or 0, *chosen[one.head.name], one.qk_rank, one.ov_rank
        )
    return reports


def _sizes(circuit: Declaration, plan: Plan, n_heads: int | None, attn_only: bool | None) -> dict[str, Any]:
    """The sizes among the fields of the config."""
    in_layers = Counter(place.layer for place in plan.places.values() if place.index is not None)
    needed = max(in_layers.values(), default=0)
    if n_heads is not None and n_heads < max(needed, 1):
        raise ConfigError(f"n_heads = {n_heads}, but a layer of the circuit has {needed}")
    n_neurons = max(map(len, plan.neurons.values()), default=0)
    if attn_only and plan.neurons:
        raise ConfigError("attn_only = True, but the circuit has MLPs")
    attn_only = not plan.neurons if attn_only is None else attn_only
    return {
        "n_layers": plan.n_layers,
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
