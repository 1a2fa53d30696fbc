"""Models run under `torch.autocast`: everything works to the precision of the run, or says that autocast is why not."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import pytest
import torch
from grid import GRID, build, config, random_tokens
from torch import Tensor

from interp import ActivationCache, CacheError, HookedTransformer, ShapeError
from interp.heads import head_scores, head_scores_of
from interp.interventions import FreezeNorms, FreezePattern, Intervention, Mean, Patch, Resample, Steer, Zero
from interp.lens import direct_attribution, expand_logits, expand_scores, expand_stream, logit_lens
from interp.metrics import LogitDifference
from interp.model import KVCache
from interp.patching import path_sweep, sweep
from interp.training import iid_tokens, train
from interp.weights import composition_scores, copying_scores, ov_circuit, singular_directions, top_entries

SOME = ("learned_ln", "gemma_like", "post_rms_gated_grouped", "partial_rotary_parallel", "shortformer_rms_grouped")
METRIC = LogitDifference(3, 4)


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.fixture(params=SOME)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(config(GRID[request.param], dtype=torch.float32), 3)


@pytest.fixture
def tokens(model: HookedTransformer) -> Tensor:
    return random_tokens(model.cfg, 1)


@pytest.fixture
def cache(model: HookedTransformer, tokens: Tensor) -> ActivationCache:
    """Of a run under autocast."""
    with autocast(), torch.no_grad():
        return model.run_with_cache(tokens)[1]


def close(got: Tensor, want: Tensor, size: Tensor | float = 1.0) -> bool:
    """Equal to the precision of bfloat16."""
    return bool(((got - want).abs() <= 0.03 * (1 + torch.as_tensor(size))).all())


def test_watching_a_run_under_autocast_changes_no_bit(model: HookedTransformer, tokens: Tensor):
    with autocast(), torch.no_grad():
        bare = model(tokens)
        assert torch.equal(bare, model.run_with_cache(tokens)[0])
        assert torch.equal(bare, model.run_with_cache(tokens, names_filter=list(model.hook_map()))[0])
    assert bare.dtype == torch.bfloat16


def test_decompositions_sum_to_the_precision_of_the_run(model: HookedTransformer, cache: ActivationCache):
    for around in (nullcontext(), autocast()):
        with around:
            for stack in (cache.decompose_resid(), cache.get_full_resid_decomposition(), expand_stream(cache, -1)):
                place = stack.place
                assert place is not None and stack.values.dtype == torch.float32
                whole = stack.values.sum(0)
                last = cache["resid_post", -1] if place.layer == 3 else cache["resid_pre", place.layer]
                assert close(whole, last, stack.values.abs().sum(0))


def test_a_change_of_weights_that_nobody_saw_is_still_found(model: HookedTransformer, cache: ActivationCache):
    for parameter in model.blocks[0].parameters():
        parameter.data.mul_(3)
    with pytest.raises(CacheError, match="do not sum"):
        cache.get_full_resid_decomposition()


def test_attributions_sum_to_the_logits_of_the_run(model: HookedTransformer, tokens: Tensor, cache: ActivationCache):
    if model.cfg.output_logits_soft_cap is None:
        with autocast(), torch.no_grad():
            logits = model(tokens).float()
        want = logits[..., 3] - logits[..., 4]
        for by in ("component", "head", "neuron", "position"):
            found = direct_attribution(cache, 3, 4, by=by)
            got = torch.as_tensor(found["logit"].to_numpy())
            assert close(got, want, 10)
            with autocast():
                assert torch.equal(got, torch.as_tensor(direct_attribution(cache, 3, 4, by=by)["logit"].to_numpy()))
        paths = expand_logits(cache, 3, 4, 1)
        assert close(paths.values.sum(0), want, paths.values.abs().sum(0))


def test_scores_by_paths_sum_to_those_of_the_run(model: HookedTransformer, cache: ActivationCache):
    scores = torch.as_tensor(expand_scores(cache, 1, 1).to_numpy())
    total, cached = scores.sum((0, 1)), cache["attn_scores", 1][:, 1].float()
    cap = model.cfg.attn_scores_soft_cap
    total = total if cap is None else cap * torch.tanh(total / cap)
    seen = cached.isfinite()
    assert close(total[seen], cached[seen], scores.abs().sum((0, 1))[seen])


def test_an_analysis_inside_autocast_is_as_exact_as_outside(model: HookedTransformer, tokens: Tensor):
    """Of a run without autocast: its rows sum to float32, and nothing is rounded to half precision on the way."""
    _, cache = model.run_with_cache(tokens)

    def found() -> list[Tensor]:
        circuit = ov_circuit(model, 1, 0)
        arrays = [
            direct_attribution(cache, 3, 4, by="head")["attribution"],
            expand_scores(cache, 1, 1),
            copying_scores(model),
            composition_scores(model),
            singular_directions(model, 0, 0)["singular_value"],
            head_scores_of(cache, tokens, scores="previous_token")["previous_token"],
        ]
        tensors = [torch.as_tensor(array.to_numpy()) for array in arrays]
        tensors += [circuit.dense(), circuit.singular_values(), circuit.norm(), circuit.T @ torch.ones(11)]
        tensors += [top_entries(circuit, 3).values, (circuit @ circuit).dense()]
        return [*tensors, cache.get_full_resid_decomposition(apply_ln=True).values]

    outside = found()
    with autocast():
        inside = found()
    for one, other in zip(outside, inside, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_interventions_act_on_runs_under_autocast(model: HookedTransformer, tokens: Tensor, cache: ActivationCache):
    _, plain = model.run_with_cache(random_tokens(model.cfg, 2))
    vector = torch.ones(model.cfg.d_model)
    edits: list[Intervention] = [Zero(site="z", layer=1, head=0), Steer(vector, site="attn_out", layer=1)]
    for values in (cache, plain):
        edits += [Patch(values, site="z", layer=1), Mean(values, site="attn_out", layer=1)]
        edits += [Resample(values, site="pattern", layer=0), FreezePattern(values)]
        edits += [FreezeNorms(values)] if model.cfg.norms_reads else []
    with autocast(), torch.no_grad():
        usual = model(tokens)
        for edit in edits:
            with model.intervene(edit):
                edited = model(tokens)
            own = edit in (FreezePattern(cache), Patch(cache, site="z", layer=1), FreezeNorms(cache))
            assert torch.equal(edited, usual) == own, edit


def test_values_of_a_run_under_autocast_do_not_fit_one_without_and_the_error_says_why(
    model: HookedTransformer, tokens: Tensor, cache: ActivationCache
):
    steer = Steer(torch.ones(model.cfg.d_model, dtype=torch.bfloat16), site="resid_pre", layer=1)
    for edit in (Patch(cache, site="z", layer=1), steer):
        with pytest.raises(ShapeError, match="autocast"), model.intervene(edit):
            model(tokens)


def test_sweeps_under_autocast_give_what_patching_by_hand_gives(model: HookedTransformer, tokens: Tensor):
    other = random_tokens(model.cfg, 2)
    with autocast(), torch.no_grad():
        _, clean = model.run_with_cache(other)
        places: dict[str, Literal["pos", "head"]] = {"resid_pre": "pos", "z": "head", "mlp_out": "pos"}
        for site, word in places.items():
            cells = sweep(model, tokens, other, METRIC, site=site, over=("layer", word), progress=False)
            with model.intervene(Patch(clean, site=site, layer=1, **{word: 2})):
                by_hand = METRIC(model(tokens)).mean()
            assert close(torch.tensor(float(cells[1, 2])), by_hand, 2)
        sweep(model, tokens, Zero(), METRIC, site="z", progress=False)
        for receiver in ("logits", "L1H0.q"):
            path_sweep(model, tokens, other, METRIC, receivers=receiver, progress=False)


def test_generation_with_keys_kept_gives_what_whole_runs_give(model: HookedTransformer, tokens: Tensor):
    with autocast(), torch.no_grad():
        done = model.generate(tokens[:, :3], 4, names_filter="*", progress=False)
        whole = model(done.tokens[:, :-1]).float()
        kept = KVCache(model.cfg.n_layers)
        parts = [model(part, kv_cache=kept).float() for part in (done.tokens[:, :3], done.tokens[:, 3:-1])]
        assert close(torch.cat(parts, dim=1), whole, 10)
    assert done.cache is not None
    done.cache.get_full_resid_decomposition()


def test_the_lens_and_head_scores_run_models_under_autocast(model: HookedTransformer, tokens: Tensor):
    with autocast(), torch.no_grad():
        lens, scores = logit_lens(model, tokens, top_k=11, progress=False), head_scores(model, progress=False)
        logits = model(tokens).float()
    want = logits.log_softmax(-1).amax(-1).exp()
    assert close(torch.as_tensor(lens["top_prob"].to_numpy())[-1, ..., 0], want)
    outside = head_scores(model, progress=False)
    for name in ("previous_token", "copying"):
        assert close(torch.as_tensor(scores[name].to_numpy()), torch.as_tensor(outside[name].to_numpy()))


def test_training_under_autocast_keeps_its_parameters_and_losses_in_float32():
    model = build(config(GRID["learned_ln"], dtype=torch.float32), 3)
    with autocast():
        done = train(model, lambda g: iid_tokens(range(3, 7), 16, 6, seed=g), 60, lr=2e-2, warmup=0, progress=False)
    assert {parameter.dtype for parameter in done.model.parameters()} == {torch.float32}
    assert done.losses.dtype == torch.float32 and float(done.losses[-10:].mean()) < float(done.losses[0]) - 0.5
