"""The examples that the tests run, of README, notebooks, recipes and docstrings, and what they are about."""

import ast
import doctest
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from interp.commands.reference import packages, preamble, recipes, rooms

ROOT = Path(__file__).parents[2]


# ---------------------------------------------------------------------------------------------- public names


@cache
def all_rooms() -> list[str]:
    """Every page of the reference but the recipes."""
    return [room for package in packages() for room in rooms(package)]


def offered(room: str) -> dict[str, Any]:
    """The public names of a room, without modules."""
    module = importlib.import_module(room)
    found = {name: getattr(module, name) for name in getattr(module, "__all__", ()) if hasattr(module, name)}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def _own(room: str) -> dict[str, Any]:
    """The public names of a room; of a package, those that no room of it has."""
    elsewhere = set[str]().union(*(offered(other) for other in all_rooms() if other.startswith(f"{room}.")))
    return {name: value for name, value in offered(room).items() if name not in elsewhere}


# ---------------------------------------------------------------------------------------------- examples


def docstring_examples(room: str) -> Iterator[doctest.DocTest]:
    """The examples in the docstrings of a room: its own, and those of its names and of their members."""
    finder, module = doctest.DocTestFinder(recurse=False), importlib.import_module(room)
    for name, value in {room: module, **_own(room)}.items():
        if not (value is module or inspect.isclass(value) or inspect.isroutine(value)):
            continue
        members = vars(value).items() if inspect.isclass(value) else ()
        routines = {f"{name}.{n}": m for n, m in members if inspect.isroutine(m) or isinstance(m, property)}
        for called, documented in {name: value, **routines}.items():
            yield from (test for test in finder.find(documented, called, module=False, globs={}) if test.examples)


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """The code of every example, and the names that it finds there when it starts."""
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    notebooks = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "notebooks").glob("*.py"))]
    started: dict[str, Any] = {}
    exec(compile(preamble(), "preamble", "exec"), started)
    for code in (preamble(), "\n".join(readme), *notebooks):
        yield code, {}
    for code in recipes().values():
        yield code, started
    for room in all_rooms():
        for test in docstring_examples(room):
            raised = [(one.exc_msg or "").partition(":")[0].rpartition(".")[2] for one in test.examples]
            code = "".join(one.source for one in test.examples) + "\n".join([test.name, *filter(None, raised)])
            yield code, started | offered("interp") | offered(room)


# ---------------------------------------------------------------------------------------------- what they reach


def used(code: str, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an example names: what it finds, what it imports, and `module.name`."""
    tree = ast.parse(code)
    return _named(tree, {**known, **_imported(tree)})


def shown(value: Any) -> Iterator[tuple[str, Any]]:
    """What the source of a class or function of these packages names: what it calls, takes, returns and raises."""
    ours = str(getattr(value, "__module__", "")).split(".")[0] in packages()
    if not ours or not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    plain = inspect.unwrap(value)
    tree, known = _file(plain.__module__)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == plain.__name__:
            yield from _named(node, known)


@cache
def _file(module: str) -> tuple[ast.Module, dict[str, Any]]:
    """The source of a module, and its names, those included that it imports for annotations alone."""
    there = importlib.import_module(module)
    tree = ast.parse(inspect.getsource(there))
    return tree, vars(there) | _imported(tree)


def _imported(tree: ast.AST) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in packages():
            module = importlib.import_module(str(node.module))
            found |= {
                one.asname or one.name: getattr(module, one.name) for one in node.names if hasattr(module, one.name)
            }
    return found


def _named(tree: ast.AST, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            yield node.id, known[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = known.get(node.value.id)
            if isinstance(module, ModuleType) and hasattr(module, node.attr):
                yield node.attr, getattr(module, node.attr)
        elif isinstance(node, ast.arg | ast.AnnAssign | ast.FunctionDef):
            annotation = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
            if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
                yield from _named(ast.parse(annotation.value, mode="eval"), known)
