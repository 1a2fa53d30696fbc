"""What TransformerLens 2.16 computed (`record_transformer_lens.py`), the module computes again, to 1e-5."""

import functools
import json
from typing import Any

import pytest
from record_transformer_lens import FILE, KINDS, MEASURES, measure

from interp.compat import transformer_lens

PLACES = [(kind, what) for kind in KINDS for what in MEASURES]


@functools.cache
def recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def differences(ours: Any, theirs: Any, at: str) -> list[str]:
    """Where two digests differ: in shapes, labels and integers at all, in numbers by more than 1e-5 of their size."""
    if isinstance(theirs, dict) and "numbers" in theirs:
        if not isinstance(ours, dict) or ours["shape"] != theirs["shape"]:
            return [f"{at}: {ours} instead of the shape {theirs['shape']}"]
        size = 1e-5 * max(1.0, theirs["numbers"][0])
        far = max(abs(a - b) for a, b in zip(ours["numbers"], theirs["numbers"], strict=True))
        return [] if far <= size else [f"{at}: {ours['numbers']} instead of {theirs['numbers']}"]
    if isinstance(theirs, list):
        if not isinstance(ours, list | tuple) or len(ours) != len(theirs):
            return [f"{at}: {ours} instead of {theirs}"]
        return [
            found for i, pair in enumerate(zip(ours, theirs, strict=True)) for found in differences(*pair, f"{at} {i}")
        ]
    if isinstance(theirs, float):
        return [] if abs(ours - theirs) <= 1e-5 * max(1.0, abs(theirs)) else [f"{at}: {ours} instead of {theirs}"]
    return [] if ours == theirs else [f"{at}: {ours!r} instead of {theirs!r}"]


@pytest.mark.parametrize(("kind", "what"), PLACES)
def test_the_module_gives_the_numbers_that_were_recorded(kind: str, what: str) -> None:
    theirs = recorded()[kind][what]
    ours = measure(transformer_lens, kind, what)
    found = [f"{name}: missing" for name in theirs if name not in ours]
    found += [f"{name}: not among theirs" for name in ours if name not in theirs]
    for name in ours.keys() & theirs.keys():
        found += differences(ours[name], theirs[name], name)
    assert not found, f"{len(found)} of {len(theirs)} differ:\n" + "\n".join(found[:20])


def test_a_number_that_is_off_by_more_than_1e_5_is_found() -> None:
    theirs = recorded()["layer norm"]["running"]["logits"]
    off = theirs | {
        "numbers": [
            theirs["numbers"][0],
            theirs["numbers"][1] + 2e-5 * max(1, theirs["numbers"][0]),
            *theirs["numbers"][2:],
        ]
    }
    assert differences(off, theirs, "logits")
    assert differences(theirs | {"shape": [1]}, theirs, "logits")
    assert not differences(theirs, theirs, "logits")
