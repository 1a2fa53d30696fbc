"""Figures of what the weights alone say: composition, top tokens, eigenvalues, singular directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from interp.errors import ConfigError, RangeError, ShapeError, check_choice, did_you_mean
from interp.factored import FactoredMatrix
from interp.indices import check_count
from interp.model import head_label
from interp.plot.bars import bars
from interp.plot.heatmap import heatmap
from interp.plot.results import check_array
from interp.plot.style import LONGEST_IN_CELL, MODE_BAR, NEGATIVE, POSITIVE, clip, headings
from interp.plot.tables import table
from interp.text import token_names, visible
from interp.weights import TopEntries

if TYPE_CHECKING:
    import plotly.graph_objects
    import xarray

    from interp.model import HookedTransformer

PAIRS = ("writer_layer", "writer_head", "reader_layer", "reader_head")


def composition(
    scores: xarray.DataArray, kind: Literal["Q", "K", "V"] | None = None, *, title: str | None = None
) -> plotly.graph_objects.Figure:
    """How much each head writes that each later head can read: writers down, readers across, other pairs blank.

    Args:
        scores: from `weights.composition_scores`; some layers of it, `scores.sel(reader_layer=[5])`, are a closer look.
        kind: "Q", "K" or "V", where the scores are of several kinds.
        title: by default the kind and the definition.

    Raises `ConfigError` for a kind that is not there, `ShapeError` for other axes than pairs of heads.
    """
    check_array(scores, "weights.composition_scores returns")
    if "kind" in scores.coords:
        kinds = [str(one) for one in np.atleast_1d(scores["kind"].to_numpy())]
        if kind not in kinds and not (kind is None and len(kinds) == 1):
            raise ConfigError(f"kind = {kind!r}; allowed: {', '.join(kinds)}{did_you_mean(str(kind), kinds)}")
        scores = scores.isel(kind=0 if kind is None else kinds.index(kind)) if "kind" in scores.dims else scores
    kind = scores["kind"].item() if "kind" in scores.coords else kind
    if set(scores.dims) != set(PAIRS):
        raise ShapeError(f"composition scores have the axes {PAIRS}, not {scores.dims}; keep an axis with [i], not i")
    scores = scores.transpose(*PAIRS)
    sides = [
        [
            head_label(layer, head)
            for layer in scores[f"{side}_layer"].to_numpy().tolist()
            for head in scores[f"{side}_head"].to_numpy().tolist()
        ]
        for side in ("writer", "reader")
    ]
    if title is None:
        said = str(scores.attrs.get("definition", ""))
        said += "; norms' gains folded into the weights" if scores.attrs.get("fold_norms") else ""
        title = (f"{kind}-composition" if kind else "Composition") + f"\n{said}"
    return heatmap(
        scores.to_numpy().reshape(len(sides[0]), len(sides[1])),
        *sides,
        title=title,
        x="reader",
        y="writer",
        value=str(scores.name or "composition"),
        row_names=[f"{side} writes" for side in sides[0]],
        column_names=[f"{side} reads" for side in sides[1]],
    )


COLUMNS = {"OV": ("attended to", "logit of"), "QK": ("query", "key"), None: ("row", "column")}


def token_table(
    entries: TopEntries,
    model: HookedTransformer,
    circuit: Literal["OV", "QK"] | None = None,
    *,
    rows: Sequence[int] | Int[Tensor, " row"] | None = None,
    title: str = "",
) -> plotly.graph_objects.Figure:
    """The most extreme entries of a circuit over the vocabulary, with their tokens.

    Entries of the whole matrix are listed, one a line. Entries of each row (`top_entries(..., per_row=True)`) are a
    line a row, best first, with the tokens written into the cells.

    Args:
        entries: from `top_entries`.
        model: whose tokens they are.
        circuit: "OV" or "QK", which says what rows and columns are.
        rows: the token ids of the matrix's rows, where these are some of the vocabulary: `ov_circuit(...)[ids]`.
        title: above the figure.

    Raises `ConfigError` for other entries or another circuit, `ShapeError` for fewer `rows` than the entries have.
    """
    if circuit is not None:
        check_choice("circuit", circuit, ("OV", "QK"))
    if not isinstance(entries, TopEntries):
        raise ConfigError(f"this draws what weights.top_entries returns, not {type(entries).__name__}")
    row, column = COLUMNS[circuit]
    named = model.tokenizer if circuit == "QK" else model.output_tokenizer
    at = entries.rows
    if rows is not None:
        ids = torch.as_tensor(rows)
        if ids.ndim != 1 or int(at.max()) >= len(ids):
            raise ShapeError(
                f"rows of shape {tuple(ids.shape)} for entries of {int(at.max()) + 1} rows; allowed: [row]"
            )
        at = ids.to(at.device)[at]
    values = entries.values.detach().float().cpu()
    ranks = [str(i + 1) for i in range(values.shape[-1])]
    if values.ndim == 1:
        names = token_names(model.tokenizer, at), token_names(named, entries.columns)
        return table(
            {"": ranks, row: names[0], column: names[1], "entry": values.tolist()}, title=title, signed="entry"
        )
    promoted = [token_names(named, ids) for ids in entries.columns]
    return heatmap(
        values,
        token_names(model.tokenizer, at[:, 0]),
        ranks,
        title=title,
        x=f"{column}, by rank",
        y=row,
        value="entry",
        signed=bool((values < 0).any()),
        column_names=[f"rank {rank}" for rank in ranks],
        notes=[[f"{column} “{name}”" for name in line] for line in promoted],
        text=[[clip(name, LONGEST_IN_CELL) for name in line] for line in promoted],
    )


def eigenvalues(
    circuit: FactoredMatrix | Complex[Tensor, " k"] | Float[Tensor, " k"], *, title: str = ""
) -> plotly.graph_objects.Figure:
    """The eigenvalues of a circuit in the complex plane; of an OV circuit, positive ones copy (Elhage et al. 2021).

    The line below the title has their copying score, `sum(Re) / sum(|eigenvalue|)`.

    Args:
        circuit: one square matrix, such as `ov_circuit(model, 5, 1)`, or its eigenvalues.
        title: above the figure.

    Raises:
        ConfigError: neither a circuit nor eigenvalues.
        ShapeError: several matrices, or one that is not square.
        RangeError: values that are not finite.
    """
    import plotly.graph_objects as go

    from interp.plot.shown import Figure

    if not isinstance(circuit, FactoredMatrix | Tensor):
        raise ConfigError(f"this draws a FactoredMatrix or its eigenvalues, not {type(circuit).__name__}")
    if circuit.ndim != (2 if isinstance(circuit, FactoredMatrix) else 1):
        raise ShapeError(f"one matrix [n, n], or its eigenvalues [k], not {list(circuit.shape)}; index it first")
    found = circuit.eigenvalues() if isinstance(circuit, FactoredMatrix) else circuit
    values = found.detach().cpu().to(torch.complex128).numpy()
    if not len(values) or not np.isfinite(values).all():
        raise RangeError("eigenvalues are finite numbers, at least one")
    real, imaginary = np.real(values), np.imag(values)
    size = float(np.abs(values).sum())
    score = f"{real.sum() / size:.3f}" if size else "undefined"
    figure = Figure(
        go.Scatter(
            x=real.astype(np.float32),
            y=imaginary.astype(np.float32),
            mode="markers",
            customdata=np.abs(values).astype(np.float32),
            hovertemplate="%{x:.4g} + %{y:.4g} i<br>size %{customdata:.4g}<extra></extra>",
            marker={
                "size": 8,
                "opacity": 0.75,
                "color": [POSITIVE if value >= 0 else NEGATIVE for value in real.tolist()],
                "line": {"width": 0.5, "color": "#ffffff"},
            },
        )
    )
    reach = 1.08 * max(float(np.abs(values).max()), 1e-30)
    axis = {"gridcolor": "#e5e5e5", "zeroline": True, "zerolinecolor": "#999999", "range": [-reach, reach]}
    figure.update_xaxes(title_text="real part", **axis)
    figure.update_yaxes(title_text="imaginary part", scaleanchor="x", **axis)
    written = title if "\n" in title else f"{title or 'Eigenvalues'}\n{len(values)} eigenvalues; copying score {score}"
    heading, lines_high = headings(written, 560)
    return figure.update_layout(
        title=heading,
        modebar=MODE_BAR,
        width=560,
        height=530 + lines_high,
        margin={"l": 70, "r": 30, "t": 20 + lines_high, "b": 60},
        plot_bgcolor="#ffffff",
    )


def singular_directions(
    result: xarray.Dataset, top_k: int = 4, *, title: str | None = None
) -> plotly.graph_objects.Figure:
    """The singular values of a head, each with the tokens that its direction reads and writes (or matches).

    At the end of each bar are the first `top_k` at the "+" end of both sides; the hover text has both ends.

    Args:
        result: from `weights.singular_directions`.
        top_k: how many tokens are written beside a bar.
        title: by default the circuit's name.

    Raises `ConfigError` for another result, or a number below 0; `ShapeError` for one end of directions alone.
    """
    if not hasattr(result, "data_vars") or "singular_value" not in result:
        raise ConfigError(f"this draws what weights.singular_directions returns, not {type(result).__name__}")
    top_k = check_count("top_k", top_k, least=0)
    sides = ("read", "write") if "read_token" in result else ("query", "key")

    def tokens(direction: int, side: str, end: str, most: int | None) -> str:
        held = result[f"{side}_token"].isel(direction=direction).sel(end=end).to_numpy().tolist()
        names = [visible(str(token)) for token in held]
        return " | ".join(names if most is None else [clip(name, LONGEST_IN_CELL) for name in names[:most]])

    result = result if "direction" in result.dims else result.expand_dims("direction")
    if "top" not in result.dims or set(np.atleast_1d(result["end"].to_numpy()).tolist()) != {"+", "-"}:
        raise ShapeError("this shows the tokens at both ends of directions; leave `end` whole, and keep `top` with [i]")
    n = result.sizes["direction"]
    notes = [
        "\n".join(f"{side} {end}: {tokens(i, side, end, None)}" for end in ("+", "-") for side in sides)
        for i in range(n)
    ]
    text = ["   " + " → ".join(tokens(i, side, "+", top_k) for side in sides) if top_k else "" for i in range(n)]
    if title is None:
        title = f"Singular directions of {result.attrs.get('circuit', 'a head')}\n{sides[0]} → {sides[1]}, at the + end"
        title += "; norms' gains folded into the weights" if result.attrs.get("fold_norms") else ""
    return bars(result["singular_value"].to_numpy(), [str(i) for i in result["direction"].to_numpy()], title=title,
                x="singular value", y="direction", notes=notes, text=text)  # fmt: skip
