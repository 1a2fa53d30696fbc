"""Snapshots: models whose weights are mapped from the file give the same bits, and are safe to write to."""

import copy
import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, SEED, SMALL, Run, build, config, random_tokens, runs
from hypothesis import given
from test_checkpoints import change_config, change_weights
from torch import Tensor, nn

from interp import CheckpointError, HookedTransformer, Vocabulary
from interp.model import Block
from interp.text import TextCodec
from interp.weights import center_writing_weights

WORDS = ["<s>", "é", "猫", "dog\n", "'quoted\""]
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def opened(model: HookedTransformer, folder: Path, **options: Any) -> HookedTransformer:
    """The model from its snapshot."""
    model.save_snapshot(folder)
    return type(model).from_pretrained(folder, **options)


def maps_of(file: Path) -> int:
    """How often this process has a file in its memory map."""
    return sum(str(file) in line for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())


def check_twins(twin: HookedTransformer, model: HookedTransformer) -> None:
    """The same in all that a run depends on."""
    assert type(twin) is type(model) and twin.cfg == model.cfg and twin.tokenizer == model.tokenizer
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor) and theirs[name].stride() == tensor.stride(), name
        assert theirs[name].requires_grad == tensor.requires_grad and type(theirs[name]) is type(tensor), name
    assert twin.weights_hash() == model.weights_hash()
    assert (twin.unembed.W_U.data_ptr() == twin.W_E.data_ptr()) == model.cfg.tie_word_embeddings


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("name", GRID)
@torch.no_grad()
def test_an_opened_snapshot_gives_the_same_bits_at_every_length(name: str, tmp_path: Path):
    for dtype in DTYPES:
        model = build(config(GRID[name] | {"dtype": dtype}), SEED)
        twin = opened(model, tmp_path)
        check_twins(twin, model)
        for n_pos in range(1, model.cfg.n_ctx + 1):
            for batch in (1, 3):
                tokens = random_tokens(model.cfg, SEED + n_pos, batch, n_pos)
                assert torch.equal(twin(tokens), model(tokens)), (dtype, batch, n_pos)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshot")


@given(run=runs())
@torch.no_grad()  # with gradients, sdpa takes another kernel for scores with a bias
def test_a_random_model_comes_back_with_its_logits(folder: Path, run: Run):
    assert torch.equal(opened(run.model, folder)(run.tokens), run.logits)


@torch.no_grad()
def test_products_with_a_single_column_are_rounded_alike(tmp_path: Path):
    """Where their operands begin within a cache line can decide about the rounding of such products."""
    fields = SMALL | {"n_layers": 2, "d_model": 63, "n_heads": 1, "d_head": 1, "d_mlp": 1, "n_ctx": 60}
    for dtype in DTYPES:
        model = build(config(fields, dtype=dtype, normalization_type=None), SEED)
        twin = opened(model, tmp_path)
        assert all(parameter.data_ptr() % 64 == 0 for parameter in twin.parameters())
        for n_pos in (1, 2, 3, 5, 14, 33, 60):
            for seed in range(5):
                tokens = random_tokens(model.cfg, seed, 2, n_pos)
                assert torch.equal(twin(tokens), model(tokens)), (dtype, n_pos)


def test_weights_that_lie_otherwise_in_memory_keep_their_order(tmp_path: Path):
    model = build(config(SMALL), SEED)
    for block in model.blocks:
        block.mlp.W_in = nn.Parameter(block.mlp.W_in.detach().T.contiguous().T)
        block.attn.W_Q = nn.Parameter(block.attn.W_Q.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0))
    tokens = random_tokens(model.cfg, SEED)
    for options in ({}, {"device": "cpu"}):
        twin = opened(model, tmp_path, **options)
        check_twins(twin, model)
        assert not twin.blocks[0].mlp.W_in.is_contiguous() and torch.equal(twin(tokens), model(tokens))
    double = HookedTransformer.from_pretrained(tmp_path, dtype="float64")
    assert torch.equal(double(tokens), copy.deepcopy(model).double()(tokens))
    assert double.blocks[0].attn.W_Q.stride() == model.blocks[0].attn.W_Q.stride()


def test_it_stays_known_which_parameters_are_trained(tmp_path: Path):
    model = center_writing_weights(build(config(SMALL, positional_embedding_type="sinusoidal"), SEED))
    model.b_U.requires_grad_(False)
    twin = opened(model, tmp_path)
    check_twins(twin, model)
    assert [name for name, p in twin.named_parameters() if not p.requires_grad] == ["pos_embed.W_pos", "unembed.b_U"]
    twin(random_tokens(model.cfg, SEED), "loss").backward()
    assert {name for name, p in twin.named_parameters() if p.grad is None} == {"pos_embed.W_pos", "unembed.b_U"}


class Marked(Block):
    """A block with tensors that are in no state dict."""

    shift: Tensor

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.register_buffer("shift", torch.full((24,), 0.5), persistent=False)
        self.plain = torch.ones(24)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(x, *args, **kwargs) + self.shift + self.plain


class Marking(HookedTransformer):
    """A model of such blocks."""

    block_type = Marked


def test_what_no_state_dict_holds_is_there_as_well(tmp_path: Path):
    model = Marking(config(SMALL, seed=SEED))
    twin = opened(model, tmp_path)
    check_twins(twin, model)
    tokens = random_tokens(model.cfg, SEED)
    assert torch.equal(twin(tokens), model(tokens))
    assert not torch.equal(HookedTransformer.from_pretrained(tmp_path)(tokens), model(tokens))


@pytest.mark.parametrize("tokenizer", [Vocabulary(WORDS, bos="<s>"), None])
def test_the_tokenizer_comes_along(tokenizer: TextCodec | None, tmp_path: Path):
    assert opened(build(config(SMALL), SEED, tokenizer), tmp_path).tokenizer == tokenizer


# ---------------------------------------------------------------------------------------------- mapped memory


def test_weights_are_mapped_once_and_only_where_they_can_be(tmp_path: Path):
    model = build(config(SMALL, d_model=64), SEED)
    file = tmp_path / "model.safetensors"
    twin = opened(model, tmp_path)
    assert maps_of(file) == 1
    twin = HookedTransformer.from_pretrained(tmp_path, dtype=torch.float64)
    assert maps_of(file) == 0 and twin.W_E.dtype == torch.float64
    model.save_pretrained(tmp_path)
    twin = HookedTransformer.from_pretrained(tmp_path)
    assert maps_of(file) == 0 and twin.weights_hash() == model.weights_hash()


def test_writing_to_an_opened_model_changes_neither_the_file_nor_other_models(tmp_path: Path):
    model = build(config(SMALL, d_model=64), SEED)
    twin = opened(model, tmp_path)
    other, before = HookedTransformer.from_pretrained(tmp_path), (tmp_path / "model.safetensors").read_bytes()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(random_tokens(model.cfg, SEED), "loss").backward()
    optimizer.step()
    assert twin.weights_hash() != model.weights_hash() == other.weights_hash()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert HookedTransformer.from_pretrained(tmp_path).weights_hash() == model.weights_hash()


def test_an_opened_model_outlives_its_files(tmp_path: Path):
    model = build(config(SMALL, d_model=64), SEED)
    twin = opened(model, tmp_path)
    build(config(SMALL), SEED + 1).save_snapshot(tmp_path)
    assert twin.weights_hash() == model.weights_hash()
    for file in tmp_path.iterdir():
        file.unlink()
    for copied in (twin, copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert copied.weights_hash() == model.weights_hash()
        assert torch.equal(copied(torch.tensor([[1, 2]])), model(torch.tensor([[1, 2]])))
    assert len(pickle.dumps(twin)) < 2 * len(pickle.dumps(model))


def write_and_report(folder: Path) -> str:
    model = HookedTransformer.from_pretrained(folder)
    with torch.no_grad():
        model.W_E.add_(1)
    return HookedTransformer.from_pretrained(folder).weights_hash()


@pytest.mark.apart
def test_writing_in_another_process_is_seen_in_no_other(tmp_path: Path):
    model = build(config(SMALL, d_model=64), SEED)
    twin = opened(model, tmp_path)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(write_and_report, tmp_path).result() == model.weights_hash()
    assert torch.equal(twin.W_E, model.W_E)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a snapshot, of which one tensor lies in another order."""
    model = build(config(SMALL), SEED, Vocabulary(WORDS))
    model.blocks[0].mlp.W_in = nn.Parameter(model.blocks[0].mlp.W_in.detach().T.contiguous().T)
    model.save_snapshot(tmp_path)
    return tmp_path


W_IN = "blocks.0.mlp.W_in"
BAD: dict[str, tuple[Any, str]] = {
    "no dictionary": (lambda about: about.update(snapshot=[1]), r"snapshot = \[1\] is no description of a snapshot"),
    "no hash": (lambda about: about["snapshot"].pop("weights"), "no description of a snapshot: KeyError"),
    "an unknown field": (lambda about: about["snapshot"].update(layout=1), "is no description of a snapshot"),
    "no order": (lambda about: about["snapshot"]["orders"].update({W_IN: [0, 0]}), "is no description of a snapshot"),
    "no list": (lambda about: about["snapshot"].update(orders={W_IN: 3}), "is no description of a snapshot"),
    "another order": (lambda about: about["snapshot"].update(orders={}), rf"'{W_IN}' has shape \(10, 24\)"),
    "too many axes": (
        lambda about: about["snapshot"]["orders"].update({W_IN: [0, 2, 1]}),
        rf"'{W_IN}' is said to have its axes in the order \(0, 2, 1\)",
    ),
    "an unknown tensor": (lambda about: about["snapshot"]["orders"].update(W=[0]), "'W' is said to have its axes"),
    "an unknown parameter": (lambda about: about["snapshot"]["frozen"].append("W"), "'W' is said to be not trained"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_description_that_cannot_be_used_is_an_error_that_names_the_file(saved: Path, what: str):
    change, message = BAD[what]
    change_config(saved, change)
    with pytest.raises(CheckpointError, match=rf"(config\.json|model\.safetensors).*{message}"):
        HookedTransformer.from_pretrained(saved)


@pytest.mark.parametrize("length", [0, 7, 500, -1])
def test_a_truncated_file_is_an_error_that_names_it(saved: Path, length: int):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        HookedTransformer.from_pretrained(saved)


def test_a_missing_file_and_foreign_weights_are_errors_that_name_it(saved: Path):
    change_weights(saved, lambda weights: weights.update(extra=torch.ones(2)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'extra' is not part of this model"):
        HookedTransformer.from_pretrained(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        HookedTransformer.from_pretrained(saved)


def test_models_that_a_snapshot_would_change_are_refused(tmp_path: Path):
    own, mixed, part = (build(config(SMALL), SEED) for _ in range(3))
    own.blocks[0].mlp = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    mixed.blocks[0].mlp.b_in = nn.Parameter(mixed.blocks[0].mlp.b_in.double())
    part.blocks[0].mlp.W_in = nn.Parameter(torch.ones(24, 20)[:, ::2])
    for model, said in (
        (own, "blocks.0.mlp is Identity, and MLP in a new HookedTransformer: a snapshot holds weights only"),
        (mixed, "'blocks.0.mlp.b_in' has dtype torch.float64; the configuration says torch.float32"),
        (part, r"'blocks.0.mlp.W_in' of shape \(24, 10\) has strides \(20, 2\)"),
        (HookedTransformer(SMALL, device="meta"), "meta device"),
    ):
        with pytest.raises(CheckpointError, match=said):
            model.save_snapshot(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_no_checkpoint_can_hold_is_named(tmp_path: Path):
    model = build(config(SMALL), SEED)
    model.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(CheckpointError, match=r"tensor 'phase' has dtype torch.complex64; allowed: float64, float32"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_description_comes_last_and_holds_no_more_than_is_needed(saved: Path):
    about = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    model = HookedTransformer.from_pretrained(saved)
    assert about["snapshot"] == {"weights": model.weights_hash(), "frozen": [], "orders": {W_IN: [1, 0]}}
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        HookedTransformer.from_pretrained(saved)
