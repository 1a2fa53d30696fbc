import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from interp import ConfigError, RangeError, ShapeError, TokenError
from interp.plot import figures
from interp.plot.style import LETTER


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
    assert figures.pattern(causal_pattern(3), list("abc")).layout.yaxis.range == (2.5, -0.5)


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
    with pytest.raises(RangeError, match=r"outside \[0, 1\]"):
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
    as_lists = {name: values.tolist() for name, values in losses.items()}
    assert trace(figures.loss_curves(as_lists)).y.tolist() == [4.5, 14.5]
    with pytest.raises(ShapeError, match="10 losses 'one layer' do not fill a window of 11"):
        figures.loss_curves(losses, window=11)


@pytest.mark.parametrize("value", ["attention", "a name of values (in nats)"])
def test_the_title_of_the_colour_bar_stands_above_its_labels_with_a_line_between(value: str):
    figures_of_it = (
        figures.heatmap(torch.eye(1), ["r"], ["c"], value=value),
        figures.heatmaps(torch.eye(2)[None], ["m"], ["r", "s"], ["c", "d"], value=value),
    )
    for figure in figures_of_it:
        title = figure.layout.coloraxis.colorbar.title
        *lines, last = title.text.split("<br>")
        assert (title.side, " ".join(lines), last) == ("top", value, "&nbsp;")
        assert figure.layout.margin.r >= 8 * max(map(len, lines))


def test_a_heatmap_of_one_row_has_a_whole_colour_bar():
    layout = figures.heatmap(torch.eye(1), ["r"], ["c"]).layout
    assert layout.coloraxis.colorbar.len >= 120
    assert layout.height - layout.margin.t >= layout.coloraxis.colorbar.len
    assert layout.height - layout.margin.t - layout.margin.b == 60  # and its cell is square


def test_a_heatmap_without_a_single_number_keeps_its_axes():
    for figure in (
        figures.heatmap(torch.full((3, 2), math.nan), list("abc"), list("de")),
        figures.heatmaps(torch.full((1, 3, 2), math.nan), ["m"], list("abc"), list("de")),
    ):
        assert (figure.layout.xaxis.range, figure.layout.yaxis.range) == ((-0.5, 1.5), (2.5, -0.5))


def test_labels_that_print_nothing_are_shown_as_escapes():
    figure = figures.heatmap(torch.eye(3), ["a b", "\n", "\u200b"], ["\u202e", "\ud800", "c"])
    assert list(figure.layout.yaxis.ticktext) == ["a b", "⏎", "\\u200b"]
    assert list(figure.layout.xaxis.ticktext) == ["\\u202e", "\\ud800", "c"]


def test_a_name_is_no_template_of_plotlys():
    figure = figures.curves({"%{x}": ([0, 1], [0, 1]), "b": ([0], [1])}, y="%{y}")
    assert "%{x}<br>" not in trace(figure).hovertemplate.replace(" %{x}<br>", "")
    assert trace(figure).name == "%&#123;x}"


@pytest.mark.parametrize("values", [torch.eye(2) * 1j, [["a", "b"], ["c", "d"]], [[1.0], [2.0, 3.0]]])
def test_what_is_no_array_of_real_numbers_is_refused(values: Any, as_installed: None):
    with pytest.raises(ShapeError, match=r"real numbers|no array"):
        figures.heatmap(values, ["r", "s"], ["a", "b"])


def test_long_names_of_maps_are_cut_above_them_and_whole_under_the_pointer():
    names = ["x" * 100, "y"]
    figure = figures.patterns(torch.eye(3).expand(2, 3, 3), list("abc"), names=names)
    assert all(len(note.text) < 40 for note in figure.layout.annotations)
    assert names[0] in trace(figure).hovertemplate


def test_a_long_title_takes_several_lines_and_the_room_for_them():
    short, long = (figures.heatmap(torch.eye(2), ["r", "s"], ["a", "b"], title="A title " * n).layout for n in (1, 9))
    assert long.title.text.count("<br>") >= 2
    assert long.margin.t - short.margin.t == long.height - short.height >= 20 * long.title.text.count("<br>")


def test_texts_beside_bars_have_room_on_their_side():
    figure = figures.bars(torch.tensor([3.0, -1.0]), ["a", "b"], text=["x" * 30, "y" * 30])
    low, high = figure.layout.xaxis.range
    per_pixel = (high - low) / (figure.layout.width - figure.layout.margin.l - figure.layout.margin.r)
    assert high - 3 >= 30 * 6 * per_pixel and -1 - low >= 30 * 6 * per_pixel
    for sizes in ([0.0, 0.0], [math.nan, 1.0]):
        figure = figures.bars(torch.tensor(sizes), ["a", "b"], text=["x" * 300, ""])
        assert all(map(math.isfinite, figure.layout.xaxis.range))


def test_a_point_without_neighbours_is_drawn_as_a_dot():
    nan = math.nan
    lines = {"alone": ([1], [2]), "between": ([0, 1, 2], [nan, 1, nan]), "line": ([0, 1, 2], [0, nan, 1])}
    modes = [one.mode for one in list[Any](figures.curves(lines | {"pair": ([0, 1], [1, 1])}).data)]
    assert modes == ["lines+markers", "lines+markers", "lines+markers", "lines"]


def test_names_of_marks_that_are_close_stand_above_each_other():
    marks = {"phase change": 40, "another one": 42, "far": 90}
    figure = figures.curves({"a": ([0, 100], [0, 1])}, marks=marks, levels={"ln 2": 0.69, "ln 3": 0.70, "0": 0.0})
    shifts = {note.text: (note.xshift or 0, note.yshift or 0) for note in figure.layout.annotations}
    assert shifts["phase change"][1] == shifts["far"][1] == 0 < shifts["another one"][1]
    assert shifts["ln 2"][0] == shifts["0"][0] == 0 > shifts["ln 3"][0]


def test_a_figure_of_many_lines_is_as_high_as_its_legend():
    few, many = (figures.curves({str(i): ([0, 1], [i, i]) for i in range(n)}).layout.height for n in (3, 40))
    assert many - few >= 19 * 40 - 260


# ---------------------------------------------------------------------- tables


def cells(figure: go.Figure) -> list[list[str]]:
    return [list(column) for column in trace(figure).cells.values]


def test_long_texts_of_a_table_take_several_lines_and_the_room_for_them():
    short, long = (figures.table({"a": ["x" * n, "</b>"], "b": ["", "c"]}) for n in (5, 300))
    assert cells(long)[0][0].replace("<br>", "") == "x" * 300
    assert max(map(len, cells(long)[0][0].split("<br>"))) <= 28
    assert cells(long)[0][1] == "&lt;/b&gt;"
    assert long.layout.height - short.layout.height >= 15 * 10


def test_small_large_and_endless_numbers_of_a_table_are_told_apart():
    numbers = [2.0, -1.5, 0.25, -2e-9, 123456.789, 1234567, math.inf, -math.inf, math.nan]
    shown = ["2", "-1.5", "0.25", "-2e-09", "123456.789", "1234567", "inf", "-inf", ""]
    assert cells(figures.table({"n": numbers}, signed="n")) == [shown]


def test_a_signed_column_is_one_of_numbers():
    with pytest.raises(ConfigError, match="'entyr'; allowed: 'entry', 'name'; did you mean 'entry'"):
        figures.table({"entry": [1.0], "name": ["a"]}, signed="entyr")
    with pytest.raises(ConfigError, match="text, not numbers"):
        figures.table({"entry": [1.0], "name": ["a"]}, signed="name")


@pytest.mark.parametrize("entry", [None, 1j])
def test_an_entry_of_a_table_is_text_or_a_number(entry: Any, as_installed: None):
    with pytest.raises(ConfigError, match="text or a real number"):
        figures.table({"a": [entry]})
    assert cells(figures.table({"a": torch.tensor([1.0, 2.5])})) == [["1", "2.5"]]  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------- what is refused


def test_tokens_are_strings(as_installed: None):
    eye, tokens = torch.eye(2), [1, 2]
    draws: list[tuple[Any, Any]] = [
        (figures.pattern, eye),
        (figures.patterns, eye[None]),
        (figures.token_flow, {(0, 0): eye}),
    ]
    for draw, pattern in draws:
        with pytest.raises(TokenError, match=r"\[1, 2\]"):
            draw(pattern, tokens)


def test_numbers_are_labels_too():
    figure = figures.heatmap(torch.eye(2), range(2), [5, 6], x="head")
    assert list(figure.layout.xaxis.ticktext) == ["5", "6"]
    assert list(figures.bars(torch.ones(2), range(2)).layout.yaxis.ticktext) == ["0", "1"]


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0)])
def test_the_ends_of_the_colours_are_in_order(limits: tuple[float, float]):
    with pytest.raises(RangeError, match="low < high"):
        figures.heatmap(torch.eye(1), ["r"], ["c"], limits=limits)


def test_marks_are_finite_numbers(as_installed: None):
    for wrong in (math.nan, None):
        with pytest.raises(RangeError, match="'m' is to mark"):
            figures.curves({"a": ([0, 1], [0, 1])}, marks={"m": wrong})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="'a' is not a pair"):
        figures.curves({"a": ([0, 1], [0, 1], [0, 1])})  # pyright: ignore[reportArgumentType]


def test_drawing_changes_no_plotly_default():
    before = plotly.io.templates.default, plotly.io.renderers.default
    figures.pattern(torch.eye(2), ["a", "b"])
    figures.curves({"a": ([0, 1], [0, 1])})
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before


# ---------------------------------------------------------------------- a screen, tools, wide letters


def test_a_map_of_many_layers_fits_a_screen_and_its_rows_keep_their_labels():
    for n in (30, 48, 80):
        figure = figures.heatmap(
            torch.rand(n, 12), range(n), [f"token {i}" for i in range(12)], title="A title\nand a line", x="x"
        )
        layout = figure.layout
        inside = layout.height - layout.margin.t - layout.margin.b
        assert layout.height <= 720 and inside / len(layout.yaxis.tickvals) >= 14
    text = [["word"] * 3] * 60
    assert (
        figures.heatmap(torch.rand(60, 3), range(60), range(3), text=text).layout.height >= 60 * 18
    )  # no text over another


def test_no_title_reaches_under_the_tools_at_the_right():
    long = "a long title of many words that goes on " * 3
    for figure in (
        figures.heatmap(torch.rand(3, 3), range(3), range(3), title=long),
        figures.bars(torch.rand(3), range(3), title=long),
        figures.curves({"a": ([1, 2], [1, 2])}, title=long),
        figures.table({"a": [1, 2]}, title=long),
        figures.eigenvalues(torch.rand(3), title=long),
    ):
        longest = max(map(len, figure.layout.title.text.split("<br>")))
        assert 9 * longest <= figure.layout.width - 110 or longest <= 16
        assert "zoomin" in [tool.lower() for tool in figure.layout.modebar.remove]


def test_letters_that_are_two_wide_have_twice_the_room_at_the_side():
    wide, narrow = (
        figures.heatmap(torch.rand(2, 2), [name, "a"], range(2)).layout.margin.l for name in ("\u6f22" * 20, "k" * 20)
    )
    assert wide - narrow == LETTER * 20
