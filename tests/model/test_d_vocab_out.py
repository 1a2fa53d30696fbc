"""Models whose logits are of other things than the tokens that go in, such as the classes of a task."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SMALL, assert_close, build, config, random_tokens, reference_logits

from interp import ConfigError, HookedTransformer, TokenError, TransformerConfig
from interp.heads import head_scores
from interp.lens import direct_attribution, logit_lens
from interp.metrics import KLDivergence, Logit, LogitDifference, Loss
from interp.patching import path_sweep, sweep
from interp.text import Vocabulary
from interp.training import Batch, train
from interp.weights import (
    center_unembed,
    copying_scores,
    copying_top_scores,
    fold_layer_norm,
    ov_circuit,
    qk_circuit,
    singular_directions,
    top_entries,
)

WORDS = Vocabulary([f"w{i}" for i in range(11)], sep=" ")


def classifier(d_vocab_out: int = 3, **changes: Any) -> HookedTransformer:
    cfg = config(SMALL, **{"d_vocab_out": d_vocab_out, "dtype": torch.float64, **changes})
    return build(cfg, seed=5, tokenizer=WORDS)


@pytest.mark.parametrize("d_vocab_out", [1, 3, 20])
def test_logits_are_as_many_as_the_config_says(d_vocab_out: int):
    model = classifier(d_vocab_out)
    tokens = random_tokens(model.cfg, 1)
    assert model.W_U.shape == (24, d_vocab_out) and model.b_U.shape == (d_vocab_out,)
    assert_close(model(tokens)[0], reference_logits(model, tokens[0]))
    assert model.cfg.n_params.total == sum(p.numel() for p in model.parameters())


def test_without_a_number_the_logits_are_of_the_tokens():
    cfg = TransformerConfig(**SMALL)
    assert cfg.d_vocab_out == 11 and not cfg.predicts_other_things
    assert TransformerConfig.from_dict({k: v for k, v in cfg.to_dict().items() if k != "d_vocab_out"}) == cfg


def test_tied_embeddings_make_as_many_logits_as_tokens():
    with pytest.raises(ConfigError, match=r"tie_word_embeddings = True .* d_vocab = 11 and d_vocab_out = 3"):
        classifier(tie_word_embeddings=True)
    assert classifier(11, tie_word_embeddings=True).W_U.shape == (24, 11)


def test_it_is_saved_and_processed_with_its_logits(tmp_path: Path):
    model = classifier()
    tokens = random_tokens(model.cfg, 1)
    model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert loaded.cfg == model.cfg and torch.equal(loaded(tokens), model(tokens))
    assert_close(fold_layer_norm(model)(tokens), model(tokens))
    assert_close(center_unembed(model)(tokens).log_softmax(-1), model(tokens).log_softmax(-1))


def test_answers_are_numbers_of_logits():
    model = classifier()
    logits, cache = model.run_with_cache(tokens := random_tokens(model.cfg, 1))
    stack = cache.decompose_resid()
    assert_close(cache.logit_attrs(stack, 2, 0).values.sum(0), (logits[..., 2] - logits[..., 0]).detach())
    assert direct_attribution(cache, 2).sizes["prompt"] == 3
    lens = logit_lens(cache, top_k=3, answers=[0, 2])
    assert set(lens["top_token"].values.flatten()) == {"0", "1", "2"} and list(lens["answer"].values) == ["0", "2"]
    assert torch.equal(LogitDifference(2, 0)(logits, model, tokens), logits[:, -1, 2] - logits[:, -1, 0])
    wrongs: list[Callable[[], Any]] = [
        lambda: cache.logit_attrs(stack, 3),
        lambda: Logit(3)(logits, model),
        lambda: logit_lens(cache, answers=[3], top_k=1),
        lambda: sweep(model, tokens, tokens.flip(1), Logit(3), progress=False),
    ]
    for wrong in wrongs:
        with pytest.raises(TokenError, match="3 is no token; allowed: 0 to 2"):
            wrong()
    texts: list[Callable[[], Any]] = [
        lambda: cache.logit_attrs(stack, "w1"),
        lambda: Logit("w1")(logits, model),
        lambda: logit_lens(cache, answers="w1", top_k=1),
    ]
    for text in texts:
        with pytest.raises(TokenError, match=r"'w1' is text, but .* d_vocab_out = 3 other things"):
            text()
    with pytest.raises(ConfigError, match="top_k = 4; allowed: 0 to 3"):
        logit_lens(cache, top_k=4)


def test_sweeps_measure_classes():
    model = classifier(20)  # more logits than tokens
    clean, corrupted = random_tokens(model.cfg, 1), random_tokens(model.cfg, 2)
    swept = sweep(model, corrupted, clean, Logit(19), per_prompt=True, progress=False)
    last = swept.sel(layer=2).isel(pos=-1)
    _, cache = model.run_with_cache(clean)

    def write(x: torch.Tensor, hook: Any) -> None:
        x[:, -1] = cache["resid_pre", 2][:, -1]

    want = model.run_with_hooks(corrupted, fwd_hooks=[(("resid_pre", 2), write)])[:, -1, 19]
    assert_close(torch.tensor(last.values), want.detach())
    assert path_sweep(model, corrupted, clean, KLDivergence(), "logits", progress=False).shape == (3, 4)


@pytest.mark.parametrize("d_vocab_out", [3, 20])
def test_there_is_no_next_token_to_predict(d_vocab_out: int):
    model = classifier(d_vocab_out)
    tokens = random_tokens(model.cfg, 1, n_pos=4)
    nexts: list[Callable[[], Any]] = [
        lambda: model(tokens, "loss"),
        lambda: model.run_with_cache(tokens, "loss", incl_bwd=True),
        lambda: model.run_with_cache(tokens, gradient_of="loss"),
        lambda: model.generate(tokens, 2, progress=False),
        lambda: model.stream(tokens, 2),
        lambda: sweep(model, tokens, tokens.flip(1), Loss(), progress=False),
        lambda: Loss()(model(tokens), model, tokens),
        lambda: train(model, lambda generator: tokens, 1, progress=False),
    ]
    for call in nexts:
        with pytest.raises(ConfigError, match=rf"needs logits of tokens, .* d_vocab_out = {d_vocab_out} other things"):
            call()


def test_labels_train_it():
    model = classifier(dtype=torch.float32)
    tokens = random_tokens(model.cfg, 1, batch=16)
    labelled = Batch(tokens, labels=tokens[:, 0] % 3)
    done = train(model, lambda generator: labelled, 60, lr=3e-2, warmup=0, progress=False)
    assert done.losses[-1] < done.losses[0] / 2


def test_weights_read_tokens_and_write_logits():
    model = classifier()
    assert ov_circuit(model, 0, 1).shape == (11, 3) and qk_circuit(model, 0, 1).shape == (11, 11)
    (row, column, _), *_ = top_entries(ov_circuit(model, 0, 1), 3, progress=False).named(model)
    assert row.startswith("w") and column in {"0", "1", "2"}
    directions = singular_directions(model, 0, 1)
    assert directions.sizes["top"] == 3 and set(directions["write_token"].values.flatten()) == {"0", "1", "2"}
    assert str(directions["read_token"].values.flat[0]).startswith("w")
    assert "copying" not in head_scores(model, n_prompts=2, length=7, seed=0, progress=False)
    with pytest.raises(ConfigError, match=r"the score 'copying' needs logits of tokens, .*d_vocab_out = 3 other"):
        head_scores(model, scores="copying", progress=False)
    for copying in (copying_scores, copying_top_scores):
        with pytest.raises(ConfigError, match=rf"{copying.__name__} needs .*d_vocab_out = 3 other things"):
            copying(model)


def test_a_published_architecture_has_no_place_for_it():
    from interp import CheckpointError
    from interp.checkpoints.registry import to_hf

    cfg = TransformerConfig(n_layers=1, d_model=8, n_ctx=8, d_vocab=11, n_heads=2, act_fn="gelu_new")
    to_hf(cfg, HookedTransformer(cfg).state_dict(), "gpt2")
    other = dataclasses.replace(cfg, d_vocab_out=3)
    with pytest.raises(CheckpointError, match="d_vocab_out = 3 would become 11"):
        to_hf(other, HookedTransformer(other).state_dict(), "gpt2")
