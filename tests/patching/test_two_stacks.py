"""Sweeps of an encoder with a decoder: sites of both stacks and of the attention from one to the other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, assert_close, build, config, random_tokens
from torch import Tensor
from two_stacks import BATCH, N_SOURCE, N_TARGET, PAIRS, build_pair, changed, random_prompts

from interp import (
    CacheError,
    CheckpointError,
    ConfigError,
    HookedEncoderDecoder,
    HookNotFoundError,
    HookPoint,
    ShapeError,
)
from interp.data import PromptPairs
from interp.harvest import harvest
from interp.heads import head_scores
from interp.interventions import Mean, Resample, Zero
from interp.metrics import KLDivergence, Logit, LogitDifference, Loss
from interp.model import EdgeGraph, SourceAndTarget
from interp.patching import path_sweep, path_tree, sweep, sweep_dataset, sweep_sites
from interp.patching.packed import PackedForward
from interp.text import Memory
from interp.weights import (
    center_unembed,
    center_writing_weights,
    composition_scores,
    copying_scores,
    fold_layer_norm,
    fold_value_biases,
    qk_circuit,
    refactor_factored_attn_matrices,
)

METRIC = LogitDifference((1, 2, 3), (4, 5, 6), pos=-1)
AXES = {
    "pos": ("pos", "query_pos"),
    "source_pos": ("source_pos",),
    "head": ("head",),
    "kv_head": ("kv_head",),
    "neuron": ("d_mlp",),
}
SITES: list[Any] = [
    *((site, "decoder") for site in ("resid_pre", "z", "pattern", "v", "post", "result", "resid_post")),
    *((site, "cross_attn") for site in ("q", "k", "v", "attn_scores", "pattern", "z", "result")),
    "cross_attn_out",
    "resid_cross",
    *((site, "encoder") for site in ("resid_pre", "z", "k", "pattern", "mlp_out", "post", "resid_post")),
]


def point_of(model: HookedEncoderDecoder, site: Any, layer: int) -> HookPoint:
    stack, (short, *part) = model.stack_of(site)
    return stack.hook_points[stack.resolve_hooks((short, layer, *part))[0]]  # pyright: ignore[reportArgumentType]


def has(model: HookedEncoderDecoder, site: Any) -> bool:
    try:
        point_of(model, site, 0)
    except HookNotFoundError:
        return False
    return True


def granularities(model: HookedEncoderDecoder, site: Any) -> list[tuple[str, ...]]:
    axes = point_of(model, site, 0).axes
    found: list[tuple[str, ...]] = [("layer",), ("layer", "pos")]
    if {"head", "kv_head"} & set(axes):
        found += [("head", "layer"), ("layer", "pos", "head")]
    return found + ([("layer", "neuron")] if "d_mlp" in axes else [])


def by_hand(
    model: HookedEncoderDecoder, prompts: SourceAndTarget, source: Tensor, name: str, where: dict[str, int]
) -> Tensor:
    """Logits of one patched run, with a hook and nothing else."""

    def patch(activation: Tensor, hook: HookPoint) -> None:
        place: list[Any] = [slice(None)] * activation.ndim
        for dim, index in where.items():
            place[next(i for i, axis in enumerate(hook.axes) if axis in AXES[dim])] = index
        activation[tuple(place)] = source[tuple(place)]

    with torch.no_grad():
        return model.run_with_hooks(prompts, fwd_hooks=[(name, patch)])


@pytest.mark.parametrize(
    ("name", "padded"), list(zip(PAIRS, ["left", "right", "no", "both", "source", "target"], strict=True))
)
def test_a_sweep_cell_of_either_stack_equals_the_run_with_that_one_hook(name: str, padded: str):
    model = build_pair(name, seed=1)
    clean = random_prompts(model, 2, padded)
    corrupted = changed(model, clean)
    _, cache = model.run_with_cache(clean, names_filter=["*", "*.hook_result"])
    picks = np.random.default_rng(len(name))
    for site in SITES:
        if not has(model, site):
            continue
        options = granularities(model, site)
        over: Any = options[int(picks.integers(len(options)))]
        source: Any = cache if picks.integers(2) else clean
        budget = 2_000_000_000 if picks.integers(2) else 400_000  # the smaller one splits the rows
        result = sweep(model, corrupted, source, METRIC, site, over, per_prompt=True, max_bytes=budget, progress=False)
        cell = {str(dim): int(picks.integers(size)) for dim, size in result.sizes.items() if dim != "prompt"}
        point = point_of(model, site, cell["layer"])
        where = {dim: i for dim, i in cell.items() if dim != "layer"}
        expected = METRIC(by_hand(model, corrupted, cache[point.name], point.name, where))
        assert np.allclose(result.isel(cell).values, expected.numpy(), rtol=0, atol=1e-10), (site, over, cell)


@pytest.mark.parametrize("site", [("z", "decoder"), ("k", "cross_attn"), ("mlp_out", "encoder")], ids=str)
def test_patches_of_every_kind_of_site_change_the_metric(site: Any):
    model = build_pair("bart_like", seed=3)
    clean = random_prompts(model, 4)
    result = sweep(model, changed(model, clean), clean, METRIC, site, effects=True, per_prompt=True, progress=False)
    assert np.abs(result.values).max() > 1e-3


def test_a_pair_prompt_is_a_tuple_or_what_a_run_reads():
    model = build_pair("t5_like", seed=5)
    clean = random_prompts(model, 6)
    corrupted = changed(model, clean)
    ones, others = ((one.source.ids, one.target.ids) for one in (corrupted, clean))
    whole = sweep(model, corrupted, clean, METRIC, ("z", "encoder"), progress=False)
    assert np.array_equal(whole.values, sweep(model, ones, others, METRIC, ("z", "encoder"), progress=False).values)
    begun = sweep(
        model, (corrupted.source.ids, None), (clean.source.ids, None), METRIC, "cross_attn_out", progress=False
    )
    assert begun.sizes == {"layer": 2, "pos": 1}


def test_results_say_the_tokens_of_the_stack_and_which_it_is():
    model = build_pair("t5_like", seed=7)
    clean = random_prompts(model, 8, n=1)
    corrupted = changed(model, clean)
    source, target = (list(map(str, ids[0].tolist())) for ids in (corrupted.source.ids, corrupted.target.ids))
    of_encoder = sweep(model, corrupted, clean, Logit(1), ("z", "encoder"), progress=False)
    of_decoder = sweep(model, corrupted, clean, Logit(1), ("z", "cross_attn"), progress=False)
    of_keys = sweep(model, corrupted, clean, Logit(1), ("k", "cross_attn"), progress=False)
    assert (of_encoder.dims, of_encoder.token.values.tolist()) == (("layer", "pos"), source)
    assert (of_decoder.dims, of_decoder.token.values.tolist()) == (("layer", "pos"), target)
    assert (of_keys.dims, of_keys.token.values.tolist()) == (("layer", "source_pos"), source)
    said = [(one.attrs["site"], one.attrs["stack"]) for one in (of_encoder, of_decoder, of_keys)]
    assert said == [("encoder.z", "encoder"), ("cross_attn.z", "decoder"), ("cross_attn.k", "decoder")]
    assert of_keys.attrs["model"] == model.weights_hash()


def test_sites_of_both_stacks_stand_in_one_dataset_with_axes_of_their_own():
    model = build_pair("t5_like", seed=9)
    clean = random_prompts(model, 10)
    corrupted = changed(model, clean)
    found = sweep_sites(model, corrupted, clean, METRIC, progress=False)
    assert found.sizes == {
        "encoder_layer": 3, "source_pos": N_SOURCE, "encoder_head": 2, "layer": 2, "pos": N_TARGET, "head": 4
    }  # fmt: skip
    for site, name in ((("z", "encoder"), "encoder.z"), (("z", "cross_attn"), "cross_attn.z")):
        alone = sweep(model, corrupted, clean, METRIC, site, ("layer", "head"), progress=False)
        assert np.array_equal(found[name].values, alone.values)
    assert "cross_attn.pattern" in found and "cross_attn_out" in found and "decoder.resid_pre" in found
    keys = sweep_sites(model, corrupted, clean, METRIC, {("k", "cross_attn"): ("layer", "pos")}, progress=False)
    assert keys["cross_attn.k"].dims == ("layer", "source_pos") and "source_token" in keys.coords


def test_patching_a_run_with_itself_gives_the_baseline_at_every_site():
    model = build_pair("bart_like", seed=11)
    prompts = random_prompts(model, 12, "left")
    for site in SITES:
        result = sweep(model, prompts, prompts, Logit(1), site, per_prompt=True, progress=False)
        assert np.ptp(result.values, axis=(1, 2)).max() == 0


def test_keys_of_the_memory_are_computed_once_for_all_rows_of_decoder_sites(monkeypatch: pytest.MonkeyPatch):
    model = build_pair("t5_like", seed=13)
    clean = random_prompts(model, 14)
    made: list[int] = []
    kind = type(model.decoder.blocks[0].cross_attn)
    products = kind.products

    def counted(self: Any, memory: Tensor) -> Any:
        made.append(self.layer)
        return products(self, memory)

    corrupted = changed(model, clean)
    monkeypatch.setattr(kind, "products", counted)
    sweep(model, corrupted, clean, METRIC, ("resid_pre", "decoder"), max_bytes=400_000, progress=False)
    assert len(made) == 3 * 2  # of both prompts as they are and of the rows, in two layers each


def test_encoder_rows_that_change_nothing_are_never_run(monkeypatch: pytest.MonkeyPatch):
    model = build_pair("t5_like", seed=15)
    clean = random_prompts(model, 16, n=1)
    corrupted = changed(model, clean)
    passed: list[tuple[int, int]] = []
    block = PackedForward.block

    def counted(self: PackedForward, layer: int, groups: Any, *rest: Any) -> Any:
        passed.append((layer, sum(rows.stream.shape[0] * rows.stream.shape[1] for rows in groups)))
        return block(self, layer, groups, *rest)

    monkeypatch.setattr(PackedForward, "block", counted)
    sweep(model, corrupted, clean, Logit(1), ("resid_pre", "encoder"), layers=[0], progress=False)
    # One token of the source differs: one row of six positions through three layers, and of five through two.
    assert passed == [(0, 6), (1, 6), (2, 6), (0, 5), (1, 5)]


@pytest.mark.parametrize("site", [("z", "decoder"), ("v", "cross_attn"), ("z", "encoder")], ids=str)
def test_ablations_metrics_and_normalised_effects_work_as_in_one_stack(site: Any):
    model = build_pair("vaswani_like", seed=17)
    clean = random_prompts(model, 18)
    corrupted = changed(model, clean)
    _, cache = model.run_with_cache(corrupted)
    point = point_of(model, site, 1)
    for ablation in (Zero(), Mean(cache), Resample(cache)):
        result = sweep(model, ablation, clean, METRIC, site, ("layer",), per_prompt=True, progress=False)
        written = ablation.edit(cache[point.name], point)
        expected = METRIC(by_hand(model, clean, written, point.name, {}))
        assert np.allclose(result.sel(layer=1).values, expected.numpy(), rtol=0, atol=1e-10)
    last = ("resid_post", "encoder" if site[1] == "encoder" else "decoder")
    if site[1] != "cross_attn":  # what is patched whole is the other run, but for the target's own tokens
        same = (changed(model, clean).source.ids, clean.target.ids)
        whole = sweep(model, same, clean, METRIC, last, ("layer",), layers=[-1], normalize=True, progress=False)
        assert np.allclose(whole.values, 1, rtol=0, atol=1e-10)
    metrics: Any = {"kl": KLDivergence(), "loss": Loss(), "mine": lambda logits: logits[:, -1, 0]}
    several = sweep(model, corrupted, clean, metrics, site, ("layer",), per_prompt=True, progress=False)
    logits = by_hand(model, corrupted, model.run_with_cache(clean)[1][point.name], point.name, {})
    assert np.allclose(several.sel(metric="mine", layer=1).values, logits[:, -1, 0].numpy(), atol=1e-10)
    loss = model.decoder.output_of(logits, corrupted.target.ids, None, "loss", True)
    assert isinstance(loss, Tensor)
    assert np.allclose(several.sel(metric="loss", layer=1).values, loss.mean(dim=1).numpy(), atol=1e-10)


def test_a_divergence_may_be_from_the_run_of_another_pair_of_prompts():
    model = build_pair("t5_like", seed=19)
    clean = random_prompts(model, 20)
    corrupted = changed(model, clean)
    plain = sweep(model, corrupted, clean, KLDivergence(), ("z", "decoder"), progress=False)
    reference: Any = (clean.source.ids, clean.target.ids)
    given = KLDivergence(reference)
    assert np.allclose(plain.values, sweep(model, corrupted, clean, given, ("z", "decoder"), progress=False).values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sweeps_of_both_stacks_work_in_half_precision(dtype: torch.dtype):
    model = build_pair("t5_like", seed=21, dtype=dtype)
    wide = build_pair("t5_like", seed=21, dtype=torch.float64)
    wide.load_state_dict(model.state_dict())
    clean = random_prompts(model, 22)
    corrupted = changed(model, clean)
    for site in (("z", "decoder"), ("k", "cross_attn"), ("z", "encoder")):
        got, want = (sweep(one, corrupted, clean, Logit(1), site, progress=False) for one in (model, wide))
        assert np.allclose(got.values, want.values, rtol=0, atol=0.3)


def test_the_decoder_by_itself_is_swept_with_a_memory_that_stays():
    model = build_pair("bart_like", seed=23)
    clean = random_prompts(model, 24, "source")
    corrupted = changed(model, clean)
    memory = model.encode(corrupted.source)
    sources = model.masked_tokens(corrupted.source, clean.target)
    one, other = (model.decoder.masked_tokens(one.target, memory=memory) for one in (corrupted, sources))
    for site, alone in ((("z", "decoder"), "z"), (("z", "cross_attn"), ("z", "cross_attn"))):
        got = sweep(model.decoder, one, other, METRIC, alone, progress=False)
        assert np.array_equal(got.values, sweep(model, corrupted, sources, METRIC, site, progress=False).values)


def test_the_memories_of_a_decoder_by_itself_must_correspond_where_their_positions_are_patched():
    model = build_pair("bart_like", seed=23)
    prompts = random_prompts(model, 24)
    memory, decoder = model.encode(prompts.source), model.decoder
    run = decoder.masked_tokens(prompts.target, memory=memory)
    for other, message in (
        (model.encode(prompts.source.ids[:, :4]), "a source of 4 positions, the corrupted prompt one of 6"),
        (Memory(memory.stream, random_prompts(model, 24, "source").source.attention_mask), "padded differently"),
    ):
        clean = decoder.masked_tokens(changed(model, prompts).target, memory=other)
        for source in (clean, decoder.run_with_cache(clean)[1]):
            for site in (("k", "cross_attn"), ("pattern", "cross_attn")):
                with pytest.raises(ShapeError, match=message):
                    sweep(decoder, run, source, METRIC, site, progress=False)
            assert sweep(decoder, run, source, METRIC, ("z", "cross_attn"), progress=False).std() > 0


@pytest.mark.usefixtures("as_installed")
def test_compiled_pairs_and_stacks_are_swept_as_they_are():
    model = build_pair("bart_like", seed=23)
    clean = random_prompts(model, 24, "source")
    corrupted = changed(model, clean)
    memory = model.encode(clean.source)
    corrupted_target, clean_target = (
        model.decoder.masked_tokens(one.target, memory=memory) for one in (corrupted, clean)
    )
    asked: list[tuple[Any, Any, Any, Any]] = [
        *((model, corrupted, clean, site) for site in (("z", "encoder"), ("z", "decoder"), ("k", "cross_attn"))),
        (model.decoder, corrupted_target, clean_target, ("k", "cross_attn")),
    ]
    for plain, one, other, site in asked:
        compiled: Any = torch.compile(plain, backend="eager")
        want = sweep(plain, one, other, METRIC, site, progress=False)
        assert np.array_equal(sweep(compiled, one, other, METRIC, site, progress=False).values, want.values)


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_sweep_of_two_stacks_goes_on_from_its_checkpoint_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = build_pair("t5_like", seed=25)
    clean = random_prompts(model, 26)
    corrupted = changed(model, clean)
    options: Any = {"progress": False, "checkpoint": tmp_path / "sweep"}
    for site in (("z", "encoder"), ("k", "cross_attn")):
        options["checkpoint"] = tmp_path / site[1]
        first = sweep(model, corrupted, clean, METRIC, site, **options)
        with monkeypatch.context() as patched:
            patched.setattr(PackedForward, "block", None)  # nothing is run again
            assert np.array_equal(first.values, sweep(model, corrupted, clean, METRIC, site, **options).values)
        other = model.masked_tokens(changed(model, corrupted).source, corrupted.target)
        with pytest.raises(CheckpointError, match="it differs in: source"):
            sweep(model, other, clean, METRIC, site, **options)
        with pytest.raises(CheckpointError, match="it differs in: sites"):
            sweep(model, corrupted, clean, METRIC, ("q", "cross_attn"), **options)
        with pytest.raises(CheckpointError, match="it differs in: other prompts"):
            sweep(model, corrupted, corrupted, METRIC, site, **options)


def test_a_checkpoint_knows_what_is_padding_and_of_which_type_in_both_sources(tmp_path: Path):
    sizes: dict[str, Any] = {"n_layers": 1, "d_model": 8, "n_heads": 2, "n_ctx": 6, "d_vocab": 7, "seed": 0}
    types = {"n_token_types": 2}
    model = HookedEncoderDecoder({"encoder": sizes | types, "decoder": sizes | types})
    ids, target = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 5]])

    def read(mask: list[int], source_types: list[int], target_types: list[int]) -> SourceAndTarget:
        source = model.encoder.masked_tokens(ids, torch.tensor([mask]), torch.tensor([source_types]))
        told = model.decoder.read_tokens(target, None, torch.tensor([target_types]))
        return model.masked_tokens(source, told)

    one = read([1, 1, 1, 1], [0, 0, 1, 1], [0, 1])
    others = (
        (read([0, 1, 1, 1], [0, 0, 1, 1], [0, 1]), "source attention mask"),
        (read([1, 1, 1, 1], [0, 0, 0, 1], [0, 1]), "source token types"),
        (read([1, 1, 1, 1], [0, 0, 1, 1], [0, 0]), "token types"),
    )
    metric = LogitDifference(1, 2)
    options: Any = {"progress": False, "checkpoint": tmp_path / "sweep"}
    sweep(model, one, one, metric, ("z", "cross_attn"), **options)
    for other, part in others:
        with pytest.raises(CheckpointError, match=rf"it differs in: {part}\)"):
            sweep(model, other, one, metric, ("z", "cross_attn"), **options)
        with pytest.raises(CheckpointError, match=r"it differs in: other prompts\)"):
            sweep(model, one, other, metric, ("z", "cross_attn"), **options)


# ---------------------------------------------------------------------------------------------- bad input


def test_what_is_no_pair_of_prompts_is_refused():
    model = build_pair("t5_like", seed=27)
    clean = random_prompts(model, 28, "left")
    corrupted = changed(model, clean)

    def tried(one: Any, two: Any, site: Any = ("z", "decoder"), of: Any = model, **options: Any) -> Any:
        return sweep(of, one, two, METRIC, site, progress=False, **options)

    with pytest.raises(ConfigError, match=r"is no prompt of an encoder with a decoder; allowed: \(source, target\)"):
        tried(corrupted.source.ids, clean.source.ids)
    with pytest.raises(ConfigError, match="attention_mask: source and target have one each"):
        tried(corrupted, clean, attention_mask=clean.target.is_token)
    three = (
        r"is in both stacks; say \('z', 'encoder'\) or \('z', 'decoder'\), or \('z', 'cross_attn'\) for cross-attention"
    )
    with pytest.raises(HookNotFoundError, match=three):
        tried(corrupted, clean, site="z")
    with pytest.raises(HookNotFoundError, match=r"say \('resid_pre', 'encoder'\) or \('resid_pre', 'decoder'\)$"):
        tried(corrupted, clean, site="resid_pre")
    with pytest.raises(ConfigError, match="allowed: -2 to 1"):
        tried(corrupted, clean, layers=[2])
    with pytest.raises(ConfigError, match="allowed: -6 to 5"):
        tried(corrupted, clean, site=("k", "cross_attn"), positions=[6])
    with pytest.raises(ConfigError, match="max_bytes = 1000 is too small") as refused:
        tried(corrupted, clean, site=("z", "encoder"), max_bytes=1000)
    asked_for = int(str(refused.value).rsplit(" ", 1)[-1])
    with pytest.raises(ConfigError, match=f"max_bytes = {asked_for - 1} is too small"):
        tried(corrupted, clean, site=("z", "encoder"), max_bytes=asked_for - 1)
    assert tried(corrupted, clean, site=("z", "encoder"), max_bytes=asked_for).shape
    with pytest.raises(ConfigError, match="SourceAndTarget are read by an encoder with a decoder"):
        tried(clean, clean, of=model.encoder, site="z")
    fewer = clean[slice(0, 2)]
    with pytest.raises(ShapeError, match="2 clean prompts and 3 corrupted ones"):
        tried(corrupted, fewer)


def test_sources_must_correspond_only_where_their_positions_are_patched():
    model = build_pair("t5_like", seed=29)
    prompts = random_prompts(model, 30)
    shorter = model.masked_tokens(prompts.source.ids[:, :4], prompts.target.ids)
    padded = random_prompts(model, 30, "source")
    _, cache = model.run_with_cache(shorter)
    for site in (("z", "decoder"), ("q", "cross_attn"), "cross_attn_out"):
        made = sweep(model, prompts, shorter, METRIC, site, progress=False)
        assert np.array_equal(made.values, sweep(model, prompts, cache, METRIC, site, progress=False).values)
    for site in (("k", "cross_attn"), ("pattern", "cross_attn"), ("z", "encoder")):
        with pytest.raises(
            ShapeError, match="the source of the clean prompt has 4 tokens, the source of the corrupted"
        ):
            sweep(model, prompts, shorter, METRIC, site, progress=False)
        with pytest.raises(ShapeError, match="the source of the clean and corrupted prompts are padded differently"):
            sweep(model, prompts, padded, METRIC, site, progress=False)
        with pytest.raises(ShapeError, match=r"4\) \[batch, pos\]|sources of 4 positions"):
            sweep(model, prompts, cache, METRIC, site, progress=False)
    one_more = model.masked_tokens(prompts.source.ids, prompts.target.ids[:, :3])
    with pytest.raises(ShapeError, match="the clean prompt has 3 tokens"):
        sweep(model, prompts, one_more, METRIC, ("z", "encoder"), progress=False)


def test_the_cache_of_one_stack_or_of_another_pair_is_refused():
    model, other = build_pair("t5_like", seed=31), build_pair("t5_like", seed=32)
    prompts = random_prompts(model, 33)
    _, cache = model.run_with_cache(prompts)
    for alone in (cache.encoder, cache.decoder):
        with pytest.raises(CacheError, match="the clean cache is of one stack, and the model has two stacks"):
            sweep(model, prompts, alone, METRIC, ("z", "decoder"), progress=False)
    with pytest.raises(CacheError, match="the clean cache is a PairCache, and the model has one stack"):
        sweep(model.encoder, prompts.source.ids, cache, METRIC, "z", progress=False)
    with pytest.raises(CacheError, match="made by another model than the one given: other weights"):
        sweep(other, prompts, cache, METRIC, ("z", "encoder"), progress=False)
    with pytest.raises(CacheError, match="values were made by another model"):
        sweep(other, Mean(cache), prompts, METRIC, ("z", "encoder"), progress=False)
    with torch.no_grad():
        model.encoder.W_E.mul_(2)
    with pytest.raises(CacheError, match="the model's weights changed after the clean cache was made"):
        sweep(model, prompts, cache, METRIC, ("z", "decoder"), progress=False)


def test_paths_are_refused_where_cross_attention_writes():
    model = build_pair("t5_like", seed=34)
    prompts = random_prompts(model, 35)
    for ask in (
        lambda of, pair: path_sweep(of, pair, pair, METRIC, "logits", progress=False),
        lambda of, pair: path_tree(of, pair, pair, METRIC, [["L0H1", "logits"]]),
    ):
        with pytest.raises(ConfigError, match=r"this is defined for one stack, such as model\.encoder"):
            ask(model, prompts)
        with_memory = model.decoder.masked_tokens(prompts.target, memory=model.encode(prompts.source))
        with pytest.raises(ConfigError, match="cross-attention"):
            ask(model.decoder, with_memory)
    assert len(prompts) == BATCH


@pytest.mark.parametrize("name", ["bert_like", "modernbert_like"])
def test_sweeps_of_an_encoder_alone_pass_token_types_and_the_masked_token_head(name: str, tmp_path: Path):
    cfg = config(GRID[name])
    model = build(cfg, seed=36)
    ids, mask = random_tokens(cfg, 37, batch=2), torch.ones(2, 7, dtype=torch.bool)
    mask[0, :2] = False
    types = None if not cfg.n_token_types else torch.randint(cfg.n_token_types, ids.shape)
    clean = model.masked_tokens(ids, mask, types)
    corrupted = model.masked_tokens((ids + 1) % cfg.d_vocab, mask, types)
    metric = LogitDifference((1, 2), (3, 4), pos=-1)
    _, cache = model.run_with_cache(clean)
    for site in ("resid_pre", "z", "pattern", "mlp_out"):
        result = sweep(model, corrupted, clean, metric, site, ("layer",), per_prompt=True, progress=False)
        point = model.resolve_hooks((site, 1))[0]
        written = cache[point]
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(point, lambda x, hook: written)])  # noqa: B023
        assert np.allclose(result.sel(layer=1).values, metric(logits).detach().numpy(), rtol=0, atol=1e-10), site
    if types is not None:
        options: Any = {"checkpoint": tmp_path / "sweep", "progress": False}
        sweep(model, corrupted, clean, metric, **options)
        other = model.masked_tokens(corrupted.ids, mask, 1 - types)
        with pytest.raises(CheckpointError, match="it differs in: token types"):
            sweep(model, other, clean, metric, **options)


@pytest.mark.usefixtures("as_installed")
def test_what_is_defined_for_one_stack_refuses_two_by_name(tmp_path: Path):
    model = build_pair("t5_like", seed=38)
    prompts = random_prompts(model, 39)
    for ask in (fold_layer_norm, center_writing_weights, center_unembed, fold_value_biases, copying_scores, head_scores,
                lambda of: qk_circuit(of, 0, 0), refactor_factored_attn_matrices, composition_scores):  # fmt: skip
        with pytest.raises(ConfigError, match=r"is defined for one stack: give model\.encoder or model\.decoder"):
            ask(model)  # pyright: ignore[reportArgumentType]
    for of in (model, model.decoder):
        with pytest.raises(ConfigError, match="has no graph of components"):
            EdgeGraph.of(of)  # pyright: ignore[reportArgumentType]
    given: Any = model
    pairs = PromptPairs(["a b"], ["a c"], correct=["x"], incorrect=["y"])
    for refused in (
        lambda: sweep_dataset(given, pairs),
        lambda: harvest(given, ["a b"], ("z", 0), folder=tmp_path / "store"),
    ):
        with pytest.raises(ConfigError, match=r"a job is defined for one stack: give model\.encoder or"):
            refused()
    with pytest.raises(ConfigError, match="a harvest reads single texts"):
        harvest(model.decoder, prompts.target.ids, ("z", 0), folder=tmp_path / "store", n_ctx=5, progress=False)
    assert not (tmp_path / "store").exists()


def test_processed_stacks_compute_what_they_computed():
    model = build_pair("t5_like", seed=40)
    prompts = random_prompts(model, 41, "both")
    memory = model.encode(prompts.source)
    read = model.decoder.masked_tokens(prompts.target, memory=memory)
    real, tokens = prompts.target.is_token, prompts.source.is_token
    for process in (fold_layer_norm, fold_value_biases, refactor_factored_attn_matrices, center_unembed):
        logits, wanted = (of(read).log_softmax(-1)[real] for of in (process(model.decoder), model.decoder))
        assert_close(logits, wanted)
    for process in (fold_layer_norm, fold_value_biases, refactor_factored_attn_matrices):
        stream, same = (of(prompts.source, lambda x: x)[tokens] for of in (process(model.encoder), model.encoder))
        assert_close(stream, same)
