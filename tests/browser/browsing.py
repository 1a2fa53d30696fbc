"""An explorer in a page, as a reader handles it."""

from typing import Any

PATIENCE = 90_000  # milliseconds, for a machine that is busy with other work


class Explorer:
    """One explorer in a page, once it is drawn."""

    def __init__(self, page: Any, number: int = 0):
        self.page = page
        self.host = page.locator("[data-ready]").nth(number)
        self.host.wait_for()
        self.map = self.host.locator("canvas").nth(0)
        self.big = self.host.locator("canvas").nth(1)
        self.strip = self.host.locator(".strip")
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
            "(host, [q, k]) => { const { left, above, cell } = host.explorer.frame();"
            " return { x: left + (k + 0.5) * cell, y: above + (q + 0.5) * cell }; }",
            [query, key],
        )

    def thumbnail(self, row: int, column: int) -> dict[str, float]:
        """Where a thumbnail lies in the map."""
        heads = self.host.evaluate("host => host.explorer.heads")
        x, y = self.host.evaluate("(host, i) => host.explorer.spot(i)", row * heads + column)
        return {"x": x + 12, "y": y + 12}
