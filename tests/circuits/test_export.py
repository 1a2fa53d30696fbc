"""Compiled circuits as files: plain checkpoints, and transformers' GPT-2."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_circuits import induction

from circuits import Circuit, copy, match, shift
from circuits.export import compile_as_gpt2, save_as_gpt2
from circuits.gallery import entry
from interp import ConfigError, HookedTransformer
from interp.checkpoints import to_hf


def test_a_saved_circuit_loads_as_a_plain_checkpoint_with_its_words(tmp_path: Path):
    model = induction().compile(rotate=1, d_model=30)
    model.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert type(loaded) is HookedTransformer
    assert loaded.cfg == model.cfg
    assert loaded.to_str_tokens("!abacb") == list("!abacb")
    assert torch.equal(loaded("!abacb"), model("!abacb"))


@pytest.mark.parametrize("rotate", [None, 3])
@torch.no_grad()
def test_a_circuit_with_layer_norm_becomes_a_transformers_gpt2_with_the_same_logits(tmp_path: Path, rotate: int | None):
    c = induction()
    save_as_gpt2(c, tmp_path, rotate=rotate)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    tokens = c.vocabulary.to_tokens(["!abacb", "!ccccc", "!cabca"])
    ours = c.compile()(tokens)
    assert float((theirs(tokens).logits - ours).abs().max()) < 2e-5  # the ballast leaves 8e-6
    assert float((theirs(tokens).logits - compile_as_gpt2(c, rotate=rotate)(tokens)).abs().max()) < 2e-5


@torch.no_grad()
def test_a_circuit_with_neurons_survives_as_gpt2(tmp_path: Path):
    c = entry("dyck1").build()
    save_as_gpt2(c, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    text = "!()((())"
    top = theirs(c.vocabulary.to_tokens(text)).logits[0].argmax(-1)
    assert c.vocabulary.to_str_tokens(top) == entry("dyck1").reference(text)


def test_an_exported_circuit_comes_back_as_ours(tmp_path: Path):
    model = compile_as_gpt2(induction(), rotate=0)
    save_as_gpt2(induction(), tmp_path, rotate=0)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    tokens = model.to_tokens("!abacb")
    assert torch.equal(loaded(tokens), model(tokens))


def test_the_heads_of_an_exported_circuit_fill_its_stream():
    cfg = compile_as_gpt2(induction()).cfg
    assert cfg.n_heads * cfg.d_head == cfg.d_model
    model = compile_as_gpt2(induction())
    config, _ = to_hf(model.cfg, model.state_dict(), "gpt2")
    assert config["architectures"] == ["GPT2LMHeadModel"]


def test_an_exported_circuit_names_no_token_that_it_does_not_have(tmp_path: Path):
    save_as_gpt2(induction(), tmp_path)
    config = transformers.GPT2Config.from_pretrained(tmp_path)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)


@torch.no_grad()
def test_transformers_masks_a_start_that_it_is_told_to_pad_with_unless_it_is_given_the_mask(tmp_path: Path):
    c = Circuit("!abc", 7, bos="!")
    nothing = c.readout("nothing", ["there"])
    c.mlp("unseen", c.tok, nothing, {"c": "there"})
    c.head("ask", qk=match(c.tok, c.tok, {"b": "a"}), ov=copy(c.tok, c.out))
    c.direct(0.25 * copy(c.tok, c.out, dict.fromkeys("abc", "c")))  # what is said where nothing was found
    save_as_gpt2(c, tmp_path)
    theirs: Any = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    ids = c.tokens("!cb")

    def next_word(**options: Any) -> str:
        made = theirs.generate(ids, max_new_tokens=1, do_sample=False, **options)
        return c.vocabulary.to_str_tokens(made[0])[-1]

    assert c.compile().predict("!cb")[-1] == next_word() == "c"
    assert next_word(pad_token_id=0, attention_mask=torch.ones_like(ids)) == "c"
    masked = theirs(ids, attention_mask=ids.ne(0).long()).logits[0, -1]
    assert float((masked - theirs(ids).logits[0, -1]).abs().max()) > 0.1


@pytest.mark.parametrize("fields", [{"tied": True}, {"bos": None}, {"n_ctx": 1}])
@torch.no_grad()
def test_circuits_of_every_shape_can_be_exported(tmp_path: Path, fields: dict[str, Any]):
    c = Circuit(**{"vocab": "!ab", "n_ctx": 5, "bos": "!"} | fields)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
    save_as_gpt2(c, tmp_path)
    tokens = c.vocabulary.to_tokens("!abab"[: c.n_ctx])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)(tokens).logits
    assert float((theirs - c.compile()(tokens)).abs().max()) < 2e-5


def test_a_place_that_cannot_be_written_is_an_os_error_that_names_it(tmp_path: Path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError, match="cannot write"):
        save_as_gpt2(induction(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"


def test_what_gpt2_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"norm = 'RMS': GPT-2 fixes norm, attn_only, n_heads, d_model"):
        compile_as_gpt2(induction(), norm="RMS")
    reads_vectors = Circuit("!ab", 4, bos="!")
    reads_vectors.number(reads_vectors.out["a"], reads_vectors.vectors("x", 1))
    with pytest.raises(ConfigError, match="GPT-2 reads words, the circuit reads vectors x"):
        compile_as_gpt2(reads_vectors)
    with pytest.raises(ConfigError, match="GPT-2 has learned positions"):
        compile_as_gpt2(induction(), positions="rotary")
    both = Circuit("!ab", 4, bos="!", attention_dir="bidirectional")
    both.head(0, "here", qk=match(both.pos, both.pos), ov=copy(both.tok, both.out))
    with pytest.raises(ConfigError, match="the circuit's attention is bidirectional"):
        compile_as_gpt2(both)
