"""Which of TransformerLens' names the expressions of a program mean: read off its imports, never off a guess.

A *meaning* is a dotted name without the package, such as "utils.get_act_name", "HookedTransformer" (the class) or
"HookedTransformer()" (an instance of it). What a variable holds is followed through assignments, to `self` too, calls
whose result is known, functions of the program that return it, annotations, and, for a parameter without one, a global
variable of the same name. Where branches bind a name to different things, it is taken for the one of TransformerLens.
"""

import ast
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from interp.compat.migration.table import known, table

PACKAGES = ("transformer_lens", "easy_transformer", "interp.compat.transformer_lens")
MODULES = ("utils", "utilities", "patching", "head_detector", "evals", "train", "components", "hook_points", "loading",
           "loading_from_pretrained", "past_key_value_caching", "ActivationCache", "FactoredMatrix", "SVDInterpreter",
           "HookedTransformer", "HookedTransformerConfig", "HookedEncoder", "HookedEncoderDecoder")  # fmt: skip
CLASSES = ("HookedTransformer", "HookedTransformerConfig", "ActivationCache", "FactoredMatrix", "HookPoint",
           "HookedRootModule", "HookedEncoder", "HookedEncoderDecoder", "SVDInterpreter",
           "HookedTransformerKeyValueCache", "train.HookedTransformerTrainConfig", "HookedSAETransformer", "HookedSAE",
           "HookedSAEConfig", "TransformerBridge")  # fmt: skip
OF_CLASSES = (
    "hook_points",
    "past_key_value_caching",
    "EasyTransformer",
    "EasyTransformerConfig",
    "config",
    "model_bridge",
)
"""Modules of classes that the package has under the same names; a class in a module of its own name is another."""
OLD_NAMES = {
    "EasyTransformer": "HookedTransformer",
    "EasyTransformerConfig": "HookedTransformerConfig",
    "EasyTransformerKeyValueCache": "HookedTransformerKeyValueCache",
}
PROPERTIES = {
    "HookedTransformer.cfg": "HookedTransformerConfig()",
    "HookedTransformer.QK": "FactoredMatrix()",
    "HookedTransformer.OV": "FactoredMatrix()",
    "ActivationCache.model": "HookedTransformer()",
    "FactoredMatrix.T": "FactoredMatrix()",
}
"""What reading an attribute gives."""
RETURNS = {
    "FactoredMatrix.make_even": "FactoredMatrix()",
    "FactoredMatrix.unsqueeze": "FactoredMatrix()",
}
"""What a call gives."""
PAIRS: dict[str, tuple[str | None, ...]] = {"HookedTransformer.run_with_cache": (None, "ActivationCache()")}
"""What a call gives that returns several things."""
ITSELF = ("to", "cuda", "cpu", "mps", "eval", "train", "half", "float", "double", "requires_grad_")
"""Methods that return what they are called on."""
COPIES = ("deepcopy", "copy", "compile")
"""Functions of `copy` and of torch that return something like what they are given."""
RETURNED, SEVERAL = "->", ", "
"""What begins the meaning of a function of the program, before that of what it returns, and stands between several."""


@dataclass(frozen=True)
class Use:
    """A place where a program uses a name of TransformerLens.

    Attributes:
        meaning: what is called, read or imported.
        node: where.
        call: its arguments, if it is called.
        imported: what an import statement binds, for those.
    """

    meaning: str
    node: ast.AST
    call: ast.Call | None = None
    imported: bool = False


def canonical(dotted: str) -> str | None:
    """The meaning of a full dotted name, or None if it is not TransformerLens'."""
    for package in PACKAGES:
        if dotted == package:
            return ""
        if dotted.startswith(f"{package}."):
            parts = dotted.removeprefix(f"{package}.").split(".")
            if len(parts) > 1 and (parts[0] in OF_CLASSES or (parts[0] == parts[1] and parts[0] in CLASSES)):
                parts = parts[1:]
            return ".".join([OLD_NAMES.get(parts[0], parts[0]), *parts[1:]])
    return None


Scope = dict[str, str | None]


class ClassScope(Scope):
    """What a class binds in its body, and its methods on `self`; bare names in methods do not see it."""


def _public(star: str) -> list[str]:
    """The meanings that `from transformer_lens.utils import *` binds; `star` is "utils.*" there."""
    if star == "*":
        return sorted({*CLASSES, *MODULES} - {"train.HookedTransformerTrainConfig"})
    return [name for name in table() if fnmatch.fnmatch(name, star) and name.count(".") == 1 and "*" not in name]


def _globals(body: Sequence[ast.AST]) -> set[str]:
    """The names that a function binds for the whole program."""
    found = (node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Global))
    return {name for node in found for name in node.names}


@dataclass
class Names(ast.NodeVisitor):
    """Goes through the cells of one program in order and collects what they use.

    Attributes:
        uses: what was found.
        scopes: what names mean, innermost last: by the end of the program, in it up to here, in functions.
        classes: what each class of the program binds.
    """

    uses: list[Use] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=lambda: [{}, {}])
    classes: dict[str, ClassScope] = field(default_factory=dict)

    # ------------------------------------------------------------------ what is bound

    def visit_Import(self, node: ast.Import) -> None:
        """`import transformer_lens as tl`."""
        for alias in node.names:
            meaning = canonical(alias.name)
            if meaning is not None:
                self._imports(meaning, node)
            whole = alias.asname is not None or "." not in alias.name  # else the package is bound
            self.scopes[-1][alias.asname or alias.name.split(".")[0]] = meaning if whole or meaning is None else ""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from transformer_lens import HookedTransformer`."""
        for alias in node.names:
            meaning = canonical(f"{node.module}.{alias.name}") if node.module and not node.level else None
            if meaning is not None:
                self._imports(meaning.removesuffix("*").removesuffix("."), node)
            if alias.name != "*":
                self.scopes[-1][alias.asname or alias.name] = meaning
            elif meaning is not None:
                self.scopes[-1].update({name.rpartition(".")[2]: name for name in _public(meaning)})

    def _imports(self, meaning: str, node: ast.AST) -> None:
        self.uses.append(Use(meaning, node, imported=True))

    def visit_Assign(self, node: ast.Assign) -> None:
        """`logits, cache = model.run_with_cache(tokens)`."""
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """`model: HookedTransformer = ...`."""
        if node.value is not None:
            self.visit(node.value)
        meaning = self._annotated(node.annotation) or (node.value and self.meaning(node.value))
        if isinstance(node.target, ast.Name):
            self.scopes[-1][node.target.id] = meaning
        elif self._is_own(node.target):
            self._class()[cast(ast.Attribute, node.target).attr] = meaning
        else:
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """`(model := HookedTransformer(cfg))`."""
        self.visit(node.value)
        self._bind(node.target, node.value)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """`with model.hooks(...) as hooked:`."""
        for item in node.items:
            call = item.context_expr
            self.visit(call)
            if isinstance(item.optional_vars, ast.Name):
                method = call.func if isinstance(call, ast.Call) else call
                same = isinstance(method, ast.Attribute) and method.attr == "hooks"  # it gives the model
                self.scopes[-1][item.optional_vars.id] = (
                    self.meaning(cast(ast.Attribute, method).value) if same else None
                )
        self._each(node.body)

    visit_AsyncWith = visit_With

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """`for layer in range(model.cfg.n_layers):`."""
        self.visit(node.iter)
        self._unbind(node.target)
        self._each([*node.body, *node.orelse])

    visit_AsyncFor = visit_For

    def visit_If(self, node: ast.If) -> None:
        """`if in_colab: ...`."""
        self.visit(node.test)
        self._either(node.body, node.orelse)

    def visit_Try(self, node: ast.Try) -> None:
        """`try: import transformer_lens`."""
        self._either([*node.body, *node.orelse], *([handler] for handler in node.handlers))
        self._each(node.finalbody)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """`except ImportError as error:`."""
        if node.name:
            self.scopes[-1][node.name] = None
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        """`[cache["z", layer] for layer in layers]`."""
        self.scopes.append({})
        for generator in node.generators:
            self.visit(generator.iter)
            self._unbind(generator.target)
            self._each(generator.ifs)
        self._each([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.scopes.pop()

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def _each(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _either(self, *branches: Sequence[ast.AST]) -> None:
        """Visit branches of which one runs; what is TransformerLens' after any of them is so after them."""
        scope = self.scopes[-1]
        before, after = dict(scope), Scope()
        for branch in branches:
            scope.clear()
            scope.update(before)
            self._each(branch)
            after = scope | {name: meaning for name, meaning in after.items() if meaning or not scope.get(name)}
        scope.update(after)

    def _unbind(self, target: ast.expr) -> None:
        """Bind a target to what is not known."""
        for name in ast.walk(target):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                self.scopes[-1][name.id] = None

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = self.meaning(value)
        elif self._is_own(target) and (meaning := self.meaning(value)) is not None:
            self._class()[cast(ast.Attribute, target).attr] = meaning
        elif isinstance(target, ast.Tuple | ast.List):
            values = list(self._parts(value, len(target.elts)))
            for part, meaning in zip(target.elts, values, strict=True):
                if isinstance(part, ast.Name):
                    self.scopes[-1][part.id] = meaning
                elif not isinstance(part, ast.Starred):
                    self.visit(part)
        else:
            self.visit(target)

    def _parts(self, value: ast.expr, n: int) -> Iterator[str | None]:
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == n:
            yield from map(self.meaning, value.elts)
        else:
            known = self._several(value)
            yield from known if len(known) == n else [None] * n

    def _several(self, value: ast.expr) -> tuple[str | None, ...]:
        """What each of the things means that a call gives, where that is known."""
        function = (self.meaning(value.func) if isinstance(value, ast.Call) else None) or ""
        if function.startswith(RETURNED):
            return tuple(one or None for one in function.removeprefix(RETURNED).split(SEVERAL))
        return PAIRS.get(function, ())

    # ------------------------------------------------------------------ functions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """`def metric(cache: ActivationCache):`."""
        for above in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(above)
        self.scopes[-1][node.name] = None
        returned = self._in_function(node.args, node.body)
        returned = self._annotated(node.returns) if node.returns is not None else returned
        self.scopes[-1][node.name] = returned and RETURNED + returned

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """`lambda logits: ...`."""
        self._in_function(node.args, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """`class Probe(HookedRootModule):`."""
        self._each([*node.bases, *node.decorator_list])
        bases = [f"{base}()" for base in map(self.meaning, node.bases) if base in CLASSES]
        self.scopes[-1][node.name] = None
        scope = self.classes.setdefault(node.name, ClassScope())
        scope["self"] = bases[0] if bases else None
        self.scopes.append(scope)
        self._each(node.body)
        self.scopes.pop()

    def visit_Return(self, node: ast.Return) -> None:
        """`return model`."""
        if node.value is not None:
            self.visit(node.value)
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            meanings = [self.meaning(value) or "" for value in values]
            if any(meanings) and "return" not in self.scopes[-1]:
                self.scopes[-1]["return"] = SEVERAL.join(meanings)

    def _class(self) -> ClassScope:
        """The innermost class that is being defined."""
        return next((scope for scope in reversed(self.scopes) if isinstance(scope, ClassScope)), ClassScope())

    def _is_own(self, node: ast.expr) -> bool:
        """Whether it is an attribute of `self`."""
        return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"

    def _in_function(self, arguments: ast.arguments, body: Sequence[ast.AST]) -> str | None:
        """Visit a function; what it returns, where that is TransformerLens'."""
        scope = Scope()
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            above = self.meaning(ast.Name(argument.arg)) or ""
            if argument.annotation is not None:
                scope[argument.arg] = self._annotated(argument.annotation)
            elif (
                above.startswith(RETURNED) and SEVERAL not in above
            ):  # named like a function: a fixture of pytest, which is what that returns
                scope[argument.arg] = above.removeprefix(RETURNED)
        for extra in filter(None, (arguments.vararg, arguments.kwarg)):
            scope[extra.arg] = None
        if any(argument.arg == "self" for argument in arguments.args):
            scope["self"] = self._class().get("self")
        self.scopes.append(scope)
        self._each(body)
        self.scopes[1] |= {name: scope[name] for name in _globals(body) if name in scope}
        return self.scopes.pop().get("return")

    def _annotated(self, annotation: ast.expr) -> str | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return None
        if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Optional"):
            annotation = annotation.slice
        if isinstance(annotation, ast.BinOp):  # HookedTransformer | None
            return self._annotated(annotation.left) or self._annotated(annotation.right)
        meaning = self.meaning(annotation)
        return f"{meaning}()" if meaning in CLASSES else None

    # ------------------------------------------------------------------ what is used

    def visit_Call(self, node: ast.Call) -> None:
        """`utils.to_numpy(x)`."""
        meaning = self.meaning(node.func)
        if meaning and not meaning.startswith(RETURNED):
            called = f"{meaning[:-2]}.__call__" if meaning.endswith("()") else meaning
            self.uses.append(Use(f"{called}.__init__" if called in CLASSES else called, node, call=node))
            if isinstance(node.func, ast.Attribute):
                self.visit(node.func.value)
        else:
            self.visit(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """`model.cfg`."""
        path = self.path(node)
        if path and "." in path and path not in CLASSES:
            self.uses.append(Use(path, node))
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """`cache["z", 0]`."""
        owner = self.meaning(node.value)
        if owner and owner.removesuffix("()") in CLASSES and owner not in CLASSES:
            self.uses.append(Use(f"{owner[:-2]}.__getitem__", node))
        self.generic_visit(node)

    # ------------------------------------------------------------------ what it means

    def meaning(self, node: ast.expr) -> str | None:
        """What an expression stands for, or None for whatever is not TransformerLens'."""
        match node:
            case ast.Name(id=name):
                scopes = [scope for scope in self.scopes[:-1] if not isinstance(scope, ClassScope)]
                return next((scope[name] for scope in (self.scopes[-1], *reversed(scopes)) if name in scope), None)
            case ast.Attribute(attr=name):
                own = self._class().get(name) if self._is_own(node) else None
                path = self.path(node)
                return own or (PROPERTIES.get(path, path) if path is not None else None)
            case ast.Call():
                return self._result(node)
            case ast.BinOp(left=left, op=ast.MatMult(), right=right):
                both = (self.meaning(left), self.meaning(right))
                return "FactoredMatrix()" if "FactoredMatrix()" in both else None
            case ast.Subscript(value=ast.Call() as call, slice=ast.Constant(value=int(index))):
                known = self._several(call)
                return known[index] if -len(known) <= index < len(known) else None
            case ast.Subscript(value=value):
                owner = self.meaning(value)
                return owner if owner == "FactoredMatrix()" else None
            case ast.IfExp(body=one, orelse=other) | ast.BoolOp(values=[one, other]):
                return self.meaning(one) or self.meaning(other)
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                return self.meaning(value)
        return None

    def path(self, node: ast.Attribute) -> str | None:
        """The dotted name of an attribute of what TransformerLens has, or None."""
        owner = self.meaning(node.value)
        if owner is None or owner.removesuffix("()") not in ("", *CLASSES, *MODULES):
            return None
        if not owner.endswith("()"):
            return canonical(".".join(filter(None, (PACKAGES[0], owner, node.attr))))
        path = f"{owner.removesuffix('()')}.{node.attr}"
        return None if self._is_own(node) and known(path) is None else path  # a subclass has names of its own

    def _result(self, node: ast.Call) -> str | None:
        function = self.meaning(node.func)
        if function is None:
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            return self.meaning(node.args[0]) if name in COPIES and node.args else None
        if function.startswith(RETURNED):
            return function.removeprefix(RETURNED) if SEVERAL not in function else None
        if function in CLASSES:
            return f"{function}()"
        owner, _, name = function.rpartition(".")
        made = name in ITSELF or name.startswith("from_pretrained")
        return f"{owner}()" if owner in CLASSES and made else RETURNS.get(function)
