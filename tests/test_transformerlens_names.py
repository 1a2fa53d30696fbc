"""The README's table for those who come from TransformerLens: what it names is there, on either side.

`THERE` states what releases 1.19.0, 2.16.1 and 3.0.0 of that library have in common, read off their sources.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grid import GRID, run_of

from interp import ActivationCache, HookedTransformer
from interp.model.rows import Stack

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

THERE = {
    "from_pretrained": "model_name fold_ln center_writing_weights center_unembed refactor_factored_attn_matrices "
    "checkpoint_index checkpoint_value hf_model device n_devices tokenizer move_to_device fold_value_biases "
    "default_prepend_bos default_padding_side dtype",
    "decompose_resid": "layer mlp_input mode apply_ln pos_slice incl_embeds return_labels",
    "get_full_resid_decomposition": "layer mlp_input expand_neurons apply_ln pos_slice return_labels",
    "accumulated_resid": "layer incl_mid apply_ln pos_slice mlp_input return_labels",
    "stack_head_results": "layer return_labels incl_remainder pos_slice apply_ln",
    "stack_neuron_results": "layer pos_slice neuron_slice return_labels incl_remainder apply_ln",
    "apply_ln_to_stack": "residual_stack layer mlp_input pos_slice batch_slice has_batch_dim",
    "logit_attrs": "residual_stack tokens incorrect_tokens pos_slice batch_slice has_batch_dim",
    "tokens_to_residual_directions": "tokens",
    "all_composition_scores": "mode",
    "head_detector.detect_head": "model seq detection_pattern heads cache exclude_bos exclude_current_token "
    "error_measure",
    "patching.get_act_patch_resid_pre": "model corrupted_tokens clean_cache patching_metric",
    "cfg.use_attn_result": "",
    "cfg.use_split_qkv_input": "",
    "cfg.use_attn_in": "",
    "cfg.use_hook_mlp_in": "",
}
"""Functions and their parameters, methods of model and cache by their bare names; and fields of the config."""

HOOKS_THERE = [
    "hook_embed",
    "hook_pos_embed",
    "hook_mid",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_in",
    "hook_q_input",
    "hook_k_input",
    "hook_v_input",
    "hook_mlp_in",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_scale",
    "hook_normalized",
    "hook_q",
    "hook_k",
    "hook_v",
    "hook_rot_q",
    "hook_rot_k",
    "hook_attn_scores",
    "hook_pattern",
    "hook_z",
    "hook_result",
    "hook_pre",
    "hook_pre_linear",
    "hook_post",
    "hook_tokens",
    "hook_token_type_embed",
]

OURS_ALONE = {"hook_bias"}
"""Points that have no counterpart there: the bias of relative positions is added there without one."""


def table() -> list[tuple[list[ast.expr], list[ast.expr]]]:
    """The expressions between code marks in either column, a pair a row."""
    lines = README.split("| there | here |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [(expressions(there), expressions(here)) for there, here in (line.strip("|").split(" | ") for line in lines)]


def expressions(cell: str) -> list[ast.expr]:
    codes = re.findall(r"`\.?([^`]+)`", cell.replace("get_act_patch_*", "get_act_patch_resid_pre"))
    return [ast.parse(code, mode="eval").body for code in codes]


def name_of(expression: ast.expr) -> str:
    """What is called or read, without the model or the cache that it is read from."""
    dotted = ast.unparse(expression.func if isinstance(expression, ast.Call) else expression)
    return dotted.removeprefix("model.").removeprefix("cache.")


def test_what_the_table_names_is_in_transformerlens():
    for there, _ in table():
        for expression in there:
            parameters = THERE[name_of(expression)].split()
            if isinstance(expression, ast.Call):
                assert {keyword.arg for keyword in expression.keywords} <= set(parameters), ast.unparse(expression)
                assert len(expression.args) <= len(parameters)


def test_what_the_table_offers_instead_is_here():
    for _, here in table():
        for expression in here:
            if isinstance(expression, ast.Tuple | ast.Subscript):
                continue  # the key of an activation, a row by its label
            found = offered(name_of(expression))
            if isinstance(expression, ast.Call):
                assert len(expression.args) <= len(inspect.signature(found).parameters), ast.unparse(expression)


def offered(name: str) -> Any:
    """What a name of the table is: in a room that it gives, or of the model, the cache or a stack."""
    room, _, attribute = name.rpartition(".")
    if room:
        return getattr(importlib.import_module("interp." + room.removeprefix("interp.")), attribute)
    stack = SimpleNamespace(Stack=Stack, **dict.fromkeys(Stack.__dataclass_fields__))
    (found, *_) = [getattr(one, name) for one in (HookedTransformer, ActivationCache, stack) if hasattr(one, name)]
    return found


def test_hook_points_have_the_names_of_transformerlens():
    ours = {name.rpartition(".")[2] for name in GRID for name in run_of(name).model.hook_map()}
    assert ours <= set(HOOKS_THERE) | OURS_ALONE


def test_decompositions_have_the_names_and_arguments_of_transformerlens():
    for name in THERE:
        if hasattr(ActivationCache, name):
            _, *ours = inspect.signature(getattr(ActivationCache, name)).parameters
            assert set(ours) - {"stack", "cross_input"} <= set(THERE[name].split()), name
