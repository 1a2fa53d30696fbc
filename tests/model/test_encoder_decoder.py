"""An encoder with a decoder: its runs, caches, hooks, gradients, decompositions and generation in both stacks."""

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import assert_close, reference_logits, reference_stream
from torch import Tensor
from two_stacks import PAIRS, build_pair, pair_config, random_prompts

from interp import (
    CheckpointError,
    ConfigError,
    EncoderDecoderConfig,
    HookedEncoderDecoder,
    HookedTransformer,
    HookNotFoundError,
    HookPoint,
    ShapeError,
    TokenError,
    Vocabulary,
)
from interp.heads import head_scores_of
from interp.interventions import Zero
from interp.lens import direct_attribution, expand_logits, expand_stream, logit_lens
from interp.metrics import KLDivergence, Logit, LogitDifference, MaskedTokenLoss
from interp.model import KVCache, PairCache, SourceAndTarget
from interp.model.attention import CrossAttention
from interp.text import Memory
from interp.weights import center_writing_weights, fold_layer_norm, fold_value_biases, refactor_factored_attn_matrices

NAMES = list(PAIRS)
EAGER = [name for name in NAMES if name != "sdpa_rotary"]  # whose bits are the same, watched or not


def sharing(**changes: Any) -> HookedEncoderDecoder:
    """A pair with one embedding, tied to the logits."""
    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 12, "n_ctx": 8, "d_vocab": 9, "n_heads": 3, "seed": 3}
    cfg = {"encoder": sizes, "decoder": sizes | {"tie_word_embeddings": True}, "share_embeddings": True}
    return HookedEncoderDecoder(EncoderDecoderConfig.from_dict(cfg | changes))


def caches(model: HookedEncoderDecoder, prompts: SourceAndTarget) -> tuple[Tensor, PairCache]:
    with torch.no_grad():
        return model.run_with_cache(prompts)


# ---------------------------------------------------------------------------------------------- what a pair has not


@pytest.mark.usefixtures("as_installed")
def test_what_only_the_stacks_have_is_asked_of_them_and_the_pair_and_its_cache_say_so():
    model = build_pair("t5_like")
    _, cache = caches(model, random_prompts(model, 0))
    for name in ("to_tokens", "to_str_tokens", "W_Q", "blocks", "embed"):
        with pytest.raises(AttributeError, match=rf"has no '{name}', its stacks have: say model.encoder.{name} or"):
            getattr(model, name)
    with pytest.raises(AttributeError, match="no attribute 'to_tokkens'"):
        getattr(model, "to_tokkens")  # noqa: B009
    with pytest.raises(AttributeError, match="a PairCache has no 'get_full_resid_decomposition'; the caches of its st"):
        getattr(cache, "get_full_resid_decomposition")  # noqa: B009
    for call in (direct_attribution, logit_lens):
        with pytest.raises(AttributeError, match=r"a PairCache has no .*give cache.encoder or cache.decoder"):
            call(cache, 1)  # pyright: ignore
    with pytest.raises(AttributeError, match="'PairCache' object has no attribute 'decodr'"):
        getattr(cache, "decodr")  # noqa: B009
    assert copy.copy(cache).decoder is cache.decoder
    assert torch.equal(pickle.loads(pickle.dumps(model)).decoder.W_Q, model.decoder.W_Q)


def test_the_labels_of_a_target_begin_with_the_start_token():
    model = sharing()
    model.encoder.tokenizer = model.decoder.tokenizer = Vocabulary(list("!abcdefgh"))
    labels = model.to_target_str_tokens("cab")
    assert labels == [["!", *"abcdefgh"][model.cfg.start_token], "c", "a", "b"]
    assert len(labels) == model("abc", "cab").shape[1]
    with pytest.raises(ShapeError, match=r"of shape \(1, 3\).*to_target_tokens\(target\)\[0\]"):
        head_scores_of(model.run_with_cache("abc", "cab")[1].decoder, "cab")
    scored = head_scores_of(model.run_with_cache("abc", "cab")[1].decoder, model.to_target_tokens("cab")[0])
    assert scored["previous_token"].shape == (2, 3)


def test_short_names_of_gradients_say_their_stack_as_those_of_activations_do():
    model = build_pair("t5_like")
    _, cache = model.run_with_cache(random_prompts(model, 0), return_type="loss", incl_bwd=True)
    for short, full in (
        (("pattern_grad", 1, "cross_attn"), "decoder.blocks.1.cross_attn.hook_pattern_grad"),
        (("cross_attn.pattern_grad", -1), "decoder.blocks.1.cross_attn.hook_pattern_grad"),
        (("cross_attn_out_grad", 0), "decoder.blocks.0.hook_cross_attn_out_grad"),
        (("pattern_grad", 2, "encoder"), "encoder.blocks.2.attn.hook_pattern_grad"),
    ):
        assert torch.equal(cache[short], cache[full])
    assert torch.equal(cache.stack(("z_grad", "cross_attn")), cache.decoder.stack(("z_grad", "cross_attn")))
    with pytest.raises(HookNotFoundError, match=r"\('z_grad', 0\) fits points of both stacks; say \('z_grad', 0, 'en"):
        cache["z_grad", 0]


# ---------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_and_memory_equal_a_reference_written_in_loops(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 1)
    logits, memory = model(prompts), model.encode(prompts.source).stream
    for row, (source, target) in enumerate(zip(prompts.source.ids, prompts.target.ids, strict=True)):
        read = reference_stream(model.encoder, source)
        assert_close(memory[row], read)
        assert_close(logits[row], reference_logits(model.decoder, target, memory=read))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_of_the_source_on_either_side_gets_nothing_and_changes_nothing(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 2)
    source, target = prompts.source.ids[:, :4], prompts.target.ids
    want = model(source, target)
    for side in ((2, 0), (0, 2)):
        mask = F.pad(torch.ones_like(source), side)
        logits, cache = model.run_with_cache(F.pad(source, side, value=5), target, source_mask=mask)
        assert_close(logits, want)
        assert (cache["pattern", -1, "cross_attn"][..., ~mask[0].bool()] == 0).all()
        assert (cache["attn_scores", 0, "cross_attn"][..., ~mask[0].bool()] == -torch.inf).all()
    left = F.pad(target, (1, 0), value=3)
    assert_close(model(source, left, target_mask=F.pad(torch.ones_like(target), (1, 0)))[:, 1:], want)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_later_tokens_of_the_target_change_nothing_and_the_order_of_the_memory_neither(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 3, "source")
    changed = prompts.target.ids.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % model.cfg.decoder.d_vocab
    mask = prompts.source.attention_mask
    want = model(prompts)
    assert torch.equal(model(prompts.source.ids, changed, source_mask=mask)[:, :3], want[:, :3])
    memory, order = model.encode(prompts.source), [4, 2, 0, 5, 1, 3]
    assert_close(model.decoder(prompts.target.ids, memory=memory), want)
    assert memory.attention_mask is not None
    turned = Memory(memory.stream[:, order], memory.attention_mask[:, order])
    assert_close(model.decoder(prompts.target.ids, memory=turned), want)


@torch.no_grad()
def test_what_a_run_returns_and_how_its_target_begins():
    model = build_pair("t5_like")
    prompts = random_prompts(model, 4, "left")
    logits, loss = model(prompts, return_type="both")
    per_token = model(prompts, return_type="loss", loss_per_token=True)
    ids, real = prompts.target.ids, prompts.target.is_token
    counted = real[:, 1:] & real[:, :-1]
    assert_close(per_token, F.cross_entropy(logits[:, :-1].mT, ids[:, 1:], reduction="none").where(counted, 0))
    assert_close(loss, per_token.sum() / counted.sum())
    start = torch.full((3, 1), model.cfg.start_token)
    assert torch.equal(model(prompts.source), model(prompts.source, start))
    assert model(prompts, return_type=None) is None
    assert torch.equal(model(prompts.source.ids[1], ids[1]), model(prompts.source.ids[1:2], ids[1:2]))
    second = prompts[1:2]
    assert_close(model(second), logits[1:2])


def test_texts_are_read_by_the_tokenizer_of_their_stack():
    sources, targets = Vocabulary("abcdefghi"), Vocabulary("ihgfedcba")
    sizes: dict[str, Any] = {"n_layers": 1, "d_model": 12, "n_ctx": 8, "d_vocab": 9, "n_heads": 3}
    cfg = EncoderDecoderConfig.from_dict({"encoder": sizes, "decoder": sizes, "start_token": 8})
    model = HookedEncoderDecoder(cfg, sources, targets)
    read = model.masked_tokens(["abc", "def"], ["ih", "gi"])
    assert read.source.ids.tolist() == [[0, 1, 2], [3, 4, 5]] and read.source.attention_mask is None
    assert read.target.ids.tolist() == [[8, 0, 1], [8, 2, 0]] and read.target.attention_mask is None
    assert torch.equal(model(["abc", "def"], ["ih", "gi"]), model(read))
    assert model.generate("abc", 3, progress=False).texts is not None


# ---------------------------------------------------------------------------------------------- names, hooks, caches


@pytest.mark.parametrize("name", NAMES)
def test_the_table_gives_the_shape_of_every_activation_of_both_stacks(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 5)
    with torch.no_grad():
        _, cache = model.run_with_cache(prompts, names_filter=list(model.hook_map()))
    assert list(cache) == list(model.hook_map()) and len(cache) == len(list(cache.items()))
    for full in model.hook_map():
        stack, _, key = full.partition(".")
        value, point = cache[full], model.hook_points[full]
        assert cache.stacks[stack][key] is value and point.name == full and point.key == key
        own = 6 if stack == "encoder" else 5
        sizes = {"batch": 3, "1": 1, "source_pos": 6, **dict.fromkeys(("pos", "query_pos", "key_pos"), own)}
        sizes |= model.stacks[stack].axis_sizes
        assert tuple(value.shape) == tuple(sizes[axis] for axis in point.axes), full


def test_names_say_their_stack_where_both_have_such_a_point():
    model = build_pair("bart_like")
    _, cache = caches(model, random_prompts(model, 6))
    assert cache["pattern", 1, "encoder"] is cache["encoder.blocks.1.attn.hook_pattern"]
    assert cache["pattern", -1, "decoder"] is cache["decoder.blocks.1.attn.hook_pattern"]
    assert cache["pattern", 1, "cross_attn"] is cache["decoder.blocks.1.cross_attn.hook_pattern"]
    assert cache["resid_cross", 0] is cache["decoder.blocks.0.hook_resid_cross"]
    assert cache["z", 2, "encoder"] is cache["encoder.blocks.-1.attn.hook_z"]
    assert cache.decoder["pattern", 1] is cache["pattern", 1, "decoder"]
    assert cache.decoder["pattern", 1, "cross_attn"] is cache["pattern", 1, "cross_attn"]
    assert model.resolve_hooks("*.cross_attn.hook_z") == [f"decoder.blocks.{i}.cross_attn.hook_z" for i in (0, 1)]
    assert len(model.resolve_hooks(lambda full: full.endswith("attn.hook_z"))) == 3 + 2 + 2
    assert torch.equal(cache.stack(("pattern", "cross_attn"))[1], cache["pattern", 1, "cross_attn"])
    for wrong, message in (
        (("pattern", 0), "fits points of both stacks; say .*'encoder'.*'decoder'"),
        (("pattern", 2, "decoder"), "layer = 2; allowed"),
        ("blocks.0.attn.hook_z", "names begin with 'encoder.' or 'decoder.'"),
        ("encoder.blocks.0.cross_attn.hook_z", "names nothing here"),
        ("encoder.*.cross_attn.hook_z", "matches none"),
        (("patern", 0, "cross_attn"), "did you mean"),
    ):
        with pytest.raises(HookNotFoundError, match=message):
            model.resolve_hooks(wrong)
    for wrong in (("pattern", 0), "hook_embed"):
        with pytest.raises(HookNotFoundError, match=r"both stacks|begin with 'encoder\.'"):
            _ = cache[wrong]


@pytest.mark.parametrize("name", EAGER)
def test_watching_changes_no_bit(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 7, "left")
    want = model(prompts)
    every: Any = list(model.hook_map())
    for got in (
        model.run_with_cache(prompts)[0],
        model.run_with_cache(prompts, names_filter=every, gradient_of=LogitDifference(1, 2))[0],
        model.run_with_hooks(prompts, fwd_hooks=[(every, lambda act, hook: act)]),
    ):
        assert torch.equal(got, want)
    assert not any(point.hooks for point in model.hook_points.values())


def test_hooks_edit_either_stack_and_are_gone_afterwards():
    model = build_pair("grouped_normed_keys")
    prompts = random_prompts(model, 8)
    want, cache = caches(model, prompts)
    shift = torch.linspace(-1, 1, 16, dtype=torch.float64)
    with torch.no_grad(), model.hooks([(("resid_post", -1, "encoder"), lambda act, hook: act + shift)]):
        edited, seen = model.run_with_cache(prompts)
    assert (edited - want).abs().max() > 1e-3 and seen.edited and seen.encoder.edited and not seen.decoder.edited
    assert torch.equal(seen["resid_pre", 0, "decoder"], cache["resid_pre", 0, "decoder"])
    memory = model.encoder.ln_final.unhooked(cache["resid_post", -1, "encoder"] + shift)
    assert_close(edited, model.decoder(prompts.target.ids, memory=memory).detach())
    layers: list[tuple[str, int]] = []
    model.run_with_hooks(
        prompts, fwd_hooks=[("*.hook_resid_post", lambda act, hook: layers.append((hook.name[:7], hook.layer())))]
    )
    assert layers == [("encoder", 0), ("encoder", 1), ("encoder", 2), ("decoder", 0), ("decoder", 1)]
    model.add_hook(("z", 0, "cross_attn"), lambda act, hook: act * 0)
    assert (model(prompts) - want).abs().max() > 1e-3
    model.reset_hooks()
    assert torch.equal(model(prompts), want)


@pytest.mark.parametrize("name", NAMES)
def test_cached_gradients_equal_autograds_at_every_point_of_both_stacks(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 9, "source")
    every = [full for full in model.hook_map() if not full.endswith("hook_tokens")]
    _, cache = model.run_with_cache(prompts, names_filter=every, gradient_of="loss")
    zeros: dict[str, Tensor] = {}

    def add_zero(act: Tensor, hook: HookPoint) -> Tensor:
        zeros[hook.name] = torch.zeros_like(act, requires_grad=True)
        return act + zeros[hook.name]

    for of_scales in (True, False):
        chosen: Any = [full for full in every if full.endswith("hook_scale") == of_scales]
        zeros.clear()
        loss = model.run_with_hooks(prompts, return_type="loss", fwd_hooks=[(chosen, add_zero)])
        for full, gradient in zip(zeros, torch.autograd.grad(loss, list(zeros.values())), strict=True):
            if "hook_pos_embed" in full and name == "vaswani_like":
                continue  # a fixed table, which nothing trained stands before
            assert_close(cache[f"{full}_grad"], gradient)


def test_backward_hooks_of_both_stacks_fire_from_the_end_to_the_beginning():
    model = build_pair("t5_like")
    fired: list[str] = []
    hooks: list[Any] = [("*.hook_resid_pre", lambda grad, hook: fired.append(hook.name))]
    model.run_with_hooks(random_prompts(model, 1), return_type="loss", bwd_hooks=hooks).backward()
    assert [full[:16] for full in fired] == [
        *(f"decoder.blocks.{layer}" for layer in (1, 0)),
        *(f"encoder.blocks.{layer}" for layer in (2, 1, 0)),
    ]


def test_a_cache_of_a_pair_is_saved_sliced_and_moved(tmp_path: Path):
    model = build_pair("bart_like")
    prompts = random_prompts(model, 10, "left")
    _, cache = caches(model, prompts)
    cache.save(tmp_path / "cache.safetensors")
    back = PairCache.load(tmp_path / "cache.safetensors", model)
    for one in (back, cache.to("cpu"), copy.copy(cache)):
        assert list(one) == list(cache) and all(torch.equal(one[full], value) for full, value in cache.items())
        masks = [(held.attention_mask, own.attention_mask) for held, own in zip(
            one.stacks.values(), cache.stacks.values(), strict=True)]  # fmt: skip
        assert all(held is not None and own is not None and torch.equal(held, own) for held, own in masks)
    part = cache.slice(batch=[2, 0])
    assert all(torch.equal(part[full], value[[2, 0]]) for full, value in cache.items())
    cut = cache.decoder.slice(pos=-1)
    assert torch.equal(cut["pattern", 0, "cross_attn"], cache["pattern", 0, "cross_attn"][:, :, -1:])
    assert torch.equal(cut["k", 0, "cross_attn"], cache["k", 0, "cross_attn"])  # the source's positions stay
    assert cache.is_current() and "encoder" in repr(cache)
    with torch.no_grad():
        model.encoder.W_E[0] += 1
    assert not cache.is_current()
    with pytest.raises(CheckpointError):
        PairCache.load(tmp_path / "cache.safetensors", build_pair("t5_like"))


# ---------------------------------------------------------------------------------------------- sums


def assert_rows_sum(cache: Any) -> None:
    """Of one stack: all decompositions at all places, before and after the norm that reads there."""
    cfg = cache.cfg
    for layer in range(cfg.n_layers):
        places: list[tuple[str, str, dict[str, bool]]] = [("resid_pre", "ln1", {})]
        places += [("resid_cross", "ln_cross", {"cross_input": True})] if cfg.cross_attention else []
        places += [("resid_mid", "ln2", {"mlp_input": True})] if cfg.has_resid_mid else []
        for point, norm, place in places:
            for rows in (cache.decompose_resid, cache.get_full_resid_decomposition):
                assert_close(rows(layer, **place).values.sum(0), cache[point, layer])
                if cfg.norms_reads:
                    read = cache[f"blocks.{layer}.{norm}.hook_normalized"]
                    assert_close(rows(layer, **place, apply_ln=True).values.sum(0), read)
    whole = cache.get_full_resid_decomposition()
    assert_close(whole.values.sum(0), cache["resid_post", -1])
    assert ("L0X1" in whole.labels) == cfg.cross_attention and "L0H1" in whole.labels
    if cfg.norms_reads:
        assert_close(cache.decompose_resid(apply_ln=True).values.sum(0), cache["ln_final.hook_normalized"])
    assert_close(expand_stream(cache, max_length=1, max_terms=10**5).values.sum(0), cache["resid_post", -1])


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_both_stacks_sum_to_the_stream_and_to_what_the_norms_make_of_it(name: str):
    model = build_pair(name)
    _, cache = caches(model, random_prompts(model, 11, "left"))
    assert_rows_sum(cache.encoder)
    assert_rows_sum(cache.decoder)


@pytest.mark.parametrize("name", NAMES)
def test_every_split_of_a_logit_of_the_decoder_sums_to_it(name: str):
    model = build_pair(name)
    logits, cache = caches(model, random_prompts(model, 12, "source"))
    splits: list[Any] = ["component", "head", "position", "cross_head", "cross_position"]
    splits += [] if model.cfg.decoder.attn_only else ["neuron"]
    for by in splits:
        found = direct_attribution(cache.decoder, 3, 5, by=by)
        total = found.attribution.sum([axis for axis in found.attribution.dims if axis not in ("prompt", "pos")])
        total = total + found.rest.sum("component") if "rest" in found else total
        for summed in (total, found.logit):
            assert_close(torch.tensor(summed.values), logits[..., 3] - logits[..., 5])
    carried = direct_attribution(cache.decoder, 3, by="cross_position")
    assert carried.attribution.sizes["source_pos"] == 6
    assert (carried.attribution.isel(prompt=0, source_pos=[0, 1]) == 0).all()  # its padding
    heads = direct_attribution(cache.decoder, 3, by="cross_head")
    assert_close(torch.tensor(carried.attribution.sum("source_pos").values), torch.tensor(heads.attribution.values))
    assert heads.label.values.tolist()[1][2] == "L1X2"
    assert_close(expand_logits(cache.decoder, 3, max_length=1).values.sum(0), logits[..., 3])


@pytest.mark.parametrize("process", [fold_layer_norm, center_writing_weights, fold_value_biases,
                                     refactor_factored_attn_matrices])  # fmt: skip
@torch.no_grad()
def test_processed_weights_of_a_decoder_keep_its_logits(process: Any):
    done = 0
    for name in NAMES:
        model = build_pair(name)
        prompts = random_prompts(model, 13)
        memory = model.encode(prompts.source)
        for stack, read in ((model.decoder, {"memory": memory}), (model.encoder, {})):
            ids = prompts.target.ids if read else prompts.source.ids
            try:
                new = process(stack)
            except ConfigError:
                continue
            got, want = (one(ids, lambda read: read, **read) for one in (new, stack))
            if process is not fold_layer_norm or not read:  # the gain of the final norm has gone to the unembedding
                assert_close(got, want)
            if read:
                assert_close(new(ids, memory=memory), stack(ids, memory=memory))
                if process is fold_layer_norm and new.cfg.normalization_type:
                    assert all(block.ln_cross.w is not None and (block.ln_cross.w == 1).all() for block in new.blocks)
            done += 1
    assert done >= 2


# ---------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("name", NAMES)
def test_generation_is_that_of_whole_runs_step_after_step(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 14, "left")
    target = prompts.target.ids[:, 1:3]
    mask = prompts.source.attention_mask
    found = model.generate(prompts.source.ids, 4, target=target, source_mask=mask, names_filter="*", progress=False)
    told = target
    with torch.no_grad():
        for _ in range(4):
            logits = model(prompts.source.ids, told, source_mask=mask)
            told = torch.cat([told, logits[:, -1:].argmax(-1)], dim=1)
        _, whole = model.run_with_cache(prompts.source.ids, told[:, :-1], source_mask=mask)
    assert torch.equal(found.tokens, told) and found.n_prompt == 2
    assert isinstance(found.cache, PairCache) and list(found.cache) == list(whole)
    for full, value in whole.items():
        if not full.startswith("decoder.rel_bias"):  # whose steps know no distances of later keys
            assert_close(found.cache[full], value)


def test_the_encoder_runs_once_and_keys_of_the_memory_are_made_once(monkeypatch: pytest.MonkeyPatch):
    model, counts = build_pair("bart_like"), {"encoder": 0, "products": 0}
    prompts = random_prompts(model, 15)
    products, forward = CrossAttention.products, type(model.encoder.blocks[0]).forward

    def counting(self: Any, memory: Tensor) -> Any:
        counts["products"] += 1
        return products(self, memory)

    def counting_blocks(self: Any, *args: Any) -> Any:
        counts["encoder"] += self is model.encoder.blocks[0]
        return forward(self, *args)

    monkeypatch.setattr(CrossAttention, "products", counting)
    monkeypatch.setattr(type(model.encoder.blocks[0]), "forward", counting_blocks)
    for names in (None, "*"):
        counts.update(encoder=0, products=0)
        model.generate(prompts.source, 5, names_filter=names, progress=False)
        assert counts == {"encoder": 1, "products": model.cfg.decoder.n_layers}


@pytest.mark.parametrize("edited", ["encoder", "decoder"])
@pytest.mark.parametrize("kept", ["encoder", "decoder"])
def test_the_cache_of_a_generation_says_which_stack_was_edited_and_holds_what_was_named(edited: str, kept: str):
    model = build_pair("bart_like")
    prompts = random_prompts(model, 15, "source")
    with model.intervene(Zero(site=("z", edited), layer=0)):
        cache: Any = model.generate(prompts.source, 2, names_filter=("z", 0, kept), progress=False).cache
    assert list(cache) == [f"{kept}.blocks.0.attn.hook_z"]
    assert (cache.encoder.edited, cache.decoder.edited) == (edited == "encoder", edited == "decoder")
    assert torch.equal(cache.decoder.source_mask, prompts.source.is_token)


@torch.no_grad()
def test_a_kv_cache_goes_on_with_its_own_memory_and_refuses_another():
    model = build_pair("t5_like")
    prompts = random_prompts(model, 16, "source")
    memory, ids = model.encode(prompts.source), prompts.target.ids
    kv_cache = KVCache(model.cfg.decoder.n_layers)
    parts = [model.decoder(ids[:, :2], memory=memory, kv_cache=kv_cache)]
    for other in (
        Memory(memory.stream + 1, memory.attention_mask),
        Memory(memory.stream),
        Memory(memory.stream[:, :-1], memory.is_token[:, :-1]),
    ):
        with pytest.raises(ConfigError, match="kv_cache is of another memory"):
            model.decoder(ids[:, 2:], memory=other, kv_cache=kv_cache)
    again = Memory(memory.stream.clone(), memory.attention_mask)
    parts.append(model.decoder(ids[:, 2:], memory=again, kv_cache=kv_cache))
    assert_close(torch.cat(parts, dim=1), model(prompts.source, ids))


def test_a_generation_ends_at_the_stop_token_of_the_config():
    model = build_pair("vaswani_like")
    prompts = random_prompts(model, 17)
    first = model.generate(prompts.source, 1, progress=False).tokens[0, 1]
    model.cfg = dataclasses.replace(model.cfg, stop_token=int(first))
    ended = model.generate(prompts.source, 4, progress=False).tokens[0, 1:]
    assert (ended == first).all()


# ---------------------------------------------------------------------------------------------- weights


def test_stacks_may_share_one_embedding_which_is_one_parameter_in_copies_and_pickles_too():
    model = sharing()
    source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 4]])
    want = model(source, target)
    assert "decoder.embed.W_E" not in model.state_dict() and "encoder.embed.W_E" in model.state_dict()
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(source, target), want)
        assert twin.decoder.W_E is twin.encoder.W_E and (twin is model or twin.encoder.W_E is not model.encoder.W_E)
        twin(source, target, return_type="loss").backward()
        assert twin.encoder.embed.W_E.grad is not None
        assert [n for n, p in twin.named_parameters() if p.grad is None] == []
    narrow = copy.deepcopy(model).double()
    assert narrow.decoder.W_E is narrow.encoder.W_E and narrow.cfg.dtype == torch.float64
    twin = sharing()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(source, target), want)


def test_a_decoder_that_is_copied_or_processed_alone_takes_the_embedding_along_when_it_is_cast():
    model = sharing()
    target, memory = torch.tensor([[0, 4]]), model.encode(torch.tensor([[1, 2, 3]]))
    want = model.decoder(target, memory=memory).double()
    for alone in (copy.deepcopy(model.decoder), fold_value_biases(model.decoder)):
        logits = alone.double()(target, memory=Memory(memory.stream.double()))
        assert logits.dtype == alone.cfg.dtype == torch.float64
        torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
    assert model.encoder.W_E.dtype == torch.float32 and model.decoder.W_E is model.encoder.W_E
    with pytest.raises(ConfigError, match=r"embed: its W_E has shape \(9, 12\); the config says .* = \[8, 12\]"):
        HookedTransformer(dataclasses.replace(model.cfg.decoder, d_vocab=8, d_vocab_out=8), embed=model.encoder.embed)


@pytest.mark.parametrize("name", EAGER)
def test_copies_are_independent_and_have_no_hooks(name: str):
    model = build_pair(name)
    prompts = random_prompts(model, 18)
    want = model(prompts).detach()
    model.add_hook(("z", 0, "cross_attn"), lambda act, hook: act * 0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(prompts), want) and twin.weights_hash() == model.weights_hash()
        assert [point.name for point in twin.hook_points.values()] == list(model.hook_points)
        with torch.no_grad():
            twin.decoder.blocks[0].cross_attn.W_V.zero_()
        assert twin.weights_hash() != model.weights_hash()
        assert twin.run_with_cache(prompts)[1]["v", 0, "cross_attn"].abs().max() < 5
    model.reset_hooks()
    assert torch.equal(model(prompts), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_pairs_run_in_other_dtypes(dtype: torch.dtype):
    for name in NAMES:
        exact = build_pair(name)
        prompts = random_prompts(exact, 19, "left")
        model = copy.deepcopy(exact).to(dtype)
        assert model.cfg.dtype == model.cfg.encoder.dtype == model.decoder.cfg.dtype == dtype
        logits, cache = model.run_with_cache(prompts)
        assert logits.dtype == dtype
        assert_close(logits.double(), exact(prompts), atol=1e-5 if dtype == torch.float32 else 0.15)
        rows = cache.decoder.get_full_resid_decomposition().values.double().sum(0)
        assert_close(rows, cache["resid_post", -1, "decoder"].double(), atol=0.05)
        assert model.generate(prompts.source, 2, progress=False).tokens.shape == (3, 3)


# ---------------------------------------------------------------------------------------------- bad input


def test_configs_that_do_not_fit_are_errors_that_say_what_is_wrong(as_installed: None):
    cfg = pair_config("bart_like").to_dict()
    encoder, decoder = cfg["encoder"], cfg["decoder"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"encoder": encoder | {"n_layers": -1}}, "n_layers = -1; allowed: zero or more"),
        ({"decoder": decoder | {"n_layers": -2}}, "n_layers = -2; allowed: zero or more"),
        ({"encoder": encoder | {"d_vocab_out": 5}}, r"encoder\.d_vocab_out = 5; allowed: 0, as it has no logits"),
        ({"encoder": encoder | {"d_memory": 5}}, r"encoder\.d_memory = 5; allowed: 0, as it reads no memory"),
        ({"decoder": decoder | {"d_memory": 5}}, r"d_memory = 5 must be encoder\.d_model = 16"),
        (
            {"decoder": decoder | {"attention_dir": "bidirectional"}},
            "attention_dir = 'bidirectional'; allowed",
        ),
        ({"decoder": decoder | {"dtype": "float32"}}, r"float64 and decoder\.dtype = torch\.float32 must be the same"),
        ({"start_token": 11}, r"start_token = 11; allowed: 0 to decoder\.d_vocab - 1 = 10"),
        ({"stop_token": -1}, "stop_token = -1; allowed"),
        ({"share_embeddings": True}, "share_embeddings = True needs one d_vocab; here are 13, 11"),
        ({"start_tokens": 1}, "unknown config field 'start_tokens'; did you mean 'start_token'"),
    ]
    for change, message in cases:
        with pytest.raises(ConfigError, match=message):
            EncoderDecoderConfig.from_dict(cfg | change)
    assert EncoderDecoderConfig.from_dict(cfg) == pair_config("bart_like")


def test_memories_that_do_not_fit_are_errors_that_say_what_is_wrong(as_installed: None):
    model = build_pair("t5_like")
    prompts = random_prompts(model, 20)
    ids, stream = prompts.target.ids, model.encode(prompts.source).stream.detach()
    cases: list[tuple[Any, type[Exception], str]] = [
        (None, ConfigError, r"cross-attention to a memory \[batch, source_pos, 16\]: give memory="),
        (stream[0], ShapeError, r"a stream \[batch, source_pos, 16\].* not torch.float64 of shape \(6, 16\)"),
        (stream[..., :-1], ShapeError, r"shape \(3, 6, 15\)"),
        (stream[:, :0], ShapeError, r"shape \(3, 0, 16\)"),
        (stream.float(), ShapeError, "in torch.float64 is needed, not torch.float32"),
        (stream[:2], ShapeError, "for each of 3 sequences on cpu, not for 2"),
        (stream.to("meta"), ShapeError, "not for 3 on meta"),
        ("memory", ConfigError, "memory = 'memory'; allowed: a Memory"),
        (Memory(stream, torch.zeros(3, 6, dtype=torch.bool)), ShapeError, "sequence 0 is padding only"),
    ]
    for memory, error, message in cases:
        with pytest.raises(error, match=message):
            model.decoder(ids, memory=memory)
    with pytest.raises(ConfigError, match="d_memory = 0, so no attention reads it"):
        model.encoder(prompts.source.ids, None, memory=stream)


def test_what_a_pair_cannot_do_is_refused_before_any_run(as_installed: None):
    model = build_pair("causal_encoder_attn_only")
    prompts = random_prompts(model, 21)
    source, target = prompts.source.ids, prompts.target.ids
    zero: Any = 0
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: model.run_with_cache(source, target, pos_slice=zero), ConfigError, r"cache\.decoder\.slice\(pos=\)"),
        (lambda: model(source, target[:2]), ShapeError, "2 targets for 3 sources"),
        (lambda: model(source + 13, target), TokenError, "allowed: 0 to 12"),
        (lambda: model(source, target + 11), TokenError, "allowed: 0 to 10"),
        (lambda: model(source, target, return_type="logit"), ConfigError, "did you mean 'logits'"),
        (lambda: model(source, target, loss_per_token=True), ConfigError, "loss_per_token = True contradicts"),
        (lambda: model("words", target), TokenError, "has no tokenizer"),
        (lambda: model(prompts, target), ShapeError, "bring targets and masks"),
        (lambda: model(source, target, target_mask=target[:, 1:]), ShapeError, r"\(3, 4\)"),
        (lambda: model.generate(source, 20, progress=False), ConfigError, "exceed the context"),
        (lambda: model.generate(source, 2, attention_mask=source), ConfigError, "source_mask= or target_mask="),
        (lambda: model.run_with_cache(source, target, names_filter=("mlp_in", 0, "decoder")), HookNotFoundError,
         "names nothing in layer 0"),
        (lambda: model.encoder(source, "loss"), ConfigError, "no unembedding"),
        (lambda: HookedEncoderDecoder(model.cfg, Vocabulary("abcdefghijklmnop")), ConfigError, "too small"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


# ---------------------------------------------------------------------------------------------- found by a review


@pytest.mark.parametrize("save", ["save_pretrained", "save_snapshot"])
def test_a_decoder_that_is_saved_alone_takes_the_embedding_that_it_shares_along(save: str, tmp_path: Path):
    model = sharing()
    getattr(model.decoder, save)(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    memory = model.encode([1, 2, 3])
    assert torch.equal(loaded.W_E, model.encoder.W_E)
    assert torch.equal(loaded([0, 4, 5], memory=memory), model.decoder([0, 4, 5], memory=memory))
    assert loaded.weights_hash() == model.decoder.weights_hash()


def test_a_short_name_that_both_stacks_have_is_refused_in_a_layer_that_only_one_has():
    model = build_pair("t5_like")  # of 3 layers and of 2
    _, cache = caches(model, random_prompts(model, 1))
    for ask in (lambda: cache["mlp_out", 2], lambda: model.resolve_hooks(("mlp_out", 2)), lambda: cache["z", -3]):
        with pytest.raises(HookNotFoundError, match=r"both stacks; say .*'encoder'\) or .*'decoder'\)"):
            ask()
    assert torch.equal(cache["mlp_out", 2, "encoder"], cache.encoder["mlp_out", 2])


def test_a_suggestion_for_a_full_name_works_on_the_pair():
    model = build_pair("t5_like")
    for wrong in ("encoder.blocks.0.attn.hook_patern", "decoder.hook_embd"):
        with pytest.raises(HookNotFoundError) as error:
            model.resolve_hooks(wrong)
        suggested = str(error.value).split("did you mean '")[1].split("'")[0]
        assert model.resolve_hooks(suggested) == [suggested]


def test_what_is_no_site_is_refused_by_name(as_installed: None):
    model = build_pair("t5_like")
    for one in (model, model.encoder):
        for site in ((), (3,), ("z", 3)):
            with pytest.raises(ConfigError, match="site = "), one.intervene(Zero(site=site, layer=0)):  # pyright: ignore
                pass


def test_a_target_with_a_memory_of_its_own_is_refused():
    model = build_pair("t5_like")
    prompts = random_prompts(model, 1)
    target = dataclasses.replace(prompts.target, memory=model.encode(prompts.source))
    for run in (model, model.run_with_cache, lambda source, target: model.generate(source, 2, target=target)):
        with pytest.raises(ShapeError, match="the target brings a memory"):
            run(prompts.source, target)


@pytest.mark.parametrize("name", ["bart_like", "grouped_normed_keys"])
@torch.no_grad()
def test_metrics_take_a_pair_and_judge_its_target(name: str):
    model = build_pair(name)
    prompts, others = random_prompts(model, 1, "both"), random_prompts(model, 2, "both")
    logits, mask = model(prompts), prompts.target.attention_mask
    tokens, other = prompts.target.ids, (others.source, prompts.target)
    assert_close(Logit(3)(logits, model), logits[:, -1, 3])
    targets = tokens.clone()
    targets[:, :-1] = -1
    wanted = F.cross_entropy(logits[:, -1], tokens[:, -1], reduction="none")
    assert_close(MaskedTokenLoss(targets)(logits, model, tokens, mask), wanted)
    divergence = KLDivergence(other)
    log_p, log_q = (one[:, -1].log_softmax(-1) for one in (model(*other), logits))
    assert_close(divergence(logits, model), (log_p.exp() * (log_p - log_q)).sum(-1))
    assert divergence.on(model, prompts).positions.shape == (len(tokens), 1)


def test_the_gradient_of_a_divergence_reaches_both_stacks_of_a_pair():
    model = build_pair("bart_like")
    prompts, others = random_prompts(model, 1), random_prompts(model, 2)
    divergence = KLDivergence((others.source, prompts.target))
    values, cache = model.run_with_cache(prompts, return_type=None, gradient_of=divergence)
    with torch.no_grad():
        assert_close(values, divergence(model(prompts), model))
        moved, step = torch.randn_like(cache["encoder.hook_embed"]), 1e-6
        ends = [
            model.run_with_hooks(prompts, fwd_hooks=[("encoder.hook_embed", lambda x, hook, s=s: x + s * moved)])
            for s in (step, -step)
        ]
        slope = (divergence(ends[0], model) - divergence(ends[1], model)).sum() / (2 * step)
    assert_close((cache["encoder.hook_embed_grad"] * moved).sum(), slope, atol=1e-6)


def test_messages_say_whether_the_source_or_the_target_is_meant(as_installed: None):
    model = build_pair("t5_like")
    prompts = random_prompts(model, 1)
    source, target = prompts.source.ids, prompts.target.ids
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"source": source + 13, "target": target}, TokenError, "^source: token"),
        ({"source": source, "target": target + 11}, TokenError, "^target: token"),
        ({"source": source, "target": target, "source_mask": source[:, 1:]}, ShapeError, "^source: attention_mask"),
        ({"source": source, "target": target, "target_mask": target * 0}, ShapeError, "^target: attention_mask"),
        ({"source": source, "target": target.repeat(1, 2)}, TokenError, "^target: a sequence of 10 tokens"),
    ]
    for given, error, message in cases:
        for run in (model, model.run_with_cache, lambda **given: model.generate(progress=False, **given)):
            with pytest.raises(error, match=message):
                run(**given)


def test_a_source_and_a_target_that_are_put_together_by_hand_are_checked_too(as_installed: None):
    model = build_pair("t5_like")
    prompts = random_prompts(model, 1)
    with pytest.raises(ShapeError, match="3 targets for 1 sources"):
        SourceAndTarget(prompts.source[0:1], prompts.target)
    target = dataclasses.replace(prompts.target, memory=model.encode(prompts.source))
    with pytest.raises(ShapeError, match="the target brings a memory"):
        SourceAndTarget(prompts.source, target)


def test_what_a_cache_of_two_stacks_cannot_do_is_refused_by_name(as_installed: None, tmp_path: Path):
    model = build_pair("t5_like")
    _, cache = caches(model, random_prompts(model, 1))
    one: Any = 1
    with pytest.raises(ConfigError, match=r"pos = 1: .* cache\.decoder\.slice\(pos=\)"):
        cache.slice(pos=one)
    with pytest.raises(HookNotFoundError, match=r"site = 'z' is in both stacks; say \('z', 'encoder'\) or"):
        cache.stack("z")
    cache.save(tmp_path / "cache")
    decoder: Any = model.decoder
    with pytest.raises(ConfigError, match="allowed: a HookedEncoderDecoder"):
        PairCache.load(tmp_path / "cache", decoder)


def test_a_generation_that_does_not_fit_says_how_much_would():
    model = build_pair("t5_like")
    prompts = random_prompts(model, 1)
    with pytest.raises(ConfigError, match=r"n_ctx = 9; give max_new_tokens= of at most 5$"):
        model.generate(prompts.source, target=prompts.target, progress=False)
    found = model.generate(prompts.source, 5, target=prompts.target, progress=False)
    assert found.tokens.shape == (3, 10)


def test_the_stream_between_the_parts_of_a_block_is_there_without_mlps_too():
    model = build_pair("causal_encoder_attn_only")
    _, cache = caches(model, random_prompts(model, 1))
    rows = cache.decoder.accumulated_resid(incl_mid=True)
    assert rows.labels == ["0_pre", "0_cross", "1_pre", "1_cross", "final_post"]
    assert torch.equal(rows["1_cross"], cache["resid_cross", 1])
