"""Interventions on an encoder with a decoder: a site says its stack, and everything else is that stack's."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import assert_close
from torch import Tensor
from two_stacks import BATCH, N_SOURCE, N_TARGET, build_pair, changed, random_prompts

from interp import (
    CacheError,
    ConfigError,
    HookedEncoderDecoder,
    HookNotFoundError,
    HookPoint,
    PairCache,
    ShapeError,
)
from interp.interventions import (
    Apply,
    FreezeNorms,
    FreezePattern,
    Interventions,
    Mean,
    Patch,
    Resample,
    Steer,
    Zero,
)
from interp.model.attention import CrossAttention


def pair(seed: int = 0, name: str = "t5_like") -> HookedEncoderDecoder:
    return build_pair(name, seed)


def run(model: HookedEncoderDecoder, prompts: Any, *edits: Any) -> Tensor:
    with torch.no_grad(), model.intervene(*edits):
        return model(prompts)


def with_hooks(model: HookedEncoderDecoder, prompts: Any, *hooks: Any) -> Tensor:
    with torch.no_grad():
        return model.run_with_hooks(prompts, fwd_hooks=list(hooks))


def zeroing(*place: Any) -> Any:
    def edit(x: Tensor, hook: HookPoint) -> None:
        x[place] = 0

    return edit


ALL = slice(None)
PLACES: list[tuple[dict[str, Any], str, Any]] = [
    ({"site": ("z", "cross_attn"), "layer": 1, "head": 2}, "decoder.blocks.1.cross_attn.hook_z", (ALL, ALL, 2)),
    ({"site": ("z", "decoder"), "layer": -1, "head": -1}, "decoder.blocks.1.attn.hook_z", (ALL, ALL, -1)),
    ({"site": ("z", "encoder"), "layer": 2, "head": 1, "pos": 3}, "encoder.blocks.2.attn.hook_z", (ALL, 3, 1)),
    ({"site": ("pattern", "encoder"), "layer": 0, "key_pos": -1}, "encoder.blocks.0.attn.hook_pattern", (..., -1)),
    ({"site": ("pattern", "cross_attn"), "layer": 0, "pos": -1, "key_pos": 5},
     "decoder.blocks.0.cross_attn.hook_pattern", (ALL, ALL, -1, 5)),
    ({"site": ("k", "cross_attn"), "layer": 1, "key_pos": (2, -1)},
     "decoder.blocks.1.cross_attn.hook_k", (ALL, [2, 5])),
    ({"site": "cross_attn_out", "layer": 1, "pos": 1}, "decoder.blocks.1.hook_cross_attn_out", (ALL, 1)),
    ({"site": ("post", "encoder"), "layer": 0, "neuron": 13}, "encoder.blocks.0.mlp.hook_post", (ALL, ALL, 13)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["t5_like", "bart_like", "sdpa_rotary"])
def test_a_site_names_its_stack_and_heads_layers_and_positions_are_that_stacks(name: str):
    model = pair(1, name)
    prompts = random_prompts(model, 2)
    plain = with_hooks(model, prompts)
    for address, full_name, place in PLACES:
        edited = run(model, prompts, Zero(**address))
        assert torch.equal(edited, with_hooks(model, prompts, (full_name, zeroing(*place)))), address
        assert not torch.equal(edited, plain), address
    both = run(model, prompts, Zero(**PLACES[0][0]) + Zero(**PLACES[2][0]))
    by_hooks = with_hooks(model, prompts, *((name, zeroing(*place)) for _, name, place in (PLACES[0], PLACES[2])))
    assert torch.equal(both, by_hooks)


def test_a_stack_by_itself_takes_the_same_interventions_by_its_own_names():
    model = pair(3)
    prompts = random_prompts(model, 4)
    whole = run(model, prompts, Zero(site=("z", "cross_attn"), layer=1, head=2))
    memory = model.encode(prompts.source)
    with torch.no_grad(), model.decoder.intervene(Zero(site=("z", "cross_attn"), layer=1, head=2)):
        assert torch.equal(model.decoder(prompts.target, memory=memory), whole)
    _, cache = model.decoder.run_with_cache(changed(model, prompts).target, memory=memory)
    with torch.no_grad(), model.decoder.intervene(Patch(cache, site="mlp_out", layer=0)):
        alone = model.decoder(prompts.target, memory=memory)
    by_hand = with_hooks(model, prompts, ("decoder.blocks.0.hook_mlp_out", lambda x, hook: cache["mlp_out", 0]))
    assert torch.equal(alone, by_hand)


@pytest.mark.parametrize("name", ["t5_like", "bart_like", "grouped_normed_keys"])
def test_patches_write_what_the_other_run_of_both_stacks_had(name: str):
    model = pair(5, name)
    prompts = random_prompts(model, 6, "both")
    other = changed(model, prompts)
    with torch.no_grad():
        wanted, cache = model.run_with_cache(other)
    everything = run(model, prompts, Patch(cache, site=("resid_post", "decoder"), layer=-1))
    real = prompts.target.is_token
    assert_close(everything[real], wanted[real])
    for site, full_name in (
        (("v", "cross_attn"), "decoder.blocks.1.cross_attn.hook_v"),
        (("pattern", "cross_attn"), "decoder.blocks.1.cross_attn.hook_pattern"),
        (("mlp_out", "encoder"), "encoder.blocks.1.hook_mlp_out"),
    ):
        patched = run(model, prompts, Patch(cache, site=site, layer=1))
        by_hand = with_hooks(model, prompts, (full_name, lambda x, hook: cache[hook.name]))
        assert torch.equal(patched, by_hand)
    same = run(model, other, Patch(cache, site=("z", "encoder")) + Patch(cache, site=("z", "decoder")))
    assert_close(same[real], wanted[real])


def test_means_leave_out_the_padding_of_the_stack_that_they_are_of():
    model = pair(7)
    prompts = random_prompts(model, 8, "both")  # source 0 has two positions of padding, and one target has one
    _, cache = model.run_with_cache(prompts)
    source, target = prompts.source.is_token, prompts.target.is_token
    for site, name, mask in (
        (("resid_pre", "encoder"), "encoder.blocks.1.hook_resid_pre", source),
        (("v", "cross_attn"), "decoder.blocks.1.cross_attn.hook_v", source),
        (("z", "cross_attn"), "decoder.blocks.1.cross_attn.hook_z", target),
        (("mlp_out", "decoder"), "decoder.blocks.1.hook_mlp_out", target),
    ):
        mean = cache[name][mask].mean(dim=0)
        edit = Mean(cache, per_position=False, site=site, layer=1)
        written = edit.edit(cache[name], model.hook_points[name])
        assert_close(written[0, 0], mean)
        here = torch.where(mask.view(*mask.shape, *[1] * (cache[name].ndim - 2)), mean, cache[name])
        edited, by_hand = run(model, prompts, edit), with_hooks(model, prompts, (name, lambda x, hook: here))  # noqa: B023
        assert_close(edited[target], by_hand[target])
    with pytest.raises(ConfigError, match="those of padded prompts have no mean"):
        run(model, prompts, Mean(cache, site=("attn_scores", "cross_attn"), layer=0))


def test_resampling_refuses_what_is_padded_and_takes_what_is_not():
    model = pair(9)
    prompts = random_prompts(model, 10, "source")
    _, cache = model.run_with_cache(prompts)
    for site in (("z", "encoder"), ("k", "cross_attn"), ("pattern", "cross_attn")):
        with pytest.raises(ConfigError, match="Resample takes runs of equally long prompts"):
            Resample(cache, site=site)
    held = cache["z", 0, "cross_attn"]
    logits = run(model, prompts, Resample(cache, site=("z", "cross_attn"), layer=0))
    drawn = Resample(cache, site=("z", "cross_attn"), layer=0).edit(
        held, model.hook_points["decoder.blocks.0.cross_attn.hook_z"]
    )
    assert sorted(map(float, drawn[:, 0, 0, 0])) == sorted(map(float, held[:, 0, 0, 0])) and not torch.equal(
        drawn, held
    )
    assert torch.equal(logits, with_hooks(model, prompts, (("z", 0, "cross_attn"), lambda x, hook: drawn)))


def test_patterns_and_norms_are_frozen_as_another_run_had_them():
    model = pair(11, "bart_like")
    prompts = random_prompts(model, 12)
    with torch.no_grad():
        logits, cache = model.run_with_cache(prompts)
    same = run(model, prompts, FreezeNorms(cache), *(FreezePattern(cache, site=("pattern", part)) for part in
               ("encoder", "decoder", "cross_attn")))  # fmt: skip
    assert_close(same, logits)
    scales = {point.name for point in FreezeNorms(cache).points(model)}
    assert {"encoder.embed_ln.hook_scale", "decoder.blocks.1.ln_cross.hook_scale"} <= scales
    with pytest.raises(HookNotFoundError, match=r"say \('pattern', 'encoder'\) or \('pattern', 'decoder'\)"):
        FreezePattern(cache)
    with pytest.raises(ConfigError, match=r"layer = 1 of which stack\? Say Patch\(cache, site=\('scale', 'ln1'"):
        run(model, prompts, FreezeNorms(cache, layer=1))


def test_functions_read_and_write_within_one_stack():
    model = pair(13)
    prompts = random_prompts(model, 14)
    edit = Apply(lambda x: x.flip(-1), reads="resid_cross", site="cross_attn_out", layer=1)

    def by_hand() -> Tensor:
        seen: list[Tensor] = []
        names = "decoder.blocks.1.hook_resid_cross", "decoder.blocks.1.hook_cross_attn_out"
        return with_hooks(
            model, prompts, (names[0], lambda x, hook: seen.append(x)), (names[1], lambda x, hook: seen[0].flip(-1))
        )

    assert torch.equal(run(model, prompts, edit), by_hand())
    in_encoder = Apply(lambda x: 2 * x, reads=("resid_pre", "encoder"), site=("attn_out", "encoder"), layer=2)
    name = "encoder.blocks.2.hook_attn_out"
    read = model.run_with_cache(prompts)[1]["encoder.blocks.2.hook_resid_pre"]
    assert torch.equal(run(model, prompts, in_encoder), with_hooks(model, prompts, (name, lambda x, hook: 2 * read)))
    with pytest.raises(ConfigError, match="it reads the encoder and writes decoder"):
        run(model, prompts, Apply(lambda x: x, reads=("resid_pre", "encoder"), site="cross_attn_out", layer=1))
    with pytest.raises(ConfigError, match="comes after"):
        run(model, prompts, Apply(lambda x: x, reads="cross_attn_out", site="resid_cross", layer=1))


def test_a_hook_on_keys_of_the_memory_sees_the_positions_of_the_source():
    model = pair(15)
    prompts = random_prompts(model, 16, "both")
    seen: dict[str, Any] = {}

    def keep(x: Tensor, hook: HookPoint) -> None:
        seen[hook.name] = hook.span

    names = ["encoder.blocks.0.attn.hook_k", "decoder.blocks.0.cross_attn.hook_k", "decoder.blocks.0.attn.hook_k"]
    with_hooks(model, prompts, *((name, keep) for name in names))
    of_encoder, of_source, of_target = (seen[name] for name in names)
    assert (of_encoder.n_new, of_source.n_new, of_target.n_new) == (N_SOURCE, N_SOURCE, N_TARGET)
    assert torch.equal(of_source.attention_mask, prompts.source.is_token)
    assert torch.equal(of_encoder.attention_mask, prompts.source.is_token)
    assert torch.equal(of_target.source_mask, prompts.source.is_token)
    assert torch.equal(of_target.attention_mask, prompts.target.is_token)


# ---------------------------------------------------------------------------------------------- generation


@torch.no_grad()
@pytest.mark.parametrize(
    "edit",
    [
        Zero(site=("k", "cross_attn"), layer=0, key_pos=(2, -1)),
        Zero(site=("pattern", "cross_attn"), head=1, key_pos=2),
        Steer(
            torch.linspace(-1, 1, 20, dtype=torch.float64), scale=3.0, site="cross_attn_out", layer=1, pos="generated"
        ),
        Zero(site=("z", "encoder"), layer=1, head=0),
        Zero(site=("pattern", "cross_attn"), layer=1, pos=2, key_pos=-1),
    ],
    ids=repr,
)
def test_edits_act_in_every_step_of_generation_as_in_a_run_of_the_whole(edit: Any):
    model = pair(17)
    source = random_prompts(model, 18, "source").source
    told = random_prompts(model, 18).target.ids[:, :2]
    with model.intervene(edit):
        made = model.generate(source, 4, target=told, stop_tokens=(), names_filter="*", progress=False)
    ids, n = told, told.shape[1]
    for _ in range(4):
        prompts = model.masked_tokens(source, ids)
        if edit.pos == "generated":
            places = [*range(n, ids.shape[1])]
            logits = (
                run(model, prompts, Steer(edit.direction, edit.scale, site=edit.site, layer=1, pos=places))
                if places
                else model(prompts)
            )
        else:
            logits = model(prompts) if edit.pos == 2 and ids.shape[1] < 3 else run(model, prompts, edit)
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(made.tokens, ids)
    assert isinstance(made.cache, PairCache)


@torch.no_grad()
def test_patches_of_a_whole_run_are_cut_to_the_steps_and_keys_of_the_memory_are_not(monkeypatch: pytest.MonkeyPatch):
    model = pair(19, "vaswani_like")
    source = random_prompts(model, 20).source
    other = random_prompts(model, 21)
    sixth = torch.cat([other.target.ids, other.target.ids[:, :1]], dim=1)
    _, cache = model.run_with_cache(other.source, sixth)
    edits = [Patch(cache, site=(site, "cross_attn"), layer=1) for site in ("v", "pattern", "z")]
    made: list[int] = []
    products = CrossAttention.products

    def counted(self: Any, memory: Tensor) -> Any:
        made.append(self.layer)
        return products(self, memory)

    for edit in edits:
        monkeypatch.setattr(CrossAttention, "products", counted)
        made.clear()
        with model.intervene(edit):
            told = model.generate(source, 4, target=sixth[:, :2], stop_tokens=(), names_filter="*", progress=False)
        assert sorted(made) == [0, 1]
        monkeypatch.undo()
        assert isinstance(told.cache, PairCache)
        n = told.tokens.shape[1] - 1
        shorter = {
            name: value[:, :n] if name.endswith("hook_z") else value[:, :, :n] if "pattern" in name else value
            for name, value in edit.values.items()
        }
        with model.intervene(Patch(shorter, site=edit.site, layer=1)):
            _, whole = model.run_with_cache(source, told.tokens[:, :-1])
        assert_close(told.cache["decoder.blocks.1.hook_resid_post"], whole["decoder.blocks.1.hook_resid_post"])


# ---------------------------------------------------------------------------------------------- files and copies


def test_interventions_on_both_stacks_are_saved_with_their_masks_and_copied(tmp_path: Path):
    model = pair(21)
    prompts = random_prompts(model, 22, "both")
    other = changed(model, prompts)
    _, cache = model.run_with_cache(other)
    edits = (
        Patch(cache, site=("v", "cross_attn"), layer=0)
        + Mean(cache, per_position=False, site=("z", "encoder"), layer=1)
        + Zero(site=("pattern", "cross_attn"), layer=1, key_pos=3)
    )
    edits.save(tmp_path / "edits")
    wanted = run(model, prompts, *edits)
    for same in (Interventions.load(tmp_path / "edits"), copy.deepcopy(edits), pickle.loads(pickle.dumps(edits))):
        assert same == edits and hash(same) == hash(edits)
        assert_close(run(copy.deepcopy(model), prompts, *same), wanted)
    kept = edits.items[0].values  # pyright: ignore[reportAttributeAccessIssue]
    assert list(kept) == ["decoder.blocks.0.cross_attn.hook_v"]
    assert torch.equal(kept.source_mask, prompts.source.is_token)


def test_the_cache_of_a_decoder_knows_the_padding_of_its_source(tmp_path: Path):
    model = pair(23)
    prompts = random_prompts(model, 24, "both")
    _, cache = model.run_with_cache(prompts)
    _, alone = model.decoder.run_with_cache(prompts.target, memory=model.encode(prompts.source))
    alone.save(tmp_path / "cache")
    read = type(alone).load(tmp_path / "cache", model.decoder)
    for one in (cache.decoder, alone, read, copy.copy(alone), alone.to("cpu"), alone.slice(pos=slice(2, 4))):
        assert one.source_mask is not None and torch.equal(one.source_mask, prompts.source.is_token)
    assert alone.slice(batch=[1, 2]).source_mask is None  # of which nothing is padding
    edit = Mean(alone, per_position=False, site=("v", "cross_attn"), layer=0)
    of_pair = Mean(cache, per_position=False, site=("v", "cross_attn"), layer=0)
    point = model.hook_points["decoder.blocks.0.cross_attn.hook_v"]
    assert torch.equal(edit.edit(alone["v", 0, "cross_attn"], point), of_pair.edit(cache[point.name], point))


# ---------------------------------------------------------------------------------------------- bad input


def test_places_that_mean_nothing_in_their_stack_are_refused():
    model = pair(25)
    prompts = random_prompts(model, 26, "both")
    for edit, message in (
        (Zero(site="z", layer=0), r"is in both stacks; say \('z', 'encoder'\) or \('z', 'decoder'\)"),
        (Zero(site=("z", "encoder"), layer=0, head=2), "head = 2; allowed: -2 to 1"),
        (Zero(site=("z", "cross_attn"), layer=2), "layer = 2; allowed: -2 to 1"),
        (Zero(site=("k", "cross_attn"), layer=0, pos=1), "has no pos .*; the positions of the source are key_pos"),
        (Zero(site=("k", "decoder"), layer=0, key_pos=1), "has no key_pos"),
        (Zero(site=("k", "cross_attn"), layer=0, key_pos="generated"), "none of which is generated"),
        (Zero(site=("pattern", "cross_attn"), layer=0, key_pos="generated"), "none of which is generated"),
        (Zero(site=("k", "cross_attn"), layer=0, key_pos=6), "key_pos = 6; allowed: -6 to 5"),
        (Zero(site=("pattern", "cross_attn"), layer=0, key_pos=-7), "key_pos = -7; allowed: -6 to 5"),
        (Zero(site=("pattern", "cross_attn"), layer=0, key_pos=0), "key_pos = 0 is padding in prompt 0"),
        (Zero(site=("v", "cross_attn"), layer=0, key_pos=1), "key_pos = 1 is padding in prompt 0"),
        (Zero(site=("pattern", "cross_attn"), layer=0, pos=0), "pos = 0 is padding in prompt 2"),
        (Zero(site=("z", "encoder"), layer=0, pos=0), "pos = 0 is padding in prompt 0"),
        (Zero(site=("nothing", "encoder"), layer=0), "names nothing in layer 0"),
    ):
        with pytest.raises((ConfigError, HookNotFoundError), match=message):
            run(model, prompts, edit)
    assert len(prompts) == BATCH


def test_values_of_one_stack_of_another_pair_or_of_other_padding_are_refused():
    model, other = pair(27), pair(28)
    prompts = random_prompts(model, 29, "both")
    _, cache = model.run_with_cache(prompts)
    for alone, stack in ((cache.encoder, "encoder"), (cache.decoder, "decoder")):
        with pytest.raises(CacheError, match=f"are from a run of the {stack} alone; take the PairCache"):
            run(model, prompts, Patch(alone, site="mlp_out", layer=0))
    with pytest.raises(CacheError, match="made by another model"):
        run(other, prompts, Patch(cache, site=("z", "encoder"), layer=0))
    with (
        pytest.raises(CacheError, match="made by another model"),
        model.decoder.intervene(Patch(cache, site=("z", "decoder"), layer=0)),
    ):
        pass
    with pytest.raises(HookNotFoundError, match=r"says no stack; names begin with 'encoder\.' or 'decoder\.'"):
        run(model, prompts, Patch({"blocks.0.attn.hook_z": cache["z", 0, "encoder"]}, site=("z", "encoder"), layer=0))
    plain = random_prompts(model, 29)
    with pytest.raises(ShapeError, match="position 0 of prompt 0 is a token here and padding in the run"):
        run(model, plain, Patch(cache, site=("v", "cross_attn"), layer=0))
    with pytest.raises(ShapeError, match="position 0 of source 0 is padding in one of the two runs alone"):
        run(model, plain, Patch(cache, site=("pattern", "cross_attn"), layer=0, pos=-1))
    _, of_plain = model.run_with_cache(plain)
    with pytest.raises(ShapeError, match="position 0 of source 0 is padding in one of the two runs alone"):
        run(model, prompts, Patch(of_plain, site=("pattern", "cross_attn"), layer=0))
    beyond = model.intervene(Zero(site=("z", "decoder"), layer=0, pos=9))
    with pytest.raises(ConfigError, match="pos = 9; allowed: -1 to 2"), beyond:
        model.generate(prompts.source, 3, progress=False, stop_tokens=())
    with torch.no_grad():
        model.encoder.W_E.mul_(2)
    with pytest.raises(CacheError, match="weights changed"):
        Patch(cache, site=("z", "decoder"), layer=0)
