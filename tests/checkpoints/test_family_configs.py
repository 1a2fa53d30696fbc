"""Configurations: the spellings of every version mean the same, and what we do not compute is refused by name."""

import dataclasses
from typing import Any, get_args

import pytest
import torch
from hf_models import LINEAR, LLAMA3, VARIANTS, make

from interp import CheckpointError, HookedTransformer, TransformerConfig
from interp.checkpoints import FAMILIES, from_hf, to_hf
from interp.checkpoints.options import Options
from interp.config import ActFn, RotaryScaling


def read(model_type: str, values: dict[str, Any], dtype: torch.dtype = torch.float32) -> TransformerConfig:
    return FAMILIES[model_type].read_config(Options(values | {"model_type": model_type}), dtype)


SMALL: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}

SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rope_theta": ("llama", {"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    "no theta at all": ("llama", {}, {"rope_parameters": {"rope_theta": 1e4}}),
    "scaling by its old name": (
        "llama", {"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_parameters": LINEAR | {"factor": 2.0}}
    ),
    "llama3": (
        "llama", {"rope_scaling": LLAMA3, "rope_theta": 100.0}, {"rope_parameters": LLAMA3 | {"rope_theta": 100}}
    ),
    "nulls": ("llama", {"rope_scaling": None, "head_dim": None, "quantization_config": None}, {}),
    "a share of 1": ("llama", {"partial_rotary_factor": 1.0}, {}),
    "neox": (
        "gpt_neox",
        {"rotary_pct": 0.5, "rotary_emb_base": 500},
        {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}},
    ),
    "neox without any": (
        "gpt_neox", {"hidden_size": 48}, {"hidden_size": 48, "rotary_pct": 0.25, "rotary_emb_base": 10_000}
    ),
    "qwen2 windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 4,
         "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2},
    ),
    "qwen2 windows out of use": ("qwen2", {"sliding_window": 4, "max_window_layers": 0}, {}),
    "gemma2 windows": (
        "gemma2",
        {"sliding_window": 8},
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "gemma3": (
        "gemma3_text",
        {"sliding_window_pattern": 3, "rope_theta": 1e5, "rope_local_base_freq": 50.0, "rope_scaling": LINEAR},
        {"layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
         "rope_parameters": {"full_attention": LINEAR | {"rope_theta": 1e5},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}},
    ),
    "gemma3 without any": (
        "gemma3_text", {}, {"sliding_window_pattern": 6, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    ),
    "null n_inner": ("gpt2", {"n_inner": None}, {"n_inner": 96}),
}  # fmt: skip
GPT2 = {"vocab_size": 37, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 32}


@pytest.mark.parametrize("what", SAME)
def test_two_spellings_mean_the_same(what: str):
    family, one, other = SAME[what]
    base = GPT2 if family == "gpt2" else SMALL
    assert read(family, base | one) == read(family, base | other)


def test_gemmas_layers_alternate_as_published():
    gemma2 = read("gemma2", SMALL)
    assert gemma2.window_size == (4096, None, 4096, None)
    assert (gemma2.attn_scores_soft_cap, gemma2.output_logits_soft_cap, gemma2.attn_scale) == (50, 30, 16)
    gemma3 = read("gemma3_text", SMALL | {"num_hidden_layers": 12, "rope_scaling": LINEAR})
    assert gemma3.rotary_base == ((1e4,) * 5 + (1e6,)) * 2
    assert gemma3.rotary_scaling == ((None,) * 5 + (RotaryScaling(kind="linear", factor=4.0),)) * 2


def test_gemmas_embedding_scale_is_not_rounded_to_the_dtype_of_the_checkpoint():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert read("gemma2", SMALL | {"hidden_size": 3072}, dtype).embed_scale == 3072**0.5


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "scaling by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    "cross attention": ("gpt2", {"add_cross_attention": True}, "add_cross_attention = True"),
    "activation": (
        "gpt2",
        {"activation_function": "gelu_neww"},
        "'gelu_neww' is not supported.*did you mean 'gelu_new'",
    ),
    "neox activation": ("gpt_neox", {"hidden_act": "tanh"}, "hidden_act = 'tanh' is not supported"),
    "neox rope": ("gpt_neox", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic'"),
    "yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn'.*allowed: default"),
    "misspelt rope": ("llama", {"rope_parameters": {"rope_type": "lama3"}}, "did you mean 'llama3'"),
    "longrope": ("qwen2", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type = 'longrope'"),
    "rope by layer type": ("llama", {"rope_parameters": {"full_attention": {}}}, "parameter 'full_attention'"),
    "an unknown rope key": ("qwen3", {"rope_scaling": LINEAR | {"mrope_section": [1]}}, "'mrope_section'"),
    "no factor": ("llama", {"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
    "a negative factor": ("llama", {"rope_scaling": LINEAR | {"factor": -1}}, "factors must be positive"),
    "a share of each head": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "the same, new": ("qwen3", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    "llama activation": ("llama", {"hidden_act": "relu2"}, "hidden_act = 'relu2' is not supported"),
    "quantised": ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\).*dequan"),
    "mistral layers": ("mistral", {"layer_types": ["full_attention"] * 4}, "layer_types = "),
    "layer type": ("qwen3", {"layer_types": ["chunked_attention"] * 4}, "holds 'chunked_attention'"),
    "too few layer types": (
        "qwen3",
        {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True},
        "2 values for n_layers = 4",
    ),
    "windows without a size": ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "sliding_window = None"),
    "mrope": ("qwen2", {"use_mrope": True}, "use_mrope = True"),
    "bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
    "gemma activation": ("gemma2", {"hidden_activation": "sigmoid"}, "hidden_activation = 'sigmoid'"),
    "flat rope in gemma 3": (
        "gemma3_text",
        {"rope_parameters": {"rope_theta": 1e4}},
        "rope_parameters has 'rope_theta'",
    ),
    "a word for a number": ("llama", {"hidden_size": "24"}, "hidden_size = '24' is not of type int"),
    "a flag for a number": ("llama", {"rms_norm_eps": True}, "rms_norm_eps = True is not of type float"),
    "zero": ("llama", {"num_attention_heads": 0}, "num_attention_heads = 0; allowed: a positive integer"),
    "not causal": ("llama", {"is_causal": False}, "is_causal = False is not supported"),
    "two descriptions of the angles": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_scaling": LINEAR},
        "rope_parameters = .* contradicts rope_scaling = ",
    ),
    "an odd share": ("gpt_neox", {"rotary_pct": 0.75}, "rotary_dim = 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_option_that_we_do_not_compute_is_refused_by_name(what: str):
    family, values, message = REFUSED[what]
    config = (GPT2 if family == "gpt2" else SMALL) | {"model_type": family} | values
    with pytest.raises(CheckpointError, match=f"^config: .*{message}"):
        from_hf(config, {f"{FAMILIES[family].prefix}{i}": torch.zeros(1) for i in range(4)})


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("attention_biass", "attention_bias"),
        ("rope_thetas", "rope_theta"),
        ("tie_word_embedding", "tie_word_embeddings"),
        ("num_key_value_head", "num_key_value_heads"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_misspelt_key_is_refused_with_the_one_that_was_meant(misspelt: str, meant: str, beside: bool):
    config: dict[str, Any] = make("llama").config.to_dict() | {misspelt: True}
    if not beside and meant != "num_key_value_heads":
        config.pop(meant, None)
    with pytest.raises(CheckpointError, match=f"'{misspelt}' is no key of this configuration; did you mean '{meant}'"):
        from_hf(config, make("llama").state_dict())


def test_notes_in_a_configuration_are_left_alone():
    notes = {"transformers.js_config": {}, "is_llama_config": True, "rope_interleaved": False, "unsloth_version": "1"}
    cfg, _ = from_hf(make("llama").config.to_dict() | notes, make("llama").state_dict())
    assert cfg == read("llama", make("llama").config.to_dict())


@pytest.mark.parametrize(("variant", "key"), [("gpt2", "n_layer"), ("gemma3", "num_hidden_layers")])
def test_more_layers_than_tensors_are_refused_at_once(variant: str, key: str):
    with pytest.raises(CheckpointError, match=f"config: {key} = 1000000000: more layers than"):
        from_hf(make(variant).config.to_dict() | {key: 10**9}, make(variant).state_dict())


def test_a_missing_key_is_refused_by_name():
    config = SMALL | {"model_type": "llama"}
    del config["vocab_size"]
    with pytest.raises(CheckpointError, match="'vocab_size' is missing"):
        from_hf(config, {f"model.{i}": torch.zeros(1) for i in range(4)})


@pytest.mark.parametrize("model_type", ["gemma3", "mixtral", "qwen2_moe", 3, None])
def test_an_unknown_model_type_lists_those_that_are_supported(model_type: Any):
    with pytest.raises(CheckpointError, match="model_type"):
        from_hf({"model_type": model_type}, {"x": torch.zeros(1)})
    if isinstance(model_type, str):
        with pytest.raises(CheckpointError, match=f"supported: {', '.join(FAMILIES)}"):
            from_hf({"model_type": model_type}, {"x": torch.zeros(1)})


# ---------------------------------------------------------------------------------------------- writing


def convert(ours: HookedTransformer, family: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return to_hf(ours.cfg, ours.state_dict(), family)


def model(**changes: Any) -> HookedTransformer:
    """A model that is a Llama, but for the changes."""
    fields = dataclasses.asdict(read("llama", SMALL)) | changes
    return HookedTransformer(TransformerConfig(**fields))


UNWRITABLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "norms": ({"norm_position": "post"}, "llama", "cannot be a llama: norm_position = 'post' would become 'pre'"),
    "a window": ({"window_size": 4}, "llama", "window_size = 4 would become None"),
    "two windows": ({"window_size": (4, 5, None, 4)}, "qwen2", "window_size = "),
    "a cap": ({"attn_scores_soft_cap": 5.0}, "qwen3", "attn_scores_soft_cap = 5.0 would become None"),
    "positions": (
        {"positional_embedding_type": "none", "rotary_base": None, "rotary_dim": None},
        "llama",
        "positional",
    ),
    "no MLP": ({"attn_only": True, "d_mlp": 0, "gated_mlp": False}, "llama", "intermediate_size = 0"),
    "grouped keys": ({}, "gpt2", "cannot be a gpt2"),
    "bases by layer": ({"rotary_base": (1e4, 1e4, 1e4, 1e5)}, "llama", "rotary_base"),
    "parallel": ({"parallel_attn_mlp": True}, "mistral", "parallel_attn_mlp"),
    "embedding scale": ({}, "gemma2", "cannot be a gemma2"),
}


@pytest.mark.parametrize("what", UNWRITABLE)
def test_a_model_that_a_family_cannot_express_is_refused_by_the_field(what: str):
    changes, family, message = UNWRITABLE[what]
    with pytest.raises(CheckpointError, match=message):
        convert(model(**changes), family)


def test_a_bias_that_a_family_has_no_place_for_is_refused_by_name():
    ours = model()
    with torch.no_grad():
        ours.unembed.b_U[0] = 1
    with pytest.raises(CheckpointError, match=r"llama has no place for tensor 'unembed\.b_U'"):
        convert(ours, "llama")


def test_an_unknown_family_to_write_is_refused_with_the_nearest():
    with pytest.raises(CheckpointError, match=r"'gpt-2' is not supported.*did you mean 'gpt2'"):
        convert(model(), "gpt-2")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_written_configuration_reads_as_the_model_it_is_of(variant: str):
    ours = HookedTransformer.from_pretrained(hf_model=make(variant))
    config, _ = convert(ours, make(variant).config.model_type)
    assert read(config["model_type"], config) == ours.cfg


def test_activation_functions_go_to_gpt2_and_back_by_their_own_names_or_not_at_all():
    for act_fn in get_args(ActFn):
        sizes: dict[str, Any] = {"n_layers": 1, "d_model": 8, "n_heads": 2, "n_ctx": 4, "d_vocab": 5}
        model = HookedTransformer(TransformerConfig(**sizes, act_fn=act_fn, tie_word_embeddings=True))
        if act_fn.startswith("solu"):
            with pytest.raises(CheckpointError, match=f"activation_function = '{act_fn}' is not supported"):
                to_hf(model.cfg, model.state_dict(), "gpt2")
        else:
            read, _ = from_hf(*to_hf(model.cfg, model.state_dict(), "gpt2"))
            assert isinstance(read, TransformerConfig) and read.act_fn == act_fn
