"""Texts as vectors, the exact split of the cosine between them, and the cosine as a metric of patching."""

from typing import Any

import pytest
import torch
from grid import SEED, SMALL, build, config, random_tensor, random_tokens
from torch import Tensor
from torch.nn import functional

from interp import ActivationCache, CacheError, ConfigError, HookedTransformer, HookPoint, ShapeError, Vocabulary
from interp.data import PromptPairs
from interp.metrics import Logit
from interp.patching import sweep, sweep_dataset
from interp.similarity import Similarity, cosine_similarity, embeddings, similarity_attribution
from interp.text import MaskedTokens

ENCODER: dict[str, Any] = {"attention_dir": "bidirectional", "embed_norm": True, "pooling": "mean", "d_vocab_out": 0}
KINDS: dict[str, dict[str, Any]] = {
    "post_norm_with_types": ENCODER | {"norm_position": "post", "n_token_types": 2},
    "pre_norm_with_masked_token_head": ENCODER
    | {"first_ln1": False, "masked_token_head": True, "d_vocab_out": 11, "positional_embedding_type": "rotary"}
    | {"d_head": 6, "gated_mlp": True, "window_size": (None, 2, 3)},
    "no_norm": ENCODER | {"embed_norm": False, "normalization_type": None, "pooling": "cls"},
    "decoder_rms_grouped": {"normalization_type": "RMS", "n_key_value_heads": 2, "pooling": "mean"},
    "both_norms_attn_only": {"norm_position": "both", "attn_only": True, "d_mlp": 0, "pooling": "cls"},
}
"""Architectures of one stack that are pooled, of every position of the norms."""
MASKS = {"none": [[1] * 6] * 3, "left": [[0, 0, 1, 1, 1, 1], [1] * 6, [0, 1, 1, 1, 1, 1]]}
MASKS["right"] = [row[::-1] for row in MASKS["left"]]


def model_of(kind: str, **changes: Any) -> HookedTransformer:
    return build(config(SMALL | {"dtype": torch.float64}, **KINDS[kind] | changes), SEED)


def prompts_of(model: HookedTransformer, padding: str, seed: int = 1) -> MaskedTokens:
    tokens = random_tokens(model.cfg, SEED + seed, 3, 6)
    types = torch.randint(0, 2, tokens.shape) if model.cfg.n_token_types else None
    return model.masked_tokens(tokens, MASKS[padding], types)


def reference_vectors(model: HookedTransformer, prompts: MaskedTokens, pooling: str | None = None) -> Tensor:
    """Pooled vectors, in loops; None is the model's own pooling."""
    pooling = model.cfg.pooling if pooling is None else pooling
    with torch.no_grad():
        stream = model.ln_final.unhooked(model(prompts, stop_at_layer=model.cfg.n_layers))
    rows = [row[real] for row, real in zip(stream, prompts.is_token, strict=True)]
    return torch.stack([row.mean(dim=0) if pooling == "mean" else row[0] for row in rows])


def cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.cosine_similarity(first, second, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_the_parts_sum_to_the_cosine(kind: str):
    model = model_of(kind)
    for padding in MASKS:
        first, second = prompts_of(model, padding), prompts_of(model, padding, seed=2)
        expected = cosines(reference_vectors(model, first), reference_vectors(model, second))
        whole = similarity_attribution(model, first, second)
        places = similarity_attribution(model, first, second, by="position")
        both = similarity_attribution(model, first, second, by="both")
        assert whole.attribution.dims == ("component", "prompt")
        assert places.attribution.dims == ("component", "prompt", "pos")
        assert both.attribution.dims == ("component", "prompt", "other_component")
        for result in (whole, places, both):
            axes = [axis for axis in result.attribution.dims if axis != "prompt"]
            close(torch.tensor(result.attribution.sum(axes).values), expected)
            close(torch.tensor(result.cosine.values), expected)
        close(torch.tensor(places.attribution.sum("pos").values), torch.tensor(whole.attribution.values))
        close(torch.tensor(both.attribution.sum("other_component").values), torch.tensor(whole.attribution.values))
        other = similarity_attribution(model, second, first)
        close(torch.tensor(both.attribution.sum("component").T.values), torch.tensor(other.attribution.values))
        assert (places.attribution.values[:, ~first.is_token.numpy()] == 0).all()
        assert ("L1H2" in whole.component) and ("1_mlp_out" in whole.component) != model.cfg.attn_only


def test_without_norms_a_heads_share_is_the_dot_product_of_what_it_wrote():
    model = model_of("no_norm", pooling="mean")
    first, second = prompts_of(model, "none"), prompts_of(model, "none", seed=2)
    mine, theirs = reference_vectors(model, first), reference_vectors(model, second)
    _, cache = model.run_with_cache(first, None)
    wrote = torch.einsum("bphd,hdm->bhm", cache["z", 1], model.blocks[1].attn.W_O.detach()) / 6
    shares = (wrote * theirs[:, None]).sum(dim=-1) / mine.norm(dim=-1)[:, None] / theirs.norm(dim=-1)[:, None]
    result = similarity_attribution(model, first, second).attribution
    for head in range(model.cfg.n_heads):
        close(torch.tensor(result.sel(component=f"L1H{head}").values), shares[:, head])


def test_at_the_scales_of_the_run_taking_a_part_off_takes_its_share_off():
    """The share of an MLP is what the dot product loses where it writes nothing and the norms keep their scales."""
    model = model_of("post_norm_with_types")
    first, second = prompts_of(model, "left"), prompts_of(model, "left", seed=2)
    mine, theirs = reference_vectors(model, first), reference_vectors(model, second)
    _, cache = model.run_with_cache(first, None)
    frozen = [(name, lambda value, hook: cache[hook.name]) for name in model.hook_points if name.endswith("hook_scale")]
    frozen += [("blocks.2.hook_mlp_out", lambda value, hook: value * 0)]
    with torch.no_grad():
        without = model.run_with_hooks(first, "pooled", fwd_hooks=frozen)
    lost = ((mine - without) * theirs).sum(dim=-1) / mine.norm(dim=-1) / theirs.norm(dim=-1)
    result = similarity_attribution(model, first, second).attribution.sel(component="2_mlp_out")
    close(torch.tensor(result.values), lost)


def test_an_edited_run_is_split_with_what_the_edit_added():
    model = model_of("post_norm_with_types")
    first, second = prompts_of(model, "right"), prompts_of(model, "right", seed=2)
    edit = [("blocks.1.hook_resid_post", lambda value, hook: value + random_tensor(24))]
    with model.hooks(fwd_hooks=edit):
        _, cache = model.run_with_cache(first, None)
        pooled = reference_vectors(model, first)
    result = similarity_attribution(model, cache, second)
    assert result.attrs["edited"] == 1 and "edits" in result.component
    expected = cosines(pooled, reference_vectors(model, second))
    close(torch.tensor(result.attribution.sum("component").values), expected)


def test_one_second_text_is_compared_with_every_first_and_words_are_shown():
    changes = {"d_vocab": 11, "n_ctx": 8}
    model = build(config(SMALL | {"dtype": torch.float64}, **ENCODER | changes), SEED, Vocabulary("abcdefghijk"))
    result = similarity_attribution(model, ["abc", "kcd"], "bcd", by="position")
    assert result.attribution.shape[1:] == (2, 3)
    assert result.token.values.tolist() == [["a", "b", "c"], ["k", "c", "d"]]
    table = cosine_similarity(model, ["abc", "kcd"], "bcd")
    close(torch.tensor(result.cosine.values), table[:, 0])
    assert (result.attrs["unit"], result.attrs["pooling"], result.attrs["n"]) == ("cosine similarity", "mean", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_pooled_vectors_of_runs_and_of_caches(kind: str):
    model = model_of(kind)
    for padding in MASKS:
        prompts = prompts_of(model, padding)
        expected = reference_vectors(model, prompts)
        close(embeddings(model, prompts), expected)
        close(embeddings(model, prompts, normalize=True), functional.normalize(expected, dim=-1))
        _, cache = model.run_with_cache(prompts, None)
        close(embeddings(model, cache), expected)
        close(model(prompts, "pooled"), expected)
        table = cosine_similarity(model, prompts)
        close(table, functional.normalize(expected, dim=-1) @ functional.normalize(expected, dim=-1).T)
        for pooling in ("mean", "cls"):
            close(embeddings(model, prompts, pooling=pooling), reference_vectors(model, prompts, pooling))


def patched(model: HookedTransformer, prompts: MaskedTokens, source: ActivationCache, name: str, at: Any) -> Tensor:
    """Pooled vectors of a run that gets a part of another run's activations."""

    def write(value: Tensor, hook: HookPoint) -> Tensor:
        value = value.clone()
        value[at] = source[name][at]
        return value

    with model.hooks(fwd_hooks=[(name, write)]):
        return reference_vectors(model, prompts)


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_with_the_cosine_equal_loops_over_patched_runs(kind: str):
    model = model_of(kind)
    for padding in ("none", "left", "right"):
        corrupted, clean = prompts_of(model, padding), prompts_of(model, padding, seed=2)
        metric = Similarity(embeddings(model, prompts_of(model, padding, seed=3)))
        options: Any = {"progress": False, "per_prompt": True}
        found = sweep(model, corrupted, clean, metric, "z", ("layer", "head"), layers=[0, 2], **options)
        placed = sweep(model, corrupted, clean, metric, "resid_pre", ("layer", "pos"), layers=[1], **options)
        _, source = model.run_with_cache(clean, None)

        for layer, head in ((0, 0), (2, 3)):
            expected = patched(
                model, corrupted, source, f"blocks.{layer}.attn.hook_z", (slice(None), slice(None), head)
            )
            close(torch.tensor(found.sel(layer=layer, head=head).values), cosines(expected, metric.reference))
        for pos in (2, 3):
            expected = patched(model, corrupted, source, "blocks.1.hook_resid_pre", (slice(None), pos))
            close(torch.tensor(placed.sel(layer=1, pos=pos).values), cosines(expected, metric.reference))
        baseline = cosines(reference_vectors(model, corrupted), metric.reference)
        assert abs(found.attrs["baseline"] - float(baseline.mean())) < 1e-12
    fractions = sweep(model, corrupted, clean, metric, "resid_pre", ("layer",), normalize=True, progress=False)
    if not model.cfg.masked_token_head:
        assert abs(float(fractions.sel(layer=0)) - 1) < 1e-9


def test_a_sweep_of_a_data_set_is_the_mean_of_its_pairs_and_needs_no_answers():
    changes = {"d_vocab": 11, "n_ctx": 8, "dtype": torch.float64}
    model = build(config(SMALL, **ENCODER | changes), SEED, Vocabulary("abcdefghijk"))
    pairs = PromptPairs(["abc", "kcd", "bcaa"], ["abd", "kce", "bcab"], ["a", "b", "c"])
    metric = Similarity(embeddings(model, "hij")[0])
    found = sweep_dataset(model, pairs, metric, site="z", over=("layer", "head"), progress=False)
    single = [sweep(model, corrupted, clean, metric, "z", ("layer", "head"), progress=False).values
              for clean, corrupted in zip(pairs.clean, pairs.corrupted, strict=True)]  # fmt: skip
    close(torch.tensor(found.values), torch.tensor(sum(single) / 3))


def test_the_gradient_of_the_cosine_is_that_of_the_pooled_vectors():
    model = model_of("post_norm_with_types")
    prompts = prompts_of(model, "left")
    metric = Similarity(random_tensor(24))
    values, cache = model.run_with_cache(prompts, None, names_filter=("z", 1), gradient_of=metric)
    close(values, cosines(reference_vectors(model, prompts), random_tensor(24)))
    kept: list[Tensor] = []
    watch = [("blocks.1.attn.hook_z", lambda value, hook: kept.append(value) or value)]
    pooled = model.run_with_hooks(prompts, "pooled", fwd_hooks=watch)
    (gradient,) = torch.autograd.grad(cosines(pooled, random_tensor(24)).sum(), kept)
    close(cache["blocks.1.attn.hook_z_grad"], gradient)


def test_half_precision_is_compared_in_float32():
    model = model_of("post_norm_with_types", dtype=torch.bfloat16)
    first, second = prompts_of(model, "left"), prompts_of(model, "left", seed=2)
    assert embeddings(model, first).dtype == torch.float32
    stream = model(first, stop_at_layer=model.cfg.n_layers).double()
    means = [row[real].mean(dim=0) for row, real in zip(stream, first.is_token, strict=True)]
    found = embeddings(model, first, normalize=False).double()
    torch.testing.assert_close(found, torch.stack(means), rtol=1e-6, atol=1e-6)
    result = similarity_attribution(model, first, second)
    assert abs(result.attribution.sum("component") - result.cosine).max() < 0.05


def test_equal_metrics_are_equal_and_have_one_key():
    vector = random_tensor(24)
    assert Similarity(vector) == Similarity(vector.clone()) != Similarity(vector, pooling="cls")
    assert hash(Similarity(vector)) == hash(Similarity(vector.clone()))


@pytest.mark.usefixtures("as_installed")
def test_what_cannot_be_compared_or_split_is_refused():
    model, plain = model_of("post_norm_with_types"), model_of("decoder_rms_grouped", pooling=None)
    pooler = model_of("post_norm_with_types", pooling="pooler")
    masked, other = model_of("pre_norm_with_masked_token_head"), model_of("post_norm_with_types")
    with torch.no_grad():
        other.W_E.mul_(2)
    prompts = prompts_of(model, "none")
    ids, cache = prompts.ids, model.run_with_cache(prompts, None)[1]
    for wrong, error, message in (
        (lambda: embeddings(plain, ids), ConfigError, r"does not say how it is pooled.*give pooling='mean' or 'cls'"),
        (lambda: embeddings(model, ids, pooling="pooler"), ConfigError, "this model has no pooler"),
        (lambda: embeddings(model, ids, pooling=as_any("avg")), ConfigError, "pooling = 'avg'"),
        (lambda: embeddings(model, ids, normalize=as_any("no")), ConfigError, "normalize = 'no'; allowed: True, False"),
        (lambda: embeddings(model, cache, token_types=ids), ShapeError, "a cache brings its own mask"),
        (lambda: embeddings(other, cache), CacheError, "the cache was made by another model than the one given"),
        (lambda: similarity_attribution(other, ids, cache), CacheError, "the cache was made by another model"),
        (lambda: similarity_attribution(pooler, ids, ids), ConfigError, "passes through a tanh"),
        (lambda: similarity_attribution(model, ids, ids, by=as_any("head")), ConfigError, "by = 'head'"),
        (lambda: similarity_attribution(model, ids, ids[:2]), ShapeError, "3 first texts and 2 second ones"),
        (lambda: Similarity(as_any([1.0])), ShapeError, r"allowed: vectors \[d_model\]"),
        (lambda: Similarity(random_tensor(24))(random_tensor(3, 6, 11)), ConfigError, "reads the last stream"),
        (lambda: Similarity(random_tensor(24))(random_tensor(3, 6, 11), masked), ConfigError, "reads the last stream"),
        (
            lambda: sweep(model, ids, ids, Similarity(random_tensor(2, 24))),
            ShapeError,
            "reference has shape",
        ),
        (lambda: sweep(model, ids, ids, Similarity(random_tensor(23))), ShapeError, r"reference has shape \(23,\)"),
        (lambda: sweep(pooler, ids, ids, Similarity(random_tensor(24))), ConfigError, "passes through a tanh"),
        (lambda: model.run_with_cache(ids, None, gradient_of=Logit(3)), ConfigError, "no unembedding"),
        (lambda: model.run_with_cache(ids, None, gradient_of=lambda x: x.sum()), ConfigError, "no unembedding"),
        (lambda: sweep(model, ids, ids, Logit(3)), ConfigError, "no unembedding"),
        (lambda: sweep(model, ids, ids, lambda logits: logits.sum()), ConfigError, "no unembedding"),
        (
            lambda: masked.run_with_cache(ids, None, gradient_of=Similarity(random_tensor(24))),
            ConfigError,
            "before the",
        ),
    ):
        with pytest.raises(error, match=message):
            wrong()


def as_any(value: Any) -> Any:
    return value


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
