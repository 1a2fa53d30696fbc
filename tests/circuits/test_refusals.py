"""What a declaration cannot say is refused: by name, with what is allowed, before anything is changed."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_circuits import induction, wrong
from torch import Tensor

from circuits import Circuit, Space, copy, match, shift
from circuits.export import compile_as_gpt2
from circuits.gallery import entry
from interp import ConfigError


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c, s: c.head(-1, "h"), "head 'h': layer = -1; allowed: 0 or more"),
        (lambda c, s: (c.head(0, "h"), c.head(1, "h")), "head 'h': the name is taken"),
        (lambda c, s: c.head(0, "embed"), "head 'embed': the name is taken"),
        (lambda c, s: c.head(0, "h", match(s, s)), r"head 'h': Space\('foreign', a b\) is not one of this circuit's"),
        (lambda c, s: c.head(0, "h", ties="last"), "head 'h': ties = 'last'; allowed: .*; did you mean 'latest'"),
        (
            lambda c, s: Circuit("ab", 4, attention_dir=wrong("casual")),
            "attention_dir = 'casual'.*did you mean 'causal'",
        ),
        (lambda c, s: c.head(0, ""), "head '': the name is ''; allowed: a word"),
        (lambda c, s: c.head(0, "h", sharp=True), "head 'h': sharp = True; allowed: a finite number above 0"),
        (lambda c, s: c.head(0, "h", c.tok), "head 'h': qk = .*; allowed: a form, as match"),
        (
            lambda c, s: c.mlp(0, "m", wrong("tok"), c.out, {"a": "b"}),
            "mlp 'm': 'tok' is not a space; this circuit has tok pos",
        ),
        (
            lambda c, s: c.mlp(0, "m", c.tok, c.out, "ab"),
            "mlp 'm': the table is 'ab'; allowed: a mapping, or a function",
        ),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": math.nan}), "bucket 'b': the value of 'a' is nan; allowed"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": "1"}), "bucket 'b': the value of 'a' is '1'; allowed"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {}), "bucket 'b': no values"),
        (lambda c, s: c.embed("e", {"a": [math.nan]}), r"space 'e': the features of 'a' are \[nan\]; allowed: finite"),
        (lambda c, s: c.embed("e", wrong({"a": None})), "space 'e': the features of 'a' are None; allowed: finite"),
        (lambda c, s: c.embed("e", wrong(["a"])), r"space 'e': the table is \['a'\]; allowed: a mapping from words"),
        (lambda c, s: c.space("", ["a"]), "a space is called ''; allowed: a word"),
        (lambda c, s: c.space("s", [1.5]), "space 's': label 1.5 at place 0; allowed: words and integers"),
        (lambda c, s: match(wrong("tok"), c.tok), "match relates two spaces, and 'tok' is none"),
        (
            lambda c, s: match(c.tok, c.tok, torch.full((3, 3), math.inf)),
            "the relation has entries that are not finite",
        ),
        (
            lambda c, s: match(c.tok, c.tok, 1j * torch.eye(3)),
            "the relation has numbers of torch.complex64; allowed: real numbers",
        ),
        (lambda c, s: match(c.tok, c.tok, [[1], [1, 2]]), r"the relation is \[\[1\], \[1, 2\]\]; allowed: shift"),
        (lambda c, s: match(c.tok, c.tok, wrong("ab")), r"the relation is 'ab'; allowed: shift\(n\), a mapping"),
        (lambda c, s: match(c.tok, c.tok, lambda a, b: math.nan), "the relation of '!' and '!' is nan; allowed: true"),
        (lambda c, s: match(c.tok, c.tok, wrong(lambda a, b: None)), "the relation of '!' and '!' is None; allowed"),
        (lambda c, s: match(c.tok, c.tok, wrong({"a": None})), r"match\(tok, tok\): space 'tok' has no label None"),
        (lambda c, s: copy(c.tok, c.out, drop=wrong(3.5)), r"copy\(tok, out\), drop=3.5: space 'tok' has no label"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), recency=0.1), "recency = 0.1 contradicts ties = 'mean'"),
        (
            lambda c, s: c.head(0, "h", match(c.tok, c.tok), ties="latest", recency=0.5),
            "head 'h': recency = 0.5; allowed: above 0, and below half the gap between scores, 0.5",
        ),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sharp=0), "head 'h': sharp = 0"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sharp=float("inf")), "head 'h': sharp = inf"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), gap=-1), "head 'h': gap = -1"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), gap="x"), "head 'h': gap = 'x'; allowed: a finite number"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sink="x"), "head 'h': sink = 'x'; allowed: a finite number"),
        (lambda c, s: c.head(0.5, "h"), "head 'h': layer = 0.5; allowed: 0 or more"),
        (lambda c, s: float("nan") * match(c.tok, c.tok), r"nan \* \(match\(tok, tok\)\); allowed: a finite number"),
        (lambda c, s: wrong("3") * match(c.tok, c.tok), r"'3' \* \(match\(tok, tok\)\); allowed: a finite number"),
        (lambda c, s: shift(wrong(1.5)), r"shift\(1.5\); allowed: a whole number of places"),
        (lambda c, s: Circuit("ab", wrong("4")), "n_ctx = '4'; allowed: 1 or more"),
        (lambda c, s: c.head(0, "h", match(c.tok, c.tok), sink=-1), "head 'h': sink = -1; allowed: a finite number"),
        (lambda c, s: c.mlp(0, "m", c.tok, s, {}), "mlp 'm': Space.'foreign'"),
        (lambda c, s: c.mlp(0, "m", c.tok, c.out, {}), "mlp 'm': the table has no entries"),
        (
            lambda c, s: c.mlp(0, "m", c.tok, c.out, {"x": "a"}),
            r"mlp 'm', entry 'x': space 'tok' has no label 'x'",
        ),
        (lambda c, s: c.mlp(0, "m", c.tok, c.out, {"a": "x"}), r"mlp 'm', entry 'a': space 'out' has no label"),
        (lambda c, s: c.mlp(0, "m", (c.tok, c.pos), c.out, {"a": "a"}), "one label for each of 2 spaces"),
        (lambda c, s: c.mlp(0, "m", c.tok, (c.out, c.out), {"a": "a"}), "a label for each of the 2 spaces it writes"),
        (lambda c, s: c.bucket(0, "b", c.tok, c.out, {"a": 1}), r"'tok' has 3 numbers; say which, as in tok\['!'\]"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"a": 1, "b": 1}), "'a' and 'b' have the same value, 1"),
        (lambda c, s: c.bucket(0, "b", c.one, c.out, {"x": 1}), "bucket 'b': space 'out' has no label 'x'"),
        (lambda c, s: c.embed("e", {"a": "x", "b": [1.0]}), "space 'e': either a label for each word, or vectors"),
        (lambda c, s: c.embed("e", {"a": [1.0], "b": [1.0, 2.0]}), "space 'e': .* vectors of one length"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_by_name(declare, message: str, as_installed: None):
    c = Circuit("!ab", 4, bos="!")
    with pytest.raises(ConfigError, match=message):
        declare(c, Space("foreign", ("a", "b")))


def test_a_refused_head_leaves_no_trace():
    c = induction()
    with pytest.raises(ConfigError):
        c.head(1, "more", qk=match(c.tok, c.tok), recency=0.1)
    assert [part.name for part in c.parts] == ["previous", "induction"]


untyped: Any = SimpleNamespace(Circuit=Circuit, match=match, copy=copy, entry=entry, compile_as_gpt2=compile_as_gpt2)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c: c.compile(dmodel=30), "compile: .* 'dmodel'; it takes d_head, d_model, .*; did you mean d_model="),
        (lambda c: c.compile(rotation=3), "did you mean rotate="),
        (lambda c: c.verify(samples=3), "verify: unknown argument 'samples'; .*; did you mean sample="),
        (lambda c: c.verify(batchsize=3), "did you mean batch_size="),
        (lambda c: c.head(0, "h", vo=None), "head: unknown argument 'vo'; .*; did you mean ov="),
        (lambda c: c.head(0, "h", sharpness=3), "did you mean sharp="),
        (lambda c: c.space("s", label=c.tok), "space: .* 'label'; it takes name, labels, holds; did you mean labels="),
        (lambda c: c.embed("s", tables={}), "embed: unknown argument 'tables'; .*; did you mean table="),
        (lambda c: c.mlp(0, "m", read=c.tok), "mlp: unknown argument 'read'; .*; did you mean reads="),
        (lambda c: c.bucket(0, "b", gates=c.tok), "bucket: unknown argument 'gates'; .*; did you mean gate="),
        (lambda c: c.interpret(inputs="!"), "interpret: unknown argument 'inputs'; .*; did you mean input="),
        (lambda c: untyped.Circuit("ab", nctx=3), ": unknown argument 'nctx'; .*; did you mean n_ctx="),
        (lambda c: untyped.match(c.tok, c.tok, relations={}), "match: .*; did you mean relation="),
        (lambda c: untyped.copy(c.tok, c.tok, dropped="a"), "copy: .*; did you mean drop="),
        (lambda c: untyped.compile_as_gpt2(c, dhead=3), "compile_as_gpt2: .*; did you mean d_head="),
        (lambda c: untyped.entry("ioi").verify(samples=3), "verify: .*; did you mean sample="),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(declare: Callable[[Any], Any], message: str):
    with pytest.raises(ConfigError, match=message):
        declare(Circuit("!ab", 4, bos="!"))


def one_head(c: Circuit) -> Circuit:
    """The circuit with a head that copies the word it stands at."""
    c.head(0, "here", qk=match(c.pos, c.pos), ov=copy(c.tok, c.out))
    return c


MATRIX = "Tensor of float32 .9, 9."


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda c, x: c.head(0, "h", qk=x), f"qk = {MATRIX}; allowed: a form"),
        (lambda c, x: c.head(0, "h", sink=x), f"sink = {MATRIX}"),
        (lambda c, x: untyped.match(c.tok, c.tok, [x, [1.0]]), f"the relation is .{MATRIX}, "),
        (lambda c, x: untyped.match(x, c.tok), f"match relates two spaces, and {MATRIX}"),
        (lambda c, x: c.embed("e", {"a": x}), f"the features of 'a' are {MATRIX}"),
        (lambda c, x: c.compile(error=x), f"error = {MATRIX}"),
        (
            lambda c, x: one_head(c).verify(["!a"], model=wrong(torch.nn.Linear(2, 2))),
            "model = Linear.*; allowed: a HookedTransformer",
        ),
        (lambda c, x: one_head(c).verify(["!a"], lambda text: x), f"answers '!a' with {MATRIX}"),
        (lambda c, x: c.bucket(0, "b", c.one, c.out, {"a": x}), f"the value of 'a' is {MATRIX}"),
    ],
)
def test_no_message_prints_a_tensor(declare: Callable[[Any, Tensor], Any], message: str, as_installed: None):
    with pytest.raises(ConfigError, match=message) as raised:
        declare(Circuit("!ab", 4, bos="!"), torch.zeros(9, 9))
    assert "0., 0." not in str(raised.value)


def test_a_space_of_another_circuit_is_refused_with_what_to_write():
    c, other = Circuit("!ab", 4, bos="!"), Circuit("!abc", 4, bos="!")
    said = r"Space\('tok', ! a b c\) is not one of this .* did you mean circuit.spaces\['tok'\]"
    with pytest.raises(ConfigError, match=said):
        c.head(0, "h", qk=match(other.tok, other.tok))
    with pytest.raises(ConfigError, match=r"no label '2'; .*; did you mean 2\?"):
        c.pos["2"]


def test_a_table_of_too_many_combinations_is_refused_before_it_is_asked():
    c = Circuit([f"w{i}" for i in range(101)], 4)
    back1, back2 = c.space("back1", c.tok), c.space("back2", c.tok)
    with pytest.raises(ConfigError, match="mlp 'm': the table is a function of 1,030,301 combinations of labels"):
        c.mlp(0, "m", (c.tok, back1, back2), c.out, lambda *labels: pytest.fail("asked"))
