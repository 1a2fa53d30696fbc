"""TransformerConfig: derived fields, refusals that say what is allowed, and the JSON round trip."""

import copy
import dataclasses
import json
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from grid import GRID, SMALL, Run, config, configs, run_of
from hypothesis import given

from interp import ConfigError, HookedTransformer, TransformerConfig

SIZES: dict[str, Any] = {"n_layers": 1, "d_model": 12, "n_ctx": 5, "d_vocab": 7}
WITH_HEADS: dict[str, Any] = SIZES | {"n_heads": 3}


# ---------------------------------------------------------------------------------------------- derived fields


def test_the_head_width_follows_from_the_number_of_heads():
    assert TransformerConfig(**SIZES, n_heads=3).d_head == 4


def test_the_number_of_heads_follows_from_their_width():
    assert TransformerConfig(**SIZES, d_head=2).n_heads == 6


def test_heads_need_not_fill_the_residual_stream_when_both_sizes_are_given():
    cfg = TransformerConfig(**SIZES, n_heads=5, d_head=7)
    assert (cfg.n_heads, cfg.d_head) == (5, 7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_key_value_heads", 3),
        ("d_mlp", 48),
        ("attn_scale", 2.0),
        ("init_std", 0.8 / math.sqrt(12)),
        ("rotary_base", None),
        ("rotary_dim", None),
    ],
)
def test_a_field_that_is_not_given_has_its_documented_default(field: str, value: Any):
    assert getattr(TransformerConfig(**WITH_HEADS), field) == value


@pytest.mark.parametrize(("field", "value"), [("rotary_base", 10_000.0), ("rotary_dim", 4)])
def test_rotary_models_rotate_the_whole_head_unless_told_otherwise(field: str, value: Any):
    assert getattr(TransformerConfig(**WITH_HEADS, positional_embedding_type="rotary"), field) == value


def test_an_attention_only_model_has_no_neurons():
    assert TransformerConfig(**WITH_HEADS, attn_only=True).d_mlp == 0


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(TransformerConfig(**WITH_HEADS), "n_layers", 2)  # noqa: B010


def test_every_field_is_described():
    described = {
        name.strip()
        for names in re.findall(r"^ {8}(\w+(?:, \w+)*):", TransformerConfig.__doc__ or "", re.MULTILINE)
        for name in names.split(",")
    }
    assert {field.name for field in dataclasses.fields(TransformerConfig)} == described - {"ConfigError"}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_dtype_may_be_given_by_its_name(dtype: Any):
    assert TransformerConfig(**WITH_HEADS, dtype=dtype).dtype is getattr(torch, dtype)


def test_numpys_integers_are_integers():
    cfg = config(SIZES, n_heads=np.int64(3))
    assert (type(cfg.n_heads), cfg) == (int, TransformerConfig(**WITH_HEADS))


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given_name", "nearest"),
    [
        ("n_layer", "n_layers"),
        ("positional_embeddings", "positional_embedding_type"),
        ("num_heads", "n_heads"),
        ("norm_type", "normalization_type"),
    ],
)
def test_an_unknown_field_is_an_error_with_the_nearest_field(given_name: str, nearest: str):
    with pytest.raises(ConfigError, match=f"unknown config field '{given_name}'; did you mean .*'{nearest}'"):
        config(WITH_HEADS, **{given_name: 1})


def test_missing_fields_are_named():
    with pytest.raises(ConfigError, match="missing: d_model, d_vocab"):
        config({"n_layers": 1, "n_ctx": 3, "n_heads": 1})


def test_a_config_from_nothing_is_an_error_that_names_the_missing_fields():
    with pytest.raises(ConfigError, match="missing: n_layers, d_model, n_ctx, d_vocab"):
        TransformerConfig.from_dict({})


def test_neither_heads_nor_their_width_is_an_error():
    with pytest.raises(ConfigError, match="give n_heads, d_head or both"):
        TransformerConfig(**SIZES)


@pytest.mark.parametrize(
    ("field", "value", "other"), [("n_heads", 5, "d_head"), ("d_head", 5, "n_heads"), ("d_head", 13, "n_heads")]
)
def test_a_size_that_does_not_divide_the_model_is_an_error_that_names_the_other_size(
    field: str, value: int, other: str
):
    with pytest.raises(ConfigError, match=f"not a multiple of {field} = {value}; give {other} as well"):
        config(SIZES, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, bad) for name in ("n_layers", "d_model", "n_ctx", "d_vocab") for bad in (-1, 2.0, "3", None, True)),
        *((name, 0) for name in ("d_model", "n_ctx", "d_vocab", "n_heads", "d_head", "n_key_value_heads")),
        *((name, bad) for name in ("n_heads", "d_head", "n_key_value_heads") for bad in (-2, 1.5, "1")),
        *((name, bad) for name in ("eps", "attn_scale") for bad in (0, -1.0, math.nan, math.inf, "1")),
        *((name, bad) for name in ("attn_scores_soft_cap", "output_logits_soft_cap") for bad in (0.0, -30.0, math.nan)),
        *(("window_size", bad) for bad in (0, -1, 2.5)),
        *((name, 1) for name in ("attn_only", "gated_mlp", "use_qk_norm", "parallel_attn_mlp", "tie_word_embeddings")),
        ("d_mlp", -1),
        ("init_std", -0.1),
        ("seed", -1),
        ("seed", 1.5),
        ("act_fn", "swish"),
        ("normalization_type", "layernorm"),
        ("norm_position", "before"),
        ("positional_embedding_type", "absolute"),
        ("attention_dir", "both"),
        ("attn_implementation", "flash"),
        ("dtype", "float33"),
        ("dtype", torch.int64),
        ("dtype", torch.complex64),
        ("dtype", 32),
    ],
)
def test_an_impossible_value_is_an_error_that_names_field_and_value(field: str, value: Any):
    with pytest.raises(ConfigError, match=re.escape(f"{field} = {value!r}")):
        config(WITH_HEADS, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "nearest"),
    [
        ("act_fn", "gelu_fats", "gelu_fast"),
        ("positional_embedding_type", "rotery", "rotary"),
        ("attention_dir", "bidirectonal", "bidirectional"),
        ("dtype", "float23", "float32"),
    ],
)
def test_a_misspelt_value_is_an_error_with_the_nearest_one(field: str, value: str, nearest: str):
    with pytest.raises(ConfigError, match=f"{field} = '{value}'.*did you mean .*'{nearest}'"):
        config(WITH_HEADS, **{field: value})


@pytest.mark.parametrize("value", ["LN", "RMS", "None"])
def test_the_options_of_a_field_are_listed_when_another_is_given(value: str):
    with pytest.raises(ConfigError, match=f"normalization_type = 'BatchNorm'; allowed: .*{value}"):
        config(WITH_HEADS, normalization_type="BatchNorm")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_key_value_heads": 2}, "n_heads = 3 is not a multiple of n_key_value_heads = 2"),
        ({"attn_only": True, "d_mlp": 4}, "attn_only = True leaves no MLP for d_mlp = 4"),
        ({"attn_only": True, "gated_mlp": True}, "leaves no MLP for gated_mlp"),
        ({"attn_only": True, "parallel_attn_mlp": True}, "leaves no MLP for parallel_attn_mlp"),
        ({"d_mlp": 0}, "say attn_only = True"),
        (
            {"parallel_attn_mlp": True, "norm_position": "post"},
            "parallel_attn_mlp = True contradicts norm_position = 'post'",
        ),
        ({"rotary_dim": 2}, "rotary_dim = 2 contradicts positional_embedding_type = 'standard'"),
        ({"rotary_base": 10.0}, "rotary_base = 10.0 contradicts positional_embedding_type = 'standard'"),
        ({"positional_embedding_type": "rotary", "rotary_dim": 6}, "rotary_dim = 6 exceeds d_head = 4"),
        ({"positional_embedding_type": "rotary", "rotary_dim": 3}, "rotary_dim = 3.*must be even"),
        ({"positional_embedding_type": "rotary", "d_head": 5}, "rotary_dim = 5.*must be even"),
        ({"positional_embedding_type": "onehot", "n_ctx": 13}, "d_model = 12 and n_ctx = 13"),
        ({"positional_embedding_type": "sinusoidal", "d_model": 9}, "d_model = 9 must be even"),
        ({"relative_buckets": 4}, "relative_buckets = 4 contradicts positional_embedding_type = 'standard'"),
        (
            {"positional_embedding_type": "relative", "relative_buckets": 5},
            "relative_buckets = 5; allowed: a multiple of 2 with causal",
        ),
        (
            {"positional_embedding_type": "relative", "relative_buckets": 6, "attention_dir": "bidirectional"},
            "relative_buckets = 6; allowed: a multiple of 4 with bidirectional",
        ),
        (
            {"positional_embedding_type": "relative", "relative_buckets": 8, "relative_max_distance": 4},
            "relative_max_distance = 4; with relative_buckets = 8 the first 4 distances",
        ),
        ({"d_vocab_out": 0, "masked_token_head": True}, "d_vocab_out = 0 leaves no unembedding for masked_token_head"),
        ({"d_vocab_out": 0, "output_logits_soft_cap": 2.0}, "leaves no unembedding for output_logits_soft_cap = 2.0"),
        ({"first_ln1": False, "norm_position": "post"}, "first_ln1 = False leaves out a norm that there is not"),
        ({"first_ln1": False, "normalization_type": None}, "first_ln1 = False leaves out a norm that there is not"),
        ({"embed_norm": True, "normalization_type": None}, "embed_norm = True contradicts normalization_type = None"),
        ({"d_memory": 8, "parallel_attn_mlp": True}, "parallel_attn_mlp = True contradicts d_memory"),
        ({"positional_embedding_type": "sinusoidal_halves", "d_model": 9}, "d_model = 9 must be even"),
        ({"attn_implementation": "sdpa", "attn_scores_soft_cap": 5.0}, "drop attn_scores_soft_cap or say 'eager'"),
    ],
)
def test_a_contradiction_is_an_error_that_names_both_fields(fields: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        config(WITH_HEADS, **fields)


# ---------------------------------------------------------------------------------------------- copies and files


@given(configs())
def test_a_config_survives_json(fields: dict[str, Any]):
    cfg = TransformerConfig(**fields)
    assert TransformerConfig.from_json(cfg.to_json()) == cfg


@pytest.mark.parametrize("name", GRID)
def test_every_config_of_the_grid_survives_a_dictionary_of_json_values(name: str):
    cfg = run_of(name).cfg
    assert TransformerConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_the_dictionary_holds_every_field():
    assert set(TransformerConfig(**WITH_HEADS).to_dict()) == {f.name for f in dataclasses.fields(TransformerConfig)}


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_text_that_holds_no_config_is_a_config_error(text: str, as_installed: None):
    with pytest.raises(ConfigError):
        TransformerConfig.from_json(text)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))])
def test_a_copied_config_is_the_same(copied: Any):
    cfg = TransformerConfig(**WITH_HEADS, dtype=torch.bfloat16)
    assert copied(cfg) == cfg


def test_replacing_a_field_checks_the_new_config():
    with pytest.raises(ConfigError, match="n_layers = -1"):
        dataclasses.replace(TransformerConfig(**WITH_HEADS), n_layers=-1)


@given(configs())
def test_every_valid_config_makes_a_model_of_its_dtype(fields: dict[str, Any]):
    model = HookedTransformer(TransformerConfig(**fields), device="meta")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}


def test_the_smallest_description_of_a_model_is_enough():
    assert TransformerConfig(**SMALL).normalization_type == "LN"


def test_a_model_is_made_from_the_fields_of_a_config_as_well(plain: Run):
    fields = plain.cfg.to_dict()
    model = HookedTransformer(fields)
    assert model.cfg == plain.cfg
    model.load_state_dict(plain.model.state_dict())
    assert torch.equal(model(plain.tokens), plain.logits)


def test_what_is_no_config_is_an_error_that_says_what_is_one(as_installed: None):
    for bad in (5, None, "gpt2", [("n_layers", 1)], {1: 2}):
        with pytest.raises(
            ConfigError, match=r"a TransformerConfig, or a dictionary with its fields by name, not a \w+"
        ):
            HookedTransformer(bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="unknown config field 'n_layer'; did you mean 'n_layers'"):
        HookedTransformer({"n_layer": 1})
