"""Figures of the builders without plotly's script: plain SVG, with what stands under the pointer beside it.

Plotly's script weighs 4.8 MB, a picture some kilobytes. What the builders make (heat-maps, bars, lines, points, tables)
is drawn here from the same `plotly.graph_objects.Figure`, so that there is one description of each figure. The picture
is whole without JavaScript; light.js adds the notes under the pointer and at the arrow keys.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import ConfigError
from interp.plot.hover import Box, Notes, Number, filled, plain
from interp.plot.still import png
from interp.plot.style import unwrapped
from interp.plot.svg_axes import Colors, Scale, across, line, room, scale, text, themed, upward
from interp.plot.svg_marks import DASHES, arrow, dot, path

if TYPE_CHECKING:
    import plotly.graph_objects

DRAWN = ("heatmap", "bar", "scatter", "table")
"""The kinds of traces that are drawn here."""

HERE = Path(__file__).parent

ALONE = (
    "<style>svg { font: 12px Helvetica, Arial, sans-serif } text { fill: #1a1a1a; white-space: pre } "
    "path { fill: none } image { image-rendering: pixelated } "
    ".halo { paint-order: stroke; stroke: #ffffff; stroke-width: 4px }</style>"
)
"""What a picture needs of light.css where it stands in no page."""


def light_figure(figure: plotly.graph_objects.Figure, name: str, above: Number = 0) -> str:
    """The inside of an HTML `<figure>`: its title, the picture, its legend and its notes.

    `name` tells it apart in its page; `above` is the least room above its axes, in pixels. Raises `ConfigError` for a
    figure with other traces than those of `DRAWN`.
    """
    traces, layout, (title, below) = _read(figure, "a page without plotly's script", "give plotly=True")
    words = f"<h2>{_in_lines(title)}</h2><p>{_in_lines(below)}</p>"
    if traces and traces[0].get("type") == "table":
        return f'{words}<div class="drawing">{_table(traces[0])}</div>'
    picture = _Picture(traces, layout, name, above)
    return (
        f'{words}<div class="drawing" data-notes="{picture.notes.packed()}">'
        f"{picture.svg(_spoken(title, below))}</div>{_legend(traces, layout)}"
    )


def lone_picture(figure: plotly.graph_objects.Figure) -> str:
    """A figure as an SVG file: its picture and its legend in light colours, without its title and its notes.

    Raises `ConfigError` for a table, and for a figure with other traces than those of `DRAWN`.
    """
    traces, layout, said = _read(figure, "write_svg", "write it with figure.write_image, which needs kaleido")
    if traces and traces[0].get("type") == "table":
        raise ConfigError("write_svg draws no tables of words; write_page does")
    picture = _Picture(traces, layout, "figure", above=0)
    picture.add_legend(_named(traces, layout))
    light = (HERE / "light.css").read_text(encoding="utf-8").split("@media")[0]
    colors = dict(re.findall(r"(--\w+): (#\w+)", light))
    drawn = picture.svg(_spoken(*said), ' xmlns="http://www.w3.org/2000/svg"', ALONE)
    return re.sub(r"var\((--\w+)\)", lambda found: colors[found[1]], drawn)


def _read(
    figure: plotly.graph_objects.Figure, drawn_by: str, instead: str
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any], tuple[str, str]]:
    """Traces, layout, and title and subtitle.

    Raises `ConfigError` for what is no figure, for traces that are not drawn here, and for a figure that leaves to
    plotly what the builders settle: its size, its margins, and which way its bars go.
    """
    if not hasattr(figure, "to_plotly_json"):
        raise ConfigError(f"{drawn_by} draws figures, such as interp.plot.figures makes, not {type(figure).__name__}")
    given = _with_arrays(figure.to_plotly_json())
    traces, layout = given["data"], given["layout"]
    if other := [str(one.get("type")) for one in traces if one.get("type", "scatter") not in DRAWN]:
        raise ConfigError(f"{drawn_by} draws {', '.join(DRAWN)}, not {other[0]}; {instead}")
    settled = {"width", "height", "margin"} <= set(layout)
    if not settled or any(one.get("type") == "bar" and one.get("orientation") != "h" for one in traces):
        raise ConfigError(f"{drawn_by} draws figures as interp.plot.figures makes them, with a width, a height and "
                          f"margins; of one that plotly lays out, {instead}")  # fmt: skip
    heading = layout.get("title") or {}
    title, below = (plain(unwrapped(one.get("text") or "")) for one in (heading, heading.get("subtitle") or {}))
    return traces, layout, (title, below)


def _spoken(title: str, below: str) -> str:
    """What is read out in place of the picture."""
    return ". ".join(part for part in (title, below) if part).replace("\n", " ") or "a figure"


def room_above(layout: Mapping[str, Any]) -> Number:
    """Pixels above the axes of a figure that their labels need."""
    return room(layout.get("xaxis") or {}, layout.get("yaxis") or {})[0]


def _with_arrays(given: Any) -> Any:
    """What plotly packs, `{"dtype": "f4", "bdata": base64, "shape": "2, 3"}`, as arrays."""
    if isinstance(given, dict):
        if "bdata" in given:
            flat = np.frombuffer(base64.b64decode(given["bdata"]), dtype=given["dtype"])
            return flat.reshape([int(n) for n in str(given["shape"]).split(",")]) if "shape" in given else flat
        return {key: _with_arrays(one) for key, one in given.items()}
    return [_with_arrays(one) for one in given] if isinstance(given, list | tuple) else given


def _in_lines(said: str) -> str:
    return escape(said).replace("\n", "<br>")


class _Picture:
    """One figure as it is drawn: its parts as SVG, and its notes."""

    def __init__(self, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], name: str, above: Number):
        self.layout, self.name = layout, name
        self.area, (self.width, self.height) = self._sizes(above)
        self.notes, self.parts = Notes(), []
        maps = [np.asarray(one["z"], np.float32) for one in traces if one["type"] == "heatmap"]
        blank = layout.get("plot_bgcolor", "#eeeeee")
        self.colors = Colors.of(layout["coloraxis"], maps, blank) if maps else None
        sides: dict[tuple[str, str], list[Mapping[str, Any]]] = {("x", "y"): []}  # nodes without edges are no traces
        for trace in traces:
            sides.setdefault((trace.get("xaxis") or "x", trace.get("yaxis") or "y"), []).append(trace)
        for (x, y), beside in sides.items():
            self._subplot(x, y, beside)
        for note in layout.get("annotations") or ():
            self._annotate(note)
        if self.colors is not None:
            left = self.area[0] + self.area[2] + 14
            self.parts.append(self.colors.bar(layout["coloraxis"], left, self.area[1], f"{name}-colors"))

    def _sizes(self, least: Number) -> tuple[Box, tuple[Number, Number]]:
        """Where the axes are, and how large all is: as plotly has it, without the room for the title and the legend."""
        layout, margin = self.layout, self.layout["margin"]
        width = layout["width"] - margin["l"] - margin["r"]
        height = layout["height"] - margin["t"] - margin["b"]
        lifted = [
            note.get("yshift") or 0 for note in layout.get("annotations") or () if note.get("yanchor") == "bottom"
        ]
        above, left = room(self._axis("x"), self._axis("y"))
        top = max(10.0, least, above, 26.0 + max(lifted) if lifted else 0.0)
        left = max(float(margin["l"]), left)
        bottom = float(margin["b"]) - (20 if self._axis("x").get("side") == "top" else 0)
        bottom = 12.0 if self._axis("x").get("visible") is False else bottom
        return (left, top, width, height), (left + width + margin["r"], top + height + bottom)

    def add_legend(self, named: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Below the axes, a line an entry: how it is drawn, and its name."""
        left = self.area[0]
        for name, style in named:
            self.height += 18
            y = self.height - 10
            self.parts.append(path([(left, y), (left + 24, y)], style, ""))
            self.parts.append(text(left + 32, y + 4, name))

    def svg(self, said: str, more: str = "", style: str = "") -> str:
        """The picture as an element, with `more` attributes and a `style` sheet of its own."""
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        keys = ' tabindex="0"' if self.notes.texts else ""
        return f'<svg{more} {size} role="img"{keys} aria-label="{escape(said)}">{style}{"".join(self.parts)}</svg>'

    def _axis(self, name: str) -> Mapping[str, Any]:
        return self.layout.get(f"{name[0]}axis{name[1:]}") or {}

    def _subplot(self, x: str, y: str, traces: Sequence[Mapping[str, Any]]) -> None:
        """The axes of one pair, and what is drawn on them."""
        box, xs, ys = self._scales(x, y, traces)
        self.scales = {x: xs, y: ys}
        self.box = box
        shown = [self._axis(x).get("visible") is not False, self._axis(y).get("visible") is not False]
        self.parts += [across(self._axis(x), xs, box)] if shown[0] else []
        self.parts += [upward(self._axis(y), ys, box)] if shown[1] else []
        for shape in self.layout.get("shapes") or ():
            ends = [self._at(shape, end) for end in ("0", "1")]
            style = shape.get("line") or {}
            dash = DASHES.get(style.get("dash", ""), "")
            self.parts.append(line(*ends[0], *ends[1], style.get("color", "#555555"), dash))
        for trace in traces:
            {"heatmap": self._heatmap, "bar": self._bars, "scatter": self._scatter}[trace["type"]](trace, box, xs, ys)

    def _scales(self, x: str, y: str, traces: Sequence[Mapping[str, Any]]) -> tuple[Box, Scale, Scale]:
        """The box of a subplot and its scales; where one unit is to be as long on both axes, the box is cut."""
        left, top, width, height = self.area
        ends = [self._axis(name).get("domain") or (0.0, 1.0) for name in (x, y)]
        box = (left + ends[0][0] * width, top + (1 - ends[1][1]) * height,
               (ends[0][1] - ends[0][0]) * width, (ends[1][1] - ends[1][0]) * height)  # fmt: skip
        values = {way: [v for one in traces for v in np.ravel(one.get(way, ())).tolist()] for way in "xy"}
        values["x"] += [0.0] if any(one["type"] == "bar" for one in traces) else []
        values["y"] += [end for one in traces for end in _ends_of_intervals(one)]
        values["y"] += [s["y0"] for s in self.layout.get("shapes") or () if s.get("yref", "y") == "y"]
        values["x"] += [s["x0"] for s in self.layout.get("shapes") or () if s.get("xref", "x") == "x"]
        across_, up = (scale(self._axis(name), values[name[0]], 0.0, 1.0) for name in (x, y))
        if self._axis(y).get("scaleanchor"):
            unit = min(box[2] / abs(across_.last - across_.first), box[3] / abs(up.last - up.first))
            cut = unit * abs(across_.last - across_.first), unit * abs(up.last - up.first)
            box = (box[0] + (box[2] - cut[0]) / 2, box[1] + (box[3] - cut[1]) / 2, *cut)
        xs = Scale(across_.first, across_.last, box[0], box[0] + box[2], across_.log)
        return box, xs, Scale(up.first, up.last, box[1] + box[3], box[1], up.log)

    def _at(self, what: Mapping[str, Any], end: str = "", exponents: bool = False) -> tuple[Number, Number]:
        """Where a shape or an annotation is: on the axes, or at a share of them or of the figure.

        On a logarithmic axis plotly gives shapes their values, and annotations the `exponents` of 10.
        """
        place = []
        for way in ("x", "y"):
            ref, value = str(what.get(f"{way}ref") or way), what[f"{way}{end}"]
            if ref == "paper" or ref.endswith("domain"):
                box = self.area if ref == "paper" else self.box
                start, length = (box[0], box[2]) if way == "x" else (box[1] + box[3], -box[3])
                place.append(start + float(value) * length)
            else:
                axis = self.scales[ref]
                place.append(axis.at(10.0 ** float(value) if exponents and axis.log else value))
        return place[0], place[1]

    # ------------------------------------------------------------------ traces

    def _heatmap(self, trace: Mapping[str, Any], box: Box, xs: Scale, ys: Scale) -> None:
        assert self.colors is not None
        values = np.asarray(trace["z"], np.float32)
        rows, columns = values.shape
        index = self.colors.indices(values)
        picture = base64.b64encode(png(index, self.colors.table, hatched=False)).decode()
        size = f'x="{box[0]:.2f}" y="{box[1]:.2f}" width="{box[2]:.2f}" height="{box[3]:.2f}"'
        self.parts.append(f'<image {size} preserveAspectRatio="none" href="data:image/png;base64,{picture}"/>')
        dx, dy = box[2] / columns, box[3] / rows
        if trace.get("xgap"):
            cuts = [f"M{box[0] + i * dx:.1f} {box[1]:.1f}v{box[3]:.1f}" for i in range(1, columns)]
            cuts += [f"M{box[0]:.1f} {box[1] + i * dy:.1f}h{box[2]:.1f}" for i in range(1, rows)]
            self.parts.append(f'<path d="{"".join(cuts)}" stroke="#eeeeee"/>')
        if trace.get("texttemplate"):  # of a map that the reader wrote into
            for (row, column), said in np.ndenumerate(np.asarray(trace["text"], dtype=object)):
                self._write(said, xs.at(column), ys.at(row), self.colors.ink(int(index[row, column])))
        self.notes.add_grid(box, rows, columns, self._cell_notes(trace, values))

    def _cell_notes(self, trace: Mapping[str, Any], values: np.ndarray) -> list[str]:
        """The note of each cell; none where it is blank."""
        names = {}
        for way in ("x", "y"):
            axis = self._axis(trace.get(f"{way}axis") or way)
            names[way] = dict(zip(axis.get("tickvals") or (), axis.get("ticktext") or (), strict=True))
        customdata, texts = trace.get("customdata"), []
        for (row, column), value in np.ndenumerate(values):
            more = {} if customdata is None else {"customdata": customdata[row, column]}
            at = {"z": value, "x": names["x"].get(column, column), "y": names["y"].get(row, row)}
            texts.append(filled(trace["hovertemplate"], at | more) if np.isfinite(value) else "")
        return texts

    def _bars(self, trace: Mapping[str, Any], box: Box, xs: Scale, ys: Scale) -> None:
        sizes, places = np.asarray(trace["x"]), np.asarray(trace["y"])
        high = abs(ys.at(1) - ys.at(0)) * 0.75
        for i, (size, place) in enumerate(zip(sizes, places, strict=True)):
            size = float(size) if np.isfinite(size) else 0.0
            left, right = sorted((xs.at(0), xs.at(size)))
            color = themed(trace["marker"]["color"][i])
            self.parts.append(f'<rect x="{left:.1f}" y="{ys.at(place) - high / 2:.1f}" width="{right - left:.1f}" '
                              f'height="{high:.1f}" style="fill:{color}"/>')  # fmt: skip
            if trace.get("text") is not None:
                anchor = ' text-anchor="end"' if size < 0 else ""
                x = left - 4 if size < 0 else right + 4
                self.parts.append(text(x, ys.at(place) + 4, plain(trace["text"][i]), anchor))
        row = abs(ys.at(1) - ys.at(0))
        notes = [filled(trace["hovertemplate"], {"x": sizes[i], "customdata": trace["customdata"][i]})
                 if np.isfinite(sizes[i]) else "" for i in range(len(sizes))]  # fmt: skip
        self.notes.add_grid((box[0], ys.at(0) - row / 2, box[2], row * len(sizes)), len(sizes), 1, notes)

    def _scatter(self, trace: Mapping[str, Any], box: Box, xs: Scale, ys: Scale) -> None:
        if trace["x"] is None or any(one is None for one in trace["x"]):
            return  # an entry of the legend
        points = [(xs.at(x), ys.at(y)) for x, y in zip(trace["x"], trace["y"], strict=True)]
        mode, style = trace.get("mode", "lines"), trace.get("line") or {}
        if "text" in mode:
            inks = (trace.get("textfont") or {}).get("color") or "var(--ink)"
            for i, (x, y) in enumerate(points):
                self._write(trace["text"][i], x, y, inks if isinstance(inks, str) else inks[i])
        faint = f' opacity="{trace["opacity"]:g}"' if trace.get("opacity", 1) != 1 else ""
        if "lines" in mode:
            self.parts.append(path(points, style, faint))
        if trace.get("error_y"):
            self._intervals(trace, points, ys)
        for i, (x, y) in enumerate(points):
            if not np.isfinite([x, y]).all():
                continue
            if "markers" in mode:
                self.parts.append(dot(x, y, trace, i, style.get("color")))
            template = trace.get("hovertemplate")
            if template and trace.get("hoverinfo") != "skip":
                at = {"x": trace["x"][i], "y": trace["y"][i]}
                for kind in ("text", "customdata"):
                    if trace.get(kind) is not None:
                        at[kind] = trace[kind] if isinstance(trace[kind], str) else trace[kind][i]
                self.notes.add_point(x, y, filled(template, at))

    def _write(self, said: Any, x: Number, y: Number, ink: str) -> None:
        """A text with its middle at a place."""
        look = f' class="inside" text-anchor="middle" style="fill:{escape(ink)}"'
        self.parts.append(text(x, y + 4, plain(said), look))

    def _intervals(self, trace: Mapping[str, Any], points: Sequence[tuple[Number, Number]], ys: Scale) -> None:
        bars = trace["error_y"]
        for (x, _), middle, above, under in zip(points, trace["y"], bars["array"], bars["arrayminus"], strict=True):
            ends = ys.at(middle + above), ys.at(middle - under)
            if np.isfinite([x, *ends]).all():
                color = (trace.get("line") or {}).get("color", "#000000")
                self.parts.append(line(x, ends[0], x, ends[1], color))

    def _annotate(self, note: Mapping[str, Any]) -> None:
        """A text, in a box or not, or the head of an arrow."""
        x, y = self._at(note, exponents=True)
        said = plain(note.get("text"))
        if note.get("showarrow") is not False:
            tail = self._at(
                {"x": note["ax"], "y": note["ay"], "xref": note["axref"], "yref": note["ayref"]}, exponents=True
            )
            self.parts.append(arrow(tail, (x, y), note))
            return
        x, y = x + note.get("xshift", 0), y - note.get("yshift", 0)
        if note.get("bordercolor"):
            width, height = note["width"] + 8, note["height"] + 8
            self.parts.append(f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:g}" '
                              f'height="{height:g}" fill="{escape(note["bgcolor"])}" stroke="#555555"/>')  # fmt: skip
            self.parts.append(text(x, y + 4, said, ' text-anchor="middle" style="fill:#1a1a1a"'))
            return
        up = {"bottom": -4, "top": 12}.get(note.get("yanchor", "middle"), 4)
        anchor = {"right": "end", "left": "start"}.get(note.get("xanchor", "center"), "middle")
        halo = ' class="halo"' if note.get("bgcolor") else ""
        self.parts.append(text(x, y + up, said, f' text-anchor="{anchor}"{halo}'))


def _ends_of_intervals(trace: Mapping[str, Any]) -> Iterable[float]:
    """How far down and up the intervals of a line reach."""
    bars = trace.get("error_y") or {}
    for name, sign in (("array", 1), ("arrayminus", -1)):
        for y, off in zip(trace["y"] if name in bars else (), bars.get(name, ()), strict=True):
            yield float(y) + sign * float(off)


def _named(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The entries of the legend: the names of lines, and how each is drawn."""
    named = []
    for one in traces if layout.get("showlegend") is not False else ():
        if one["type"] == "scatter" and one.get("name") and one.get("showlegend") is not False:
            style = one.get("line") or {}
            style = style if style.get("color") else (one.get("marker") or {}).get("line") or {}
            named.append((plain(one["name"]), {"width": 3} | style))
    return named


def _legend(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    """The names of lines beside their colours."""
    entries = "".join(
        f'<li><svg width="26" height="10">{path([(1, 5), (25, 5)], style, "")}</svg> {escape(name)}</li>'
        for name, style in _named(traces, layout)
    )
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def _table(trace: Mapping[str, Any]) -> str:
    """A table as one of HTML."""
    columns, header = trace["cells"]["values"], trace["header"]["values"]
    align = trace["cells"]["align"]
    colors = (trace["cells"].get("font") or {}).get("color") or ["#1a1a1a"] * len(columns)
    head = "".join(
        f'<th scope="col" class="{a}">{escape(plain(one))}</th>' for a, one in zip(align, header, strict=True)
    )
    rows = ""
    for i, row in zip(count(), zip(*columns, strict=True)):
        cells = ""
        for said, a, color in zip(row, align, colors, strict=True):
            color = color if isinstance(color, str) else color[i]
            lines = "<br>".join(escape(one) for one in plain(said).split("\n"))
            cells += f'<td class="{a}" style="color:{themed(color)}">{lines}</td>'
        rows += f"<tr>{cells}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
