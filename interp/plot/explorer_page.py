"""What an explorer's page carries: what is shown at first, a still picture with its words, and the data that fit."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from jaxtyping import UInt8

from interp.plot import packing, still
from interp.plot.attention_run import StackName
from interp.plot.attention_stack import AttentionStack
from interp.plot.opening import SHOWN_RUNS, Opening, Quantity

STILL = 70_000
"""Pixels of all thumbnails together in the still picture, so that it stays small."""

RESERVE = 900
"""Bytes for what is not known before the data are packed: the sentence on what was pooled, and the id."""


class Page:
    """The page of an explorer, packed when it is made, so that errors come from there and not from the display.

    Attributes:
        stacks: by name, what is shown.
        meta: what the script is told, with the data.
        picture: of all heads, for where there is no script, as PNG.
        pooled: (stack, layer, head) of which there is a pooled map alone.
    """

    def __init__(self, stacks: dict[StackName, AttentionStack], page_bytes: int, opening: Opening):
        self.stacks, self._bytes, self._opening = stacks, page_bytes, opening
        self.pooled: list[tuple[StackName, int, int]] = []
        listed = list(stacks.values())
        shown = [self._shown(stack) for stack in listed]
        levels = packing.levels_for(run for stack in listed for run in stack.runs)
        self.meta = self._describe(shown, levels)
        ranking = self._ranking(shown)
        pixels = self.map(int(np.clip((STILL / len(ranking)) ** 0.5, 20, 96)))
        self.picture, self._width = still.png(pixels, still.color_table()), pixels.shape[1]
        room = page_bytes - len(self.document().encode()) - RESERVE
        pieces = [packing.Piece.of(stack, levels) for stack in listed]
        fitted, self.meta["pooled"] = packing.fit(pieces, ranking, room)
        for stack, meta, (data, kept) in zip(listed, self.meta["stacks"], fitted, strict=True):
            gone = sorted(set(range(stack.size)) - set(kept))
            self.pooled.extend((stack.name, *stack.at(i)) for i in gone)
            meta |= {"kept": kept if gone else None, "data": data}
        if self.pooled:
            self.meta["notes"].insert(0, self._loss())
        self.meta["id"] = packing.identity(self.meta)

    def document(self) -> str:
        """The page."""
        return packing.page(self.meta["title"], self.fragment())

    def fragment(self) -> str:
        """The explorer as HTML, to put into a page or a notebook's output."""
        width = self._width * (1 if self._width > 480 else 2)
        return packing.fragment(self.meta, self.picture, width, self.lines())

    def map(self, thumb: int) -> UInt8[np.ndarray, "row column"]:
        """All heads of all stacks as pixels, in thumbnails of that size."""
        return still.below([stack.map(thumb) for stack in self.stacks.values()])

    def lines(self) -> list[tuple[str, str]]:
        """The summary: title, sizes, the best heads by every score with the colour of its badge, and the notes."""
        lines = [(line, "") for line in (self._opening.title, self._headline()) if line]
        for stack in self.stacks.values():
            lines += [(self._where(stack) + line, color) for line, color in stack.best()]
        return lines + [(note, "") for note in self.meta["notes"]]

    def text(self) -> str:
        """The summary without colours."""
        return "\n".join(line for line, _ in self.lines())

    # ------------------------------------------------------------------ what is shown at first

    def _shown(self, stack: AttentionStack) -> int:
        """Which head of all is shown large at first."""
        opening = self._opening
        here = stack.name == opening.stack
        if opening.head is not None and here:
            at, head = stack.place(*opening.head)
            return at * stack.n_heads + head
        if not here:
            return stack.shown(opening.kind, opening.run, -1)
        return stack.shown(opening.kind, opening.run, opening.sort, opening.lock)

    def _ranking(self, shown: list[int]) -> list[tuple[int, int]]:
        """All (stack, head) by their places, those shown at first before the others, then the most telling."""
        first = [*enumerate(shown)]
        first.sort(key=lambda one: list(self.stacks)[one[0]] != self._opening.stack)
        worths = [stack.worth() for stack in self.stacks.values()]
        every = [(i, head) for i, worth in enumerate(worths) for head in range(len(worth))]
        order = np.argsort(-np.concatenate(worths), kind="stable").tolist()
        return [*first, *(every[i] for i in order if every[i] not in first)]

    # ------------------------------------------------------------------ words

    def _describe(self, shown: list[int], levels: int) -> dict[str, Any]:
        """What the script is told, without the data."""
        opening, stacks = self._opening, list(self.stacks.values())
        texts = list(dict.fromkeys(text for stack in stacks for text in (stack.keys, stack.queries)))
        of_stacks = [self._where(stack) + note for stack in stacks for run in stack.runs for note in run.notes]
        return {
            "id": "",
            "runs": list(opening.run_names[: len(stacks[0].runs)]),
            "texts": [text.describe() for text in texts],
            "stacks": [stack.describe(head, texts) for stack, head in zip(stacks, shown, strict=True)],
            "stack": list(self.stacks).index(opening.stack),
            "levels": levels,
            "alphabet": packing.ALPHABET.tobytes().decode(),
            "pooled": 0,
            "sort": opening.sort,
            "locked": opening.head is not None,
            "lock": None if opening.lock == (None, None) else opening.lock,
            "kind": get_args(Quantity).index(opening.kind),
            "run": SHOWN_RUNS.index(opening.run),
            "notes": list(dict.fromkeys([*opening.notes, *of_stacks])),
            "title": opening.title or self._headline(),
            "summary": self._headline(),
            "palette": still.PALETTE,
            "style": packing.carried("explorer.css"),
        }

    def _headline(self) -> str:
        stacks = list(self.stacks.values())
        if len(stacks) == 1:
            text = f"{'Cross-attention' if stacks[0].cross else 'Attention'} of {stacks[0].headline()}"
        else:
            text = "; ".join(f"{stack.title}: {stack.headline()}" for stack in stacks).capitalize()
        return text + (f", {' and '.join(self._opening.run_names)}" if len(stacks[0].runs) == 2 else "")

    def _where(self, stack: AttentionStack) -> str:
        """How a line about one of several stacks begins."""
        return f"{stack.title.capitalize()}: " if len(self.stacks) > 1 else ""

    def _loss(self) -> str:
        """What was pooled, and why these."""
        scored = [bool(stack.scores) for stack in self.stacks.values()]
        by = ["score lowest"] * any(scored)
        by += ["attend least to any single token besides the first"] * (not all(scored))
        every = sum(stack.size for stack in self.stacks.values())
        return (
            f"Pooled to stay within {self._bytes / 1e6:g} MB: {len(self.pooled)} of {every} heads (\u25a6), those "
            f"that {' or '.join(by)}, show of each block of tokens the largest entry. page_bytes= sets the budget."
        )
