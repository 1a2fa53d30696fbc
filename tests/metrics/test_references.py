"""What a divergence is taken from: the reference is run as the prompts are, with their mask, types and memory."""

import pytest
import torch
from grid import SEED, assert_close, build, config, random_tokens, run_of
from two_stacks import build_pair, random_prompts

from interp import ShapeError, Vocabulary
from interp.metrics import KLDivergence
from interp.model import SourceAndTarget
from interp.patching import sweep
from interp.text import MaskedTokens

FEW = ["*hook_embed"]
"""Something to keep."""
PADDED = {"left": [[0, 0, 1, 1, 1], [1] * 5], "right": [[1, 1, 1, 1, 0], [1] * 5]}


@pytest.mark.parametrize("name", ["bert_like", "learned_ln", "modernbert_like"])
@pytest.mark.parametrize("side", PADDED)
@torch.no_grad()
def test_the_ids_of_a_reference_are_run_with_the_mask_and_the_token_types_of_the_prompts(name: str, side: str):
    model = run_of(name).fresh_model()
    ids, others = (random_tokens(model.cfg, SEED + i, 2, 5) for i in range(2))
    types = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 1]]) if model.cfg.n_token_types else None
    prompts = model.masked_tokens(ids, PADDED[side], types)
    theirs = MaskedTokens(others, prompts.attention_mask, types)
    logits = model(prompts)
    wanted = KLDivergence(model(theirs), pos=2)(logits)
    if name != "learned_ln" or side == "left":  # padding behind changes nothing of a causal run
        assert (KLDivergence(model(others), pos=2)(logits) - wanted).abs().max() > 1e-6
    for reference in (others, others.tolist(), theirs):
        divergence = KLDivergence(reference, pos=2)
        plan = divergence.on(model, prompts)
        assert torch.equal(plan.score(logits[:, [2]], torch.arange(2)), wanted)
        values, _ = model.run_with_cache(prompts, None, names_filter=FEW, gradient_of=divergence)
        assert_close(values, wanted)
        swept = sweep(model, prompts, prompts, divergence, layers=[1], positions=[2], per_prompt=True, progress=False)
        assert_close(torch.tensor(swept.values).flatten(), wanted)
    alone = KLDivergence(model.masked_tokens(others), pos=2).on(model, prompts)  # brings its own: no mask, types of 0
    assert_close(alone.score(logits[:, [2]], torch.arange(2)), KLDivergence(model(others), pos=2)(logits))


@pytest.mark.parametrize("name", ["bart_like", "grouped_normed_keys"])
@torch.no_grad()
def test_the_reference_of_a_pair_is_run_with_both_masks_of_the_prompts(name: str):
    model = build_pair(name)
    prompts, others = random_prompts(model, 1, "both"), random_prompts(model, 2, "both")
    theirs = SourceAndTarget(*(
        MaskedTokens(other.ids, own.attention_mask)
        for other, own in ((others.source, prompts.source), (others.target, prompts.target))
    ))  # fmt: skip
    logits, wanted = model(prompts), KLDivergence(model(theirs))(model(prompts))
    rows = torch.arange(len(logits))
    assert (KLDivergence(model(others.source.ids, others.target.ids))(logits) - wanted).abs().max() > 1e-6
    for reference in (theirs, (others.source.ids, others.target.ids), (theirs.source, others.target.ids)):
        assert_close(KLDivergence(reference).on(model, prompts).score(logits[:, [-1]], rows), wanted)
        values, _ = model.run_with_cache(
            prompts, return_type=None, names_filter=FEW, gradient_of=KLDivergence(reference)
        )
        assert_close(values, wanted)


@torch.no_grad()
def test_a_decoder_run_by_itself_reads_the_memory_for_its_reference_as_well():
    pair = build_pair("bart_like")
    prompts, others = random_prompts(pair, 1), random_prompts(pair, 2)
    memory = pair.encode(prompts.source)
    read = pair.decoder.masked_tokens(prompts.target.ids, memory=memory)
    found, _ = pair.decoder.run_with_cache(read, None, names_filter=FEW, gradient_of=KLDivergence(others.target.ids))
    assert_close(found, KLDivergence(pair.decoder(others.target.ids, memory=memory))(pair.decoder(read)))


@pytest.mark.usefixtures("as_installed")
@torch.no_grad()
def test_a_reference_that_does_not_correspond_to_the_run_is_refused():
    run = run_of("bert_like")
    model = build(config(run.fields), SEED, Vocabulary("abcdefghijk"))
    prompts = model.masked_tokens([[1, 2, 3], [0, 1, 2]], [[1, 1, 1], [0, 1, 1]])
    for reference, message in (
        (["abc", "bcd"], "padded differently"),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], r"the reference has tokens \(2, 4\) \[batch, pos\], and the run"),
        ("abc", r"the reference has tokens \(1, 3\) \[batch, pos\], and the run"),
    ):
        with pytest.raises(ShapeError, match=message):
            KLDivergence(reference, pos=-1).on(model, prompts)
    with pytest.raises(ShapeError, match=r"the reference has logits of shape \(1, 4, 11\), the run \(2, 3, 11\)"):
        KLDivergence("abcd", pos=-1).on(model, model.masked_tokens(prompts.ids))
