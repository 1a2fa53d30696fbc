"""`ActivationCache` of the TransformerLens module: rows are compared with what the model's own parts compute."""

from typing import Any

import pytest
import torch
from grid import GRID, SEED, assert_close, build, config, random_tensor, random_tokens
from torch import Tensor

from interp import HookNotFoundError
from interp.compat.transformer_lens import ActivationCache, HookedTransformer
from interp.compat.transformer_lens.utils import Slice

NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel"]


class Lens:
    """A model, prompts, and what a run left, with the embeddings and writes in order."""

    def __init__(self, name: str = "learned_ln", **changes: Any):
        self.model = HookedTransformer.over(build(config(GRID[name], n_layers=3, **changes), SEED))
        self.cfg, self.tokens = self.model.cfg, random_tokens(self.model.core.cfg, SEED, 2, 5)
        self.logits, self.cache = self.model.run_with_cache(self.tokens)

    def writes(self, layer: int, mlp_input: bool = False) -> dict[str, Tensor]:
        found = {name: self.cache[name] for name in ("embed", "pos_embed") if f"hook_{name}" in self.cache}
        for block in range(layer):
            found |= {f"{block}_{part}": self.cache[part, block] for part in ("attn_out", "mlp_out")}
        return found | ({f"{layer}_attn_out": self.cache["attn_out", layer]} if mlp_input else {})


@pytest.fixture(params=NAMES)
def lens(request: pytest.FixtureRequest) -> Lens:
    return Lens(request.param)


def test_names_are_found_in_every_form(lens: Lens):
    cache, last = lens.cache, lens.cfg.n_layers - 1
    for key, name in {
        "k1": "blocks.1.attn.hook_k", ("k", 1): "blocks.1.attn.hook_k", ("k", 1, "attn"): "blocks.1.attn.hook_k",
        ("resid_post", -1): f"blocks.{last}.hook_resid_post", "embed": "hook_embed", ("embed", None): "hook_embed",
        ("scale", -1, "ln1"): f"blocks.{last}.ln1.hook_scale", "scale1ln1": "blocks.1.ln1.hook_scale",
        ("normalized", None): "ln_final.hook_normalized", ("attn", 0): "blocks.0.attn.hook_pattern",
    }.items():  # fmt: skip
        assert cache[key] is cache.cache_dict[name], key
    assert list(cache) == list(cache.keys()) and len(cache) == len(list(cache.values())) == len(dict(cache.items()))
    assert "hook_embed" in cache and "hook_embd" not in cache and cache.has_embed
    with pytest.raises(KeyError, match="did you mean"):
        cache["resid_pro", 1]


def test_the_last_layer_is_the_final_stream_for_minus_one_and_none(lens: Lens):
    n = lens.cfg.n_layers
    final = lens.cache["resid_post", n - 1]
    for layer in (-1, None, n):
        assert torch.equal(lens.cache.accumulated_resid(layer)[-1], final)
        assert_close(lens.cache.decompose_resid(layer).sum(0), final)
        assert_close(lens.cache.get_full_resid_decomposition(layer).sum(0), final)
        assert len(lens.cache.stack_head_results(layer)) == n * lens.cfg.n_heads
        assert_close(lens.cache.apply_ln_to_stack(final[None], layer), lens.cache.apply_ln_to_stack(final[None], n))
    assert torch.equal(lens.cache.accumulated_resid(2)[-1], lens.cache["resid_pre", 2])


def test_rows_are_the_writes_in_order_and_labelled(lens: Lens):
    for layer, mlp_input in ((0, False), (2, False), (1, True)):
        want = lens.writes(layer, mlp_input)
        rows, labels = lens.cache.decompose_resid(layer, mlp_input, return_labels=True)
        assert labels == list(want) and torch.equal(rows, torch.stack(list(want.values())))
        for mode in ("attn", "mlp"):
            rows, labels = lens.cache.decompose_resid(layer, mlp_input, mode, incl_embeds=not layer, return_labels=True)
            assert labels == [name for name in want if mode in name or ("embed" in name and not layer)]
    _, labels = lens.cache.accumulated_resid(return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    if not lens.cfg.parallel_attn_mlp:
        rows, labels = lens.cache.accumulated_resid(1, incl_mid=True, mlp_input=True, return_labels=True)
        assert labels == ["0_pre", "0_mid", "1_pre", "1_mid"] and torch.equal(rows[-1], lens.cache["resid_mid", 1])


def test_heads_and_neurons_sum_with_the_remainder_to_the_stream(lens: Lens):
    blocks = lens.model.blocks
    heads, labels = lens.cache.stack_head_results(2, return_labels=True, incl_remainder=True)
    assert labels[:2] == ["L0H0", "L0H1"] and labels[-1] == "remainder" and len(labels) == 2 * lens.cfg.n_heads + 1
    assert_close(heads.sum(0), lens.cache["resid_post", 1])
    assert_close(heads[1], lens.cache["z", 0][:, :, 1] @ blocks[0].attn.W_O[1])
    assert torch.equal(lens.cache["result", 1][:, :, 0], heads[lens.cfg.n_heads])
    neurons, labels = lens.cache.stack_neuron_results(2, neuron_slice=[0, 3], return_labels=True)
    assert labels == ["L0N0", "L0N3", "L1N0", "L1N3"]
    assert_close(neurons[3], lens.cache["post", 1][..., 3, None] * blocks[1].mlp.W_out[3])
    assert torch.equal(lens.cache.get_neuron_results(1, 3), neurons[3])
    assert len(lens.cache.stack_neuron_results(2, neuron_slice=3)) == 2
    whole = lens.cache.stack_neuron_results(1, incl_remainder=True)
    assert_close(whole.sum(0), lens.cache["resid_post", 0])
    assert lens.cache.stack_head_results(0).shape == (0, *lens.cache["embed"].shape)


def test_the_full_decomposition_begins_with_heads_and_ends_with_biases(lens: Lens):
    for expanded, n_mlp in ((True, 2 * (lens.cfg.d_mlp or 0)), (False, 2)):
        rows, labels = lens.cache.get_full_resid_decomposition(2, expand_neurons=expanded, return_labels=True)
        assert labels[0] == "L0H0" and labels[2 * lens.cfg.n_heads] == ("L0N0" if expanded else "0_mlp_out")
        embeds = ["embed", *(["pos_embed"] if lens.cache.has_pos_embed else [])]
        assert labels[2 * lens.cfg.n_heads + n_mlp :] == [*embeds, "bias"]
        assert_close(rows.sum(0), lens.cache["resid_pre", 2])
        biases = [block.attn.b_O + (block.mlp.b_out if expanded else 0) for block in lens.model.blocks[:2]]
        bias = torch.stack(biases).sum(0)
        assert_close(rows[-1], bias.expand_as(rows[-1]))
    W_U = lens.model.W_U
    assert_close(
        lens.cache.get_full_resid_decomposition(project_output_onto=W_U),
        lens.cache.get_full_resid_decomposition() @ W_U,
    )


def test_a_norm_divides_rows_by_its_scale_and_adds_no_gain(lens: Lens):
    rows = random_tensor(4, 2, 5, lens.cfg.d_model)
    for layer, mlp_input, name in ((1, False, "blocks.1.ln1"), (1, True, "blocks.1.ln2"), (-1, False, "ln_final")):
        centred = rows - rows.mean(-1, keepdim=True) if lens.model.core.cfg.normalization_type == "LN" else rows
        want = centred / lens.cache[f"{name}.hook_scale"]
        assert_close(lens.cache.apply_ln_to_stack(rows, layer, mlp_input), want)
        cut = lens.cache.apply_ln_to_stack(rows[:, :, -1], layer, mlp_input, pos_slice=-1, batch_slice=1)
        assert_close(cut, want[:, 1, -1])
    everything = lens.cache.decompose_resid(apply_ln=True, pos_slice=-1)
    assert_close(everything, lens.cache.apply_ln_to_stack(lens.cache.decompose_resid())[:, :, -1])


def test_logit_attributions_of_folded_models_sum_to_the_logit():
    for name in NAMES:
        lens = Lens(name)
        lens.model.process_weights_(center_writing_weights=name == "learned_ln", center_unembed=False)
        logits, cache = lens.model.run_with_cache(lens.tokens)
        rows = cache.get_full_resid_decomposition(expand_neurons=False)
        for tokens, incorrect in ((3, None), (torch.tensor([3, 4]), torch.tensor([5, 6]))):
            right = torch.as_tensor(tokens).expand(2)
            want = logits.gather(-1, right[:, None, None].expand(2, 5, 1))[..., 0] - lens.model.b_U[right][:, None]
            if incorrect is not None:
                want = want - logits.gather(-1, incorrect[:, None, None].expand(2, 5, 1))[..., 0]
                want = want + lens.model.b_U[incorrect][:, None]
            got = cache.logit_attrs(rows[:, :, -1], tokens, incorrect, pos_slice=-1)
            assert_close(got.sum(0), want[:, -1])
        with pytest.raises(ValueError, match="same shape"):
            cache.logit_attrs(rows, torch.tensor([3, 4]), 5)


def test_one_prompt_can_lose_its_batch_axis():
    lens = Lens()
    _, single = lens.model.run_with_cache(lens.tokens[:1], remove_batch_dim=True)
    _, batch = lens.model.run_with_cache(lens.tokens[:1])
    for cache in (single, ActivationCache(dict(batch.items()), lens.model).remove_batch_dim()):
        assert not cache.has_batch_dim
        assert torch.equal(cache["resid_pre", 1], batch["resid_pre", 1][0])
        for method in ("accumulated_resid", "decompose_resid", "stack_head_results", "get_full_resid_decomposition"):
            got, want = (getattr(one, method)(2, apply_ln=True) for one in (cache, batch))
            assert_close(got, want[:, 0])
        assert_close(cache.logit_attrs(cache.decompose_resid(), 3, has_batch_dim=False),
                     batch.logit_attrs(batch.decompose_resid(), 3)[:, 0])  # fmt: skip
    with pytest.warns(UserWarning, match="no batch dimension"):
        single.remove_batch_dim()
    with pytest.raises(AssertionError, match="size 2"):
        lens.cache.remove_batch_dim()
    some = lens.cache.apply_slice_to_batch_dim(Slice([1]))
    one = lens.cache.apply_slice_to_batch_dim(1)
    assert some.has_batch_dim and not one.has_batch_dim and torch.equal(one["embed"], some["embed"][0])
    with pytest.raises(AssertionError):
        one.apply_slice_to_batch_dim(0)


def test_a_dictionary_that_is_no_run_is_taken_apart_too():
    lens = Lens()
    _, cache = lens.model.run_with_cache(lens.tokens, return_type="loss", incl_bwd=True)
    gradients = {name.removesuffix("_grad"): value for name, value in cache.items() if name.endswith("_grad")}
    made = ActivationCache(gradients, lens.model)
    assert made.core is None and cache.core is not None
    assert torch.equal(made.accumulated_resid()[1], cache["blocks.1.hook_resid_pre_grad"])
    z = cache["blocks.0.attn.hook_z_grad"]
    assert_close(made.stack_head_results(1)[1], z[:, :, 1] @ lens.model.blocks[0].attn.W_O[1])


def test_the_same_run_is_there_for_interps_own_functions(lens: Lens):
    core = lens.cache.core
    assert core is not None and core.is_current()
    want = lens.model.core.run_with_cache(lens.tokens)[1]
    for name, value in want.items():
        assert_close(core[name], value)
    assert_close(core.decompose_resid().values.sum(0), want["blocks.2.hook_resid_post"])
    lens.model.add_hook("hook_embed", lambda value, hook: value + 1)
    _, edited = lens.model.run_with_cache(lens.tokens)
    assert edited.core is not None and edited.core.edited
    mask = torch.ones_like(lens.tokens)
    mask[0, 0] = 0
    _, masked = lens.model.run_with_cache(lens.tokens, attention_mask=mask)
    assert torch.equal(masked.core.attention_mask, mask.bool())
    _, cut = lens.model.run_with_cache(lens.tokens, attention_mask=mask, pos_slice=(0, 2))
    assert torch.equal(cut.core.attention_mask, mask[:, :2].bool())


def test_one_activation_of_all_layers_is_stacked(lens: Lens):
    stack = lens.cache.stack_activation("scale", -1, "ln1")
    assert torch.equal(stack[1], lens.cache["scale", 1, "ln1"]) and len(stack) == lens.cfg.n_layers
    assert len(lens.cache.stack_activation("pattern", 2)) == 2
    with pytest.raises(HookNotFoundError):
        lens.cache.stack_activation("result")


def test_a_cache_moves_and_switches_gradients_for_all_of_torch():
    lens = Lens()
    assert lens.cache.to("cpu") is lens.cache
    with pytest.warns(UserWarning, match="global state"):
        lens.cache.toggle_autodiff(False)
    try:
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
