"""The attention explorer: all heads of a run at once, in a notebook, a page or a picture.

    explorer = attention(cache, model.to_str_tokens(text))
    explorer                         # at the end of a notebook cell
    explorer.to_html("page.html")    # opens offline; .to_png and .to_svg need no browser
    explorer.figure(5, 1)            # one head, plotly

What the page lets one do is in explorer.js; what it is given, and what that costs, in packing.py.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8

from interp.errors import ConfigError, check_choice, describe
from interp.files import atomic_path
from interp.indices import head_index, layer_index
from interp.keywords import known_keywords
from interp.model import ActivationCache, head_label
from interp.plot import packing, still
from interp.plot.attention_run import AttentionRun, answer_ids, comparable, read_run
from interp.plot.labels import Score, Tokens, read_scores, source_of, token_labels
from interp.plot.style import clip, printable
from interp.text import token_names

if TYPE_CHECKING:
    import plotly.graph_objects

    from interp.plot.widget import AttentionWidget

Quantity = Literal["attention", "weighted", "contribution"]
"""What is drawn of a head: `A`; `A |v W_O|`; the contribution to the logit difference."""

Run = Literal["clean", "patched", "difference"]
"""The run that it is drawn of; the difference is patched - clean."""

PAGE_BYTES = 8_000_000
"""The byte budget of a page. 12 x 12 heads x 128 tokens take 1.3 MB at most, 30 x 9 heads x 256 tokens about 6.6 MB."""

STILL = 85_000
"""Pixels of all thumbnails together in the still picture, so that it stays small."""

BADGE = 0.3
"""A score is shown as a badge from this part of its unit on (in the page, until the reader moves the threshold)."""


@known_keywords
def attention(
    cache: ActivationCache,
    tokens: Tokens | None = None,
    scores: Mapping[str, Any] | None = None,
    *,
    batch: int = 0,
    correct: int | str | None = None,
    incorrect: int | str | None = None,
    patched: ActivationCache | None = None,
    patched_tokens: Tokens | None = None,
    title: str | None = None,
    note: str = "",
    kind: Quantity = "attention",
    sort_by: str | None = None,
    head: tuple[int, int] | None = None,
    page_bytes: int = PAGE_BYTES,
) -> AttentionExplorer:
    """Every head's attention in one sequence of a run.

    Args:
        cache: of a run over whole sequences, with `hook_pattern` of at least one layer. `hook_v` of the same layers
            adds value-weighted attention, `A |v W_O|`. Weights are read now, and not again.
        tokens: a string a position; or the text or the ids that the model ran on ([pos] or [batch, pos]); None labels
            the positions with their numbers.
        scores: numbers [layer, head] by name, shown as badges: a mapping, or an `xarray.Dataset`. Of a Dataset of
            `head_scores` the page says which prompts it is of.
        batch: which sequence, negative from the end.
        correct, incorrect: tokens, as text or ids. They add what each key contributes to `logit(correct)`, or with both
            to `logit(correct) - logit(incorrect)`, of each query by this head's direct path, at the norms' scales in
            this run. This needs `hook_scale` of the norms.
        patched: a second run with as many positions: adds patched and patched - clean.
        patched_tokens: of the second run, where they differ; as `tokens`.
        title: above the heads, and the name of the page; by default the text, where `tokens` is one.
        note: a sentence below the title, such as where the scores are from.
        kind: what is drawn at first: "attention", "weighted" or, with `correct`, "contribution".
        sort_by: a score that orders the heads at first.
        head: (layer, head) that is shown at first; by default the best by `sort_by`, or else by the first score, and
            for contributions the one that adds most, of either sign, at the last position.
        page_bytes: the most that the page may take. Where not all heads fit, those that score lowest are left out of
            the page (without scores: those that attend least to any single token besides the first), and it says so.

    Raises:
        HookNotFoundError: the cache lacks the patterns, or what `correct` or `kind` needs.
        ShapeError: positions, scores or the second run do not fit the patterns; `batch` out of range.
        RangeError: NaN in patterns or scores, or patterns outside [0, 1].
        TokenError: tokens do not fit the positions, or the model cannot read them.
        ConfigError: an unknown score, kind or head, answers that are no two tokens, or a budget that holds no head.
        CacheError: the model's weights changed since the run.
    """
    for name, given in (("cache", cache), ("patched", patched)):
        if not isinstance(given, ActivationCache) and (given is not None or name == "cache"):
            raise ConfigError(
                f"{name} is an ActivationCache, not {type(given).__name__}; run_with_cache returns (logits, cache)"
            )
    if correct is None and incorrect is not None:
        raise ConfigError("incorrect= goes with correct=: the difference of their logits is what is shown")
    answers = None if correct is None else answer_ids(cache.model, correct, incorrect)
    runs = [read_run(one, batch, answers) for one in (cache, patched) if one is not None]
    if len(runs) == 2:
        runs = comparable(*runs)
    runs[0].values(0, 0, kind)  # which raises where it cannot be drawn
    n = runs[0].pattern.shape[-1]
    labels = [token_labels(cache, tokens, n, batch, "tokens")]
    if patched is not None:
        labels.append(
            labels[0] if patched_tokens is None else token_labels(patched, patched_tokens, n, batch, "patched_tokens")
        )
    elif patched_tokens is not None:
        raise ConfigError("patched_tokens= without patched=")
    badges = read_scores(scores, runs[0].layers, cache.cfg.n_layers, runs[0].pattern.shape[1])
    names = [score.name for score in badges]
    if sort_by is not None:
        if not names:
            raise ConfigError(f"sort_by = {describe(sort_by)} without scores= to sort by")
        check_choice("sort_by", sort_by, names)
    answer = None
    if answers is not None:
        named = [one for one in answers if one is not None]
        names_of_both = token_names(cache.model.output_tokenizer, torch.tensor(named))
        answer = " \u2212 ".join(f"logit “{name}”" for name in names_of_both)
    if head is not None and not (isinstance(head, tuple | list) and len(head) == 2):
        raise ConfigError(f"head = {describe(head)}; allowed: (layer, head)")
    if isinstance(page_bytes, bool) or not isinstance(page_bytes, int | float):
        raise ConfigError(f"page_bytes = {describe(page_bytes)}; allowed: a number of bytes")
    if title is None:
        title = f"Attention on “{clip(tokens, 100)}”" if isinstance(tokens, str) else ""
    notes = [printable(line) for line in (source_of(scores), note) if line]
    sort = -1 if sort_by is None else names.index(sort_by)
    opening = Opening(printable(title), notes, kind, sort, head)
    return AttentionExplorer(runs, labels, badges, answer, cache.cfg.n_layers, page_bytes, opening)


@dataclass(frozen=True)
class Opening:
    """What a reader sees before touching anything.

    Attributes:
        title: above the heads, or "".
        notes: sentences below it.
        kind: what is drawn.
        sort: the index of the score that orders the heads, or -1.
        head: (layer, head) shown large, or None for the one that says most.
    """

    title: str
    notes: list[str]
    kind: Quantity
    sort: int
    head: tuple[int, int] | None


class AttentionExplorer:
    """What `attention` returns. At the end of a notebook cell it shows itself.

    A notebook that is not trusted, or a browser without JavaScript, shows a picture of all heads and a summary.

    Attributes:
        runs: the run, and the patched one if there is one.
        tokens: a label a position of each run, white space made visible.
        scores: the badges.
        left_out: (layer, head) that the page lacks for its budget; figures and values have them.
    """

    def __init__(
        self,
        runs: list[AttentionRun],
        tokens: list[list[str]],
        scores: list[Score],
        answer: str | None,
        n_layers: int,
        page_bytes: int,
        opening: Opening,
    ):
        self.runs, self.tokens, self.scores, self.left_out = runs, tokens, scores, []
        self._answer, self._n_layers, self._page_bytes = answer, n_layers, page_bytes
        self._n_heads, self._title = runs[0].pattern.shape[1], opening.title
        self._pack(opening)  # now, so that errors come from here and not from the display

    # ------------------------------------------------------------------ values

    def values(
        self, layer: int, head: int, kind: Quantity = "attention", run: Run = "clean"
    ) -> Float[np.ndarray, "query_pos key_pos"]:
        """One head's numbers, exactly, NaN where masked. Raises `ConfigError` for what this explorer does not have."""
        at, head = self._place(layer, head)
        check_choice("run", run, get_args(Run))
        if run != "clean" and len(self.runs) == 1:
            raise ConfigError(f"run = {describe(run)}, but there is no second run: give patched= to attention()")
        if run != "difference":
            return self.runs[run == "patched"].values(at, head, kind)
        clean, patched = (one.values(at, head, kind) for one in self.runs)
        both = np.isnan(clean) & np.isnan(patched)
        return np.where(both, np.float32(np.nan), np.nan_to_num(patched) - np.nan_to_num(clean))

    def _place(self, layer: int, head: int) -> tuple[int, int]:
        layers, heads = self.runs[0].layers, self._n_heads
        layer = layer_index(layer, self._n_layers, "layer")
        if layer not in layers:
            raise ConfigError(f"layer = {layer} is not in the cache; allowed: {', '.join(map(str, layers))}")
        return layers.index(layer), head_index(head, heads)

    def figure(
        self, layer: int, head: int, kind: Quantity = "attention", run: Run = "clean"
    ) -> plotly.graph_objects.Figure:
        """One head as a plotly figure. Errors as for `values`."""
        from interp.plot.figures import heatmap

        values, tokens = self.values(layer, head, kind, run), self.tokens[run == "patched"]
        title = self._name(layer, head) + ("" if run == "clean" else f", {run}")
        figure = heatmap(values, tokens, tokens, title=title, **_scale(kind, run))
        return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")

    def layer_figure(self, layer: int, kind: Quantity = "attention", run: Run = "clean") -> plotly.graph_objects.Figure:
        """All heads of a layer as one plotly figure with one colour scale. Errors as for `values`."""
        from interp.plot.figures import heatmaps

        heads, tokens = range(self._n_heads), self.tokens[run == "patched"]
        values = np.stack([self.values(layer, head, kind, run) for head in heads])
        title = "" if run == "clean" else run
        return heatmaps(values, [self._name(layer, head) for head in heads], tokens, tokens, title=title,
                        **_scale(kind, run))  # fmt: skip

    def _name(self, layer: int, head: int) -> str:
        at, head = self._place(layer, head)
        return head_label(self.runs[0].layers[at], head)

    # ------------------------------------------------------------------ the page

    def _pack(self, opening: Opening) -> None:
        """Everything that the page carries: what is shown at first, the still picture, and the data that fit."""
        shown = self._shown(opening)
        self._meta = self._describe(opening, shown)
        ranking = [shown, *(i for i in self._ranking() if i != shown)]
        pixels = self._map(int(np.clip((STILL / len(ranking)) ** 0.5, 20, 96)))
        self._still, self._still_width = still.png(pixels, still.color_table()), pixels.shape[1]
        room = self._page_bytes - len(self._page().encode()) - RESERVE
        data, kept = packing.fit(self.runs, self._meta["causal"], self._meta["levels"], ranking, room)
        gone = sorted(set(ranking) - set(kept))
        self.left_out = [self._at(i) for i in gone]
        if gone:
            self._meta["notes"].insert(0, self._loss())
        self._meta |= {"kept": kept if gone else None, "data": data}
        self._meta["id"] = packing.identity(self._meta)

    def _shown(self, opening: Opening) -> int:
        """Which head of all is shown large at first."""
        if opening.head is not None:
            at, inner = self._place(*opening.head)
            return at * self._n_heads + inner
        if opening.kind == "contribution":
            return int(self.runs[0].last_contributions().argmax())
        return int(self.scores[max(opening.sort, 0)].values.argmax()) if self.scores else 0

    def _at(self, i: int) -> tuple[int, int]:
        """The (layer, head) of the i-th head of all."""
        return self.runs[0].layers[i // self._n_heads], i % self._n_heads

    def _ranking(self) -> list[int]:
        """Heads, the most telling first: by scores, or by what they attend to besides the first token."""
        if self.scores:
            worth = np.max([score.values / score.unit for score in self.scores], axis=0)
        else:
            others = np.nan_to_num(self.runs[0].pattern)
            others[..., self.runs[0].first] = 0
            worth = others.max(axis=-1).mean(axis=-1)
        return np.argsort(-worth.ravel(), kind="stable").tolist()

    def _loss(self) -> str:
        by = "score lowest" if self.scores else "attend least to any single token besides the first"
        every = len(self.runs[0].layers) * self._n_heads
        return (
            f"Left out to stay within {self._page_bytes / 1e6:g} MB: {len(self.left_out)} of {every} heads, those that "
            f"{by}. page_bytes= sets the budget."
        )

    def _describe(self, opening: Opening, shown: int) -> dict[str, Any]:
        run = self.runs[0]
        same = len(self.runs) == 1 or self.tokens[0] == self.tokens[1]
        notes = list(dict.fromkeys([*opening.notes, *(note for one in self.runs for note in one.notes)]))
        return {
            "id": "",
            "n": run.pattern.shape[-1],
            "heads": run.pattern.shape[1],
            "layers": run.layers,
            "runs": ["clean", "patched"][: len(self.runs)],
            "levels": packing.levels_for(self.runs),
            "causal": run.attention_dir == "causal",
            "tokens": self.tokens[0],
            "patchedTokens": None if same else self.tokens[1],
            "first": run.first,
            "padding": run.padding,
            "scores": [
                {
                    "name": score.name,
                    "short": score.short,
                    "unit": round(score.unit, 6),
                    "color": score.color,
                    "values": [round(value, 3) for value in score.values.ravel().tolist()],
                }
                for score in self.scores
            ],
            "sort": opening.sort,
            "head": shown,
            "kind": get_args(Quantity).index(opening.kind),
            "norms": run.value_norms is not None,
            "answer": self._answer,
            "why": [
                "",
                "" if run.value_norms is not None else "the cache lacks hook_v",
                "" if self._answer else "give correct= in Python",
            ],
            "notes": notes,
            "title": self._title or self._headline(),
            "summary": self._headline(),
            "palette": still.PALETTE,
            "style": packing.source("explorer.css"),
            "kept": None,
            "data": "",
        }

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page, at most `page_bytes`, that opens offline."""
        _write(path, self._page().encode())

    def _page(self) -> str:
        return packing.page(self._meta["title"], self._html())

    def _html(self) -> str:
        width = self._still_width * (1 if self._still_width > 480 else 2)
        return packing.fragment(self._meta, self._still, width, self._lines())

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        bundle = {
            "text/plain": self._text(),
            "image/png": base64.b64encode(self._still).decode(),
            "text/html": self._html(),
        }
        return {k: v for k, v in bundle.items() if (not include or k in include) and k not in (exclude or ())}

    def widget(self) -> AttentionWidget:
        """The same explorer as a Jupyter widget whose `selection` follows the reader's. Needs the extra `widget`."""
        try:
            from interp.plot.widget import AttentionWidget
        except ImportError as error:
            raise ConfigError(f"the widget needs anywidget: pip install 'interp[widget]' ({error})") from error
        return AttentionWidget(self._meta)

    # ------------------------------------------------------------------ pictures and words

    def to_png(self, path: str | os.PathLike[str], layer: int | None = None, head: int | None = None) -> None:
        """Write the map of all heads as a PNG, or one head (whose tokens are then only in `to_svg`)."""
        pixels = self._pixels(layer, head)
        scale = 2 if layer is None else max(1, 640 // len(pixels))
        _write(path, still.png(pixels, still.color_table(), scale))

    def to_svg(self, path: str | os.PathLike[str], layer: int | None = None, head: int | None = None) -> None:
        """Write the map of all heads with its summary as an SVG, or one head with its tokens."""
        pixels = self._pixels(layer, head)
        if layer is None or head is None:
            text = still.map_svg(pixels, self._lines())
        else:
            text = still.head_svg(pixels, self.tokens[0], self._name(layer, head))
        _write(path, text.encode("utf-8", "backslashreplace"))

    def _pixels(self, layer: int | None, head: int | None) -> UInt8[np.ndarray, "rows columns"]:
        if (layer is None) != (head is None):
            raise ConfigError(f"layer = {layer}, head = {head}: give both for one head, or neither for the map of all")
        if layer is None or head is None:
            return self._map(48)
        return still.levels(still.pool(self.values(layer, head), 640), 1.0)

    def _map(self, thumb: int) -> np.ndarray:
        shown = [
            [i % len(still.SCORE_COLORS) for i, s in enumerate(self.scores) if s.values.flat[head] / s.unit >= BADGE]
            for head in range(len(self.runs[0].layers) * self._n_heads)
        ]
        return still.map_pixels(self.runs[0].pattern, self.runs[0].layers, shown, thumb)

    def _headline(self) -> str:
        layers, heads, n = self.runs[0].pattern.shape[:3]
        text = f"Attention of {layers} layers x {heads} heads over {n} tokens"
        return text + (", clean and patched" if len(self.runs) == 2 else "")

    def _lines(self) -> list[tuple[str, str]]:
        """The summary: title, sizes, the best heads by every score with the colour of its badge, and the notes."""
        lines = [(line, "") for line in (self._title, self._headline()) if line]
        for score in self.scores:
            best = np.argsort(-score.values.ravel(), kind="stable")[:5].tolist()
            named = ", ".join(f"{head_label(*self._at(i))} {score.values.flat[i]:.2f}" for i in best)
            lines.append((f"{printable(score.name)}: {named}", score.color))
        return lines + [(note, "") for note in self._meta["notes"]]

    def _text(self) -> str:
        return "\n".join(line for line, _ in self._lines())

    def __repr__(self) -> str:
        return self._text()


RESERVE = 800  # bytes for what is not known before the data are packed: the sentence on what was left out, and the id


def _scale(kind: Quantity, run: Run) -> dict[str, Any]:
    """What a heat-map is told of these values besides its title and labels."""
    signed = kind == "contribution" or run == "difference"
    limits = (0.0, 1.0) if kind == "attention" and not signed else None
    return {"x": "key", "y": "query", "value": kind, "signed": signed, "limits": limits}


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    with atomic_path(path) as file:
        file.write_bytes(content)
