"""One vector for a whole sequence: pooling, its pooler, and the classes on it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, random_tensor, random_tokens

from interp import ConfigError, HookedTransformer, TransformerConfig
from interp.model import KVCache, pool

ENCODER: dict[str, Any] = SMALL | {
    "norm_position": "post",
    "embed_norm": True,
    "n_token_types": 2,
    "attention_dir": "bidirectional",
    "d_vocab_out": 0,
    "dtype": torch.float64,
}
CAUSAL = ENCODER | {"attention_dir": "causal", "pooling": "mean"}
MASKED = ENCODER | {"d_vocab_out": 11, "masked_token_head": True, "norm_position": "pre"}
PADDED = {"left": [[0, 1, 1, 1, 1], [1] * 5], "right": [[1, 1, 1, 1, 0], [1] * 5]}


def encoder(fields: dict[str, Any] = ENCODER, **changes: Any) -> HookedTransformer:
    return build(TransformerConfig(**fields | changes), SEED)


def last_stream(model: HookedTransformer, tokens: torch.Tensor, mask: Any) -> torch.Tensor:
    x = model(tokens, stop_at_layer=model.cfg.n_layers, attention_mask=mask)
    return model.ln_final.unhooked(x)


@pytest.mark.parametrize("fields", [ENCODER, MASKED], ids=["no_head", "masked_token_head"])
def test_pooling_is_of_the_tokens_alone_and_before_a_masked_token_head(fields: dict[str, Any]):
    tokens = random_tokens(TransformerConfig(**fields), SEED, 2, 5)
    for side, mask in {"none": None, **PADDED}.items():
        real = torch.ones(2, 5, dtype=torch.bool) if mask is None else torch.tensor(mask).bool()
        for pooling in ("mean", "cls", "pooler"):
            model = encoder(fields, pooling=pooling)
            rows = last_stream(model, tokens, mask)
            expected = torch.stack([row[own].mean(dim=0) if pooling == "mean" else row[own][0]
                                    for row, own in zip(rows, real, strict=True)])  # fmt: skip
            if pooling == "pooler":
                expected = (expected @ model.pooler.W_in + model.pooler.b_in).tanh()
            pooled = model(tokens, "pooled", attention_mask=mask)
            torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12, msg=f"{side} {pooling}")


def test_padding_on_either_side_changes_no_pooled_vector():
    tokens = random_tokens(TransformerConfig(**ENCODER), SEED, 1, 4)
    for pooling in ("mean", "cls", "pooler"):
        model = encoder(pooling=pooling, normalize_pooled=True)
        plain = model(tokens, "pooled")
        torch.testing.assert_close(plain.norm(dim=-1), torch.ones(1, dtype=torch.float64))
        filled = torch.full((1, 2), 3)
        for ids, mask in (
            (torch.cat([filled, tokens], dim=1), [0, 0, 1, 1, 1, 1]),
            (torch.cat([tokens, filled], dim=1), [1, 1, 1, 1, 0, 0]),
        ):
            torch.testing.assert_close(model(ids, "pooled", attention_mask=mask), plain, rtol=1e-12, atol=1e-12)


def test_classes_are_linear_in_the_pooled_vector_and_counted_as_parameters():
    model = encoder(pooling="pooler", n_pooled_classes=3)
    tokens = random_tokens(model.cfg, SEED)
    pooled = model(tokens, "pooled")
    torch.testing.assert_close(model(tokens, "classes"), pooled @ model.pooler.W_class + model.pooler.b_class)
    assert model.cfg.n_params.total == sum(parameter.numel() for parameter in model.parameters())
    assert model.cfg.n_params.pooler == sum(parameter.numel() for parameter in model.pooler.parameters())


def test_a_watched_run_pools_the_same_bits_and_hooks_act():
    for fields in (ENCODER, MASKED):
        model = encoder(fields, pooling="mean")
        tokens = random_tokens(model.cfg, SEED)
        pooled = model(tokens, "pooled")
        watched, cache = model.run_with_cache(tokens, "pooled")
        assert torch.equal(pooled, watched)
        assert "blocks.2.hook_resid_post" in cache
        edit = [("blocks.2.hook_resid_post", lambda value, hook: value * 0)]
        assert not torch.equal(model.run_with_hooks(tokens, "pooled", fwd_hooks=edit), pooled)


def test_a_pooled_vector_is_differentiable():
    model = encoder(pooling="mean")
    model(random_tokens(model.cfg, SEED), "pooled").sum().backward()
    assert model.W_E.grad is not None and model.W_E.grad.abs().sum() > 0


def test_pooling_in_half_precision_stays_there_and_is_the_mean_but_for_one_rounding():
    model = encoder(dtype=torch.bfloat16, pooling="mean", normalize_pooled=True)
    assert model(random_tokens(model.cfg, SEED), "pooled").dtype == torch.bfloat16
    for n_pos in (3, 5, 7):  # neither a third nor a fifth nor a seventh is a bfloat16
        stream = random_tensor(4, n_pos, 200).bfloat16()
        mean = pool(stream, torch.ones(4, n_pos, dtype=torch.bool), "mean")
        torch.testing.assert_close(mean.double(), stream.double().mean(dim=1), rtol=1.001 * 2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalize_pooled": True}, "pooling = None leaves no vector for normalize_pooled = True"),
        ({"n_pooled_classes": 2}, "pooling = None leaves no vector for n_pooled_classes = 2"),
        ({"pooling": "max"}, "pooling = 'max'; allowed: 'mean' | 'cls' | 'pooler' | None"),
        ({"pooling": "mean", "n_pooled_classes": -1}, "n_pooled_classes = -1; allowed: zero or more"),
    ],
)
def test_a_contradictory_pooling_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(**ENCODER | fields)
    assert message in str(caught.value)


@pytest.mark.usefixtures("as_installed")
def test_what_a_model_does_not_pool_is_refused():
    model, tokens = encoder(pooling="mean"), torch.tensor([[1, 2]])
    for wrong, message in (
        (lambda: encoder()(tokens, "pooled"), r"return_type = 'pooled', but this model has pooling = None"),
        (lambda: model(tokens, "classes"), "return_type = 'classes', but this model has n_pooled_classes = 0"),
        (lambda: model(tokens, "pooled", stop_at_layer=1), "excludes stop_at_layer"),
        (
            lambda: encoder(CAUSAL)(tokens, "pooled", kv_cache=KVCache(SMALL["n_layers"])),
            "of the whole sequence, and a run with a kv_cache carries a part of it",
        ),
        (lambda: model(tokens, "poled"), "'poled'; allowed: .*'pooled'.*did you mean 'pooled'"),
        (lambda: model(tokens), "no unembedding.*'pooled' where it has a pooling"),
        (lambda: model.run_with_cache(tokens, "pooled", gradient_of=lambda x: x.sum()), "excludes gradient_of"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_copies_pickles_snapshots_and_files_pool_the_same_bits(tmp_path: Path):
    model = encoder(MASKED, pooling="pooler", n_pooled_classes=3)
    tokens = random_tokens(model.cfg, SEED)
    model.save_pretrained(tmp_path / "saved")
    model.save_snapshot(tmp_path / "snapshot")
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    others += [HookedTransformer.from_pretrained(tmp_path / name) for name in ("saved", "snapshot")]
    for other in others:
        assert other.cfg == model.cfg
        for what in ("pooled", "classes"):
            assert torch.equal(other(tokens, what), model(tokens, what))
