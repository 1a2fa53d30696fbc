"""The reference as a site: a page for every room, made of its docstrings by pdoc, and the recipes.

pdoc is chosen because docstrings here are Markdown, which it takes as they are, and because its pages need no server:
the search, the sources and the styles are in the files, which open from a disk without a network. What is settled here
is what pdoc cannot know. A page belongs to a room, and not to a file. A class is shown with all it inherits within the
packages, and with nothing of torch. A name in backticks links to the page of its room, wherever it stands.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import types
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

from interp.commands.reference_text import show_as_written, typeset
from interp.errors import ConfigError
from interp.files import atomic_path

RECIPES = Path(__file__).with_name("recipes.md")
"""Short answers to "How do I ...", which the tests run one by one."""

RECIPES_PAGE = "how_do_i"

TITLES = {RECIPES_PAGE: "How do I ..."}
"""What pages are called that are no modules."""

TEMPLATES = Path(__file__).with_name("reference_templates")
"""What is said otherwise than in pdoc's own templates."""


@cache
def packages() -> list[str]:
    """The packages that the reference is about: this one, and those that add commands to it."""
    added = {entry.module.split(".")[0] for entry in entry_points(group="interp.commands")}
    return ["interp", *sorted(added)]


def rooms(package: str) -> list[str]:
    """The package, and the modules that its docstring names, in the order in which it does."""
    told = inspect.getdoc(importlib.import_module(package)) or ""
    return [package, *dict.fromkeys(re.findall(rf"`({package}(?:\.\w+)+)`", told))]


def recipes() -> dict[str, str]:
    """The code of every recipe, by its heading."""
    parts = re.split(r"^### (.+)$", RECIPES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {heading: _code(text) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


def preamble() -> str:
    """What stands before the first recipe: the names that all of them use."""
    return _code(RECIPES.read_text(encoding="utf-8").split("\n## ")[0])


def _code(text: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))


def write_site(folder: Path) -> list[Path]:
    """Write the pages; returns their paths, `index.html` first. It is written last: whatever it leads to is there.

    Raises `ConfigError` without the extra `docs`.
    """
    try:
        import pdoc.doc
        import pdoc.render
        import pdoc.search
    except ImportError as error:
        raise ConfigError(f"the reference needs pdoc: pip install 'interp[docs]' ({error})") from error
    names = [room for package in packages() for room in rooms(package)]
    with warnings.catch_warnings():
        # pdoc looks for the fields of a TypedDict in the class alone; its assumption, "current file", is right. And an
        # annotation that it cannot resolve, such as one of a package that is not installed, is shown as it is written.
        for said in ("Cannot determine where", "Error parsing type annotation", "Failed to run TYPE_CHECKING"):
            warnings.filterwarnings("ignore", said, UserWarning)
        pages = {RECIPES_PAGE: pdoc.doc.Module(_recipes_module())}
        public = {offered for name in names for offered in getattr(importlib.import_module(name), "__all__", ())}
        pages |= {name: _page(pdoc.doc.Module(_whole(name))) for name in names}
        _leave_to_rooms(pages)
        _complete(pages)
        for member in [member for page in pages.values() for member in page.members.values()]:
            show_as_written(member, public)
        pdoc.render.configure(docformat="google", search=True, show_source=True, template_directory=TEMPLATES)
        _configure(pdoc.render.env, pages)
        written = {
            f"{name.replace('.', '/')}.html": pdoc.render.html_module(page, pages) for name, page in pages.items()
        }
        found = pdoc.search.make_index(pages, _is_public, "google")
    index = pdoc.render.env.get_template("index.html.jinja2").render(all_modules=pages, root_module_name=None)
    script = pdoc.render.env.get_template("search.js.jinja2").render(
        search_index=json.dumps(found + _recipes_found(written[f"{RECIPES_PAGE}.html"]))
    )
    texts = {folder / name: text for name, text in {"index.html": index, **written, "search.js": script}.items()}
    for path in reversed(texts):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as file:
            file.write_text(texts[path], encoding="utf-8", errors="backslashreplace")
    return list(texts)


def _configure(environment: Any, pages: Mapping[str, Any]) -> None:
    """Give the templates what they ask for: links to `pages`, formulas, recipes, and colours for the dark."""
    import jinja2
    from markupsafe import Markup
    from pdoc.render_helpers import markdown_extensions
    from pygments.formatters import HtmlFormatter

    markdown_extensions["toc"] = {"depth": 3}  # each recipe
    links, shown_by = Links(pages), _recipes_by_place()

    @jinja2.pass_context
    def linkify(context: Any, code: str, namespace: str = "", shorten: bool = True) -> Markup:
        return Markup(links.linkify(context["module"].modulename, str(code), namespace, shorten))

    @jinja2.pass_context
    def link_types(context: Any, code: str) -> Markup:
        return Markup(links.link_types(context["module"].modulename, str(code)))

    environment.filters |= {
        "linkify": linkify,
        "link_types": link_types,
        "typeset": lambda page: Markup(typeset(str(page))),
        "recipes_with": lambda doc: shown_by.get((doc.modulename, doc.qualname), [])[:MOST_RECIPES],
        "first_sentence": lambda page: _first_sentence(links, page),
    }
    environment.globals["titles"] = TITLES
    environment.globals["dark_code"] = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")


MOST_RECIPES = 4
"""So many are named below a public name at most."""


def _first_sentence(links: Links, page: Any) -> Any:
    """How a page begins, in a line; its path from the first page is the same as from a package's."""
    from markupsafe import Markup
    from pdoc.render_helpers import to_html

    told = page.docstring.strip().split("\n\n")[1 if page.modulename == RECIPES_PAGE else 0]
    return Markup(links.linkify("index", str(to_html(told)).removeprefix("<p>").removesuffix("</p>\n")))


def _recipes_by_place() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Heading and anchor of the recipes that use a name, by its page and anchor.

    They use what they import, and what they ask of `model` and of `figures`.
    """
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for heading, code in recipes().items():
        places: set[tuple[str, str]] = set()
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                places |= {(str(node.module), one.name) for one in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                within = {"model": ("interp.model", "HookedTransformer."), "figures": ("interp.plot.figures", "")}
                page, prefix = within.get(node.value.id, ("", ""))
                places |= {(page, prefix + node.attr)}
        for place in places:
            found.setdefault(place, []).append((heading, _anchor(heading)))
    return found


def _anchor(heading: str) -> str:
    """What Markdown calls a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _recipes_module() -> types.ModuleType:
    module = types.ModuleType(RECIPES_PAGE, RECIPES.read_text(encoding="utf-8"))
    module.__dict__["__all__"] = []
    return module


def _is_public(doc: Any) -> bool:
    return doc.name == "__init__" or not doc.name.startswith("_")


def _recipes_found(page: str) -> list[dict[str, str]]:
    """Entries for the search: every recipe, under the anchor that its heading has."""
    parts = re.findall(r'<h3 id="([^"]+)">(.*?)</h3>(.*?)(?=<h[23] |</div>\s*</section>)', page, flags=re.DOTALL)
    return [
        {"fullname": heading, "modulename": RECIPES_PAGE, "qualname": anchor, "kind": "recipe", "doc": text}
        for anchor, heading, text in parts
    ]


# ---------------------------------------------------------------------- pages


def _whole(name: str) -> types.ModuleType:
    """A module with all it offers in it: pdoc would take a name that is imported when asked for as a submodule."""
    module = importlib.import_module(name)
    for offered in getattr(module, "__all__", ()):
        if hasattr(module, offered):
            vars(module).setdefault(offered, getattr(module, offered))
    return module


def _page(page: Any) -> Any:
    """A module as pdoc has it, with constants explained."""
    told = _told_elsewhere(page.obj)
    for member in page.members.values():
        if member.kind == "variable" and not member.docstring:
            member.docstring = told.get(member.name, "")
    return page


def _told_elsewhere(room: types.ModuleType) -> dict[str, str]:
    """What stands under constants and aliases that a room takes from its files, by name."""
    tree = ast.parse(inspect.getsource(room))
    taken = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    told: dict[str, str] = {}
    for node in taken:
        if str(node.module).split(".")[0] in packages():
            found = _told_of_constants(str(node.module))
            told |= {alias.asname or alias.name: found.get(alias.name, "") for alias in node.names}
    return told


@cache
def _told_of_constants(module: str) -> dict[str, str]:
    """The words under what a module sets, for each of several names that are set in one line."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    told: dict[str, str] = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                told |= dict.fromkeys(names, inspect.cleandoc(after.value.value))
    return told


def _leave_to_rooms(pages: Mapping[str, Any]) -> None:
    """Take from a package's face what the page of a room has."""
    in_rooms = {member.taken_from for name, page in pages.items() if "." in name for member in page.members.values()}
    for name in packages():
        page = pages[name]
        page.members = {n: member for n, member in page.members.items() if member.taken_from not in in_rooms}


def _complete(pages: Mapping[str, Any]) -> None:
    """Let a class show what it has from bases that have no page, and leave the rest to the pages of its other bases."""
    classes = [member for page in pages.values() for member in page.members.values() if member.kind == "class"]
    public = {cls.taken_from: (cls.modulename, cls.qualname) for cls in classes}
    for cls in classes:
        cls.own_members = [
            member for member in cls.members.values() if _is_public(member) and _is_own(cls, member, public)
        ]
        cls.inherited_members = {}
        cls.bases = [(*public.get(base[:2], ("", "")), base[2].rpartition(".")[2]) for base in cls.bases]
        if any(member.kind == "function" for member in cls.own_members):
            cls.source = ""  # each of its functions has its own


def _is_own(cls: Any, member: Any, public: Container[tuple[str, str]]) -> bool:
    module, qualname = member.taken_from
    definer = module, qualname.rpartition(".")[0]
    return module.split(".")[0] in packages() and (definer == cls.taken_from or definer not in public)


class Links:
    """Where public names are explained, and the filter of pdoc's templates that links them.

    Attributes:
        places: page and anchor of every public name, of `Class.member`, and of every page.
        own: the anchors of each page.
        arguments: what a function takes, by its page and anchor. In its docstring these words are its own.
    """

    DOT = '</span><span class="o">.</span><span class="n">'
    """A dot in a signature as pdoc colours it."""

    TYPE = re.compile(r"(?<![\w.;/#\"'])[A-Z]\w*(?![\w(])")
    """A name in an annotation that may be one of these packages."""

    CODE = re.compile(r"<code>((?!\d)[\w.]+)((?:\(\))?)</code>(?!</a>)")

    def __init__(self, pages: Mapping[str, Any]):
        self.places: dict[str, tuple[str, str]] = {name: (name, "") for name in pages}
        self.own: dict[str, set[str]] = {name: set() for name in pages}
        self.arguments: dict[tuple[str, str], set[str]] = {}
        for page_name, page in pages.items():
            for anchor, doc in _anchors(page.members.values()):
                if doc.kind == "function":
                    self.arguments[page_name, anchor.removesuffix(".__init__")] = set(doc.signature.parameters)
                self.places.setdefault(anchor, (page_name, anchor))
                self.own[page_name].add(anchor)
        self.paths = re.compile(rf"(?<![\w./\"#])(?:{'|'.join(packages())})(?:\.\w+)+(?![\w/])")

    def linkify(self, here: str, code: str, namespace: str = "", shorten: bool = True) -> str:
        """Text of a page with its names linked: those in backticks, and whole paths, which become short if asked."""

        def quoted(match: re.Match[str]) -> str:
            if match[1] in self.arguments.get((here, namespace), ()):
                return match[0]
            found = self._place(here, match[1], namespace)
            return f"<code>{_link(here, found, match[1] + match[2])}</code>" if found else match[0]

        def dotted(match: re.Match[str]) -> str:
            for start in range(match[0].count(".") + 1):  # the whole path, then without what is before the name
                short = match[0].split(".", start)[-1]
                if (found := self._place(here, short, "")) is not None:
                    return _link(here, found, short if shorten else match[0])
            return match[0]

        return self.CODE.sub(quoted, self.paths.sub(dotted, code.replace(self.DOT, ".")))

    def link_types(self, here: str, code: str) -> str:
        """An annotation or a signature with its types linked."""

        def linked(match: re.Match[str]) -> str:
            found = self._place(here, match[0], "")
            return _link(here, found, match[0]) if found else match[0]

        return self.TYPE.sub(linked, self.linkify(here, code))

    def _place(self, here: str, name: str, namespace: str) -> tuple[str, str] | None:
        """Page and anchor of a name, first as a member of where it stands, then on this page, then on any."""
        within = namespace.split(".") if namespace else []
        for depth in range(len(within), -1, -1):
            if (anchor := ".".join([*within[:depth], name])) in self.own.get(here, ()):
                return here, anchor
        if name in self.places:
            return self.places[name]
        room, _, rest = name.partition(".")  # such as patching.sweep
        page = next((page for page in self.own if page.endswith(f".{room}") and rest in self.own[page]), None)
        return (page, rest) if page else None


def _link(here: str, place: tuple[str, str], text: str) -> str:
    page, anchor = place
    path = "" if page == here else "../" * here.count(".") + page.replace(".", "/") + ".html"
    return f'<a href="{path}{anchor and "#" + anchor}">{text}</a>'


def _anchors(members: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for member in members:
        if member.kind == "variable" and member.is_typevar and not member.docstring:
            continue  # pdoc leaves it out
        yield member.qualname, member
        if member.kind == "class":
            yield from _anchors(member.own_members)
