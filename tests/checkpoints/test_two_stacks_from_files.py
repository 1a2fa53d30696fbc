"""Encoders with decoders: what transformers' own models compute, and conversion in both directions."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_pairs import T5, VARIANTS, from_instance, in_double, make, padded, random_pairs, run, same_bits
from safetensors.torch import load_file
from torch import Tensor

from interp import CheckpointError, HookedEncoderDecoder, HookedTransformer
from interp.checkpoints import FAMILIES, from_hf, to_hf

SIDES = ("left", "right")


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def stack_differences(
    cache: Any, place: dict[str, Tensor], hidden: Any, patterns: dict[str, Any], row: int
) -> list[float]:
    """Those of one stack at one sequence of a batch: the stream before every layer and at the end, and all patterns.

    Args:
        cache: of the stack.
        place: which positions are tokens of the sequence, along "pos" and along "source_pos".
        hidden: what transformers says of the stream; its last one is normalised.
        patterns: what it says of patterns, by the module.
        row: of the sequence.
    """
    n_layers = cache.model.cfg.n_layers
    mine = [cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(n_layers)]
    last = "ln_final.hook_normalized" if cache.model.cfg.norms_reads else f"blocks.{n_layers - 1}.hook_resid_post"
    mine.append(cache[last])
    assert len(hidden) == len(mine)
    found = [relative(m[row, place["pos"]], t[0]) for m, t in zip(mine, hidden, strict=True)]
    for module, theirs in patterns.items():
        keys = place["source_pos" if module == "cross_attn" else "pos"]
        assert len(theirs) == n_layers
        for layer, pattern in enumerate(theirs):
            ours = cache[f"blocks.{layer}.{module}.hook_pattern"][row]
            found.append(relative(ours[:, place["pos"]][:, :, keys], pattern[0]))
            hidden_keys = ours[:, place["pos"]][:, :, ~keys]
            assert not hidden_keys.any()
    return found


def differences(ours: HookedEncoderDecoder, theirs: Any, source_side: str, target_side: str) -> float:
    """The largest difference of logits, hidden states and patterns of both stacks in a padded batch, from unpadded runs
    of transformers' model on each of its sequences."""
    pairs = random_pairs(theirs)
    source, source_mask = padded(pairs.sources, source_side, pad=0)
    target, target_mask = padded(pairs.targets, target_side, pad=0)
    with torch.no_grad():
        logits, cache = ours.run_with_cache(source, target, source_mask=source_mask, target_mask=target_mask)
    found = []
    for row in range(len(source)):
        out = run(theirs, pairs.sources[row], pairs.targets[row])
        mine = {"pos": target_mask[row], "source_pos": source_mask[row]}
        *streams, last = out.decoder_hidden_states
        if getattr(theirs.config, "scale_decoder_outputs", False):  # here the factor is part of the last norm's gain
            last = last * theirs.config.d_model**-0.5
        found.append(relative(logits[row, target_mask[row]], out.logits[0]))
        found += stack_differences(
            cache.encoder, {"pos": source_mask[row]}, out.encoder_hidden_states, {"attn": out.encoder_attentions}, row
        )
        found += stack_differences(
            cache.decoder,
            mine,
            [*streams, last],
            {"attn": out.decoder_attentions, "cross_attn": out.cross_attentions},
            row,
        )
    return max(found)


@pytest.mark.parametrize("source_side", SIDES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_logits_streams_and_patterns_equal_transformers(variant: str, source_side: str):
    with in_double(variant):
        theirs = make(variant)
        ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
        assert ours.cfg.dtype == torch.float64
        for target_side in SIDES:
            assert differences(ours, theirs, source_side, target_side) < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_logits_equal_transformers(variant: str):
    theirs = make(variant)
    ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
    assert ours.cfg.dtype == torch.float32
    assert differences(ours, theirs, "right", "right") < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_transformers_with_the_next_tokens_as_labels(variant: str):
    with in_double(variant):
        theirs = make(variant)
        pairs = random_pairs(theirs)
        source, source_mask = padded(pairs.sources, "right", pad=0)
        target, target_mask = padded(pairs.targets, "right", pad=theirs.config.pad_token_id)
        labels = target[:, 1:].masked_fill(~target_mask[:, 1:], -100)
        theirs_loss = theirs(source, source_mask, decoder_input_ids=target[:, :-1], labels=labels).loss
    ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
    loss = ours(source, target, "loss", source_mask=source_mask, target_mask=target_mask)
    assert abs(loss.item() - theirs_loss.item()) < 1e-10


def test_every_distance_has_the_bucket_of_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-700, 700)
    for n, longest in ((32, 128), (8, 12), (16, 1000)):
        changes: Any = {"relative_buckets": n, "relative_max_distance": longest}
        for stack, both_ways in (("encoder", True), ("decoder", False)):
            cfg = dataclasses.replace(getattr(from_instance("t5").cfg, stack), d_memory=0, **changes)
            theirs = T5Attention._relative_position_bucket(distances, both_ways, n, longest)
            assert torch.equal(HookedTransformer(cfg).rel_bias.buckets(distances), theirs)


# ---------------------------------------------------------------------------------------------- generation

N_NEW = 12


def greedy(variant: str, **options: Any) -> tuple[HookedEncoderDecoder, Tensor, Tensor, Tensor, Tensor]:
    """Our model, a padded batch of sources with its mask, and the tokens and the logits of every step that transformers
    generates from it without sampling.

    Its own cache has a layer for each of the encoder's, of which a T5 may have fewer than in its decoder.
    """
    with in_double(variant):
        theirs = make(variant)
        source, mask = padded(random_pairs(theirs).sources, "right", pad=theirs.config.pad_token_id)
        made = theirs.generate(
            source,
            attention_mask=mask.long(),
            do_sample=False,
            num_beams=1,
            max_new_tokens=N_NEW,
            use_cache=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
    ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
    return ours, source, mask, made.sequences, torch.stack(made.logits, dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_generation_gives_the_tokens_and_the_logits_of_transformers(variant: str):
    """Random models soon repeat a token: the logits say more than the tokens do. Theirs are kept in float32."""
    ours, source, mask, tokens, logits = greedy(variant)
    made = ours.generate(source, N_NEW, source_mask=mask, stop_tokens=())
    assert tokens.shape == (len(source), 1 + N_NEW)
    assert torch.equal(made.tokens, tokens)
    last = ("resid_post", ours.cfg.decoder.n_layers - 1, "decoder")
    watched = ours.generate(source, N_NEW, source_mask=mask, stop_tokens=(), names_filter=last)
    assert torch.equal(watched.tokens, tokens)
    assert watched.cache is not None
    with torch.no_grad():
        mine = ours.unembed(ours.decoder.read_out(watched.cache[last]))
    assert relative(mine.float(), logits) < 1e-6


@pytest.mark.parametrize("variant", ["t5", "bart", "marian_two_vocabularies"])
def test_generation_ends_at_the_stop_token_of_the_config_as_in_transformers(variant: str):
    stop = int(greedy(variant)[3][0, 4])
    ours, source, mask, tokens, _ = greedy(variant, eos_token_id=stop)
    other = HookedEncoderDecoder(ours.cfg.to_dict() | {"stop_token": stop})
    other.load_state_dict(ours.state_dict())
    made = other.generate(source, N_NEW, source_mask=mask).tokens
    for mine, theirs in zip(made.tolist(), tokens.tolist(), strict=True):
        end = theirs.index(stop, 1) + 1 if stop in theirs[1:] else len(theirs)
        assert mine[:end] == theirs[:end]
        assert set(mine[end:]) <= {stop}
    assert stop in made[0, 1:]


@pytest.mark.parametrize(("variant", "stop"), [("t5", 1), ("bart", 2), ("marian", 0)])
def test_start_and_stop_tokens_are_those_of_the_checkpoint(variant: str, stop: int):
    cfg = HookedEncoderDecoder.from_pretrained(hf_model=make(variant)).cfg
    assert cfg.start_token == make(variant).config.decoder_start_token_id
    assert cfg.stop_token == stop


# ---------------------------------------------------------------------------------------------- both ways


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_wrote_loads_as_its_instance_does(variant: str, tmp_path: Path):
    make(variant).save_pretrained(tmp_path)
    loaded = HookedEncoderDecoder.from_pretrained(tmp_path)
    assert loaded.cfg == from_instance(variant).cfg
    assert same_bits(loaded, from_instance(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_loads_what_was_saved_for_it(variant: str, tmp_path: Path):
    theirs = make(variant)
    ours = from_instance(variant)
    ours.save_pretrained(tmp_path, theirs.config.model_type)
    loaded: Any = type(theirs).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager", local_files_only=True
    )
    back, about = loaded
    assert not any(about.values()), about
    assert differences(ours, back.eval(), "right", "right") < 1e-4
    unread = {} if ours.cfg.share_embeddings else {"model.shared.weight"}
    for name, tensor in theirs.state_dict().items():
        if name not in unread:
            ours_tensor = back.state_dict()[name]
            rows = slice(2 if "embed_positions" in name and "bart" in variant else 0, None)  # others are never read
            if name == "decoder.final_layer_norm.weight" and ours.cfg.decoder.tie_word_embeddings:
                factor = 1.0 if theirs.config.scale_decoder_outputs else theirs.config.d_model**0.5
                torch.testing.assert_close(ours_tensor, tensor * factor, rtol=1e-6, atol=0)
            else:
                assert torch.equal(ours_tensor[rows], tensor[rows]), name
    assert back.generation_config.decoder_start_token_id == theirs.config.decoder_start_token_id


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_comes_back_bit_for_bit_from_either_format(variant: str, tmp_path: Path):
    ours = from_instance(variant)
    family = "mt5" if variant == "t5_v1.1_tied" else make(variant).config.model_type  # as a t5 it is of version 1.0
    for folder, model_type in (("own", None), ("theirs", family)):
        ours.save_pretrained(tmp_path / folder, model_type)
        back = HookedEncoderDecoder.from_pretrained(tmp_path / folder)
        assert back.cfg == ours.cfg
        assert same_bits(back, ours)


def test_a_t5_of_any_width_comes_back_bit_for_bit(tmp_path: Path):
    """The factor of the last norm's gain is a power of 2 for some widths and rounded for others."""
    for d_model in (16, 20, 24, 32, 50):
        options: dict[str, Any] = T5 | {"d_model": d_model}
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**options))
        theirs.decoder.final_layer_norm.weight.data.normal_()
        ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
        ours.save_pretrained(tmp_path, "t5")
        assert same_bits(HookedEncoderDecoder.from_pretrained(tmp_path), ours)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_converted_state_dict_copies_no_matrix_and_every_weight_comes_from_the_checkpoint(variant: str):
    theirs = make(variant)
    storages = {tensor.untyped_storage().data_ptr() for tensor in theirs.state_dict().values()}
    cfg, state = from_hf(theirs.config.to_dict(), theirs.state_dict())
    for name, tensor in state.items():
        if name.rsplit(".", 1)[1].startswith("W_"):
            assert tensor.untyped_storage().data_ptr() in storages, name
    ours = HookedEncoderDecoder(cfg.to_dict())
    for name in ours.state_dict():
        assert name in state or name.rsplit(".", 1)[1].startswith("b"), name
    assert to_hf(cfg, ours.state_dict(), theirs.config.model_type)[0]["model_type"] == theirs.config.model_type


def test_every_family_of_pairs_is_compared():
    assert {make(v).config.model_type for v in VARIANTS} == {name for name, f in FAMILIES.items() if f.pair}


BARE = {"t5": "T5Model", "t5_v1.1_tied": None, "bart": "BartModel", "marian": "MarianModel"}


@pytest.mark.parametrize("variant", [name for name, bare in BARE.items() if bare])
def test_a_bare_model_has_the_head_that_transformers_gives_it(variant: str, tmp_path: Path):
    theirs = make(variant)
    bare = theirs.model if hasattr(theirs, "model") else getattr(transformers, BARE[variant])(theirs.config)
    if not hasattr(theirs, "model"):
        bare.load_state_dict({name: t for name, t in theirs.state_dict().items() if name != "lm_head.weight"})
    expected = copy.deepcopy(from_instance(variant))
    with torch.no_grad():
        expected.decoder.unembed.b_U.zero_()
    bare.save_pretrained(tmp_path)
    for loaded in (HookedEncoderDecoder.from_pretrained(tmp_path), HookedEncoderDecoder.from_pretrained(hf_model=bare)):
        assert same_bits(loaded, expected)


def test_a_bare_t5_of_version_1_1_is_refused_since_its_head_is_not_known(tmp_path: Path):
    theirs = make("t5_v1.1")
    bare = transformers.T5Model(theirs.config)
    bare.save_pretrained(tmp_path)
    given: dict[str, Any]
    for given in ({"name_or_path": tmp_path}, {"hf_model": bare}):
        with pytest.raises(CheckpointError, match=r"tensor 'lm_head\.weight' is missing"):
            HookedEncoderDecoder.from_pretrained(**given)


def test_a_t5_of_version_1_1_whose_file_has_no_head_is_tied(tmp_path: Path):
    make("t5_v1.1_tied").save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = HookedEncoderDecoder.from_pretrained(tmp_path)
    assert loaded.cfg.decoder.tie_word_embeddings
    assert same_bits(loaded, from_instance("t5_v1.1_tied"))


def test_a_t5_configuration_of_transformers_4_means_the_same(tmp_path: Path):
    for variant, tied in (("t5", True), ("t5_v1.1", False)):
        make(variant).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act"):
            del config[key]
        (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
        assert same_bits(HookedEncoderDecoder.from_pretrained(tmp_path), from_instance(variant))


def test_a_pair_can_be_loaded_in_another_dtype():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        for variant in ("t5", "marian"):
            ours = HookedEncoderDecoder.from_pretrained(hf_model=make(variant), dtype=dtype)
            held = {t.dtype for t in ours.state_dict().values()}
            assert held == {dtype} == {ours.cfg.dtype, ours.encoder.cfg.dtype}
            assert torch.isfinite(ours(torch.arange(3, 9)[None])).all()


def test_embeddings_that_transformers_shares_are_shared_here():
    assert {variant: from_instance(variant).cfg.share_embeddings for variant in VARIANTS} == {
        variant: "two_vocabularies" not in variant and "bart_untied" not in variant for variant in VARIANTS
    }
    ours = from_instance("t5")
    assert ours.decoder.W_E is ours.encoder.W_E
    assert "decoder.embed.W_E" not in ours.state_dict()
