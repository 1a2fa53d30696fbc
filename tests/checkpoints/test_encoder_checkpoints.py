"""Encoders: what transformers' own models compute, conversion in both directions, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_encoders import BERT, ENCODERS, PADDINGS, Encoded, in_double, make, run
from torch import Tensor

from interp import CheckpointError, HookedTransformer
from interp.checkpoints import from_hf, to_hf

ROWS_OF_PADDING = slice(2)
"""Rows of RoBERTa's table of positions that no token has; they are not read."""

KIND_WRITTEN = {"bert_next_sentence": "BertForSequenceClassification"}
SPELT = {"bert_next_sentence": ("cls.seq_relationship", "classifier")}
"""The class of what is written, and the name of its head, where they are not those of what was read."""


def differences(ours: HookedTransformer, theirs: Encoded) -> dict[str, float]:
    """Largest difference of everything that transformers shows, at real positions, relative to its scale."""
    with torch.no_grad():
        inputs: dict[str, Any] = {"attention_mask": theirs.mask, "token_types": theirs.types}
        _, cache = ours.run_with_cache(theirs.tokens, None, **inputs)
        mine = [("embed_ln.hook_normalized", cache["embed_ln.hook_normalized"])]
        mine += [(f"resid_post {i}", cache["resid_post", i]) for i in range(ours.cfg.n_layers)]
        if ours.cfg.norms_reads:  # there their last hidden state is normalised
            mine[-1] = ("ln_final", cache["ln_final.hook_normalized"])
        pairs = [(name, a[theirs.mask], b[theirs.mask]) for (name, a), b in zip(mine, theirs.hidden, strict=True)]
        for i, pattern in enumerate(theirs.patterns):
            real = theirs.mask[:, None, :, None].expand_as(pattern)
            pairs.append((f"pattern {i}", cache["pattern", i][real], pattern[real]))
        if theirs.logits is not None:
            pairs.append(("logits", ours(theirs.tokens, **inputs)[theirs.mask], theirs.logits[theirs.mask]))
        if theirs.classes is not None:
            pairs.append(("classes", ours(theirs.tokens, "classes", **inputs), theirs.classes))
        if theirs.pooled is not None and theirs.mask[:, 0].all():  # theirs is of position 0, even where that is padding
            pairs.append(("pooled", ours(theirs.tokens, "pooled", **inputs), theirs.pooled))
    return {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in pairs}


@pytest.mark.parametrize("variant", ENCODERS)
def test_float64_streams_patterns_and_logits_equal_transformers(variant: str):
    """To 1e-10, with padding on the left, on the right and none, and token types where there are some."""
    for padding in PADDINGS:
        with in_double(variant):
            theirs = run(make(variant), padding)
        ours = HookedTransformer.from_pretrained(hf_model=theirs.model)
        assert ours.cfg.dtype == torch.float64
        if theirs.classes is not None and padding == "left":
            theirs.classes = None  # theirs are of position 0, which is padding
        found = differences(ours, theirs)
        assert max(found.values()) < 1e-10, (padding, found)
        assert ours.cfg.has_unembed == (theirs.logits is not None)


@pytest.mark.parametrize("variant", ENCODERS)
def test_float32_streams_patterns_and_logits_equal_transformers(variant: str):
    theirs = run(make(variant), "right")
    found = differences(HookedTransformer.from_pretrained(hf_model=theirs.model), theirs)
    assert max(found.values()) < 1e-4, found


@pytest.mark.parametrize("variant", ENCODERS)
def test_a_round_trip_through_transformers_format_is_exact(variant: str, tmp_path: Path):
    model = make(variant)
    ours = HookedTransformer.from_pretrained(hf_model=model)
    ours.save_pretrained(tmp_path / "written", model.config.model_type)
    model.save_pretrained(tmp_path / "theirs")
    for folder in ("written", "theirs"):
        again = HookedTransformer.from_pretrained(tmp_path / folder)
        assert again.cfg == ours.cfg
        assert same_state(again.state_dict(), ours.state_dict())
    kind = getattr(transformers, KIND_WRITTEN.get(variant, type(model).__name__))
    loaded: Any = kind.from_pretrained(tmp_path / "written", output_loading_info=True, attn_implementation="eager")
    back, about = loaded
    assert not any(about.values()), about
    unread = ROWS_OF_PADDING if "roberta" in variant else slice(0)
    for name, tensor in model.state_dict().items():
        mine = back.state_dict()[name.replace(*SPELT.get(variant, ("", "")))]
        if name.endswith("position_embeddings.weight"):
            mine, tensor = mine.clone(), tensor.clone()
            mine[unread] = tensor[unread] = 0
        if name not in ("cls.predictions.bias", "lm_head.bias"):  # where nothing is tied, theirs is used nowhere
            assert torch.equal(mine, tensor), name


@pytest.mark.parametrize("variant", ["bert_pretraining", "roberta_masked", "distilbert", "modernbert_masked"])
def test_a_round_trip_through_this_packages_format_is_exact(variant: str, tmp_path: Path):
    ours = HookedTransformer.from_pretrained(hf_model=make(variant))
    ours.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained(tmp_path)
    assert again.cfg == ours.cfg
    assert same_state(again.state_dict(), ours.state_dict())


def test_every_weight_comes_from_the_checkpoint():
    """Only biases may be left as they are in a new model, which is zero."""
    for variant in ENCODERS:
        ours = HookedTransformer.from_pretrained(hf_model=make(variant))
        for name, parameter in ours.named_parameters():
            assert name.rsplit(".", 1)[1].startswith("b") or parameter.std() > 0.05, (variant, name)


# ---------------------------------------------------------------------------------------------- spellings


def test_the_names_of_the_first_release_and_stored_constants_are_read():
    model = make("bert_masked")
    ours = HookedTransformer.from_pretrained(hf_model=model)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("cls.predictions.decoder")  # tied: not in files
    }
    old["bert.embeddings.position_ids"] = torch.arange(32)[None]
    cfg, state = from_hf(model.config.to_dict(), old)
    assert cfg == ours.cfg
    assert same_state(state, ours.state_dict())


def test_an_untied_checkpoint_may_hold_the_bias_of_its_decoder_by_the_older_name_alone():
    model = make("bert_masked_untied_relu")
    state = dict(model.state_dict())
    used = state.pop("cls.predictions.decoder.bias")
    state["cls.predictions.bias"] = used
    _, ours = from_hf(model.config.to_dict(), state)
    assert torch.equal(ours["unembed.b_U"], used)


def test_two_biases_of_a_tied_decoder_that_differ_are_refused():
    model = make("bert_masked")
    state = dict(model.state_dict()) | {"cls.predictions.decoder.bias": torch.zeros(37)}
    with pytest.raises(
        CheckpointError, match=r"'cls\.predictions\.decoder\.bias' differs from 'cls\.predictions\.bias'"
    ):
        from_hf(model.config.to_dict(), state)


def test_modernberts_older_keys_mean_what_the_newer_ones_mean():
    model = make("modernbert")
    config = model.config.to_dict()
    new: Any = from_hf(config, model.state_dict())[0]
    older = {key: value for key, value in config.items() if key not in ("layer_types", "rope_parameters")}
    older |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    assert from_hf(older, model.state_dict())[0] == new
    assert new.window_size == (None, 3, 3, None)
    assert new.rotary_base == (160_000.0, 10_000.0, 10_000.0, 160_000.0)


# ---------------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "relative positions": ("bert", {"position_embedding_type": "relative_key"}, "_embedding_type = 'relative_k"),
    "a decoder": ("bert", {"is_decoder": True}, "is_decoder = True"),
    "cross-attention": ("bert", {"add_cross_attention": True}, "add_cross_attention = True"),
    "causal attention": ("bert", {"is_causal": True}, "is_causal = True is not supported; allowed: False"),
    "an activation": ("bert", {"hidden_act": "mish"}, "hidden_act = 'mish'"),
    "a misspelt key": ("bert", {"layer_norm_epss": 1e-3}, "'layer_norm_epss' is no key.*did you mean 'layer_norm_eps'"),
    "quantised": ("bert", {"quantization_config": {"quant_method": "bnb"}}, r"quantised \(bnb\)"),
    "RoBERTa's activation": ("roberta_masked", {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported beside"),
    "RoBERTa without padding": ("roberta", {"pad_token_id": None}, "pad_token_id = None: positions count from it"),
    "too few positions": ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings = 2: with pad_token_id"),
    "DistilBERT's activation": ("distilbert", {"activation": "mish"}, "activation = 'mish'"),
    "a missing key": ("distilbert", {"dim": None}, "dim = None; allowed: a positive integer"),
    "yarn": (
        "modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type = 'yarn' is not"
    ),
    "flat rope": ("modernbert", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters has 'rope_theta'"),
    "no local base": (
        "modernbert", {"local_rope_theta": None, "rope_parameters": None}, "local_rope_theta = None is not supported"
    ),
    "two activations": ("modernbert_masked", {"classifier_activation": "relu"}, "classifier_activation = 'relu' is"),
    "layer types": ("modernbert", {"layer_types": ["chunked_attention"] * 4}, "holds 'chunked_attention'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_option_of_an_encoder_that_we_do_not_compute_is_refused_by_name(what: str):
    variant, changes, message = REFUSED[what]
    model = make(variant)
    with pytest.raises(CheckpointError, match=f"^config: .*{message}"):
        from_hf(model.config.to_dict() | changes, model.state_dict())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("BertForTokenClassification", "'classifier.weight' is of a head on every token"),
        (
            "BertForQuestionAnswering",
            r"'qa_outputs\.\w+' is of a head that is not supported",
        ),
        ("DistilBertForSequenceClassification", r"'pre_classifier\.\w+' is of a head that is not supported"),
        ("ModernBertForTokenClassification", r"'classifier\.\w+' is of a head that is not supported.*base_model"),
    ],
)
def test_another_head_is_refused_by_its_tensor_and_class(kind: str, message: str):
    family = kind.split("For")[0]
    config = getattr(transformers, f"{family}Config")(**BERT, pad_token_id=0)
    with pytest.raises(CheckpointError, match=message):
        HookedTransformer.from_pretrained(hf_model=getattr(transformers, kind)(config))


def test_other_encoders_are_refused_and_the_supported_ones_named():
    for kind, word in (("Albert", "albert"), ("DebertaV2", "deberta-v2"), ("Electra", "electra")):
        sizes = BERT | {"embedding_size": 8} if kind != "DebertaV2" else BERT
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes))
        with pytest.raises(
            CheckpointError, match=f"model_type = '{word}' is not.*: bert, roberta, xlm-roberta, distilbert, mod"
        ):
            HookedTransformer.from_pretrained(hf_model=model)


def test_a_decoder_cannot_be_written_as_an_encoder_nor_an_encoder_as_one():
    encoder = HookedTransformer.from_pretrained(hf_model=make("bert_masked"))
    for family in ("gpt2", "llama", "modernbert", "distilbert"):
        with pytest.raises(CheckpointError, match=f"cannot be a {family}|no place for"):
            to_hf(encoder.cfg, encoder.state_dict(), family)
    classes = HookedTransformer.from_pretrained(hf_model=make("bert_classes"))
    with pytest.raises(CheckpointError, match="cannot be a distilbert: n_token_types = 2 would become 0"):
        to_hf(classes.cfg, classes.state_dict(), "distilbert")


# ---------------------------------------------------------------------------------------------- sentence-transformers

STEPS = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]


def sentence_folder(folder: Path, steps: Any = STEPS, **pooling: Any) -> Path:
    """A folder of sentence-transformers with a small BERT."""
    make("bert").save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    modes = {
        "word_embedding_dimension": 24,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    } | pooling
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
              for i, (kind, path) in enumerate(steps)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def test_pooling_and_normalisation_are_read_and_computed(tmp_path: Path):
    theirs = run(make("bert"), "right")
    last, mask = theirs.hidden[-1], theirs.mask
    means = torch.stack([row[real].mean(dim=0) for row, real in zip(last, mask, strict=True)])
    cls = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    for name, steps, modes, expected in (
        ("mean", STEPS, {}, torch.nn.functional.normalize(means, dim=-1)),
        ("plain", STEPS[:2], {}, means),
        ("cls", STEPS[:2], cls, last[:, 0]),
        ("later", STEPS[:2], {"pooling_mode_mean_tokens": None, "pooling_mode": "mean"}, means),
    ):
        ours = HookedTransformer.from_pretrained(sentence_folder(tmp_path / name, steps, **modes))
        with torch.no_grad():
            pooled = ours(theirs.tokens, "pooled", attention_mask=mask, token_types=theirs.types)
        torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)
        for model_type in ("bert", None):
            ours.save_pretrained(tmp_path / name / str(model_type), model_type)
            again = HookedTransformer.from_pretrained(tmp_path / name / str(model_type))
            assert again.cfg == ours.cfg
            assert same_state(again.state_dict(), ours.state_dict())


@pytest.mark.parametrize(
    ("steps", "pooling", "message"),
    [
        ([*STEPS[:2], ("Dense", "2_Dense")], {}, r"modules\.json: the steps Transformer, Pooling, Dense are"),
        (STEPS[:1], {}, "the steps Transformer are not supported"),
        ([("Transformer", "0_Transformer"), *STEPS[1:]], {}, "the model lies in '0_Transformer'"),
        (STEPS, {"pooling_mode_max_tokens": True}, "pooling_mode_mean_tokens with pooling_mode_max_tokens is not"),
        (STEPS, {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "pooling_mode_lasttoken is not"),
        (STEPS, {"pooling_mode_mean_tokens": False}, "no pooling is not supported; allowed: one of pooling_mode_mean"),
        (STEPS, {"include_prompt": False}, "include_prompt = False is not supported"),
    ],
)  # fmt: skip
def test_another_step_of_sentence_transformers_is_refused_by_name(
    steps: Any, pooling: dict[str, Any], message: str, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=message):
        HookedTransformer.from_pretrained(sentence_folder(tmp_path / "it", steps, **pooling))


def test_a_default_prompt_is_refused(tmp_path: Path):
    folder = sentence_folder(tmp_path / "it")
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="default_prompt_name = 'query' is not supported"):
        HookedTransformer.from_pretrained(folder)


def test_a_model_that_pools_otherwise_is_not_written_beside_the_steps_of_another(tmp_path: Path):
    folder = sentence_folder(tmp_path / "it")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"modules\.json is of another model"):
        HookedTransformer.from_pretrained(hf_model=make("bert")).save_pretrained(folder, "bert")
    assert (folder / "model.safetensors").read_bytes() == before


def same_state(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
