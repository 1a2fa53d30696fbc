"""The house: rooms import downwards only, by what their `__init__` offers. Lazy and type-only imports count."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FACE = "__init__"
"""What a package offers at its top, which stands above the rooms that it offers from."""

GROUND = ["errors", "keywords", "files", "indices", "budget", "progress", "precision", "digests", "factored"]
FLOORS = {
    "interp": [
        *GROUND,
        "config",
        "text",
        "checkpoints",
        "model",
        FACE,
        "results",
        "interventions",
        "dictionaries",
        "metrics",
        "lens",
        "similarity",
        "weights",
        "heads",
        "training",
        "data",
        "jobs",
        "patching",
        "discovery",
        "harvest",
        "plot",
        "compat",
        "commands",
        "__main__",
    ],
    "circuits": [
        "language",
        "compiler",
        "verify",
        "circuit",
        "encoder_decoder",
        FACE,
        "export",
        "library",
        "gallery",
        "benchmark",
        "lecture",
        "commands",
    ],
}
"""The rooms from the ground up: each imports from those before it in the list, and `circuits` from all of `interp`."""

Import = tuple[str, str, str]  # the importing module, the module imported from, the name (or "")


def modules() -> dict[str, Path]:
    found = {}
    for package in FLOORS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(module: str, tree: ast.AST) -> Iterator[Import]:
    """Every import of the two packages anywhere in a file, with submodules told from other names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((module, alias.name, "") for alias in node.names if alias.name.split(".")[0] in FLOORS)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            if node.module and node.module.split(".")[0] in FLOORS:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield (module, inner, "") if inner in MODULES else (module, node.module, alias.name)


def room(module: str) -> str:
    """`interp.model` for `interp.model.hooks`, and `interp.__init__` for the package itself."""
    return f"{module}.{FACE}" if module in FLOORS else ".".join(module.split(".")[:2])


FLOOR = {
    f"{package}.{name}": i for i, (package, name) in enumerate((p, r) for p, rooms in FLOORS.items() for r in rooms)
}


def crossing() -> Iterator[Import]:
    """The imports that leave their room."""
    for module, path in MODULES.items():
        for found in imports_of(module, ast.parse(path.read_text(encoding="utf-8"))):
            if room(found[1]) != room(module):
                yield found


def faults(imports: Iterator[Import]) -> list[str]:
    """What is wrong with imports that leave their room."""
    wrong = []
    for module, target, name in imports:
        if FLOOR[room(target)] >= FLOOR[room(module)]:
            wrong.append(f"{module} climbs to {target}")
        whole = target in FLOORS or target == room(target)
        if not whole and target.rpartition(".")[2] not in offered(room(target)):
            wrong.append(f"{module} imports the file {target}; the room {room(target)} offers what others may use")
        elif name and name not in offered(target):
            wrong.append(f"{module} imports {name}, which {target} does not offer in __all__")
    return wrong


def offered(module: str) -> set[str]:
    """`__all__`; of a file on the ground, which has none, everything that it defines without an underscore."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return {name for name in defined if not name.startswith("_")}


def test_rooms_import_downwards_and_only_what_is_offered():
    assert faults(crossing()) == []


def test_every_room_has_its_place_in_the_order():
    assert {room(module) for module in MODULES} == set(FLOOR)


def test_few_files_stand_outside_of_rooms():
    loose = [path.stem for path in (ROOT / "interp").glob("*.py") if path.stem != "__init__"]
    assert sorted(loose) == sorted([*GROUND, "__main__"])


@pytest.mark.parametrize("package", list(FLOORS))
def test_every_room_says_what_it_is_for_and_what_it_offers(package: str):
    for name in [name for name in FLOORS[package] if name != FACE]:
        path = ROOT / package / name / "__init__.py"
        if path.exists():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert len(ast.get_docstring(tree) or "") > 60, f"{path}: a paragraph for a newcomer is missing"
            assert offered(f"{package}.{name}"), f"{path}: __all__ is missing"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f():\n    from interp.model import ActivationCache", "climbs"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from interp.plot import attention", "climbs"),
        ("import interp.commands", "climbs"),
        ("from interp.errors import nothing_of_the_kind", "does not offer"),
        ("from interp.config.architecture import TransformerConfig", "imports the file"),
        ("from interp import HookedTransformer", "climbs"),
        ("from circuits import Circuit", "climbs"),
    ],
)
def test_an_import_that_climbs_or_reaches_into_a_room_is_found(source: str, said: str):
    (found,) = faults(imports_of("interp.text.tokens", ast.parse(source)))
    assert said in found


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports them by their names alone, and of two it would run one."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert len(names) > 100 and sorted({name for name in names if names.count(name) > 1}) == []
