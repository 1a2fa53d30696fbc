"""The compiler: a declared circuit becomes the weights of an ordinary `HookedTransformer`.

Each head's QK and OV circuits are written down as matrices between coordinates of the stream and factored by SVD,
`A = U S V^T`, through d_head dimensions: W_Q = U S (times sharpness, and times attn_scale, by which the model divides)
and W_K = V; W_V = U and W_O = S V^T. Each kink of the ramps of an MLP is a neuron. Then everything is put into a basis
of the stream.
"""

import math
import random
from collections import Counter
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from circuits.compiler.basis import EPS, Basis, make_basis, width_of
from circuits.compiler.encoding import Encoding
from circuits.compiler.factors import factor_heads, fitting_d_head
from circuits.compiler.hidden import (
    Distract,
    Noise,
    Surroundings,
    distractor_sharpness,
    distractors,
    fill_model,
    free_layers,
    hidden_report,
)
from circuits.compiler.model import CompiledTransformer, CompileReport, Ends, HeadReport
from circuits.compiler.options import Options, Sizes, asked_sizes
from circuits.compiler.plan import Plan, make_plan, settle_layers, settle_places
from circuits.compiler.positions import OneHot, PositionCode, Rotary, position_code
from circuits.compiler.sharpness import COARSE, check_resolution, choose_sharpness, warn_of_rounding
from circuits.compiler.trial import Tried, run_trial, squared_length
from circuits.compiler.weights import write_model
from circuits.language import Declaration, Head, Interpreter, Layout, Number, Space, check_alive, cut
from interp.config import TransformerConfig
from interp.errors import ConfigError
from interp.keywords import known_keywords
from interp.model import HookedTransformer

HALF = (torch.float16, torch.bfloat16)


@known_keywords
def compile_circuit(
    circuit: Declaration,
    *,
    d_head: int | None = None,
    d_model: int | None = None,
    n_heads: int | None = None,
    d_mlp: int | None = None,
    n_layers: int | None = None,
    layers: list[int] | tuple[int, ...] | None = None,
    like: TransformerConfig | HookedTransformer | None = None,
    fill: Noise | None = None,
    distract: Distract | None = None,
    slack: Number = 0.0,
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
        d_model: width of the stream; by default as wide as the circuit needs, and twice that with `fill`.
        n_heads: heads a layer; by default as many as the fullest layer has.
        d_mlp: neurons a layer; by default as many as the fullest layer has.
        n_layers: layers; by default as many as the circuit has.
        layers: in which layer of the model each layer of the circuit lies, ascending. By default they are spread evenly
            over a model that is deeper than the circuit.
        like: a model, or its config, whose sizes are taken where none are given: d_head, d_model, n_heads, d_mlp,
            n_layers.
        fill: random weights in all that the circuit leaves free; see `Noise`. The heads of a layer, and its neurons,
            are put in a random order.
        distract: heads that do something else; see `Distract`. The heads of a layer are put in a random order.
        slack: how much of each step of a table is a straight line, so that gradients flow through MLPs; below 1. What
            is exact stays exact, but that share of small errors is no longer erased; see `kinks`.
        rotate: seed of a random orthogonal basis for the spaces; by default each coordinate is a dimension.
        compress: allow a `d_model` below what the circuit needs. Directions then overlap and nothing is promised; the
            model's `report` has the largest overlap, and `verify` measures what is left.
        positions: a position code or its name: "onehot", "quadratic", "circle", "sinusoidal", "rotary".
        norm: read through a norm ("LN" or "RMS") that the ballast makes nearly constant; see `Basis`.
        ballast: the C of the stream [x, -x, C, -C]. The larger, the less the norm changes, and the more float32 rounds.
        error: share of attention that may go astray, below a half, for heads whose sharpness is not declared.
        attn_scale: what the model divides scores by; by default sqrt(d_head).
        attn_only: False gives every block an MLP, also where the circuit needs none.
        dtype: of the parameters; all of them are computed in float64. Where its rounding may matter, as it always may
            in half precision, and where slack or leaking noise may, the model is tried on texts of every word and
            position before it is returned.

    Raises:
        ConfigError: a circuit with a source; a space is read that nothing earlier writes; scores or weights that
            `dtype` cannot hold, or a trial in which a prediction or a pattern changes; a term that the position code
            cannot write; heads, neurons or layers that are more than there is room for; an option out of range.
        RankError: a head's circuit has a higher rank than `d_head`, or the spaces are more than `d_model`.

    >>> from circuits.gallery import entry
    >>> compile_circuit(entry("previous_token").build(), d_model=64).cfg.d_model
    64
    """
    if circuit.source is not None:
        raise ConfigError(f"{circuit!r} has a source, and this compiles one stack; say compile_pair")
    options = Options(
        sizes=asked_sizes(
            like, attn_only, d_head=d_head, d_model=d_model, n_heads=n_heads, d_mlp=d_mlp, n_layers=n_layers
        ),
        layers=layers,
        fill=fill,
        distract=distract,
        slack=slack,
        rotate=rotate,
        compress=compress,
        code=position_code(positions),
        norm=norm,
        ballast=ballast,
        error=error,
        attn_scale=attn_scale,
        dtype=dtype,
    )
    options.check()
    layout = Layout(circuit, also=also_needed(circuit, options))
    check_alive(layout)
    stack = compile_stack(layout, options)
    loosened = ("slack", slack and stack.model.plan.tables), ("leak", fill and fill.leak)
    soft = [f"a smaller {name}=" for name, on in loosened if on]
    if (advice := doubt(stack, soft)) and not compress:
        twin = compile_circuit(circuit, positions=stack.model.plan.encoding.code, error=error, dtype=torch.float64)
        run_trial(Tried(stack.model, twin, stack.basis), advice)
    stack.warn()
    return stack.model


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack of layers that was compiled.

    Attributes:
        model: the stack as a model.
        basis: the directions of its stream.
        interpreter: that of the circuit.
        chosen: for each head, the factor on its scores, and the largest score that comes of it.
        options: what it was compiled with.
    """

    model: CompiledTransformer
    basis: Basis
    interpreter: Interpreter
    chosen: dict[str, tuple[float, float]]
    options: Options

    def warn(self) -> None:
        """Say which heads have scores that the dtype resolves to coarse steps."""
        for name, (_, largest) in self.chosen.items():
            warn_of_rounding(name, largest, self.options.dtype)


def compile_stack(layout: Layout, options: Options, source: Stack | None = None) -> Stack:
    """One stack of layers, whose circuit is laid out; `source` is the stack that its cross heads read."""
    circuit, interpreter = layout.declaration, Interpreter(layout)
    memory = None if source is None else source.model.plan.encoding
    plan, d_head = _plan(layout, options, memory)
    basis = make_basis(
        plan.encoding.sizes,
        options.sizes.d_model,
        options.rotate,
        options.compress,
        options.norm,
        float(options.ballast),
        plan.encoding.size if options.fill else 0,
    )
    cfg = TransformerConfig(
        **_sizes(plan, options.sizes),
        **_positions(plan.encoding.code),
        n_ctx=circuit.n_ctx,
        d_vocab=circuit.vocabulary.d_vocab,
        d_vocab_out=circuit.vocabulary.d_vocab if layout.reader is None else 0,  # a source predicts no words
        d_memory=0 if source is None else source.basis.d_model,
        d_head=d_head,
        d_model=basis.d_model,
        act_fn="relu",
        normalization_type=options.norm,
        eps=EPS,
        attention_dir=circuit.attention_dir,
        attn_scale=math.sqrt(d_head) if options.attn_scale is None else float(options.attn_scale),
        tie_word_embeddings=options.norm is None and options.fill is None and _ties(layout, plan.encoding),
        dtype=options.dtype,
    )
    chosen = {
        head.name: choose_sharpness(head, plan.encoding, circuit.attention_dir, float(options.error), memory)
        for head in circuit.heads
    }
    for name, (_, largest) in chosen.items():
        check_resolution(name, largest, options.dtype)
    model = CompiledTransformer(cfg, circuit.vocabulary, init_weights=False)
    model.circuit, model.plan = copy(circuit), plan  # what is declared from now on is not in the model
    model.ends = _ends(plan, basis, interpreter)
    model.report = CompileReport(
        heads=_head_reports(plan, chosen),
        n_coordinates=plan.encoding.size,
        interference=basis.interference,
        nothing_below=tuple(interpreter.nothing_below.tolist()),
        error=float(options.error),
        hidden=hidden_report(plan, basis, cfg, options.fill),
    )
    stack = Stack(model, basis, interpreter, chosen, options)
    _write(stack, None if source is None else source.basis)
    return stack


def _write(stack: Stack, memory: Basis | None) -> None:
    """Write all weights. Raises `ConfigError` for those that the dtype cannot hold."""
    model, fill = stack.model, stack.options.fill
    sharp = {name: factor for name, (factor, _) in stack.chosen.items()}
    for one in model.plan.distractors:
        sharp[one.head.name] = distractor_sharpness(one.head, model.plan.encoding)
    with torch.no_grad():
        write_model(model, model.plan, sharp, stack.basis, memory)
    if fill is not None:
        fill_model(model, stack.basis, fill)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            dtype = model.cfg.dtype
            raise ConfigError(f"{name} has entries that {dtype} cannot hold; use torch.float64, or smaller numbers")


def _ends(plan: Plan, basis: Basis, interpreter: Interpreter) -> Ends:
    """What is read and written at the ends of the model, beside words."""
    return Ends(
        readouts={name: basis.reads(read) for name, read in plan.readouts.items()},
        thresholds={name: interpreter.thresholds[name] for name in plan.readouts},
        vectors={name: basis.writes(written) for name, written in plan.vectors.items()},
    )


def doubt(stack: Stack, soft: list[str]) -> str:
    """What to do where a trial fails; empty where none is needed.

    One is needed with `soft` options, where the dtype resolves scores to coarse steps, and where what the circuit
    writes is so long that the norm bends.
    """
    dtype, norm, ballast = stack.options.dtype, stack.options.norm, float(stack.options.ballast)
    eps, largest = torch.finfo(dtype).eps, max([1.0, *(score for _, score in stack.chosen.values())])
    steps = [eps * max(score, sharp * ballast if norm else 0) for sharp, score in stack.chosen.values()]
    coarse = dtype in HALF or max(steps, default=0) > COARSE
    length = 0.0 if norm is None else squared_length(stack.model.plan.encoding, stack.interpreter)
    bent = largest * length / (2 * ballast**2) > COARSE
    return _advice(dtype, norm, soft, coarse, bent) if coarse or soft or bent else ""


def _advice(dtype: torch.dtype, norm: str | None, soft: list[str], coarse: bool, bent: bool) -> str:
    """What to do where a trial fails, by why it was made: `soft` options, coarse rounding, or a norm that bends."""
    finer = "torch.float32 or torch.float64" if dtype in HALF else "torch.float64"
    smaller = ["a smaller ballast="] * (norm is not None and not bent)
    ways = [*soft, *["a larger ballast=", "a position code with smaller numbers"] * bent]
    if coarse:
        ways += [f"dtype={finer}", *smaller, "a position code with smaller scores", "a lower sharp="]
    elif soft:
        ways.append("a smaller error=")
    *others, last = ways
    return f"use {', '.join([*others, f'or {last}'])}"


def also_needed(circuit: Declaration, options: Options) -> list[Space]:
    """Spaces that are needed although no part of the circuit may use them."""
    if options.distract is not None:
        return [circuit.tok, circuit.pos, circuit.one]
    return [] if isinstance(options.code, OneHot) else [circuit.one]


def _ties(layout: Layout, encoding: Encoding) -> bool:
    """Whether the unembedding is the embedding, transposed: words write `tok`, predictions read `tok`, and no more."""
    circuit = layout.declaration
    if layout.reader is not None:
        return False
    embedded = {name for name in circuit.embeddings if name in encoding.slices}
    return circuit.out is circuit.tok and not circuit.directs and embedded == {circuit.tok.name}


def _plan(layout: Layout, options: Options, source: Encoding | None) -> tuple[Plan, int]:
    """Everything in coordinates, and d_head. `source` is the encoding of what cross heads read."""
    circuit, sizes, fill, distract = layout.declaration, options.sizes, options.fill, options.distract
    placed, n_layers = settle_layers(circuit, sizes.n_layers, options.layers)
    encoding, heads = factor_heads(circuit.heads, layout.spaces, circuit.n_ctx, options.code, sizes.d_head, source)
    d_head, spaces, others = fitting_d_head(heads, encoding, sizes.d_head, source), list[Space](), list[Head]()
    if distract is not None:
        room = None if sizes.d_model is None else width_of(sizes.d_model, options.norm) - encoding.size
        among = Surroundings(circuit, layout.spaces, encoding.code, d_head, room)
        busy = Counter(placed[head.layer] for head in circuit.heads)
        spaces, others = distractors(among, distract, free_layers(distract, n_layers, sizes.n_heads, busy))
        encoding, heads = factor_heads(
            [*circuit.heads, *others], [*layout.spaces, *spaces], circuit.n_ctx, encoding.code, d_head
        )
    seed = fill.seed if fill is not None else distract.seed if distract is not None else None
    shuffle = None if seed is None else random.Random(seed)
    places, n_heads = settle_places(circuit, others, placed, sizes.n_heads, shuffle)
    n = len(circuit.heads)
    plan = make_plan(layout, encoding, heads[:n], heads[n:], places, placed, n_layers, n_heads, float(options.slack))
    return plan, d_head


def _head_reports(plan: Plan, chosen: dict[str, tuple[float, float]]) -> dict[str, HeadReport]:
    """What is reported of each head."""
    reports: dict[str, HeadReport] = {}
    for one in plan.heads:
        place = plan.places[one.head.name]
        reports[one.head.name] = HeadReport(
            place.layer, place.index or 0, *chosen[one.head.name], one.qk_rank, one.ov_rank, one.head.cross
        )
    return reports


def _sizes(plan: Plan, sizes: Sizes) -> dict[str, Any]:
    """The sizes of layers among the fields of the config.

    Raises `ConfigError`, naming the tables, for too few neurons.
    """
    fullest = max(plan.neurons, key=lambda layer: len(plan.neurons[layer]), default=None)
    needed = 0 if fullest is None else len(plan.neurons[fullest])
    if sizes.attn_only and (plan.neurons or sizes.d_mlp):
        named = f"the circuit has MLPs: {cut(', '.join(map(repr, plan.tables)), 200)}"
        raise ConfigError(f"attn_only = True, but {named if plan.neurons else f'd_mlp = {sizes.d_mlp}'}")
    if sizes.d_mlp is not None and sizes.d_mlp < needed:
        in_layer = [name for name in plan.tables if plan.places[name].layer == fullest]
        each = ", ".join(f"{name!r} {len(plan.tables[name])}" for name in in_layer)
        raise ConfigError(f"d_mlp = {sizes.d_mlp}, but layer {fullest} needs {needed} neurons ({cut(each, 200)})")
    attn_only = not (plan.neurons or sizes.d_mlp) if sizes.attn_only is None else sizes.attn_only
    return {
        "n_layers": plan.n_layers,
        "n_heads": plan.n_heads,
        "attn_only": attn_only,
        "d_mlp": 0 if attn_only else sizes.d_mlp or max(needed, 1),
    }


def _positions(code: PositionCode) -> dict[str, Any]:
    """The fields of the config for positions."""
    if isinstance(code, Rotary):
        return {"positional_embedding_type": "rotary", "rotary_dim": code.rotary_dim, "rotary_base": float(code.base)}
    return {"positional_embedding_type": "standard"}
