"""`head_detector` and `SVDInterpreter` of the TransformerLens module."""

from typing import Any, cast

import pytest
import torch
from grid import assert_close, random_tensor, run_of

from interp import ConfigError, HookedTransformer, TransformerConfig, Vocabulary
from interp.compat import transformer_lens
from interp.compat.transformer_lens import SVDInterpreter, head_detector
from interp.compat.transformer_lens.head_detector import compute_head_attention_similarity_score, detect_head

TEXT = "a b c a b c d"


@pytest.fixture(scope="module")
def model() -> Any:
    words = Vocabulary(["<s>", "a", "b", "c", "d", "e"], bos="<s>")
    sizes: dict[str, Any] = {
        "n_layers": 2,
        "d_model": 8,
        "n_ctx": 12,
        "d_vocab": 6,
        "n_heads": 2,
        "d_head": 4,
        "d_mlp": 8,
    }
    core = HookedTransformer(TransformerConfig(**sizes, act_fn="gelu", seed=3), words)
    return transformer_lens.HookedTransformer.over(core)


def share(pattern: torch.Tensor, marked: torch.Tensor) -> float:
    return (pattern * marked).sum().item() / pattern.sum().item()


def test_expected_patterns_of_kinds_of_heads():
    tokens = torch.tensor([[0, 1, 2, 1, 2, 2]])
    n, row = 6, tokens[0]
    previous, duplicate, induction = (torch.zeros(n, n) for _ in range(3))
    for q in range(n):
        for k in range(q + 1):
            previous[q, k] = k == q - 1
            duplicate[q, k] = k < q and row[k] == row[q]
            induction[q, k] = k > 0 and row[k - 1] == row[q]
    assert torch.equal(head_detector.get_previous_token_head_detection_pattern(tokens), previous)
    assert torch.equal(head_detector.get_duplicate_token_head_detection_pattern(tokens), duplicate)
    assert torch.equal(head_detector.get_induction_head_detection_pattern(tokens), induction)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("current", [False, True])
def test_scores_of_a_pattern_leave_out_what_is_excluded_and_leave_the_pattern_alone(bos: bool, current: bool):
    pattern = random_tensor(4, 4).exp().tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    expected, before = torch.eye(4, dtype=torch.float64).roll(1, 0).tril(), pattern.clone()
    counted = pattern.clone()
    if bos:
        counted[:, 0] = 0
    if current:
        counted -= counted.diagonal().diag()
    options: Any = {"exclude_bos": bos, "exclude_current_token": current}
    score = compute_head_attention_similarity_score(pattern, expected, **options, error_measure="mul")
    assert score == pytest.approx(share(counted, expected))
    gap = [
        abs(pattern[q, k].item() - expected[q, k].item())
        for q in range(4)
        for k in range(4)
        if not (bos and k == 0) and not (current and q == k)
    ]
    score = compute_head_attention_similarity_score(pattern, expected, **options, error_measure="abs")
    assert score == pytest.approx(1 - round(sum(gap) / 4, 3))
    assert torch.equal(pattern, before)


def test_every_head_is_scored_by_its_own_pattern(model: Any):
    _, cache = model.run_with_cache(TEXT, remove_batch_dim=True)
    marked = head_detector.get_induction_head_detection_pattern(model.to_tokens(TEXT))
    scores = detect_head(model, TEXT, "induction_head")
    assert scores.shape == (2, 2)
    for layer in range(2):
        for head in range(2):
            want = share(cache["pattern", layer, "attn"][head], marked)
            assert scores[layer, head].item() == pytest.approx(want, rel=1e-5)
    assert_close(detect_head(model, TEXT, marked, cache=cache), scores)
    some = detect_head(model, TEXT, "induction_head", heads=[(1, 0)])
    assert some.tolist() == [[-1, -1], [scores[1, 0].item(), -1]]
    assert torch.equal(detect_head(model, TEXT, "induction_head", heads={1: [0]}), some)


def test_several_texts_have_the_mean_score_with_the_same_options(model: Any):
    texts = [TEXT, "d d a a"]
    each = [detect_head(model, text, "previous_token_head", exclude_bos=True, error_measure="abs") for text in texts]
    both = detect_head(model, texts, "previous_token_head", exclude_bos=True, error_measure="abs")
    assert_close(both, torch.stack(each).mean(0))


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_detected_is_refused_as_theirs_refuses_it(model: Any):
    square, wrong = torch.ones(8, 8).tril(), cast(Any, {"error_measure": "max"})
    for call, said in (
        (lambda: detect_head(model, TEXT, "name_mover"), "one of head names"),
        (lambda: detect_head(model, TEXT, "induction_head", **wrong), "Invalid error_measure=max"),
        (lambda: detect_head(model, "", "induction_head"), "The sequence must be non-empty and must fit"),
        (lambda: detect_head(model, "a " * 11 + "a", "induction_head"), "The sequence must be non-empty and must fit"),
        (lambda: detect_head(model, TEXT, torch.ones(8, 8)), "The detection pattern must be a lower triangular"),
        (lambda: detect_head(model, TEXT, square[:4, :4]), "sequence_length=8"),
    ):
        with pytest.raises(AssertionError, match=said) as caught:
            call()
        assert isinstance(caught.value, ConfigError)
    with pytest.warns(UserWarning, match="other than 0 or 1"):
        detect_head(model, TEXT, square * 0.5)


@pytest.mark.parametrize("kind", ["learned_ln", "rotary_rms_gated_grouped"])
def test_directions_of_weights_are_read_as_logits(kind: str):
    core = run_of(kind).model
    found = SVDInterpreter(transformer_lens.HookedTransformer.over(run_of(kind).fresh_model()))
    head = 3
    block = core.blocks[1]
    kv = head * core.cfg.n_key_value_heads // core.cfg.n_heads
    assert block.ln2.w is not None
    for word, matrix in {
        "OV": block.attn.W_V[kv] @ block.attn.W_O[head],
        "w_in": (block.ln2.w[:, None] * block.mlp.W_in).T,
        "w_out": block.mlp.W_out,
    }.items():
        vectors = torch.linalg.svd(matrix).Vh[:3]
        logits = found.get_singular_vectors(word, 1, num_vectors=3, head_index=head)
        assert logits.shape == (11, 1, 3)
        assert_close(logits[:, 0].abs(), (vectors @ core.W_U).T.abs())


@pytest.mark.usefixtures("as_installed")
def test_directions_that_are_not_there_are_refused(model: Any):
    interpreter = SVDInterpreter(model)
    given: Any
    for given, said in (
        (("OV", 0), "Head index optional only for w_in and w_out, got OV"),
        (("w_in", 2), "Layer index must be between 0 and 1 but got 2"),
        (("OV", 0, 2, 5), "Head index must be between 0 and 1 but got 5"),
        (("OV", 0, 9, 0), "num_vectors = 9"),
        (("test", 0), "vector_type = 'test'"),
    ):
        with pytest.raises(ConfigError, match=said):
            interpreter.get_singular_vectors(*given)
