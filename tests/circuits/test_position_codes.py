"""Position codes: what each can say, how sharp it must be, and what it refuses."""

import itertools
import math

import pytest
import torch
from grid import SEED, random_tokens
from small_circuits import induction, previous_token

from circuits import Circuit, copy, match, shift
from circuits.compiler import CODES, PositionCode, Rotary, Sinusoidal, position_code
from interp import ConfigError, HookedTransformer, RankError


def last_row(model: HookedTransformer, n_pos: int) -> torch.Tensor:
    """Where the first head attends from the last position, on a random text."""
    tokens = random_tokens(model.cfg, SEED, 1, n_pos)
    tokens[0, 0] = 0
    return model.run_with_cache(tokens, names_filter=("pattern", 0))[1]["pattern", 0][0, 0, -1]


SHARPNESS = [
    ("onehot", 16, 9.61, 1, 15),
    ("onehot", 64, 11.05, 1, 63),
    ("onehot", 512, 13.14, 1, 511),
    ("quadratic", 16, 7.60, 255, 2),
    ("quadratic", 64, 7.60, 4095, 2),
    ("quadratic", 512, 7.60, 262143, 2),
    ("circle", 16, 113, 1, 2),
    ("circle", 64, 1.6e3, 1, 2),
    ("circle", 512, 1.0e5, 1, 2),
    ("sinusoidal", 16, 7.02, 32, 64),
    ("sinusoidal", 512, 7.02, 32, 64),
    (Sinusoidal(64, top=8), 16, 7.09, 8, 16),
    (Sinusoidal(64, top=8), 512, 7.09, 8, 16),
]


@pytest.mark.parametrize(("code", "n_ctx", "sharp", "largest", "rank"), SHARPNESS)
def test_each_position_code_has_its_sharpness_scale_and_rank(
    code: str | PositionCode, n_ctx: int, sharp: float, largest: float, rank: int
):
    model = previous_token(n_ctx).compile(positions=code, error=1e-3, dtype=torch.float64)
    head = model.report.heads["previous"]
    assert head.sharp == pytest.approx(sharp, rel=0.05 if sharp > 1000 else 1e-3 if sharp < 100 else 0.01)
    assert head.largest_score / head.sharp == pytest.approx(largest)
    assert head.qk_rank == rank
    assert float(last_row(model, n_ctx)[-2]) == pytest.approx(0.999, abs=1e-8)


@pytest.mark.parametrize(("d_head", "alpha"), [(16, 14.76), (64, 7.02), (128, 3.99)])
@pytest.mark.parametrize("n_ctx", [16, 300])
def test_rotary_positions_need_an_alpha_that_depends_on_d_head_alone(d_head: int, alpha: float, n_ctx: int):
    model = previous_token(n_ctx).compile(positions="rotary", d_head=d_head, error=1e-3, dtype=torch.float64)
    assert model.report.heads["previous"].sharp == pytest.approx(alpha, abs=0.005)
    assert model.cfg.positional_embedding_type == "rotary"
    assert float(last_row(model, n_ctx)[-2]) == pytest.approx(0.999, abs=1e-8)
    attn = model.blocks[0].attn
    queries, keys = attn.W_Q[0].detach().norm(), attn.W_K[0].detach().norm()
    assert float(queries / keys / model.cfg.attn_scale) == pytest.approx(alpha, abs=0.005)


@pytest.mark.parametrize(
    ("n_ctx", "code"),
    [
        (64, "onehot"),
        (200, "onehot"),
        (400, "onehot"),
        (64, "rotary"),
        (400, "rotary"),
        (200, "sinusoidal"),
        (2000, "rotary"),
        (2000, "sinusoidal"),
    ],
)
def test_the_previous_token_weight_is_999_in_1000_in_float32_at_any_context(n_ctx: int, code: str):
    model = previous_token(n_ctx).compile(positions=code)
    assert float(last_row(model, n_ctx)[-2]) >= 0.999


@pytest.mark.parametrize("code", ["onehot", "quadratic", "circle", "sinusoidal", "rotary"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_position_code_does_the_same_with_any_shift(code: str, n: int):
    c = Circuit("!ab", 6, bos="!")
    c.head(0, "back", qk=match(c.pos, c.pos, shift(n)), ov=copy(c.tok, c.out))
    model = c.compile(positions=code)
    report = c.verify(model=model, progress=False)
    assert report.ok and report.pattern_error < 1e-5


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_found_by_its_name_and_scores_its_own_place_best(code: str):
    found = position_code(code)
    assert found.name == code
    assert torch.equal(found.scores(0, 7).argmax(-1), torch.arange(7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sinusoidal(3), "width = 3; allowed: an even number"),
        (lambda: Sinusoidal(4, top=0), "top = 0; allowed: 1 to 2"),
        (lambda: Sinusoidal(4, base=math.nan), "base = nan; allowed: a finite number above 1"),
        (lambda: Rotary(base=0), "base = 0; allowed: a finite number above 0"),
        (lambda: Rotary(rotary_dim=3), "rotary_dim = 3; allowed: an even number"),
    ],
)
def test_a_code_that_cannot_be_is_refused(make, message: str):
    with pytest.raises(ConfigError, match=message):
        make()


def test_only_what_lies_in_the_stream_can_be_shifted_there():
    assert not hasattr(Rotary(), "shift")
    with pytest.raises(TypeError, match="abstract"):
        PositionCode()  # pyright: ignore[reportAbstractUsage]


def test_positions_can_be_rotary_beside_a_match_of_tokens():
    c = induction("!abcd", 5)
    assert c.verify(model=c.compile(positions="rotary", d_head=21), progress=False).ok
    assert c.compile(positions="rotary", d_head=21).cfg.rotary_dim == 14
    assert c.compile(positions=Rotary(rotary_dim=8), d_head=21).cfg.rotary_dim == 8
    with pytest.raises(
        RankError, match=r"head 'induction': the QK circuit needs d_head >= 24 .*rotary positions: rank"
    ):
        c.compile(positions=Rotary(rotary_dim=18), d_head=21)


def test_a_recency_can_be_written_in_a_code_that_holds_the_position_itself_and_in_no_other():
    c = Circuit("!ab", 5, bos="!")
    prev = c.space("prev", c.tok)
    c.head(0, "previous", qk=match(c.pos, c.pos, shift(1)), ov=copy(c.tok, prev))
    c.head(1, "induction", qk=match(c.tok, prev), ov=copy(c.tok, c.out), ties="latest")
    assert c.verify(model=c.compile(positions="quadratic"), progress=False).ok
    with pytest.raises(ConfigError, match="head 'induction': recency cannot be written in the position code 'circle'"):
        c.compile(positions="circle")


@pytest.mark.parametrize("code", ["quadratic", "circle", "rotary"])
def test_what_a_code_cannot_say_is_an_error_that_names_the_term(code: str):
    c = Circuit("!ab", 7, bos="!")
    c.head(0, "duplicate", qk=match(c.tok, c.tok) - 2 * match(c.pos, c.pos), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match=rf"head 'duplicate': match\(pos, pos\) cannot be written in .* '{code}'"):
        c.compile(positions=code)
    c = Circuit("!ab", 7, bos="!")
    c.head(0, "both", qk=match(c.tok, c.tok) + match(c.pos, c.pos, shift(1)), ov=copy(c.tok, c.out))
    with pytest.raises(ConfigError, match=r"head 'both': .*cannot share a head with other matches"):
        c.compile(positions=code)


@pytest.mark.parametrize("positions", ["onehot", "quadratic", "circle", "sinusoidal", "rotary"])
def test_a_positional_head_of_a_bidirectional_circuit_is_sharp_in_texts_of_every_length_or_refused(positions: str):
    kept = 0
    for by, bos in itertools.product((1, 2, -1), (None, "!")):
        c = Circuit("abc!", n_ctx=7, bos=bos, attention_dir="bidirectional")
        c.head(0, "look", qk=match(c.pos, c.pos, shift(by)), ov=copy(c.tok, c.out))
        try:
            model = c.compile(positions=positions, dtype=torch.float64)
        except ConfigError as error:
            assert "its best key is not the declared one for every query" in str(error)
            continue
        kept += 1
        for n in range(1, 8):
            ids = torch.zeros(1, n, dtype=torch.long)
            ids[:, 0] = 0 if bos is None else 3
            pattern = model.run_with_cache(ids)[1]["pattern", 0][:, 0]
            assert (pattern - c.interpret(ids).patterns["look"]).abs().max() < 2e-6, (by, bos, n)
    assert kept >= 1
