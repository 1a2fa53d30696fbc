"""Names of points in a model of two stacks: what is ambiguous, what is near, and what a cache holds."""

import ast
import re
from typing import Any

import pytest
from two_stacks import build_pair, random_prompts

from interp import ConfigError, HookNotFoundError
from interp.interventions import Patch


def suggested(message: str) -> list[Any]:
    """The names that a message says or suggests."""
    said = re.split(r"did you mean |; say |: say ", message)[1].split(" for one of them")[0].rstrip("?")
    return [ast.literal_eval(name) for name in said.split(" or ")]


def test_every_name_that_a_message_suggests_works_as_it_stands():
    model = build_pair("bart_like")
    _, cache = model.run_with_cache(random_prompts(model, 1), names_filter=list(model.hook_map()))
    wrong: list[Any] = [
        ("patern", 0, "encoder"),
        ("decoder.patern", 1),
        ("pattern", 0, "encodr"),
        ("pattern", 0),
        ("scale", 1, "decoder"),
        ("resid_cros", 0),
        ("z", 0, "cros_attn"),
        "encoder.blocks.1.attn.hook_patern",
        "decoder.hook_embd",
    ]
    for name in [*wrong, "decoder.cross_attn.pattern", "encoder.pattern"]:
        with pytest.raises(HookNotFoundError) as error:
            model.resolve_hooks(name)
        for near in suggested(str(error.value)):
            assert len(model.resolve_hooks(near)) == 1, (name, near)
    for name in wrong:
        with pytest.raises(HookNotFoundError) as error:
            _ = cache[name]
        for near in suggested(str(error.value)):
            assert cache[near] is cache[model.resolve_hooks(near)[0]]
    glob = "'encoder.blocks.*.attn.hook_z' or 'decoder.blocks.*.attn.hook_z'"
    with pytest.raises(HookNotFoundError, match=re.escape(glob)):
        model.resolve_hooks("blocks.*.attn.hook_z")


def test_a_site_that_fits_several_points_of_a_stack_is_in_that_stack():
    model = build_pair("causal_encoder_attn_only")  # whose decoder has two norms in a block
    _, cache = model.run_with_cache(random_prompts(model, 1))
    for ask in (lambda: model.resolve_hooks(("scale", 0)), lambda: cache["scale", 0], lambda: cache.stack("scale")):
        with pytest.raises(HookNotFoundError, match=r"(fits points of|is in) both stacks"):
            ask()
    assert cache["scale", 0, "ln_cross"] is cache["decoder.blocks.0.ln_cross.hook_scale"]


def test_short_names_find_cached_gradients_of_the_only_stack_that_has_them():
    model = build_pair("t5_like")
    _, cache = model.run_with_cache(random_prompts(model, 1), gradient_of="loss")
    for short in (
        ("pattern_grad", 1, "cross_attn"),
        ("cross_attn.pattern_grad", -1),
        ("pattern_grad", 1, "cross_attn", "decoder"),
    ):
        assert cache[short] is cache["decoder.blocks.1.cross_attn.hook_pattern_grad"]
    assert cache["resid_cross_grad", 0] is cache["decoder.blocks.0.hook_resid_cross_grad"]
    assert cache.stack(("pattern_grad", "cross_attn")).shape[0] == 2
    with pytest.raises(HookNotFoundError, match="fits points of both stacks"):
        _ = cache["pattern_grad", 0]


def test_what_is_no_site_or_says_a_stack_of_a_single_model_is_refused_by_name(as_installed: None):
    model = build_pair("t5_like")
    _, cache = model.run_with_cache(random_prompts(model, 1))
    no_site: Any = 3
    with pytest.raises(ConfigError, match="site = 3; allowed"):
        cache.stack(no_site)
    with pytest.raises(ConfigError, match=r"says 'encoder', and this model has one stack.* PairCache"):
        Patch(cache.encoder, site=("z", "encoder"), layer=0)
    for name in (("pattern",), ("pattern", 0, "encoder", "decoder"), ("pattern", "0", "encoder")):
        given: Any = name
        with pytest.raises(HookNotFoundError, match=r"is not a short name|names nothing in layer 0"):
            model.resolve_hooks(given)
