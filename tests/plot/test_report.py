import re
from pathlib import Path

import pytest
import torch

from interp.plot import figures, report

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def page(tmp_path: Path) -> str:
    panel = report.Panel(figures.pattern(torch.eye(2), [HOSTILE, "b"], title=HOSTILE), HOSTILE)
    report.write_page(tmp_path / "page.html", HOSTILE, HOSTILE, [panel, panel])
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_anywhere(page: str):
    assert not re.search(r"<(script|img|iframe|link)\b[^>]*\b(src|href)=", page)
    assert not re.search(r"@import|url\(http", page.split("<script")[0])


def test_a_page_holds_plotly_once_however_many_figures(page: str):
    assert page.count("plotly.js v") == 1
    assert page.count('class="plotly-graph-div"') == 2


def test_titles_captions_and_tokens_cannot_become_markup(page: str):
    assert "<script>alert(1)" not in page


def test_two_runs_write_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        report.write_page(tmp_path / name, "t", "i", [report.Panel(figures.pattern(torch.eye(2), ["a", "b"]), "c")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
