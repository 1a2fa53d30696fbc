"""What docstrings and the README call by name is there under that name."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OF_VALUES = {"model", "config", "text", "results"}  # `model.W_Q` speaks of a model, not of the room
ROOMS = [path.parent.name for path in (ROOT / "interp").glob("*/__init__.py") if path.parent.name not in OF_VALUES]


def prose() -> list[tuple[str, str]]:
    """Where a text stands, and the text: the README, every docstring, the words of the notebooks."""
    found = [("README.md", (ROOT / "README.md").read_text(encoding="utf-8"))]
    for package in ("interp", "circuits"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                    found.append((f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}", text))
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        found.append((path.name, "\n".join(line[2:] for line in lines if line.startswith("# "))))
    return found


PROSE = prose()


def test_what_a_room_is_said_to_have_it_has():
    missing = []
    pattern = re.compile(rf"`(?:interp\.)?({'|'.join(ROOMS)})\.(?!py`)([A-Za-z_]\w*)[`(]")
    for place, text in PROSE:
        for room, name in pattern.findall(text):
            whole = importlib.import_module(f"interp.{room}")
            if not hasattr(whole, name) and importlib.util.find_spec(f"interp.{room}.{name}") is None:
                missing.append(f"{place}: interp.{room} has no {name}")
    assert missing == []


def test_files_that_are_named_are_there():
    folders = ("interp", "circuits", "tests", "notebooks")
    there = [f"/{path.relative_to(ROOT).as_posix()}" for folder in folders for path in (ROOT / folder).rglob("*")]
    missing = []
    for place, text in PROSE:
        for path in re.findall(r"`([\w./]+\.(?:py|js|css))`", text):
            if not any(known.endswith(f"/{path}") for known in there):
                missing.append(f"{place}: no file {path}")
    assert missing == []


@pytest.mark.parametrize("text", ["`patching.swep(", "`interp.lens.logit_len`"])
def test_a_name_that_is_not_there_would_be_found(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "PROSE", [("somewhere", text)])
    with pytest.raises(AssertionError, match="somewhere"):
        test_what_a_room_is_said_to_have_it_has()


def test_the_map_of_rooms_has_every_room_and_the_files_to_begin_with():
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("| room |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:4] for line in text.splitlines()[2:]]
    shown = set()
    for names, _, begin in rows:
        rooms = re.findall(r"`([\w.]+)`", names)
        shown |= set(rooms)
        folders = [ROOT / room.replace(".", "/") for room in rooms]
        for file in re.findall(r"`([\w./]+)`", begin):
            assert any((folder / file).exists() or (folder.parent / file).exists() for folder in folders), file
    there = {
        f"{package}.{path.stem}"
        for package in ("interp", "circuits")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").exists() or (package == "circuits" and path.suffix == ".py")
    }
    assert shown == there - {"circuits.__init__"}
