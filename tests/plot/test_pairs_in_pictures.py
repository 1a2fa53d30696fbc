"""The explorer and the figures of a run of an encoder with a decoder: several stacks of heads, two lists of tokens."""

import base64
import json
import re
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from grid import SEED, build, config
from torch import Tensor

from interp import (
    ConfigError,
    EncoderDecoderConfig,
    HookedEncoderDecoder,
    HookNotFoundError,
    PairCache,
    RangeError,
    ShapeError,
    TokenError,
    TransformerConfig,
    Vocabulary,
)
from interp.heads import cross_scores_of, head_scores_of
from interp.lens import attribution_table, direct_attribution
from interp.plot import AttentionExplorer, attention, figures, still
from interp.plot.attention_run import StackName

N_SOURCE, N_TARGET = 6, 4
STACKS: dict[StackName, tuple[int, int, str]] = {
    "encoder": (2, 3, "attn"),
    "decoder": (3, 4, "attn"),
    "cross_attn": (3, 4, "cross_attn"),
}
"""Layers, heads and module of each stack."""

ENCODER: dict[str, Any] = {
    "n_layers": 2, "n_heads": 3, "d_head": 4, "d_model": 10, "d_mlp": 6, "n_ctx": 40, "d_vocab": 9, "d_vocab_out": 0,
    "attention_dir": "bidirectional", "dtype": torch.float64,
}  # fmt: skip
DECODER: dict[str, Any] = {
    "n_layers": 3, "n_heads": 4, "d_head": 3, "d_model": 8, "d_mlp": 6, "n_ctx": 40, "d_vocab": 7, "d_memory": 10,
    "dtype": torch.float64,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "pre": {},
    "post": {"norm_position": "post"},
    "relative_grouped": {"positional_embedding_type": "relative", "n_key_value_heads": 2, "normalization_type": "RMS"},
}


def random_pair(kind: str, tokenizer: Any = None) -> HookedEncoderDecoder:
    cfg = EncoderDecoderConfig(
        encoder=TransformerConfig(**ENCODER), decoder=TransformerConfig(**DECODER | KINDS[kind]), start_token=0
    )
    model = HookedEncoderDecoder(cfg, tokenizer)
    for stack in (model.encoder, model.decoder):
        stack.load_state_dict(build(stack.cfg, SEED).state_dict())
    return model


@cache
def pair_run(kind: str = "pre", padded: bool = True) -> tuple[PairCache, Tensor, Tensor]:
    """A run on two sources and targets; of the first, two tokens of the source and one of the target are padding."""
    model = random_pair(kind)
    generator = torch.Generator().manual_seed(SEED)
    source = torch.randint(9, (2, N_SOURCE), generator=generator)
    target = torch.randint(7, (2, N_TARGET), generator=generator)
    masks: dict[str, Any] = {}
    if padded:
        masks = {"source_mask": torch.ones_like(source), "target_mask": torch.ones_like(target)}
        masks["source_mask"][0, 4:] = 0
        masks["target_mask"][0, :1] = 0
    with torch.no_grad():
        return model.run_with_cache(source, target, **masks)[1], source, target


def of_stack(found: PairCache, name: str) -> Any:
    return found.encoder if name == "encoder" else found.decoder


def payload(explorer: AttentionExplorer) -> dict[str, Any]:
    html = explorer._repr_mimebundle_()["text/html"]
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", KINDS)
def test_every_stack_shows_its_patterns_and_cross_attention_those_over_the_source(kind: str):
    found, _, _ = pair_run(kind)
    for batch in (0, 1):
        explorer = attention(found, batch=batch)
        assert list(explorer.stacks) == list(STACKS)
        for name, (n_layers, n_heads, module) in STACKS.items():
            for layer in range(n_layers):
                at = f"blocks.{layer}.{module}.hook_"
                patterns, scores = of_stack(found, name)[f"{at}pattern"], of_stack(found, name)[f"{at}attn_scores"]
                for head in range(n_heads):
                    values = explorer.values(layer, head, stack=name)
                    masked = scores[batch, head].isneginf().numpy()
                    assert np.array_equal(np.isnan(values), masked)
                    assert np.array_equal(np.nan_to_num(values), patterns[batch, head].float().numpy())
        assert np.isnan(explorer.values(0, 0)).all(axis=0).tolist() == [False] * 4 + [batch == 0] * 2


def test_the_sources_padding_is_masked_whether_scores_or_the_encoders_mask_say_so():
    found, _, _ = pair_run()
    bare = PairCache(*(
        type(one)({name: v for name, v in one.items() if name.endswith("hook_pattern")}, one.model,
                  attention_mask=one.attention_mask)
        for one in (found.encoder, found.decoder)
    ))  # fmt: skip
    for batch in (0, 1):
        whole, by_mask = attention(found, batch=batch), attention(bare, batch=batch)
        for name in STACKS:
            np.testing.assert_array_equal(
                whole.values(1, 1, stack=name),
                by_mask.values(1, 1, stack=name),
            )
            run = by_mask.stacks[name].runs[0]
            want = (
                {"encoder": [[4, 5]] * 2, "decoder": [[0]] * 2, "cross_attn": [[0], [4, 5]]}[name]
                if not batch
                else [[]] * 2
            )
            assert [run.padding, run.key_padding] == want
    assert attention(found).stacks["cross_attn"].runs[0].ends == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_of_cross_heads_summed_over_the_source_are_their_rows_of_logit_attrs(kind: str):
    found, _, _ = pair_run(kind)
    for correct, incorrect in ((3, 5), (3, None)):
        explorer = attention(found, batch=1, correct=correct, incorrect=incorrect)
        rows = found.decoder.logit_attrs(found.decoder.stack_head_results(), correct, incorrect)
        for name, sign in (("decoder", "H"), ("cross_attn", "X")):
            for layer in range(3):
                for head in range(4):
                    values = explorer.values(layer, head, "contribution", stack=name)  # pyright: ignore
                    want = rows[f"L{layer}{sign}{head}"][1].numpy()
                    got = np.nansum(values, axis=1)
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1, np.abs(want).max()))


def test_value_weighted_cross_attention_weighs_by_what_the_sources_values_write():
    found, _, _ = pair_run("relative_grouped")
    explorer = attention(found)
    for layer, block in enumerate(found.decoder.model.blocks):
        v = found.decoder[f"blocks.{layer}.cross_attn.hook_v"][0].repeat_interleave(2, dim=1)
        written = torch.einsum("khd,hdm->hkm", v, block.cross_attn.W_O.detach()).norm(dim=-1)
        for head in range(4):
            want = found.decoder[f"blocks.{layer}.cross_attn.hook_pattern"][0, head] * written[head]
            np.testing.assert_allclose(
                np.nan_to_num(explorer.values(layer, head, "weighted")), want, rtol=1e-5, atol=1e-6
            )


def test_the_heads_of_the_encoder_have_no_contributions_and_the_page_says_why():
    explorer = attention(pair_run()[0], correct=1)
    encoder, decoder, cross = payload(explorer)["stacks"]
    assert "through cross-attention" in encoder["why"][2]
    assert encoder["answer"] is None
    assert decoder["why"][2] == cross["why"][2] == ""
    with pytest.raises(ConfigError, match="correct="):
        explorer.values(0, 0, "contribution", stack="encoder")
    with pytest.raises(ConfigError, match="correct="):
        attention(pair_run()[0], correct=1, stack="encoder", kind="contribution")


def test_models_whose_heads_write_to_no_logit_say_why_they_have_no_contributions():
    encoder = {**ENCODER, "d_vocab_out": 9}
    for fields, why, error in (
        ({"d_vocab_out": 0}, "this model has no logits", "no logits"),
        ({"masked_token_head": True}, "a masked-token head", "mlm_neuron"),
        ({}, "give correct=, on the command line --correct", None),
    ):
        model = build(config(encoder | fields), SEED)
        with torch.no_grad():
            _, found = model.run_with_cache(torch.arange(5), None if fields else "logits")
        assert payload(attention(found))["stacks"][0]["why"][2].startswith(why)
        if error is None:
            attention(found, correct=1, kind="contribution")
        else:
            with pytest.raises(ConfigError, match=error):
                attention(found, correct=1)


def test_a_pairs_cache_of_the_encoder_alone_is_of_the_source():
    found, source, _ = pair_run()
    alone = PairCache(found.encoder, type(found.decoder)({}, found.decoder.model))
    explorer = attention(alone, source_tokens=source)
    assert [text["name"] for text in payload(explorer)["texts"]] == ["source"]
    assert "through cross-attention" in payload(explorer)["stacks"][0]["why"][2]
    with pytest.raises(ConfigError, match="through cross-attention"):
        attention(alone, correct=1)
    with pytest.raises(ConfigError, match="only the source is shown"):
        attention(alone, source)


def test_a_patched_run_is_compared_stack_by_stack():
    found, source, target = pair_run(padded=False)
    model = random_pair("pre")
    with torch.no_grad():
        _, other = model.run_with_cache(source.flip(1), target)
    explorer = attention(found, patched=other)
    for name in STACKS:
        clean, patched, difference = (
            explorer.values(1, 2, run=run, stack=name) for run in ("clean", "patched", "difference")
        )
        np.testing.assert_allclose(np.nan_to_num(difference), np.nan_to_num(patched - clean), atol=1e-6)
    with torch.no_grad():
        _, shorter = model.run_with_cache(source[:, :4], target)
    with pytest.raises(ShapeError, match="both must agree"):
        attention(found, patched=shorter)
    with pytest.raises(ConfigError, match="the patched run has patterns of decoder, cross_attn; the clean one"):
        attention(found, patched=found.decoder)


def test_an_encoders_own_cache_is_one_stack_whose_queries_see_both_ways():
    found, source, _ = pair_run()
    explorer = attention(found.encoder, source)
    assert list(explorer.stacks) == ["encoder"]
    (stack,) = payload(explorer)["stacks"]
    assert not stack["causal"]
    assert stack["ends"] == [0, 3]
    assert [text["name"] for text in payload(explorer)["texts"]] == [""]


def test_a_decoders_own_cache_shows_both_of_its_stacks():
    found, _, target = pair_run()
    explorer = attention(found.decoder, target, source_tokens=list("abcdef"))
    assert list(explorer.stacks) == ["decoder", "cross_attn"]
    np.testing.assert_array_equal(explorer.values(2, 1), attention(found).values(2, 1))
    with pytest.raises(TokenError, match="which model read them"):
        attention(found.decoder, source_tokens=torch.zeros(2, 6).long())


def test_a_cache_of_cross_patterns_alone_is_one_stack():
    model = random_pair("pre")
    source, target = torch.randint(9, (1, 5)), torch.randint(7, (1, 3))
    with torch.no_grad():
        _, found = model.run_with_cache(source, target, names_filter=("pattern", 1, "cross_attn"))
    explorer = attention(found, target, {"s": np.eye(3, 4)}, source_tokens=source)
    assert list(explorer.stacks) == ["cross_attn"]
    assert "not shown: 0, 2." in repr(explorer)
    assert repr(explorer).startswith("Cross-attention of 1 layer x 4 heads over 3 target and 5 source tokens")
    with pytest.raises(HookNotFoundError, match="no attention pattern"):
        attention(model.run_with_cache(source, target, names_filter="*hook_embed")[1])


# ---------------------------------------------------------------------------------------------- the page


def test_what_the_page_carries_of_each_stack_decodes_to_its_patterns():
    found, _, _ = pair_run()
    explorer = attention(found)
    meta = payload(explorer)
    assert meta["stack"] == 2
    for name, stack in zip(STACKS, meta["stacks"], strict=True):
        run = explorer.stacks[name].runs[0]
        n_layers, n_heads, n, m = run.pattern.shape
        keys, queries = np.triu_indices(n) if name == "decoder" else np.indices((m, n)).reshape(2, -1)
        raw = zlib.decompress(base64.b85decode(stack["data"].replace(".", "<")))
        codes = np.frombuffer(raw[-2 * n_layers * n_heads * len(keys) :], "<u2").reshape(n_layers, n_heads, -1)
        want = run.pattern[:, :, queries, keys]
        assert np.array_equal(codes == 65535, np.isnan(want))
        assert np.abs(np.where(codes == 65535, 0, (codes / 65534) ** 2) - np.nan_to_num(want)).max() < 2e-5
        assert [len(meta["texts"][i]["tokens"]) for i in stack["texts"]] == [n, m]
        assert (stack["layers"], stack["heads"]) == (list(range(n_layers)), n_heads)


def test_a_page_within_its_budget_pools_heads_of_any_stack_and_says_which():
    model = random_pair("pre")
    with torch.no_grad():
        _, found = model.run_with_cache(torch.randint(9, (1, 40)), torch.randint(7, (1, 40)))
    explorer = attention(found, page_bytes=75_000, head=(1, 2))
    assert len(explorer._page.document()) <= 75_000
    assert 0 < len(explorer.pooled) < 30
    assert ("cross_attn", 1, 2) not in explorer.pooled
    assert f"{len(explorer.pooled)} of 30 heads" in repr(explorer)
    kept = {
        stack["name"]: stack["kept"] or range(stack["heads"] * len(stack["layers"]))
        for stack in payload(explorer)["stacks"]
    }
    for name, layer, head in explorer.pooled:
        assert layer * STACKS[name][1] + head not in kept[name]
    assert sum(map(len, kept.values())) + len(explorer.pooled) == 30


def test_both_texts_are_labelled_from_strings_ids_or_text():
    words = Vocabulary(["the", "red", "house", "la", "maison", "rouge"])
    model = random_pair("pre", words)
    with torch.no_grad():
        _, found = model.run_with_cache("the red house", "la maison rouge")
    source, target = model.encoder.to_tokens("the red house"), torch.tensor([[0, 3, 4, 5]])
    starts = {"the": (target, ["the", "red", "house"]), "(start)": ("la maison rouge", "the red house"),
              "<s>": (["<s>", "la", "maison", "rouge"], source)}  # fmt: skip
    for start, (of_target, of_source) in starts.items():
        cross = attention(found, of_target, source_tokens=of_source).stacks["cross_attn"]
        assert cross.queries.labels == [[start, "la", "maison", "rouge"]]
        assert cross.keys.labels == [["the", "red", "house"]]
    titled = attention(found, "la maison rouge", source_tokens="the red house")
    assert payload(titled)["title"] == "Attention on “the red house” → “la maison rouge”"
    assert attention(found).stacks["encoder"].keys.labels == [["0", "1", "2"]]


def test_scores_are_given_stack_by_stack_and_the_summary_says_whose_they_are():
    found, source, _ = pair_run()
    scores = {
        "encoder": head_scores_of(found.encoder, source, scores="last_token")[["last_token"]],
        "decoder": {"of mine": np.eye(3, 4)},
        "cross_attn": cross_scores_of(found)[["diagonal"]],
    }
    explorer = attention(found, scores=scores, sort_by="diagonal")
    best = np.unravel_index(scores["cross_attn"]["diagonal"].values.argmax(), (3, 4))
    assert f"Cross-attention: diagonal: L{best[0]}X{best[1]} " in repr(explorer)
    assert "Encoder self-attention: last_token: L" in repr(explorer)
    assert "Decoder self-attention: of mine: L0H0 1.00" in repr(explorer)
    assert payload(explorer)["notes"] == ["Scores: of the 2 prompts given to head_scores."]
    assert [len(stack["scores"]) for stack in payload(explorer)["stacks"]] == [1, 1, 1]
    assert payload(explorer)["stacks"][2]["head"] == best[0] * 4 + best[1]
    some = attention(found, scores={"cross_attn": {"x": np.eye(3, 4)}})
    assert [len(stack["scores"]) for stack in payload(some)["stacks"]] == [0, 0, 1]


REFUSED: dict[str, tuple[Callable[[PairCache], Any], type[Exception], str]] = {
    "flat scores": (lambda c: attention(c, scores={"s": np.eye(3, 4)}), ConfigError, "by stack, scores={'cross_attn'"),
    "source in place of scores": (
        lambda c: attention(c, list("abcd"), list("abcdef")),  # pyright: ignore
        ConfigError,
        "said by source_tokens=",
    ),
    "scores of no stack": (
        lambda c: attention(c.encoder, scores={"decoder": {"s": np.eye(2, 3)}}), ConfigError, "scores of 'decoder'"
    ),
    "stack": (lambda c: attention(c, stack="cross"), ConfigError, "did you mean 'cross_attn'"),  # pyright: ignore
    "no such stack": (lambda c: attention(c.encoder, stack="cross_attn"), ConfigError, "allowed: 'encoder'"),
    "values of no stack": (
        lambda c: attention(c.encoder).values(0, 0, stack="decoder"), ConfigError, "stack = 'decoder'"
    ),
    "source of an encoder": (
        lambda c: attention(c.encoder, source_tokens=list("abcdef")), ConfigError, "this run has none"
    ),
    "source tokens": (lambda c: attention(c, source_tokens=list("abc")), TokenError, "source_tokens: 3 tokens for 6"),
    "target tokens": (lambda c: attention(c, list("abc")), TokenError, "tokens: 3 tokens for 4"),
    "patched source": (lambda c: attention(c, patched_source_tokens=list("abc")), ConfigError, "without patched="),
    "cut target": (
        lambda c: attention(PairCache(c.encoder, c.decoder.slice(pos=slice(1, 3)))), ShapeError, "whole runs"
    ),
    "batch": (lambda c: attention(c, batch=2), ShapeError, "batch = 2; allowed: -2 to 1"),
    "head": (lambda c: attention(c, head=(0, 4)), ConfigError, "head = 4; allowed"),
    "map of one stack": (lambda c: attention(c).to_png("x", stack="decoder"), ConfigError, "of all stacks"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("as_installed")
def test_what_a_pair_cannot_show_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call, error, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(message)):
        call(pair_run()[0])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- pictures


def test_pictures_of_a_cross_head_have_the_target_at_the_side_and_the_source_above(tmp_path: Path):
    found, _, _ = pair_run()
    explorer = attention(found, list("abcd"), source_tokens=list("uvwxyz"))
    explorer.to_svg(tmp_path / "head.svg", 1, 2)
    texts = [node.text for node in ElementTree.parse(tmp_path / "head.svg").iter() if node.tag.endswith("text")]
    assert texts == ["L1X2", *"abcd", *"uvwxyz"]
    explorer.to_svg(tmp_path / "own.svg", 1, 2, stack="encoder")
    texts = [node.text for node in ElementTree.parse(tmp_path / "own.svg").iter() if node.tag.endswith("text")]
    assert texts == ["L1H2", *"uvwxyz", *"uvwxyz"]
    figure: Any = explorer.figure(1, 2)
    assert figure.layout.title.text == "L1X2"
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("target", "source")
    assert list(figure.layout.yaxis.ticktext) == list("abcd")
    assert list(figure.layout.xaxis.ticktext) == list("uvwxyz")
    np.testing.assert_array_equal(figure.data[0].z, explorer.values(1, 2))
    layer: Any = explorer.layer_figure(-1)
    assert [note.text for note in layer.layout.annotations] == [f"L2X{head}" for head in range(4)]


def test_bars_of_cross_heads_have_their_names():
    found, _, _ = pair_run()
    for by, ending in (("cross_head", ""), ("cross_position", r"( from \d)")):
        split = direct_attribution(found.decoder, 3, 5, by=by, pos=-1).isel(prompt=1)  # pyright: ignore
        table = attribution_table(split, split["attribution"].size + split["rest"].size)
        heads = [name for name in table.index if re.fullmatch(rf"L\dX\d{ending}", name)]
        assert len(heads) == split["attribution"].size
        assert not [name for name in table.index if "H" in name]
        figure: Any = figures.contributions(split, top_k=500)
        assert set(heads) <= set(figure.layout.yaxis.ticktext)
        first = f"L1X2{' from 3' if ending else ''}"
        at = {"layer": 1, "head": 2} | ({"source_pos": 3} if ending else {})
        assert table.loc[first, "attribution"] == float(split["attribution"].isel(at))


def test_the_map_has_the_heads_of_all_stacks(tmp_path: Path):
    explorer = attention(pair_run()[0])
    whole = explorer._page.map(20)
    parts = [stack.map(20) for stack in explorer.stacks.values()]
    at = 0
    for part in parts:
        assert np.array_equal(whole[at : at + len(part), : part.shape[1]], part)
        assert (whole[at : at + len(part), part.shape[1] :] == still.PAPER).all()
        at += len(part)
    assert at == len(whole)


def test_thin_stripes_of_a_rectangle_survive_in_a_thumbnail():
    for shape in ((200, 7), (7, 200), (90, 30), (30, 90)):
        values = np.zeros(shape, np.float32)
        rows, columns = (np.linspace(0, n - 1, max(shape)).astype(int) for n in shape)
        values[rows, columns] = 0.7
        pooled = still.pool(values, 40)
        assert pooled.shape == tuple(min(n, 40) for n in shape)
        assert (pooled.max(axis=0) == np.float32(0.7)).all()
        assert (pooled.max(axis=1) == np.float32(0.7)).all()


def test_a_pattern_over_a_source_is_a_rectangle_with_nothing_masked():
    found, _, _ = pair_run()
    cross = found.decoder["blocks.1.cross_attn.hook_pattern"][1]
    one: Any = figures.pattern(cross[2], list("abcd"), list("uvwxyz"))
    np.testing.assert_array_equal(one.data[0].z, cross[2].float().numpy())
    assert (one.layout.yaxis.title.text, one.layout.xaxis.title.text) == ("target", "source")
    several: Any = figures.patterns(cross, list("abcd"), list("uvwxyz"))
    assert len(several.data) == 4
    assert (several.layout.xaxis.ticktext[0], several.data[0].customdata[0, 0, 1]) == ("u", "source 0: “u”")
    with pytest.raises(ShapeError, match="does not fit 6 target and 4 source tokens"):
        figures.pattern(cross[2], list("uvwxyz"), list("abcd"))
    with pytest.raises(ShapeError, match=r"do not fit 4 tokens; allowed: \[head, 4, 4\]"):
        figures.patterns(cross, list("abcd"))
    with pytest.raises(ConfigError, match="every query sees the whole source"):
        figures.pattern(cross[2], list("abcd"), list("uvwxyz"), attention_dir="bidirectional")
    with pytest.raises(RangeError, match="outside"):
        figures.pattern(cross[2] - 1, list("abcd"), list("uvwxyz"))


def test_a_page_may_open_on_a_locked_token_of_the_source_alone():
    found, _, _ = pair_run(padded=False)
    for key in range(N_SOURCE):  # of which there are more than of the target
        explorer = attention(found, lock_key=key)
        most = [np.nanmax(explorer.values(layer, head)[:, key]) for layer in range(3) for head in range(4)]
        assert payload(explorer)["stacks"][2]["head"] == int(np.argmax(most))
        assert payload(explorer)["lock"] == [None, key]
