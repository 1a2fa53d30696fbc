from typing import Any

import numpy as np
import pytest
import torch
from two_stacks import build_pair, changed, random_prompts

from interp import CacheError, ConfigError, HookedTransformer, ShapeError, TransformerConfig
from interp.data import PromptPairs
from interp.interventions import Zero
from interp.metrics import Logit
from interp.patching import sweep, sweep_dataset, sweep_sites
from interp.plot import attention_of_cell

CORRUPTED, CLEAN = torch.tensor([[1, 2, 3, 4, 6]]), torch.tensor([[1, 2, 5, 4, 6]])


def uneven(**fields: Any) -> HookedTransformer:
    cfg: dict[str, Any] = {"n_layers": 3, "n_heads": 4, "d_model": 16, "n_ctx": 8, "d_vocab": 9, "seed": 0}
    model = HookedTransformer(TransformerConfig(**cfg | fields))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(8)
            block.attn.W_V.mul_(8)
    return model


def logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 3]


@pytest.mark.parametrize(
    "fields", [{}, {"n_key_value_heads": 2, "normalization_type": "RMS"}, {"dtype": torch.bfloat16}]
)
def test_a_cell_of_a_sweep_shows_the_run_before_and_after_its_patch(fields: dict[str, Any]):
    model = uneven(**fields)
    for site, over, where in (
        ("resid_pre", ("layer", "pos"), {"layer": 1, "pos": 2}),
        ("z", ("layer", "head"), {"layer": 0, "head": 3}),
        ("k", ("layer", "head"), {"layer": 0, "kv_head" if "n_key_value_heads" in fields else "head": 1}),
        ("mlp_out", ("layer", "pos"), {"layer": 0, "pos": 2}),
    ):
        for direction, (base, source) in (("denoising", (CORRUPTED, CLEAN)), ("noising", (CLEAN, CORRUPTED))):
            found = sweep(model, CORRUPTED, CLEAN, logit, site, over, direction=direction)  # pyright: ignore
            explorer = attention_of_cell(model, CORRUPTED, CLEAN, found.sel(where))
            with torch.no_grad():
                held = model.run_with_cache(source)[1][site, where["layer"]]

                def patch(
                    activation: torch.Tensor, hook: Any, held: torch.Tensor = held, where: Any = where
                ) -> torch.Tensor:
                    heads = [where[axis] for axis in ("head", "kv_head") if axis in where]
                    at = (slice(None), where.get("pos", slice(None)), *heads)
                    activation[at] = held[at]
                    return activation

                before = model.run_with_cache(base)[1]
                with model.hooks(fwd_hooks=[((site, where["layer"]), patch)]):
                    after = model.run_with_cache(base)[1]
            changed = 0.0
            for layer, head in np.ndindex(3, 4):
                for run, cache in (("clean", before), ("patched", after)):
                    shown = np.nan_to_num(explorer.values(layer, head, run=run))  # pyright: ignore
                    assert np.array_equal(shown, cache["pattern", layer][0, head].float().numpy())
                changed += np.nansum(np.abs(explorer.values(layer, head, run="difference")))
            assert changed > 0
            assert f"{site} of the {'clean' if direction == 'denoising' else 'corrupted'} run" in repr(explorer)


BOTH: list[tuple[Any, tuple[Any, ...]]] = [
    (("resid_pre", "encoder"), ("layer", "pos")),
    (("z", "encoder"), ("layer", "head")),
    (("k", "encoder"), ("layer", "pos", "head")),
    (("resid_pre", "decoder"), ("layer", "pos")),
    (("k", "cross_attn"), ("layer", "pos")),
    (("v", "cross_attn"), ("layer", "head")),
    (("pattern", "cross_attn"), ("layer", "pos", "head")),
    ("cross_attn_out", ("layer",)),
]
"""Sites of both stacks and of the attention between them, with what is patched at a time."""

ALONG = {
    "pos": ("pos", "query_pos", "source_pos"),
    "source_pos": ("source_pos",),
    "head": ("head", "kv_head"),
    "kv_head": ("kv_head",),
}


@pytest.mark.parametrize(("name", "padded"), [("t5_like", "no"), ("grouped_normed_keys", "both")])
def test_a_cell_of_either_stack_of_an_encoder_with_a_decoder_shows_the_run_with_that_one_hook(name: str, padded: str):
    model = build_pair(name)
    clean = random_prompts(model, 1, padded, n=2)
    corrupted = changed(model, clean)
    metric = Logit(3)
    picks = np.random.default_rng(0)
    for i, (site, over) in enumerate(BOTH, start=padded == "no"):
        direction = ("denoising", "noising")[i % 2]
        base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
        options: Any = {"direction": direction, "per_prompt": True, "progress": False}
        found = sweep(model, corrupted, clean, metric, site, over, **options)
        where = {str(dim): int(picks.integers(2 * ("pos" in str(dim)), n)) for dim, n in found.sizes.items()}
        explorer = attention_of_cell(model, corrupted, clean, found.isel(where))
        batch, stack = where.pop("prompt"), model.stack_of(site)
        key = stack[0].resolve_hooks((stack[1][0], where["layer"], *stack[1][1:]))[0]  # pyright: ignore
        point = stack[0].hook_points[key]
        with torch.no_grad():
            held = model.run_with_cache(source, names_filter=[point.name])[1][point.name]
            before = model.run_with_cache(base)[1]

            def patch(activation: torch.Tensor, hook: Any, held: torch.Tensor = held, where: Any = where) -> None:
                at: list[Any] = [slice(None)] * activation.ndim
                for dim, index in where.items():
                    if dim != "layer":
                        at[next(i for i, axis in enumerate(hook.axes) if axis in ALONG[dim])] = index
                activation[tuple(at)] = held[tuple(at)]

            with model.hooks(fwd_hooks=[(point.name, patch)]):
                after = model.run_with_cache(base)[1]
        for part, (inner, kind) in {
            "encoder": ("encoder", "attn"), "decoder": ("decoder", "attn"), "cross_attn": ("decoder", "cross_attn")
        }.items():  # fmt: skip
            cfg = getattr(model, inner).cfg
            for layer, head in np.ndindex(cfg.n_layers, cfg.n_heads):
                for run, cache in (("clean", before), ("patched", after)):
                    want = cache[f"{inner}.blocks.{layer}.{kind}.hook_pattern"][batch, head].numpy()
                    shown = explorer.values(layer, head, run=run, stack=part)  # pyright: ignore[reportArgumentType]
                    assert np.abs(np.nan_to_num(shown) - want).max() < 1e-7, (site, direction, part, layer, head)
        assert explorer.stacks["cross_attn"].queries.labels[0] == [str(i) for i in base.target.ids[batch].tolist()]
        opened = explorer._page.meta["stacks"][explorer._page.meta["stack"]]["name"]
        assert opened == ("encoder" if "encoder" in site else "cross_attn")


def test_a_cell_of_several_sites_is_found_by_the_names_that_its_axes_have_there():
    model = build_pair("t5_like")
    clean = random_prompts(model, 1, n=1)
    corrupted = changed(model, clean)
    sites: Any = [("z", "encoder"), ("resid_pre", "encoder"), ("z", "cross_attn")]
    found = sweep_sites(model, corrupted, clean, Logit(3), sites, progress=False)
    for name, where, words in (
        ("encoder.z", {"encoder_layer": 1, "encoder_head": 0}, "layer 1, head 0"),
        ("encoder.resid_pre", {"encoder_layer": 2, "source_pos": 2}, "layer 2, pos 2"),
        ("cross_attn.z", {"layer": 1, "head": 3}, "layer 1, head 3"),
    ):
        for source in (clean, model.run_with_cache(clean)[1]):
            explorer = attention_of_cell(model, corrupted, source, found[name].sel(where))
            assert f"{name} of the clean run is written in at {words}" in repr(explorer)
            over = [word for word in words.replace(",", "").split() if not word.isdigit()]
            asked: Any = (tuple(reversed(name.split("."))), over)
            alone = sweep(model, corrupted, clean, Logit(3), *asked, progress=False)
            at = dict(zip(alone.dims, where.values(), strict=True))
            other = attention_of_cell(model, corrupted, clean, alone.isel(at))
            for layer, head in np.ndindex(3, 2):
                first, second = (one.values(layer, head, run="patched", stack="encoder") for one in (explorer, other))
                np.testing.assert_array_equal(first, second)


def test_a_page_of_a_cell_opens_on_both_runs_in_a_head_that_the_patch_changed():
    model = uneven(normalization_type=None)
    found = sweep(model, CORRUPTED, CLEAN, logit)
    explorer = attention_of_cell(model, CORRUPTED, CLEAN, found.sel(layer=1, pos=2))
    layer, head = divmod(explorer._page.meta["stacks"][0]["head"], 4)
    assert explorer._page.meta["run"] == 3
    assert layer >= 1
    assert np.nansum(np.abs(explorer.values(layer, head, run="difference"))) > 0
    assert attention_of_cell(model, CORRUPTED, CLEAN, found.sel(layer=1, pos=2), run="clean")._page.meta["run"] == 0


def test_what_is_no_cell_of_a_sweep_between_prompts_is_refused():
    model = uneven()
    found = sweep(model, CORRUPTED, CLEAN, logit)
    with pytest.raises(ConfigError, match="one number of a sweep"):
        attention_of_cell(model, CORRUPTED, CLEAN, found)
    with pytest.raises(ConfigError, match="one number of a sweep"):
        attention_of_cell(model, CORRUPTED, CLEAN, found.sel(layer=0, pos=0).assign_attrs(direction="?"))
    ablated = sweep(model, Zero(), CLEAN, logit, "z", ("layer", "head"), direction="noising")
    with pytest.raises(ConfigError, match="ablation"):
        attention_of_cell(model, CORRUPTED, CLEAN, ablated[0, 0])
    with pytest.raises(ConfigError, match="lost its coordinate 'pos'"):
        attention_of_cell(model, CORRUPTED, CLEAN, found[0, 2].drop_vars(["pos", "token"]))
    with pytest.raises(ShapeError, match="batch = 1; allowed: -1 to 0"):
        attention_of_cell(model, CORRUPTED, CLEAN, found[0, 2], batch=1)
    with pytest.raises(ConfigError, match="corrupted is a cache, but this run is patched"):
        attention_of_cell(model, model.run_with_cache(CORRUPTED)[1], CLEAN, found[0, 2])
    pair = build_pair("t5_like")
    prompts = random_prompts(pair, 1, n=1)
    cell = sweep(pair, changed(pair, prompts), prompts, Logit(3), "cross_attn_out", ("layer",), progress=False)[0]
    with pytest.raises(ConfigError, match=r"clean = .*; an encoder with a decoder reads \(source, target\)"):
        attention_of_cell(pair, prompts, prompts.source.ids, cell)
    with pytest.raises(CacheError, match="other weights"):
        attention_of_cell(uneven(seed=1), CORRUPTED, CLEAN, found[0, 0])


def test_a_column_of_pairs_of_unequal_length_is_where_it_was_patched_in_each():
    model = uneven(n_key_value_heads=2)
    pairs = PromptPairs([[1, 2, 3, 4, 5], [1, 2, 3], [2, 4, 6, 8]], [[1, 2, 4, 4, 5], [1, 4, 3], [2, 5, 6, 8]], [3] * 3)
    runs: list[Any] = []
    ways: Any = ("denoising", "noising")
    options: Any = {"per_prompt": True, "progress": False}
    results = [sweep_dataset(model, pairs, Logit(3), "k", ("layer", "pos", "head"), direction=way, **options)
               for way in ways]  # fmt: skip
    model.unembed.register_forward_hook(lambda module, given, logits: runs.append(logits))
    for found in results:
        for prompt, (clean, corrupted) in enumerate(zip(pairs.clean, pairs.corrupted, strict=True)):
            for pos in range(5):
                cell = found.isel(prompt=prompt, layer=1, pos=pos, kv_head=1)
                if pos < 5 - len(clean):
                    with pytest.raises(ConfigError, match=f"position {pos} of 5, and this pair has {len(clean)} tok"):
                        attention_of_cell(model, corrupted, clean, cell, batch=0)
                    continue
                for pad in (0, 5 - len(clean)):  # as it is, and as in the batch of all
                    mask = torch.arange(len(clean) + pad)[None] >= pad
                    ids: Any = [[0] * pad + [*corrupted], [0] * pad + [*clean]]
                    read = [model.masked_tokens(one, mask) for one in ids]
                    shown = attention_of_cell(model, read[0], read[1], cell, batch=0)
                    assert f"pos {pos - 5 + len(clean) + pad}, " in repr(shown)
                    assert float(runs[-1][0, -1, 3].detach()) == pytest.approx(float(cell), abs=1e-5)


def test_hooks_that_the_sweep_did_not_have_and_attributes_that_are_gone_are_refused():
    model, double = uneven(), [(("resid_pre", 0), lambda value, hook: value * 2)]
    cell = sweep(model, CORRUPTED, CLEAN, logit, "z", ("layer", "head"))[1, 2]
    with model.hooks(fwd_hooks=double):
        edited = model.run_with_cache(CLEAN)[1]
        with pytest.raises(ConfigError, match=r"the model has hooks, at 'blocks\.0\.hook_resid_pre' first"):
            attention_of_cell(model, CORRUPTED, CLEAN, cell)
    with pytest.raises(ConfigError, match="clean is the cache of a run that hooks edited"):
        attention_of_cell(model, CORRUPTED, edited, cell)
    for name in ("site", "direction", "granularity", "ablation", "edited", "model"):
        without = cell.copy()
        without.attrs = {key: said for key, said in cell.attrs.items() if key != name}
        with pytest.raises(ConfigError, match="one number of a sweep"):
            attention_of_cell(model, CORRUPTED, CLEAN, without)
