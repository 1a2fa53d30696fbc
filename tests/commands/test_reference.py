"""The reference: every public name on a page of its room, linked, found by the search, and without a network."""

import html
import importlib
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interp.commands.cli import app
from interp.commands.reference import packages, recipes, rooms, write_site
from interp.commands.reference_text import typeset

pytest.importorskip("pdoc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_site(folder)
    return folder


def pages(site: Path) -> dict[str, str]:
    named = {".".join(file.relative_to(site).with_suffix("").parts): file for file in sorted(site.rglob("*.html"))}
    return {name: file.read_text(encoding="utf-8") for name, file in named.items()}


class Anchors(HTMLParser):
    """The ids of a page, what its links point to, and what it would load."""

    def __init__(self, page: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a":
            self.links.append(given.get("href") or "")
        self.loads += [str(given[key]) for key in ("src", "href") if given.get(key) and tag != "a"]


@pytest.mark.apart
def test_every_public_name_of_every_room_is_on_its_page(site: Path):
    found = pages(site)
    for package in packages():
        folder = Path(str(importlib.import_module(package).__file__)).parent
        there = {f"{package}.{one.parent.name}" for one in folder.glob("*/__init__.py")}
        assert there <= set(rooms(package)), "a room is missing in the package's docstring"
        for room in rooms(package)[1:]:
            module, ids = importlib.import_module(room), Anchors(found[room]).ids
            names = [name for name in module.__all__ if hasattr(module, name)] if hasattr(module, "__all__") else []
            missing = {n for n in names if type(getattr(module, n)) is not type(module)} - ids
            assert not missing, (room, missing)
            sections = re.split(r'<section id="([^"]+)">', found[room])
            untold = {
                n for n, said in zip(sections[1::2], sections[2::2], strict=True) if 'class="docstring' not in said
            }
            assert not untold & set(names), (room, untold)
        names = set(importlib.import_module(package).__all__)
        assert names <= set().union(*(Anchors(page).ids for page in found.values()))
    assert "Circuit.compile" in Anchors(found["circuits"]).ids
    assert {"HookedTransformer.run_with_cache", "HookedTransformer.generate"} <= Anchors(found["interp.model"]).ids
    assert "HookedTransformer.register_buffer" not in found["interp.model"]  # torch's


@pytest.mark.apart
def test_every_link_leads_somewhere_within_and_nothing_is_loaded_from_elsewhere(site: Path):
    found = {file: Anchors(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    for file, page in found.items():
        assert not [one for one in page.loads if not one.startswith("data:")], file
        for link in page.links:
            path, _, anchor = link.partition("#")
            if path.startswith("https://"):
                continue  # a paper, or the generator's own page: followed if clicked
            target = (file.parent / path).resolve() if path else file
            assert target in found, (file, link)
            assert not anchor or anchor in found[target].ids, (file, link)


@pytest.mark.apart
def test_names_in_docstrings_and_annotations_are_links_to_their_rooms(site: Path):
    found = pages(site)
    assert '<a href="../../interp/patching.html#sweep">patching.sweep</a>' in found["interp.plot.figures"]
    assert '<a href="../interp/model.html#ActivationCache">ActivationCache</a>' in found["interp.lens"]
    assert not re.search(r">interp\.model\.hooks\.HookPoint<", found["interp.model"])


@pytest.mark.apart
def test_the_search_knows_names_and_recipes_and_the_first_page_lists_the_rooms_in_order(site: Path):
    script = (site / "search.js").read_text(encoding="utf-8")
    entries = json.loads(re.search(r"const docs = (.*);\n", script)[1])  # pyright: ignore[reportOptionalSubscript]
    names = {(one["modulename"], one.get("qualname")) for one in entries}
    assert {("interp.patching", "sweep"), ("interp.model", "HookedTransformer.run_with_cache")} <= names
    assert {one["fullname"] for one in entries if one["modulename"] == "how_do_i"} >= set(recipes())
    index = pages(site)["index"]
    listed = re.findall(r'<a href="([^"]+)\.html">', index)
    in_order = [room.replace(".", "/") for package in packages() for room in rooms(package)]
    assert listed[1 : 1 + len(in_order)] == in_order
    assert listed[0] == "how_do_i"


def test_the_first_page_is_written_last_so_that_an_interrupted_site_has_none(site: Path):
    written = {path: path.stat().st_mtime_ns for path in site.rglob("*") if path.is_file()}
    assert len(written) > 9 and written.pop(site / "index.html") >= max(written.values())


def test_the_command_says_where_the_site_is_and_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from interp.commands import docs

    monkeypatch.setattr(docs, "write_site", lambda folder: [Path(__file__)] * 5)
    done = CliRunner().invoke(app, ["docs", "--out", str(tmp_path / "site")])
    assert done.exit_code == 0 and "3 pages" in done.output
    monkeypatch.setitem(__import__("sys").modules, "pdoc", None)
    with pytest.raises(Exception, match=re.escape("pip install 'interp[docs]'")):
        write_site(tmp_path)


@pytest.mark.apart
def test_annotations_are_shown_as_they_are_written_and_aliases_without_a_place_as_what_they_stand_for(site: Path):
    lens = html.unescape(re.sub(r"<[^>]+>", "", pages(site)["interp.lens"]))
    assert "correct: Answer," in lens and "-> xr.Dataset:" in lens
    assert "by: Literal['component', 'head'," in lens  # `By`, which is not public
    signature = re.search(
        r'<div class="attr function">.*?direct_attribution.*?</div>', pages(site)["interp.lens"], re.S
    )
    assert signature is not None and "autocast" not in signature[0]  # of which no caller knows


@pytest.mark.apart
def test_a_word_for_an_argument_leads_to_no_function_of_that_name(site: Path):
    said = re.search(r'<section id="head_label">.*?</section>', pages(site)["interp.model"], flags=re.DOTALL)
    assert said is not None and "<code>part</code>" in said[0]


def test_formulas_are_set_and_code_is_not():
    assert typeset("<code>W_Q W_K^T / attn_scale</code>") == (
        '<span class="formula">W<sub>Q</sub> W<sub>K</sub><sup>T</sup> / attn_scale</span>'
    )
    assert typeset("<code>sum_i base^(-2 k / width)</code>") == (
        '<span class="formula">∑<sub>i</sub> base<sup>&minus;2 k / width</sup></span>'
    )
    for code in (
        "W_Q",
        "blocks[l].attn.W_O",
        "cache[&quot;z&quot;, 0]",
        "W_E @ W_U",
        "n_heads",
        "FactoredMatrix(A, B.mT)",
    ):
        assert typeset(f"<code>{code}</code>") == f"<code>{code}</code>"
