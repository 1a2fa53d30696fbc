from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from interp import ConfigError, RangeError, ShapeError
from interp.plot import figures


def trace(figure: go.Figure) -> Any:
    return figure.data[0]


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
    assert trace(figure).customdata[0, 0, 0] == shown


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


def test_drawing_changes_no_plotly_default():
    before = plotly.io.templates.default, plotly.io.renderers.default
    figures.pattern(torch.eye(2), ["a", "b"])
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before
