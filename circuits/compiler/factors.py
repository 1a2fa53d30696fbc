"""Factors: the QK and OV circuits of a head as products of thin matrices, and whether they fit d_head."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.compiler.encoding import Encoding
from circuits.compiler.positions import ROTARY_DIM, PositionCode, Rotary
from circuits.compiler.sparse import Sparse, rank_factors
from circuits.language import Head, Space
from interp.errors import RankError


@dataclass(frozen=True, eq=False)
class FactoredHead:
    """A head's circuits between coordinates. Keys and values of a cross head are in those of the source.

    Attributes:
        head: the declaration.
        query, key: their product `query @ key.T` is the QK circuit before sharpening, without what a rotary code
            rotates.
        value, output: their product is the OV circuit, `value @ output.T`.
        rotated: the query and the key that a rotary code makes of the constant 1; empty for other codes.
    """

    head: Head
    query: Sparse
    key: Sparse
    value: Sparse
    output: Sparse
    rotated: tuple[Float[Tensor, "rotary_dim"], ...]

    @property
    def qk_rank(self) -> int:
        """Dimensions of queries and keys that are not rotated."""
        return self.query.shape[1]

    @property
    def ov_rank(self) -> int:
        """Dimensions of values."""
        return self.value.shape[1]


def factor_heads(
    heads: Sequence[Head],
    spaces: Sequence[Space],
    n_ctx: int,
    code: PositionCode,
    d_head: int | None,
    source: Encoding | None = None,
) -> tuple[Encoding, list[FactoredHead]]:
    """Every head, factored, with the encoding of the spaces that was used; `source` is that of what cross heads read.

    A rotary code without a `rotary_dim` gets the dimensions that the widest QK circuit leaves of `d_head`. Raises
    `ConfigError` for a term that the position code cannot write.
    """
    encoding = Encoding(spaces, code, n_ctx)
    factored = [_factor(head, encoding, keys_of(head, encoding, source)) for head in heads]
    if isinstance(code, Rotary) and code.rotary_dim is None:
        taken = max((one.qk_rank for one in factored if not one.head.cross), default=0)
        room = ROTARY_DIM if d_head is None else max(2, (d_head - taken) // 2 * 2)
        return factor_heads(heads, spaces, n_ctx, replace(code, rotary_dim=room), d_head, source)
    return encoding, factored


def keys_of(head: Head, encoding: Encoding, source: Encoding | None) -> Encoding:
    """The encoding of a head's keys: that of the source for a cross head."""
    if not head.cross:
        return encoding
    assert source is not None
    return source


def fitting_d_head(
    heads: Iterable[FactoredHead], encoding: Encoding, d_head: int | None, source: Encoding | None = None
) -> int:
    """The given `d_head`, or the smallest that all heads fit into. Rotary positions turn all heads but cross heads.

    Raises `RankError`, naming the head and its terms, if the given one is too small.
    """
    rotary_dim = encoding.code.rotary_dim or 0 if isinstance(encoding.code, Rotary) else 0
    widest = max(1, rotary_dim)
    for one in heads:
        turned = 0 if one.head.cross else rotary_dim
        needed = {"QK": turned + one.qk_rank, "OV": one.ov_rank}
        widest = max(widest, *needed.values())
        for circuit, needs in needed.items():
            if d_head is not None and needs > d_head:
                keys = keys_of(one.head, encoding, source)
                raise _rank_error(one.head, encoding, keys, circuit, needs, d_head, turned)
    return widest if d_head is None else d_head


def _factor(head: Head, encoding: Encoding, keys: Encoding) -> FactoredHead:
    terms = encoding.terms(head)
    scores = [encoding.matched(term, head.name, keys) for term in terms]
    query, key = rank_factors(Sparse.total(scores, (encoding.size, keys.size)))
    output, value = rank_factors(keys.copied(head.ov, head.name, encoding).T)
    rotated: tuple[Tensor, ...] = ()
    if (
        isinstance(encoding.code, Rotary)
        and not head.cross
        and (own := [term for term in terms if encoding.own_shift(term)])
    ):
        pairs = [(term.weight, *encoding.code.query_and_key(term.shift or 0)) for term in own]
        rotated = torch.stack([weight * q for weight, q, _ in pairs]).sum(0), pairs[0][2]
    return FactoredHead(head, query, key, value, output, rotated)


def _rank_error(
    head: Head, encoding: Encoding, keys: Encoding, circuit: str, needs: int, d_head: int, rotary_dim: int
) -> RankError:
    if circuit == "QK":
        blocks = [(term.name, encoding.matched(term, head.name, keys)) for term in encoding.terms(head)]
    else:
        blocks = [(term.name, keys.by_label(term, encoding)) for term in head.ov.terms]
    ranks = [(name, rank_factors(block)[0].shape[1]) for name, block in blocks if block.any()]
    if circuit == "QK" and rotary_dim:
        ranks.append(("rotary positions", rotary_dim))
    code = "use a low-rank position code, " if any("pos" in name for name, _ in ranks) and not rotary_dim else ""
    return RankError(
        f"head {head.name!r}: the {circuit} circuit needs d_head >= {needs} but d_head = {d_head} "
        f"({', '.join(f'{name}: rank {rank}' for name, rank in ranks)}); split it over heads, {code}or raise d_head"
    )
