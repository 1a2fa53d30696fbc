"""What one head alone reads: exact where it was edited, to the bit the shared read everywhere else."""

import pytest
import torch
from grid import Run, assert_close, random_tensor, run_of, where
from torch import Tensor

from interp.model.hooks import HookPoint


def replace_head(head: int, content: Tensor):
    def hook(copies: Tensor, hook: HookPoint) -> None:
        copies[:, :, head] = content

    return hook


@pytest.fixture
def content(run: Run) -> Tensor:
    return random_tensor(*run.tokens.shape, run.cfg.d_model)


@where(lambda cfg: True)
@pytest.mark.parametrize("what", ["q", "k", "v"])
def test_the_other_heads_keep_every_bit(run: Run, content: Tensor, what: str):
    with run.model.hooks([((f"{what}_input", 1), replace_head(0, content))]):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=(what, 1))
    _, before = run.model.run_with_cache(run.tokens, names_filter=(what, 1))
    assert not torch.equal(cache[what, 1][:, :, 0], before[what, 1][:, :, 0])
    assert torch.equal(cache[what, 1][:, :, 1:], before[what, 1][:, :, 1:])


@where(lambda cfg: cfg.norms_reads and cfg.normalization_type is not None and not cfg.use_qk_norm)
@pytest.mark.parametrize("what", ["q", "k", "v"])
def test_an_edited_copy_is_read_through_the_norm(run: Run, content: Tensor, what: str):
    with run.model.hooks([((f"{what}_input", 1), replace_head(0, content))]):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=(what, 1))
    attn = run.model.blocks[1].attn
    W, b = getattr(attn, f"W_{what.upper()}")[0], getattr(attn, f"b_{what.upper()}")[0]
    read = run.model.blocks[1].ln1.unhooked(content)
    if run.cfg.positional_embedding_type == "shortformer" and what != "v":
        read = read + run.cache["pos_embed"]
    assert_close(cache[what, 1][:, :, 0], read @ W + b)


@where(lambda cfg: cfg.norms_reads and cfg.normalization_type == "LN" and not cfg.use_qk_norm)
def test_a_frozen_scale_holds_for_what_one_head_alone_reads(run: Run, content: Tensor):
    frozen = run.cache["scale", 1, "ln1"] * 1.7
    hooks = [(("q_input", 1), replace_head(0, content)), (("scale", 1, "ln1"), lambda scale, hook: frozen)]
    with run.model.hooks(hooks):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=("q", 1))
    block = run.model.blocks[1]
    assert block.ln1.w is not None
    assert block.ln1.b is not None
    read = (content - content.mean(-1, keepdim=True)) / frozen * block.ln1.w + block.ln1.b
    if run.cfg.positional_embedding_type == "shortformer":
        read = read + run.cache["pos_embed"]
    assert_close(cache["q", 1][:, :, 0], read @ block.attn.W_Q[0] + block.attn.b_Q[0])


def test_a_replaced_copy_leaves_no_trace_of_a_huge_stream():
    run = run_of("sinusoidal_no_norm")
    huge = [("hook_embed", lambda x, hook: x * 1e12), (("q_input", 0), lambda x, hook: torch.ones_like(x))]
    with run.model.hooks(huge):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=("q", 0))
    attn = run.model.blocks[0].attn
    assert_close(cache["q", 0], (attn.W_Q.sum(1) + attn.b_Q).expand_as(cache["q", 0]))


def test_replaced_head_writes_leave_no_trace_of_huge_ones():
    run = run_of("learned_ln")
    hooks = [(("z", 0), lambda z, hook: z * 1e12), (("result", 0), lambda result, hook: torch.ones_like(result))]
    with run.model.hooks(hooks):
        _, cache = run.model.run_with_cache(run.tokens, names_filter=("attn_out", 0))
    b_O = run.model.blocks[0].attn.b_O
    assert_close(cache["attn_out", 0], (run.cfg.n_heads + b_O).expand_as(cache["attn_out", 0]))


@pytest.mark.parametrize("name", ["attn_in", "q_input", "k_input", "v_input", "result"])
def test_a_mask_of_ones_gets_the_gradient_of_the_edit_it_stands_for(name: str):
    run = run_of("rotary_rms_gated_grouped")

    def masked(value: Tensor) -> Tensor:
        return run.model.run_with_hooks(run.tokens, "loss", fwd_hooks=[((name, 1), lambda x, hook: x * value)])

    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(masked(one), one)
    step = 1e-6
    with torch.no_grad():
        difference = (masked(one + step) - masked(one - step)) / (2 * step)
    assert float(gradient) == pytest.approx(float(difference), rel=1e-5, abs=1e-8)
