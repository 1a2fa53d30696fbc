"""Files of an encoder with a decoder: any of the forms they come in, our own format, and what is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_pairs import BART, MARIAN, T5, from_instance, make, same_bits
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp import CheckpointError, HookedEncoderDecoder, HookedTransformer, TransformerConfig, Vocabulary
from interp.checkpoints import from_hf, to_hf


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_sharded_folder_loads_as_a_single_file_does(tmp_path: Path):
    for variant in ("t5_v1.1", "bart", "marian"):
        make(variant).save_pretrained(tmp_path / variant, max_shard_size="20KB")
        assert len(list((tmp_path / variant).glob("*.safetensors"))) > 2
        assert same_bits(HookedEncoderDecoder.from_pretrained(tmp_path / variant), from_instance(variant))


def test_a_file_may_hold_the_shared_embedding_by_any_of_its_names(tmp_path: Path):
    for variant, prefix in (("t5", ""), ("bart", "model."), ("marian", "model.")):
        folder = tmp_path / variant
        make(variant).save_pretrained(folder)

        def move(weights: dict[str, Tensor], prefix: str = prefix) -> None:
            weights[f"{prefix}decoder.embed_tokens.weight"] = weights.pop(f"{prefix}shared.weight")

        change_weights(folder, move)
        assert same_bits(HookedEncoderDecoder.from_pretrained(folder), from_instance(variant))

        def repeat(weights: dict[str, Tensor], prefix: str = prefix) -> None:
            weights[f"{prefix}encoder.embed_tokens.weight"] = weights[f"{prefix}decoder.embed_tokens.weight"].clone()

        change_weights(folder, repeat)
        assert same_bits(HookedEncoderDecoder.from_pretrained(folder), from_instance(variant))
        change_weights(folder, lambda w, prefix=prefix: w[f"{prefix}encoder.embed_tokens.weight"][0].add_(1))
        with pytest.raises(CheckpointError, match=r"embed_tokens\.weight' differs from '.*embed_tokens\.weight'"):
            HookedEncoderDecoder.from_pretrained(folder)


def test_sinusoids_that_were_edited_are_kept(tmp_path: Path):
    theirs = copy.deepcopy(make("marian"))
    theirs.model.encoder.embed_positions.weight[3] += 1
    ours = HookedEncoderDecoder.from_pretrained(hf_model=theirs)
    assert torch.equal(ours.encoder.pos_embed.W_pos, theirs.model.encoder.embed_positions.weight)
    ours.save_pretrained(tmp_path, "marian")
    assert same_bits(HookedEncoderDecoder.from_pretrained(tmp_path), ours)


def test_a_bias_of_the_logits_that_a_file_lacks_is_zero(tmp_path: Path):
    make("bart").save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.pop("final_logits_bias"))
    loaded = HookedEncoderDecoder.from_pretrained(tmp_path)
    assert not loaded.decoder.unembed.b_U.any()
    assert from_instance("bart").decoder.unembed.b_U.any()


BAD_TENSORS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": ("t5", lambda w: w.pop("encoder.block.1.layer.0.SelfAttention.q.weight"), r"q\.weight' is missing"),
    "surplus": (
        "bart",
        lambda w: w.update({"model.decoder.layer_norm.weight": torch.zeros(24)}),
        r"'model\.decoder\.layer_norm\.weight' is not part of this model",
    ),
    "shape": (
        "marian",
        lambda w: w.update({"model.encoder.layers.0.fc1.weight": torch.zeros(24, 40)}),
        r"fc1\.weight' has shape \(24, 40\)",
    ),
    "classifier": (
        "bart",
        lambda w: w.update({"classification_head.dense.weight": torch.zeros(24, 24)}),
        r"'classification_head\.dense\.weight' is not part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it(what: str, tmp_path: Path):
    variant, change, message = BAD_TENSORS[what]
    make(variant).save_pretrained(tmp_path)
    change_weights(tmp_path, change)
    with pytest.raises(CheckpointError, match=f"model.safetensors.*{message}"):
        HookedEncoderDecoder.from_pretrained(tmp_path)


def test_a_stored_table_that_no_t5_reads_is_skipped(tmp_path: Path):
    make("t5").save_pretrained(tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    change_weights(tmp_path, lambda weights: weights.update({name: torch.ones(8, 3)}))
    assert same_bits(HookedEncoderDecoder.from_pretrained(tmp_path), from_instance("t5"))


# ---------------------------------------------------------------------------------------------- our own format


def test_a_folder_of_one_kind_of_model_says_which_class_loads_it(tmp_path: Path):
    small = TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=5)
    HookedTransformer(small).save_pretrained(tmp_path / "one")
    from_instance("t5").save_pretrained(tmp_path / "own")
    from_instance("bart").save_pretrained(tmp_path / "theirs", "bart")
    with pytest.raises(CheckpointError, match=r"one stack.*HookedTransformer\.from_pretrained"):
        HookedEncoderDecoder.from_pretrained(tmp_path / "one")
    for folder in ("own", "theirs"):
        with pytest.raises(CheckpointError, match=r"encoder with a decoder.*HookedEncoderDecoder\.from_pretrained"):
            HookedTransformer.from_pretrained(tmp_path / folder)
    with pytest.raises(CheckpointError, match=r"encoder with a decoder.*HookedEncoderDecoder\.from_pretrained"):
        HookedTransformer.from_pretrained(hf_model=make("marian"))


def test_tokenizers_of_source_and_target_come_back_with_their_model(tmp_path: Path):
    source, target = Vocabulary(["<s>", "the", "red", "house"], bos="<s>"), Vocabulary(["<s>", "la", "casa", "roja"])
    ours = from_instance("marian")
    words = HookedEncoderDecoder(ours.cfg, source, target)
    words.save_pretrained(tmp_path)
    back = HookedEncoderDecoder.from_pretrained(tmp_path)
    assert (back.encoder.tokenizer, back.decoder.tokenizer) == (source, target)
    HookedEncoderDecoder(ours.cfg, source).save_pretrained(tmp_path)
    back = HookedEncoderDecoder.from_pretrained(tmp_path)
    assert (back.encoder.tokenizer, back.decoder.tokenizer) == (source, source)
    given = HookedEncoderDecoder.from_pretrained(tmp_path, tokenizer=target, target_tokenizer=source)
    assert (given.encoder.tokenizer, given.decoder.tokenizer) == (target, source)
    ours.save_pretrained(tmp_path)
    assert HookedEncoderDecoder.from_pretrained(tmp_path).encoder.tokenizer is None


def test_more_words_than_a_stack_has_tokens_are_refused():
    many = Vocabulary([f"w{i}" for i in range(35)])
    with pytest.raises(CheckpointError, match="d_vocab = 31 is too small for a vocabulary of 35 words"):
        HookedEncoderDecoder.from_pretrained(hf_model=make("marian_two_vocabularies"), tokenizer=many)


def test_our_own_format_refuses_other_tensors_and_more_layers_than_there_are(tmp_path: Path):
    from_instance("t5").save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["model_type"] == "interp" and about["is_encoder_decoder"] is True
    change_weights(tmp_path, lambda weights: weights.pop("decoder.blocks.1.cross_attn.W_K"))
    with pytest.raises(CheckpointError, match=r"'decoder\.blocks\.1\.cross_attn\.W_K' is missing"):
        HookedEncoderDecoder.from_pretrained(tmp_path)
    about["config"]["decoder"]["n_layers"] = 10**8
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"config\.json: n_layers = 100000000, with \d+ tensors"):
        HookedEncoderDecoder.from_pretrained(tmp_path)
    about["config"]["decoder"] = 3
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as a configuration"):
        HookedEncoderDecoder.from_pretrained(tmp_path)


# ---------------------------------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a stack alone": ("t5", T5, {"is_encoder_decoder": False}, "is_encoder_decoder = False is not supported"),
    "a decoder": ("bart", BART, {"is_decoder": True}, "is_decoder = True is not supported"),
    "activation": ("t5", T5, {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj = 'gated-tanh'.*did you mean"),
    "another gate": ("t5", T5, {"is_gated_act": True}, "is_gated_act = True is not supported; allowed: False"),
    "another activation": ("t5", T5, {"dense_act_fn": "gelu"}, "dense_act_fn = 'gelu'.*allowed: 'relu'"),
    "tied stacks": ("t5", T5, {"tie_encoder_decoder": True}, "tie_encoder_decoder = True"),
    "buckets": ("t5", T5, {"relative_attention_num_buckets": 6}, "relative_buckets = 6"),
    "no layers": ("t5", T5, {"num_heads": 0}, "num_heads = 0; allowed: a positive integer"),
    "many layers": ("t5", T5, {"num_decoder_layers": 10**9}, "num_decoder_layers = 1000000000: more layers than"),
    "misspelt": ("t5", T5, {"num_decoder_layer": 2}, "'num_decoder_layer' is no key.*mean 'num_decoder_layers'"),
    "start": ("t5", T5, {"decoder_start_token_id": 37}, "start_token = 37"),
    "stops": ("t5", T5, {"eos_token_id": [1, 2]}, r"eos_token_id = \[1, 2\]; allowed: one token, or null"),
    "pre-norm": ("bart", BART, {"normalize_before": True}, "normalize_before = True is not supported"),
    "last norm": ("bart", BART, {"add_final_layer_norm": True}, "add_final_layer_norm = True"),
    "no norm": ("bart", BART, {"normalize_embedding": False}, "normalize_embedding = False"),
    "a norm": ("marian", MARIAN, {"normalize_embedding": True}, "normalize_embedding = True"),
    "learned positions": ("marian", MARIAN, {"static_position_embeddings": False}, "position_embeddings = False"),
    "fixed positions": ("bart", BART, {"static_position_embeddings": True}, "static_position_embeddings = True"),
    "bart activation": ("bart", BART, {"activation_function": "tanh"}, "activation_function = 'tanh'"),
    "heads": ("bart", BART, {"decoder_attention_heads": 5}, "24 is not a multiple of decoder_attention_heads = 5"),
    "vocabularies": ("marian", MARIAN, {"decoder_vocab_size": 9}, "decoder_vocab_size = 9 contradicts vocab_size = 37"),
    "quantised": ("bart", BART, {"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
    "norms after": ("mbart", BART, {"normalize_before": False}, "normalize_before = False is not supported"),
    "no language": ("mbart", BART, {}, "'decoder_start_token_id' is missing"),
    "no final norm": ("pegasus", BART, {"add_final_layer_norm": False}, "add_final_layer_norm = False"),
    "led": ("led", BART, {}, r"'led' is not supported \(its attention is local.*encoders with decoders that are: t5"),
    "umt5": ("umt5", T5, {}, r"'umt5' is not supported \(each of its layers.*: t5, mt5, bart, mbart, marian, pegasus"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_option_that_is_not_computed_is_refused_by_name(what: str):
    model_type, base, values, message = REFUSED[what]
    config = base | values | {"model_type": model_type}
    with pytest.raises(CheckpointError, match=message):
        from_hf(config, {f"model.{i}": torch.zeros(1) for i in range(4)})


def test_a_model_that_a_family_cannot_express_is_refused_by_the_field():
    unwritable: list[tuple[str, str, str]] = [
        ("t5", "bart", "cannot be a bart: "),
        ("bart", "t5", "cannot be a t5: "),
        ("bart", "marian", "cannot be a marian: encoder.embed_norm = True would become False"),
        ("marian", "bart", "cannot be a bart: "),
        ("marian_two_vocabularies", "bart", "cannot be a bart: "),
        ("t5_v1.1", "gpt2", "a gpt2 is one stack, and this model is an encoder with a decoder; allowed: t5, mt5, bart"),
        ("t5", "t6", "'t6' is not supported.*did you mean 't5'"),
    ]
    for variant, family, message in unwritable:
        ours = from_instance(variant)
        with pytest.raises(CheckpointError, match=message):
            to_hf(ours.cfg, ours.state_dict(), family)
    small = TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=5)
    with pytest.raises(
        CheckpointError, match="a t5 is an encoder with a decoder, and this model is one stack; allowed"
    ):
        to_hf(small, HookedTransformer(small).state_dict(), "t5")


def test_a_bias_that_a_t5_has_no_place_for_is_refused_by_name():
    ours = from_instance("t5")
    with torch.no_grad():
        ours.decoder.blocks[0].cross_attn.b_V[0, 0] = 1
    with pytest.raises(CheckpointError, match=r"no place for tensor 'decoder\.blocks\.0\.cross_attn\.b_V'"):
        to_hf(ours.cfg, ours.state_dict(), "t5")
