import numpy as np
import pytest
import torch
from grid import Run, where
from torch import Tensor

from interp import ConfigError, HookedTransformer, TransformerConfig
from interp.weights import copying_scores, copying_top_scores, fold_layer_norm

N_WORDS = 9
SUCCESSOR = torch.eye(N_WORDS).roll(1, dims=1)


def head_that_writes(ov: Tensor) -> HookedTransformer:
    """One head whose full OV circuit is `ov` [d_vocab, d_vocab], in a random basis of the stream."""
    n = len(ov)
    cfg = TransformerConfig(
        n_layers=1, d_model=n + 4, n_ctx=4, d_vocab=n, n_heads=1, d_head=n, attn_only=True, normalization_type=None
    )
    model = HookedTransformer(cfg)
    basis = torch.linalg.qr(torch.randn(n + 4, n + 4, dtype=torch.float64))[0][:n].float()
    with torch.no_grad():
        model.embed.W_E.copy_(basis)
        model.unembed.W_U.copy_(basis.T)
        model.blocks[0].attn.W_V[0] = basis.T
        model.blocks[0].attn.W_O[0] = ov @ basis
    return model


@pytest.mark.parametrize(
    ("ov", "score"),
    [(2 * torch.eye(N_WORDS), 1.0), (-torch.eye(N_WORDS), -1.0), (SUCCESSOR, 0.0)],
    ids=["copying", "anti-copying", "successor"],
)
def test_the_eigenvalue_score_of_pure_circuits(ov: Tensor, score: float):
    assert float(copying_scores(head_that_writes(ov))[0, 0]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("ov", "score"),
    [
        (2 * torch.eye(N_WORDS), 1.0),
        (-torch.eye(N_WORDS), 0.0),
        (SUCCESSOR, 0.0),
        (torch.diag(torch.arange(N_WORDS).float().clamp(max=1)), 8 / 9),  # a word that is dropped is not copied
    ],
    ids=["copying", "anti-copying", "successor", "one dropped"],
)
def test_the_share_of_copied_tokens_of_pure_circuits(ov: Tensor, score: float):
    assert copying_top_scores(head_that_writes(ov)).item() == pytest.approx(score)


def test_a_head_that_the_unembedding_does_not_read_has_no_copying_score():
    model = head_that_writes(torch.eye(N_WORDS))
    outside = torch.linalg.svd(model.W_E.detach(), full_matrices=True)[2][N_WORDS:]  # 4 unread directions
    with torch.no_grad():
        model.blocks[0].attn.W_O[0] = torch.randn(N_WORDS, 4) @ outside
    assert copying_scores(model).isnull().all()
    top = copying_top_scores(model)
    assert top.isnull().all() and "reaches the logits" in top["reason"].item()


@where(
    lambda cfg: (
        cfg.norm_position == "pre" and cfg.positional_embedding_type != "shortformer" and not cfg.masked_token_head
    )
)
def test_scores_are_those_of_the_whole_circuit_of_the_folded_model(run: Run):
    folded = fold_layer_norm(run.model)
    eigenvalue_scores = copying_scores(run.model, fold_norms=True)
    top_scores = copying_top_scores(run.model, fold_norms=True)
    for layer in range(3):
        for head in range(4):
            circuit = folded.W_E @ folded.W_V[layer, head] @ folded.W_O[layer, head] @ folded.W_U
            values = torch.linalg.eigvals(circuit.detach())
            want = values.real.sum() / values.abs().sum()
            assert float(eigenvalue_scores[layer, head]) == pytest.approx(float(want), abs=1e-8)
            share = (circuit.argmax(dim=1) == torch.arange(11)).float().mean()
            assert float(top_scores[layer, head]) == pytest.approx(float(share))


@where(lambda cfg: cfg.norm_position == "both")
def test_folding_norms_into_weights_leaves_the_scores(run: Run):
    folded = fold_layer_norm(run.model)
    for score in (copying_scores, copying_top_scores):
        ours, theirs = (torch.tensor(np.asarray(score(model, fold_norms=True))) for model in (run.model, folded))
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_a_sample_of_tokens_stands_for_all():
    shares = [copying_top_scores(head_that_writes(torch.eye(40)), n, seed=n).item() for n in (2, 17, 40, 99)]
    assert shares == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="n_tokens = 1"):
        copying_top_scores(head_that_writes(torch.eye(N_WORDS)), 1)
