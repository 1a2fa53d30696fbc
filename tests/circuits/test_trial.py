"""The trial: a model whose arithmetic is in doubt is right, or an error that says who is wrong."""

import warnings

import pytest
import torch
from small_circuits import induction, previous_token

from circuits import Circuit, copy
from circuits.compiler.basis import make_basis
from circuits.compiler.trial import Tried, run_trial, trial_texts
from circuits.gallery import entry
from interp import ConfigError


def test_large_scores_in_float32_are_a_warning_where_a_trial_finds_nothing_wrong():
    c = previous_token(100)
    with pytest.warns(UserWarning, match=r"head 'previous': scores reach 1.45e\+05 in torch.float32"):
        model = c.compile(positions="quadratic")
    assert c.verify(model=model, sample=100, progress=False).ok
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c.compile(positions="quadratic", dtype=torch.float64)


def test_scores_that_float32_resolves_and_still_gets_wrong_are_an_error_that_names_the_head():
    message = (
        r"head 'previous': in torch.float32 its pattern is off by [\d.]+ at position \d+ .*predicts '[!ab]' instead "
        "of '[!ab]' .*; use dtype=torch.float64, a position code with smaller scores, or a lower sharp="
    )
    with pytest.raises(ConfigError, match=message):  # at 200 words some processors are off, and still predict rightly
        previous_token(400).compile(positions="quadratic")
    assert previous_token(400).compile(positions="quadratic", dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:head .*weights of its pattern are exact to")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_a_model_is_right_or_refused(dtype: torch.dtype):
    refused = set()
    for name in ("dyck1", "count", "induction", "sort", "virtual_head"):
        one = entry(name)
        circuit = one.build()
        inputs = list(one.inputs())
        for rotate in (None, 0):
            try:
                model = circuit.compile(dtype=dtype, error=1e-2, rotate=rotate)
            except ConfigError as error:
                assert any(repr(part.name) in str(error) for part in circuit.parts) and str(dtype) in str(error)
                refused.add(name)
            else:
                some = inputs[:: 1 + len(inputs) // 300]
                assert circuit.verify(some, model=model, tolerance=0.1, progress=False).ok
    assert refused == ({"count", "induction", "sort"} if dtype == torch.bfloat16 else set())


def test_what_an_mlp_gets_wrong_in_half_precision_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"mlp '.*number': in torch.bfloat16 what it writes is off .*'0' and '4'"):
        entry("count").build().compile(dtype=torch.bfloat16, error=1e-2)


def test_a_trial_compares_readouts_numbers_and_vectors_too():
    c = Circuit("!ab", 6, bos="!")
    x = c.vectors("x", 2, over=(-1, 1))
    kind, sums = c.readout("kind", ["none", "some"]), c.space("sums", ["s"], holds="numbers")
    c.head("mean", ov=copy(x, sums, lambda i, _: float(i + 1)))
    c.bucket("kind of sum", sums["s"], kind, {"none": -0.5, "some": 0.5})
    c.number(c.out["a"], sums["s"])
    model, twin = c.compile(dtype=torch.float16), c.compile(dtype=torch.float64)
    with torch.no_grad():
        model.unembed.W_U *= 1.3
    with pytest.raises(ConfigError, match=r"its logits are off by .* say less"):
        run_trial(Tried(model, twin, make_basis({"all": model.cfg.d_model}, None, None, False, None, 1.0)), "say less")


def test_a_trial_has_every_word_and_every_position():
    for direction in ("causal", "bidirectional"):
        c = Circuit([f"w{i}" for i in range(300)], 7, bos="w0", attention_dir=direction)
        texts = trial_texts(c, 100)
        assert set(torch.cat([one.flatten() for one in texts]).tolist()) == set(range(300))
        lengths = [one.shape[1] for one in texts]
        assert lengths == ([7] if direction == "causal" else [1, 2, 3, 4, 5, 6, 7])
        for one in texts:
            assert torch.equal(c.tokens(one), one)
            assert (one[:, 0] == 0).all() and not (one[:, 1:] == 0).any()


def test_a_norm_that_a_large_stream_bends_is_an_error_unless_the_ballast_is_larger():
    c = previous_token(20)
    with pytest.raises(ConfigError, match=r"head 'previous': .* its pattern is off by 1 .*; use a larger ballast="):
        c.compile(positions="quadratic", norm="LN", dtype=torch.float64)
    model = c.compile(positions="quadratic", norm="LN", ballast=1e6, dtype=torch.float64)
    report = c.verify(model=model, sample=50, progress=False)
    assert report.ok and report.pattern_error < 1e-5
    with pytest.raises(ConfigError, match=r"head 'induction': .* it predicts nothing instead of .*a larger ballast="):
        induction().compile(norm="LN", ballast=1)
