"""The pages that commands write: kilobytes, without a request, and each answers to the mouse and to the keys."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from browsing import Explorer, Visit
from measuring import FAULTS
from typer.testing import CliRunner

from circuits.commands import register
from circuits.gallery.induction import induction_model
from interp.commands.cli import app

OF_CIRCUITS = typer.Typer()
register(OF_CIRCUITS)

PAIR = ["--clean", "!abacb", "--corrupted", "!acacb", "--correct", "b", "--incorrect", "c"]

PAGES: dict[str, list[str]] = {
    "attention": ["--text", "!abacb", "--scores"],
    "heads": ["--sort", "previous_token"],
    "patch": [*PAIR, "--site", "z", "--over", "layer,pos,head"],
    "circuit": [*PAIR, "--n", "5"],
    "sweep": ["--pairs", "pairs.csv", "--folder", "job", "--over", "layer,pos"],
    "demo": [],
}
"""How each command that writes a page is called."""

NO_PAGES = {"docs": "a site", "circuits benchmark": "a folder of files"}
"""What other commands write to their `--out`."""


def commands(group: Any, before: str = "") -> dict[str, click.Command]:
    found: dict[str, Any] = {}
    for name, one in group.commands.items():
        found |= commands(one, f"{before}{name} ") if hasattr(one, "commands") else {before + name: one}
    return found


def test_every_command_that_writes_to_a_path_has_a_case_here():
    there = {
        name
        for group in (app, OF_CIRCUITS)
        for name, one in commands(typer.main.get_command(group)).items()
        if any("--out" in parameter.opts for parameter in one.params)
    }
    assert there == set(PAGES) | set(NO_PAGES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "model"
    induction_model("!abc", n_ctx=16).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("command", PAGES)
def test_a_page_is_small_asks_for_nothing_and_answers_to_the_mouse_and_the_keys(
    command: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visit: Visit
):
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("clean,corrupted,correct,incorrect\n!abacb,!acacb,b,c\n!bcbac,!babac,c,a\n", "utf-8")
    model = [] if command == "demo" else ["--model", checkpoint]
    group = OF_CIRCUITS if command == "demo" else app
    done = CliRunner().invoke(group, [command, *model, *PAGES[command], "--out", "page.html"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert Path("page.html").stat().st_size < 300_000
    page = visit(tmp_path / "page.html")  # which sees to it that nothing is asked for
    if command in ("attention", "demo"):
        explorer = Explorer(page)
        seen = []
        for row in (0, 1):
            explorer.map.click(position=explorer.thumbnail(row, 0))
            seen.append(explorer.selection["layer"])
        page.keyboard.press("ArrowUp")
        assert sorted(seen) == [0, 1] and explorer.selection["layer"] == seen[0]
    drawings = page.locator(".drawing[data-notes]:not([data-notes=''])")
    assert drawings.count() >= (command != "attention")
    for i in range(drawings.count()):
        one = drawings.nth(i)
        page.locator(".drawing[data-lit]").nth(i).wait_for()
        one.locator("svg").focus()
        page.keyboard.press("ArrowRight")
        assert one.locator(".tip").is_visible() and one.locator(".tip").inner_text()
        page.keyboard.press("Escape")
        assert one.locator(".tip").is_hidden()
        target = one.locator("image, circle, svg path[stroke-width]").first
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + min(3.0, box["height"] / 2))
        assert one.locator(".tip").count() == 1
    shown = page.locator("main figure")
    assert [fault for i in range(shown.count()) for fault in shown.nth(i).evaluate(FAULTS)] == []
    assert not re.search(r"plotly\.js", Path("page.html").read_text("utf-8"))
