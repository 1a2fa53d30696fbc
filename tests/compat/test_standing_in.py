"""The module as a guest: nothing changes where it is not imported, and it stands in only where it is asked to."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import interp
from interp import ConfigError
from interp.compat import transformer_lens
from interp.compat.migration.table import table

PACKAGE = Path(interp.__file__).parent


def python(code: str) -> str:
    """What a fresh process prints that runs this, or its traceback."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else done.stderr


def test_nothing_of_it_is_loaded_by_the_package_or_its_command():
    loaded = "print([name for name in sys.modules if name.startswith('interp.compat')])"
    for code in ("import interp", "import interp.plot, interp.discovery, interp.harvest, interp.jobs, circuits"):
        assert python(f"import sys\n{code}\n{loaded}") == "[]\n"
    assert "interp.compat.transformer_lens" not in python(f"import sys, interp.commands.cli\n{loaded}")


def test_no_other_room_knows_it():
    for path in PACKAGE.rglob("*.py"):
        if "compat" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("interp.compat"):
                assert path.name == "migrate.py" and node.module == "interp.compat.migration", path


def test_it_stands_in_for_import_lines_as_they_are_without_second_copies():
    code = """
from interp.compat import transformer_lens as module
module.stand_in()
import transformer_lens, transformer_lens.utils as utils
from transformer_lens import ActivationCache, FactoredMatrix, HookedTransformer, HookedTransformerConfig, patching
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.ActivationCache import ActivationCache as again
from transformer_lens.HookedTransformer import HookedTransformer as once_more
from transformer_lens.head_detector import detect_head
from transformer_lens.components import LayerNorm
print(transformer_lens is module, again is ActivationCache is module.ActivationCache, once_more is HookedTransformer)
"""
    assert python(code) == "True True True\n"


def test_without_being_asked_it_stands_in_for_nothing():
    assert "No module named 'transformer_lens'" in python(
        "import sys\nsys.modules['transformer_lens'] = None\nfrom interp.compat import transformer_lens as module\n"
        "del sys.modules['transformer_lens']\nsys.path = []\nsys.path_importer_cache.clear()\nimport transformer_lens"
    )


def test_it_does_not_stand_in_beside_the_library_itself(tmp_path: Path):
    (tmp_path / "transformer_lens.py").write_text("", "utf-8")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import transformer_lens
from interp.compat.transformer_lens import stand_in
stand_in()
"""
    assert "ImportError: transformer_lens is imported already" in python(code)


def test_every_name_that_is_said_not_to_run_says_what_to_do_instead_where_it_is_used():
    refused = [name for name, entry in table().items() if not entry.rules[""].in_module]
    assert len(refused) > 40
    small = {"n_layers": 1, "d_model": 4, "n_ctx": 4, "d_head": 4, "d_vocab": 4, "act_fn": "gelu"}
    model = transformer_lens.HookedTransformer(small)
    for name in refused:
        owner, _, last = name.removeprefix("import ").rpartition(".")
        if "*" in name or name in ("import utilities", "HookedTransformer.set_ungroup_grouped_query_attention"):
            continue  # a package of its own, and a setter that takes False
        place = (
            model if owner == "HookedTransformer" else getattr(transformer_lens, owner) if owner else transformer_lens
        )
        with pytest.raises(ConfigError, match=f"{last} is not covered by interp.compat.transformer_lens: "):
            getattr(place, last)()
    with pytest.raises(AttributeError, match="'HookedTransformer' object has no attribute 'center_unembeds'"):
        _ = model.center_unembeds
    with pytest.raises(ConfigError, match="the hub lists names"):
        transformer_lens.loading.OFFICIAL_MODEL_NAMES()


def test_what_is_not_covered_can_be_imported_and_says_what_stands_for_it_when_it_is_used():
    head = "from interp.compat import transformer_lens as module\nmodule.stand_in()\nfrom transformer_lens import "
    for name, said in {"HookedEncoder": "attention_dir", "HookedEncoderDecoder": "from interp import"}.items():
        assert python(head + name) == ""
        for use in ("()", ".from_pretrained('x')"):
            assert said in python(f"{head}{name}\n{name}{use}")
    code = "from interp.compat.transformer_lens.loading import get_checkpoint_labels as labels\nlabels('gpt2')"
    assert "ConfigError: get_checkpoint_labels is not covered" in python(code)
