"""The top entries of a matrix that is too large to hold: it is made a block of rows at a time."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.budget import BLOCK_BYTES, check_bytes, portions
from interp.errors import RangeError, ShapeError, check_choice
from interp.factored import FactoredMatrix
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.model import HookedTransformer
from interp.precision import at_least_float32, without_autocast
from interp.progress import shown
from interp.text import token_strings


@dataclass(frozen=True, eq=False)
class TopEntries:
    """The top entries of a matrix, the first of them the largest (or the smallest, or the farthest from 0).

    Attributes:
        values: [top_k], or [rows, top_k] where they are those of each row.
        rows, columns: where the entries stand in the matrix, of the same shape.
    """

    values: Float[Tensor, "*rows top_k"]
    rows: Int[Tensor, "*rows top_k"]
    columns: Int[Tensor, "*rows top_k"]

    def named(self, model: HookedTransformer) -> list[tuple[str, str, float]]:
        """Row, column and value of each entry of a matrix over the vocabulary, its tokens as strings.

        Columns are numbers where the model's logits are of other things than tokens.
        """
        rows = token_strings(model.tokenizer, self.rows.flatten().tolist())
        columns = token_strings(model.output_tokenizer, self.columns.flatten().tolist())
        return list(zip(rows, columns, self.values.flatten().tolist(), strict=True))


@torch.no_grad()
@without_autocast()
@known_keywords
def top_entries(
    matrix: FactoredMatrix,
    top_k: int = 10,
    by: Literal["largest", "smallest", "magnitude"] = "largest",
    *,
    per_row: bool = False,
    max_bytes: int = BLOCK_BYTES,
    progress: bool = True,
) -> TopEntries:
    """The top entries of a matrix that is never held: blocks of rows are multiplied out, and their top entries kept.

    Args:
        matrix: [rows, columns], such as `ov_circuit(model, 5, 1)`.
        top_k: how many entries; of equal ones any may be kept.
        by: the largest, the smallest, or those farthest from 0.
        per_row: those of each row, instead of the whole matrix.
        max_bytes: how much of the matrix is held at a time, one row at least; the entries kept do not depend on it.
        progress: show a progress bar on a terminal.

    Raises:
        ShapeError: a matrix with batch axes.
        ConfigError: more entries than there are, a budget that is none, or another `by`.
        RangeError: a factor has entries that are infinite or not numbers.
    """
    if matrix.ndim != 2:
        raise ShapeError(f"one matrix [rows, columns] is needed, not {list(matrix.shape)}; index it first")
    check_choice("by", by, ("largest", "smallest", "magnitude"))
    n_rows, n_columns = matrix.shape
    most = n_columns if per_row else n_rows * n_columns
    top_k = check_count("top_k", top_k, most)
    A, B = at_least_float32(matrix.A), at_least_float32(matrix.B)
    if not (A.isfinite().all() and B.isfinite().all()):
        raise RangeError("a factor of the matrix has entries that are infinite or not numbers: none is largest")
    A = -A if by == "smallest" else A
    some = portions([n_columns * A.element_size()] * n_rows, check_bytes(max_bytes))
    held = A.new_empty(some[0].stop, n_columns)
    kept = [A.new_empty(0), A.new_empty(0), *torch.empty(2, 0, dtype=torch.long, device=A.device)]
    of_rows: list[tuple[Tensor, Tensor]] = []
    for portion in shown(some, "largest entries", len(some), progress):
        values = torch.mm(A[portion], B, out=held[: portion.stop - portion.start])
        if per_row:
            columns = _key(values, by).topk(top_k, dim=1).indices
            of_rows.append((values.gather(1, columns), columns))
            continue
        extreme = values.amax(dim=1)
        if by == "magnitude":
            extreme = extreme.maximum(-values.amin(dim=1))
        least = kept[0][-1] if len(kept[0]) == top_k else -math.inf
        rows = (extreme > least).nonzero()[:, 0]  # after the first blocks only a few
        top, columns = _key(values[rows], by).topk(min(top_k, n_columns), dim=1)
        new = (top, values[rows].gather(1, columns), (rows + portion.start)[:, None].expand_as(columns), columns)
        kept = [torch.cat([old, one.flatten()]) for old, one in zip(kept, new, strict=True)]
        order = kept[0].topk(min(top_k, len(kept[0]))).indices
        kept = [one[order] for one in kept]
    sign = -1 if by == "smallest" else 1
    if per_row:
        values, columns = (torch.cat(parts) for parts in zip(*of_rows, strict=True))
        return TopEntries(sign * values, torch.arange(n_rows, device=A.device)[:, None].expand_as(columns), columns)
    return TopEntries(sign * kept[1], kept[2], kept[3])


def _key(values: Tensor, by: str) -> Tensor:
    """What is largest in the entries that are kept."""
    return values.abs() if by == "magnitude" else values
