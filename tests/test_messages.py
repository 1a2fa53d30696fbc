"""Messages about what was misused, everywhere: short, without the numbers of a tensor."""

import re
from typing import Any

import pytest
import torch
from grid import GRID, build, config

from interp import HookedTransformer, InterpError
from interp.interventions import Interventions, Patch, Steer, Zero
from interp.metrics import KLDivergence, LogitDifference
from interp.metrics.kinds import as_metric
from interp.patching import sweep

BIG: Any = torch.arange(10_000.0)


MISUSES: list[Any] = [
    lambda model: model.run_with_cache(torch.tensor([[1, 2]]), names_filter=3.5),
    lambda model: model.run_with_cache(torch.tensor([[1, 2]]), names_filter=[BIG]),
    lambda model: model.run_with_cache(torch.tensor([[1, 2]]), pos_slice=[BIG]),
    lambda model: model.run_with_cache(torch.tensor([[1, 2]]), return_type=BIG),
    lambda model: model.run_with_cache(torch.tensor([[1, 2]]), gradient_of=BIG),
    lambda model: model.run_with_hooks(torch.tensor([[1, 2]]), fwd_hooks=[BIG]),
    lambda model: model.hooks(BIG[0]).__enter__(),
    lambda model: model.hooks([(("z", BIG), print)]).__enter__(),
    lambda model: model.intervene(BIG).__enter__(),
    lambda model: model.generate(torch.tensor([[1]]), BIG),
    lambda model: model.generate(torch.tensor([[1]]), 2, temperature=BIG),
    lambda model: model.generate(torch.tensor([[1]]), 2, top_k=BIG),
    lambda model: Zero(site="z", layer=BIG),
    lambda model: Zero(site=BIG),
    lambda model: Patch(BIG),
    lambda model: Steer(BIG, site="z", scale=BIG),
    lambda model: Interventions((BIG,)),
    lambda model: as_metric(BIG),
    lambda model: LogitDifference(1, 2, pos=[BIG])(torch.zeros(1, 2, 11)),
    lambda model: KLDivergence(BIG.long()[None])(torch.zeros(1, 2, 11)),
    lambda model: sweep(model, BIG, torch.tensor([[1, 2]]), LogitDifference(1, 2)),
    lambda model: sweep(model, torch.tensor([[1]]), torch.tensor([[1]]), LogitDifference(1, 2), over=BIG),
    lambda model: sweep(model, torch.tensor([[1]]), torch.tensor([[1]]), LogitDifference(1, 2), layers=BIG),
]


@pytest.mark.parametrize("misuse", MISUSES, ids=range(len(MISUSES)))
def test_no_message_prints_a_tensor(misuse: Any, as_installed: None):
    model = build(config(GRID["learned_ln"]), seed=1)
    with pytest.raises((InterpError, TypeError, ValueError)) as raised:
        misuse(model)
    text = str(raised.value)
    assert "tensor(" not in text and not re.search(r"\d\.\d*, ", text) and len(text) < 400, text


@pytest.mark.parametrize(
    ("fn", "shown"),
    [
        (lambda x: x, r"<lambda>\(x\)"),
        (lambda: None, r"<lambda>\(\)"),
        (lambda x, hook, third: x, r"<lambda>\(x, hook, third\)"),
    ],
    ids=range(3),
)
@pytest.mark.parametrize("way", ["run", "hooks", "add"])
def test_a_hook_that_takes_other_arguments_is_named_before_the_run(fn: Any, shown: str, way: str):
    model = build(config(GRID["learned_ln"]), seed=1)
    with pytest.raises(TypeError, match=rf"the hook on \('z', 1\) is {shown}.*fn\(activation, hook\)"):
        run_with(model, fn, way)
    assert not any(point.hooks for point in model.hook_points.values())


def run_with(model: HookedTransformer, fn: Any, way: str) -> None:
    if way == "add":
        model.add_hook(("z", 1), fn)
    elif way == "hooks":
        with model.hooks([(("z", 1), fn)]):
            pytest.fail("the block began")
    else:
        model.run_with_hooks(torch.tensor([[1, 2]]), fwd_hooks=[(("z", 1), fn)])


def test_any_function_that_can_be_called_with_an_activation_and_a_hook_will_do():
    model, seen = build(config(GRID["learned_ln"]), seed=1), []
    for fn in (lambda *args: seen.append(1), lambda x, hook=None: seen.append(2), lambda x, h, n=1: seen.append(3)):
        run_with(model, fn, "run")
    assert seen == [1, 2, 3]
