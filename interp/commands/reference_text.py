"""What pages of the reference say otherwise than pdoc does: annotations as they are written, formulas as formulas."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
from collections.abc import Container
from functools import cache
from typing import Any, TypeGuard

# ---------------------------------------------------------------------- annotations


class Written:
    """An annotation that is shown as it stands in the source: `Answer`, and not all that `Answer` may be.

    Args:
        node: the annotation.
        module: where it stands.
        public: the names that have a place in the reference. An alias that has none is shown as what it stands for.
    """

    def __init__(self, node: ast.expr, module: str, public: Container[str]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        self.text = ast.unparse(_Aliases(module, public).visit(copy.deepcopy(node)))

    def __repr__(self) -> str:
        return self.text


class _Aliases(ast.NodeTransformer):
    def __init__(self, module: str, public: Container[str]):
        self.module, self.public = module, public

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name, or what it stands for."""
        if node.id in self.public:
            return node
        found = _definitions(self.module).get(node.id)
        if isinstance(found, ast.ImportFrom) and found.module is not None:  # an alias of another file
            there = _definitions(found.module).get(node.id)
            return _Aliases(found.module, self.public).visit(copy.deepcopy(there)) if _is_type(there) else node
        return self.visit(copy.deepcopy(found)) if _is_type(found) else node


def _is_type(node: ast.AST | None) -> TypeGuard[ast.expr]:
    return isinstance(node, ast.BinOp | ast.Subscript)


def show_as_written(member: Any, public: Container[str]) -> None:
    """Let a function, or a class and what it has, show annotations as they are written (documents of pdoc)."""
    if member.kind == "class":
        fields = _fields(member.obj, public)
        for one in member.own_members:
            if one.kind == "variable" and one.name in fields:
                one.annotation = fields[one.name]
            elif one.kind == "variable" and (of_property := _property(member.obj, one.name, public)) is not None:
                one.annotation = of_property
            elif one.kind == "function":
                _write_signature(one, fields if one.name == "__init__" else {}, public)
    elif member.kind == "function":
        _write_signature(member, {}, public)


def _write_signature(function: Any, fields: dict[str, Written], public: Container[str]) -> None:
    """`fields` are those of a class whose constructor has no source of its own, as a dataclass's."""
    plain, shown = inspect.unwrap(function.obj), function.signature
    node, written = _definition(plain), dict(fields)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        of = node.args
        arguments = [*of.posonlyargs, *of.args, of.vararg, *of.kwonlyargs, of.kwarg]
        annotated = {one.arg: one.annotation for one in arguments if one is not None and one.annotation is not None}
        written = {name: Written(annotation, plain.__module__, public) for name, annotation in annotated.items()}
        if node.returns is not None and function.name != "__init__":
            shown = shown.replace(return_annotation=Written(node.returns, plain.__module__, public))
    parameters = [
        one.replace(annotation=written[one.name]) if one.name in written else one for one in shown.parameters.values()
    ]
    function.signature = shown.replace(parameters=parameters)


def _fields(cls: type, public: Container[str]) -> dict[str, Written]:
    """The annotations in the body of a class, and of those that it derives from."""
    found: dict[str, Written] = {}
    for base in reversed(inspect.getmro(cls)):
        node = _definition(base)
        for one in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                found[one.target.id] = Written(one.annotation, base.__module__, public)
    return found


def _property(cls: type, name: str, public: Container[str]) -> Written | None:
    """What a property gives, where the class has one of that name."""
    found = inspect.getattr_static(cls, name, None)
    getter = found.fget if isinstance(found, property) else getattr(found, "func", None)  # or one that is kept
    node = _definition(getter)
    if not isinstance(node, ast.FunctionDef) or node.returns is None:
        return None
    return Written(node.returns, str(getattr(getter, "__module__", "")), public)


def _definition(value: Any) -> ast.AST | None:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return _definitions(module).get(name) if isinstance(module, str) and isinstance(name, str) else None


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    """The classes and functions of a module by their qualified names, what its names are set to, and imports.

    Nothing for a module without a source.
    """
    try:
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    except (ImportError, OSError, TypeError):
        return {}
    found: dict[str, ast.AST] = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + node.name] = node  # the last of several: those before it are overloads
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.ImportFrom) and not prefix:
                found.update({one.name: node for one in node.names if one.asname is None})
            elif isinstance(node, ast.Assign) and not prefix:
                found.update({one.id: node.value for one in node.targets if isinstance(one, ast.Name)})

    collect(tree.body, "")
    return found


# ---------------------------------------------------------------------- formulas

FORMULA = re.compile(r"\^|sqrt\(|softmax\(|\bsum_|\b[A-Za-z]_[A-Z]\w* [A-Za-z(+]")
"""What code in a docstring has if it is mathematics."""

SIGNS = [
    (r"\bsqrt\(", "√("),
    (r"\bsum_(\w+)", r"∑<sub>\1</sub>"),
    (r"\^\(([^()]*)\)", r"<sup>\1</sup>"),
    (r"\^([a-z])_([a-z]+)", r"<sup>\1<sub>\2</sub></sup>"),
    (r"\^(T|-?\d+|[a-z])(?![a-z])", r"<sup>\1</sup>"),
    (r"_\(([^()]*)\)", r"<sub>\1</sub>"),
    (r"(?<![A-Za-z])([A-Za-z])_([A-Za-z]+)\b", r"\1<sub>\2</sub>"),
    (r" \* ", " · "),
    (r"(?<![\w])-(?=\w)|-(?= )", "&minus;"),
]


def typeset(page: str) -> str:
    """Formulas of a page, which docstrings write as code, with indices and powers where these belong."""

    def set_one(match: re.Match[str]) -> str:
        text = match[2]
        if not FORMULA.search(text) or re.search(r"&quot;|[\"@{]|\w\(\w+ /|\.m?T\b", text):
            return match[0]
        for sign, by in SIGNS:
            text = re.sub(sign, by, text)
        return f'{match[1]}<span class="formula">{text}</span>{match[3]}'

    whole = re.sub(r"(<pre>)<code>([^<]*)</code>(</pre>)", set_one, page)
    return re.sub(r"()<code>([^<]*)</code>()", set_one, whole)
