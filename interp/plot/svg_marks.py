"""What is drawn on axes, as SVG: lines, points, heads of arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.plot.hover import Number
from interp.plot.svg_axes import themed

DASHES = {"dash": ' stroke-dasharray="8 5"', "dot": ' stroke-dasharray="2 4"'}
"""How broken lines are drawn, by their names."""


def path(points: Sequence[tuple[Number, Number]], style: Mapping[str, Any], more: str) -> str:
    """A line through points, with holes where one is not known."""
    steps, pen = [], "M"
    for x, y in points:
        if np.isfinite([x, y]).all():
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    look = f'stroke="{themed(style.get("color", "#000000"))}" stroke-width="{style.get("width", 2):.3g}"'
    return f'<path d="{"".join(steps)}" {look}{DASHES.get(style.get("dash", ""), "")}{more}/>'


def dot(x: Number, y: Number, trace: Mapping[str, Any], i: int, of_line: Any) -> str:
    """One point of a trace of points."""
    marker = trace.get("marker") or {}
    color = marker.get("color", of_line or "#000000")
    color = color if isinstance(color, str) else color[i]
    edge = marker.get("line") or {}
    stroke = f' stroke="{themed(edge["color"])}" stroke-width="{edge.get("width", 1):g}"' if edge.get("color") else ""
    faint = f' opacity="{marker["opacity"]:g}"' if "opacity" in marker else ""
    size = float(marker.get("size", 6)) / 2
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" style="fill:{themed(color)}"{stroke}{faint}/>'


def arrow(tail: tuple[Number, Number], tip: tuple[Number, Number], note: Mapping[str, Any]) -> str:
    """The head of an arrow from `tail` to `tip`."""
    along = np.array(tip) - np.array(tail)
    along = along / (float(np.hypot(*along)) or 1.0)
    beside, size = np.array([-along[1], along[0]]), 3.0 + 1.5 * note.get("arrowwidth", 1.5)
    corners = [np.array(tip), *(np.array(tip) - size * along + side * 0.5 * size * beside for side in (1, -1))]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    faint = f' opacity="{note["opacity"]:g}"' if note.get("opacity", 1) != 1 else ""
    return f'<polygon points="{points}" style="fill:{themed(note["arrowcolor"])}"{faint}/>'
