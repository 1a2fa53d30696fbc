"""`HookedTransformer` of the TransformerLens module: runs, masks, kept keys, weights and their processing."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import GRID, SEED, assert_close, build, config, random_tokens
from torch import Tensor, nn

import interp
from interp import ConfigError, weights
from interp.checkpoints import to_transformer_lens
from interp.compat.transformer_lens import HookedTransformer, HookedTransformerConfig, HookedTransformerKeyValueCache
from interp.config import RotaryScaling

NAMES = ["learned_ln", "rotary_rms_gated_grouped", "partial_rotary_parallel", "shortformer_attn_only"]
SMALL: dict[str, Any] = {"n_layers": 2, "d_model": 12, "d_head": 4, "n_ctx": 9, "d_vocab": 13, "act_fn": "gelu"}


def lens(name: str = "learned_ln", **changes: Any) -> HookedTransformer:
    return HookedTransformer.over(build(config(GRID[name], n_layers=3, **changes), SEED))


def ids(model: HookedTransformer, batch: int = 2, n_pos: int = 5) -> Tensor:
    return random_tokens(model.core.cfg, SEED, batch, n_pos)


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize("name", NAMES)
def test_runs_give_what_the_core_gives(name: str):
    model = lens(name)
    tokens, core = ids(model), model.core
    logits = core(tokens)
    assert torch.equal(model(tokens), logits) and torch.equal(model(tokens[0]), core(tokens[:1]))
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert_close(model(tokens, return_type="loss"), losses.mean())
    assert_close(model(tokens, "loss", loss_per_token=True), losses)
    both = model(tokens, return_type="both")
    assert torch.equal(both.logits, logits) and torch.equal(both[1], both.loss)
    assert model(tokens, return_type=None) is None
    for layer in (0, 1, -1, 3):
        assert torch.equal(model(tokens, stop_at_layer=layer, return_type="loss"), core(tokens, stop_at_layer=layer))
    stream = model(tokens, stop_at_layer=1)
    positions = None if name[0] != "s" else model.input_to_embed(tokens)[2]
    again = {"start_at_layer": 1, "shortformer_pos_embed": positions}
    assert torch.equal(model(stream, **again), logits)
    assert_close(model(stream, tokens=tokens, return_type="loss", **again), losses.mean())
    with pytest.raises(AssertionError, match="tokens must be passed"):
        model(stream, return_type="loss", **again)
    with pytest.raises(ConfigError, match="did you mean 'logits'"):
        model(tokens, return_type="logit")


def test_shortformer_models_that_start_at_a_layer_see_the_positions_they_are_given():
    model = lens("shortformer_attn_only")
    tokens = ids(model)
    stream = model(tokens, stop_at_layer=1)
    without = model(stream, start_at_layer=1)
    assert not torch.allclose(without, model(tokens))
    with torch.no_grad():
        model.pos_embed.W_pos.zero_()
    assert_close(model.core(stream, start_at_layer=1), without)


def test_padding_is_neither_seen_nor_counted():
    for name in NAMES[:3]:
        model = lens(name)
        tokens = ids(model, 1)
        for left in (True, False):
            padded = F.pad(tokens, (2, 0) if left else (0, 2), value=1)
            mask = F.pad(torch.ones_like(tokens), (2, 0) if left else (0, 2))
            logits = model(padded, attention_mask=mask)
            assert_close(logits[mask.bool()], model(tokens)[0])
            assert_close(model(padded, "loss", attention_mask=mask), model(tokens, "loss"))
            with pytest.raises(AssertionError, match="attention_mask"):
                model(padded, attention_mask=mask[:, 1:])


def test_bidirectional_attention_sees_padding_and_positions_do_not():
    """As in TransformerLens: every position attends to all, and padding has the zero vector for its position."""
    model = lens(attention_dir="bidirectional")
    tokens = ids(model)
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    positions = torch.stack([torch.tensor([0, 0, 0, 1, 2]), torch.arange(5)])
    stream = model.W_E[tokens] + model.W_pos[positions] * mask[..., None]
    want = model.core(stream, start_at_layer=0)
    assert_close(model(tokens, attention_mask=mask), want)
    assert not torch.allclose(want, model.core(tokens, attention_mask=mask))
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    assert not cache["pos_embed"][0, :2].any() and not model.hook_dict["hook_pos_embed"].fwd_hooks
    rotary = lens("rotary_rms_gated_grouped", attention_dir="bidirectional")
    with pytest.raises(ConfigError, match="bidirectional"):
        rotary(ids(rotary), attention_mask=mask)


def test_kept_keys_give_the_same_logits_and_can_be_frozen():
    for name in NAMES[:3]:
        model = lens(name)
        tokens = ids(model)
        kept = HookedTransformerKeyValueCache.init_cache(model.cfg, model.cfg.device, 2)
        assert kept[0].past_keys is None
        model(tokens[:, :2], past_kv_cache=kept)
        kept.freeze()
        for _ in range(2):
            assert_close(model(tokens[:, 2:], past_kv_cache=kept), model(tokens)[:, 2:])
        kept.unfreeze()
        model(tokens[:, 2:4], past_kv_cache=kept)
        assert_close(model(tokens[:, 4:], past_kv_cache=kept), model(tokens)[:, 4:])
        assert len(kept.entries) == 3 and kept[1].past_values.shape[1] == 5
        assert torch.equal(kept.previous_attention_mask, torch.ones(2, 5).int())


def test_masks_are_remembered_beside_kept_keys_unless_these_are_frozen():
    kept = HookedTransformerKeyValueCache.init_cache(lens().cfg)
    first, second = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[True], [False]])
    assert torch.equal(kept.append_attention_mask(first), first)
    kept.freeze()
    for _ in range(2):
        assert torch.equal(kept.append_attention_mask(second), torch.tensor([[0, 1, 1], [1, 1, 0]]))
    assert torch.equal(kept.previous_attention_mask, first)


# ---------------------------------------------------------------------- weights


def test_parameters_are_the_cores_and_stay_so_when_the_model_moves():
    model = lens("rotary_rms_gated_grouped")
    core, tokens = model.core, ids(model)
    ours = dict(core.named_parameters())
    assert all(parameter is ours[name] for name, parameter in model.named_parameters())
    assert set(ours) - set(dict(model.named_parameters())) == {
        f"blocks.{layer}.mlp.{bias}" for layer in range(3) for bias in ("b_in", "b_gate")
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = core(tokens)
    model(tokens, "loss").backward()
    optimizer.step()
    assert not torch.equal(core(tokens), before)
    assert model.to(torch.float64) is model and model.cfg.dtype is torch.float64 and core.W_E.dtype is torch.float64
    assert model.cfg.device == core.W_E.device and model.cpu().half().cfg.dtype is torch.float16
    assert not model.eval().blocks[0].training


def test_circuits_are_not_divided_by_the_scale():
    model = lens("rotary_rms_gated_grouped")
    assert_close(model.QK.AB, model.W_Q @ model.W_K.mT)
    assert_close(model.QK.AB, model.core.QK.dense() * model.core.cfg.attn_scale)
    assert_close(model.OV.AB, model.W_V @ model.W_O)
    assert model.W_K.shape == model.W_Q.shape and lens().W_gate is None
    assert_close(lens().W_E_pos[-1], lens().W_pos[-1])


def test_composition_is_of_later_heads_alone():
    model = lens("rotary_rms_gated_grouped")
    products: dict[str, tuple[Tensor, Tensor]] = {
        "Q": (model.OV.AB, model.QK.AB), "K": (model.OV.AB, model.QK.AB.mT), "V": (model.OV.AB, model.OV.AB)
    }  # fmt: skip
    for mode, (left, right) in products.items():
        scores = model.all_composition_scores(mode)
        for earlier, later in ((0, 1), (1, 2), (2, 1), (1, 1)):
            a, b = left[earlier, 1], right[later, 0]
            want = (a @ b).norm() / a.norm() / b.norm() if earlier < later else torch.tensor(0.0)
            assert_close(scores[earlier, 1, later, 0], want.to(scores))
    assert model.all_head_labels()[model.cfg.n_heads] == "L1H0"


def test_biases_accumulate_up_to_a_place():
    model = lens()
    blocks = model.blocks
    assert not model.accumulated_bias(0).any()
    assert_close(model.accumulated_bias(1), blocks[0].attn.b_O + blocks[0].mlp.b_out)
    assert_close(model.accumulated_bias(1, mlp_input=True), model.accumulated_bias(1) + blocks[1].attn.b_O)
    assert_close(model.accumulated_bias(1, include_mlp_biases=False), blocks[0].attn.b_O)
    with pytest.raises(AssertionError):
        model.accumulated_bias(3, mlp_input=True)


@pytest.mark.parametrize("name", NAMES[:3])
def test_processing_is_that_of_the_core_and_the_config_says_so(name: str):
    model = lens(name)
    tokens, core = ids(model), model.core
    logits, gain = model(tokens), core.ln_final.w
    is_ln = core.cfg.normalization_type == "LN"
    model.hook_dict["hook_embed"].ctx["kept"] = True
    calls: list[int] = []
    model.add_perma_hook("hook_embed", lambda value, hook: calls.append(1))
    model.process_weights_(center_writing_weights=is_ln)
    want = weights.fold_layer_norm(core)
    want = weights.center_writing_weights(want) if is_ln else want
    want = weights.fold_value_biases(weights.center_unembed(want))
    for (key, got), (_, value) in zip(model.core.state_dict().items(), want.state_dict().items(), strict=True):
        assert torch.equal(got, value), key
    assert model.cfg.normalization_type == ("LNPre" if is_ln else "RMSPre")
    assert not any(".ln" in key for key in [*model.state_dict(), *dict(model.named_parameters())])
    assert_close(model(tokens).log_softmax(-1), logits.log_softmax(-1))
    assert calls == [1] and model.hook_dict["hook_embed"].ctx == {"kept": True}
    assert model.core is not core and core.ln_final.w is gain
    model.reset_hooks(including_permanent=True)
    assert not model.hook_dict["hook_embed"].hooks


def test_a_step_that_an_architecture_does_not_allow_is_left_out_and_says_why():
    model = lens("rotary_rms_gated_grouped")
    state = model.state_dict()
    with pytest.warns(UserWarning, match="center_writing_weights is left out: normalization_type = 'RMS'"):
        model.load_and_process_state_dict(state, fold_ln=False, center_unembed=False, fold_value_biases=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_have_their_names_and_come_back(name: str):
    model = lens(name)
    with torch.no_grad():
        for bias in (one for key, one in model.core.named_parameters() if key.endswith(("b_gate", "mlp.b_in"))):
            bias.zero_()  # the one they do not have, and the other is added elsewhere
        for parameter in model.parameters():
            parameter.add_(1)
    state = model.state_dict()
    theirs = to_transformer_lens(model.core.state_dict(), model.core.cfg)
    assert set(state) == {
        key for key in theirs if key.rpartition(".")[2] not in ("mask", "IGNORE", "rotary_sin", "rotary_cos")
    }
    for given in (state, theirs):
        other = lens(name)
        other.load_state_dict(given)
        assert torch.equal(other(ids(model)), model(ids(model)))
    some = {key: value for key, value in state.items() if "blocks.1" in key}
    other = lens(name)
    other.load_state_dict(some, strict=False)
    assert torch.equal(other.blocks[1].attn.W_K, model.blocks[1].attn.W_K)
    assert not torch.equal(other.blocks[0].attn.W_Q, model.blocks[0].attn.W_Q)
    with pytest.raises(interp.CheckpointError, match="missing"):
        other.load_state_dict(some)


def test_a_norm_of_embeddings_has_their_name_and_is_taken_by_it_in_part_too():
    fields = {**SMALL, "post_embedding_ln": True, "positional_embedding_type": "rotary"}
    model, other = (HookedTransformer({**fields, "seed": seed}) for seed in (1, 2))
    norms: Any = (model.core.embed_ln, other.core.embed_ln)
    norms[0].w.data.mul_(3)
    state = model.state_dict()
    assert torch.equal(state["embed.ln.w"], norms[0].w) and "embed_ln.w" not in state
    for strict in (True, False):
        other.load_state_dict(state, strict=strict)
        assert torch.equal(other(ids(model)), model(ids(model)))
        norms[1].w.data.zero_()


def test_keys_have_their_underscore_where_the_config_says_how_many_heads_share_them():
    for heads, name in ((None, "attn.W_K"), (3, "attn._W_K"), (1, "attn._W_K")):
        model = HookedTransformer({**SMALL, "n_key_value_heads": heads})
        assert f"blocks.0.{name}" in model.state_dict()
        model.load_state_dict(model.state_dict())
        model.load_state_dict(model.state_dict(), strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_a_bias_that_is_added_elsewhere_beside_a_gate_is_refused(strict: bool):
    model = HookedTransformer({**SMALL, "gated_mlp": True})
    state = model.state_dict()
    model.load_state_dict(state, strict=strict)
    with pytest.raises(interp.InterpError, match="dd b_in @ W_out to b_out"):
        model.load_state_dict(state | {"blocks.0.mlp.b_in": torch.ones(model.cfg.d_mlp)}, strict=strict)


@pytest.mark.parametrize("name", ["norms_on_both_sides", "gemma_like"])
def test_a_state_dict_of_a_tied_or_scaled_core_says_what_theirs_says_and_comes_back(name: str):
    def drawn(added: int) -> HookedTransformer:
        model = lens(name)
        for key, parameter in model.core.named_parameters():
            beside_a_gate = model.cfg.gated_mlp and key.endswith(("b_gate", "mlp.b_in"))  # which theirs has not
            parameter.detach().mul_(0 if beside_a_gate else 1).add_(0 if beside_a_gate else added)
        return model

    model = drawn(0)
    state, theirs = model.state_dict(), to_transformer_lens(model.core.state_dict(), model.core.cfg)
    for key in ("embed.W_E", "unembed.W_U"):
        assert torch.allclose(state[key], theirs[key], rtol=1e-14, atol=0)
    for strict in (True, False):
        other = drawn(1)
        assert not torch.allclose(other(ids(model)), model(ids(model)))
        other.load_state_dict(state, strict=strict)
        assert torch.allclose(other(ids(model)), model(ids(model)), rtol=0, atol=1e-10)


# ---------------------------------------------------------------------- configs


def test_a_config_has_their_defaults_and_says_the_cores():
    cfg = HookedTransformerConfig.from_dict({**SMALL, "d_head": 5, "seed": 3})
    assert (cfg.n_heads, cfg.d_mlp, cfg.d_vocab_out, cfg.normalization_type) == (2, 48, 13, "LN")
    assert cfg.attn_scale == 5**0.5 and cfg.initializer_range == 0.8 / 12**0.5 and cfg.default_prepend_bos
    core = cfg.to_core()
    assert (core.n_heads, core.d_head, core.attn_scale, core.act_fn) == (2, 5, 5**0.5, "gelu")
    assert HookedTransformerConfig.unwrap(cfg) is cfg and cfg.to_dict()["d_mlp"] == 48 and "d_mlp" in repr(cfg)
    assert HookedTransformerConfig.from_dict(SMALL | {"act_fn": "solu_ln"}).is_layer_norm_activation()
    more: dict[str, Any] = {
            "positional_embedding_type": "rotary", "n_key_value_heads": 1, "use_local_attn": True, "window_size": 4,
            "attn_types": ["local", "global"], "gated_mlp": True, "normalization_type": "RMSPre",
            "attn_scores_soft_cap": 5, "use_NTK_by_parts_rope": True, "act_fn": "gelu_pytorch_tanh",
            "use_attn_scale": False, "use_normalization_before_and_after": True}  # fmt: skip
    core = HookedTransformerConfig(**SMALL | more).to_core()
    assert core.window_size == (4, None) and core.attn_scale == 1 and core.norm_position == "both"
    assert isinstance(core.rotary_scaling, RotaryScaling) and core.rotary_scaling.factor == 8
    assert (core.normalization_type, core.act_fn, core.rotary_dim) == ("RMS", "gelu_new", 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_a_core_says_that_core(name: str):
    core = config(GRID[name])
    back = HookedTransformerConfig.of_core(core).to_core()
    assert back.architecture() == core.architecture()


@pytest.mark.usefixtures("as_installed")
def test_what_the_core_does_not_compute_is_refused_by_the_fields_name():
    for field, value in {
        "positional_embedding_type": "alibi", "normalization_type": "BN", "n_devices": 2, "load_in_4bit": True,
        "rotary_adjacent_pairs": True, "scale_attn_by_inverse_layer_idx": True, "final_rms": True,
        "ungroup_grouped_query_attention": True,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=field):
            HookedTransformer({**SMALL, field: value})
    with pytest.raises(ConfigError, match="did you mean d_model="):
        HookedTransformer({**SMALL, "d_modl": 3})
    for wrong in ({"act_fn": "gelo"}, {"act_fn": None}, {"use_local_attn": True}):
        with pytest.raises(AssertionError):
            HookedTransformerConfig.from_dict(SMALL | wrong)
    with pytest.raises(AssertionError, match="d_vocab"):
        HookedTransformer({**SMALL, "d_vocab": -1})
    with pytest.raises(ValueError, match="from_pretrained"):
        HookedTransformer("gpt2")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="sample_datapoint"):
        HookedTransformer(SMALL).sample_datapoint()


def test_a_models_config_is_its_own_and_only_switches_can_be_set():
    cfg = HookedTransformerConfig(**SMALL)
    model = HookedTransformer(cfg)
    model.cfg.use_attn_result = model.cfg.default_prepend_bos = False
    with pytest.raises(ConfigError, match="make another model"):
        model.cfg.attn_only = True
    cfg.n_layers = 1
    assert model.cfg.n_layers == 2 and HookedTransformer(cfg).cfg.n_layers == 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ConfigError, match="make another model"):
            other.cfg.attn_only = True
    for free in (copy.copy(model.cfg), copy.deepcopy(model.cfg), pickle.loads(pickle.dumps(model.cfg))):
        free.n_layers = 1
        assert HookedTransformer(free).cfg.n_layers == 1 and model.cfg.n_layers == 2
    with pytest.raises(ConfigError, match="ungroup"):
        model.set_ungroup_grouped_query_attention(True)
    with pytest.raises(AssertionError, match="attn_only"):
        HookedTransformer({**SMALL, "attn_only": True}).set_use_hook_mlp_in(True)


def test_a_seed_draws_the_weights_in_their_order():
    model = HookedTransformer({**SMALL, "seed": 3})
    torch.manual_seed(3)
    for weight in (model.W_E, model.W_pos, model.blocks[0].attn.W_Q, model.blocks[0].attn.W_O):
        assert torch.equal(weight, torch.empty_like(weight).normal_(std=0.8 / 12**0.5))
    assert torch.equal(HookedTransformer({**SMALL, "seed": 3}).W_U, model.W_U)
    with pytest.raises(ConfigError, match="init_mode = 'xavier_uniform'"):
        HookedTransformer({**SMALL, "init_mode": "xavier_uniform"})
    assert not HookedTransformer(SMALL).b_U.any()


def test_a_part_in_the_place_of_another_is_the_core_s_too():
    model = lens()
    tokens = ids(model)
    stream = model(tokens, stop_at_layer=3)
    model.ln_final = nn.Identity()
    assert torch.equal(model(tokens), model.unembed(stream)) and model.core.ln_final is model.ln_final
    unembed = copy.deepcopy(model.unembed)
    with torch.no_grad():
        unembed.W_U.zero_()
    model.unembed = unembed
    assert torch.equal(model(tokens), model.core.b_U.expand_as(model(tokens))) and model.W_U is unembed.W_U
    with pytest.raises(ConfigError, match="pos_embed cannot be replaced"):
        model.pos_embed = nn.Identity()
