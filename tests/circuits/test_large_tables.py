"""Large tables: looked up by the interpreter, and run through the few nonzero entries of their weights."""

from dataclasses import replace

import pytest
import torch

from circuits import Circuit, copy, match, shift
from circuits.language import Neurons
from circuits.language.steps import Step
from circuits.verify.nonzeros import through_nonzeros
from interp import TokenError


def large_table(n: int = 17) -> Circuit:
    """A table of n x n entries."""
    words = [f"w{i}" for i in range(n)]
    c = Circuit(["!", *words], 3, bos="!")
    first = c.space("first", words)
    c.head("first", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, first, {word: word for word in words}))
    c.mlp("sum", (first, c.tok), c.out, {(words[i], words[j]): words[(i + j) % n] for i in range(n) for j in range(n)})
    return c


def test_large_tables_run_through_their_nonzeros_and_say_the_same():
    c = large_table()
    model = c.compile()
    assert model.cfg.d_mlp > 500
    tokens = c.tokens([f"! w{i} w{j}" for i in range(17) for j in range(0, 17, 5)])
    plain = model(tokens)
    with through_nonzeros(model):
        assert "forward" in vars(model.blocks[0].mlp)
        assert torch.allclose(model(tokens), plain, atol=1e-6) and not torch.equal(plain, torch.zeros_like(plain))
    assert "forward" not in vars(model.blocks[0].mlp) and torch.equal(model(tokens), plain)
    assert c.verify(model=model, progress=False).ok
    with torch.no_grad():
        model.blocks[0].mlp.W_out[:40] *= -1
    damaged = c.verify(model=model, progress=False)
    assert not damaged.ok and damaged.n_right < damaged.n_positions == damaged.n_symbolic


def test_an_mlp_that_is_hooked_rotated_or_in_half_precision_runs_as_it_is():
    c = large_table()
    model, seen = c.compile(), []
    with model.hooks([(("post", 0), lambda post, hook: seen.append(post.shape))]), through_nonzeros(model):
        model(c.tokens("! w1 w2"))
    assert seen == [(1, 3, model.cfg.d_mlp)]
    for other in (c.compile(rotate=0), c.compile().half()):
        with through_nonzeros(other):
            assert "forward" not in vars(other.blocks[0].mlp)


def test_an_error_within_leaves_the_model_as_it_was():
    c = large_table()
    model = c.compile()
    with pytest.raises(TokenError):
        c.verify(["! w1 w2", "! nothing"], model=model, progress=False)
    assert "forward" not in vars(model.blocks[0].mlp)


def test_a_table_is_looked_up_as_its_ramps_say_also_where_what_it_reads_is_no_label():
    c = large_table(5)
    layout = c.layout()
    x = layout.embedded(c.tokens(["! w1 w2", "! w3 w3"]))
    x[..., layout.slices["first"]] = torch.tensor([[0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0]]).double()
    (part,) = (part for part in c.parts if isinstance(part, Neurons))
    assert part.table is not None
    by_ramps = replace(part, table=replace(part.table, summed=True))  # sums are never looked up
    written, summed, broken, noted = torch.zeros_like(x), torch.zeros_like(x), [], []
    fired = Step(part, layout).add(x, written, broken)
    assert torch.equal(Step(by_ramps, layout).add(x, summed, noted), fired) and torch.equal(written, summed)
    assert set(broken) == set(noted)
    assert broken == ["mlp 'sum' reads 1.5, where it tells what lies below 1.25 from what lies above 1.75"]
