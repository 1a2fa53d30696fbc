"""`interp.compat.migration` and `interp migrate`: what a program written for TransformerLens becomes here."""

import importlib
import inspect
import json
import operator
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from interp import CheckpointError, FactoredMatrix, HookedTransformer, HookPoint, TransformerConfig
from interp.commands.cli import app
from interp.compat.migration import VERDICTS, Finding, read_file
from interp.compat.migration.table import table

PUBLIC = {
    "HookedTransformer": """
        OV QK W_E W_E_pos W_K W_O W_Q W_U W_V W_gate W_in W_out W_pos accumulated_bias add_caching_hooks
        add_hook add_perma_hook all_composition_scores all_head_labels b_K b_O b_Q b_U b_V b_in b_out
        cache_all cache_some center_unembed center_writing_weights check_and_add_hook check_hooks_to_add
        clear_contexts fill_missing_keys fold_layer_norm fold_value_biases from_pretrained
        from_pretrained_no_processing generate get_caching_hooks get_pos_offset get_residual
        get_token_position hook_points hooks init_weights input_to_embed load_and_process_state_dict
        load_sample_training_dataset loss_fn move_model_modules_to_device process_weights_
        refactor_factored_attn_matrices remove_all_hook_fns reset_hooks run_with_cache run_with_hooks
        sample_datapoint set_tokenizer set_ungroup_grouped_query_attention set_use_attn_in set_use_attn_result
        set_use_hook_mlp_in set_use_split_qkv_input setup to_single_str_token to_single_token to_str_tokens
        to_string to_tokens tokens_to_residual_directions __call__ __init__ hook_dict mod_dict cfg tokenizer
    """,
    "ActivationCache": """
        accumulated_resid apply_ln_to_stack apply_slice_to_batch_dim compute_head_results decompose_resid
        get_full_resid_decomposition get_neuron_results items keys logit_attrs remove_batch_dim
        stack_activation stack_head_results stack_neuron_results toggle_autodiff values to cache_dict
        has_batch_dim model __getitem__
    """,
    "FactoredMatrix": """
        AB BA S T U Vh collapse_l collapse_r eigenvalues get_corner make_even ndim norm pair svd unsqueeze A B
        shape __getitem__ __init__ rdim ldim mdim has_leading_dims
    """,
    "HookedRootModule": """
        add_caching_hooks add_hook add_perma_hook cache_all cache_some check_and_add_hook check_hooks_to_add
        clear_contexts context_level get_caching_hooks hook_dict hook_points hooks is_caching mod_dict
        remove_all_hook_fns reset_hooks run_with_cache run_with_hooks setup __init__
    """,
    "HookPoint": """
        add_hook add_perma_hook clear_context layer remove_hooks name ctx fwd_hooks bwd_hooks
    """,
}
"""The names of TransformerLens 2.16.1's classes, read off the release."""

OURS: dict[str, Any] = {
    "HookedTransformer": HookedTransformer(
        TransformerConfig(n_layers=1, d_model=4, n_heads=1, n_ctx=4, d_vocab=4, gated_mlp=True)
    ),
    "HookedTransformerConfig": TransformerConfig(n_layers=1, d_model=4, n_heads=1, n_ctx=4, d_vocab=4),
    "FactoredMatrix": FactoredMatrix(torch.ones(2, 1), torch.ones(1, 2)),
    "HookPoint": HookPoint(),
}
OURS["ActivationCache"] = OURS["HookedTransformer"].run_with_cache([0, 1])[1]


def findings(tmp_path: Path, code: str, name: str = "program.py") -> list[Finding]:
    """What is said of a program whose model and cache are TransformerLens', about the lines after their making."""
    head = (
        "from transformer_lens import HookedTransformer, HookedTransformerConfig, FactoredMatrix, utils, patching\n"
        "model = HookedTransformer.from_pretrained_no_processing('gpt2')\n"
        "logits, cache = model.run_with_cache(tokens)\n"
    )
    path = tmp_path / name
    path.write_text(head + code, encoding="utf-8")
    return [finding for finding in read_file(path).findings if finding.line > 3]


def verdicts(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.verdict) for finding in found]


# ---------------------------------------------------------------------- the table


def test_every_public_name_of_their_classes_is_in_the_table():
    missing = [f"{owner}.{name}" for owner, names in PUBLIC.items() for name in names.split()]
    assert [name for name in missing if name not in table()] == []


def test_every_field_of_their_config_is_in_the_table():
    fields = importlib.import_module("interp.compat.transformer_lens").HookedTransformerConfig.__dataclass_fields__
    assert [name for name in fields if f"HookedTransformerConfig.{name}" not in table()] == []


def test_what_works_as_it_is_exists_here():
    for name, entry in table().items():
        owner, _, attribute = name.rpartition(".")
        if entry.rules[""].verdict == "same":
            assert hasattr(OURS[owner], attribute), name


def test_arguments_that_pass_as_they_are_exist_here_and_others_have_a_rule():
    for name, entry in table().items():
        owner, _, attribute = name.rpartition(".")
        if entry.rules[""].verdict != "same" or not entry.parameters:
            continue
        method = getattr(type(OURS[owner]) if attribute == "__init__" else OURS[owner], attribute)
        method = OURS[owner].forward if attribute == "__call__" else method
        here = list(inspect.signature(method).parameters)
        options = HookedTransformer.forward if attribute.startswith(("__call__", "run_with")) else method
        accepted = {*here, *inspect.signature(options).parameters}
        for there, parameter in entry.parameters.items():
            assert parameter in accepted or there in entry.rules, f"{name}({parameter}=)"


def test_what_is_to_be_written_names_what_there_is():
    for name, entry in table().items():
        for rule in entry.rules.values():
            for dotted in re.findall(r"\binterp(?:\.\w+)+", rule.say):
                *rooms, last = dotted.split(".")
                try:
                    importlib.import_module(dotted)
                except ImportError:
                    assert hasattr(importlib.import_module(".".join(rooms)), last), f"{name}: {dotted}"
            for owner, attribute in re.findall(r"(?<![.\w])(model|cache|m)\.(\w+)", rule.say):
                here = OURS[{"model": "HookedTransformer", "cache": "ActivationCache", "m": "FactoredMatrix"}[owner]]
                assert hasattr(here, attribute) or attribute in ("A", "B", "mT"), f"{name}: {owner}.{attribute}"


def test_the_module_has_every_name_that_it_is_said_to_run():
    module = importlib.import_module("interp.compat.transformer_lens")
    cfg = module.HookedTransformerConfig(n_layers=1, d_model=4, n_ctx=4, d_head=4, d_vocab=4, act_fn="gelu")
    model = module.HookedTransformer(cfg)
    instances = {
        "HookedTransformer": model,
        "HookedTransformerConfig": cfg,
        "ActivationCache": model.run_with_cache(torch.tensor([[0, 1]]))[1],
        "FactoredMatrix": module.FactoredMatrix(torch.ones(2, 1), torch.ones(1, 2)),
        "HookPoint": module.hook_points.HookPoint(),
        "HookedRootModule": model,
    }
    missing = []
    for name, entry in table().items():
        name = name.removeprefix("import ").removesuffix(".__init__")
        if not entry.rules[""].in_module or name == "import" or "*" in name:
            continue
        owner, _, attribute = name.rpartition(".")
        place = instances.get(owner) or (operator.attrgetter(owner)(module) if owner else module)
        if not hasattr(place, attribute):
            missing.append(name)
    assert missing == []


# ---------------------------------------------------------------------- what a program means


def test_names_are_followed_from_every_form_of_import(tmp_path: Path):
    for head, call in (
        ("import transformer_lens", "transformer_lens.utils.to_numpy(x)"),
        ("import transformer_lens as tl", "tl.utils.to_numpy(x)"),
        ("import transformer_lens.utils", "transformer_lens.utils.to_numpy(x)"),
        ("import transformer_lens.utils as helpers", "helpers.to_numpy(x)"),
        ("from transformer_lens import utils as u", "u.to_numpy(x)"),
        ("from transformer_lens.utils import to_numpy", "to_numpy(x)"),
        ("from transformer_lens.utils import to_numpy as plain", "plain(x)"),
        ("from interp.compat.transformer_lens import utils", "utils.to_numpy(x)"),
        ("from easy_transformer import utils", "utils.to_numpy(x)"),
    ):
        path = tmp_path / "program.py"
        path.write_text(f"{head}\n{call}\n", encoding="utf-8")
        (found,) = [finding for finding in read_file(path).findings if finding.line == 2]
        assert (found.name, found.verdict) == ("utils.to_numpy", "write"), head


def test_names_of_other_libraries_are_none_of_its_business(tmp_path: Path):
    path = tmp_path / "program.py"
    path.write_text("from mine import HookedTransformer, utils\nutils.to_numpy(HookedTransformer().QK)\n", "utf-8")
    assert read_file(path).findings == ()
    assert findings(tmp_path, "model = mine()\nmodel.generate('a')\nother.run_with_cache(x)\n") == []


def test_what_a_variable_holds_is_followed(tmp_path: Path):
    for code, expected in (
        ("m = model\nm.QK\n", ["HookedTransformer.QK"]),
        ("m = model.to('cuda').eval()\nm.QK\n",
         ["HookedTransformer.to", "HookedTransformer.eval", "HookedTransformer.QK"]),
        ("import copy\nm = copy.deepcopy(model)\nm.QK\n", ["HookedTransformer.QK"]),
        ("c = model.run_with_cache(x)[1]\nc['z', 0]\n",
         ["HookedTransformer.run_with_cache", "ActivationCache.__getitem__"]),
        ("circuit = model.OV[0, 1]\ncircuit.svd()\n",
         ["HookedTransformer.OV", "FactoredMatrix.__getitem__", "FactoredMatrix.svd"]),
        ("full = model.W_E @ model.OV @ model.W_U\nfull.T.AB\n",
         ["HookedTransformer.W_E", "HookedTransformer.OV", "HookedTransformer.W_U",
          "FactoredMatrix.T", "FactoredMatrix.AB"]),
        ("def f(a: HookedTransformer, b: 'HookedTransformer | None' = None):\n    a.QK\n    b.OV\n",
         ["HookedTransformer.QK", "HookedTransformer.OV"]),
        ("def f(model, x):\n    return model(x)\n", ["HookedTransformer.__call__"]),
        ("def f():\n    return late.QK\nlate = HookedTransformer(cfg)\n",
         ["HookedTransformer.QK", "HookedTransformer.__init__"]),
        ("with model.hooks([]) as hooked:\n    hooked.QK\n", ["HookedTransformer.hooks", "HookedTransformer.QK"]),
        ("if (m := model):\n    m.QK\n", ["HookedTransformer.QK"]),
        ("a, b = model, 3\na.QK\n", ["HookedTransformer.QK"]),
        ("f = lambda logits: model.QK\n", ["HookedTransformer.QK"]),
        ("for layer in range(model.cfg.n_layers):\n    pass\n",
         ["HookedTransformer.cfg", "HookedTransformerConfig.n_layers"]),
    ):  # fmt: skip
        assert sorted(finding.name for finding in findings(tmp_path, code)) == sorted(expected), code


def test_an_import_of_something_else_under_the_same_name_takes_its_place(tmp_path: Path):
    for code in ("import mine as utils\n", "import utils\n", "from mine import helpers as utils\n"):
        assert findings(tmp_path, f"{code}utils.to_numpy(x)\n") == [], code


def test_classes_and_functions_are_known_in_the_modules_that_hold_them(tmp_path: Path):
    path = tmp_path / "program.py"
    for code, name in (
        ("import transformer_lens.hook_points as hp\nhp.HookPoint()", "HookPoint.__init__"),
        ("import transformer_lens as tl\ntl.hook_points.HookPoint()", "HookPoint.__init__"),
        ("import transformer_lens as tl\ntl.HookedTransformer.HookedTransformer(cfg)", "HookedTransformer.__init__"),
        ("import transformer_lens as tl\ntl.HookedTransformer.from_pretrained(x)", "HookedTransformer.from_pretrained"),
        ("from transformer_lens.train import train\ntrain(m, c, d)", "train.train"),
        ("from transformer_lens import train\ntrain.train(m, c, d)", "train.train"),
        ("from transformer_lens import FactoredMatrix as FM\nFM(a, b)", "FactoredMatrix.__init__"),
        ("from easy_transformer.EasyTransformer import EasyTransformer\nEasyTransformer(c)",
         "HookedTransformer.__init__"),
    ):  # fmt: skip
        path.write_text(f"{code}\n", "utf-8")
        assert [(one.name, one.verdict != "unknown") for one in read_file(path).findings][1:] == [(name, True)], code


def test_what_a_function_makes_global_is_known_to_the_program(tmp_path: Path):
    path = tmp_path / "program.py"
    path.write_text(
        "from transformer_lens import HookedTransformer\nmodel = None\ndef load():\n    global model\n"
        "    model = HookedTransformer(cfg)\nload()\nmodel.QK\n",
        "utf-8",
    )
    assert [(one.name, one.line) for one in read_file(path).findings][-1] == ("HookedTransformer.QK", 7)


def test_a_part_of_the_package_that_the_module_has_not_is_not_said_to_run(tmp_path: Path):
    path = tmp_path / "program.py"
    for name, runs in (
        ("components.LayerNorm", True),
        ("utils.to_numpy", True),
        ("HookedTransformerKeyValueCacheEntry", True),
        ("components.mlps.gated_mlp.GatedMLP", False),
        ("utilities.devices", False),
        ("factories.ActivationFunctionFactory", False),
        ("model_bridge.TransformerBridge", False),
    ):
        package, _, last = f"transformer_lens.{name}".rpartition(".")
        path.write_text(f"from {package} import {last}\n", "utf-8")
        (found,) = read_file(path).findings
        assert found.in_module is runs, name


# ---------------------------------------------------------------------- what is said


def test_what_is_to_be_written_gives_their_numbers():
    module = importlib.import_module("interp.compat.transformer_lens")
    theirs = module.HookedTransformer(
        module.HookedTransformerConfig(n_layers=2, d_model=8, n_ctx=6, d_head=4, d_vocab=9, act_fn="gelu", seed=0)
    )
    with torch.no_grad():
        theirs.ln_final.w.mul_(2)
    model = theirs.core
    their_cache, cache = (one.run_with_cache(torch.arange(6)[None])[1] for one in (theirs, model))
    m = model.OV
    U, S, Vh = m.svd()
    tensor = torch.rand(3, 3, 3)
    normed = cache.apply_ln_to_stack(cache.decompose_resid())
    for there, here in (
        (theirs.OV.collapse_l(), S[..., None] * Vh),
        (theirs.OV.collapse_r(), U * S[..., None, :]),
        (theirs.OV.get_corner(2), m[..., :2, :2].dense()),
        (theirs.OV.BA, m.B @ m.A),
        (module.utils.get_corner(tensor, 2), tensor[(slice(2),) * tensor.ndim]),
        (theirs.QK.AB, model.QK.dense() * model.cfg.attn_scale),
        (their_cache.accumulated_resid(1, mlp_input=True)[-1], cache.accumulated_resid(2, incl_mid=True)["1_mid"]),
        (their_cache.get_neuron_results(1)[:, :, 5], cache.stack_neuron_results(2)["L1N5"]),
        (their_cache.decompose_resid(apply_ln=True) * theirs.ln_final.w, normed.values[:6]),
    ):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


def test_names_are_followed_through_functions_classes_branches_and_star_imports(tmp_path: Path):
    programs = {
        "def load(name):\n    return HookedTransformer.from_pretrained(name)\nload('gpt2').QK\n": 6,
        "def load(name) -> HookedTransformer:\n    ...\nx = load('gpt2')\nx.QK\n": 7,
        "try:\n    one = model\nexcept ImportError:\n    one = None\none.QK\n": 8,
        "if big:\n    one = model\nelse:\n    from elsewhere import one\none.QK\n": 8,
        "one = model if big else None\none.QK\n": 5,
        "class A:\n    def __init__(self):\n        self.m = model\n    def f(self):\n        return self.m.QK\n": 8,
        "class A:\n    m: HookedTransformer\n    def f(self):\n        return self.m.QK\n": 7,
        "class A(HookedTransformer):\n    def f(self):\n        return self.QK\n": 6,
        "class A:\n    def f(self, m: None | HookedTransformer):\n        self.m: Any = m\n        self.m.QK\n": 7,
        "def f(x):\n    a, cache = model.run_with_cache(x)\n    return a, cache\nl, c = f(t)\nc.model.QK\n": 8,
        "def run(x):\n    return 3, model\nrun(t)[1].QK\n": 6,
        "@fixture\ndef one():\n    return model\ndef test_it(one):\n    one.QK\n": 8,
        "from transformer_lens import *\nEasyTransformer = HookedTransformer(cfg)\nEasyTransformer.QK\n": 6,
    }
    for code, line in programs.items():
        assert ("HookedTransformer.QK", line) in [(one.name, one.line) for one in findings(tmp_path, code)], code
    star = tmp_path / "star.py"
    star.write_text("from transformer_lens.utils import *\nto_numpy(x)\n")
    assert "utils.to_numpy" in [finding.name for finding in read_file(star).findings]


def test_a_name_that_stands_for_something_else_now_is_not_followed(tmp_path: Path):
    programs = (
        "for model in others:\n    model.QK\n",
        "[model.QK for model in others]\n",
        "{model: model.QK for model, _ in others}\n",
        "with open(path) as model:\n    model.QK\n",
        "try:\n    pass\nexcept ValueError as model:\n    model.QK\n",
        "class HookedTransformer:\n    pass\nHookedTransformer().QK\n",
        "class A:\n    one = model\n    def f(self, one):\n        one.QK\n",
        "class A(HookedTransformer):\n    def f(self):\n        return self.layer_of_my_own\n",
        "class A:\n    def f(self):\n        self.model.QK\n",
        "def one():\n    return 3\ndef test_it(one):\n    one.QK\n",
        "def f(x):\n    return x, x\na = f(1)\na.QK\nb, c = f(1)\nb.QK\n",
        "def f(x):\n    return model, x\na = f(1)\na.QK\nb, c = f(1)\nc.QK\n",
        "def f(models: list[HookedTransformer]):\n    models.append(models[0].cfg)\n",
    )
    for code in programs:
        assert not [one for one in findings(tmp_path, code) if "QK" in one.name or one.verdict == "unknown"], code


def test_each_trap_of_equal_names_is_called_another_number(tmp_path: Path):
    for code, name in (
        ("HookedTransformer.from_pretrained('gpt2')", "HookedTransformer.from_pretrained"),
        ("cache.decompose_resid(layer=-1)", "ActivationCache.decompose_resid"),
        ("cache.decompose_resid(-1)", "ActivationCache.decompose_resid"),
        ("cache.accumulated_resid(layer=-1, incl_mid=True)", "ActivationCache.accumulated_resid"),
        ("cache.apply_ln_to_stack(x, layer=-1)", "ActivationCache.apply_ln_to_stack"),
        ("cache.apply_ln_to_stack(x)", "ActivationCache.apply_ln_to_stack"),
        ("cache.logit_attrs(x, 3)", "ActivationCache.logit_attrs"),
        ("cache.stack_head_results(3, apply_ln=True)", "ActivationCache.stack_head_results"),
        ("model.cfg.n_params", "HookedTransformerConfig.n_params"),
        ("cache.get_full_resid_decomposition(3)", "ActivationCache.get_full_resid_decomposition"),
        ("model.QK", "HookedTransformer.QK"),
        ("model.OV.svd()", "FactoredMatrix.svd"),
        ("model.OV.Vh", "FactoredMatrix.Vh"),
        ("model.OV[0]", "FactoredMatrix.__getitem__"),
        ("model.generate(tokens)", "HookedTransformer.generate"),
        ("model.to_tokens('text')", "HookedTransformer.to_tokens"),
        ("model.to_tokens(texts, prepend_bos=True)", "HookedTransformer.to_tokens"),
        ("HookedTransformerConfig(attention_dir='bidirectional')", "HookedTransformerConfig.__init__"),
    ):
        assert (name, "number") in verdicts(findings(tmp_path, f"{code}\n")), code


def test_a_trap_is_called_out_only_where_it_is_one(tmp_path: Path):
    for code, name in (
        ("cache.decompose_resid(layer=3)", "ActivationCache.decompose_resid"),
        ("cache.decompose_resid()", "ActivationCache.decompose_resid"),
        ("model.generate(tokens, do_sample=False)", "HookedTransformer.generate"),
        ("model.to_tokens('text', prepend_bos=True)", "HookedTransformer.to_tokens"),
        ("HookedTransformerConfig(attention_dir='causal')", "HookedTransformerConfig.__init__"),
    ):
        assert (name, "number") not in verdicts(findings(tmp_path, f"{code}\n")), code


def test_an_argument_that_is_not_taken_here_is_said_with_what_takes_its_place(tmp_path: Path):
    (found,) = findings(tmp_path, "model.run_with_cache(tokens, remove_batch_dim=True)\n")
    assert found.verdict == "write" and "the axis of sequences stays" in found.say
    assert found.source == "model.run_with_cache(tokens, remove_batch_dim=True)" and found.line == 4
    (found,) = findings(tmp_path, "patching.get_act_patch_resid_pre(model, tokens, cache, metric)\n")
    assert found.verdict == "write" and "interp.patching.sweep" in found.say


def test_an_argument_with_another_name_here_is_said_where_it_is_given_by_name(tmp_path: Path):
    assert verdicts(findings(tmp_path, "model.to_single_token('a')\n")) == [
        ("HookedTransformer.to_single_token", "same")
    ]
    (found,) = findings(tmp_path, "model.to_single_token(string='a')\n")
    assert (found.verdict, found.say) == ("write", "text= is its name here")


def test_a_name_that_is_nowhere_is_said_to_be_unknown(tmp_path: Path):
    assert verdicts(findings(tmp_path, "model.run_with_cash(tokens)\n")) == [
        ("HookedTransformer.run_with_cash", "unknown")
    ]


# ---------------------------------------------------------------------- files


def notebook(path: Path, *cells: str) -> Path:
    written = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "# Title"}, *written]}), "utf-8")
    return path


def test_cells_and_lines_of_a_notebook_are_counted_as_its_reader_sees_them(tmp_path: Path):
    path = notebook(
        tmp_path / "a.ipynb",
        "%pip install transformer_lens\nimport transformer_lens as tl\nfiles = !ls\nfiles?",
        "%%bash\necho tl.utils.to_numpy",
        "%%time\n\nx = tl.utils.to_numpy(\n    1 %\n    2)\nawait y",
    )
    assert [(f.cell, f.line, f.name) for f in read_file(path).findings] == [
        (2, 2, "transformer_lens"),
        (4, 3, "utils.to_numpy"),
    ]


def test_a_cell_with_lines_of_the_shell_loses_none_of_its_own(tmp_path: Path):
    head = "from transformer_lens import HookedTransformer\n"
    for code, line in (
        ("%matplotlib inline\nmodel = HookedTransformer(cfg)  # which one?\nmodel.QK", 4),
        ("%matplotlib inline\nx = (a\n  != b)\nmodel = HookedTransformer(cfg)\nmodel.QK", 6),
        ("!pip install \\\n  transformer_lens \\\n  torch\nmodel = HookedTransformer(cfg)\nmodel.QK", 6),
        ("if colab:\n    %pip install \\\n        a\nmodel = HookedTransformer(cfg)\nmodel.QK", 6),
        ("model = HookedTransformer(cfg)\nmodel.QK\nmodel.QK??", 3),
    ):
        found = read_file(notebook(tmp_path / "a.ipynb", head + code)).findings
        assert ("HookedTransformer.QK", line) in [(one.name, one.line) for one in found], code


def test_a_cell_that_is_no_python_is_said_and_the_others_are_read(tmp_path: Path):
    path = notebook(tmp_path / "a.ipynb", "def broken(:\n", "import transformer_lens", "x = 'a\\qb'")
    first, second = read_file(path).findings
    assert first.verdict == "unknown" and "line 1: invalid syntax" in first.say and first.cell == 2
    assert second.name == "transformer_lens"


def test_what_is_nested_too_deeply_is_said_and_long_chains_are_read(tmp_path: Path):
    deep = {"sum": f"x = {'+'.join(['a'] * 20000)}\n", "calls": f"x = a{'.b()' * 900}\n"}
    for name, code in deep.items():
        path = tmp_path / f"{name}.py"
        path.write_text("import transformer_lens\n" + code)
        report = read_file(path)
        assert [finding.verdict for finding in report.findings] == ["unknown"]
        assert report.outside_module == report.findings  # nobody claims that the module runs it
    assert verdicts(findings(tmp_path, f"x = model{'.to(device)' * 60}.QK\n"))[0] == ("HookedTransformer.QK", "number")
    notebook = tmp_path / "deep.ipynb"
    notebook.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="no notebook"):
        read_file(notebook)


def test_a_file_may_name_its_encoding_and_lines_are_those_of_python(tmp_path: Path):
    latin = tmp_path / "latin.py"
    latin.write_bytes(
        "# coding: latin-1\ns = '\xe9'\nfrom transformer_lens import HookedTransformer\n".encode("latin-1")
    )
    assert read_file(latin).findings[0].line == 3
    other = tmp_path / "other.py"
    other.write_bytes(b"# coding: nonsense\n")
    with pytest.raises(CheckpointError, match="encoding"):
        read_file(other)
    (found,) = findings(tmp_path, "\x0c\ns = '\x0c\u2028'\nmodel.QK\n")
    assert (found.line, found.source) == (6, "model.QK")


def test_nothing_in_the_file_is_executed(tmp_path: Path):
    witness = tmp_path / "witness"
    path = notebook(
        tmp_path / "a.ipynb", f"import pathlib\npathlib.Path({str(witness)!r}).touch()", f"!touch {witness}"
    )
    read_file(path)
    assert not witness.exists()


def test_a_notebook_is_known_by_its_ending_in_capitals_too(tmp_path: Path):
    path = notebook(tmp_path / "A.IPYNB", "import transformer_lens")
    assert [finding.cell for finding in read_file(path).findings] == [2]


def test_what_is_no_notebook_is_refused(tmp_path: Path):
    for content, said in ((b"{}", "no notebook of version 4"), (b"not json", "no notebook"), (b"\xff\xfe", "UTF-8")):
        path = tmp_path / "a.ipynb"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            read_file(path)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none.py")


# ---------------------------------------------------------------------- the command


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["migrate", *arguments], catch_exceptions=False)


def test_the_command_prints_line_by_line_and_its_status_says_whether_something_is_to_be_changed(tmp_path: Path):
    path = notebook(tmp_path / "a.ipynb", "from transformer_lens import utils", "x = utils.to_numpy(y)")
    done = migrate(str(path))
    assert done.exit_code == 1
    assert (
        "cell 3, line 1: x = utils.to_numpy(y)\n    write otherwise: utils.to_numpy: tensor.numpy(force=True)"
        in done.output
    )
    assert "all of it runs" in done.output
    clean = tmp_path / "b.py"
    clean.write_text("from interp import HookedTransformer\n", "utf-8")
    done = migrate(str(clean))
    assert done.exit_code == 0 and "nothing of TransformerLens is used here" in done.output


def test_what_is_said_of_an_argument_names_it_once_for_all_arguments_of_which_it_is_said(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text(
        "from transformer_lens import HookedTransformerConfig, HookedTransformer\n"
        "cfg = HookedTransformerConfig(2, use_attn_result=True, use_attn_in=True, use_hook_tokens=True, n_devices=1)\n"
        "model = HookedTransformer(cfg)\n"
        "model.to_single_token(string='a')\n"
        "cache.stack_activation\n",
        "utf-8",
    )
    said = {finding.about for finding in read_file(path).findings}
    made = "HookedTransformerConfig.__init__"
    assert said >= {made, f"{made}(use_attn_result=, use_attn_in=, use_hook_tokens=)", f"{made}(n_devices=)"}
    assert "HookedTransformer.to_single_token(string=)" in said
    output = migrate(str(path)).output
    assert output.count("nothing: lazy points are computed") == 1
    assert f"{made}(use_attn_result=, use_attn_in=, use_hook_tokens=): nothing: lazy" in output


def test_what_needs_files_of_the_hub_is_not_said_to_run_without_them(tmp_path: Path):
    path = tmp_path / "a.py"
    asked = {
        "HookedTransformer.from_pretrained('gpt2')": "HookedTransformer.from_pretrained",
        "HookedTransformer.from_pretrained('gpt2', fold_ln=False)": "HookedTransformer.from_pretrained",
        "HookedTransformerConfig(2, tokenizer_name='gpt2')": "HookedTransformerConfig.__init__(tokenizer_name=)",
        "HookedTransformerConfig(2, seed=3)": "",
    }
    for code, named in asked.items():
        path.write_text(f"from transformer_lens import HookedTransformerConfig, HookedTransformer\n{code}\n", "utf-8")
        last = migrate(str(path)).output.splitlines()[-1]
        assert (f"runs, once the hub's files for {named} are on this machine," in last) == bool(named)
        assert ("the hub" in last) == bool(named)


def test_the_lines_that_work_as_they_are_come_when_asked_for(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_text(
        "from transformer_lens import HookedTransformer\ndef f(m: HookedTransformer):\n    m.W_E\n", "utf-8"
    )
    assert "m.W_E" not in migrate(str(path)).output
    assert "line 3: m.W_E\n    works as it is: HookedTransformer.W_E" in migrate("--all", str(path)).output


def test_what_does_not_run_is_said_in_whole_sentences(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_bytes(b"\0")
    assert "not known: not Python, so nothing is known of it: source code string cannot" in migrate(str(path)).output
    path.write_text("from transformer_lens import utils\nutils.get_dataset('c4')\n", "utf-8")
    assert "all but 1 of these run and give TransformerLens' numbers" in migrate(str(path)).output


def test_json_has_every_use_of_every_file(tmp_path: Path):
    paths = [notebook(tmp_path / f"{i}.ipynb", "import transformer_lens as t", f"t.utils.solu({i})") for i in range(2)]
    done = migrate("--json", *map(str, paths))
    reports = json.loads(done.output)
    assert [report["path"] for report in reports] == list(map(str, paths)) and done.exit_code == 1
    assert reports[1]["findings"][1]["source"] == "t.utils.solu(1)"
    assert list(reports[0]["counts"]) == list(VERDICTS) and sum(reports[0]["counts"].values()) == 2


def test_names_of_single_releases_say_what_stands_for_them(tmp_path: Path):
    program = tmp_path / "releases.py"
    program.write_text(
        "from transformer_lens import HookedSAE, HookedSAETransformer, TransformerLensKeyValueCache, supported_models\n"
        "from transformer_lens.HookedSAEConfig import HookedSAEConfig\n"
        "from transformer_lens.model_bridge import TransformerBridge\n"
        "from transformer_lens.config import HookedTransformerConfig\n"
        "logits = HookedSAETransformer.from_pretrained('gpt2').run_with_saes('a', saes=[])\n"
        "bridge = TransformerBridge.boot_transformers('gpt2')\n"
        "cfg = HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=4, d_head=4, act_fn='gelu')\n",
        encoding="utf-8",
    )
    said = {(finding.line, finding.name): finding for finding in read_file(program).findings}
    assert "unknown" not in {finding.verdict for finding in said.values()}
    for place in ((1, "HookedSAE"), (1, "HookedSAETransformer"), (2, "HookedSAEConfig")):
        assert "SparseDictionary" in said[place].say and not said[place].in_module
    assert "KVCache" in said[1, "TransformerLensKeyValueCache"].say and said[1, "supported_models"].verdict == "missing"
    assert "splice" in said[5, "HookedSAETransformer.run_with_saes"].say
    assert (
        "hf_model" in said[3, "TransformerBridge"].say
        and "hf_model" in said[6, "TransformerBridge.boot_transformers"].say
    )
    assert said[4, "HookedTransformerConfig"].in_module
