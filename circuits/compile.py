"""The compiler: a declared circuit becomes the weights of an ordinary `HookedTransformer`.

Each head's QK and OV circuits are written down as matrices between coordinates of the stream and factored by SVD,
`A = U S V^T`, through d_head dimensions: W_Q = U S (times sharpness, and times attn_scale, by which the model divides)
and W_K = V; W_V = U and W_O = S V^T. Each ramp of an MLP is two ReLUs. Then everything is put into a basis of the
stream.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.basis import EPS, Basis, make_basis
from circuits.circuit import Circuit
from circuits.encoding import ONE, Encoding
from circuits.forms import Term
from circuits.interpret import attend, decode, in_words, visible_keys
from circuits.parts import Head, Neurons, Ramp
from circuits.positions import OneHot, PositionCode, Rotary, position_code
from circuits.sharpness import sharpness_for_gap, sharpness_for_scores
from circuits.space import Number
from interp.config import TransformerConfig
from interp.errors import ConfigError, RankError
from interp.model import HookedTransformer
from interp.tokens import Text

LARGE_SCORES = 1e4
"""Scores above this, in float32, are worth a warning: rounding begins to show in the pattern (1e-3)."""


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
        layer, index: where it is in the model.
        sharp: the factor on its scores.
        largest_score: what they reach, or a bound on it.
        qk_rank, ov_rank: dimensions of the head that its circuits use.
    """

    layer: int
    index: int
    sharp: float
    largest_score: float
    qk_rank: int
    ov_rank: int


@dataclass(frozen=True)
class CompileReport:
    """What the compiler chose.

    Attributes:
        heads: by name.
        n_coordinates: the size of the stream that the circuit needs, before norm, rotation or compression.
        interference: the largest overlap of two coordinates; 0 unless compressed. What it does to the circuit's
            accuracy, `verify` tells.
        nothing_below: logits that stay below this predict nothing.
    """

    heads: dict[str, HeadReport]
    n_coordinates: int
    interference: float
    nothing_below: float


class CompiledTransformer(HookedTransformer):
    """A `HookedTransformer` that knows which circuit it was compiled from. Saved, it is a plain checkpoint."""

    circuit: Circuit
    report: CompileReport

    @torch.no_grad()
    def predict(self, text: Text | Tensor) -> list[Any]:
        """For each position a word, or None where there is nothing to predict; a list of such lists for several texts.

        Several texts have equally many words. Raises `TokenError` as `Circuit.tokens` does.
        """
        tokens = self.circuit.tokens(text if isinstance(text, str | Tensor) else list(text)).to(self.W_E.device)
        logits = self(tokens)
        assert isinstance(logits, Tensor)
        words = in_words(decode(logits, self.report.nothing_below), self.circuit.vocabulary.words)
        single = isinstance(text, str) or (isinstance(text, Tensor) and text.ndim == 1)
        return words[0] if single else words


def compile_circuit(
    circuit: Circuit,
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
        error: share of attention that may go astray, for heads whose sharpness is not declared.
        attn_scale: what the model divides scores by; by default sqrt(d_head).
        attn_only: False gives every block an MLP, also where the circuit needs none.
        dtype: of the parameters; all of them are computed in float64.

    Raises:
        ConfigError: a space is read that nothing earlier writes; scores that `dtype` cannot hold; a term that the
            position code cannot write; an option out of range.
        RankError: a head's circuit has a higher rank than `d_head`, or the spaces are more than `d_model`.
    """
    if not 0 < error < 1:
        raise ConfigError(f"error = {error}; allowed: between 0 and 1")
    code = position_code(positions)
    layout = circuit.layout(also=() if isinstance(code, OneHot) else (circuit.one,))
    encoding = Encoding(layout, code)
    factored = {part.name: _factor(part, encoding) for part in circuit.parts if isinstance(part, Head)}
    d_head, rotary_dim = _widths(factored.values(), encoding, d_head)
    in_layers = [[head for head in factored.values() if head.head.layer == layer] for layer in range(_depth(circuit))]
    basis = make_basis(encoding.size, d_model, rotate, compress, norm, float(ballast))
    cfg = _config(circuit, in_layers, basis, d_head, n_heads, rotary_dim, norm, attn_scale, attn_only, dtype, encoding)
    heads = {
        one.head.name: _report(one, encoding, rotary_dim, index, float(error), dtype)
        for layer in in_layers
        for index, one in enumerate(layer)
    }
    model = CompiledTransformer(cfg, circuit.vocabulary, init_weights=False)
    model.circuit = circuit
    model.report = CompileReport(heads, encoding.size, basis.interference, layout.nothing_below())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(basis.gain if name.endswith(".w") else 0.0)
        _write_ends(model, encoding, basis)
        for one in factored.values():
            _write_head(model, one, heads[one.head.name], encoding, basis, rotary_dim)
        for layer, block in enumerate(model.blocks if not cfg.attn_only else ()):
            _write_neurons(block.mlp, _ramps(circuit, layer), encoding, basis)
    return model


# ---------------------------------------------------------------------- factors, ranks, sizes


@dataclass(frozen=True, eq=False)
class Factored:
    """A head's circuits between coordinates, as products of thin matrices.

    Attributes:
        head: the declaration.
        query, key: their product is the QK circuit, before sharpening; what a rotary code turns is left out.
        value, output: their product is the OV circuit.
        turned: the terms that a rotary code writes.
    """

    head: Head
    query: Float[Tensor, "size qk_rank"]
    key: Float[Tensor, "size qk_rank"]
    value: Float[Tensor, "size ov_rank"]
    output: Float[Tensor, "ov_rank size"]
    turned: tuple[Term, ...]


def _factor(head: Head, encoding: Encoding) -> Factored:
    own = [term for term in head.scores.terms if encoding.own_shift(term)]
    if own and not _by_position(head):
        raise ConfigError(
            f"head {head.name!r}: in the position code {encoding.code.name!r} {own[0].name} scores every distance "
            "differently, so it cannot share a head with other matches; use 'onehot' or a head of its own"
        )
    nothing = torch.zeros(encoding.size, encoding.size, dtype=torch.float64)
    qk = sum((encoding.matched(term, head.name) for term in head.scores.terms), nothing)
    query, key = _split(qk)
    output, value = _split(encoding.copied(head.ov, head.name).T)
    return Factored(head, query, key, value, output.T, () if encoding.code.in_stream else tuple(own))


def _split(matrix: Float[Tensor, "rows columns"]) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "columns rank"]]:
    """U S and V of the singular value decomposition, of what is not zero."""
    rows, columns = matrix.any(dim=1).nonzero()[:, 0], matrix.any(dim=0).nonzero()[:, 0]
    U, S, Vh = torch.linalg.svd(matrix[rows][:, columns], full_matrices=False)
    rank = int((S / S.amax() > 1e-10).sum()) if len(S) else 0
    left = torch.zeros(matrix.shape[0], rank, dtype=torch.float64)
    right = torch.zeros(matrix.shape[1], rank, dtype=torch.float64)
    left[rows], right[columns] = U[:, :rank] * S[:rank], Vh[:rank].T
    return left, right


def _by_position(head: Head) -> bool:
    """Whether the scores depend on positions alone (the sink is one: the start of the text is position 0)."""
    return all(
        (term.rows.name in ("one", "pos") and term.columns.name == "pos") or term.name == "sink"
        for term in head.scores.terms
    )


def _widths(heads: Iterable[Factored], encoding: Encoding, d_head: int | None) -> tuple[int, int | None]:
    """d_head and rotary_dim. Raises `RankError` naming head and terms if they are too small."""
    heads = list(heads)
    qk = max((one.query.shape[1] for one in heads), default=0)
    ov = max((one.value.shape[1] for one in heads), default=0)
    rotary_dim = None
    if isinstance(encoding.code, Rotary):
        room = 64 if d_head is None else max(2, (d_head - qk) // 2 * 2)
        rotary_dim = encoding.code.rotary_dim or room
    if d_head is None:
        return max(qk + (rotary_dim or 0), ov, 1), rotary_dim
    for one in heads:
        needs = one.query.shape[1] + (rotary_dim or 0)
        if needs > d_head:
            terms = [
                (term.name, _split(encoding.matched(term, ""))[0].shape[1])
                for term in one.head.scores.terms
                if term not in one.turned
            ]
            raise _rank_error(
                one.head, "QK", needs, d_head, terms + ([("rotary positions", rotary_dim)] if rotary_dim else [])
            )
        if one.value.shape[1] > d_head:
            terms = [(term.name, _split(term.matrix)[0].shape[1]) for term in one.head.ov.terms]
            raise _rank_error(one.head, "OV", one.value.shape[1], d_head, terms)
    return d_head, rotary_dim


def _rank_error(head: Head, circuit: str, needs: int, d_head: int, terms: list[tuple[str, int]]) -> RankError:
    ranks = ", ".join(f"{name}: rank {rank}" for name, rank in terms)
    code = "use a low-rank position code, " if any("pos" in name for name, _ in terms) else ""
    return RankError(
        f"head {head.name!r}: the {circuit} circuit needs d_head >= {needs} but d_head = {d_head} ({ranks}); "
        f"split it over heads, {code}or raise d_head"
    )


def _depth(circuit: Circuit) -> int:
    return 1 + max((part.layer for part in circuit.parts), default=-1)


def _ramps(circuit: Circuit, layer: int) -> list[Ramp]:
    return [ramp for part in circuit.parts if isinstance(part, Neurons) and part.layer == layer for ramp in part.ramps]


def _config(
    circuit: Circuit,
    in_layers: list[list[Factored]],
    basis: Basis,
    d_head: int,
    n_heads: int | None,
    rotary_dim: int | None,
    norm: Literal["LN", "RMS"] | None,
    attn_scale: Number | None,
    attn_only: bool | None,
    dtype: torch.dtype,
    encoding: Encoding,
) -> TransformerConfig:
    needed = max(1, *(len(layer) for layer in in_layers), 1)
    if n_heads is not None and n_heads < needed:
        raise ConfigError(f"n_heads = {n_heads}, but a layer of the circuit has {needed}")
    n_neurons = max((2 * len(_ramps(circuit, layer)) for layer in range(len(in_layers))), default=0)
    attn_only = n_neurons == 0 if attn_only is None else attn_only
    if attn_only and n_neurons:
        raise ConfigError("attn_only = True, but the circuit has MLPs")
    code = encoding.code
    tied = circuit.out is circuit.tok and "one" not in encoding.slices and norm is None
    return TransformerConfig(
        n_layers=len(in_layers),
        d_model=basis.write.shape[1],
        n_ctx=circuit.n_ctx,
        d_vocab=circuit.vocabulary.d_vocab,
        n_heads=n_heads or needed,
        d_head=d_head,
        attn_only=attn_only,
        d_mlp=0 if attn_only else max(n_neurons, 1),
        act_fn="relu",
        normalization_type=norm,
        eps=EPS,
        positional_embedding_type="standard" if code.in_stream else "rotary",
        rotary_dim=rotary_dim,
        rotary_base=code.base if isinstance(code, Rotary) else None,
        attention_dir=circuit.attention_dir,
        attn_scale=math.sqrt(d_head) if attn_scale is None else float(attn_scale),
        tie_word_embeddings=tied,
        dtype=dtype,
    )


# ---------------------------------------------------------------------- sharpness


def _report(
    one: Factored, encoding: Encoding, rotary_dim: int | None, index: int, error: float, dtype: torch.dtype
) -> HeadReport:
    head = one.head
    if head.scores.terms and _by_position(head):
        scores = _position_scores(head, encoding, rotary_dim)
        sharp, reach = _sharpness_by_position(head, scores, encoding, error), float(scores.abs().max())
    else:
        sharp = head.sharp or _sharpness_by_gap(head, encoding.n_ctx, error)
        reach = sum(float(term.weighted.abs().max()) for term in head.scores.terms)
    _check_resolution(head.name, sharp * reach, dtype)
    return HeadReport(head.layer, index, sharp, sharp * reach, one.query.shape[1], one.value.shape[1])


def _sharpness_by_gap(head: Head, n_keys: int, error: float) -> float:
    if not head.scores.terms:
        return 1.0
    if head.gap is None:
        raise ConfigError(f"head {head.name!r}: the gap between its scores is not known; declare gap= or sharp=")
    return sharpness_for_gap(head.gap, n_keys, error)


def _position_scores(head: Head, encoding: Encoding, rotary_dim: int | None) -> Float[Tensor, "query_pos key_pos"]:
    """What a head that matches positions alone scores, as its position code has it."""
    n, code = encoding.n_ctx, encoding.code
    scores = torch.zeros(n, n, dtype=torch.float64)
    for term in head.scores.terms:
        if encoding.own_shift(term):
            by = term.shift or 0
            if isinstance(code, Rotary) and rotary_dim:
                scores += term.weight * code.turned_scores(by, n, rotary_dim)
            else:
                scores += term.weight * code.scores(by, n)
        elif term.name == "sink":
            scores[:, 0] += term.weight
        else:
            scores += term.weighted
    return scores


def _sharpness_by_position(
    head: Head, scores: Float[Tensor, "query_pos key_pos"], encoding: Encoding, error: float
) -> float:
    visible = visible_keys(encoding.layout.circuit.attention_dir, encoding.n_ctx)
    declared = torch.zeros_like(scores)
    for term in head.qk.terms:
        if term.name == "sink":
            declared[:, 0] += term.weight
        else:
            declared += term.weighted
    sharp = sharpness_for_scores(scores, attend(declared, visible, head.ties) > 0, visible, error)
    if sharp is None:
        raise ConfigError(
            f"head {head.name!r}: in the position code {encoding.code.name!r} its best key is not the declared one "
            "for every query"
        )
    return head.sharp or sharp


def _check_resolution(name: str, largest: float, dtype: torch.dtype) -> None:
    step = largest * torch.finfo(dtype).eps
    if not step <= 1:
        raise ConfigError(
            f"head {name!r}: scores reach {largest:.3g}, where {dtype} resolves steps of {step:.2g} only; use "
            "dtype=torch.float64, a position code with smaller scores, or a lower sharp="
        )
    if step > LARGE_SCORES * torch.finfo(torch.float32).eps:
        warnings.warn(
            f"head {name!r}: scores reach {largest:.3g} in {dtype}; weights of its pattern are exact to {step:.1g}",
            stacklevel=4,
        )


# ---------------------------------------------------------------------- weights


def _write_ends(model: HookedTransformer, encoding: Encoding, basis: Basis) -> None:
    layout = encoding.layout
    model.embed.W_E.copy_(encoding.written(layout.embedding) @ basis.write + basis.constant)
    if encoding.code.in_stream:
        model.pos_embed.W_pos.copy_(encoding.written(layout.positions) @ basis.write)
    if not model.cfg.tie_word_embeddings:
        model.unembed.W_U.copy_(basis.read @ encoding.read(layout.unembedding, "the unembedding"))


def _write_head(
    model: HookedTransformer,
    one: Factored,
    report: HeadReport,
    encoding: Encoding,
    basis: Basis,
    rotary_dim: int | None,
) -> None:
    attn, head = model.blocks[report.layer].attn, report.index
    factor, first = report.sharp * model.cfg.attn_scale, rotary_dim or 0
    attn.W_Q[head, :, first : first + report.qk_rank] = (basis.read @ one.query * factor).to(attn.W_Q.dtype)
    attn.W_K[head, :, first : first + report.qk_rank] = (basis.read @ one.key).to(attn.W_K.dtype)
    attn.W_V[head, :, : report.ov_rank] = (basis.read @ one.value).to(attn.W_V.dtype)
    attn.W_O[head, : report.ov_rank] = (one.output @ basis.write).to(attn.W_O.dtype)
    if isinstance(encoding.code, Rotary) and rotary_dim and one.turned:
        constant = basis.read[:, encoding.slices[ONE].start]
        pairs = [(term.weight, *encoding.code.query_and_key(term.shift or 0, rotary_dim)) for term in one.turned]
        query = torch.stack([weight * q for weight, q, _ in pairs]).sum(0)
        attn.W_Q[head, :, :first] = torch.outer(constant, query * factor).to(attn.W_Q.dtype)
        attn.W_K[head, :, :first] = torch.outer(constant, pairs[0][2]).to(attn.W_K.dtype)


def _write_neurons(mlp: Any, ramps: list[Ramp], encoding: Encoding, basis: Basis) -> None:
    """`(relu(u - low) - relu(u - high)) / (high - low)`: one neuron rises at `low`, one takes over at `high`."""
    if not ramps:
        return
    layout, n = encoding.layout, len(ramps)
    reads = basis.read @ encoding.read(layout.vectors(ramp.reads for ramp in ramps).T, "an MLP's read of 'pos'")
    writes = encoding.written(layout.vectors(ramp.writes for ramp in ramps)) @ basis.write
    low = torch.tensor([ramp.low for ramp in ramps], dtype=torch.float64)
    rise = torch.tensor([ramp.high for ramp in ramps], dtype=torch.float64) - low
    for first, start, sign in ((0, low / rise, 1), (n, low / rise + 1, -1)):
        mlp.W_in[:, first : first + n] = (reads / rise).to(mlp.W_in.dtype)
        mlp.b_in[first : first + n] = -start.to(mlp.b_in.dtype)
        mlp.W_out[first : first + n] = (sign * writes).to(mlp.W_out.dtype)
