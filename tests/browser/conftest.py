"""A real browser: Debian's chromium, driven by playwright. Without it these tests are skipped, and say why."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import PATIENCE, SCORES, TOKENS, Explorer, N, Show, Visit, run

from interp.plot import AttentionExplorer, attention

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers that INTERP_SEED repeats."""
    from grid import SEED  # here, because render_pictures.py imports this file from elsewhere

    torch.manual_seed(SEED)


@pytest.fixture(scope="module")  # and no longer: playwright keeps an event loop running, which others may not expect
def chromium() -> Iterator[Any]:
    """The browser. In CI it has to be there."""
    program = shutil.which("chromium")
    if program is None and not os.environ.get("CI"):
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    assert program is not None, "CI needs chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """`visit(path or address, **options of the browser's context)` opens a page.

    At the test's end no script may have failed, and no page may have asked for anything but itself and what lies within
    (`data:` and `blob:`), nor a page of the server that the test named as `within=` for anything outside.
    """
    contexts, requests, failures = [], [], []

    def open_page(address: Path | str, within: str = "", **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}} | options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        url = address.as_uri() if isinstance(address, Path) else address
        allowed = (url, "data:", "blob:") + ((within,) if within else ())
        page.on("request", lambda request: None if request.url.startswith(allowed) else requests.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requests == []
    assert failures == []


@pytest.fixture
def show(visit: Visit, tmp_path: Path) -> Show:
    """`show(explorer, **options of the browser's context)` opens a page of it, once it is drawn."""

    def open_explorer(explorer: AttentionExplorer, **options: Any) -> Explorer:
        explorer.to_html(tmp_path / "page.html")
        return Explorer(visit(tmp_path / "page.html", **options))

    return open_explorer


@pytest.fixture(scope="module")
def explorer() -> AttentionExplorer:
    patched = run(torch.arange(N).flip(0)[None])
    given: Any = {"correct": 1, "incorrect": 2, "kind": "attention", "patched": patched}
    return attention(run(), TOKENS, SCORES, **given, patched_tokens=TOKENS[::-1])


@pytest.fixture
def page(explorer: AttentionExplorer, show: Show) -> Explorer:
    return show(explorer)


@pytest.fixture(scope="module")
def small_page() -> str:
    """A page with one of everything that has text."""
    tokens = ["a", "b"]
    cache = run(torch.arange(2)[None], n_layers=1, n_heads=2)
    explorer = attention(cache, tokens, {"x": np.array([[0.9, 0.1]])}, page_bytes=900_000)
    return explorer._repr_mimebundle_()["text/html"]
