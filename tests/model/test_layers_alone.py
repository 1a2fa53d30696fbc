"""Blocks and attention on their own, and in classes of one's own."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import SMALL, Run, assert_close, build, config, random_tensor, random_tokens, run_of, where
from torch import Tensor

from interp import ConfigError, HookedTransformer, ShapeError, TransformerConfig, Vocabulary
from interp.discovery import edge_scores
from interp.harvest import harvest, loss_recovered
from interp.heads import head_scores
from interp.interventions import Zero
from interp.lens import logit_lens
from interp.metrics import KLDivergence, Logit
from interp.model import MLP, Attention, Block, LayerContext
from interp.patching import path_sweep, sweep
from interp.training import train
from interp.weights import center_writing_weights, fold_layer_norm, fold_value_biases, refactor_factored_attn_matrices


def has_all_it_reads(cfg: TransformerConfig) -> bool:
    return cfg.positional_embedding_type not in ("shortformer", "relative")


@where(has_all_it_reads)
@torch.no_grad()
def test_a_block_alone_is_the_block_inside_the_model(run: Run):
    for layer, block in enumerate(run.model.blocks):
        x = run.cache["resid_pre", layer]
        assert_close(block(x), run.cache["resid_post", layer])
        assert torch.equal(block(x), run.model(x, start_at_layer=layer, stop_at_layer=layer + 1))


@where(lambda cfg: has_all_it_reads(cfg) and cfg.norm_position != "both")
@torch.no_grad()
def test_attention_alone_is_the_attention_inside_the_model(run: Run):
    for layer, block in enumerate(run.model.blocks):
        read = run.cache["resid_pre", layer]
        read = block.ln1(read) if run.cfg.norms_reads else read
        assert_close(block.attn(read), run.cache["attn_out", layer])


def test_a_layer_alone_shows_its_hook_points(plain: Run):
    block, x, seen = plain.model.blocks[1], plain.cache["resid_pre", 1], []
    with plain.model.hooks([(("pattern", 1), lambda pattern, hook: seen.append(pattern))]):
        block(x)
        block.attn(block.ln1(x))
    assert torch.equal(seen[0], plain.cache["pattern", 1]) and torch.equal(seen[0], seen[1])
    with plain.model.intervene(Zero(site="z", layer=1, pos=[0, -1])):
        edited = block(x)
    z = plain.cache["z", 1].clone()
    z[:, [0, -1]] = 0
    assert_close(edited, block(x) + (plain.model.run_with_hooks(
        x, start_at_layer=1, stop_at_layer=2, fwd_hooks=[(("z", 1), lambda value, hook: z)]) - block(x)))  # fmt: skip


def test_a_block_of_ones_own_config_needs_no_model():
    cfg = config(SMALL, dtype=torch.float32)
    block = Block(cfg)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = random_tensor(2, 5, 24).float().requires_grad_()
    (gradient,) = torch.autograd.grad(block(x)[:, 2].sum(), x)
    assert (gradient[:, 3:] == 0).all() and (gradient[:, 2] != 0).any()  # it is causal


def test_a_layer_alone_says_what_it_takes(plain: Run, as_installed: None):
    block = plain.model.blocks[0]
    for part in (block, block.attn):
        for wrong in (torch.zeros(5, 24), torch.zeros(1, 5, 23), torch.zeros(1, 0, 24), torch.zeros(1, 9, 24)):
            with pytest.raises(ShapeError, match=r"a stream \[batch, pos, 24\] of 1 to 8 positions, not"):
                part(wrong.double())
        for name, read in (("shortformer_attn_only", "'shortformer' pos"), ("relative_rms", "'relative' positions")):
            run = run_of(name)
            other = run.model.blocks[1] if part is block else run.model.blocks[1].attn
            with pytest.raises(ConfigError, match=rf"reads {read}.*start_at_layer=1, stop_at_layer=2"):
                other(run.cache["resid_pre", 1])


# ---------------------------------------------------------------------------------------------- subclasses


class LouderAttention(Attention):
    """Attention that writes twice as much."""

    def forward(self, x_qk: Tensor, *rest: Any, **options: Any) -> Tensor:
        return 2 * super().forward(x_qk, *rest, **options)


class CountingMLP(MLP):
    """An MLP with a buffer-free mark of its own."""

    mark = "mine"


class OwnBlock(Block):
    attention_type, mlp_type = LouderAttention, CountingMLP


class Mine(HookedTransformer):
    block_type = OwnBlock

    def hello(self) -> int:
        return self.cfg.n_layers


def own_model(**changes: Any) -> Mine:
    torch.manual_seed(0)
    return Mine(config(SMALL, **{"dtype": torch.float64, **changes}))


def is_own(model: HookedTransformer) -> bool:
    parts = [(type(block), type(block.attn), type(block.mlp)) for block in model.blocks]
    return type(model) is Mine and model.hello() == 3 and set(parts) == {(OwnBlock, LouderAttention, CountingMLP)}


@torch.no_grad()
def test_subclasses_survive_copies_pickles_and_their_own_files(tmp_path: Path):
    model = own_model()
    tokens = random_tokens(model.cfg, 3)
    model.save_pretrained(tmp_path)
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), Mine.from_pretrained(tmp_path)
    for twin in others:
        assert is_own(twin) and torch.equal(twin(tokens), model(tokens))
    ordinary = HookedTransformer.from_pretrained(tmp_path)
    assert type(ordinary) is HookedTransformer and not torch.allclose(ordinary(tokens), model(tokens))


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_subclasses_survive_other_ways_to_write_their_weights(tied: bool):
    # Positions fixed, embeddings tied: what has to be written otherwise.
    model = own_model(tie_word_embeddings=tied, positional_embedding_type="sinusoidal")
    tokens = random_tokens(model.cfg, 3)
    for process in (fold_layer_norm, fold_value_biases, refactor_factored_attn_matrices, center_writing_weights):
        assert is_own(process(model)), process
        # Twice what attention writes: whatever is moved between its weights is doubled as well.
        assert_close(process(model)(tokens), model(tokens))


def test_parts_that_were_replaced_one_by_one_survive_too():
    model = build(config(SMALL, dtype=torch.float64), 4)
    louder = LouderAttention(model.cfg, 1).double()
    louder.load_state_dict(model.blocks[1].attn.state_dict())
    model.blocks[1].attn = louder
    model.name_hook_points(model.axis_sizes)
    for twin in (copy.deepcopy(model), fold_value_biases(model), pickle.loads(pickle.dumps(model))):
        assert [type(block.attn) for block in twin.blocks] == [Attention, LouderAttention, Attention]
    tokens = random_tokens(model.cfg, 1)
    assert model.run_with_cache(tokens)[1]["z", 1].shape == (3, 7, 4, 5)


def test_subclasses_are_swept_and_trained_as_what_they_are():
    model = own_model()
    clean, corrupted = random_tokens(model.cfg, 1), random_tokens(model.cfg, 2)
    swept = sweep(model, corrupted, clean, Logit(3), per_prompt=True, progress=False)
    _, cache = model.run_with_cache(clean)

    def write(x: Tensor, hook: Any) -> None:
        x[:, 4] = cache["resid_pre", 1][:, 4]

    want = model.run_with_hooks(corrupted, fwd_hooks=[(("resid_pre", 1), write)])[:, -1, 3]
    assert_close(torch.tensor(swept.sel(layer=1).isel(pos=4).values), want.detach())
    assert path_sweep(model, corrupted, clean, Logit(3), "L2H1.v", progress=False).shape == (3, 4)
    done = train(model, lambda generator: clean, 1, warmup=0, progress=False)
    assert is_own(done.model)


def test_contexts_of_whole_sequences_are_those_of_a_run(run: Run):
    if not has_all_it_reads(run.cfg):
        return
    x = run.cache["resid_pre", 0]
    for layer, context in enumerate(run.model.layer_contexts(run.model.masked_tokens(run.tokens))):
        own = LayerContext.of_whole_sequences(run.cfg, layer, x)
        assert torch.equal(own.visible, context.visible)
        assert (own.rotation is None) == (context.rotation is None)
        for one, other in zip(own.rotation or (), context.rotation or (), strict=True):
            assert torch.equal(one, other)


class Stubborn(HookedTransformer):
    """A model whose callers get something else from everything that it is run by."""

    base_forward = HookedTransformer.base_forward

    def forward(self, text: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return "a picture"

    def run_with_cache(self, text: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {}

    def run_with_hooks(self, text: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError

    def generate(self, *args: Any, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().generate(*args, **options).texts[0]  # pyright: ignore


def test_a_subclass_with_a_forward_of_its_own_says_whether_analyses_run_it():
    base: Any = HookedTransformer.forward

    def twice(self: HookedTransformer, input: Any, *rest: Any, **options: Any) -> Any:
        return 2 * base(self, input, *rest, **options)

    with pytest.warns(UserWarning, match=r"Silent has a forward of its own.*base_forward = HookedTransformer\."):
        type("Silent", (HookedTransformer,), {"forward": twice})
    cfg = config(SMALL)
    tokens = random_tokens(cfg, 1)
    for ran, factor in ((twice, 2), (HookedTransformer.base_forward, 1)):
        made: Any = type("Said", (HookedTransformer,), {"forward": twice, "base_forward": ran})(cfg)
        plain = base(made, tokens)
        assert torch.equal(made(tokens), 2 * plain)
        assert torch.equal(made.run_with_cache(tokens)[0], factor * plain)
        assert torch.equal(made.run_with_hooks(tokens), factor * plain)


def test_analyses_go_past_what_a_subclass_makes_of_its_methods(tmp_path: Path):
    words = Vocabulary("abcdefghijk")
    cfg = config(SMALL, d_vocab=11)
    plain, stubborn = build(cfg, 5, words), Stubborn(cfg, words)
    stubborn.load_state_dict(plain.state_dict())
    clean, corrupted = random_tokens(cfg, 1), random_tokens(cfg, 2)
    assert stubborn(clean) == "a picture" and stubborn.run_with_cache(clean) == {}

    def analyses(model: HookedTransformer) -> Iterator[Any]:
        _, cache = model.base_run_with_cache(clean, gradient_of=KLDivergence(corrupted))
        yield cache["z_grad", 1].sum().item()
        yield sweep(model, corrupted, cache, Logit(3), progress=False)
        yield sweep(model, corrupted, Zero(), KLDivergence(clean), site="z", over=("layer", "head"), progress=False)
        yield path_sweep(model, corrupted, clean, Logit(3), "L2H1.v", progress=False)
        yield edge_scores(model, corrupted, clean, Logit(3), probe=0, progress=False)
        yield head_scores(model, n_prompts=2, length=5).to_array()
        yield logit_lens(model, clean)["top_prob"]
        yield loss_recovered(model, clean.tolist(), Zero(site="z", layer=1), n_ctx=8, progress=False).recovered
        folder = tmp_path / type(model).__name__
        store = harvest(model, clean.tolist(), ("resid_post", 1), folder=folder, n_ctx=8, progress=False)
        yield store.mean_of("blocks.1.hook_resid_post")

    for one, other in zip(analyses(stubborn), analyses(plain), strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
    (said,) = plain.generate("abc", 3, progress=False).texts or []
    assert stubborn.generate("abc", 3, progress=False) == said
    alone = stubborn.generate("abc", 3, progress=False, names_filter="*.hook_z")
    assert alone == said
