"""The trainer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import SMALL, Run, build, config, random_tensor, random_tokens, run_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp import (
    CheckpointError,
    ConfigError,
    HookedEncoderDecoder,
    HookedTransformer,
    RangeError,
    ShapeError,
    TokenError,
)
from interp.metrics import MaskedTokenLoss
from interp.training.targets import source_of
from interp.training.toy_data import Batch, iid_tokens, variable_offset_repeats
from interp.training.trainer import Training, phase_change, train

SEEDS = st.integers(0, 2**31)
TOY = {"n_layers": 1, "d_model": 8, "n_heads": 2, "n_ctx": 12, "d_vocab": 9, "attn_only": True}


def toy(seed: int = 0, **changes: Any) -> HookedTransformer:
    return build(config(TOY, **changes), seed)


def few_tokens(generator: torch.Generator) -> Batch:
    """Sequences of 4 of the 9 tokens: what there is to learn is which."""
    return iid_tokens(range(3, 7), 16, 6, seed=generator)


def quick(model: HookedTransformer, steps: int = 3, **options: Any) -> Training:
    return train(model, few_tokens, steps, **({"warmup": 0, "progress": False} | options))


def test_gradients_flow_through_every_parameter(run: Run):
    model = run.fresh_model()
    run.objective(model(run.tokens)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A key bias adds the same to all scores of a query unless keys are rotated, normed or capped.
        assert parameter.grad.abs().max() > 1e-9 or name.endswith("b_K"), name


def test_a_trained_model_saved_and_loaded_gives_the_same_bits(run: Run, tmp_path: Path):
    labels = None if run.cfg.predicts_next_token else run.tokens.flip(1)
    data = [Batch(run.tokens, torch.zeros_like(run.tokens, dtype=torch.bool), labels=labels)]
    trained = train(run.fresh_model(), lambda _: data[0], 2, lr=1e-2, progress=False).model
    trained.save_pretrained(tmp_path)
    loaded = HookedTransformer.from_pretrained(tmp_path)
    assert loaded.weights_hash() == trained.weights_hash() != run.model.weights_hash()
    assert torch.equal(loaded(run.tokens), trained(run.tokens))


def test_a_batch_of_hidden_tokens_trains_a_masked_token_model():
    run = run_of("bert_like")
    hidden = torch.zeros(3, 7, dtype=torch.bool)
    hidden[:, [1, 4]] = True
    read = run.tokens.masked_fill(hidden, 0)
    batch = Batch(read, labels=run.tokens, loss_mask=hidden)
    done = train(run.fresh_model(), lambda _: batch, 20, lr=1e-2, warmup=0, progress=False)
    first = MaskedTokenLoss(run.tokens.masked_fill(~hidden, -100))(run.model(read)).mean()
    assert float(done.losses[0]) == pytest.approx(float(first.detach()), abs=1e-5)
    assert done.losses[-1] < 0.5 * done.losses[0]


def test_the_loss_falls_to_what_the_data_leaves_open():
    done = quick(toy(), 150, lr=2e-2)
    assert done.losses[0] > 2
    assert float(done.losses[-20:].mean()) == pytest.approx(math.log(4), abs=0.05)


def test_a_training_is_shown_in_one_line():
    done = quick(toy(), measures={"accuracy": lambda model: 1.0})
    first, last = done.losses[[0, -1]].tolist()
    assert repr(done) == f"Training(3 steps, loss {first:.4g} to {last:.4g}, accuracy)"


def test_a_seed_repeats_a_run_bit_for_bit():
    model = toy()
    one, two, other = quick(model, seed=4), quick(model, seed=4), quick(model, seed=5)
    assert torch.equal(one.losses, two.losses)
    assert one.model.weights_hash() == two.model.weights_hash() != other.model.weights_hash()
    assert not torch.equal(one.losses, other.losses)


def test_the_model_that_was_given_is_left_as_it_was():
    model = toy().eval()
    before, state = model.weights_hash(), torch.get_rng_state()
    done = quick(model)
    assert model.weights_hash() == before != done.model.weights_hash()
    assert all(parameter.grad is None for m in (model, done.model) for parameter in m.parameters())
    assert not done.model.training and done.model is not model
    assert torch.equal(torch.get_rng_state(), state)


def test_training_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert quick(toy()).model.weights_hash() != toy().weights_hash()


def test_frozen_parameters_stay_as_they_are():
    model = toy()
    model.embed.requires_grad_(False)
    trained = quick(model).model
    assert torch.equal(trained.W_E, model.W_E) and not trained.W_E.requires_grad
    assert not torch.equal(trained.W_U, model.W_U)


def test_the_recorded_losses_are_those_of_the_batch_before_the_step():
    model = toy(dtype=torch.float64)
    data = variable_offset_repeats(range(1, 9), 4, 12, segment=(3, 4), gap=(0, 2), seed=1)
    done = train(model, lambda _: data, 1, progress=False)
    losses = model(data.tokens, "loss", loss_per_token=True).detach()
    assert float(done.losses[0]) == pytest.approx(float(losses.mean()), abs=1e-6)
    assert float(done.copied_losses[0]) == pytest.approx(float(losses[data.copied[:, 1:]].mean()), abs=1e-6)
    assert quick(model).copied_losses.isnan().all()


def test_the_learning_rate_rises_in_a_line_to_its_full_value():
    model = toy(dtype=torch.float64)

    def step_of(warmup: int) -> Tensor:
        return quick(model, 1, warmup=warmup, lr=1e-3).model.W_U - model.W_U

    assert torch.allclose(step_of(10), step_of(0) / 10, rtol=1e-6, atol=1e-12)
    assert torch.equal(step_of(1), step_of(0))


def test_gradients_are_scaled_down_to_the_largest_length_allowed():
    model = toy(dtype=torch.float64)  # AdamW divides by |gradient| + 1e-8: far smaller gradients hardly move a weight
    still = quick(model, 1, lr=1.0, weight_decay=0.0, max_grad_norm=1e-14).model
    moved = quick(model, 1, lr=1.0, weight_decay=0.0, max_grad_norm=None).model
    assert (still.W_U - model.W_U).abs().max() < 1e-5
    assert (moved.W_U - model.W_U).abs().max() > 0.9


def test_measures_are_taken_at_the_start_in_between_and_at_the_end():
    graded = []

    def score(model: HookedTransformer) -> Tensor:
        graded.append(model.W_E.sum().requires_grad)
        return model.W_E[:2, :3].double()

    done = quick(toy(), 7, measures={"score": score, "one": lambda model: 1.0}, measure_every=3)
    assert done.measured_at.tolist() == [0, 3, 6, 7]
    assert done.measures["score"].shape == (4, 2, 3) and done.measures["one"].tolist() == [1.0] * 4
    assert torch.equal(done.measures["score"][0], toy().W_E[:2, :3])
    assert torch.equal(done.measures["score"][-1], done.model.W_E[:2, :3])
    assert not any(graded)


def test_checkpoints_are_models_of_their_steps(tmp_path: Path):
    done = quick(toy(), 5, folder=tmp_path / "new", save_every=2)
    assert [path.name for path in done.checkpoints] == ["step-000002", "step-000004", "step-000005"]
    loaded = [HookedTransformer.from_pretrained(path).weights_hash() for path in done.checkpoints]
    assert loaded[-1] == done.model.weights_hash()
    assert loaded[0] == quick(toy(), 2).model.weights_hash()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"steps": 2.5}, "steps = 2.5; allowed: 1 or more"),
        ({"measure_every": "3"}, "measure_every = .3.; allowed: 1 or more"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"lr": math.inf}, "lr = inf"),
        ({"lr": math.nan}, "lr = nan"),
        ({"warmup": -1}, "warmup = -1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"measure_every": 0}, "measure_every"),
        ({"save_every": 0, "folder": "."}, "save_every = 0"),
        ({"save_every": 2}, "needs a folder"),
    ],
)
def test_an_option_out_of_range_is_refused_before_any_batch_is_made(
    options: dict[str, Any], message: str, as_installed: None
):
    def never(generator: torch.Generator) -> Batch:
        raise AssertionError("a batch was made")

    with pytest.raises(ConfigError, match=message):
        train(toy(), never, **{"steps": 3, **options})


def with_hook() -> HookedTransformer:
    model = toy()
    model.add_hook(("z", 0), lambda z, hook: None)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_hook, "hooks, at 'blocks.0.attn.hook_z'"),
        (lambda: toy().requires_grad_(False), "nothing to train"),
        (lambda: toy().to(torch.bfloat16), "bfloat16, too coarse"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(make: Callable[[], HookedTransformer], message: str):
    with pytest.raises(ConfigError, match=message):
        quick(make())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Batch(torch.full((2, 5), 9), torch.zeros(2, 5, dtype=torch.bool)), TokenError, "token 9 at batch 0, pos 0"),
        (Batch(torch.ones(2, 13).long(), torch.zeros(2, 13, dtype=torch.bool)), TokenError, "longer than the context"),
        (Batch(torch.ones(2, 1).long(), torch.zeros(2, 1, dtype=torch.bool)), ShapeError, "at least two positions"),
    ],
)
def test_a_batch_that_the_model_cannot_take_is_refused_before_anything_is_measured(
    data: Batch, error: type[Exception], message: str
):
    def never(model: HookedTransformer) -> float:
        raise AssertionError("a measure was taken")

    with pytest.raises(error, match=message):
        train(toy(), lambda _: data, 3, measures={"never": never}, progress=False)


def test_tokens_of_any_integer_type_are_taken():
    def small(generator: torch.Generator) -> Batch:
        data = few_tokens(generator)
        return Batch(data.tokens.int(), data.copied)

    losses = train(toy(), small, 2, progress=False).losses
    assert torch.equal(losses, train(toy(), few_tokens, 2, progress=False).losses)


def test_marks_are_taken_in_every_spelling_or_refused():
    tokens = torch.ones(2, 5).long()
    for marks in ([[0, 1, 0, 1, 0]] * 2, tokens, tokens.float(), tokens.numpy() > 0):
        train(toy(), lambda _, marks=marks: Batch(tokens, loss_mask=marks), 1, progress=False)
    for marks in (tokens * 2, tokens[:, :4].bool(), [["a"]]):
        with pytest.raises(ShapeError, match="loss_mask "):
            train(toy(), lambda _, marks=marks: Batch(tokens, loss_mask=marks), 3, progress=False)


# ---------------------------------------------------------------------------------------------- labels and masks


def final_losses(model: HookedTransformer, data: Any, **options: Any) -> float:
    """The loss of one batch that is the whole data set, before anything is learned."""
    n = len(data.tokens) if isinstance(data, Batch) else len(data)
    return float(train(model, data, 1, batch_size=n, progress=False, **options).losses[0])


def test_a_plain_tensor_of_tokens_is_a_data_set_whose_next_tokens_are_learned():
    tokens = random_tokens(toy().cfg, 3, batch=10)
    for data in (tokens, tokens.tolist(), tokens.numpy(), tokens.int(), Batch(tokens)):
        want = float(toy()(tokens, "loss").detach())
        assert final_losses(toy(), data) == pytest.approx(want, abs=1e-6)
    made = train(toy(), lambda _: tokens, 2, progress=False)
    assert torch.equal(made.losses, train(toy(), lambda _: Batch(tokens), 2, progress=False).losses)


def test_batches_of_a_data_set_are_drawn_by_the_seed_every_sequence_once_before_any_again():
    tokens, seen = torch.arange(7)[:, None].expand(-1, 3).contiguous(), []
    draw = source_of(tokens, 2, toy())
    generator = torch.Generator().manual_seed(0)
    for _ in range(14):
        seen += draw(generator).tokens[:, 0].tolist()
    epochs = [seen[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    one, two, other = (train(toy(), tokens, 9, batch_size=2, seed=seed, progress=False) for seed in (1, 1, 2))
    assert one.model.weights_hash() == two.model.weights_hash() != other.model.weights_hash()
    small = train(toy(), tokens, 1, progress=False).losses  # fewer than 32: all of them
    assert float(small[0]) == pytest.approx(final_losses(toy(), tokens), abs=1e-6)


def test_the_loss_is_of_the_tokens_that_the_mask_marks():
    model, tokens = toy(dtype=torch.float64), random_tokens(toy().cfg, 3, batch=6)
    marks = random_tensor(*tokens.shape, seed=1) > 0
    losses = model(tokens, "loss", loss_per_token=True).detach()
    want = float(losses[marks[:, 1:]].mean())
    for mask in (marks, marks.int(), marks.float(), marks.tolist(), marks.numpy()):
        assert final_losses(model, Batch(tokens, loss_mask=mask)) == pytest.approx(want, abs=1e-6)
    done = train(model, Batch(tokens, copied=~marks, loss_mask=marks), 1, progress=False)
    assert done.copied_losses.isnan().all()  # what does not count is not recorded either
    unmasked = train(model, Batch(tokens, loss_mask=torch.ones_like(marks)), 3, lr=0.1, progress=False)
    assert torch.allclose(unmasked.losses, train(model, tokens, 3, lr=0.1, progress=False).losses)


def test_padding_neither_predicts_nor_is_predicted_nor_seen():
    model, tokens = toy(dtype=torch.float64), random_tokens(toy().cfg, 3, batch=2)
    padded = torch.cat([torch.zeros(2, 1, dtype=torch.long), tokens], dim=1)[:, :12]
    mask = torch.ones_like(padded)
    mask[:, 0] = 0
    got = final_losses(model, Batch(padded, attention_mask=mask))
    assert got == pytest.approx(float(model(padded[:, 1:], "loss").detach()), abs=1e-6)
    assert got != pytest.approx(final_losses(model, padded), abs=1e-3)
    labelled = Batch(padded, labels=padded, attention_mask=mask)
    log_probs = model(padded[:, 1:]).log_softmax(-1).detach()
    want = -float(log_probs.gather(-1, padded[:, 1:, None]).mean())
    assert final_losses(model, labelled) == pytest.approx(want, abs=1e-6)


def test_labels_are_what_the_logits_at_their_own_positions_are_to_say():
    model, tokens = toy(dtype=torch.float64), random_tokens(toy().cfg, 3, batch=6)
    labels = (tokens + 1) % 9
    log_probs = model(tokens).log_softmax(-1).detach()
    own = -log_probs.gather(-1, labels[..., None])[..., 0]
    assert final_losses(model, Batch(tokens, labels=labels)) == pytest.approx(float(own.mean()), abs=1e-6)
    assert final_losses(model, Batch(tokens, labels=labels[:, -1])) == pytest.approx(float(own[:, -1].mean()), abs=1e-6)
    marks = torch.zeros_like(tokens, dtype=torch.bool)
    marks[:, 2] = True
    ignored = labels.where(marks, -100)  # the custom elsewhere: a label that is none, where nothing counts
    got = final_losses(model, Batch(tokens, labels=ignored, loss_mask=marks))
    assert got == pytest.approx(float(own[:, 2].mean()), abs=1e-6)
    shifted = Batch(tokens[:, :-1], labels=tokens[:, 1:])
    assert final_losses(model, shifted) == pytest.approx(final_losses(model, tokens), abs=1e-6)


def test_a_sum_is_learned_from_one_label_a_sequence():
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    data = Batch(torch.cat([pairs, torch.full((25, 1), 8)], dim=1), labels=pairs.sum(1) % 5)
    model = toy(d_model=24, n_heads=4, attn_only=False, d_mlp=48)
    done = train(model, data, 250, lr=1e-2, warmup=0, batch_size=25, progress=False)
    with torch.no_grad():
        answers = done.model(data.tokens)[:, -1].argmax(-1)
    assert float((answers == data.labels).float().mean()) > 0.95


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (ones(3), ShapeError, r"shape \(3,\); allowed: \[batch, pos\], or a Batch"),
        (torch.ones(2, 3), TokenError, "integers, not torch.float32; allowed: token ids"),
        ("text", TokenError, "tokens to train on"),
        ({"labels": ones(2, 4)}, ShapeError, r"labels have shape \(2, 4\) and tokens \(2, 3\)"),
        ({"labels": ones(3)}, ShapeError, r"labels have shape \(3,\)"),
        ({"labels": 9 * ones(2, 3)}, TokenError, "label 9 in sequence 0; allowed: 0 to 8$"),
        ({"labels": -ones(2)}, TokenError, "label -1 in sequence 0"),
        ({"labels": -100 * ones(2, 3)}, TokenError, "label -100 .* does not count is marked by loss_mask="),
        ({"labels": torch.ones(2, 3)}, TokenError, "labels: token ids are integers"),
        ({"labels": ones(2), "loss_mask": ones(2, 3)}, ConfigError, "loss_mask marks positions"),
        ({"loss_mask": 0 * ones(2, 3)}, ConfigError, "nothing in this batch counts"),
        ({"loss_mask": [[1, 0, 0]] * 2}, ConfigError, "nothing in this batch counts"),
        ({"loss_mask": ones(2, 4)}, ShapeError, r"loss_mask has shape \(2, 4\)"),
        ({"attention_mask": 0 * ones(2, 3)}, ShapeError, "attention_mask: sequence 0 is padding only"),
    ],
)
def test_data_that_says_nothing_clear_is_refused_before_anything_is_trained(
    data: Any, error: type[Exception], message: str, as_installed: None
):
    data = Batch(ones(2, 3), **data) if isinstance(data, dict) else data
    for source in (data, lambda _: data):
        with pytest.raises(error, match=message):
            train(toy(), source, 3, progress=False)


@pytest.mark.parametrize("size", [0, 4, True, 2.0])
def test_a_batch_size_that_the_data_set_does_not_have_is_refused(size: Any, as_installed: None):
    with pytest.raises(ConfigError, match=r"batch_size = .*; allowed: 1 to 3"):
        train(toy(), ones(3, 4), 2, batch_size=size, progress=False)


def test_a_batch_size_beside_a_function_is_refused():
    with pytest.raises(ConfigError, match="a function makes the batches"):
        train(toy(), few_tokens, 2, batch_size=3, progress=False)


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_a_folder_in_use_is_refused(tmp_path: Path, occupied: str):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"not empty|cannot hold checkpoints"):
        quick(toy(), folder=tmp_path / "file" if occupied == "file" else tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_loss_that_is_no_longer_finite_ends_the_run_and_names_the_step():
    with pytest.raises(RangeError, match="at step 2 the loss is nan; a smaller lr"):
        quick(toy(), 5, lr=1e30)


def test_progress_is_shown_on_a_terminal_only_and_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def shown(**options: Any) -> str:
        quick(toy(), **options)
        out, err = capsys.readouterr()
        assert out == ""
        return err

    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert shown(progress=True) == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert "loss" in shown(progress=True)
    assert shown(progress=False) == ""


# ---------------------------------------------------------------------------------------------- the phase change


@given(st.integers(100, 300), st.floats(0.8, 3.0))
def test_a_phase_change_is_found_where_the_loss_falls_steepest(step: int, height: float):
    noise = 0.05 * torch.randn(400, generator=torch.Generator().manual_seed(step))
    losses = 1 + height * torch.sigmoid((step - torch.arange(400)) / 8) + noise
    found = phase_change(losses)
    assert found is not None and abs(found - step) <= 5


def test_a_slow_decline_is_no_phase_change():
    assert phase_change(torch.linspace(4, 1, 1000)) is None
    assert phase_change(torch.linspace(4, 1, 1000), at_least=0.1) is not None


def test_a_phase_change_needs_two_windows_of_finite_losses():
    with pytest.raises(ConfigError, match="allowed: 1 to 49"):
        phase_change(torch.ones(99))
    with pytest.raises(RangeError, match="not finite"):
        phase_change(torch.full((200,), math.nan))


def test_one_label_a_sequence_is_refused_for_a_sequence_that_ends_with_padding():
    model = HookedTransformer(config(SMALL, seed=1))
    tokens, labels = torch.arange(12).view(3, 4) % 11, torch.tensor([1, 2, 3])
    right, left = torch.ones(3, 4), torch.ones(3, 4)
    right[1, -2:], left[1, :2] = 0, 0
    with pytest.raises(ShapeError, match="sequence 1 ends with padding"):
        train(model, Batch(tokens, labels=labels, attention_mask=right), 1, progress=False)
    logits = model(tokens, attention_mask=left)[:, -1]
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    run = train(model, Batch(tokens, labels=labels, attention_mask=left), 1, progress=False)
    assert run.losses[0].item() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------- an encoder and a decoder


def pair(**changes: Any) -> HookedEncoderDecoder:
    stack = TOY | {"attn_only": False, "d_mlp": 16, "seed": 0} | changes
    return HookedEncoderDecoder({"encoder": stack, "decoder": stack})


def copies(generator: torch.Generator, n: int = 32) -> Batch:
    """The target is the source, after the start token 0."""
    source = torch.randint(1, 5, (n, 3), generator=generator)
    return Batch(torch.cat([torch.zeros(n, 1, dtype=torch.long), source], dim=1), source=source)


def test_an_encoder_and_a_decoder_learn_what_the_source_says():
    done = train(pair(), copies, 200, lr=1e-2, warmup=20, progress=False)
    assert done.losses[0] > 1.5 and float(done.losses[-20:].mean()) < 0.6
    targets = copies(torch.Generator().manual_seed(1)).tokens
    found = done.model.generate(targets[:, 1:], 3, progress=False).tokens
    assert (found == targets).float().mean() > 0.7


def test_the_loss_in_training_is_that_of_the_run_and_padding_of_source_and_target_counts_for_nothing():
    batch, model = copies(torch.Generator().manual_seed(3), 4), pair()
    mask = torch.tensor([[True, True, True], [False, True, True], [True, True, False], [False, True, False]])
    targets = torch.tensor([[True] * 4, [True, True, True, False], [False, True, True, True], [True] * 4])
    whole = Batch(batch.tokens, source=batch.source, source_mask=mask, attention_mask=targets)
    want = float(model(batch.tokens[:, 1:], batch.tokens, "loss", source_mask=mask, target_mask=targets).detach())
    for n, data in ((None, lambda _: whole), (4, whole)):
        done = train(model, data, 1, batch_size=n, progress=False)
        assert float(done.losses[0]) == pytest.approx(want, abs=1e-6)


@pytest.mark.usefixtures("as_installed")
def test_a_source_is_checked_as_a_run_checks_it():
    batch, model = copies(torch.Generator().manual_seed(3), 4), pair()
    source: Any = batch.source
    losses = [train(model, lambda _, s=s: Batch(batch.tokens, source=s), 1, progress=False).losses
              for s in (source, source.tolist())]  # fmt: skip
    assert torch.equal(*losses)
    masked = Batch(batch.tokens, source=source, source_mask=source[:, 1:])
    with pytest.raises(ShapeError, match=r"^source: attention_mask has shape"):
        train(model, lambda _: masked, 1, progress=False)
    masked = Batch(batch.tokens, source_mask=source > 0)
    with pytest.raises(ConfigError, match="source_mask: this model has one stack"):
        train(HookedTransformer(config(SMALL, seed=1)), lambda _: masked, 1, progress=False)


@pytest.mark.usefixtures("as_installed")
def test_sources_belong_to_pairs_and_pairs_need_sources():
    batch = copies(torch.Generator().manual_seed(0))
    source = batch.tokens[:, 1:]
    with pytest.raises(ConfigError, match="one stack"):
        train(toy(), lambda _: batch, 1, progress=False)
    with pytest.raises(ConfigError, match="source=sources"):
        train(pair(), lambda _: Batch(batch.tokens), 1, progress=False)
    with pytest.raises(ShapeError, match="31 sources for 32 targets"):
        train(pair(), lambda _: Batch(batch.tokens, source=source[:31]), 1, progress=False)
    with pytest.raises(TokenError, match="token 77"):
        train(pair(), lambda _: Batch(batch.tokens, source=torch.full_like(source, 77)), 1, progress=False)
