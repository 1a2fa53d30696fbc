"""Metrics compare by what they ask, and their keys mean the same in another process."""

import enum
import functools
import itertools
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid import SMALL, build, config, random_tensor
from torch import Tensor

from interp import ConfigError, Vocabulary
from interp.interventions import Apply, Named, Patch, Values, Zero
from interp.metrics import (
    Function,
    JudgedRun,
    KLDivergence,
    Logit,
    LogitDifference,
    LogProbability,
    Loss,
    Metric,
    Probability,
    Rank,
)
from interp.metrics.keys import key_of

LOGITS = random_tensor(2, 3, 5, seed=1)


def test_metrics_are_equal_exactly_where_they_ask_the_same():
    different: list[Metric] = [
        kind(answer, pos) for kind in (Logit, LogProbability, Probability, Rank)
        for answer in (1, 2, "x", (1, 2)) for pos in (-1, 0, None, (0, 1))
    ]  # fmt: skip
    different += [LogitDifference(1, 2), LogitDifference(2, 1), LogitDifference(1, 2, pos=0), Loss()]
    references = (None, "x", "y", ("x", "y"), LOGITS, LOGITS + 1e-9, LOGITS.float(), LOGITS[:1], LOGITS.argmax(-1))
    different += [KLDivergence(reference, pos) for reference in references for pos in (-1, 0)]
    different += [Function(len), Function(max), Function(len, pos=0), Function(len, key_text="v2")]
    for (i, one), (j, other) in itertools.product(enumerate(different), repeat=2):
        assert (one == other) == (i == j), (one, other)
    assert len(set(different)) == len(different)
    for metric in different:
        copied = pickle.loads(pickle.dumps(metric))
        assert copied == metric and hash(copied) == hash(metric)


def test_one_question_in_several_spellings_is_one_metric(as_installed: None):
    ids = (1, 2)
    for spelled in ([1, 2], torch.tensor([1, 2]), np.array([1, 2]), [torch.tensor(1), np.int64(2)], range(1, 3)):
        one: Any = spelled
        assert Rank(one) == Rank(ids) and hash(Rank(one)) == hash(Rank(ids))
        assert LogitDifference(one, 3, pos=one) == LogitDifference(ids, torch.tensor(3), pos=ids)
    assert KLDivergence(["x", "y"]) == KLDivergence(("x", "y"))
    assert KLDivergence(LOGITS) == KLDivergence(LOGITS.clone()) != KLDivergence(LOGITS.mT.contiguous())
    assert hash(KLDivergence(LOGITS)) == hash(KLDivergence(LOGITS.clone()))


def key(metric: Metric) -> str:
    words = Vocabulary(list("abcdefghijk"))
    model = build(config(SMALL), seed=1, tokenizer=words)
    return json.dumps(metric.key(JudgedRun.of(model, model.masked_tokens(torch.ones(2, 3, dtype=torch.long)))))


def test_keys_speak_of_the_tokens_that_are_meant():
    assert key(Logit("c")) == key(Logit(2)) == key(Logit((2, 2))) != key(Logit("d"))
    assert key(Logit(2)) != key(Rank(2)) and key(Logit(2)) != key(Logit(2, pos=0))
    assert key(LogitDifference("c", "d")) == key(LogitDifference([2, 2], 3)) != key(LogitDifference(3, 2))
    assert key(KLDivergence("a")) != key(KLDivergence("b")) and key(Loss()) == key(Loss())


SCRIPT = """
import functools, json, statistics, sys
import torch, torch.nn.functional as F
from interp.metrics import Function, Logit, Metric
from interp.metrics.keys import key_of

WORDS, FACTOR = {"a", "bb", "ccc", "dddd"}, 2.5

def helper(x):
    return [helper(y) for y in x] if isinstance(x, list) else x * FACTOR

def outer(row, table):
    def middle(logits):
        inside = lambda part: sum(v for v in part if "q" not in {"r", "s", "t"})
        return inside(logits[:, row].softmax(-1) @ table)
    return middle

class Own(Metric):
    def plan(self, run):
        return helper(run)

made = {
    "a nested function": outer(1, torch.arange(3.0)),
    "a captured value": outer(VALUE, torch.arange(3.0)),
    "a captured tensor": outer(1, torch.tensor([1.0, VALUE])),
    "a default": lambda logits, n=VALUE: logits[n],
    "a variable of the module": lambda logits: helper(logits) if logits in WORDS else F.relu(logits),
    "a partial": functools.partial(outer, VALUE, table=2),
    "a metric inside": lambda logits, m=Logit(VALUE): m(logits),
    "a function of a package": lambda logits: statistics.mean(logits) + torch.softmax(logits, -1).sum(),
}
keys = {name: key_of(fn) for name, fn in made.items()} | {"a class": Own().key(None)}
print(json.dumps(keys))
"""


def keys_of_another_process(tmp_path: Path, value: int, seed: int) -> dict[str, Any]:
    script = tmp_path / f"script_{value}_{seed}.py"
    script.write_text(SCRIPT.replace("VALUE", str(value)), encoding="utf-8")
    env = os.environ | {"PYTHONHASHSEED": str(seed)}
    return json.loads(subprocess.run([sys.executable, script], env=env, capture_output=True, check=True).stdout)


@pytest.mark.apart
def test_a_functions_key_is_the_same_in_another_process_and_differs_by_what_it_uses(tmp_path: Path):
    one, again, other = (keys_of_another_process(tmp_path, *how) for how in ((1, 1), (1, 2), (2, 1)))
    assert one == again
    same = {"a nested function", "a variable of the module", "a function of a package", "a class"}
    assert {name for name in one if one[name] == other[name]} == same


def test_a_change_in_code_that_is_used_is_another_key():
    def made(code: str) -> Any:
        space: dict[str, Any] = {}
        exec(f"CONSTANT = 1\ndef helper(x):\n    return {code}\ndef fn(logits):\n    return helper(logits)", space)
        return key_of(space["fn"])

    assert made("x + 1") == made("x + 1") != made("x + 2") and made("x + CONSTANT") != made("x + 1")
    assert made("[y + 1 for y in x]") != made("[y + 2 for y in x]")


def test_what_cannot_be_told_apart_in_another_process_is_refused_with_the_way_out():
    probe = torch.nn.Linear(2, 2)
    seen: list[int] = []
    cases: dict[str, Any] = {
        "captured probe": lambda logits: probe(logits),
        "Linear": probe,
        "append": seen.append,
        "a default": functools.partial(lambda logits, of=probe: of(logits)),
    }
    for message, fn in cases.items():
        with pytest.raises(ConfigError, match=rf"(?s){message}.*Function\(fn, key_text='...'\), or .*leave checkpoint"):
            key(Function(fn))
        assert key(Function(fn, key_text="1")) == key(Function(fn, key_text="1")) != key(Function(fn, key_text="2"))


@pytest.mark.apart
def test_every_plain_value_has_a_key_of_its_own():
    values: list[Any] = [
        None, True, 0, 0.0, -0.0, 1, 1.0, 1j, "1", b"1", [1], (1,), {1}, {1: 2}, {2: 1}, [], (), {}, [[]],
        torch.tensor(1), torch.tensor(1.0), torch.tensor([1]), np.array([1.0]), range(1), slice(1),
        torch.float32, Tensor, max, key_of, json,
    ]  # fmt: skip
    keys = [json.dumps(key_of(value)) for value in values]
    assert len(set(keys)) == len(keys)


def test_a_class_of_the_callers_is_keyed_by_its_methods_and_values():
    def metric(token: int, power: int = 1, base: int = 0) -> Any:
        class Scale:
            OFFSET = base

        class Settings(Scale):
            TOKEN = token

            @staticmethod
            def raised(x: Tensor) -> Tensor:
                return x**2 if power == 2 else x**3

            def again(self) -> "Settings":
                return Settings()

        return lambda logits: Settings.raised(logits[:, -1, Settings.TOKEN]) + Settings.OFFSET

    keys = [json.dumps(key_of(metric(*given))) for given in [(1,), (2,), (1, 2), (1, 1, 1)]]
    assert len(set(keys)) == len(keys)
    assert json.dumps(key_of(metric(1))) == keys[0]


def test_members_of_an_enumeration_and_records_are_keyed_by_what_they_hold():
    def member(value: int) -> Any:
        class Answer(enum.Enum):
            RIGHT = value
            WRONG = 7

            def other(self) -> "Answer":
                return Answer.WRONG

        return Answer.RIGHT

    def record(default: int) -> Any:
        @dataclass(frozen=True)
        class Record:
            token: int = default

            @property
            def next(self) -> int:
                return self.token + 1

        return Record

    assert key_of(member(1)) == key_of(member(1)) != key_of(member(2))
    assert key_of(record(1)(5)) == key_of(record(1)(5)) != key_of(record(1)(6))
    assert key_of(torch.nn.Linear) == ["type", "torch.nn.modules.linear", "Linear"]


def test_interventions_are_keyed_by_values_masks_code_and_the_weights_of_what_has_a_name():
    values, mask = {"blocks.0.attn.hook_z": random_tensor(2, 3, 4, 5, seed=1)}, torch.tensor([[0, 1, 1], [1, 1, 1]])
    place: dict[str, Any] = {"site": "z", "layer": 0}
    elsewhere: dict[str, Any] = {"site": "z", "layer": 1}

    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Linear(5, 5)

    items = [
        Zero(**place),
        Zero(**elsewhere),
        Patch(values, **place),
        Patch({name: value + 1e-9 for name, value in values.items()}, **place),
        Patch(Values(values, attention_mask=mask.bool()), **place),
        Patch(Values(values, made_by="a model"), **place),
        Apply(lambda x: x * 2, **place),
        Apply(lambda x: x * 3, **place),
        Apply(Named(module(1), "one"), **place),
        Apply(Named(module(2), "one"), **place),
        Apply(Named(module(1), "two"), **place),
        Apply(Named(torch.zeros(1).new_tensor, "a method"), **place),
        Zero(**place) + Zero(site="q", layer=0),
    ]
    keys = [json.dumps(key_of(item)) for item in items]
    assert len(set(keys)) == len(keys)
    assert json.dumps(key_of(Apply(Named(module(1), "one"), **place))) == keys[8]
    assert json.dumps(key_of(Patch({name: value.clone() for name, value in values.items()}, **place))) == keys[2]
    with pytest.raises(ConfigError, match=r"Linear.*, a module, .* Named\(module, 'a name'\)"):
        key_of(Apply(module(1), **place))
