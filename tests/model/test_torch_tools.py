"""The tools that torch and others have for any module's parameters work on a model."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from grid import GRID, Run, assert_close, config, run_of
from safetensors.torch import load_file, save_file
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

from interp import HookedTransformer
from interp.model.attention import FEW_VECTORS, per_head

TIED, GROUPED = "capped_window_tied", "rotary_rms_gated_grouped"


def test_every_parameter_has_the_fields_shape_and_is_contiguous(run: Run):
    cfg = run.cfg
    queries, keys = (cfg.n_heads, cfg.d_model, cfg.d_head), (cfg.n_key_value_heads, cfg.d_model, cfg.d_head)
    shapes = {
        "W_E": (cfg.d_vocab, cfg.d_model),
        "W_pos": (cfg.n_ctx, cfg.d_model),
        "W_Q": queries,
        "W_K": keys,
        "W_V": keys,
        "W_O": (cfg.n_heads, cfg.d_head, cfg.d_model),
        "W_in": (cfg.d_model, cfg.d_mlp),
        "W_gate": (cfg.d_model, cfg.d_mlp),
        "W_out": (cfg.d_mlp, cfg.d_model),
        "W_U": (cfg.d_model, cfg.d_vocab),
        "W_type": (cfg.n_token_types, cfg.d_model),
        "W_rel": (cfg.relative_buckets, cfg.n_heads),
    }
    for name, parameter in run.model.named_parameters():
        assert parameter.is_contiguous(), name
        owner, kind = name.rsplit(".", 1)
        if owner == "mlm_head":
            assert parameter.shape == ((cfg.d_model, cfg.d_model) if kind == "W_in" else (cfg.d_model,))
            continue
        assert kind not in shapes or parameter.shape == shapes[kind], name


def test_parameters_to_one_vector_and_back_change_nothing(run: Run):
    model = run.fresh_model()
    vector = parameters_to_vector(model.parameters())
    assert vector.numel() == run.cfg.n_params.total
    vector_to_parameters(torch.zeros_like(vector), model.parameters())
    vector_to_parameters(vector, model.parameters())
    assert torch.equal(model(run.tokens), run.logits)


def test_safetensors_saves_a_state_dict_as_it_is(run: Run, tmp_path: Path):
    save_file(run.model.state_dict(), tmp_path / "weights.safetensors")
    twin = HookedTransformer(run.cfg)
    twin.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(twin(run.tokens), run.logits)


@pytest.mark.parametrize("name", ["learned_ln", GROUPED])
def test_pruned_weights_are_zero_in_the_run_too(name: str):
    run = run_of(name)
    model = run.fresh_model()
    for module, weight in ((model.blocks[1].attn, "W_Q"), (model.blocks[0].mlp, "W_in")):
        prune.l1_unstructured(module, weight, amount=0.5)
        assert float((getattr(module, weight) == 0).double().mean()) == pytest.approx(0.5, abs=0.01)
    pruned = model(run.tokens)
    assert not torch.equal(pruned, run.logits)
    prune.remove(model.blocks[1].attn, "W_Q")
    prune.remove(model.blocks[0].mlp, "W_in")
    assert torch.equal(model(run.tokens), pruned)


@pytest.mark.parametrize("name", ["learned_ln", TIED, "shortformer_rms_grouped"])
def test_lbfgs_lowers_the_loss(name: str):
    run = run_of(name)
    model = run.fresh_model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(run.tokens, "loss")
        loss.backward()
        return loss

    before = closure().detach()
    optimizer.step(closure)
    assert closure().detach() < before


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_distributed_data_parallel_gives_the_gradients_of_the_model(tmp_path: Path):
    run = run_of(GROUPED)
    model, alone = run.fresh_model(), run.fresh_model()
    with process_group(tmp_path):
        torch.nn.parallel.DistributedDataParallel(model)(run.tokens, "loss").backward()
    alone(run.tokens, "loss").backward()
    for (name, got), want in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert got.grad is not None and want.grad is not None, name
        assert_close(got.grad, want.grad)


def test_a_functional_call_runs_with_the_parameters_it_is_given(run: Run):
    model = HookedTransformer(run.cfg)
    given = {name: p.detach() for name, p in run.model.named_parameters()}
    assert torch.equal(torch.func.functional_call(model, given, (run.tokens,)), run.logits)


@pytest.mark.parametrize("name", ["learned_ln", GROUPED])
def test_gradients_of_single_sequences_come_from_vmap(name: str):
    run = run_of(name)
    model = run.model
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, weights, (embedded[None],), {"start_at_layer": 0})
        return logits.square().sum()

    stream = run.cache["resid_pre", 0]
    per_sequence = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, stream)
    for i in range(len(stream)):
        alone = torch.func.grad(loss)(parameters, stream[i])
        assert_close(per_sequence["blocks.1.attn.W_Q"][i], alone["blocks.1.attn.W_Q"])


def test_copies_and_pickles_run_as_the_model_does(run: Run):
    for twin in (copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))):
        assert torch.equal(twin(run.tokens), run.logits)
        assert all(parameter.is_contiguous() for parameter in twin.parameters())


@pytest.mark.parametrize("name", GRID)
def test_few_and_many_vectors_are_read_alike(name: str):
    run = run_of(name)
    attn = run.model.blocks[0].attn
    x = torch.randn(2, FEW_VECTORS, run.cfg.d_model, dtype=run.cfg.dtype, requires_grad=True)
    few = torch.cat([per_head(half[None], attn.W_Q, attn.b_Q) for half in x])
    many = per_head(x, attn.W_Q, attn.b_Q)
    assert_close(few, many)
    weights = torch.randn_like(many)
    for got, want in zip(*(torch.autograd.grad((y * weights).sum(), [x, attn.W_Q, attn.b_Q]) for y in (few, many)),
                         strict=True):  # fmt: skip
        assert_close(got, want)


def test_writing_to_a_blocks_weight_changes_the_model():
    run = run_of(GROUPED)
    model = run.fresh_model()
    with torch.no_grad():
        model.blocks[0].attn.W_Q[3] = 0
    assert torch.equal(model.W_Q[0, 3], torch.zeros_like(model.W_Q[0, 3]))
    assert not torch.equal(model(run.tokens), run.logits)


def test_a_longer_batch_is_the_same_model(run: Run):
    """More vectors than `FEW_VECTORS`, beside the sequences one by one."""
    cfg = config(run.fields)
    tokens = run.tokens.repeat(1 + FEW_VECTORS // run.tokens.numel() + 1, 1)
    assert tokens.numel() > FEW_VECTORS
    assert cfg.n_ctx >= tokens.shape[1]
    assert_close(run.model(tokens)[: len(run.tokens)], run.logits)


COMPILED = """
import torch
from interp import HookedTransformer, TransformerConfig

cfg = TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=8, d_vocab=9, positional_embedding_type="rotary")
model, tokens = HookedTransformer(cfg), torch.arange(8)
compiled = torch.compile(model, backend="eager")
torch.testing.assert_close(compiled(tokens), model(tokens))
logits, cache = compiled.run_with_cache(tokens)
torch.testing.assert_close(logits, model(tokens))
assert len(cache) == len(model.resolve_hooks(None))
"""


@pytest.mark.apart
def test_a_compiled_model_runs_and_is_watched_as_the_model_itself():
    """In a process of its own: the compiler does not follow the run-time type checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
