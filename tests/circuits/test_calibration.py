"""Analyses of weights and paths on circuits whose answers have a closed form."""

import math

import numpy as np
import pytest
import torch
from grid import assert_close
from handmade import Head, build, eye, induction, pointer, previous_token, shift, skip_two, writes
from torch import Tensor

from circuits.gallery.induction import induction_model
from interp import ActivationCache, FactoredMatrix, HookedTransformer
from interp.lens import expand_logits, expand_scores, expand_stream
from interp.weights import composition_scores, copying_scores, ov_circuit, top_entries

KINDS = ["Q", "K", "V"]


def rotated(model: HookedTransformer, seed: int = 0) -> HookedTransformer:
    """The same circuit in another orthonormal basis of the stream."""
    d_model = model.cfg.d_model
    noise = torch.randn(d_model, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    R = torch.linalg.qr(noise).Q
    twin = HookedTransformer(model.cfg)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for weight in (twin.embed.W_E, twin.pos_embed.W_pos, *(block.attn.W_O for block in twin.blocks)):
            weight.copy_(weight @ R)
        for block in twin.blocks:
            for weight in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
                weight.copy_(R.T @ weight)
        twin.unembed.W_U.copy_(R.T @ twin.unembed.W_U)
    return twin


def composition(model: HookedTransformer, score: str = "raw") -> list[float]:
    """Q-, K- and V-composition of the only head of layer 0 with that of layer 1."""
    scores = composition_scores(model, score=score)  # pyright: ignore[reportArgumentType]
    return scores.sel(kind=KINDS, writer_layer=0, writer_head=0, reader_layer=1, reader_head=0).values.tolist()


def random_text(V: int, batch: int, n: int, seed: int) -> Tensor:
    """Token 0, then n independent tokens 1 to V - 1."""
    tokens = torch.randint(1, V, (batch, n), generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.zeros(batch, 1, dtype=torch.long), tokens], dim=1)


def repeated_text(V: int, copies: int, seed: int) -> Tensor:
    """Token 0, then copies of one random order of the tokens 1 to V - 1."""
    order = torch.randperm(V - 1, generator=torch.Generator().manual_seed(seed)) + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), order.repeat(copies)])[None]


# ---------------------------------------------------------------------------------------------- composition


@pytest.mark.parametrize("V", [4, 9, 16, 25])
def test_perfect_induction_without_a_sink_composes_by_one_over_root_v_through_keys_alone(V: int):
    for model in (induction(V, 7), rotated(induction(V, 7))):
        assert composition(model) == pytest.approx([0, 1 / math.sqrt(V), 0], abs=1e-12)


@pytest.mark.parametrize(("V", "N", "sink", "recency"), [(5, 6, 0.5, 0.4), (9, 4, 0.6, 0.25), (3, 12, 0.8, 0.0)])
def test_a_sink_and_recency_lower_the_composition_of_a_perfect_circuit(V: int, N: int, sink: float, recency: float):
    expected = 1 / math.sqrt(V + sink**2 + sum((recency * j / N) ** 2 for j in range(N)))
    for model in (induction(V, N, sink, recency), rotated(induction(V, N, sink, recency))):
        assert composition(model) == pytest.approx([0, expected, 0], abs=1e-12)


@pytest.mark.parametrize("V", [2, 5, 11])
def test_the_aligned_score_of_a_perfect_circuit_is_1_whatever_its_rank(V: int):
    for model in (induction(V, 5), rotated(induction(V, 5))):
        assert composition(model, "aligned") == pytest.approx([0, 1, 0], abs=1e-12)
    assert composition(skip_two(V, 5), "aligned") == pytest.approx([0, 0, 1], abs=1e-12)


def test_the_three_mechanisms_separate():
    assert composition(induction(6, 7, sink=0.5, recency=0.4)) == pytest.approx([0, 0.39, 0], abs=5e-3)
    assert composition(pointer(6, 7, sink=0.5)) == pytest.approx([math.sqrt(2 / 15), 0, 0], abs=1e-12)  # .365
    assert composition(skip_two(6, 7)) == pytest.approx([0, 0, 1 / math.sqrt(6)], abs=1e-12)  # .408


def test_composition_with_a_head_that_writes_nothing_is_undefined():
    model = induction(4, 5)
    with torch.no_grad():
        model.blocks[0].attn.W_O.zero_()
    assert all(map(math.isnan, composition(model) + composition(model, "aligned")))


def test_of_heads_side_by_side_only_those_that_compose_score():
    idle, seeking = Head([], []), Head([("tok", "prev", eye(5))], [("tok", "out", eye(5))])
    model = build(5, 6, [[idle, previous_token(5, 6, "prev")], [seeking, previous_token(5, 6, "out")]], {"prev": 5})
    scores = composition_scores(model, ["K"])[0]
    for writer, reader in ((0, 0), (0, 1), (1, 0), (1, 1)):
        score = float(scores[0, writer, 1, reader])
        assert math.isnan(score) if writer == 0 else score == pytest.approx((1 - reader) / math.sqrt(5))


# ---------------------------------------------------------------------------------------------- copying


def cycle(V: int) -> Tensor:
    """Token i to token i + 1, the last to the first."""
    return eye(V).roll(1, dims=1)


def rhyme() -> Tensor:
    """Four pairs of rhyming words, each mapped to the other of its pair."""
    return eye(8)[[1, 0, 3, 2, 5, 4, 7, 6]]


@pytest.mark.parametrize(
    ("model", "layer", "expected"),
    [
        (induction(6, 7), 1, 1),
        (induction(6, 7, sink=0.5, recency=0.4), 1, 1),
        (pointer(6, 7, sink=0.5), 1, 1),
        (writes(cycle(8)), 0, 0),
        (writes(rhyme()), 0, 0),
        (writes(-eye(7)), 0, -1),
    ],
    ids=["induction", "with sink", "pointer", "successor", "rhyme", "anti-copying"],
)
def test_the_eigenvalue_copying_score_says_what_a_head_does_with_a_token(
    model: HookedTransformer, layer: int, expected: float
):
    for same in (model, rotated(model)):
        scores = copying_scores(same)
        assert float(scores[layer, 0]) == pytest.approx(expected, abs=1e-9)
        assert scores.reason[layer, 0] == ""


def test_copying_by_a_head_that_writes_where_no_logit_reads_is_undefined_and_says_why():
    for model in (induction(6, 7), rotated(induction(6, 7)), induction_model().double()):
        scores = copying_scores(model)
        assert math.isnan(scores[0, 0])
        assert "reaches the logits" in str(scores.reason[0, 0].item())


def test_copying_by_a_head_without_eigenvalues_is_undefined_and_says_why():
    model = writes(shift(5))  # each token to the one before, the first to nothing: no mixture comes back to itself
    scores = copying_scores(model)
    assert math.isnan(scores[0, 0])
    assert "every eigenvalue is 0" in str(scores.reason[0, 0].item())


# ---------------------------------------------------------------------------------------------- the lecture model

LECTURE_TABLE = 100 * torch.tensor(
    [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0, 0],
    ]
)
"""The slide's, but for entry (0, 0): position 0 attends to itself."""


def test_the_k_composition_circuit_of_the_lecture_model_has_trace_beta_v_and_top_1_accuracy_1():
    model = induction_model()
    circuit = model.W_E @ (model.QK[1, 0] @ model.OV[0, 0].T) @ model.W_E.T
    assert isinstance(circuit, FactoredMatrix)
    assert circuit.trace() == 400
    top = top_entries(circuit, 1, per_row=True)
    assert torch.equal(top.columns[:, 0], torch.arange(4))
    assert torch.equal(top.values[:, 0], torch.full((4,), 100.0))


def test_the_k_composition_path_alone_is_the_slides_table():
    _, cache = induction_model().double().run_with_cache("!abacb")
    scores = expand_scores(cache, 1, 0)
    table = torch.tensor(scores.sel(query_path="embed", key_path="embed -> L0H0").values[0])
    assert_close(table, LECTURE_TABLE.double())
    rest = scores.sum(("query_path", "key_path")).values[0] - table.numpy()
    assert abs(rest).max() < 1e-12


# ---------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("model", [induction(5, 9), induction(5, 9, 0.5, 0.4), pointer(5, 9, 0.5), skip_two(5, 9)])
def test_paths_sum_to_logits_and_scores_to_the_last_digit(model: HookedTransformer):
    logits, cache = model.run_with_cache(random_text(5, 3, 8, seed=1))
    for token in range(5):
        assert_close(expand_logits(cache, token).values.sum(0), logits[..., token].detach(), atol=1e-15)
    visible = cache["attn_scores", 1][:, 0].isfinite()
    total = torch.tensor(expand_scores(cache, 1, 0).sum(("query_path", "key_path")).values)
    assert_close(total[visible], cache["attn_scores", 1][:, 0][visible], atol=1e-15)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (induction(5, 9), "embed -> L1H0"),
        (induction(5, 9, 0.5, 0.4), "embed -> L1H0"),
        (pointer(5, 9, 0.5), "embed -> L1H0"),
        (skip_two(5, 9), "embed -> L0H0 -> L1H0"),
    ],
    ids=["induction", "with sink", "pointer", "virtual head"],
)
def test_all_paths_to_the_logits_vanish_but_one(model: HookedTransformer, path: str):
    logits, cache = model.run_with_cache(random_text(5, 3, 8, seed=2))
    rows = expand_stream(cache)
    written = rows.values @ model.W_U
    for label, values in zip(rows.labels, written, strict=True):
        assert (values.abs().max() > 0.5) == (label == path), label
    assert torch.equal(written[rows.labels.index(path)], logits)


def pairs_that_matter(cache: ActivationCache) -> set[tuple[str, str]]:
    """Those that add anything to the scores of the head of layer 1."""
    scores = expand_scores(cache, 1, 0)
    largest = np.abs(scores.values).max(axis=(2, 3, 4))
    return {(scores.query_path.values[i], scores.key_path.values[j]) for i, j in np.argwhere(largest > 1e-9)}


def test_what_induction_seeks_is_one_pair_of_paths():
    _, cache = induction(5, 9).run_with_cache(random_text(5, 3, 8, seed=3))
    assert pairs_that_matter(cache) == {("embed", "embed -> L0H0")}
    _, cache = pointer(5, 9, sink=0.5).run_with_cache(random_text(5, 3, 8, seed=3))
    sink = ("pos_embed", "embed")
    assert pairs_that_matter(cache) == {("pos_embed -> L0H0", "pos_embed"), sink}


# ---------------------------------------------------------------------------------------------- behaviour


def follower(tokens: Tensor, position: int) -> int | None:
    """What came after the latest earlier occurrence of the token at a position."""
    earlier = [j for j in range(position) if tokens[j] == tokens[position]]
    return int(tokens[earlier[-1] + 1]) if earlier else None


def accuracy(logits: Tensor, tokens: Tensor) -> float:
    """Over the positions whose token stood there before; where nothing is written, nothing is predicted."""
    right = []
    for text, rows in zip(tokens, logits, strict=True):
        for i, row in enumerate(rows):
            if (want := follower(text, i)) is not None:
                right.append(bool(row.max() > 0.5) and int(row.argmax()) == want)
    return sum(right) / len(right)


def test_ablating_either_head_of_induction_takes_its_accuracy_from_1_to_0():
    model, tokens = induction(6, 12, 0.5, 0.4, sharp=2000.0), random_text(6, 40, 11, seed=4)
    assert accuracy(model(tokens), tokens) == 1
    for layer in (0, 1):
        ablated = model.run_with_hooks(tokens, fwd_hooks=[(("z", layer), lambda z, hook: torch.zeros_like(z))])
        assert accuracy(ablated, tokens) == 0


@pytest.mark.parametrize(("gain", "later"), [(5, 0.239), (10, 1.81e-3), (20, 8.2e-8)])
def test_repeated_random_tokens_cost_ln_41_at_first_and_then_what_the_gain_leaves(gain: float, later: float):
    model, tokens = induction(41, 121, 0.5, 0.4, gain), repeated_text(41, 3, seed=5)
    losses = model(tokens, "loss", loss_per_token=True)[0].detach()
    first, known = losses[:41], losses[41:]  # each token of the second copy predicts the next
    assert first.tolist() == pytest.approx([3.713572] * 41, abs=1e-6)
    assert known.tolist() == pytest.approx([math.log1p(40 * math.exp(-gain))] * 79, rel=1e-6)
    assert float(known.mean()) == pytest.approx(later, rel=6e-3)


def test_the_in_context_learning_score_of_a_permutation_in_eight_copies():
    tokens = repeated_text(65, 8, seed=6)
    losses = induction(65, 513, 0.5, 0.4, gain=10)(tokens, "loss", loss_per_token=True)[0].detach()
    assert float(losses[500] - losses[50]) == pytest.approx(-4.171486, abs=1e-6)


def test_on_independent_tokens_induction_hurts():
    model, tokens = induction(41, 41, 0.5, 0.4, gain=10, sharp=4000.0), random_text(41, 200, 40, seed=7)
    losses = model(tokens, "loss", loss_per_token=True).detach()[:, 1:]
    hit = math.log(math.exp(10) + 40) - 10 / 40  # the promoted token comes next once in 40 times
    repeats = [1 - (39 / 40) ** i for i in range(39)]  # chance that the token at i stood there before
    expected = sum(repeats) / 39 * (hit - math.log(41))
    assert expected == pytest.approx(2.2, abs=0.05)
    assert float(losses.mean()) - math.log(41) == pytest.approx(expected, abs=0.1)


def test_the_ov_circuit_of_a_copying_head_promotes_each_token_for_itself():
    top = top_entries(ov_circuit(induction(9, 5), 1, 0), 9)
    assert torch.equal(top.rows, top.columns)
    assert sorted(top.rows.tolist()) == list(range(9))
