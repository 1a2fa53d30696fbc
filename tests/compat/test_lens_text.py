"""Text, generation and published models of the TransformerLens module."""

from typing import Any

import numpy as np
import pytest
import tiny_corpus
import torch
from grid import GRID, SEED, assert_close, build, config

import interp
from interp import ConfigError, weights
from interp.compat.transformer_lens import HookedTransformer, HookedTransformerConfig, loading

transformers = pytest.importorskip("transformers")
BACKEND = tiny_corpus.tokenizer().backend
TEXTS = ["the cat", "another dog saw it."]


def hf_tokenizer(**special: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=BACKEND, **{"eos_token": "<s>"} | special)


def lens(tokenizer: Any = None, side: str = "right", **changes: Any) -> HookedTransformer:
    core = build(config(GRID["learned_ln"], d_vocab=290, n_ctx=24, **changes), SEED)
    return HookedTransformer.over(core, tokenizer=hf_tokenizer() if tokenizer is None else tokenizer,
                                  default_padding_side=side)  # fmt: skip


def encoded(text: str) -> list[int]:
    return BACKEND.encode(text, add_special_tokens=False).ids


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize("tokenizer", [hf_tokenizer(), tiny_corpus.tokenizer()], ids=["transformers", "interp"])
def test_text_becomes_tokens_with_the_first_token_and_padding_on_a_side(tokenizer: Any):
    model, bos = lens(tokenizer), BACKEND.token_to_id("<s>")
    pad = model.core.tokenizer.pad_id  # pyright: ignore[reportOptionalMemberAccess]
    first, second = (encoded(text) for text in TEXTS)
    assert model.to_tokens(TEXTS[0]).tolist() == [[bos, *first]]
    assert model.to_tokens(TEXTS[0], prepend_bos=False).tolist() == [first]
    model.cfg.default_prepend_bos = False
    assert model.to_tokens(TEXTS[0]).tolist() == [first]
    n = len(second) - len(first)
    assert model.to_tokens(TEXTS).tolist() == [[*first, *[pad] * n], second]
    assert model.to_tokens(TEXTS, padding_side="left").tolist() == [[*[pad] * n, *first], second]
    long = "the cat " * 20
    assert model.to_tokens(long).shape == (1, model.cfg.n_ctx)
    assert model.to_tokens(long, truncate=False).shape[1] == len(encoded(long))


def test_the_tokenizer_is_transformers_own_and_its_side_is_honoured():
    given = hf_tokenizer()
    model = lens(given, "left")
    assert model.tokenizer is not given and model.tokenizer.padding_side == "left" and given.pad_token is None
    assert model.tokenizer.pad_token == model.tokenizer.bos_token == "<s>"
    left = model.to_tokens(TEXTS)
    assert left[0, 0] == left[0, 1] == model.tokenizer.bos_token_id
    model.tokenizer.padding_side = "right"
    assert model.to_tokens(TEXTS)[0, -1] == model.tokenizer.pad_token_id
    assert model.core.tokenizer is not None and model.core(TEXTS[0]).shape == (1, len(encoded(TEXTS[0])), 290)


def test_what_is_changed_in_a_models_tokenizer_counts_from_then_on():
    model = lens()
    first, second = (encoded(text) for text in TEXTS)
    bos, pad, n = BACKEND.token_to_id("<s>"), encoded("dog")[0], len(second) - len(first)
    model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(pad)
    assert model.to_tokens(TEXTS).tolist() == [[bos, *first, *[pad] * n], [bos, *second]]
    left = model(TEXTS, padding_side="left")
    assert_close(left[0, -1], model(TEXTS[0])[0, -1])
    model.tokenizer.add_tokens(["the cat"])
    assert model.to_tokens("the cat").tolist() == [[bos, len(model.tokenizer) - 1]]
    model.tokenizer = hf_tokenizer(pad_token="<s>")
    assert model.to_tokens(TEXTS, prepend_bos=False).tolist() == [[*first, *[bos] * n], second]
    assert model.core.to_tokens(TEXTS[0]).tolist() == [first]
    model.tokenizer = None
    with pytest.raises(AssertionError, match="without a tokenizer"):
        model.to_tokens(TEXTS[0])


def test_a_vocabulary_with_gaps_has_a_row_for_every_id():
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 7}, unk_token="<s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<s>")
    fields = {"n_layers": 1, "d_model": 4, "n_ctx": 4, "d_head": 4, "act_fn": "gelu"}
    model = HookedTransformer(fields, tokenizer)
    assert model.cfg.d_vocab == model.cfg.d_vocab_out == 8 and model("b").shape == (1, 2, 8)


def test_padding_on_the_left_gives_each_text_its_own_logits():
    model = lens(side="left")
    for texts in (TEXTS, model.to_tokens(TEXTS)):
        logits = model(texts)
        for row, text in zip(logits, TEXTS, strict=True):
            assert_close(row[-1], model(text)[0, -1])
    right = model(TEXTS, padding_side="right")
    assert_close(right[0, len(encoded(TEXTS[0]))], model(TEXTS[0])[0, -1])
    wanted = [model(text, "loss", loss_per_token=True)[0] for text in TEXTS]
    assert_close(model(TEXTS, "loss"), torch.cat(wanted).mean())


def test_tokens_become_text_in_every_form_that_is_given():
    model = lens()
    ids, bos = encoded(TEXTS[0]), "<s>"
    for form in (ids, torch.tensor(ids), np.array(ids)):
        assert model.to_string(form) == TEXTS[0]
    assert model.to_string([ids, ids]) == model.to_string(torch.tensor([ids, ids])) == [TEXTS[0]] * 2
    assert model.to_string(torch.tensor(ids[0])) == model.to_single_str_token(ids[0])
    words = model.to_str_tokens(TEXTS[0])
    assert words[0] == bos and "".join(words[1:]) == TEXTS[0]
    assert model.to_str_tokens(TEXTS[0], prepend_bos=False) == words[1:]
    assert model.to_str_tokens(TEXTS) == [model.to_str_tokens(text) for text in TEXTS]
    for form in (torch.tensor(ids), torch.tensor([ids]), np.array(ids)):
        assert model.to_str_tokens(form) == words[1:]
    with pytest.raises(ValueError, match="shape"):
        model.to_string(torch.zeros(1, 1, 1).long())
    with pytest.raises(AssertionError, match="shape"):
        model.to_str_tokens(torch.zeros(2, 2).long())


def test_single_tokens_and_their_places():
    model = lens()
    token = encoded(" cat")[0]
    assert model.to_single_token(" cat") == token and model.to_single_str_token(token) == " cat"
    text = "a cat on a cat"
    places = [i for i, one in enumerate(model.to_tokens(text)[0].tolist()) if one == token]
    assert [model.get_token_position(" cat", text, mode) for mode in ("first", "last")] == places
    assert model.get_token_position(token, model.to_tokens(text)) == places[0]
    assert model.get_token_position(" cat", text, prepend_bos=False) == places[0] - 1
    with pytest.raises(AssertionError, match="does not occur"):
        model.get_token_position(" dog", text)
    with pytest.raises(AssertionError, match="not a single token"):
        model.to_single_token(" cat dog")
    tokens = torch.tensor([[token, 4], [5, 6]])
    assert_close(model.tokens_to_residual_directions(tokens)[0, 1], model.W_U[:, 4])
    for one in (" cat", token, torch.tensor(token), torch.tensor([token])):
        assert_close(model.tokens_to_residual_directions(one), model.W_U[:, token])


def test_without_a_tokenizer_text_is_refused_and_ids_are_not():
    model = HookedTransformer.over(build(config(GRID["learned_ln"]), SEED))
    assert model.tokenizer is None and model(torch.tensor([1, 2])).shape[1] == 2
    for call in (lambda: model.to_tokens("a"), lambda: model.to_string([1]), lambda: model("a")):
        with pytest.raises(AssertionError, match="tokenizer"):
            call()
    cfg = HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=4, d_head=4, attn_only=True)
    made = HookedTransformer(cfg, hf_tokenizer())
    assert made.cfg.d_vocab == made.cfg.d_vocab_out == 290 and made.to_single_token(" cat") == encoded(" cat")[0]


# ---------------------------------------------------------------------- generation


def test_generation_draws_tokens_by_default_and_goes_on_from_them():
    model = lens()
    prompt = model.to_tokens(TEXTS[0])
    torch.manual_seed(0)
    got = model.generate(prompt, max_new_tokens=4, stop_at_eos=False, temperature=0.7, verbose=False)
    torch.manual_seed(0)
    want = prompt
    for _ in range(4):
        probabilities = (model(want)[:, -1].float() / 0.7).softmax(-1)
        want = torch.cat([want, torch.multinomial(probabilities, 1)], dim=1)
    assert torch.equal(got, want)
    torch.manual_seed(0)
    again = model.generate(
        prompt, max_new_tokens=4, stop_at_eos=False, temperature=0.7, use_past_kv_cache=False, verbose=False
    )
    assert torch.equal(again, got)
    greedy = model.generate(prompt, max_new_tokens=2, do_sample=False, stop_at_eos=False, verbose=False)
    assert greedy[0, -1] == model(greedy[:, :-1])[0, -1].argmax()
    spread = model.generate(prompt.repeat(99, 1), max_new_tokens=1, top_k=2, stop_at_eos=False, verbose=False)[:, -1]
    assert set(spread.tolist()) == set(model(prompt)[0, -1].topk(2).indices.tolist())


def test_generation_answers_text_with_text_and_ids_with_ids():
    model = lens(side="left")
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "verbose": False, "stop_at_eos": False}
    text = model.generate(TEXTS[0], **options)
    ids = model.generate(TEXTS[0], return_type="tokens", **options)
    assert text.startswith(TEXTS[0]) and ids.shape == (1, len(encoded(TEXTS[0])) + 4)
    assert model.generate(model.to_tokens(TEXTS[0]), return_type="str", **options) == text
    several = model.generate(TEXTS, **options)
    assert [one.startswith(text) for one, text in zip(several, TEXTS, strict=True)] == [True, True]
    with pytest.raises(ConfigError, match="return_type"):
        model.generate(TEXTS[0], return_type="embeds", **options)


def test_generation_attends_to_padding_as_theirs_does():
    model = lens(side="left")
    rows = model.to_tokens(["a b c d e f", "a"])
    assert (rows[1] == model.tokenizer.pad_token_id).any()
    for caching in (True, False):
        options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "use_past_kv_cache": caching}
        got = model.generate(rows, **options, stop_at_eos=False, verbose=False)
        want = rows
        for _ in range(3):
            want = torch.cat([want, model.core(want)[:, -1:].argmax(-1)], dim=1)  # ids alone are no padding to the core
        assert torch.equal(got, want)


def test_a_sequence_that_ended_goes_on_with_its_end():
    model = lens()
    prompt = model.to_tokens(TEXTS[0]).repeat(2, 1)
    prompt[1, -1] = 7
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "verbose": False}
    free = model.generate(prompt, stop_at_eos=False, **options)
    stop = int(free[0, prompt.shape[1]])
    ended = model.generate(prompt, eos_token_id=stop, **options)
    assert set(ended[0, prompt.shape[1] :].tolist()) == {stop}
    assert torch.equal(model.generate(prompt[:1], eos_token_id=stop, **options)[0], ended[0, : prompt.shape[1] + 1])


# ---------------------------------------------------------------------- published models


def published(family: str = "gpt2") -> Any:
    torch.manual_seed(SEED)
    if family == "gpt2":
        cfg = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=24, vocab_size=290)
        return transformers.GPT2LMHeadModel(cfg).eval()
    cfg = transformers.LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=16,
                                   intermediate_size=24, max_position_embeddings=24, vocab_size=290)  # fmt: skip
    return transformers.LlamaForCausalLM(cfg).eval()


def test_weights_are_processed_by_default_and_not_where_they_are_not_to_be():
    hf_model, tokens = published(), torch.tensor([[1, 5, 9, 200]])
    logits = hf_model(tokens).logits.detach()
    model = HookedTransformer.from_pretrained("gpt2", hf_model=hf_model, tokenizer=hf_tokenizer(), device="cpu")
    assert_close(model(tokens), logits - logits.mean(-1, keepdim=True))
    assert model.cfg.normalization_type == "LNPre" and not model.W_U.mean(-1).abs().max() > 1e-6
    assert not model.b_V.any() and model.cfg.model_name == "gpt2" and model.tokenizer.bos_token == "<s>"
    plain = HookedTransformer.from_pretrained_no_processing("gpt2", hf_model=hf_model, tokenizer=hf_tokenizer())
    assert_close(plain(tokens), logits)
    assert torch.equal(plain.W_E, hf_model.transformer.wte.weight) and plain.cfg.normalization_type == "LN"
    assert plain.unembed.W_U.data_ptr() != plain.W_E.data_ptr() and "unembed.W_U" in plain.state_dict()
    assert_close(weights.center_unembed(plain.core)(tokens), model(tokens))
    half = HookedTransformer.from_pretrained(
        "gpt2", hf_model=hf_model, tokenizer=hf_tokenizer(), dtype="float16", default_prepend_bos=False
    )
    assert half.W_E.dtype is half.cfg.dtype is torch.float16 and not half.cfg.default_prepend_bos


def test_a_grouped_model_leaves_out_what_it_does_not_allow():
    hf_model, tokens = published("llama"), torch.tensor([[1, 5, 9, 200]])
    with pytest.warns(UserWarning, match="center_writing_weights"):
        model = HookedTransformer.from_pretrained("llama", hf_model=hf_model, tokenizer=hf_tokenizer())
    logits = hf_model(tokens).logits.detach()
    assert_close(model(tokens), logits - logits.mean(-1, keepdim=True))
    assert model.cfg.normalization_type == "RMSPre" and model.cfg.n_key_value_heads == 2


def test_a_folder_is_a_name_and_brings_its_tokenizer(tmp_path: Any):
    hf_model = published()
    hf_model.save_pretrained(tmp_path)
    hf_tokenizer(bos_token="<s>").save_pretrained(tmp_path)
    model = HookedTransformer.from_pretrained(str(tmp_path), center_unembed=False)
    assert model.tokenizer.name_or_path == str(tmp_path)
    tokens = model.to_tokens(TEXTS[0])
    assert_close(model(TEXTS[0]), hf_model(tokens).logits.detach())


def test_the_hub_is_asked_once_for_a_tokenizer_that_is_not_here_and_its_silence_is_one_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    cached, asked = {"owner/kept": str(tmp_path)}, []

    def snapshot(name: str, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            asked.append(name)
        if name not in cached:
            raise OSError("no network")
        return cached[name]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    options: dict[str, Any] = {"n_layers": 1, "d_model": 8, "n_ctx": 8, "d_head": 4, "act_fn": "relu"}
    for name, n_asked in (("owner/other", 1), (str(tmp_path), 0)):
        cfg = HookedTransformerConfig(**options, d_vocab=290, tokenizer_name=name)
        with pytest.raises(ConfigError, match=r"no tokenizer .*pass tokenizer="):
            HookedTransformer(cfg)
        assert len(asked) == n_asked
        asked.clear()
        assert HookedTransformer(cfg, tokenizer=hf_tokenizer()).tokenizer is not None
    hf_tokenizer().save_pretrained(tmp_path)
    for name in (str(tmp_path), "owner/kept"):
        made = HookedTransformer(HookedTransformerConfig(**options, tokenizer_name=name))
        assert made.cfg.d_vocab == len(made.tokenizer) >= len(hf_tokenizer())
    assert asked == []


def test_a_vector_that_is_scaled_on_its_way_in_is_stored_scaled(monkeypatch: pytest.MonkeyPatch):
    core = build(config(GRID["no_positions_tied_scaled"], embed_scale=3.0), SEED)
    tokens, table = torch.tensor([[1, 2, 3]]), core.W_E.detach().clone()
    want = core(tokens)
    monkeypatch.setattr(interp.HookedTransformer, "from_pretrained", lambda *given, **options: core)
    loaded = loading.load_core("any", None)
    assert_close(loaded(tokens), want)
    assert torch.equal(loaded.W_E, table * 3) and torch.equal(loaded.W_U, table.T)
    assert loaded.cfg.embed_scale == 1 and not loaded.cfg.tie_word_embeddings and loaded.blocks[0].cfg is loaded.cfg


def test_short_names_stand_for_repositories_and_other_options_are_refused():
    names = {"gpt2-small": "gpt2", "pythia-70m": "EleutherAI/pythia-70m", "gemma-2b": "google/gemma-2b", "a/b": "a/b"}
    assert {name: loading.get_official_model_name(name) for name in names} == names
    options: list[dict[str, Any]] = [
        {"first_n_layers": 1}, {"checkpoint_index": 1}, {"n_devices": 2}, {"load_in_8bit": True}, {"fold_lm": False}
    ]  # fmt: skip
    for option in options:
        with pytest.raises(ConfigError, match=next(iter(option))):
            HookedTransformer.from_pretrained("gpt2", hf_model=published(), **option)
    with pytest.raises(interp.CheckpointError):
        HookedTransformer.from_pretrained("./nowhere")
