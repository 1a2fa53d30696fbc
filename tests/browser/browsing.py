"""An explorer in a page, as a reader handles it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp import ActivationCache, HookedTransformer, TransformerConfig

Visit = Callable[..., Any]
"""Opens a page; see the fixture `visit`."""

Show = Callable[..., "Explorer"]
"""Opens a page of an explorer; see the fixture `show`."""

PATIENCE = 90_000  # milliseconds, for a machine that is busy with other work


class Explorer:
    """One explorer in a page, once it is drawn."""

    def __init__(self, page: Any, number: int = 0):
        self.page = page
        self.host = page.locator("[data-ready]").nth(number)
        self.host.wait_for()
        self.map = self.host.locator("canvas.heads")
        self.big = self.host.locator(".one canvas")
        self.strip = self.host.locator(".strip")
        self.sources = self.host.locator(".sources")
        self.readout = self.host.locator(".readout")

    @property
    def state(self) -> dict[str, Any]:
        return self.host.evaluate("host => host.explorer.state")

    @property
    def selection(self) -> dict[str, int | None]:
        return self.host.evaluate("host => host.explorer.selection()")

    def matrix(self, layer: int, head: int) -> Any:
        """What is drawn of a head, as rows, None where masked."""
        return self._of(layer, head, "values")

    def lost(self, layer: int, head: int) -> Any:
        """What dropping the first token took from each query."""
        return self._of(layer, head, "lost")

    def _of(self, layer: int, head: int, what: str) -> Any:
        script = (
            "(host, [layer, head, what]) => [...host.explorer.matrix(layer, head)[what]].map(v => isNaN(v) ? null : v)"
        )
        return self.host.evaluate(script, [layer, head, what])

    def pooled(self, layer: int, head: int) -> tuple[int, Any]:
        """What is drawn of a head whose pooled map alone is there: how many rows, and its values."""
        script = (
            "(host, at) => { const { high, values } = host.explorer.coarse(...at);"
            " return [high, [...values].map(v => isNaN(v) ? null : v)]; }"
        )
        return tuple(self.host.evaluate(script, [layer, head]))

    def change(self, **what: Any) -> None:
        self.host.evaluate("(host, what) => host.explorer.change(what)", what)

    def choose(self, label: str) -> None:
        """Click what is labelled so among the controls."""
        self.host.locator("header").get_by_label(label, exact=True).click()

    def over_token(self, i: int) -> None:
        self.strip.locator("bdi").nth(i).hover()

    def cell(self, query: int, key: int) -> dict[str, float]:
        """Where a cell lies in the large head."""
        return self.host.evaluate(
            "(host, [q, k]) => { const { left, above, dx, dy } = host.explorer.frame();"
            " return { x: left + (k + 0.5) * dx, y: above + (q + 0.5) * dy }; }",
            [query, key],
        )

    def thumbnail(self, row: int, column: int) -> dict[str, float]:
        """Where a thumbnail lies in the map."""
        heads = self.host.evaluate("host => host.explorer.heads()")
        x, y = self.host.evaluate("(host, i) => host.explorer.spot(i)", row * heads + column)
        return {"x": x + 12, "y": y + 12}


MINUS = "\u2212"
N, LAYERS, HEADS = 9, 3, 4
TOKENS = ["the", " cat", "the", " the", "\n", "a</b>", "cat", " ", "end"]
SCORES = {
    "induction": np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.0, 0.5, 0.1], [0.0, 0.7, 0.2, 0.1]]),
    "previous": np.array([[0.8, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]),
}


def run(tokens: torch.Tensor | None = None, sharpness: float = 6.0, **fields: Any) -> ActivationCache:
    shape: dict[str, Any] = {
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "d_model": 16,
        "n_ctx": 128,
        "d_vocab": 12,
        "seed": 3,
    }
    model = HookedTransformer(TransformerConfig(**shape | fields))
    with torch.no_grad():
        for block in model.blocks:  # uneven attention
            block.attn.W_Q.mul_(sharpness)
        return model.run_with_cache(torch.arange(N)[None] % 12 if tokens is None else tokens)[1]


def close(got: list[float | None], want: np.ndarray, atol: float) -> None:
    values = np.array(got, dtype=float).reshape(want.shape)
    np.testing.assert_array_equal(np.isnan(values), np.isnan(want))
    np.testing.assert_allclose(np.nan_to_num(values), np.nan_to_num(want), rtol=0, atol=atol)


def saved(page: Explorer, kind: str) -> bytes:
    with page.page.expect_download() as download:
        page.host.get_by_role("button", name=f"save {kind}").click()
    assert download.value.suggested_filename == f"attention.{kind.lower()}"
    return Path(download.value.path()).read_bytes()
