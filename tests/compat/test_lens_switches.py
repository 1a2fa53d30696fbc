"""Which points a predicate means: those that the configuration switches on."""

import pytest
import torch

from interp.compat import transformer_lens
from interp.errors import InterpError

SIZES = {"n_layers": 2, "d_model": 8, "d_head": 4, "n_ctx": 8, "d_vocab": 7, "act_fn": "relu", "seed": 0}
TOKENS = torch.tensor([[1, 4, 2]])


def seen(model: transformer_lens.HookedTransformer, part: str) -> set[str]:
    """The last parts of the names at which a hook ran that was added to all whose name has this part."""
    names: set[str] = set()
    model.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: part in name, lambda value, hook: names.add(hook.name))])
    return {name.rpartition(".")[2] for name in names}


def test_a_predicate_means_the_points_that_are_switched_on() -> None:
    model = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**SIZES))
    lazy = {"hook_result", "hook_q_input", "hook_attn_in", "hook_mlp_in", "hook_tokens"}
    assert "hook_pattern" in seen(model, "") and not seen(model, "") & lazy
    model.set_use_attn_result(True)
    assert seen(model, "") & lazy == {"hook_result"}
    model.add_hook(lambda name: "_input" not in name, lambda value, hook: None)  # as the attribution patching demo does
    assert model.hook_dict["blocks.1.attn.hook_result"].fwd_hooks and model.hook_dict["hook_embed"].fwd_hooks
    assert not model.hook_dict["blocks.0.hook_mlp_in"].fwd_hooks


def test_tokens_have_a_point_only_where_the_config_says_so() -> None:
    for there in (False, True):
        cfg = transformer_lens.HookedTransformerConfig(**SIZES, use_hook_tokens=there)
        model = transformer_lens.HookedTransformer(cfg)
        assert ("hook_tokens" in model.hook_dict) is ("hook_tokens" in model.run_with_cache(TOKENS)[1]) is there
        with pytest.raises(InterpError, match="make another model"):
            model.cfg.use_hook_tokens = not there
    model.add_hook("hook_tokens", lambda tokens, hook: tokens.flip(1))
    assert torch.equal(model(TOKENS), model.core(TOKENS)) and not torch.equal(model(TOKENS.flip(1)), model(TOKENS))


def test_a_predicate_that_is_true_of_switched_off_points_alone_is_refused_by_add_hook() -> None:
    model = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**SIZES))
    with pytest.raises(InterpError, match="use_split_qkv_input"):
        model.add_hook(lambda name: name.endswith("hook_q_input"), lambda value, hook: None)


def test_every_module_has_the_name_of_its_place() -> None:
    model = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**SIZES))
    assert model.ln_final.name == "ln_final" and model.blocks[1].attn.name == "blocks.1.attn"
    assert all(part.name == name for name, part in model.mod_dict.items())
