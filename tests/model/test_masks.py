"""One check of attention masks: every spelling means the same on every way in, and what is no mask is refused alike."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SMALL, build, config
from torch import Tensor

from interp import HookedTransformer, ShapeError
from interp.heads import head_scores
from interp.interventions import Zero
from interp.lens import logit_lens
from interp.metrics import Logit, Loss
from interp.model import KVCache
from interp.patching import path_sweep, path_tree, sweep, sweep_sites

MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
TOKENS = torch.tensor([[0, 0, 4, 2, 7, 5], [3, 9, 1, 8, 6, 2]])
OTHERS = torch.tensor([[0, 0, 4, 5, 7, 5], [3, 2, 1, 8, 6, 2]])

SPELLINGS: dict[str, Callable[[Tensor], Any]] = {
    **{str(kind): lambda mask, kind=kind: mask.to(kind) for kind in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )},
    "lists of integers": lambda mask: mask.int().tolist(),
    "lists of booleans": lambda mask: mask.tolist(),
    "numpy integers": lambda mask: mask.int().numpy(),
    "numpy booleans": lambda mask: mask.numpy(),
    "numpy floats": lambda mask: mask.float().numpy(),
    "transposed": lambda mask: mask.int().T.contiguous().T,
}  # fmt: skip

QUIET: dict[str, Any] = {"progress": False}


def in_pieces(model: HookedTransformer, mask: Any) -> Tensor:
    cache = KVCache(model.cfg.n_layers)
    first = model(TOKENS, kv_cache=cache, attention_mask=mask)
    return torch.cat([first, model(torch.tensor([[1], [2]]), kv_cache=cache)], dim=1)


def from_the_middle(model: HookedTransformer, mask: Any) -> Tensor:
    stream = torch.linspace(-1, 1, 2 * 6 * model.cfg.d_model, dtype=model.W_E.dtype).reshape(2, 6, -1)
    _, cache = model.run_with_cache(stream, start_at_layer=1, attention_mask=mask)
    assert cache.attention_mask is not None and torch.equal(cache.attention_mask, MASK)
    return cache["resid_post", -1]


def generated(model: HookedTransformer, mask: Any) -> Tensor:
    cache = model.generate(TOKENS, 2, attention_mask=mask, names_filter="*", **QUIET).cache
    assert cache is not None and cache.attention_mask is not None and torch.equal(cache.attention_mask[:, :6], MASK)
    return cache["resid_post", -1]


WAYS: dict[str, Callable[[HookedTransformer, Any], Any]] = {
    "a run": lambda model, mask: model(TOKENS, "loss", attention_mask=mask),
    "a run from the middle": from_the_middle,
    "a run with hooks": lambda model, mask: model.run_with_hooks(
        TOKENS, fwd_hooks=[(("z", 0), lambda z, hook: None)], attention_mask=mask
    ),
    "a cached run": lambda model, mask: model.run_with_cache(TOKENS, attention_mask=mask)[1]["pattern", -1],
    "steps": in_pieces,
    "generation": generated,
    "a stream of tokens": lambda model, mask: torch.stack(list(model.stream(TOKENS, 3, attention_mask=mask))),
    "a metric": lambda model, mask: Loss()(model(TOKENS), tokens=TOKENS, attention_mask=mask),
    "a sweep": lambda model, mask: sweep(model, OTHERS, TOKENS, Loss(), attention_mask=mask, **QUIET),
    "an ablation": lambda model, mask: sweep(model, Zero(), TOKENS, Loss(), "z", attention_mask=mask, **QUIET),
    "a sweep of sites": lambda model, mask: sweep_sites(
        model, OTHERS, TOKENS, Logit(1), ["z", "mlp_out"], attention_mask=mask, **QUIET
    ).to_array(),
    "a sweep of paths": lambda model, mask: path_sweep(
        model, OTHERS, TOKENS, Loss(), "L2H1.q", attention_mask=mask, **QUIET
    ),
    "a tree of paths": lambda model, mask: path_tree(
        model, OTHERS, TOKENS, Loss(), [["L0H1", "L2H1.v", "logits"]], attention_mask=mask
    ),
    "the logit lens": lambda model, mask: logit_lens(model, TOKENS, top_k=0, attention_mask=mask, **QUIET).kl,
    "scores of heads": lambda model, mask: head_scores(
        model, TOKENS, scores=["previous_token"], attention_mask=mask, **QUIET
    ).previous_token,
}  # fmt: skip


def as_array(result: Any) -> np.ndarray:
    return result.detach().numpy() if isinstance(result, Tensor) else np.asarray(result)


@pytest.mark.parametrize("way", WAYS)
def test_every_spelling_of_a_mask_means_the_same_on_every_way_in(way: str):
    model = build(config(GRID["learned_ln"]), seed=1)
    wanted = as_array(WAYS[way](model, MASK))
    for spelling, spelled in SPELLINGS.items():
        assert np.array_equal(as_array(WAYS[way](model, spelled(MASK))), wanted, equal_nan=True), spelling


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_mask_is_refused_alike_on_every_way_in(way: str):
    model = build(config(GRID["learned_ln"]), seed=1)
    empty = MASK.int()
    empty[0] = 0
    for wrong, message in (
        ("mask", "a tensor, an array or lists of shape .2, 6. .batch, pos."),
        ([[1, 1], [1]], "a tensor, an array or lists"),
        ([["a"] * 6] * 2, "a tensor, an array or lists"),
        (MASK[:, :4], r"shape \(2, 4\) .* the input has \(2, 6\)"),
        (MASK[0], r"shape \(6,\)"),
        (2 * MASK.int(), r"1 \(or True\) for real tokens"),
        (MASK * 0.5, r"1 \(or True\) for real tokens"),
        (MASK * float("nan"), r"1 \(or True\) for real tokens"),
        (empty, "sequence 0 is padding only"),
    ):
        with pytest.raises(ShapeError, match=message):
            WAYS[way](model, wrong)


def test_beside_a_single_sequence_a_mask_needs_no_batch_axis():
    model = build(config(SMALL), seed=2)
    wanted = model(TOKENS[:1], attention_mask=MASK[:1])
    for mask in (MASK[0], MASK[0].int().tolist(), MASK[0].numpy()):
        assert torch.equal(model(TOKENS[0], attention_mask=mask), wanted)


def test_a_mask_without_padding_is_no_mask():
    model = build(config(SMALL), seed=3)
    prompts = model.masked_tokens(TOKENS, torch.ones(2, 6))
    assert prompts.attention_mask is None and prompts.is_token.all()
    assert torch.equal(model(TOKENS, attention_mask=[[1] * 6] * 2), model(TOKENS))


def test_checked_tokens_are_taken_as_they_are_and_bring_their_own_mask():
    model = build(config(SMALL), seed=4)
    prompts = model.masked_tokens(TOKENS, MASK.int().tolist())
    again = model.masked_tokens(prompts)
    assert again.ids is prompts.ids and again.attention_mask is prompts.attention_mask
    assert torch.equal(prompts.is_token, MASK)
    assert torch.equal(model(prompts), model(TOKENS, attention_mask=MASK))
    second = prompts[1:]
    assert len(second) == 1 and second.attention_mask is None
    with pytest.raises(ShapeError, match="MaskedTokens bring their own attention_mask"):
        model(prompts, attention_mask=MASK)
