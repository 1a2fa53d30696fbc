"""The weights stacked over layers: writing into the copy is refused, reading is what it is for any tensor."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from grid import run_of
from torch import Tensor

from interp import ReadOnlyError
from interp.model.read_only import ReadOnly

GROUPED = run_of("rotary_rms_gated_grouped")
STACKED = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out"]


def assign(W: Tensor) -> None:
    W[0, 0] = 0


def assign_through_views(W: Tensor) -> None:
    W[0][0] = 0


def assign_in_a_loop(W: Tensor) -> None:
    for layer in W:
        layer[0] = 0


def assign_through_data(W: Tensor) -> None:
    W.data[0] = 0


def assign_data(W: Tensor) -> None:
    W.data = torch.zeros_like(W)


def scale(W: Tensor) -> None:
    W *= 2


WRITES: list[Callable[[Tensor], object]] = [
    assign,
    assign_through_views,
    assign_in_a_loop,
    assign_through_data,
    assign_data,
    scale,
    lambda W: W.zero_(),
    lambda W: W[0, ..., 1].fill_(1.0),
    lambda W: W.copy_(torch.ones_like(W)),
    lambda W: W.add_(1),
    lambda W: torch.nn.init.zeros_(W),
    lambda W: W.requires_grad_(False),
]


@pytest.mark.parametrize("name", STACKED)
def test_writing_into_stacked_weights_is_an_error_that_says_where_to_write(name: str):
    model = GROUPED.model
    for grad in (True, False):
        for write in WRITES:
            with torch.set_grad_enabled(grad), pytest.raises(ReadOnlyError, match=rf"blocks\[layer\]\.\w+\.{name}"):
                write(getattr(model, name))
    with torch.inference_mode(), pytest.raises(ReadOnlyError):
        getattr(model, name)[0][0] = 0


def test_whatever_is_computed_from_stacked_weights_is_an_ordinary_tensor():
    model = GROUPED.model
    W = model.W_Q
    assert type(W) is ReadOnly and type(W[0]) is ReadOnly
    made = [W + 1, W @ W.mT, W.mT, W.clone(), W.detach(), W.flatten(), W[[0, 1]], W[W > 0], torch.stack([W]),
            copy.deepcopy(W.detach()), model.OV.A @ model.OV.B, model.QK.svd()[1]]  # fmt: skip
    for tensor in made:
        assert type(tensor) is Tensor
    own = W[[0, 1]].detach()
    own[0] = 0
    assert not own[0].any()


def test_copies_and_files_of_stacked_weights_are_ordinary_tensors():
    with torch.no_grad():
        W = GROUPED.model.W_O
    file = io.BytesIO()
    torch.save(W, file)
    file.seek(0)
    for twin in (copy.deepcopy(W), pickle.loads(pickle.dumps(W)), torch.load(file, weights_only=True)):
        assert type(twin) is Tensor
        assert torch.equal(twin, W)
        twin[0] = 0
    assert repr(W) == repr(W.clone())


def test_gradients_flow_through_stacked_weights_to_the_blocks():
    model = GROUPED.fresh_model()
    model.W_Q[1, 3].square().sum().backward()
    grad = model.blocks[1].attn.W_Q.grad
    assert grad is not None and torch.equal(grad[3], 2 * model.blocks[1].attn.W_Q[3].detach())
    assert not grad[:3].any()


def test_stacked_weights_can_be_read_under_vmap():
    model = GROUPED.model
    weights = {name: p.detach() for name, p in model.named_parameters()}
    two = {name: torch.stack([p, 2 * p]) for name, p in weights.items()}

    def norm(given: dict[str, Tensor]) -> Tensor:
        replaced = copy.copy(model.blocks[0].attn._parameters)
        try:
            model.blocks[0].attn._parameters["W_Q"] = given["blocks.0.attn.W_Q"]  # pyright: ignore
            return model.W_Q[0, 1].square().sum()
        finally:
            model.blocks[0].attn._parameters = replaced

    first, second = torch.func.vmap(norm)(two)
    torch.testing.assert_close(second, 4 * first)


def test_what_a_model_reads_from_its_parts_cannot_be_replaced_and_can_be_added_to_in_place():
    for name in ("learned_ln", "no_positions_tied_scaled"):
        before = run_of(name).model
        model: Any = run_of(name).fresh_model()
        with torch.no_grad():
            model.W_E += 1
            assert torch.equal(model.embed.W_E, before.embed.W_E + 1)
            model.W_U *= 2
            assert torch.equal(model.W_U, (before.W_U + (1 if before.cfg.tie_word_embeddings else 0)) * 2)
        for attribute in ("W_E", "W_U", "b_U", "W_Q", "b_out"):
            with pytest.raises(ReadOnlyError, match=f"model.{attribute} is read from"):
                setattr(model, attribute, torch.zeros(1))
        with pytest.raises(ReadOnlyError, match=r"such as model\.blocks\.0\.attn\.W_Q"):
            model.W_Q = model.W_Q.clone()
