"""Everything that a user can hold survives copies and pickles, and works afterwards, in another process as well."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from grid import GRID, SMALL, Run, config, run_of, where
from torch import Tensor

from interp import HookedTransformer
from interp.heads import head_scores
from interp.interventions import FreezeNorms, FreezePattern, Intervention, Interventions, Mean, Patch, Steer, Zero
from interp.lens import direct_attribution, logit_lens
from interp.metrics import KLDivergence, LogitDifference, Loss, Metric, Rank
from interp.model import ActivationCache, HookPoint
from interp.patching import path_sweep, sweep
from interp.plot import attention
from interp.text import Vocabulary
from interp.training import iid_tokens, train
from interp.weights import copying_scores, ov_circuit, top_entries


def through_torch(value: Any) -> Any:
    """As users save what they made themselves; the package loads no pickle."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: tuple[Callable[[Any], Any], ...] = (
    copy.copy,
    copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value)),
    through_torch,
)


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@torch.no_grad()
def test_a_model_runs_on_after_copies_and_pickles(run: Run):
    names = list(run.model.hook_points)
    for copied in COPIES:
        twin = copied(run.model)
        assert torch.equal(twin(run.tokens), run.logits)
        assert twin.weights_hash() == run.model.weights_hash() and list(twin.hook_points) == names
        found = {id(point) for module in twin.modules() for point in vars(module).values() if type(point) is HookPoint}
        assert found == {id(point) for point in twin.hook_points.values()}  # named points are those that fire
        assert (twin.unembed.W_U.data_ptr() == twin.W_E.data_ptr()) == run.cfg.tie_word_embeddings


def test_every_activation_function_is_pickled():
    from interp.model.components import ACTIVATIONS

    for name in ACTIVATIONS:
        model = HookedTransformer(config(SMALL | {"act_fn": name}))
        twin = pickle.loads(pickle.dumps(model))
        assert torch.equal(twin(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))


def test_hooks_stay_behind(plain: Run):
    plain.model.add_hook("hook_embed", lambda x, hook: 0 * x)
    for copied in (copy.deepcopy, *COPIES[2:]):
        twin = copied(plain.model)
        assert torch.equal(twin(plain.tokens), plain.logits)
        with torch.no_grad():
            twin.run_with_hooks(plain.tokens, fwd_hooks=[("hook_embed", lambda x, hook: x + 1)])
    assert len(plain.model.hook_points["hook_embed"].hooks) == 1


def test_a_point_of_its_own_is_copied_without_hooks(plain: Run):
    plain.model.add_hook("hook_embed", lambda x, hook: None)
    for copied in COPIES:
        twin = copied(plain.model.hook_points["hook_embed"])
        assert repr(twin) == repr(plain.model.hook_points["hook_embed"]) and not twin.hooks


@where(lambda cfg: cfg.n_key_value_heads == 2 or cfg.norm_position == "post")
def test_interventions_act_after_copies_and_pickles(run: Run):
    other = run.model.run_with_cache(run.tokens.flip(1))[1]
    whats: list[Intervention | Interventions] = [
        Zero(site="z", layer=0, head=1),
        Patch(other, site="resid_pre", layer=1),
        Mean(other, site="z"),
        Steer(torch.ones(24, dtype=torch.float64), site="resid_pre", layer=0),
        FreezePattern(other) + Zero(site="v", layer=1),
    ]
    if run.cfg.normalization_type is not None:
        whats.append(FreezeNorms(other))
    for what in whats:
        with torch.no_grad(), run.model.intervene(what):
            want = run.model(run.tokens)
        for copied in COPIES:
            twin = copied(what)
            assert twin == what and hash(twin) == hash(what)
            with torch.no_grad(), run.model.intervene(twin):
                assert torch.equal(run.model(run.tokens), want)


def test_metrics_measure_after_copies_and_pickles(plain: Run):
    metrics = [LogitDifference([1, 2, 3], 4), Loss(), Rank(5, pos=[0, -1]), KLDivergence(plain.logits.flip(0))]
    for metric in metrics:
        for copied in COPIES:
            got = copied(metric)(plain.logits, plain.model, plain.tokens)
            assert torch.equal(got, metric(plain.logits, plain.model, plain.tokens))


def results() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """One of every kind of result, and what to ask of it."""
    run = run_of("gemma_like")
    model, tokens, cache = run.model, run.tokens, run.cache
    generated = model.generate(tokens[:, :3], 2, names_filter="*hook_z", progress=False)
    trained = train(model, lambda generator: iid_tokens(5, 2, 4, seed=generator), 1, warmup=0, progress=False)
    array: Callable[[Any], Any] = lambda found: (str(found), found.attrs)  # noqa: E731
    return {
        "decomposition": (cache.decompose_resid(apply_ln=True), lambda stack: stack["embed"]),
        "attribution": (cache.logit_attrs(cache.decompose_resid(), 3), lambda rows: rows.values),
        "attribution to sources": (direct_attribution(cache, 3), array),
        "generation": (generated, lambda made: made.cache["z", 1]),
        "training": (trained, lambda made: made.model.weights_hash()),
        "head scores": (head_scores(model, tokens, progress=False), array),
        "copying": (copying_scores(model), array),
        "lens": (logit_lens(cache), array),
        "sweep": (sweep(model, tokens, tokens.flip(1), Rank(3), progress=False), array),
        "paths": (path_sweep(model, tokens, tokens.flip(1), Rank(3), "logits", progress=False), array),
        "circuit of a head": (ov_circuit(model, 0, 1), lambda circuit: circuit.svd().S),
        "top entries": (top_entries(ov_circuit(model, 0, 1), 3, progress=False), lambda top: top.values),
        "names": (model.hook_map(), repr),
        "parameters": (model.cfg.n_params, lambda counts: counts.total),
        "explorer": (attention(cache, [str(i) for i in range(7)]), lambda page: page.values(0, 1).tobytes()),
        "figure": (attention(cache).figure(0, 1), lambda figure: figure),
    }


def test_results_can_be_asked_after_copies_and_pickles():
    for name, (result, ask) in results().items():
        want = ask(result)
        for copied in COPIES:
            assert same(ask(copied(result)), want), name


def test_words_and_ids_after_copies_and_pickles():
    words = Vocabulary(["a", "b", "<s>"], bos="<s>")
    for copied in COPIES:
        assert torch.equal(copied(words).to_tokens("a b"), words.to_tokens("a b"))


@torch.no_grad()
def elsewhere(model: HookedTransformer, cache: ActivationCache, what: Interventions, metric: Metric) -> dict[str, Any]:
    """What another process finds of what it was sent; as lists, which need no shared memory."""
    tokens = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    with model.intervene(what):
        edited = model(tokens)
    return {
        "logits": model(tokens).tolist(),
        "edited": edited.tolist(),
        "metric": metric(edited, model, tokens).tolist(),
        "stack": cache.decompose_resid().values.tolist(),
        "current": cache.is_current() and cache.made_by.is_of(model),
        "hash": model.weights_hash(),
    }


def test_all_of_it_works_in_a_spawned_process():
    sent = []
    for name in ("sinusoidal_no_norm", "gemma_like", "sdpa_rotary_grouped_window"):
        assert name in GRID
        run = run_of(name)
        other = run.model.run_with_cache(run.tokens[:2, :4])[1]
        sent.append((run.model, run.cache, Zero(site="z", layer=0) + Patch(other, site="v", layer=1), Loss()))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for one in sent:
            assert process.submit(elsewhere, *one).result() == elsewhere(*one)


def test_a_graph_is_left_behind(plain: Run):
    circuit = plain.model.OV
    assert circuit.A.requires_grad and copy.copy(circuit).A.requires_grad
    for copied in COPIES[1:]:
        assert not copied(circuit).A.requires_grad and torch.equal(copied(circuit).A, circuit.A)


@pytest.mark.parametrize("name", ["duplicate_token", "skip_1"])
def test_circuits_compile_and_verify_after_copies_and_pickles(name: str):
    from circuits.gallery import entry

    circuit = entry(name).build()
    text = circuit.vocabulary.sep.join(circuit.vocabulary.words[:3])
    for copied in (copy.deepcopy, *COPIES[2:]):
        assert copied(entry(name)) == entry(name)
        twin, model = copied(circuit), copied(circuit.compile())
        assert twin.compile().weights_hash() == circuit.compile().weights_hash() == model.weights_hash()
        found, want = copied(twin.interpret(text)), circuit.interpret(text)
        assert found.predictions == want.predictions and torch.equal(found.space("tok"), want.space("tok"))
        report = copied(twin.verify([text], model=model, progress=False))
        assert report == circuit.verify([text], progress=False)
