import base64
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xarray as xr
from contrast import contrast
from einops import einsum
from grid import GRID, Run, config, splits_logits, where
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuits.gallery.induction import induction_model
from interp import (
    ActivationCache,
    CacheError,
    ConfigError,
    HookedTransformer,
    HookNotFoundError,
    InterpError,
    RangeError,
    ShapeError,
    TokenError,
    TransformerConfig,
    Vocabulary,
)
from interp.heads import head_scores, head_scores_of
from interp.plot import AttentionExplorer, attention, packing, still
from interp.plot.attention_stack import AttentionStack

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "<img src=x onerror=alert(2)>", '"&amp;', "\u2028", "\ud800"]


def payload(html: str) -> dict[str, Any]:
    """The data that a page carries."""
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def stack_of(html: str) -> dict[str, Any]:
    """What a page with one stack of heads says of it."""
    (stack,) = payload(html)["stacks"]
    return stack


def only_stack(explorer: AttentionExplorer) -> AttentionStack:
    (stack,) = explorer.stacks.values()
    return stack


def page_of(explorer: Any) -> str:
    return explorer._repr_mimebundle_()["text/html"]


def small(n_layers: int = 2, n_heads: int = 3, **fields: Any) -> HookedTransformer:
    cfg = TransformerConfig(n_layers=n_layers, n_heads=n_heads, d_model=12, d_head=4, n_ctx=140, d_vocab=20, **fields)
    return HookedTransformer(cfg)


def cache_of(model: HookedTransformer, n: int = 7, **options: Any) -> ActivationCache:
    tokens = torch.randint(model.cfg.d_vocab, (2, n))
    with torch.no_grad():
        return model.run_with_cache(tokens, **options)[1]


# ---------------------------------------------------------------------------------------------- values


def test_values_are_the_patterns_with_nan_exactly_where_masked(run: Run):
    explorer = attention(run.cache, batch=1)
    for layer in range(run.cfg.n_layers):
        pattern, scores = run.cache["pattern", layer][1], run.cache["attn_scores", layer][1]
        for head in range(run.cfg.n_heads):
            values = explorer.values(layer, head)
            assert np.array_equal(np.isnan(values), scores[head].isneginf().numpy())
            assert np.array_equal(np.nan_to_num(values), pattern[head].float().numpy())


def test_value_weighted_attention_is_attention_times_the_norm_of_what_the_value_writes(run: Run):
    explorer = attention(run.cache)
    for layer, block in enumerate(run.model.blocks):
        v = run.cache["v", layer][0].repeat_interleave(run.cfg.n_heads // run.cfg.n_key_value_heads, dim=1)
        norms = einsum(v, block.attn.W_O, "pos head d_head, head d_head d_model -> head pos d_model").norm(dim=-1)
        for head in range(run.cfg.n_heads):
            wanted = run.cache["pattern", layer][0, head] * norms[head]
            got = np.nan_to_num(explorer.values(layer, head, "weighted"))
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-6)


@where(splits_logits)
def test_contributions_summed_over_the_keys_are_the_heads_row_of_logit_attrs(run: Run):
    for correct, incorrect in ((3, 5), (3, None)):
        explorer = attention(run.cache, batch=2, correct=correct, incorrect=incorrect)
        rows = run.cache.logit_attrs(run.cache.stack_head_results(), correct, incorrect)
        for layer in range(run.cfg.n_layers):
            for head in range(run.cfg.n_heads):
                summed = np.nansum(explorer.values(layer, head, "contribution"), axis=1)
                wanted = rows[f"L{layer}H{head}"][2].detach().numpy()
                np.testing.assert_allclose(summed, wanted, rtol=1e-4, atol=1e-5 * max(1, np.abs(wanted).max()))


def test_the_difference_is_patched_minus_clean(plain: Run):
    with torch.no_grad():
        _, patched = plain.model.run_with_cache(plain.tokens.flip(1))
    explorer = attention(plain.cache, patched=patched, correct=1, incorrect=2)
    for kind in ("attention", "weighted", "contribution"):
        clean, changed, difference = (explorer.values(2, 1, kind, run) for run in ("clean", "patched", "difference"))
        np.testing.assert_allclose(difference, changed - clean, atol=1e-6)


def test_runs_that_do_not_fit_each_other_are_not_compared(plain: Run):
    with torch.no_grad():
        _, shorter = plain.model.run_with_cache(plain.tokens[:, :5])
    with pytest.raises(ShapeError, match="both must agree"):
        attention(plain.cache, patched=shorter)


@where(lambda cfg: cfg.attention_dir == "causal")
def test_padding_is_masked_whether_scores_or_a_mask_say_so(run: Run):
    mask = torch.ones_like(run.tokens, dtype=torch.bool)
    mask[0, :2] = False
    names = ["blocks.*.attn.hook_pattern"]
    with torch.no_grad():
        _, whole = run.model.run_with_cache(run.tokens, attention_mask=mask)
        _, bare = run.model.run_with_cache(run.tokens, attention_mask=mask, names_filter=names)
    by_scores, by_mask = attention(whole), attention(bare)
    for layer in range(run.cfg.n_layers):
        np.testing.assert_array_equal(by_scores.values(layer, 0), by_mask.values(layer, 0))
        assert np.isnan(by_mask.values(layer, 0)[2:, :2]).all()
    assert only_stack(by_mask).runs[0].padding == [0, 1]
    assert only_stack(by_mask).runs[0].ends == (2, 6)
    assert stack_of(page_of(by_mask))["padding"] == [[0, 1], [0, 1]]


def test_padding_is_that_of_the_sequence_shown(plain: Run):
    mask = torch.ones_like(plain.tokens, dtype=torch.bool)
    mask[0, :3] = False
    mask[2, -1] = False
    with torch.no_grad():
        _, bare = plain.model.run_with_cache(plain.tokens, None, [("pattern", 1)], attention_mask=mask)
    explorers = [attention(bare, batch=i) for i in range(3)]
    assert [only_stack(one).runs[0].padding for one in explorers] == [[0, 1, 2], [], [mask.shape[1] - 1]]
    assert [only_stack(one).runs[0].ends for one in explorers] == [(3, 6), (0, 6), (0, 5)]
    assert only_stack(attention(bare, batch=-3)).runs[0].padding == [0, 1, 2]


def test_attention_to_later_keys_by_a_hook_is_shown_and_said():
    model = small()

    def ahead(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.full_like(pattern, 1 / pattern.shape[-1])

    with model.hooks(fwd_hooks=[(("pattern", 1), ahead)]):
        cache = cache_of(model, 5)
    explorer = attention(cache)
    assert "later keys" in repr(explorer)
    assert not stack_of(page_of(explorer))["causal"]
    np.testing.assert_allclose(explorer.values(1, 0), np.full((5, 5), 0.2), rtol=1e-6)
    assert np.isnan(explorer.values(0, 0)[0, 1:]).all()


def test_a_cache_of_some_layers_shows_these_and_says_so():
    cache = cache_of(small(4), names_filter=[("pattern", 1), ("pattern", 3)])
    explorer = attention(cache, scores={"s": torch.rand(4, 3)})
    assert stack_of(page_of(explorer))["layers"] == [1, 3]
    assert "not shown: 0, 2." in repr(explorer)
    assert "the cache lacks hook_v" in only_stack(explorer).describe(0, [only_stack(explorer).queries])["why"][1]
    explorer.values(-1, 2)
    with pytest.raises(ConfigError, match="layer = 2 is not in the cache; allowed: 1, 3"):
        explorer.values(2, 0)
    with pytest.raises(HookNotFoundError, match="hook_v"):
        explorer.values(3, 0, "weighted")


# ---------------------------------------------------------------------------------------------- bytes


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_a_byte_an_entry_is_within_004_and_two_bytes_are_within_00002(pattern: np.ndarray):
    for levels, atol in ((packing.ONE_BYTE, 0.004), (packing.TWO_BYTES, 0.00002)):
        codes = packing.encode(pattern, levels)
        assert codes.max() <= levels
        assert np.abs((codes / levels) ** 2 - pattern).max() < atol


def test_masked_is_a_code_of_its_own_and_zero_is_not_it():
    pattern = np.array([np.nan, 0, 1], np.float32)
    assert packing.encode(pattern).tolist() == [255, 0, 254]
    assert packing.encode(pattern, packing.TWO_BYTES).tolist() == [65535, 0, 65534]


@pytest.mark.parametrize("dir", ["causal", "bidirectional"])
@pytest.mark.parametrize(("n", "levels"), [(9, 65534), (140, 254)])
def test_what_the_page_carries_decodes_to_the_patterns(dir: str, n: int, levels: int):
    cache = cache_of(small(attention_dir=dir), n)
    explorer = attention(cache)
    meta = payload(page_of(explorer))
    assert meta["levels"] == levels
    raw = zlib.decompress(base64.b85decode(meta["stacks"][0]["data"].replace(".", "<")))
    cells = n * (n + 1) // 2 if dir == "causal" else n * n
    kind = np.dtype("<u2" if levels == 65534 else "u1")
    codes = np.frombuffer(raw[len(raw) - 6 * cells * kind.itemsize :], kind).reshape(2, 3, cells)
    keys, queries = np.triu_indices(n) if dir == "causal" else np.indices((n, n)).reshape(2, -1)
    for layer in range(2):
        wanted = only_stack(explorer).runs[0].pattern[layer][:, queries, keys]
        assert np.abs((codes[layer] / levels) ** 2 - wanted).max() < 1 / levels


def random_patterns(n_layers: int, n_heads: int, n: int, sharpness: float) -> ActivationCache:
    """A cache of patterns that compress badly: normal scores."""
    cfg = TransformerConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=64, d_head=8, n_ctx=n, d_vocab=5, attn_only=True
    )
    model = HookedTransformer(cfg)
    future = torch.ones(n, n).triu(1).bool()
    values = {}
    for layer in range(n_layers):
        scores = sharpness * torch.randn(1, n_heads, n, n)
        values[f"blocks.{layer}.attn.hook_pattern"] = scores.masked_fill(future, float("-inf")).softmax(-1)
        values[f"blocks.{layer}.attn.hook_v"] = torch.randn(1, n, n_heads, 8)
    values["ln_final.hook_scale"] = torch.rand(1, n, 1) + 1
    return ActivationCache(values, model)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_144_heads_of_128_tokens_take_at_most_1_3_megabytes(sharpness: float, tmp_path: Path):
    cache = random_patterns(12, 12, 128, sharpness)
    scores = {name: torch.rand(12, 12) for name in ("previous", "induction", "duplicate", "first")}
    explorer = attention(cache, [" token"] * 128, scores, correct=1, incorrect=2)
    explorer.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size <= 1_300_000
    assert explorer.pooled == []


def test_the_script_is_at_most_40_kilobytes_and_names_no_address():
    assert len(packing.script().encode()) <= 40_000
    assert addresses(packing.script() + packing.carried("explorer.css")) == []


def addresses(text: str) -> list[str]:
    """Network addresses in a text, but for the name of SVG, which nothing ever fetches."""
    return re.findall(r"(?:https?:)?//[\w-]+\.[\w./-]+", text.replace("http://www.w3.org/2000/svg", ""))


def test_a_page_names_no_address_and_refers_to_nothing_outside(tmp_path: Path):
    explorer = attention(cache_of(small()), scores={"induction": torch.rand(2, 3)})
    explorer.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert addresses(page) == []
    assert re.findall(r'(?:src|href)="(?!data:)', page.split("<script")[0]) == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", page)


def test_two_runs_give_the_same_bytes(tmp_path: Path):
    cache = cache_of(small())
    for name in ("a", "b"):
        explorer = attention(cache, scores={"x": np.eye(2, 3)})
        explorer.to_html(tmp_path / f"{name}.html")
        explorer.to_png(tmp_path / f"{name}.png")
        explorer.to_svg(tmp_path / f"{name}.svg")
    for ending in ("html", "png", "svg"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_other_data_have_another_id():
    cache = cache_of(small())
    first, second = (payload(page_of(attention(cache, batch=i)))["id"] for i in (0, 1))
    assert first != second


@pytest.mark.parametrize("scored", [True, False])
def test_a_page_stays_within_its_budget_and_says_what_it_pooled(scored: bool, tmp_path: Path):
    cache = random_patterns(4, 6, 64, 1.0)
    scores = {"induction": torch.rand(4, 6), "previous": torch.rand(4, 6)} if scored else None
    budget = 90_000
    explorer = attention(cache, scores=scores, page_bytes=budget, head=(2, 3))
    explorer.to_html(tmp_path / "page.html")
    assert budget - 6_000 < (tmp_path / "page.html").stat().st_size <= budget
    assert 0 < len(explorer.pooled) < 24
    gone_at = [(layer, head) for _, layer, head in explorer.pooled]
    assert (2, 3) not in gone_at
    assert f"{len(explorer.pooled)} of 24 heads" in repr(explorer)
    assert "0.09 MB" in payload(page_of(explorer))["notes"][0]
    if scores is not None:
        worth = torch.stack(list(scores.values())).amax(0)
        gone = torch.tensor([worth[at].item() for at in gone_at])
        assert gone.max() <= min(w for at, w in np.ndenumerate(worth.numpy()) if at not in gone_at and at != (2, 3))
    explorer.values(*gone_at[0])  # Python still has it


def test_every_head_is_compressed_once_whether_it_fits_or_not(monkeypatch: pytest.MonkeyPatch):
    cache, seen, segment = random_patterns(4, 6, 64, 1.0), [], packing.segment
    monkeypatch.setattr(packing, "segment", lambda data: seen.append(data) or segment(data))
    whole = 64 * 65 // 2
    for budget in (8_000_000, 90_000):
        seen.clear()
        pooled = attention(cache, page_bytes=budget).pooled
        assert len(seen) == len(set(seen))
        assert 24 - len(pooled) <= sum(len(data) == 2 * whole or len(data) == whole for data in seen) <= 24


def test_the_text_of_the_data_is_pythons_base_85_but_for_a_sign():
    for n in (0, 1, 2, 3, 4, 5, 1001):
        data = np.random.default_rng(n).integers(256, size=n, dtype=np.uint8).tobytes()
        text = packing.base85(data)
        assert "<" not in text
        assert base64.b85decode(text.replace(".", "<")) == data


def test_a_budget_that_holds_no_head_is_refused():
    with pytest.raises(ConfigError, match="page_bytes"):
        attention(cache_of(small()), page_bytes=1_000)


# ---------------------------------------------------------------------------------------------- tokens


def test_hostile_tokens_and_names_cannot_become_markup(tmp_path: Path):
    explorer = attention(cache_of(small(), len(HOSTILE)), HOSTILE, {HOSTILE[0]: np.ones((2, 3))})
    explorer.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    assert payload(page)["texts"][0]["tokens"][0] == HOSTILE[0]
    for head in (None, 0):
        explorer.to_svg(tmp_path / "x.svg", head, head)
        ElementTree.fromstring((tmp_path / "x.svg").read_bytes())


def test_labels_come_from_strings_text_or_ids(as_installed: None):
    words = Vocabulary(["the", "cat", "sat"])
    cfg = TransformerConfig(n_layers=1, n_heads=1, d_model=8, n_ctx=8, d_vocab=3)
    model = HookedTransformer(cfg, words)
    _, cache = model.run_with_cache("the cat the cat")
    ids = model.to_tokens("the cat the cat")
    words_of = ["the", "cat", "the", "cat"]
    several: list[Any] = [words_of, "the cat the cat", ids, ids[0], ids[0].tolist(), ids.numpy(), list(ids[0].numpy())]
    for tokens in [*several, (word for word in words_of)]:
        assert only_stack(attention(cache, tokens)).keys.labels == [["the", "cat", "the", "cat"]]
    assert only_stack(attention(cache)).keys.labels == [["0", "1", "2", "3"]]
    assert only_stack(attention(cache_of(small(), 3), torch.tensor([7, 8, 9]))).keys.labels == [
        ["7", "8", "9"]
    ]  # no tokenizer


def test_tokens_that_differ_in_white_space_only_keep_labels_of_their_own():
    labels = only_stack(attention(cache_of(small(), 5), ["a", " a", "a ", "a\n", "a"])).keys.labels[0]
    assert labels == ["a", "·a", "a·", "a⏎", "a"]


# ---------------------------------------------------------------------------------------------- scores


def test_an_xarray_dataset_is_a_mapping_of_scores_in_any_order_of_its_axes():
    values = np.random.default_rng(0).random((2, 3)).astype(np.float32)
    dataset = xr.Dataset({"induction": (("head", "layer"), values.T)})
    explorer = attention(cache_of(small()), scores=dataset)
    assert np.array_equal(only_stack(explorer).scores[0].values, values)
    best = np.unravel_index(values.argmax(), values.shape)
    assert f"induction: L{best[0]}H{best[1]}" in repr(explorer)


def test_a_labelled_score_is_read_by_its_labels():
    values = torch.rand(2, 3).numpy()
    labelled = xr.DataArray(values, dims=("layer", "head"), coords={"layer": [0, 1], "head": [0, 1, 2]})
    cache = cache_of(small())
    turned = attention(cache, scores={"s": labelled.isel(layer=[1, 0], head=[2, 0, 1])})
    assert np.array_equal(only_stack(turned).scores[0].values, values)
    some = ActivationCache({n: v for n, v in cache.items() if n.startswith("blocks.1.attn.hook_pattern")}, cache.model)
    assert np.array_equal(only_stack(attention(some, scores={"s": labelled})).scores[0].values, values[1:])
    with pytest.raises(ShapeError, match="'s' has no layer 0"):
        attention(cache, scores={"s": labelled.sel(layer=[1])})


def test_spaces_in_the_name_of_a_score_stay_spaces():
    assert "my score: L0H0" in repr(attention(cache_of(small()), scores={"my score": np.ones((2, 3))}))


def test_the_summary_has_scores_as_the_page_has_them_and_zeros_without_a_sign():
    values = np.array([[-0.0, -0.004, 0.9], [0.004, -0.25, 0.0]])
    said = repr(attention(cache_of(small()), scores={"small": values, "none": values * 0, "large": values * 14_000}))
    assert "small: L0H2 +0.90, L1H1 \u22120.25, L0H1 0.00, L1H0 +0.00, L0H0 0.00" in said
    assert "none: L0H0 0.00, L0H1 0.00, L0H2 0.00, L1H0 0.00, L1H1 0.00" in said
    assert "large: L0H2 +12600, L1H1 \u22123500, L0H1 \u221256, L1H0 +56, L0H0 0" in said
    huge = repr(attention(cache_of(small()), scores={"huge": np.full((2, 3), 1e30)}))
    assert "huge: L0H0 1e+30, L0H1 1e+30" in huge


def test_badges_have_the_shortest_names_that_tell_them_apart():
    names = ["previous", "prefix", "Induction", "first"]
    explorer = attention(cache_of(small()), scores={name: np.zeros((2, 3)) for name in names})
    assert [score.short for score in only_stack(explorer).scores] == ["Prev", "Pref", "I", "F"]


@pytest.mark.parametrize("colour", still.SCORE_COLORS)
def test_white_text_on_a_badge_has_contrast(colour: str):
    assert contrast("#ffffff", colour) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_palettes_order_amounts_by_lightness_alone(theme: str):
    steps = [contrast(c, "#000000") for c in still.PALETTE[theme]["positive"]]
    assert steps == sorted(steps, reverse=theme == "light")
    signed = [contrast(c, "#000000") for c in still.PALETTE[theme]["signed"]]
    middle = len(signed) // 2
    outwards = [signed[middle::-1], signed[middle:]]
    assert all(side == sorted(side, reverse=theme == "light") for side in outwards)
    assert contrast(still.PALETTE[theme]["ink"], still.PALETTE[theme]["masked"]) >= 4.5


def test_scores_of_a_dataset_say_which_prompts_they_are_of():
    model = small(d_mlp=8)
    _, cache = model.run_with_cache(torch.arange(7)[None])
    names = ["induction", "previous_token"]
    on_repeats = head_scores(model, scores=names, n_prompts=5, length=12, progress=False)[names]
    on_text = head_scores_of(cache, torch.arange(7)[None], scores="previous_token")[["previous_token"]]
    of_weights = head_scores(model, scores="copying", progress=False)
    for scores, said in (
        (on_repeats, ["Scores: of 5 random-repeat prompts, not of this text."]),
        (on_text, ["Scores: of the prompt given to head_scores."]),
        (of_weights, []),
        ({"induction": on_repeats["induction"]}, []),
    ):
        explorer = attention(cache, scores=scores)
        assert payload(page_of(explorer))["notes"] == said
        assert [line for line in repr(explorer).splitlines() if line.startswith("Scores: ")] == said


# ---------------------------------------------------------------------------------------------- what is seen at first


def test_the_title_is_the_text_unless_another_is_given():
    model = induction_model()
    _, cache = model.run_with_cache("!abacb")
    size = "Attention of 2 layers x 1 head over 6 tokens"
    for explorer, title in (
        (attention(cache, "!abacb"), "Attention on “!abacb”"),
        (attention(cache, "!abacb", title="Induction, by hand"), "Induction, by hand"),
        (attention(cache, model.to_str_tokens("!abacb")), size),
        (attention(cache, "!abacb", title=""), size),
    ):
        assert payload(page_of(explorer))["title"] == title
        assert repr(explorer).splitlines() == list(dict.fromkeys([title, size]))


def test_a_title_and_a_note_that_are_markup_stay_text(tmp_path: Path):
    for text in HOSTILE:
        explorer = attention(cache_of(small()), title=text, note=text)
        explorer.to_html(tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count("</script>") == 2
        assert page.split("<body>")[0].count("<") == 9  # the head's own
        assert page.count("<img") == 1
        explorer.to_svg(tmp_path / "x.svg")
        ElementTree.fromstring((tmp_path / "x.svg").read_bytes())


def test_the_head_at_first_looks_somewhere_on_this_text_and_not_only_at_the_first_token_or_its_own():
    model = small(1, 4)
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    pattern = torch.zeros(1, 4, 6, 6)
    pattern[..., 0] = 1  # every head looks at the first token ...
    pattern[0, 2, 1:] = torch.eye(6)[:5]  # ... but for this one, which looks at the previous
    pattern[0, 1, 5] = torch.tensor([0.4, 0, 0.6, 0, 0, 0])
    pattern[0, 3] = torch.eye(6)  # one that only stays where it is
    held = ActivationCache(dict(cache) | {"blocks.0.attn.hook_pattern": pattern}, cache.model)
    elsewhere = {"induction": np.array([[0.9, 0.8, 0.1, 0.7]])}  # of other prompts
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 2),
        ({"scores": elsewhere}, 1),
        ({"scores": elsewhere, "sort_by": "induction"}, 0),
        ({"lock_query": 5}, 2),
        ({"lock_query": 5, "lock_key": 2}, 1),
        ({"lock_key": 2}, 2),
        ({"scores": elsewhere, "head": (0, 3)}, 3),
    ]
    for options, head in cases:
        assert stack_of(page_of(attention(held, **options)))["head"] == head, options


def test_a_run_with_answers_opens_on_contributions_of_the_head_that_adds_most_at_the_last_position(plain: Run):
    explorer = attention(plain.cache, correct=3, incorrect=5, scores={"s": plain_scores(plain)})
    meta = payload(page_of(explorer))
    rows = plain.cache.logit_attrs(plain.cache.stack_head_results(), 3, 5)
    sums = [
        float(rows[f"L{layer}H{head}"][0, -1])
        for layer in range(plain.cfg.n_layers)
        for head in range(plain.cfg.n_heads)
    ]
    assert meta["kind"] == 2
    assert meta["stacks"][0]["head"] == int(np.abs(sums).argmax())
    assert payload(page_of(attention(plain.cache, correct=3, incorrect=5)))["kind"] == 2
    assert payload(page_of(attention(plain.cache, correct=3, incorrect=5, kind="attention")))["kind"] == 0
    assert payload(page_of(attention(plain.cache)))["kind"] == 0
    chosen = attention(plain.cache, correct=3, incorrect=5, kind="contribution", head=(1, 2))
    assert stack_of(page_of(chosen))["head"] == plain.cfg.n_heads + 2


def plain_scores(run: Run) -> np.ndarray:
    return np.random.default_rng(0).random((run.cfg.n_layers, run.cfg.n_heads))


# ---------------------------------------------------------------------------------------------- outputs


def decode_png(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Pixels and palette of an indexed PNG whose rows are not filtered; every checksum is checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour_type = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour_type) == (8, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    palette = chunks[b"PLTE"]
    return rows[:, 1:], [f"#{palette[i : i + 3].hex()}" for i in range(0, len(palette), 3)]


def test_the_png_of_a_head_shows_its_values_and_hatches_what_is_masked(tmp_path: Path):
    model = induction_model()
    _, cache = model.run_with_cache("!abacb")
    attention(cache, "!abacb").to_png(tmp_path / "head.png", 1, 0)
    pixels, palette = decode_png((tmp_path / "head.png").read_bytes())
    assert palette == still.color_table()
    cells = pixels.reshape(6, len(pixels) // 6, 6, -1).transpose(0, 2, 1, 3).reshape(6, 6, -1)
    pattern = cache["pattern", 1][0, 0].numpy()
    for q, k in np.ndindex(6, 6):
        if k > q:
            assert set(cells[q, k].tolist()) == {still.MASKED, still.HATCH}
        else:
            assert set(cells[q, k].tolist()) == {round(float(pattern[q, k]) ** 0.5 * (still.LEVELS - 1))}


def test_the_map_is_not_a_ribbon_however_many_layers(tmp_path: Path):
    for layers, heads in ((30, 9), (2, 1), (1, 16)):
        model = small(layers, heads)
        attention(cache_of(model, 12)).to_png(tmp_path / "map.png")
        height, width = decode_png((tmp_path / "map.png").read_bytes())[0].shape
        assert height <= 2.2 * width


def test_a_thin_stripe_survives_in_a_thumbnail():
    values = np.zeros((200, 200), np.float32)
    values[np.arange(1, 200), np.arange(199)] = 0.7
    values[:, 150:] = np.nan
    pooled = still.pool(values, 40)
    assert (pooled[np.arange(29), np.arange(29)] == np.float32(0.7)).all()
    assert np.isnan(pooled[:, 30:]).all()


def test_svg_files_hold_every_token_and_the_summary(tmp_path: Path):
    explorer = attention(cache_of(small(), 3), ["<a>", " b", "c&d"], {"induction": np.eye(2, 3)})
    explorer.to_svg(tmp_path / "head.svg", 1, 2)
    texts = [node.text for node in ElementTree.parse(tmp_path / "head.svg").iter() if node.tag.endswith("text")]
    assert texts == ["L1H2", "<a>", "·b", "c&d", "<a>", "·b", "c&d"]
    explorer.to_svg(tmp_path / "map.svg")
    assert "induction: L0H0 1.00" in (tmp_path / "map.svg").read_text(encoding="utf-8")


def test_a_notebook_gets_html_with_a_still_picture_a_png_and_text():
    explorer = attention(cache_of(small()), scores={"induction": np.eye(2, 3)})
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert bundle["text/plain"].splitlines()[0] == "Attention of 2 layers x 3 heads over 7 tokens"
    before_script = bundle["text/html"].split("<script")[0]
    assert f"data:image/png;base64,{bundle['image/png']}" in before_script
    assert re.search(r'alt="[^"]*induction: L0H0 1.00', before_script)
    assert set(explorer._repr_mimebundle_(include={"image/png"})) == {"image/png"}
    assert set(explorer._repr_mimebundle_(exclude={"text/html"})) == {"image/png", "text/plain"}
    decode_png(base64.b64decode(bundle["image/png"]))


def test_plotly_figures_hold_the_same_values():
    cache = cache_of(small(n_heads=5))
    explorer = attention(cache, correct=0, incorrect=1, patched=cache_of(small(n_heads=5)))
    figure: Any = explorer.figure(1, 4, "contribution", "difference")
    np.testing.assert_array_equal(figure.data[0].z, explorer.values(1, 4, "contribution", "difference"))
    assert figure.layout.coloraxis.cmid == 0
    layer: Any = explorer.layer_figure(-1)
    assert len(layer.data) == 5
    for head in range(5):
        np.testing.assert_array_equal(layer.data[head].z, explorer.values(1, head))
    assert {trace.coloraxis for trace in layer.data} == {"coloraxis"}
    assert layer.layout.coloraxis.cmax == 1


def test_the_widget_carries_the_same_script_and_data():
    pytest.importorskip("anywidget")
    explorer = attention(cache_of(small()))
    widget = explorer.widget()
    assert packing.script() in str(widget._esm)
    assert widget._meta == payload(page_of(explorer))
    assert widget.selection == {"stack": None, "layer": None, "head": None, "query": None, "key": None}


# ---------------------------------------------------------------------------------------------- errors


def only(cache: ActivationCache, *kinds: str) -> ActivationCache:
    """A cache of these hook points alone."""
    return ActivationCache({name: value for name, value in cache.items() if name.endswith(kinds)}, cache.model)


def nan_pattern(cache: ActivationCache) -> ActivationCache:
    values = dict(cache)
    values["blocks.0.attn.hook_pattern"] = values["blocks.0.attn.hook_pattern"] * torch.nan
    return ActivationCache(values, cache.model)


REFUSED: dict[str, tuple[Callable[[ActivationCache], Any], type[InterpError], str]] = {
    "tuple": (lambda c: attention((None, c)), ConfigError, "run_with_cache returns"),  # pyright: ignore
    "no patterns": (lambda c: attention(only(c, "hook_embed")), HookNotFoundError, "names_filter="),
    "positions cut": (lambda c: attention(c.slice(pos=slice(2, 5))), ShapeError, "whole runs"),
    "no sequence": (lambda c: attention(c, batch=None), ShapeError, "batch = None"),  # pyright: ignore
    "batch": (lambda c: attention(c, batch=2), ShapeError, "batch = 2; allowed: -2 to 1"),
    "nan": (lambda c: attention(nan_pattern(c)), RangeError, "layer 0 has entries that are NaN"),
    "tokens": (lambda c: attention(c, ["a"] * 6), TokenError, "6 tokens for 7 positions"),
    "batch of ids": (lambda c: attention(c, torch.zeros(1, 7).long(), batch=1), TokenError, "1 sequences"),
    "mixed tokens": (lambda c: attention(c, ["a", 1, "b"]), TokenError, "ids, not"),  # pyright: ignore
    "no tokens": (lambda c: attention(c, 7), TokenError, "not 7"),  # pyright: ignore
    "text": (lambda c: attention(c, "a b"), TokenError, "no tokenizer"),
    "scores": (lambda c: attention(c, scores={"s": torch.rand(3, 2)}), ShapeError, r"shape \(3, 2\); allowed"),
    "no names": (lambda c: attention(c, scores=torch.rand(2, 3)), ConfigError, "mapping"),  # pyright: ignore
    "nan score": (lambda c: attention(c, scores={"s": np.full((2, 3), np.nan)}), RangeError, "'s' has entries"),
    "no numbers": (lambda c: attention(c, scores={"s": "x"}), ShapeError, "'s': values of dtype"),
    "ragged": (lambda c: attention(c, scores={"s": [[1, 2, 3], [1]]}), ShapeError, "'s': values of unequal"),
    "complex": (lambda c: attention(c, scores={"s": 1j * np.ones((2, 3))}), ShapeError, "'s': values of dtype complex"),
    "name twice": (lambda c: attention(c, scores={1: np.eye(2, 3), "1": np.eye(2, 3)}), ConfigError, "called '1'"),
    "sort": (
        lambda c: attention(c, scores={"induction": np.eye(2, 3)}, sort_by="inducton"),
        ConfigError,
        "did you mean 'induction'",
    ),
    "sort without": (lambda c: attention(c, sort_by="x"), ConfigError, "without scores= to sort by"),
    "head": (lambda c: attention(c, head=(0, 3)), ConfigError, "head = 3; allowed: -3 to 2"),
    "no pair": (lambda c: attention(c, head=(2,)), ConfigError, r"allowed: \(layer, head\)"),  # pyright: ignore
    "layer": (lambda c: attention(c, head=(2, 0)), ConfigError, "layer = 2; allowed"),
    "two answers as one": (lambda c: attention(c, correct=(1, 2)), ConfigError, "allowed: one token"),  # pyright: ignore
    "only a wrong answer": (lambda c: attention(c, incorrect=1), ConfigError, "goes with correct="),
    "no token": (lambda c: attention(c, correct=1.5, incorrect=2), TokenError, "neither a token id"),  # pyright: ignore
    "same answer": (lambda c: attention(c, correct=1, incorrect=1), ConfigError, "are one token"),
    "answer": (lambda c: attention(c, correct=1, incorrect=20), TokenError, "allowed: 0 to 19"),
    "patched tokens": (lambda c: attention(c, patched_tokens=["a"]), ConfigError, "without patched="),
    "no values": (
        lambda c: attention(only(c, "hook_pattern", "hook_scale"), correct=0, incorrect=1),
        HookNotFoundError,
        "hook_v",
    ),
    "kind": (lambda c: attention(c).values(0, 0, "wieghted"), ConfigError, "did you mean 'weighted'"),  # pyright: ignore
    "no answer": (lambda c: attention(c).values(0, 0, "contribution"), ConfigError, "correct="),
    "run": (lambda c: attention(c).values(0, 0, run="patched"), ConfigError, "give patched="),
    "no head": (lambda c: attention(c).values(0, 1.0), ConfigError, "head = 1.0"),  # pyright: ignore
    "budget": (lambda c: attention(c, page_bytes="1 MB"), ConfigError, "number of bytes"),  # pyright: ignore
    "first kind": (lambda c: attention(c, kind="wieghted"), ConfigError, "did you mean 'weighted'"),  # pyright: ignore
    "first kind without": (lambda c: attention(c, kind="contribution"), ConfigError, "needs correct="),
    "first kind lacking": (
        lambda c: attention(only(c, "hook_pattern"), kind="weighted"),
        HookNotFoundError,
        "widen names_filter=",
    ),
    "half a head": (lambda c: attention(c).to_png("x.png", 0), ConfigError, "give both"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_drawn_is_refused_with_the_reason(case: str, as_installed: None):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call(cache_of(small()))


def test_a_cache_whose_model_changed_is_refused():
    model = small()
    cache = cache_of(model)
    with torch.no_grad():
        model.blocks[0].attn.W_O.add_(1)
    with pytest.raises(CacheError, match="weights changed"):
        attention(cache)


def test_nothing_is_changed_by_drawing(plain: Run):
    before = {name: value.clone() for name, value in plain.cache.items()}
    weights = plain.model.weights_hash()
    page_of(attention(plain.cache, correct=0, incorrect=1))
    assert all(torch.equal(before[name], plain.cache[name]) for name in before)
    assert plain.model.weights_hash() == weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_patterns_of_half_precision_are_drawn(dtype: torch.dtype):
    model = HookedTransformer(config(GRID["rotary_rms_gated_grouped"], dtype=dtype))
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.arange(6)[None])
    explorer = attention(cache, correct=0, incorrect=1)
    assert np.isfinite(explorer.values(2, 3, "contribution")[5]).all()


def test_one_token_is_a_text():
    explorer = attention(cache_of(small(), 1), ["x"])
    assert explorer.values(0, 0).tolist() == [[1.0]]
    assert only_stack(explorer).runs[0].ends[0] == 0


def test_scores_of_one_prompt_are_badges_without_their_standard_errors_and_undefined_ones_say_why():
    model = HookedTransformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, n_ctx=8, d_vocab=9, seed=0))
    _, cache = model.run_with_cache([1, 2, 3, 1, 2])
    scores = head_scores_of(cache, [1, 2, 3, 1, 2])
    assert scores["first_token_se"].isnull().all()  # of a single prompt
    shown = [score["name"] for score in payload(page_of(attention(cache, scores=scores)))["stacks"][0]["scores"]]
    assert shown == [name for name in map(str, scores) if not name.endswith("_se")]
    mine = {"mine_se": np.eye(2), "mine": np.eye(2)}  # of one's own, every one is a score
    assert len(payload(page_of(attention(cache, scores=mine)))["stacks"][0]["scores"]) == 2
    _, unrepeated = model.run_with_cache([1, 2, 3, 4, 5])
    with pytest.raises(
        RangeError, match=r"'duplicate_token' has entries that are NaN .*: no prompt has .*; leave it out"
    ):
        attention(unrepeated, scores=head_scores_of(unrepeated, [1, 2, 3, 4, 5]))
