"""The attention explorer: all heads of a run at once, in a notebook, a page or a picture.

    explorer = attention(cache, model.to_str_tokens(text))
    explorer                         # at the end of a notebook cell
    explorer.to_html("page.html")    # opens offline; .to_png and .to_svg need no browser
    explorer.figure(5, 1)            # one head, plotly

What the page carries is in explorer_page.py, and what that costs in packing.py; what it lets one do is in explorer.js.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float, UInt8

from interp.errors import ConfigError, check_choice, describe
from interp.files import atomic_path
from interp.keywords import known_keywords
from interp.model import ActivationCache, PairCache
from interp.plot import still
from interp.plot.attention_given import Given, sources_of
from interp.plot.attention_run import StackName
from interp.plot.attention_stack import AttentionStack
from interp.plot.explorer_page import Page
from interp.plot.labels import Tokens
from interp.plot.opening import (
    SHOWN_RUNS,
    Opening,
    Quantity,
    Run,
    ShownRun,
    check_caches,
    sorting,
    title_of,
    two_names,
)
from interp.plot.style import printable

if TYPE_CHECKING:
    import plotly.graph_objects

    from interp.plot.widget import AttentionWidget

PAGE_BYTES = 8_000_000
"""The byte budget of a page. 12 x 12 heads x 128 tokens take 1.3 MB at most, 30 x 9 heads x 256 tokens about 6.3 MB."""


@known_keywords
def attention(
    cache: ActivationCache | PairCache,
    tokens: Tokens | None = None,
    scores: Mapping[Any, Any] | None = None,  # keys of any type, so that an `xarray.Dataset` is one
    *,
    source_tokens: Tokens | None = None,
    names: Mapping[str, str] | None = None,
    batch: int = 0,
    correct: int | str | None = None,
    incorrect: int | str | None = None,
    patched: ActivationCache | PairCache | None = None,
    patched_tokens: Tokens | None = None,
    patched_source_tokens: Tokens | None = None,
    run_names: tuple[str, str] = ("clean", "patched"),
    title: str | None = None,
    note: str = "",
    stack: StackName | None = None,
    kind: Quantity | None = None,
    run: ShownRun = "clean",
    sort_by: str | None = None,
    head: tuple[int, int] | None = None,
    lock_query: int | None = None,
    lock_key: int | None = None,
    page_bytes: int = PAGE_BYTES,
) -> AttentionExplorer:
    """Every head's attention in one sequence of a run.

    A run of an encoder with a decoder has three stacks of heads, between which the page lets one choose: "encoder",
    "decoder" and "cross_attn", whose queries are positions of the target and whose keys are positions of the source. A
    run of one model has one of the first two: "encoder" where attention looks both ways.

    Args:
        cache: of a run over whole sequences, with `hook_pattern` of at least one layer. `hook_v` of the same layers
            adds value-weighted attention, `A |v W_O|`. Weights are read now, and not again.
        tokens: a string a position; or the text or the ids that the model ran on ([pos] or [batch, pos]); None labels
            the positions with their numbers. Where there is a source, these are the tokens of the target.
        scores: numbers [layer, head] by name, shown as badges with their sign: a mapping, or an `xarray.Dataset`. Of a
            Dataset of `head_scores` the page says which prompts it is of. Where there are several stacks, a mapping
            from their names to such mappings. The standard errors in such a Dataset are no badges.
        source_tokens: of the source; as `tokens`.
        names: of heads, a mapping such as {"induction": "L1H0"} (of a pair's run "decoder.L1H0"); by default those
            that a compiled circuit declares, which are its `nodes`.
        batch: which sequence, negative from the end.
        correct, incorrect: tokens, as text or ids. They add what each key contributes to `logit(correct)`, or with both
            to `logit(correct) - logit(incorrect)`, of each query by this head's direct path, at the norms' scales in
            this run. This needs `hook_scale` of the norms. The heads of an encoder beside a decoder have none.
        patched: a second run with as many positions: adds patched, patched - clean, and all three side by side. It may
            be of a sweep's cell (`attention_of_cell`), of another text, or of another model of the same size.
        patched_tokens, patched_source_tokens: of the second run, where they differ; as `tokens`.
        run_names: what the page calls the two runs, such as ("base", "tuned") of two models.
        title: above the heads, and the name of the page; by default the text, where `tokens` is one.
        note: a sentence below the title, such as where the scores are from.
        stack: whose heads are shown at first; by default the cross-attention, if there is any.
        kind: what is drawn at first: "attention", "weighted" or "contribution", which is the default with `correct`
            where this stack has contributions.
        run: of which run at first: "clean", or with `patched` also "patched", "difference" or "side by side".
        sort_by: a score of this stack that orders the heads at first.
        head: (layer, head) that is shown and locked at first; by default the head that attends most from `lock_query`
            to `lock_key`; or whose values differ most, where `run` shows the difference; or that adds most to the
            contributions, of either sign, at the last position; or the best by `sort_by`; or the one that looks most
            beyond the first token, of all or of those that reach half of the best by the first score.
        lock_query, lock_key: positions of this stack that are locked at first, negative from the end.
        page_bytes: the most that the page may take. Where not all heads fit, the page has only a pooled map of those
            that score lowest (without scores: that attend least to any single token besides the first), and says so.

    Raises:
        HookNotFoundError: the cache lacks the patterns, or what `correct` or `kind` needs.
        ShapeError: positions, scores or the second run do not fit the patterns; `batch` out of range.
        RangeError: NaN in patterns or scores, or patterns outside [0, 1].
        TokenError: tokens do not fit the positions, or the model cannot read them.
        ConfigError: an unknown score, stack, kind or head, answers that are no two tokens, tokens of a text that is not
            there, or a budget that holds no head.
        CacheError: the model's weights changed since the run.
    """
    check_caches(cache, patched)
    if correct is None and incorrect is not None:
        raise ConfigError("incorrect= goes with correct=: the difference of their logits is what is shown")
    if isinstance(page_bytes, bool) or not isinstance(page_bytes, int | float):
        raise ConfigError(f"page_bytes = {describe(page_bytes)}; allowed: a number of bytes")
    texts = {"tokens": tokens, "source_tokens": source_tokens, "patched_tokens": patched_tokens}
    texts |= {"patched_source_tokens": patched_source_tokens}
    given = Given(cache, patched, batch, texts, names)
    stacks = given.stacks(correct, incorrect, scores)
    if stack is None:
        stack = next(iter(stacks)) if "cross_attn" not in stacks else "cross_attn"
    check_choice("stack", stack, list(stacks))
    if kind is None:
        kind = "contribution" if "contribution" in stacks[stack].kinds else "attention"
    stacks[stack].runs[0].values(0, 0, kind)  # which raises where it cannot be drawn
    check_choice("run", run, SHOWN_RUNS)
    if run != "clean" and patched is None:
        raise ConfigError(f"run = {describe(run)} without patched=: there is no second run")
    sort, lock = sorting(stacks[stack], sort_by), stacks[stack].locked(lock_query, lock_key)
    if head is not None and not (isinstance(head, tuple | list) and len(head) == 2):
        raise ConfigError(f"head = {describe(head)}; allowed: (layer, head)")
    title = title_of(source_tokens, tokens) if title is None else title
    notes = [printable(line) for line in (*sources_of(scores), note) if line]
    opening = Opening(printable(title), notes, stack, kind, run, sort, head, lock, two_names(run_names))
    return AttentionExplorer(stacks, page_bytes, opening)


class AttentionExplorer:
    """What `attention` returns. At the end of a notebook cell it shows itself.

    A notebook that is not trusted, or a browser without JavaScript, shows a picture of all heads and a summary.

    Attributes:
        stacks: by name, what is shown: the runs, their tokens and their scores.
        pooled: (stack, layer, head) of which the page has a pooled map alone, for its budget; figures and values are
            whole.
    """

    def __init__(self, stacks: dict[StackName, AttentionStack], page_bytes: int, opening: Opening):
        self.stacks, self._opening = stacks, opening
        self._page = Page(stacks, page_bytes, opening)
        self.pooled = self._page.pooled

    # ------------------------------------------------------------------ values

    def values(
        self,
        layer: int,
        head: int,
        kind: Quantity = "attention",
        run: Run = "clean",
        *,
        stack: StackName | None = None,
    ) -> Float[np.ndarray, "query_pos key_pos"]:
        """One head's numbers, exactly, NaN where masked; keys of cross-attention are the positions of the source.

        `stack` None is the one that the page opens on. Raises `ConfigError` for what this explorer does not have.
        """
        shown = self._stack(stack)
        check_choice("run", run, get_args(Run))
        return shown.values(layer, head, kind, run)

    def _stack(self, name: StackName | None) -> AttentionStack:
        name = self._opening.stack if name is None else name
        check_choice("stack", name, list(self.stacks))
        return self.stacks[name]

    def figure(
        self,
        layer: int,
        head: int,
        kind: Quantity = "attention",
        run: Run = "clean",
        *,
        stack: StackName | None = None,
    ) -> plotly.graph_objects.Figure:
        """One head as a plotly figure. Arguments and errors as for `values`."""
        from interp.plot.figures import heatmap

        values, shown = self.values(layer, head, kind, run, stack=stack), self._stack(stack)
        title = ", ".join(part for part in (shown.name_of(layer, head), self._run_in_words(run)) if part)
        figure = heatmap(values, *shown.labels(run), title=title, **_scale(shown, kind, run))
        return figure.update_yaxes(scaleanchor="x", constrain="domain").update_xaxes(constrain="domain")

    def layer_figure(
        self, layer: int, kind: Quantity = "attention", run: Run = "clean", *, stack: StackName | None = None
    ) -> plotly.graph_objects.Figure:
        """All heads of a layer as one plotly figure with one colour scale. Arguments and errors as for `values`."""
        from interp.plot.figures import heatmaps

        shown = self._stack(stack)
        heads = range(shown.n_heads)
        values = np.stack([self.values(layer, head, kind, run, stack=stack) for head in heads])
        title, names = self._run_in_words(run), [shown.name_of(layer, head) for head in heads]
        return heatmaps(values, names, *shown.labels(run), title=title, **_scale(shown, kind, run))

    def _run_in_words(self, run: Run) -> str:
        """What a run is called, as in the page; "" where there is but one."""
        first, second = self._opening.run_names
        names = {"clean": first, "patched": second, "difference": f"{second} \u2212 {first}"}
        return names[run] if len(self._stack(None).runs) == 2 else ""

    # ------------------------------------------------------------------ the page

    @property
    def wide(self) -> bool:
        """Whether a page should give it all its width: layers of more than two heads, two texts, or a long one."""
        shapes = [stack.runs[0].pattern.shape for stack in self.stacks.values()]
        return len(shapes) > 1 or shapes[0][1] > 2 or max(shapes[0][2:]) > 12

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page, at most `page_bytes`, that opens offline."""
        _write(path, self._page.document().encode())

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        bundle = {
            "text/plain": self._page.text(),
            "image/png": base64.b64encode(self._page.picture).decode(),
            "text/html": self._page.fragment(),
        }
        return {k: v for k, v in bundle.items() if (not include or k in include) and k not in (exclude or ())}

    def widget(self) -> AttentionWidget:
        """The same explorer as a Jupyter widget whose `selection` follows the reader's. Needs the extra `widget`."""
        try:
            from interp.plot.widget import AttentionWidget
        except ImportError as error:
            raise ConfigError(f"the widget needs anywidget: pip install 'interp[widget]' ({error})") from error
        return AttentionWidget(self._page.meta)

    # ------------------------------------------------------------------ pictures and words

    def to_png(
        self,
        path: str | os.PathLike[str],
        layer: int | None = None,
        head: int | None = None,
        *,
        stack: StackName | None = None,
    ) -> None:
        """Write the map of all heads as a PNG, or one head (whose tokens are then only in `to_svg`)."""
        pixels = self._pixels(layer, head, stack)
        scale = 2 if layer is None else max(1, 640 // max(pixels.shape))
        _write(path, still.png(pixels, still.color_table(), scale))

    def to_svg(
        self,
        path: str | os.PathLike[str],
        layer: int | None = None,
        head: int | None = None,
        *,
        stack: StackName | None = None,
    ) -> None:
        """Write the map of all heads with its summary as an SVG, or one head with its tokens."""
        pixels = self._pixels(layer, head, stack)
        if layer is None or head is None:
            text = still.map_svg(pixels, self._page.lines())
        else:
            shown = self._stack(stack)
            text = still.head_svg(pixels, *shown.labels("clean"), shown.name_of(layer, head))
        _write(path, text.encode("utf-8", "backslashreplace"))

    def _pixels(
        self, layer: int | None, head: int | None, stack: StackName | None
    ) -> UInt8[np.ndarray, "rows columns"]:
        if (layer is None) != (head is None):
            raise ConfigError(f"layer = {layer}, head = {head}: give both for one head, or neither for the map of all")
        if layer is None or head is None:
            if stack is not None:
                raise ConfigError(f"stack = {describe(stack)} without a layer and a head: the map is of all stacks")
            return self._page.map(48)
        return still.levels(still.pool(self.values(layer, head, stack=stack), 640), 1.0)

    def __repr__(self) -> str:
        return self._page.text()


def _scale(stack: AttentionStack, kind: Quantity, run: Run) -> dict[str, Any]:
    """What a heat-map is told of these values besides its title and labels."""
    signed = kind == "contribution" or run == "difference"
    limits = (0.0, 1.0) if kind == "attention" and not signed else None
    y, x = stack.sides
    value = {"weighted": "attention \u00d7 |v W_O|", "contribution": f"contribution to {stack.answer}"}.get(kind, kind)
    return {"x": x, "y": y, "value": value, "signed": signed, "limits": limits}


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    with atomic_path(path) as file:
        file.write_bytes(content)
