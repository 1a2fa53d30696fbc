"""Circuits, composition, copying, singular directions and largest entries, each held against the dense matrices."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from grid import SEED, SMALL, Run, assert_close, build, config, random_tensor, run_of, splits_logits, where
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import ActivationCache, ConfigError, FactoredMatrix, HookedTransformer, RangeError, ShapeError, Vocabulary
from interp.lens import expand_scores, expand_stream
from interp.text.tokens import token_names
from interp.weights import (
    Kind,
    TopEntries,
    composition_scores,
    copying_scores,
    copying_top_scores,
    fold_layer_norm,
    ov_circuit,
    qk_circuit,
    singular_directions,
    top_entries,
)

KINDS: list[Kind] = ["Q", "K", "V"]


def folds(cfg: Any) -> bool:
    return cfg.norms_reads or cfg.normalization_type is None


# ---------------------------------------------------------------------------------------------- circuits of heads


def test_the_circuits_of_all_heads_are_the_products_of_their_weights(run: Run):
    model, groups = run.model, run.cfg.n_heads // run.cfg.n_key_value_heads
    for layer, block in enumerate(model.blocks):
        attn = block.attn
        for head in range(run.cfg.n_heads):
            kv = head // groups
            assert_close(model.QK[layer, head].dense(), attn.W_Q[head] @ attn.W_K[kv].T / run.cfg.attn_scale)
            assert_close(model.OV[layer, head].dense(), attn.W_V[kv] @ attn.W_O[head])


def test_the_scores_of_a_head_are_its_qk_circuit_between_what_it_reads():
    run = run_of("bidirectional_attn_only_no_norm")
    model = run.fresh_model()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.b_Q.zero_()
            block.attn.b_K.zero_()
    _, cache = model.run_with_cache(run.tokens)
    stream = cache["resid_pre", 1]
    assert_close(stream @ model.QK[1, 2].dense() @ stream.mT, cache["attn_scores", 1][:, 2])


def test_vocabulary_circuits_are_the_products_with_the_embeddings(run: Run):
    model = run.model
    W_E = model.W_E * run.cfg.embed_scale
    for layer, head in ((0, 1), (-1, -1)):
        assert_close(qk_circuit(model, layer, head).dense(), (W_E @ model.QK[layer, head] @ W_E.T).dense())
        if not splits_logits(run.cfg):
            continue
        assert_close(ov_circuit(model, layer, head).dense(), (W_E @ model.OV[layer, head] @ model.W_U).dense())


def all_tokens(run: Run) -> tuple[HookedTransformer, ActivationCache]:
    """A run of every token alone, [d_vocab, 1]."""
    model = run.model
    return model, model.run_with_cache(torch.arange(run.cfg.d_vocab)[:, None])[1]


def scale(cache: ActivationCache, name: str) -> Tensor:
    """Of a norm in a run, [batch, pos, 1]; ones where there is no norm."""
    return cache.get(f"{name}.hook_scale", torch.ones_like(cache["hook_embed"][..., :1]))


@where(lambda cfg: folds(cfg) and splits_logits(cfg))
def test_a_folded_ov_circuit_is_the_direct_path_but_for_positive_factors(run: Run):
    model, cache = all_tokens(run)
    written = expand_stream(cache)["embed -> L2H1"]
    logits = model.ln_final.at_scale(written, scale(cache, "ln_final")) @ model.W_U
    names = ("embed_ln", "blocks.2.ln1", "blocks.2.ln1_post", "ln_final")
    scales = torch.stack([scale(cache, name) for name in names]).prod(dim=0)
    assert_close((logits * scales)[:, 0], ov_circuit(model, 2, 1, fold_norms=True).dense())


@where(lambda cfg: folds(cfg) and cfg.rotary_dim is None and not cfg.use_qk_norm)
def test_a_folded_qk_circuit_is_the_direct_term_of_the_scores_but_for_positive_factors(run: Run):
    tokens = torch.tensor([[3, 7, 0, 10, 4]])
    _, cache = run.model.run_with_cache(tokens)
    term = torch.tensor(expand_scores(cache, 1, 2, 0).sel(query_path="embed", key_path="embed").values)[0]
    scales = (scale(cache, "blocks.1.ln1") * scale(cache, "embed_ln"))[0]
    circuit = qk_circuit(run.model, 1, 2, fold_norms=True)
    assert_close(scales * term * scales.T, circuit[tokens[0]][:, tokens[0]].dense())


@where(lambda cfg: not folds(cfg) and splits_logits(cfg))
def test_norms_of_the_stream_itself_belong_to_no_head(run: Run):
    for call in (
        lambda: ov_circuit(run.model, 0, 0, fold_norms=True),
        lambda: composition_scores(run.model, fold_norms=True),
        lambda: copying_scores(run.model, fold_norms=True),
    ):
        with pytest.raises(ConfigError, match="norm_position = 'post'"):
            call()


def test_circuits_that_end_in_logits_are_refused_where_something_stands_between(as_installed: None):
    calls: list[Any] = [
        copying_scores,
        copying_top_scores,
        lambda model: ov_circuit(model, 0, 0),
        lambda model: singular_directions(model, 0, 0),
    ]
    without = build(config(SMALL, d_vocab_out=0), SEED)
    for call in calls:
        with pytest.raises(ConfigError, match="masked_token_head = True the activation function of the head stands"):
            call(run_of("bert_like").model)
        with pytest.raises(ConfigError, match="no unembedding"):
            call(without)
    assert singular_directions(without, 0, 0, "QK").query_value.shape == (5, 2, 10)


@pytest.mark.parametrize("circuit", [qk_circuit, ov_circuit, singular_directions])
def test_a_head_that_is_not_there_is_an_error(circuit: Any):
    model = run_of("learned_ln").model
    with pytest.raises(ConfigError, match="layer = 3; allowed: -3 to 2"):
        circuit(model, 3, 0)
    with pytest.raises(ConfigError, match="head = 4; allowed: -4 to 3"):
        circuit(model, 0, 4)


# ---------------------------------------------------------------------------------------------- composition


def dense_composition(model: HookedTransformer, kind: str, writer: Any, reader: Any, aligned: bool) -> float:
    A = model.OV[writer].dense().detach().double()
    B = {"Q": model.QK[reader], "K": model.QK[reader].T, "V": model.OV[reader]}[kind].dense().detach().double()
    most = A.norm() * B.norm()
    if aligned:
        most = (torch.linalg.svdvals(A).square() * torch.linalg.svdvals(B).square()).sum().sqrt()
    return float((A @ B).norm() / most)


@pytest.mark.parametrize("score", ["raw", "aligned"])
def test_composition_of_all_pairs_equals_the_dense_ratios(run: Run, score: Any):
    scores = composition_scores(run.model, score=score)
    assert scores.dims == ("kind", "writer_layer", "writer_head", "reader_layer", "reader_head")
    assert scores.shape == (3, 3, 4, 3, 4)
    for kind, l1, h1, l2, h2 in ((k, *rest) for k in KINDS for rest in np.ndindex(3, 4, 3, 4)):
        got = float(scores.sel(kind=kind)[l1, h1, l2, h2])
        if l1 >= l2:
            assert math.isnan(got)
        elif (h1, h2) in ((0, 3), (2, 1), (3, 3)):
            assert got == pytest.approx(dense_composition(run.model, kind, (l1, h1), (l2, h2), score == "aligned"))
    assert np.nanmax(scores.values) <= 1 + 1e-12


@given(st.integers(1, 100_000), st.sampled_from(["raw", "aligned"]), st.sampled_from(["learned_ln", "qk_norm_grouped"]))
def test_composition_does_not_depend_on_the_budget(max_bytes: int, score: Any, name: str):
    model = run_of(name).model
    one, other = (composition_scores(model, score=score, max_bytes=size) for size in (max_bytes, 2**24))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-12, atol=0)


@where(
    lambda cfg: (
        cfg.norm_position == "pre"
        and cfg.normalization_type is not None
        and cfg.positional_embedding_type != "shortformer"
    )
)
def test_folded_scores_are_those_of_the_folded_model(run: Run):
    folded = fold_layer_norm(run.model)
    for score in (composition_scores, copying_scores) if splits_logits(run.cfg) else (composition_scores,):
        np.testing.assert_allclose(score(run.model, fold_norms=True).values, score(folded).values, atol=1e-10)


def test_kinds_come_in_the_order_in_which_they_are_asked_for(plain: Run):
    whole, some = composition_scores(plain.model), composition_scores(plain.model, ["V", "Q"])
    assert some.kind.values.tolist() == ["V", "Q"]
    np.testing.assert_array_equal(some.sel(kind="V"), whole.sel(kind="V"))


def test_results_say_what_they_are_and_of_which_weights(plain: Run):
    for result in (composition_scores(plain.model), copying_scores(plain.model)):
        assert result.attrs["model"] == plain.model.weights_hash()
        assert result.attrs["fold_norms"] == 0
        assert result.attrs["definition"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_weights_are_multiplied_in_float32(dtype: torch.dtype):
    model = build(config(SMALL, dtype=dtype), SEED)
    scores = composition_scores(model)
    assert scores.dtype == "float32"
    for kind in KINDS:
        want = dense_composition(model.double(), kind, (0, 1), (2, 3), aligned=False)
        assert float(scores.sel(kind=kind)[0, 1, 2, 3]) == pytest.approx(want, rel=1e-4)


def test_a_model_of_one_layer_has_no_pairs():
    model = build(config(SMALL, n_layers=1), SEED)
    assert np.isnan(composition_scores(model).values).all()


def test_a_model_without_blocks_has_no_heads():
    model = HookedTransformer(config(SMALL, n_layers=0))
    for call in (composition_scores, copying_scores):
        with pytest.raises(ConfigError, match="n_layers = 0"):
            call(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["q"]}, "kinds = 'q'; allowed: 'Q', 'K', 'V'"),
        ({"kinds": []}, "kinds = .*; allowed: at least one, each once"),
        ({"kinds": ["K", "K"]}, "each once"),
        ({"score": "align"}, "score = 'align'; allowed: 'raw', 'aligned'; did you mean 'aligned'"),
        ({"max_bytes": 0}, "max_bytes = 0; allowed: a whole number of bytes"),
    ],
    ids=str,
)
def test_impossible_questions_about_composition_are_errors(arguments: Any, message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message):
        composition_scores(run_of("learned_ln").model, **arguments)


# ---------------------------------------------------------------------------------------------- copying


@where(splits_logits)
def test_copying_scores_are_those_of_the_dense_circuits(run: Run):
    scores = copying_scores(run.model)
    for layer, head in ((0, 0), (1, 3), (2, 1)):
        eigenvalues = torch.linalg.eigvals(ov_circuit(run.model, layer, head).dense())
        want = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
        assert float(scores.sel(layer=layer, head=head)) == pytest.approx(want, abs=1e-4)
    assert (scores.reason == "").all()


# ---------------------------------------------------------------------------------------------- singular directions


@pytest.mark.parametrize("fold_norms", [False, True])
@pytest.mark.parametrize(("circuit", "side"), [("OV", "read"), ("QK", "query")])
def test_singular_directions_show_the_tokens_at_both_of_their_ends(circuit: Any, side: str, fold_norms: bool):
    model = run_of("norms_on_both_sides").model
    found = singular_directions(model, 1, 2, circuit, n_directions=4, top_k=11, fold_norms=fold_norms)
    plus, minus = (found[f"{side}_value"].sel(end=end).values for end in ("+", "-"))
    assert (np.diff(plus) <= 0).all()
    assert (minus == plus[:, ::-1]).all()
    assert (plus[:, 0] >= np.abs(minus[:, 0])).all()  # the token farthest along a direction is at "+"
    assert found.attrs["circuit"] == f"{circuit} of L1H2"


def test_all_singular_directions_of_all_tokens_make_the_circuit(run: Run):
    cfg = run.cfg
    both: list[tuple[Any, tuple[str, str], Tensor]] = [("QK", ("query", "key"), qk_circuit(run.model, 2, 1).dense())]
    if splits_logits(cfg):
        both.append(("OV", ("read", "write"), ov_circuit(run.model, 2, 1).dense()))
    for circuit, sides, dense in both:
        found = singular_directions(run.model, 2, 1, circuit, n_directions=cfg.d_head, top_k=cfg.d_vocab)
        along = []
        for side in sides:
            ids, values = (torch.tensor(found[f"{side}_{what}"].values[:, 0]) for what in ("id", "value"))
            along.append(torch.zeros_like(values).scatter(1, ids, values))
        assert_close(along[0].T @ torch.tensor(found.singular_value.values).diag() @ along[1], dense)


def test_a_direction_that_no_token_lies_along_still_shows_what_it_writes():
    model = build(config(SMALL, dtype=torch.float64), SEED)
    with torch.no_grad():
        model.embed.W_E.zero_()
    found = singular_directions(model, 0, 0)
    assert (found.read_value == 0).all()
    assert (np.abs(found.write_value.values[:, 0, 0]) > 0).all()


def test_tokens_are_named_where_they_have_a_name():
    words = Vocabulary(["a b", "<script>", "\n\u202e", "z"], sep="|")
    model = build(config(SMALL), SEED, words)
    assert token_names(words, torch.tensor([0, 1, 2, 3, 7])) == ["a·b", "<script>", "⏎\\u202e", "z", "<7>"]
    found = singular_directions(model, 0, 0, n_directions=2, top_k=11)
    assert set(found.read_token.values[1, 1].tolist()) == {
        "a b",
        "<script>",
        "\n\u202e",
        "z",
        *(f"<{i}>" for i in range(4, 11)),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"circuit": "VO"}, "circuit = 'VO'; allowed: 'OV', 'QK'"),
        ({"n_directions": 6}, "n_directions = 6; allowed: 1 to 5"),
        ({"top_k": 0}, "top_k = 0; allowed: 1 to 11"),
    ],
    ids=str,
)
def test_impossible_directions_are_errors(arguments: Any, message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message):
        singular_directions(run_of("learned_ln").model, 0, 0, **{"n_directions": 2, "top_k": 3} | arguments)


# ---------------------------------------------------------------------------------------------- largest entries


def by_size(values: Tensor, by: str) -> Tensor:
    """What is sorted by, the most extreme first."""
    return {"largest": values, "smallest": -values, "magnitude": values.abs()}[by]


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["largest", "smallest", "magnitude"]),
    st.data(),
    st.booleans(),
)
def test_the_most_extreme_entries_are_those_of_the_dense_matrix(
    n_rows: int, n_columns: int, by: Any, data: st.DataObject, per_row: bool
):
    seed = data.draw(st.integers(0, 2**31))
    matrix = FactoredMatrix(random_tensor(n_rows, 3, seed=seed), random_tensor(3, n_columns, seed=seed + 1))
    k = data.draw(st.integers(1, n_columns if per_row else n_rows * n_columns))
    top = top_entries(matrix, k, by, per_row=per_row, max_bytes=data.draw(st.integers(1, 8 * n_columns * (n_rows + 1))))
    dense = matrix.dense()
    want = by_size(dense if per_row else dense.flatten(), by).topk(k).values
    assert top.values.shape == top.rows.shape == top.columns.shape == want.shape
    assert_close(by_size(top.values, by), want)
    assert_close(top.values, dense[top.rows, top.columns])
    assert len({*zip(top.rows.flatten().tolist(), top.columns.flatten().tolist(), strict=True)}) == want.numel()


def test_equal_entries_are_each_kept_once():
    ones = FactoredMatrix(torch.ones(6, 1), torch.ones(1, 5))
    top = top_entries(ones, 30, max_bytes=4 * 5 * 4)
    assert len({*zip(top.rows.tolist(), top.columns.tolist(), strict=True)}) == 30


def test_entries_of_a_vocabulary_circuit_are_named():
    model = build(config(SMALL), SEED, Vocabulary("abcdefghijk"))
    top = top_entries(ov_circuit(model, 0, 1), 3)
    row, column = "abcdefghijk"[int(top.rows[0])], "abcdefghijk"[int(top.columns[0])]
    assert top.named(model)[0] == (row, column, float(top.values[0]))
    assert isinstance(top, TopEntries)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k = 0; allowed: 1 to 12"),
        ({"top_k": 1.5}, "top_k = 1.5; allowed: 1 to 12"),
        ({"top_k": 5, "per_row": True}, "top_k = 5; allowed: 1 to 4"),
        ({"by": "size"}, "by = 'size'; allowed: 'largest', 'smallest', 'magnitude'"),
        ({"max_bytes": 0}, "max_bytes = 0; allowed: a whole number of bytes"),
    ],
    ids=str,
)
def test_impossible_entries_are_errors(arguments: Any, message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message):
        top_entries(FactoredMatrix(random_tensor(3, 2), random_tensor(2, 4)), **{"top_k": 2} | arguments)


def test_a_stack_of_matrices_has_no_largest_entries(plain: Run):
    with pytest.raises(ShapeError, match="index it first"):
        top_entries(plain.model.OV)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_matrix_with_entries_that_are_no_numbers_is_an_error(broken: float):
    A = random_tensor(3, 2)
    A[1, 0] = broken
    with pytest.raises(RangeError, match="infinite or not numbers"):
        top_entries(FactoredMatrix(A, random_tensor(2, 4)))


# ---------------------------------------------------------------------------------------------- all of them


def test_no_analysis_changes_the_model_or_carries_gradients(run: Run):
    before = run.model.weights_hash()
    composition_scores(run.model)
    singular_directions(run.model, 0, 0, "QK", n_directions=2, top_k=2)
    circuits = [qk_circuit(run.model, 1, 1)]
    if splits_logits(run.cfg):
        copying_scores(run.model)
        singular_directions(run.model, 0, 0, n_directions=2, top_k=2)
        circuits.append(ov_circuit(run.model, 1, 1))
    for circuit in circuits:
        assert not top_entries(circuit, 2).values.requires_grad
        assert not (circuit.A.requires_grad or circuit.B.requires_grad)
    assert run.model.weights_hash() == before


def test_on_a_real_model_composition_and_largest_entries_are_the_dense_ones(smollm2: HookedTransformer):
    model = smollm2
    scores = composition_scores(model, ["K"])
    assert scores.shape == (1, 30, 9, 30, 9)
    for writer, reader in (((0, 0), (29, 8)), ((3, 2), (17, 5)), ((28, 8), (29, 1)), ((11, 4), (12, 0))):
        want = dense_composition(model, "K", writer, reader, aligned=False)
        assert abs(float(scores[0, writer[0], writer[1], reader[0], reader[1]]) - want) < 1e-5
    part = ov_circuit(model, 5, 1, fold_norms=True)[1_000:1_700]
    top = top_entries(part, 10, "magnitude", max_bytes=4 * 64 * part.shape[1])
    want = part.dense().flatten().abs().topk(10).values
    torch.testing.assert_close(top.values.abs(), want)
