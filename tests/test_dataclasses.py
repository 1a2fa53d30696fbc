"""Dataclasses that hold tensors are equal to themselves alone: comparing tensors gives no yes or no."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any, get_args, get_origin

import numpy as np
import torch
from grid import Run

import circuits
import interp
from interp import FactoredMatrix, HookedTransformer
from interp.metrics import Metric
from interp.model import ActivationCache

HOLDS = (torch.Tensor, np.ndarray, FactoredMatrix, ActivationCache, HookedTransformer)


def dataclasses_of_the_packages() -> list[type]:
    names = [
        info.name
        for package in (interp, circuits)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    ]
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return list({kind: None for kind in found if inspect.isclass(kind) and dataclasses.is_dataclass(kind)})


def holds_tensors(annotation: Any) -> bool:
    """Whether a field of this annotation holds arrays, other than what a function takes or gives."""
    if isinstance(annotation, str):
        held = re.search(rf"\b({'|'.join(kind.__name__ for kind in HOLDS)})\b", annotation)
        return held is not None and "Callable" not in annotation
    if get_origin(annotation) is Callable:
        return False
    if args := get_args(annotation):
        return any(holds_tensors(part) for part in args)
    if hasattr(annotation, "array_type"):  # jaxtyping's
        return issubclass(annotation.array_type, HOLDS)
    if not inspect.isclass(annotation):
        return False
    if dataclasses.is_dataclass(annotation):
        return annotation.__eq__ is not object.__eq__ and any(
            holds_tensors(field.type) for field in dataclasses.fields(annotation)
        )
    return issubclass(annotation, HOLDS)


def test_dataclasses_that_hold_tensors_do_not_compare_them():
    kinds = dataclasses_of_the_packages()
    assert len(kinds) > 60
    holding = {kind for kind in kinds if any(holds_tensors(field.type) for field in dataclasses.fields(kind))}
    assert {"Stack", "Generation", "Training", "AttentionRun", "Batch"} <= {kind.__name__ for kind in holding}
    comparing = {kind.__name__ for kind in holding if kind.__eq__ is not object.__eq__}
    # Metrics turn the answers that they are given into tuples.
    assert comparing == {kind.__name__ for kind in holding if issubclass(kind, Metric)}


def test_results_are_equal_to_themselves_and_can_be_kept_in_sets(plain: Run):
    stack, other = plain.cache.decompose_resid(), plain.cache.decompose_resid()
    generated = [plain.model.generate(plain.tokens[:, :2], 2, progress=False) for _ in range(2)]
    for one, two in ((stack, other), tuple(generated), tuple(plain.cache.logit_attrs(s, 1) for s in (stack, other))):
        assert one == one and one != two and len({one, two, one}) == 2 and one in [two, one]
