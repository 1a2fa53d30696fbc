"""The logit lens, and direct logit attribution, against loops, the forward algebra, and interventions."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from grid import (
    SEED,
    SMALL,
    Run,
    assert_close,
    build,
    config,
    has_mid,
    random_tensor,
    reference_norm,
    run_of,
    runs,
    splits_logits,
    where,
)
from hypothesis import given, settings
from torch import Tensor
from two_stacks import build_pair, random_prompts

from interp import (
    CacheError,
    ConfigError,
    HookedTransformer,
    HookNotFoundError,
    HookPoint,
    ShapeError,
    TokenError,
    TransformerConfig,
    Vocabulary,
)
from interp.lens import attribution_table, direct_attribution, key_effects, logit_lens, value_norms
from interp.lens.attribution import By

WORDS = "abcdefghijk"


def worded(**changes: Any) -> HookedTransformer:
    """A random model that reads the eleven words."""
    return build(config(SMALL, **changes), SEED, Vocabulary(WORDS))


def read_out(model: HookedTransformer, stream: Tensor) -> Tensor:
    """Logits as if the model ended at this stream."""
    logits = model.after_norm(reference_norm(model.ln_final, stream)) @ model.W_U + model.b_U
    cap = model.cfg.output_logits_soft_cap
    return (logits if cap is None else cap * torch.tanh(logits / cap)).detach()


# ---------------------------------------------------------------------------------------------- logit lens


def test_every_layer_is_read_through_the_final_norm_with_statistics_of_its_own(run: Run):
    mid = has_mid(run.cfg)
    found = logit_lens(run.model, run.tokens, top_k=0, answers=list(range(11)), incl_mid=mid)
    streams = {f"{layer}_pre": run.cache["resid_pre", layer] for layer in range(3)}
    streams |= {f"{layer}_mid": run.cache["resid_mid", layer] for layer in range(3)} if mid else {}
    streams["final_post"] = run.cache["resid_post", -1]
    assert set(found.layer.values) == set(streams)
    for label, stream in streams.items():
        assert_close(torch.tensor(found.logit.sel(layer=label).values), read_out(run.model, stream))
    assert_close(torch.tensor(found.logit.sel(layer="final_post").values), run.logits)


def test_probabilities_ranks_and_divergences_are_those_of_the_logits(run: Run):
    found = logit_lens(run.model, run.tokens, top_k=11, answers=[4, 0, 7])
    final = run.logits.softmax(-1)
    for row, layer in enumerate([run.cache["resid_pre", 0], run.cache["resid_pre", 1]]):
        logits = read_out(run.model, layer)
        probs = logits.softmax(-1)
        here = found.isel(layer=row)
        assert_close(torch.tensor(here.prob.values), probs[..., [4, 0, 7]])
        order = logits.sort(dim=-1, descending=True)
        assert_close(torch.tensor(here.top_logit.values), order.values)
        assert_close(torch.tensor(here.top_prob.values), probs.sort(dim=-1, descending=True).values)
        place_of = order.indices.argsort(dim=-1)
        assert np.array_equal(here["rank"], place_of[..., [4, 0, 7]])
        assert np.array_equal(here.top_id, order.indices)
        assert_close(torch.tensor(here.kl.values), (final * (final / probs).log()).sum(-1))
    assert (found.kl.sel(layer="final_post") < 1e-14).all()  # other products of matrices round otherwise


def test_a_cache_is_read_as_its_run_was(run: Run):
    got, want = (logit_lens(source, run.tokens, top_k=3, answers=1) for source in (run.cache, run.model))
    for name in ("kl", "top_id", "top_prob", "logit"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-10)
    assert np.array_equal(got.token, want.token)


def test_the_size_of_the_blocks_changes_nothing_and_bounds_the_logits(plain: Run):
    want = logit_lens(plain.model, plain.tokens, top_k=2, answers=[5])
    seen: list[int] = []
    handle = plain.model.unembed.register_forward_hook(lambda module, args, out: seen.append(out.numel()))
    for places in (1, 2, 5, 50):
        seen.clear()
        got = logit_lens(plain.model, plain.tokens, top_k=2, answers=[5], max_bytes=places * 11 * 8)
        assert max(seen) <= places * 11
        for name in ("kl", "top_prob", "logit", "rank"):
            np.testing.assert_allclose(got[name], want[name], atol=1e-12)
    handle.remove()


def test_one_text_has_no_batch_axis_and_one_position_no_position_axis():
    model = worded()
    assert logit_lens(model, "abca").kl.dims == ("layer", "pos")
    assert logit_lens(model, torch.tensor([0, 1, 2])).kl.dims == ("layer", "pos")
    assert logit_lens(model, ["abca"]).kl.dims == ("layer", "prompt", "pos")
    last = logit_lens(model, "abcd", pos=-1)
    assert last.kl.dims == ("layer",)
    assert (int(last.pos), str(last.token.values)) == (3, "d")
    some = logit_lens(model, ["abcd", "efgh"], pos=[0, 2])
    assert some.token.values.tolist() == [["a", "c"], ["e", "g"]]
    assert some.pos.values.tolist() == [0, 2]


def test_tokens_are_named_by_their_strings():
    model = worded()
    found = logit_lens(model, "abcab", answers=["d", 2])
    assert found.answer.values.tolist() == ["d", "c"]
    assert found.answer_id.values.tolist() == [3, 2]
    assert found.token.dims == ("pos",)
    assert "".join(found.token.values) == "abcab"
    logits = model(model.to_tokens("abcab"))[0].detach()
    assert found.top_token.sel(layer="final_post", top=0).values.tolist() == [WORDS[i] for i in logits.argmax(-1)]
    assert logit_lens(build(config(SMALL), SEED), torch.tensor([3, 1])).token.values.tolist() == ["3", "1"]


def test_a_row_that_only_fills_up_the_embedding_is_named_by_its_number():
    model = build(config(SMALL), SEED, Vocabulary(WORDS[:4]))
    assert set(logit_lens(model, "abc", top_k=11).top_token.values.flatten()) == {
        *"abcd",
        *(f"<{i}>" for i in range(4, 11)),
    }


def test_padding_is_marked_and_changes_nothing_for_the_tokens(plain: Run):
    real = torch.ones(3, 7, dtype=torch.bool)
    real[1, :4] = False
    padded = logit_lens(plain.model, plain.tokens, answers=[2], attention_mask=real)
    alone = logit_lens(plain.model, plain.tokens[1, 4:], answers=[2])
    assert np.array_equal(padded.is_token, real)
    np.testing.assert_allclose(padded.logit.sel(prompt=1)[:, 4:], alone.logit, atol=1e-10)


def test_the_lens_reads_a_model_without_blocks():
    for changes in ({}, {"embed_norm": True}, {"embed_norm": True, "norm_position": "post", "masked_token_head": True}):
        model = worded(n_layers=0, **changes)
        assert_close(
            torch.tensor(logit_lens(model, "abc", answers=list(range(11))).logit[0].values),
            model(model.to_tokens("abc"))[0].detach(),
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"top_k": 12}, ConfigError, "top_k = 12; allowed: 0 to 11"),
        ({"top_k": 2.5}, ConfigError, "top_k = 2.5; allowed: 0 to 11"),
        ({"answers": [11]}, TokenError, "allowed: 0 to 10"),
        ({"answers": ["ab"]}, TokenError, "2 tokens"),
        ({"answers": [2.5]}, TokenError, "answers 2.5 is neither a token id nor a text"),
        ({"pos": 4}, ShapeError, "pos = 4"),
        ({"prompt": None}, ConfigError, "needs a prompt"),
        ({"prompt": "abz"}, TokenError, "unknown word 'z'"),
    ],
    ids=str,
)
def test_a_lens_that_cannot_be_applied_is_an_error(
    options: dict[str, Any], error: type[Exception], message: str, as_installed: None
):
    defaults: dict[str, Any] = {"prompt": "abcd"}
    with pytest.raises(error, match=message):
        logit_lens(worded(), **defaults | options)


@where(lambda cfg: not has_mid(cfg))
def test_there_is_no_middle_to_read_where_blocks_have_none(run: Run):
    for source in (run.model, run.cache):
        with pytest.raises(ConfigError, match="no resid_mid"):
            logit_lens(source, run.tokens, incl_mid=True)


def test_a_cache_that_lacks_a_layer_or_is_of_other_weights_or_tokens_is_an_error():
    model = worded()
    _, cache = model.run_with_cache("abca", names_filter=[("resid_pre", 0), ("resid_post", 2)])
    with pytest.raises(HookNotFoundError, match=r"blocks\.1\.hook_resid_pre"):
        logit_lens(cache)
    with pytest.raises(ShapeError, match="the cache holds 1 of 4"):
        logit_lens(cache, "abc")
    with pytest.raises(ConfigError, match="run behind a cache"):
        logit_lens(cache, attention_mask=torch.ones(1, 4))
    with torch.no_grad():
        model.unembed.b_U.add_(1)
    with pytest.raises(CacheError, match="weights changed"):
        logit_lens(cache)


def test_edits_of_the_stream_are_seen_and_edits_of_the_final_norm_refused(plain: Run):
    def double(act: Tensor, hook: HookPoint) -> Tensor:
        return act * 2

    with plain.model.hooks([(("attn_out", 1), double)]):
        edited, logits = logit_lens(plain.model, plain.tokens, answers=[3]), plain.model(plain.tokens)
    assert_close(torch.tensor(edited.logit[-1, ..., 0].values), logits[..., 3].detach())
    with plain.model.hooks([("ln_final.hook_normalized", double)]):
        cache = plain.model.run_with_cache(plain.tokens)[1]
        for source in (plain.model, cache):
            with pytest.raises(CacheError, match="hooks edited the final norm"):
                logit_lens(source, plain.tokens)


def test_edits_of_a_masked_token_head_are_refused_too():
    run = run_of("bert_like")
    with run.model.hooks([("mlm_head.hook_post", lambda act, hook: act.square())]):
        cache = run.model.run_with_cache(run.tokens)[1]
        for source in (run.model, cache):
            with pytest.raises(CacheError, match="hooks edited the final norm or what follows it"):
                logit_lens(source, run.tokens)


def test_the_lens_reads_everything_that_a_run_reads():
    model, tokens = run_of("bert_like").model, run_of("bert_like").tokens
    prompts = model.masked_tokens(tokens, token_types=tokens % 2)
    found = logit_lens(model, prompts, top_k=0, answers=[3])
    assert_close(torch.tensor(found.logit[-1, ..., 0].values), model(prompts)[..., 3].detach())
    assert (torch.tensor(found.logit[0, ..., 0].values) != model(tokens)[..., 3]).any()


@pytest.mark.parametrize("name", ["t5_like", "bart_like", "causal_encoder_attn_only"])
def test_a_decoder_is_read_before_its_cross_attention_too(name: str):
    pair = build_pair(name)
    read = random_prompts(pair, SEED, "both")
    prompts = pair.decoder.masked_tokens(read.target, memory=pair.encode(read.source))
    _, cache = pair.decoder.run_with_cache(prompts)
    found = logit_lens(pair.decoder, prompts, top_k=0, answers=[3], incl_mid=True, progress=False)
    assert found.equals(logit_lens(cache, prompts, top_k=0, answers=[3], incl_mid=True, progress=False))
    for block, part in itertools.product(range(2), ["pre", "cross", "mid"]):
        if part == "mid" and not has_mid(pair.decoder.cfg):
            assert f"{block}_mid" not in found.layer
            continue
        stream = cache[f"blocks.{block}.hook_resid_{part}"]
        assert_close(torch.tensor(found.logit.sel(layer=f"{block}_{part}").values[..., 0]),
                     read_out(pair.decoder, stream)[..., 3])  # fmt: skip


def test_a_model_without_blocks_has_no_middle_and_is_read_as_without_it():
    model = worded(n_layers=0)
    assert logit_lens(model, "abc", incl_mid=True).equals(logit_lens(model, "abc"))


def test_the_lens_reads_a_compiled_model_and_refuses_one_of_two_stacks(as_installed: None):
    model = worded()
    compiled: Any = torch.compile(model, backend="eager")
    assert logit_lens(compiled, "abca", answers=[3]).equals(logit_lens(model, "abca", answers=[3]))
    pair: Any = build_pair("bart_like")
    with pytest.raises(ConfigError, match="the logit lens is defined for one stack"):
        logit_lens(pair, [[1, 2]])


def test_a_model_without_logits_has_no_lens():
    with pytest.raises(ConfigError, match="no unembedding"):
        logit_lens(build(config(SMALL, d_vocab_out=0), SEED), torch.tensor([1, 2]))


# ---------------------------------------------------------------------------------------------- direct attribution


def splits(cfg: TransformerConfig) -> list[By]:
    if cfg.masked_token_head:
        return ["mlm_neuron"]
    return ["component", "head", "position", *([] if cfg.attn_only else ["neuron"])]


def uncapped_logits(run: Run) -> Tensor:
    final = run.cache["resid_post", -1]
    read = run.model.after_norm(reference_norm(run.model.ln_final, final))
    return (read @ run.model.W_U + run.model.b_U).detach()


def total(result: Any) -> Tensor:
    """All rows of a result together."""
    over = [axis for axis in result.attribution.dims if axis not in ("prompt", "pos")]
    summed = result.attribution.sum(over)
    return torch.tensor((summed + result.rest.sum("component") if "rest" in result else summed).values)


def test_every_split_sums_to_the_logit_and_to_the_difference(run: Run):
    logits = uncapped_logits(run)
    for by in splits(run.cfg):
        for incorrect, want in ((None, logits[..., 3]), (5, logits[..., 3] - logits[..., 5])):
            result = direct_attribution(run.cache, 3, incorrect, by=by)
            assert_close(total(result), want)
            assert_close(torch.tensor(result.logit.values), want)


@settings(max_examples=10)
@given(runs(dtype=torch.float32))
def test_in_float32_too_every_split_sums_to_the_logit(run: Run):
    for by in splits(run.cfg):
        assert_close(total(direct_attribution(run.cache, 1, by=by)), uncapped_logits(run)[..., 1])


@where(lambda cfg: cfg.normalization_type is not None)
def test_large_gains_of_unfolded_norms_belong_to_the_attribution(run: Run):
    model = run.fresh_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                parameter.mul_(torch.logspace(-1, 1.5, len(parameter)).to(parameter.dtype))
    large = Run(run.fields, run.seed)
    large.model = model
    logits = uncapped_logits(large)
    for by in splits(run.cfg):
        assert_close(total(direct_attribution(large.cache, 3, 5, by=by)), logits[..., 3] - logits[..., 5])


@where(splits_logits)
def test_heads_and_neurons_are_the_rows_of_the_whole_decomposition(run: Run):
    want = run.cache.logit_attrs(run.cache.get_full_resid_decomposition(), run.tokens, 2)
    heads = direct_attribution(run.cache, run.tokens, 2, by="head")
    for layer in range(3):
        for head in range(4):
            assert_close(torch.tensor(heads.attribution[layer, head].values), want[f"L{layer}H{head}"])
    assert heads.label.values.tolist() == [[f"L{layer}H{head}" for head in range(4)] for layer in range(3)]
    if not run.cfg.attn_only:
        neurons = direct_attribution(run.cache, run.tokens, 2, by="neuron")
        for layer, neuron in ((0, 3), (1, 0), (2, 9)):
            assert_close(torch.tensor(neurons.attribution[layer, neuron].values), want[f"L{layer}N{neuron}"])


@where(splits_logits)
def test_what_a_head_wrote_is_the_sum_of_what_it_carried_from_every_position(run: Run):
    heads = direct_attribution(run.cache, 6, by="head")
    sources = direct_attribution(run.cache, 6, by="position")
    np.testing.assert_allclose(sources.attribution.sum("key_pos"), heads.attribution, atol=1e-10)
    np.testing.assert_allclose(sources.rest, heads.rest, atol=1e-10)
    if run.cfg.attention_dir == "causal":
        assert (sources.attribution.where(sources.key_pos > sources.pos, 0) == 0).all()


@where(lambda cfg: cfg.normalization_type is None and cfg.attn_only)
def test_cutting_what_a_head_carries_from_a_position_takes_its_attribution_off_the_logit(run: Run):
    sources = direct_attribution(run.cache, 4, by="position")
    for head, query, key in ((0, 5, 2), (3, 6, 6), (2, 1, 0)):

        def cut(pattern: Tensor, hook: HookPoint, at: tuple[int, int, int] = (head, query, key)) -> None:
            pattern[:, at[0], at[1], at[2]] = 0

        without = run.model.run_with_hooks(run.tokens, fwd_hooks=[(("pattern", -1), cut)])
        change = (run.logits - without)[:, query, 4].detach()
        assert_close(torch.tensor(sources.attribution.sel(layer=2, head=head, pos=query, key_pos=key).values), change)


@where(lambda cfg: cfg.norm_position != "pre" or cfg.normalization_type is None)
def test_asking_for_some_positions_gives_those_of_all(run: Run):
    for by in splits(run.cfg):
        whole = direct_attribution(run.cache, run.tokens, 2, by=by, prompt=run.tokens)
        for pos in (slice(2, 5), [0, 6]):
            cut = direct_attribution(run.cache, run.tokens, 2, by=by, pos=pos, prompt=run.tokens)
            np.testing.assert_allclose(cut.attribution, whole.sel(pos=cut.pos).attribution, atol=1e-10)
            assert np.array_equal(cut.token, whole.sel(pos=cut.pos).token)
        last = direct_attribution(run.cache, run.tokens, 2, by=by, pos=-1)
        assert "pos" not in last.attribution.dims
        np.testing.assert_allclose(last.attribution, whole.attribution.isel(pos=-1), atol=1e-10)


@pytest.mark.parametrize("spelling", [Tensor.clone, Tensor.numpy], ids=["tensor", "array"])
def test_an_answer_for_every_position_is_cut_however_it_is_spelt(plain: Run, spelling: Any):
    answers = spelling(plain.tokens.roll(-1, dims=1))
    whole = direct_attribution(plain.cache, answers, 2, by="head")
    for pos in (-1, [1, 4]):
        cut = direct_attribution(plain.cache, answers, 2, by="head", pos=pos)
        np.testing.assert_allclose(cut.attribution, whole.attribution.isel(pos=pos), atol=1e-12)


def test_biases_have_rows_with_names(plain: Run):
    heads = direct_attribution(plain.cache, 5, by="head")
    names = list(heads.component.values)
    assert names == [
        "embed", "pos_embed", "0_mlp_out", "1_mlp_out", "2_mlp_out", "ln_final_bias", "unembed_bias", "0_attn_bias",
        "1_attn_bias", "2_attn_bias",
    ]  # fmt: skip
    assert (heads.rest.sel(component="unembed_bias") == plain.model.b_U[5].item()).all()
    at_end = plain.model.ln_final.at_scale(
        plain.model.blocks[1].attn.b_O.expand(3, 7, -1), plain.cache["ln_final.hook_scale"]
    )
    assert_close(
        torch.tensor(heads.rest.sel(component="1_attn_bias").values), (at_end @ plain.model.W_U[:, 5]).detach()
    )


@pytest.mark.parametrize("name", ["hook_embed", ("attn_out", 0), ("z", 1), ("result", 2), ("mlp_out", 1)], ids=str)
def test_the_splits_of_an_edited_run_sum_to_its_logit(plain: Run, name: Any):
    shift = random_tensor(24)

    def add(act: Tensor, hook: HookPoint) -> Tensor:
        return act + shift[: act.shape[-1]]

    with plain.model.hooks([(name, add)]):
        logits, cache = plain.model.run_with_cache(plain.tokens)
    for by in splits(plain.cfg):
        result = direct_attribution(cache, 3, by=by)
        assert_close(total(result), logits[..., 3].detach())
        assert result.attrs["edited"] == 1
        assert "edits" in result.component.values


def test_the_text_of_the_run_names_its_positions():
    model = worded()
    _, cache = model.run_with_cache("abcab")
    result = direct_attribution(cache, "c", "a", by="position", pos=-1, prompt="abcab")
    assert result.attribution.dims == ("layer", "head", "key_pos")
    assert "".join(result.key_token.values) == "abcab"
    assert str(result.token.values) == "b"
    assert (result.attrs["correct"], result.attrs["incorrect"]) == ("'c'", "'a'")
    assert result.attrs["model"] == model.weights_hash()
    without = direct_attribution(cache, "c", "a", by="position", pos=-1)
    assert without.attribution.dims == ("layer", "head", "prompt", "key_pos")


def test_the_table_lists_the_largest_parts_of_one_place(plain: Run):
    for by in splits(plain.cfg):
        result = direct_attribution(plain.cache, 3, 5, by=by, pos=-1)
        table = attribution_table(result.isel(prompt=1), top_k=10_000)
        sizes = [abs(value) for value in table["attribution"]]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(table["attribution"]) == pytest.approx(float(result.logit[1]))
        assert len(set(table.index)) == len(table)
        with pytest.raises(ConfigError, match="a table is of one place"):
            attribution_table(result)
    heads = direct_attribution(plain.cache, 3, by="head").isel(prompt=[0], pos=[2])
    table = attribution_table(heads, top_k=40)
    assert table.loc["L1H3", "attribution"] == float(heads.attribution[1, 3, 0, 0])
    assert table.loc["2_mlp_out", "attribution"] == heads.rest.sel(component="2_mlp_out").item()
    sources = direct_attribution(plain.cache, 3, by="position", pos=4).isel(prompt=2)
    found = attribution_table(sources, top_k=999).loc["L2H0 from 3", "attribution"]
    assert found == float(sources.attribution.sel(layer=2, head=0, key_pos=3))


def test_an_unknown_split_or_one_that_the_model_lacks_is_an_error(as_installed: None):
    with pytest.raises(ConfigError, match="did you mean 'head'"):
        direct_attribution(run_of("learned_ln").cache, 3, by="heads")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no neurons"):
        direct_attribution(run_of("bidirectional_attn_only_no_norm").cache, 3, by="neuron")
    model = worded(n_layers=0)
    with pytest.raises(TypeError, match="a cache is needed"):
        direct_attribution(model, "a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no heads"):
        direct_attribution(model.run_with_cache("ab")[1], "a", by="head")
    assert total(direct_attribution(model.run_with_cache("ab")[1], "a")).shape == (1, 2)


def test_positions_attended_to_need_the_values_of_the_whole_run(plain: Run):
    with pytest.raises(ShapeError, match="holds values of 2 of the 7 positions"):
        direct_attribution(plain.cache.slice(pos=[1, 6]), 3, by="position")


def test_an_attribution_from_a_cache_that_lacks_something_says_what(plain: Run):
    _, cache = plain.model.run_with_cache(plain.tokens, names_filter=["hook_*embed", "*_out", "ln_final*", "*hook_z"])
    assert total(direct_attribution(cache, 3, by="head")).shape == (3, 7)
    with pytest.raises(HookNotFoundError, match="hook_pattern"):
        direct_attribution(cache, 3, by="position")
    with pytest.raises(HookNotFoundError, match="hook_post"):
        direct_attribution(cache, 3, by="neuron")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"correct": 11}, TokenError),
        ({"correct": torch.zeros(2, dtype=torch.long)}, ShapeError),
        ({"correct": 3, "pos": 7}, ShapeError),
        ({"correct": 3, "pos": slice(5, 2)}, ShapeError),
        ({"correct": 3, "prompt": torch.zeros(3, 6, dtype=torch.long)}, ShapeError),
    ],
    ids=str,
)
def test_answers_and_places_that_do_not_fit_are_an_error(options: dict[str, Any], error: type[Exception]):
    with pytest.raises(error):
        direct_attribution(run_of("learned_ln").cache, **options)


# ---------------------------------------------------------------------------------------------- a real model


def test_a_real_model_says_mary_and_its_parts_sum_to_the_logit_difference(smollm2: HookedTransformer):
    model = smollm2
    prompt = "When Mary and John went to the store, John gave a drink to"
    with torch.no_grad():
        logits, cache = model.run_with_cache(prompt)
    found = logit_lens(cache, prompt, top_k=1, answers=[" Mary", " John"], pos=-1)
    assert found.top_token.sel(layer="final_post", top=0) == " Mary"
    assert float(found.prob.sel(layer="final_post", answer=" Mary")) == pytest.approx(0.92, abs=0.01)
    assert int(found["rank"].sel(layer="0_pre", answer=" Mary")) > 100
    mary, john = (logits[0, -1, model.to_single_token(name)] for name in (" Mary", " John"))
    for by in splits(model.cfg):
        result = direct_attribution(cache, " Mary", " John", by=by, pos=-1, prompt=prompt)
        assert float(total(result)) == pytest.approx(float(mary - john), abs=1e-3)


# ---------------------------------------------------------------------------------------------- attended positions


@where(splits_logits)
def test_effects_and_factors_multiply_to_direct_attribution_by_position(run: Run):
    result = direct_attribution(run.cache, 3, 5, by="position")["attribution"].to_numpy()
    for layer in range(run.cfg.n_layers):
        effects, factors = key_effects(run.cache, layer, 3, 5)
        got = run.cache["pattern", layer] * effects[:, :, None] * factors[:, None, :, None]
        assert_close(got.transpose(0, 1).detach(), torch.from_numpy(result[layer]))


def test_value_norms_are_the_lengths_of_what_heads_would_write_from_one_position(run: Run):
    for layer, block in enumerate(run.model.blocks):
        found, v = value_norms(run.cache, layer), run.cache["v", layer]
        for head in range(run.cfg.n_heads):
            written = v[:, :, head * v.shape[2] // run.cfg.n_heads] @ block.attn.W_O[head]
            assert_close(found[:, head], written.norm(dim=-1).detach())


def test_layers_of_heads_may_count_from_the_end_and_others_are_refused_by_name(plain: Run, as_installed: None):
    cache, wrong = plain.cache, "cross_attn"
    assert torch.equal(value_norms(cache, -1), value_norms(cache, 2))
    for got, want in zip(key_effects(cache, -1, 3), key_effects(cache, 2, 3), strict=True):
        assert torch.equal(got, want)
    for asked in (lambda layer, part: value_norms(cache, layer, part),
                  lambda layer, part: key_effects(cache, layer, 3, part=part)):  # fmt: skip
        with pytest.raises(ConfigError, match="layer = 3; allowed: -3 to 2"):
            asked(3, "attn")
        with pytest.raises(ConfigError, match="part = 'cross_attn'; allowed: 'attn'"):
            asked(0, wrong)
