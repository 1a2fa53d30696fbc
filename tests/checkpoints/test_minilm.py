"""all-MiniLM-L6-v2, a real encoder of sentences: transformers' streams, tokens and vectors."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from interp import HookedTransformer
from interp.interventions import Zero
from interp.patching import sweep
from interp.similarity import Similarity, cosine_similarity, embeddings, similarity_attribution

TEXTS = [
    "The cat sat on the mat.",
    "A feline rested on the rug.",
    "Unbelievably, naïve cafés in Zürich serve 3,141 crêpes a day!",
    "敏捷的狐狸",
    "",
]
FIRST, SECOND = TEXTS[:2]


@pytest.fixture(scope="module")
def theirs(minilm_path: Path) -> Any:
    return transformers.AutoModel.from_pretrained(minilm_path, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def tokenizer(minilm_path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(minilm_path)


def run(theirs: Any, tokens: Tensor, mask: Tensor, types: Tensor | None = None) -> Any:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return theirs(tokens, attention_mask=mask.long(), position_ids=positions, token_type_ids=types,
                      output_hidden_states=True, output_attentions=True)  # fmt: skip


def streams_and_patterns(model: Any, tokens: Tensor, mask: Tensor, types: Tensor | None) -> list[Tensor]:
    """Of the real positions, in float64: what every layer reads and the last writes, then every layer's patterns."""
    if isinstance(model, HookedTransformer):
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, None, attention_mask=mask, token_types=types)
        streams = [cache["embed_ln.hook_normalized"], *(cache["resid_post", i] for i in range(6))]
        patterns = [cache["pattern", i] for i in range(6)]
    else:
        out = run(model, tokens, mask, types)
        streams, patterns = out.hidden_states, out.attentions
    heads = mask[:, None].expand(-1, 12, -1)
    return [x[mask].double() for x in streams] + [x[heads].double() for x in patterns]


def test_streams_and_patterns_equal_transformers(minilm: HookedTransformer, minilm_path: Path, theirs: Any):
    exact = HookedTransformer.from_pretrained(minilm_path, dtype=torch.float64)
    pairs = minilm.masked_pairs(TEXTS, TEXTS[::-1])
    runs = [(*minilm.to_tokens_and_mask(TEXTS, padding_side=side), None) for side in ("left", "right")]
    for given in [*runs, (pairs.ids, pairs.is_token, pairs.token_types)]:
        wide = streams_and_patterns(exact, *given)
        their_wide = streams_and_patterns(copy.deepcopy(theirs).double(), *given)
        mine, others = streams_and_patterns(minilm, *given), streams_and_patterns(theirs, *given)
        for a, b, x, y in zip(wide, their_wide, mine, others, strict=True):
            assert (a - b).abs().max() < 1e-10
            rounding = (y - b).abs().max()  # of float32, on whatever machine this is
            assert (x - a).abs().max() <= 2 * rounding
            assert (x - y).abs().max() <= 3 * rounding < 5e-5


def test_tokens_and_their_strings_equal_transformers(minilm: HookedTransformer, tokenizer: Any):
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert minilm.to_tokens(text)[0].tolist() == ids
        assert minilm.to_str_tokens(text) == tokenizer.convert_ids_to_tokens(ids)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        pairs = tokenizer(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
        mine = minilm.masked_pairs(TEXTS, TEXTS[::-1], padding_side=side)
        assert torch.equal(mine.ids, pairs["input_ids"])
        assert mine.token_types is not None and torch.equal(mine.token_types, pairs["token_type_ids"])


def test_vectors_are_normalised_means_and_cosines_equal_transformers(minilm: HookedTransformer, theirs: Any):
    tokens, mask = minilm.to_tokens_and_mask(TEXTS)
    last = run(theirs, tokens, mask).last_hidden_state.double()
    means = torch.stack([row[real].mean(dim=0) for row, real in zip(last, mask, strict=True)])
    expected = torch.nn.functional.normalize(means, dim=-1)
    with torch.no_grad():
        assert (minilm(TEXTS, "pooled") - expected).abs().max() < 1e-6
    assert (embeddings(minilm, TEXTS) - expected).abs().max() < 1e-6
    assert (cosine_similarity(minilm, TEXTS) - expected @ expected.T).abs().max() < 1e-6


def test_a_head_of_the_first_layer_attends_to_the_previous_token(minilm: HookedTransformer):
    _, cache = minilm.run_with_cache(TEXTS[2], None, names_filter=("pattern", 0))
    previous = cache["pattern", 0][0, 2].diagonal(-1)
    assert round(float(previous.mean()), 3) >= 0.999
    assert abs(float(previous[1:-1].mean()) - 0.9998) < 5e-4


def test_the_similarity_of_two_sentences_is_the_sum_of_82_rows(minilm: HookedTransformer):
    result = similarity_attribution(minilm, FIRST, SECOND).isel(prompt=0)
    rows: Any = result["attribution"].to_series()
    assert len(rows) == 82
    assert abs(float(rows.sum()) - float(result["cosine"])) < 1e-6
    assert abs(float(result["cosine"]) - float(cosine_similarity(minilm, FIRST, SECOND))) < 1e-6
    assert round(float(result["cosine"]), 4) == 0.5560
    assert (round(rows["L5H11"], 3), round(rows["L5H3"], 3)) == (0.162, 0.098)
    assert list(rows.sort_values(ascending=False).index[:2]) == ["L5H11", "L5H3"]


def test_zeroing_a_head_changes_the_similarity_as_a_sweep_says(minilm: HookedTransformer):
    metric = Similarity(embeddings(minilm, SECOND))
    found = sweep(
        minilm, Zero(), FIRST, metric, "z", ("layer", "head"), layers=[0, 5], heads=[2, 3, 11], progress=False
    )
    assert abs(found.attrs["baseline"] - 0.5560) < 1e-4
    for layer, head in ((0, 2), (5, 11)):
        with minilm.intervene(Zero(site="z", layer=layer, head=head)):
            vector = embeddings(minilm, FIRST)
        value = float(torch.nn.functional.cosine_similarity(vector, metric.reference)[0])
        assert abs(float(found.sel(layer=layer, head=head)) - value) < 1e-5


@pytest.mark.usefixtures("minilm_path")
@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "minilm"])
def test_it_loads_by_its_name_and_its_word_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cfg = HookedTransformer.from_pretrained(name).cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_vocab_out) == (6, 12, 384, 0)
    assert (cfg.pooling, cfg.normalize_pooled, cfg.eps) == ("mean", True, 1e-12)


def test_it_is_written_and_read_again_bit_for_bit(minilm: HookedTransformer, tmp_path: Path):
    for model_type in ("bert", None):
        folder = tmp_path / str(model_type)
        minilm.save_pretrained(folder, model_type)
        again = HookedTransformer.from_pretrained(folder)
        assert again.cfg == minilm.cfg
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in minilm.state_dict().items())
