"""Functions and modules spliced into a run, and means of padded runs."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, assert_close, build, config, random_tensor
from torch import Tensor, nn

from interp import CheckpointError, ConfigError, HookedTransformer, ShapeError
from interp.interventions import Apply, Interventions, Mean, Named, Patch, Resample, Zero
from interp.metrics import LogitDifference

TOKENS = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
NAMES = ["learned_ln", "rotary_rms_gated_grouped", "post_rms_gated_grouped", "gemma_like"]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(config(GRID[request.param]), seed=31)


class Autoencoder(nn.Module):
    """A small one, of random weights."""

    def __init__(self, size: int = 24, seed: int = 2):
        super().__init__()
        self.encode = nn.Parameter(0.3 * random_tensor(size, 40, seed=seed))
        self.decode = nn.Parameter(0.3 * random_tensor(40, size, seed=seed + 1))
        self.ablated: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        features = (x @ self.encode).relu()
        if self.ablated is not None:
            features = features * (torch.arange(40) != self.ablated)
        return features @ self.decode


def halve(x: Tensor) -> Tensor:
    return x / 2


# ---------------------------------------------------------------------------------------------- functions


def test_a_module_writes_what_a_hook_of_its_own_would(model: HookedTransformer):
    sae = Autoencoder()
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[(("resid_post", 1), lambda x, hook: sae(x))])
    with model.intervene(Apply(sae, site="resid_post", layer=1)):
        assert torch.equal(model(TOKENS), expected)


def test_with_its_own_error_kept_a_module_changes_no_bit_and_gradients_flow_through_it(model: HookedTransformer):
    sae, plain = Autoencoder(), model(TOKENS)
    with model.intervene(Apply(sae, error_of=sae, site="mlp_out", layer=1)):
        spliced = model(TOKENS)
    assert torch.equal(spliced, plain)
    (gradient,) = torch.autograd.grad(spliced[:, -1, 3].sum(), sae.decode)
    _, cache = model.run_with_cache(TOKENS, None, ("mlp_out", 1), gradient_of=lambda logits: logits[:, -1, 3])
    features = (cache["mlp_out", 1] @ sae.encode).relu()
    assert_close(gradient, torch.einsum("bpf,bpd->fd", features, cache["mlp_out_grad", 1]).detach())


def test_the_error_of_the_unedited_module_is_added_to_what_the_edited_one_makes(model: HookedTransformer):
    sae = Autoencoder()
    edited = copy.deepcopy(sae)
    edited.ablated = 7
    want = model.run_with_hooks(TOKENS, fwd_hooks=[(("resid_post", 0), lambda x, hook: edited(x) + x - sae(x))])
    with model.intervene(Apply(edited, error_of=sae, site="resid_post", layer=0)):
        assert_close(model(TOKENS), want)


@torch.no_grad()
def test_a_transcoder_reads_one_site_and_writes_another():
    model, transcoder = build(config(GRID["learned_ln"]), seed=32), Autoencoder()
    for reads, name in ((("normalized", "ln2"), ("normalized", 1, "ln2")), ("mlp_in", ("mlp_in", 1))):
        read = model.run_with_cache(TOKENS, names_filter=name)[1][name]
        want = model.run_with_hooks(TOKENS, fwd_hooks=[(("mlp_out", 1), lambda x, hook, r=read: transcoder(r))])
        spliced = Apply(transcoder, reads=reads, site="mlp_out", layer=1)
        with model.intervene(spliced):
            assert_close(model(TOKENS), want)
        with model.intervene(Apply(transcoder, reads=reads, error_of=transcoder, site="mlp_out", layer=1)):
            got = model(TOKENS)
        assert torch.equal(got, model(TOKENS))
        with model.intervene(Apply(transcoder, reads=reads, site="mlp_out", layer=(0, 1))):
            assert not torch.allclose(model(TOKENS), want)
        with pytest.raises(ConfigError, match="reads another site"):
            spliced.edit(read, model.hook_points["blocks.1.hook_mlp_out"])
    assert not any(point.hooks for point in model.hook_points.values())


@torch.no_grad()
def test_a_function_writes_where_the_place_says_and_nowhere_else(model: HookedTransformer):
    place: dict[str, Any] = {"site": "z", "layer": 1, "head": 2, "pos": (1, -1)}
    _, plain = model.run_with_cache(TOKENS)
    with model.intervene(Apply(halve, **place)):
        _, cache = model.run_with_cache(TOKENS)
    changed = (cache["z", 1] != plain["z", 1]).any(-1).any(0).nonzero().tolist()
    assert changed == [[1, 2], [5, 2]]
    assert torch.equal(cache["z", 1][:, 1, 2], plain["z", 1][:, 1, 2] / 2)


@torch.no_grad()
def test_in_generation_a_function_acts_on_the_positions_it_is_meant_for(model: HookedTransformer):
    calls: list[int] = []

    def count(x: Tensor) -> Tensor:
        calls.append(x.shape[1])
        return x / 2

    with model.intervene(Apply(count, site="resid_pre", layer=1, pos="generated")):
        model.generate(TOKENS[:, :4], 4, progress=False)
    assert calls == [1, 1, 1]


@torch.no_grad()
def test_functions_compose_with_other_interventions_in_order(model: HookedTransformer):
    both = Zero(site="resid_pre", layer=1) + Apply(lambda x: x + 1, site="resid_pre", layer=1)
    with model.intervene(both):
        _, cache = model.run_with_cache(TOKENS)
    assert (cache["resid_pre", 1] == 1).all()


def test_a_metric_can_be_differentiated_in_a_run_with_a_spliced_module(model: HookedTransformer):
    sae, names, metric = Autoencoder(), "blocks.*.hook_resid_post", LogitDifference(1, 2)
    with model.intervene(Apply(sae, error_of=sae, site="resid_post", layer=1)):
        _, cache = model.run_with_cache(TOKENS, None, names, gradient_of=metric)
    _, plain = model.run_with_cache(TOKENS, None, names, gradient_of=metric)
    assert_close(cache["resid_post_grad", 1], plain["resid_post_grad", 1])
    assert not torch.allclose(cache["resid_post_grad", 0], plain["resid_post_grad", 0])


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: Apply(Autoencoder(5), site="z", layer=0, reads="resid_pre"), RuntimeError, "cannot be multiplied"),
    (lambda: Apply(lambda x: x[..., :2], site="z", layer=0), ShapeError, r"\(3, 6, 4, 2\).* must make \(3, 6, 4, 5\)"),
    (lambda: Apply(lambda x: (x, x), site="z", layer=0), ShapeError, "made tuple of"),
    (lambda: Apply(lambda x: x.float(), site="z", layer=0), ShapeError, "float32"),
    (lambda: Apply(halve, reads="resid_post", site="mlp_out", layer=0), ConfigError, "comes after"),
    (lambda: Apply(halve, reads="resid_psot", site="mlp_out", layer=0), KeyError, "did you mean"),
    (lambda: Apply(halve, reads="resid_pre", site="z", layer=0), ShapeError, r"made a tensor of shape \(3, 6, 24\)"),
    (lambda: Apply(halve, site="z", layer=0, pos=9), ConfigError, "pos = 9"),
    (lambda: Apply(3), ConfigError, "a function or a module is needed, not int"),
    (lambda: Apply(halve, error_of="x"), ConfigError, "not str"),
    (lambda: Apply(Autoencoder), ConfigError, "not type"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=range(len(BAD)))
def test_a_function_that_does_not_fit_is_an_error(make: Any, error: type[Exception], message: str, as_installed: None):
    model = build(config(GRID["learned_ln"]), seed=33)
    with pytest.raises(error, match=message), model.intervene(make()):
        model(TOKENS)
    assert not any(point.hooks for point in model.hook_points.values())


# ---------------------------------------------------------------------------------------------- as values


def test_named_functions_are_saved_by_name_and_found_by_it(tmp_path: Path):
    sae, file = Autoencoder(), tmp_path / "file"
    items = Apply(Named(sae, "sae"), error_of=Named(sae, "sae"), site="resid_post", layer=1) + Apply(halve, site="z")
    items.save(file)
    where = f"{__name__}.halve"
    assert Interventions.load(file, functions={"sae": sae, where: halve}) == items
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sae": sae}, f"'{where}' was saved by its name"),
        ({"sea": sae, where: halve}, "did you mean 'sea'"),
        ({"sae": Autoencoder(seed=9), where: halve}, "other weights"),
    ]
    for functions, message in cases:
        with pytest.raises(CheckpointError, match=message):
            Interventions.load(file, functions=functions)


@pytest.mark.parametrize("fn", [lambda x: x, Autoencoder()], ids=["lambda", "module"])
def test_a_function_without_a_name_cannot_be_saved(fn: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"name its fn, Named\("):
        Interventions((Apply(fn, site="z"),)).save(tmp_path / "file")


def test_applications_compare_hash_show_and_pickle_by_what_they_hold():
    sae = Autoencoder()
    assert Apply(sae, site="z") == Apply(sae, site="z") != Apply(Autoencoder(), site="z")
    assert len({Apply(Named(sae, "a"), site="z"), Apply(Named(Autoencoder(), "a"), site="z"), Apply(halve)}) == 2
    assert repr(Apply(sae, site="z", layer=1)) == "Apply(site='z', layer=1, fn=Autoencoder)"
    for item in (Apply(Named(sae, "a"), site="z"), Apply(halve, site="z", pos="generated")):
        assert pickle.loads(pickle.dumps(item)) == item == copy.deepcopy(item)


# ---------------------------------------------------------------------------------------------- padded runs


def padded(*starts: int) -> Tensor:
    mask = torch.ones(3, 6, dtype=torch.bool)
    for prompt, start in enumerate(starts):
        mask[prompt, :start] = False
    return mask


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_mean_of_a_padded_run_is_that_of_its_tokens(model: HookedTransformer, dtype: torch.dtype):
    model, mask = model.to(dtype), padded(2, 0, 1)
    _, cache = model.run_with_cache(TOKENS, attention_mask=mask)
    for site in ("z", "k", "mlp_out", "pattern"):
        held = cache[site, 1]
        rows = held.transpose(1, 2) if site == "pattern" else held  # positions second
        columns = torch.stack([rows[mask[:, column], column].float().mean(0) for column in range(6)])
        whole = rows[mask].float().mean(0).expand(6, *rows.shape[2:])
        for want, per_position in ((columns, True), (whole, False)):
            with model.intervene(Mean(cache, site=site, layer=1, per_position=per_position)):
                _, written = model.run_with_cache(TOKENS, None, (site, 1), attention_mask=padded(1, 1, 0))
            got = written[site, 1].transpose(1, 2) if site == "pattern" else written[site, 1]
            atol, rtol = (1e-5, 1e-5) if dtype == torch.float64 else (1e-3, 1e-2)
            assert torch.allclose(got[0].float(), want, atol=atol, rtol=rtol)


def test_a_mean_of_a_padded_run_is_saved_with_what_was_padding(tmp_path: Path):
    model = build(config(GRID["learned_ln"]), seed=34)
    _, cache = model.run_with_cache(TOKENS, attention_mask=padded(2, 0, 1))
    mean = Mean(cache, site="z", layer=1)
    Interventions((mean,)).save(tmp_path / "file")
    (loaded,) = Interventions.load(tmp_path / "file")
    assert (
        isinstance(loaded, Mean)
        and loaded == mean
        and torch.equal(loaded.values.attention_mask, mean.values.attention_mask)
    )
    assert mean.values != Mean({"blocks.1.attn.hook_z": cache["z", 1]}).values


def test_a_mean_where_no_prompt_has_a_token_and_one_of_minus_infinity_are_errors():
    model = build(config(GRID["learned_ln"]), seed=35)
    _, cache = model.run_with_cache(TOKENS, attention_mask=padded(2, 1, 3))
    with pytest.raises(ConfigError, match=r"cache.slice\(pos=slice\(1, 6\)\)"):
        Mean(cache, site="z")
    mean = Mean(cache.slice(pos=slice(1, 6)), site="z")
    with model.intervene(mean):
        model(TOKENS[:, 1:])
    scores = Mean(cache, site="attn_scores", per_position=False)
    with pytest.raises(ConfigError, match="take the pattern"), model.intervene(scores):
        model(TOKENS)


def test_resampling_a_padded_run_is_refused_with_the_two_ways_out():
    model = build(config(GRID["learned_ln"]), seed=36)
    _, cache = model.run_with_cache(TOKENS, attention_mask=padded(2, 0, 0))
    with pytest.raises(ConfigError, match=r"1 of 3 .*batch=\[1, 2\].*pos=\[2, 3, 4, 5\]"):
        Resample(cache, site="z")
    assert Resample(cache.slice(batch=[1, 2]), site="z") and Resample(cache.slice(pos=[2, 3, 4, 5]), site="z")


@torch.no_grad()
def test_padding_is_not_written_in_the_place_of_tokens():
    model = build(config(GRID["learned_ln"]), seed=37)
    _, cache = model.run_with_cache(TOKENS, attention_mask=padded(2, 0, 0))
    with (
        pytest.raises(ShapeError, match="position 0 of prompt 0 is a token here and padding in the run"),
        model.intervene(Patch(cache, site="z", layer=0)),
    ):
        model(TOKENS)
    for pos, mask in (((2, -1), None), (None, padded(2, 0, 0)), (None, padded(3, 1, 0))):
        with model.intervene(Patch(cache, site="z", layer=0, pos=pos)):
            model(TOKENS, attention_mask=mask)


def test_a_function_that_works_in_place_writes_what_one_that_does_not_would(model: HookedTransformer):
    def halve_in_place(x: Tensor) -> Tensor:
        return x.mul_(0.5)

    def same(x: Tensor) -> Tensor:
        return x

    def run(fn: Any, **more: Any) -> Tensor:
        with torch.no_grad(), model.intervene(Apply(fn, **more)):
            return model(TOKENS)

    place: dict[str, Any] = {"site": "z", "layer": 1, "head": 2}
    for more in ({}, {"pos": [1, -1]}, {"error_of": same}, {"reads": "attn_out", "site": "resid_mid", "head": None}):
        if more.get("site") == "resid_mid" and not any("resid_mid" in name for name in model.hook_points):
            continue
        assert torch.equal(run(halve_in_place, **place | more), run(halve, **place | more)), more
    assert torch.equal(run(same, error_of=halve_in_place, **place), run(same, error_of=halve, **place))
    assert torch.equal(run(halve_in_place, error_of=halve_in_place, **place), model(TOKENS))


@pytest.mark.parametrize("name", ["", 3])
def test_a_name_is_a_text(name: Any, as_installed: None):
    with pytest.raises(ConfigError, match="a name is a text"):
        Named(halve, name)
