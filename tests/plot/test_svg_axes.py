"""Axes of light pictures: where values are, and which ticks are drawn."""

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from contrast import contrast

from interp.plot import figures
from interp.plot.light import light_figure
from interp.plot.svg_axes import Colors, Scale


def test_ticks_of_a_logarithmic_axis_are_numbers_of_the_axis_evenly_placed():
    for first, last, expected in (
        (-3.2, 1.1, [0.001, 0.01, 0.1, 1, 10]),
        (0, 1, [1, 2, 5, 10]),
        (-0.8, 0, [0.2, 0.5, 1]),
    ):
        scale = Scale(first, last, 60, 560, log=True)
        assert scale.ticks() == pytest.approx(expected)
        assert Scale(last, first, 560, 60, log=True).ticks() == pytest.approx(expected)  # downwards as well
    places = [scale.at(one) for one in Scale(-3.2, 1.1, 60, 560, log=True).ticks()]
    assert places == sorted(places)
    wide = Scale(-40, 40, 0, 300, log=True)
    assert 2 <= len(wide.ticks()) <= 8
    steps = [math.log10(after / before) for before, after in pairwise(wide.ticks())]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_an_axis_holds_what_is_on_it():
    scale = Scale(-1, 1, 100, 300, log=True)
    assert [scale.holds(one) for one in (0.1, 1, 10, 0.05, 20, 0, -1)] == [True, True, True, False, False, False, False]
    assert Scale(5, -0.5, 300, 100).holds(5) and not Scale(5, -0.5, 300, 100).holds(5.5)


@pytest.mark.parametrize("kind", ["log", "linear"])
def test_no_label_stands_outside_the_axes(kind: str):
    figure = figures.curves({"one": (np.array([0.02, 0.3, 3.0]), np.array([0.01, 0.2, 5.0]))})
    figure.update_xaxes(type=kind, tickvals=[-50, 0.1, 1, 1000])
    figure.update_yaxes(type=kind)
    drawn = light_figure(figure, "one")
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert {"0.1", "1"} <= set(labels) and not {"1000", "-50"} & set(labels)
    places = [float(x) for x in re.findall(r'<text x="(-?[\d.]+)"', drawn)]
    assert places and min(places) > 5


@pytest.mark.parametrize("signed", [False, True])
def test_a_text_can_be_read_on_every_colour_of_a_map(signed: bool):
    values = np.linspace(-1, 1, 300)[None]
    drawn: Any = figures.heatmap(values, ["row"], range(300), signed=signed, text=[["x"] * 300])
    colors = Colors.of(drawn.to_plotly_json()["layout"]["coloraxis"], [values], "#eeeeee")
    inks = drawn.data[1].textfont.color
    assert set(inks) == {"#000000", "#ffffff"}
    for color, ink in zip(np.array(colors.table)[colors.indices(values)[0]], inks, strict=True):
        assert contrast(str(color), ink) >= 4.5


def test_a_map_of_equal_values_has_the_colour_in_the_middle_and_three_numbers_beside_its_bar():
    for value, signed in ((0.0, True), (0.0, False), (3.0, False)):
        figure: Any = figures.heatmap(np.full((1, 4), value), ["row"], range(4), signed=signed)
        axis = figure.to_plotly_json()["layout"]["coloraxis"]
        colors = Colors.of(axis, [np.full((1, 4), value)], "#eeeeee")
        assert colors.indices(np.array([value])).tolist() == [127]
        assert colors.bar(axis, 0, 0, "name").count("<text") >= 4  # what it is of, and three numbers
    assert "rect" in colors.bar(axis, 0, 0, "name")


def test_intervals_lie_within_the_axes():
    figure = figures.curves({"one": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))})
    figure.update_traces(error_y={"array": [0.0, 4.0], "arrayminus": [3.0, 0.0]})
    drawn = light_figure(figure, "one")
    height = float(re.findall(r'<svg width="[\d.]+" height="([\d.]+)"', drawn)[0])
    ends = [float(y) for y in re.findall(r'd="M[\d.]+ ([\d.]+)L[\d.]+ [\d.]+" stroke="#0072b2"', drawn)[1:]]
    assert ends and min(ends) > 0 and max(ends) < height - 50


def test_breaks_that_fit_a_title_to_its_figure_are_undone_in_a_page_and_those_of_the_writer_stay():
    title = "a title of many words " * 6 + "\nbelow it the first line\nand the second"
    drawn = light_figure(figures.bars(np.ones(2), "ab", title=title), "one")
    assert f"<h2>{'a title of many words ' * 5}a title of many words</h2>" in drawn
    assert "<p>below it the first line<br>and the second</p>" in drawn
    own = figures.bars(np.ones(2), "ab").update_layout(title_text="mine<br>and mine")
    assert "<h2>mine<br>and mine</h2>" in light_figure(own, "one")


def test_an_annotation_of_a_logarithmic_axis_stands_at_the_exponent_and_a_shape_at_the_value():
    figure = figures.curves({"one": (np.array([0.01, 1.0, 100.0]), np.array([0.01, 1.0, 100.0]))})
    figure.update_xaxes(type="log", range=[-2, 2]).update_yaxes(type="log", range=[-2, 2])
    figure.add_annotation(x=1, y=1, text="ten", showarrow=False)
    figure.add_shape(type="line", x0=10, y0=10, x1=10, y1=100)
    drawn = light_figure(figure, "one")
    (text,) = re.findall(r'<text x="(-?[\d.]+)" y="(-?[\d.]+)"[^>]*>ten<', drawn)
    assert f'd="M{text[0]} ' in drawn  # the shape, whose end is where the text is
    (x, y, top) = re.findall(r'd="M([\d.]+) ([\d.]+)L[\d.]+ ([\d.]+)" stroke="var\(--dim\)"/>', drawn)[-1]
    assert x == text[0] and 0 < float(text[1]) - float(y) < 6 and float(top) < float(y)
