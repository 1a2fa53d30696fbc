"""Small attention-only circuits, written weight by weight: the known answers that analyses are calibrated on.

The stream is a row of named spaces: tok (the token, one-hot), pos (the position, one-hot), one (a constant 1), spaces
of the circuit's own, and out, which alone the unembedding reads. A head is two lists of blocks (from, to, matrix):
those of W_QK, query by key, and those of W_OV, source by destination. With d_head = d_model these need no
factorisation. Token 0 is the beginning of a text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp import HookedTransformer, TransformerConfig

Blocks = list[tuple[str, str, Tensor]]


@dataclass(frozen=True)
class Head:
    qk: Blocks
    ov: Blocks


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def shift(n: int, by: int = 1) -> Tensor:
    """Row i holds a one in column i - by."""
    return torch.diag(torch.ones(n - abs(by), dtype=torch.float64), diagonal=-by)


def build(
    V: int, n_ctx: int, layers: list[list[Head]], own: dict[str, int] | None = None, sharp: float = 200.0
) -> HookedTransformer:
    """The model with these heads: float64, no norms, no biases.

    `own` are the sizes of the circuit's own spaces; `sharp` multiplies all scores.
    """
    sizes = {"tok": V, "pos": n_ctx, "one": 1} | (own or {}) | {"out": V}
    ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
    space = {name: slice(start, end) for name, start, end in zip(sizes, ends, ends[1:], strict=False)}
    d_model = ends[-1]
    cfg = TransformerConfig(
        n_layers=len(layers),
        d_model=d_model,
        n_ctx=n_ctx,
        d_vocab=V,
        n_heads=max(map(len, layers)),
        d_head=d_model,
        attn_only=True,
        normalization_type=None,
        attn_scale=1.0,
        dtype=torch.float64,
    )
    model = HookedTransformer(cfg, init_weights=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, space["tok"]] = eye(V)
        model.pos_embed.W_pos[:, space["pos"]] = eye(n_ctx)
        model.pos_embed.W_pos[:, space["one"]] = 1
        model.unembed.W_U[space["out"]] = eye(V)
        for block, heads in zip(model.blocks, layers, strict=True):
            for i, head in enumerate(heads):
                for source, target, matrix in head.qk:
                    block.attn.W_Q[i, space[source], space[target]] += sharp * matrix
                for source, target, matrix in head.ov:
                    block.attn.W_V[i, space[source], space[target]] += matrix
                block.attn.W_K[i] = block.attn.W_O[i] = eye(d_model)
    return model


def previous_token(V: int, n_ctx: int, target: str) -> Head:
    return Head([("pos", "pos", shift(n_ctx))], [("tok", target, eye(V))])


def sink_and_recency(V: int, n_ctx: int, sink: float, recency: float) -> Blocks:
    """Attention that needs no match: to token 0, and to later positions j more than to earlier ones, as j / n_ctx."""
    to_start = torch.zeros(1, V, dtype=torch.float64)
    to_start[0, 0] = sink
    to_later = recency * torch.arange(n_ctx, dtype=torch.float64)[None] / n_ctx
    return [("one", "tok", to_start), ("one", "pos", to_later)]


def without_start(n: int) -> Tensor:
    """The identity on all labels but the first."""
    kept = eye(n)
    kept[0, 0] = 0
    return kept


def induction(
    V: int, n_ctx: int, sink: float = 0.0, recency: float = 0.0, gain: float = 1.0, sharp: float = 200.0
) -> HookedTransformer:
    """K-composition. With a sink, no match is a zero write; with recency, below the sink, the latest match wins."""
    copied = without_start(V) if sink else eye(V)
    match = [("tok", "prev", eye(V)), *sink_and_recency(V, n_ctx, sink, recency)]
    heads = [[previous_token(V, n_ctx, "prev")], [Head(match, [("tok", "out", gain * copied)])]]
    return build(V, n_ctx, heads, {"prev": V}, sharp)


def pointer(V: int, n_ctx: int, sink: float) -> HookedTransformer:
    """Induction by Q-composition: layer 0 copies where the token stood before, layer 1 looks one further."""
    to_start = sink_and_recency(V, n_ctx, sink, 0.0)
    duplicate = Head(
        [("tok", "tok", eye(V)), ("pos", "pos", -2 * eye(n_ctx)), *to_start], [("pos", "at", without_start(n_ctx))]
    )
    after = Head([("at", "pos", shift(n_ctx, -1)), *to_start], [("tok", "out", without_start(V))])
    return build(V, n_ctx, [[duplicate], [after]], {"at": n_ctx})


def skip_two(V: int, n_ctx: int) -> HookedTransformer:
    """V-composition: two previous-token heads make a virtual one that copies from two positions back."""
    first, second = previous_token(V, n_ctx, "prev"), [("prev", "out", eye(V))]
    return build(V, n_ctx, [[first], [Head(first.qk, second)]], {"prev": V})


def writes(matrix: Tensor, n_ctx: int = 5) -> HookedTransformer:
    """One head that attends to its own position and writes token i as row i of a matrix."""
    V = len(matrix)
    return build(V, n_ctx, [[Head([("pos", "pos", eye(n_ctx))], [("tok", "out", matrix)])]])
