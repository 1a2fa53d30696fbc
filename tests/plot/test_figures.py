import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from interp import ConfigError, RangeError, ShapeError
from interp.plot import figures


def trace(figure: go.Figure, number: int = 0) -> Any:
    return figure.data[number]


def causal_pattern(n: int) -> torch.Tensor:
    scores = torch.randn(n, n).masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
    return scores.softmax(-1)


def test_the_figure_holds_the_pattern_and_leaves_the_future_blank():
    pattern = causal_pattern(5)
    z = trace(figures.pattern(pattern, list("abcde"))).z
    assert z.dtype == np.float32
    assert np.array_equal(np.tril(z), pattern.numpy())
    assert np.isnan(z[np.triu_indices(5, k=1)]).all()


def test_repeated_tokens_keep_a_row_and_a_column_each():
    figure = figures.pattern(causal_pattern(4), ["the", "cat", "the", "cat"])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert list(axis.tickvals) == [0, 1, 2, 3]
        assert list(axis.ticktext) == ["the", "cat", "the", "cat"]


def test_queries_run_downwards():
    assert figures.pattern(causal_pattern(3), list("abc")).layout.yaxis.autorange == "reversed"


def test_white_space_in_tokens_is_visible():
    labels = figures.pattern(causal_pattern(3), [" a", "\n", "b\t"]).layout.xaxis.ticktext
    assert list(labels) == ["·a", "⏎", "b⇥"]


@pytest.mark.parametrize(
    ("token", "shown"),
    [("<b>", "&lt;b&gt;"), ("&lt;", "&amp;lt;"), ("$x$", "&#36;x&#36;"), ("</script>", "&lt;/script&gt;")],
)
def test_tokens_are_text_and_never_markup(token: str, shown: str):
    figure = figures.pattern(torch.eye(1), [token], title=token)
    assert figure.layout.xaxis.ticktext == (shown,)
    assert figure.layout.title.text == shown
    assert trace(figure).customdata[0, 0].tolist() == [f"query 0: “{shown}”", f"key 0: “{shown}”"]


def test_a_bidirectional_pattern_is_drawn_in_full():
    pattern = torch.full((3, 3), 1 / 3)
    assert not np.isnan(trace(figures.pattern(pattern, list("abc"), attention_dir="bidirectional")).z).any()


def test_a_pattern_that_looks_ahead_is_not_drawn_as_causal():
    with pytest.raises(RangeError, match="attends to later keys"):
        figures.pattern(torch.full((3, 3), 1 / 3), list("abc"))


def test_the_number_of_tokens_must_fit_the_pattern():
    with pytest.raises(ShapeError, match="does not fit 2 tokens"):
        figures.pattern(torch.eye(3), ["a", "b"])


def test_entries_outside_0_and_1_are_no_pattern():
    with pytest.raises(RangeError, match="between 0 and 1"):
        figures.pattern(-torch.eye(3), list("abc"))


def test_signed_values_are_centred_on_zero():
    assert figures.heatmap(torch.randn(2, 3), ["r", "s"], list("abc"), signed=True).layout.coloraxis.cmid == 0


def test_a_direction_that_does_not_exist_is_refused(as_installed: None):
    with pytest.raises(ConfigError, match="'casual'; allowed"):
        figures.pattern(torch.eye(2), ["a", "b"], attention_dir="casual")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("n", [0, 1])
def test_a_figure_of_nothing_is_refused(n: int):
    with pytest.raises(ShapeError):
        figures.heatmap(torch.zeros(n, 0), ["r"] * n, [])


def test_a_heatmap_needs_a_label_for_every_row_and_column():
    with pytest.raises(ShapeError, match="2 row and 2 column labels"):
        figures.heatmap(torch.randn(2, 3), ["r", "s"], ["a", "b"])


def test_every_line_keeps_its_points_and_its_name():
    figure = figures.curves({"<b>": ([0, 2, 5], torch.tensor([1.0, math.nan, 3.0])), "b": ([1], [1])}, title="$x$")
    first, second = trace(figure, 0), trace(figure, 1)
    assert first.x.tolist() == [0, 2, 5] and np.array_equal(first.y, [1, math.nan, 3], equal_nan=True)
    assert (first.name, second.name, figure.layout.title.text) == ("&lt;b&gt;", "b", "&#36;x&#36;")
    assert first.line.color != second.line.color


def test_twenty_lines_all_look_different():
    figure = figures.curves({str(i): ([0, 1], [i, i]) for i in range(20)})
    assert len({(trace(figure, i).line.color, trace(figure, i).line.dash) for i in range(20)}) == 20


def test_marks_and_levels_are_named_lines_across_the_figure():
    figure = figures.curves({"a": ([0, 9], [0, 1])}, marks={"phase change": 4}, levels={"<i>": 0.5})
    vertical, horizontal = figure.layout.shapes
    assert (vertical.x0, vertical.x1, horizontal.y0, horizontal.y1) == (4, 4, 0.5, 0.5)
    assert [note.text for note in figure.layout.annotations] == ["phase change", "&lt;i&gt;"]


@pytest.mark.parametrize("lines", [{}, {"a": ([], [])}, {"a": ([1, 2], [1])}, {"a": ([[1]], [[1]])}])
def test_lines_without_points_are_refused(lines: Any):
    with pytest.raises(ShapeError, match=r"no lines|line 'a'"):
        figures.curves(lines)


def test_loss_curves_are_means_over_windows_with_the_phase_change_marked():
    losses = {"two layers": torch.arange(25.0), "one layer": torch.ones(10)}
    changes = {"two layers": 12, "one layer": None}
    figure = figures.loss_curves(losses, window=10, phase_changes=changes, levels={"ln V": 3.87})
    assert trace(figure).x.tolist() == [5, 15] and trace(figure).y.tolist() == [4.5, 14.5]
    assert [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1] == [12]
    with pytest.raises(ShapeError, match="10 losses 'one layer' do not fill a window of 11"):
        figures.loss_curves(losses, window=11)


def test_drawing_changes_no_plotly_default():
    before = plotly.io.templates.default, plotly.io.renderers.default
    figures.pattern(torch.eye(2), ["a", "b"])
    figures.curves({"a": ([0, 1], [0, 1])})
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before
