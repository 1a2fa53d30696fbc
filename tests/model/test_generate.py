"""Generation and the KV cache."""

import copy
import pickle
from typing import Any

import pytest
import torch
from grid import GRID, SEED, Run, assert_close, build, config, random_tokens, run_of, where
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import ConfigError, HookedTransformer, ShapeError, TokenError, Vocabulary
from interp.model.kv_cache import KVCache
from interp.model.sampling import Sampling

CAUSAL = [name for name, fields in GRID.items() if fields.get("attention_dir") != "bidirectional"]


def ragged_mask(run: Run) -> Tensor:
    mask = torch.ones_like(run.tokens, dtype=torch.bool)
    mask[0, :3] = False
    mask[2, :1] = False
    return mask


@where(lambda cfg: cfg.attention_dir == "causal")
@pytest.mark.parametrize("steps", [[1, 1, 1, 1, 1, 1, 1], [3, 1, 3], [2, 5]], ids=str)
def test_a_run_in_pieces_equals_the_full_run(run: Run, steps: list[int]):
    cache, pieces = KVCache(run.cfg.n_layers), []
    for piece in run.tokens.split(steps, dim=1):
        pieces.append(run.model(piece, kv_cache=cache))
    assert_close(torch.cat(pieces, dim=1), run.logits)


@where(lambda cfg: cfg.attention_dir == "causal")
def test_a_padded_run_in_pieces_equals_the_full_run(run: Run):
    mask = ragged_mask(run)
    cache = KVCache(run.cfg.n_layers)
    pieces = [run.model(run.tokens[:, :4], kv_cache=cache, attention_mask=mask[:, :4])]
    pieces += [run.model(run.tokens[:, 4:6], kv_cache=cache), run.model(run.tokens[:, 6:], kv_cache=cache)]
    assert_close(torch.cat(pieces, dim=1)[mask], run.model(run.tokens, attention_mask=mask)[mask])


def test_a_failed_run_leaves_the_kv_cache_as_it_was():
    run = run_of("learned_ln")
    cache = KVCache(run.cfg.n_layers)
    run.model(run.tokens[:, :3], kv_cache=cache)

    def fail(value: Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.model.run_with_hooks(run.tokens[:, 3:], fwd_hooks=[(("z", 2), fail)], kv_cache=cache)
    assert cache.n_pos == 3
    assert_close(run.model(run.tokens[:, 3:], kv_cache=cache), run.logits[:, 3:])


def test_a_kv_cache_of_another_batch_is_refused():
    run = run_of("learned_ln")
    cache = KVCache(run.cfg.n_layers)
    run.model(run.tokens[:, :3], kv_cache=cache)
    with pytest.raises(ShapeError, match="kv_cache holds 3 sequences; this run has 1"):
        run.model(run.tokens[:1, 3:], kv_cache=cache)


def test_cached_and_new_tokens_together_must_fit_the_context():
    run = run_of("learned_ln")
    cache = KVCache(run.cfg.n_layers)
    run.model(run.tokens, kv_cache=cache)
    with pytest.raises(TokenError, match="7 cached and 2 new tokens exceed the context, n_ctx = 8"):
        run.model(run.tokens[:, :2], kv_cache=cache)


@pytest.mark.parametrize("option", ["start_at_layer", "stop_at_layer"])
def test_a_kv_cache_excludes_partial_runs(option: str):
    run = run_of("learned_ln")
    with pytest.raises(ConfigError, match="kv_cache needs every layer"):
        run.model(run.tokens, kv_cache=KVCache(3), **{option: 1})


def greedy_by_full_runs(model: HookedTransformer, tokens: Tensor, n: int) -> Tensor:
    for _ in range(n):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(dim=-1)], dim=1)
    return tokens


@pytest.mark.parametrize("name", CAUSAL)
def test_greedy_generation_is_predict_take_the_largest_append(name: str):
    model = run_of(name).model
    prompt = random_tokens(model.cfg, seed=1, n_pos=3)
    generation = model.generate(prompt, 5)
    assert torch.equal(generation.tokens, greedy_by_full_runs(model, prompt, 5))
    assert generation.n_prompt == 3


def test_temperature_0_and_top_k_1_and_greedy_agree():
    model, prompt = run_of("learned_ln").model, run_of("learned_ln").tokens[:, :2]
    greedy = model.generate(prompt, 6).tokens
    assert torch.equal(model.generate(prompt, 6, temperature=0.0).tokens, greedy)
    assert torch.equal(model.generate(prompt, 6, temperature=3.0, top_k=1, seed=5).tokens, greedy)


def test_a_continuation_has_the_token_type_in_which_its_prompt_ends():
    model = build(config(GRID["learned_ln"], n_token_types=3), SEED)
    tokens = random_tokens(model.cfg, SEED)[:, :4]
    types = torch.tensor([[0, 1, 1, 2], [2, 2, 1, 1], [1, 1, 0, 0]])
    made = model.generate(model.masked_tokens(tokens, token_types=types), 3, names_filter="hook_token_type_embed")
    whole = torch.cat([types, types[:, -1:].expand(-1, 2)], dim=1)
    logits = model(made.tokens[:, :-1], token_types=whole)
    assert torch.equal(logits[:, 3:].argmax(dim=-1), made.tokens[:, 4:])
    assert made.cache is not None and torch.equal(made.cache["hook_token_type_embed"], model.token_type_embed(whole))


def test_a_seed_repeats_a_sample_and_leaves_the_global_generator_alone():
    model, prompt = run_of("learned_ln").model, run_of("learned_ln").tokens[:, :2]
    state = torch.get_rng_state()
    first = model.generate(prompt, 6, temperature=2.0, seed=3).tokens
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.generate(prompt, 6, temperature=2.0, seed=3).tokens, first)


def test_another_seed_gives_another_sample():
    model, prompt = run_of("learned_ln").model, run_of("learned_ln").tokens[:, :1]
    samples = [model.generate(prompt, 7, temperature=50.0, seed=seed).tokens for seed in range(4)]
    assert any(not torch.equal(sample, samples[0]) for sample in samples)


def test_padded_prompts_generate_what_they_generate_alone():
    run = run_of("rotary_rms_gated_grouped")
    mask = ragged_mask(run)[:, :5]
    together = run.model.generate(run.tokens[:, :5], 3, attention_mask=mask).tokens[:, 5:]
    alone = [run.model.generate(run.tokens[i : i + 1, :5][:, mask[i]], 3).tokens[0, -3:] for i in range(3)]
    assert torch.equal(together, torch.stack(alone))


def test_a_stop_token_ends_its_sequence_and_all_stopped_end_the_run():
    model, prompt = run_of("learned_ln").model, run_of("learned_ln").tokens[:1, :2]
    free = model.generate(prompt, 6).tokens[0, 2:].tolist()
    stopped = model.generate(prompt, 6, stop_tokens=[free[0]]).tokens[0, 2:].tolist()
    assert stopped == [free[0]]


def test_a_sequence_past_its_stop_repeats_it_while_others_go_on():
    run = run_of("learned_ln")
    free = run.model.generate(run.tokens[:, :1], 6).tokens[:, 1:]
    stop = int(free[0, 0])
    stopped = run.model.generate(run.tokens[:, :1], 6, stop_tokens=[stop]).tokens[:, 1:]
    for row, unbounded in zip(stopped.tolist(), free.tolist(), strict=True):
        end = unbounded.index(stop) if stop in unbounded else len(unbounded)
        assert row == (unbounded[:end] + [stop] * 6)[: len(row)]


def test_texts_end_before_the_stop_token():
    words = Vocabulary("abcdefghijk")
    model = build(run_of("learned_ln").cfg, 0, words)
    free = model.generate("ab", 5)
    assert free.texts is not None
    assert free.texts[0] == model.to_string(free.tokens[0, 2:])
    stop = free.texts[0][2]
    stopped = model.generate("ab", 5, stop_tokens=[stop])
    assert stopped.texts == [free.texts[0][: free.texts[0].index(stop)]]


def test_streaming_yields_the_same_tokens_one_step_at_a_time():
    run = run_of("learned_ln")
    steps = list(run.model.stream(run.tokens[:, :2], 4))
    assert torch.equal(torch.stack(steps, dim=1), run.model.generate(run.tokens[:, :2], 4).tokens[:, 2:])


def test_hooks_act_on_every_step():
    run = run_of("learned_ln")
    seen: list[int] = []
    with run.model.hooks([("blocks.0.hook_resid_pre", lambda x, hook: seen.append(x.shape[1]))]):
        run.model.generate(run.tokens[:, :3], 4)
    assert seen == [3, 1, 1, 1]


def test_only_the_logits_that_are_sampled_from_are_computed():
    model, prompt = build(run_of("learned_ln").cfg, 0), run_of("learned_ln").tokens[:, :4]
    shapes: list[tuple[int, ...]] = []
    model.unembed.register_forward_hook(lambda module, inputs, logits: shapes.append(tuple(logits.shape)))
    model.generate(prompt, 3)
    assert shapes == [(3, 1, model.cfg.d_vocab)] * 3


def test_hooks_on_the_final_norm_see_every_position_of_the_prompt():
    run = run_of("learned_ln")
    seen: list[int] = []
    with run.model.hooks([("ln_final.hook_normalized", lambda x, hook: seen.append(x.shape[1]))]):
        watched = run.model.generate(run.tokens[:, :4], 3).tokens
    assert seen == [4, 1, 1]
    assert torch.equal(watched, run.model.generate(run.tokens[:, :4], 3).tokens)


def test_a_hook_changes_what_is_generated():
    run = run_of("learned_ln")
    with run.model.hooks([("ln_final.hook_normalized", lambda x, hook: -x)]):
        turned = run.model.generate(run.tokens[:, :2], 4).tokens
    assert not torch.equal(turned, run.model.generate(run.tokens[:, :2], 4).tokens)


@where(lambda cfg: cfg.attention_dir == "causal")
def test_the_cache_of_a_generation_is_the_cache_of_one_run_over_its_tokens(run: Run):
    generation = run.model.generate(run.tokens[:, :3], 4, names_filter="*")
    assert generation.cache is not None
    with torch.no_grad():
        _, whole = run.model.run_with_cache(generation.tokens[:, :-1])
    assert list(generation.cache) == list(whole)
    known = torch.arange(6) <= torch.arange(6).clamp(min=2)[:, None]  # no step knows of the distances of later keys
    for name in whole:
        want = whole[name].where(known, 0) if name == "rel_bias.hook_bias" else whole[name]
        assert_close(generation.cache[name], want)


def test_prompt_and_continuation_must_fit_the_context():
    run = run_of("learned_ln")
    assert run.model.generate(run.tokens, 2).tokens.shape[1] == 9
    with pytest.raises(ConfigError, match="7 tokens and max_new_tokens = 3 exceed the context, n_ctx = 8"):
        run.model.generate(run.tokens, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0; allowed: 0 or more"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_k": 0}, "top_k = 0; allowed: 1 or more"),
        ({"top_p": 0.0}, "top_p = 0.0; allowed: above 0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0; allowed: 1 or more"),
        ({"max_new_tokens": True}, "max_new_tokens = True"),
        ({"temperature": "1"}, "temperature = '1'"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k = 2.5; allowed: 1 or more"),
        ({"temperature": 1.0, "seed": 2**64}, "seed = 18446744073709551616; allowed: an integer of 64 bits"),
        ({"top_p": 0.9}, "top_p = 0.9 chooses among tokens to sample from.* temperature above 0"),
        ({"top_k": 5}, "top_k = 5 chooses among tokens to sample from"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str):
    run = run_of("learned_ln")
    for method in (run.model.generate, run.model.stream):  # at once: no step of the stream is taken
        with pytest.raises(ConfigError, match=message):
            method(run.tokens[:, :2], **options)


@pytest.mark.parametrize("stop", [11, -1, 1.5, True])
@pytest.mark.usefixtures("as_installed")
def test_a_stop_token_that_is_none_is_refused(stop: Any):
    run = run_of("learned_ln")
    with pytest.raises(
        TokenError, match=f"stop token {stop!r} is (no token; allowed: 0 to 10|neither a token id nor a text)"
    ):
        run.model.generate(run.tokens[:, :2], 2, stop_tokens=[stop])


def test_an_unknown_option_is_refused_with_the_nearest_one():
    run = run_of("learned_ln")
    wrong: dict[str, Any] = {"temprature": 1.0}
    for method in (run.model.generate, run.model.stream):
        said = rf"{method.__name__}: unknown argument 'temprature'.*did you mean temperature="
        with pytest.raises(ConfigError, match=said):
            method(run.tokens[:, :2], **wrong)


def test_one_stop_token_needs_no_list():
    words = Vocabulary("abcdefghijk")
    model = build(run_of("learned_ln").cfg, 0, words)
    tokens = model.generate("ab", 5, stop_tokens=["c", "d"]).tokens
    assert torch.equal(model.generate("ab", 5, stop_tokens=[2, 3]).tokens, tokens)
    assert torch.equal(model.generate("ab", 5, stop_tokens="c").tokens, model.generate("ab", 5, stop_tokens=2).tokens)


def test_a_stop_token_in_the_prompt_stops_nothing():
    model, prompt = run_of("learned_ln").model, run_of("learned_ln").tokens[:1, :3]
    free = model.generate(prompt, 4).tokens
    unused = [i for i in prompt[0].tolist() if i not in free[0, 3:].tolist()]
    assert torch.equal(model.generate(prompt, 4, stop_tokens=unused).tokens, free)


def test_a_prompt_that_ends_with_padding_is_refused():
    run = run_of("learned_ln")
    mask = torch.ones_like(run.tokens[:, :4])
    mask[1, 3] = 0
    with pytest.raises(ShapeError, match="sequence 1 ends with padding; prompts are padded on the left"):
        run.model.generate(run.tokens[:, :4], 2, attention_mask=mask)


def test_a_model_that_is_not_causal_neither_generates_nor_caches_keys():
    name = next(name for name in GRID if name not in CAUSAL)
    run = run_of(name)
    with pytest.raises(ConfigError, match="generation is of next tokens, and with attention_dir = 'bidirectional'"):
        run.model.generate(run.tokens[:, :2], 2)
    with pytest.raises(ConfigError, match="kv_cache needs attention_dir = 'causal'"):
        run.model(run.tokens[:, :2], kv_cache=KVCache(run.cfg.n_layers))


def test_a_kv_cache_of_another_depth_is_refused():
    run = run_of("learned_ln")
    with pytest.raises(ConfigError, match="kv_cache is of another model, with 2 layers; here are 3"):
        run.model(run.tokens, kv_cache=KVCache(2))


@given(st.integers(0, 2**31), st.floats(0.05, 1.0), st.floats(0.2, 3.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(seed: int, p: float, temperature: float):
    logits = 3 * torch.randn(1, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    full = (logits / temperature).softmax(-1)[0]
    kept = Sampling(temperature, top_p=p).probabilities(logits)[0] > 0
    assert float(full[kept].sum()) >= p - 1e-12
    assert float(full[kept].sum() - full[kept].min()) < p
    assert kept.all() or float(full[kept].min()) >= float(full[~kept].max())


@given(st.integers(0, 2**31), st.integers(1, 14))
def test_top_k_keeps_the_k_largest_in_their_proportions(seed: int, k: int):
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = Sampling(1.0, top_k=k).probabilities(logits)
    threshold = logits.sort(dim=-1, descending=True).values[:, min(k, 12) - 1, None]
    want = logits.softmax(-1).where(logits >= threshold, 0)
    assert_close(got, want / want.sum(-1, keepdim=True))


def test_samples_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    sampling = Sampling(temperature=2.0, seed=1)
    chosen = sampling.choose(logits, torch.Generator().manual_seed(1))
    assert torch.allclose(torch.bincount(chosen) / 20_000, (logits[0] / 2).softmax(-1), atol=0.02)


def test_generation_needs_no_gradients():
    model = HookedTransformer(config(GRID["learned_ln"]))
    assert not model.generate(torch.zeros(1, 2, dtype=torch.long), 2, names_filter=("z", 0)).cache["z", 0].requires_grad  # pyright: ignore[reportOptionalSubscript]


def test_what_is_no_kv_cache_or_is_of_another_model_is_refused(as_installed: None):
    run, other = run_of("learned_ln"), run_of("rotary_rms_gated_grouped")
    wrong: Any = 3
    with pytest.raises(ConfigError, match="kv_cache = 3; allowed: a KVCache"):
        run.model(run.tokens, kv_cache=wrong)
    counts: list[dict[str, Any]] = [{"n_layers": "a"}, {"n_layers": 3, "n_prompt": -1}, {"n_layers": 3, "n_final": 1.5}]
    for one in counts:
        with pytest.raises(ConfigError, match="allowed"):
            KVCache(**one)
    cache = KVCache(3)
    run.model(run.tokens[:, :3], kv_cache=cache)
    with pytest.raises(ConfigError, match=r"keys \(4, 5\) \[kv_head, d_head\]; here are 3 layers of \(2, 6\)"):
        other.model(run.tokens[:, 3:], kv_cache=cache)


def test_a_copy_of_a_kv_cache_goes_on_independently_with_gradients_too():
    run = run_of("rotary_rms_gated_grouped")
    cache = KVCache(run.cfg.n_layers)
    run.model(run.tokens[:, :3], kv_cache=cache)
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert_close(run.model(run.tokens[:, 3:], kv_cache=copied), run.logits[:, 3:])
        assert (cache.n_pos, copied.n_pos) == (3, run.tokens.shape[1])
    assert_close(run.model(run.tokens[:, 3:], kv_cache=cache), run.logits[:, 3:])
