"""`utils` of the TransformerLens module: each helper against its definition."""

import copy
import pickle
import types
from typing import Any

import numpy as np
import pytest
import torch
from grid import assert_close, random_tensor

from interp import ConfigError
from interp.compat.transformer_lens import utils
from interp.compat.transformer_lens.factored_matrix import FactoredMatrix


def test_names_of_activations():
    for asked, full in {
        ("k", 6, "a"): "blocks.6.attn.hook_k",
        ("pre", 2): "blocks.2.mlp.hook_pre",
        ("embed",): "hook_embed",
        ("normalized", 27, "ln2"): "blocks.27.ln2.hook_normalized",
        ("k6",): "blocks.6.attn.hook_k",
        ("scale4ln1",): "blocks.4.ln1.hook_scale",
        ("pre5",): "blocks.5.mlp.hook_pre",
        ("scale",): "ln_final.hook_scale",
        ("normalized",): "ln_final.hook_normalized",
        ("attn", 0): "blocks.0.attn.hook_pattern",
        ("attn_logits", 1): "blocks.1.attn.hook_attn_scores",
        ("resid_post", 3): "blocks.3.hook_resid_post",
        ("mlp_out", 3, "block"): "blocks.3.hook_mlp_out",
        ("mlp_post", "*"): "blocks.*.mlp.hook_post",
        ("blocks.1.hook_resid_pre",): "blocks.1.hook_resid_pre",
        ("hook_pos_embed",): "hook_pos_embed",
    }.items():
        assert utils.get_act_name(*asked) == full


def test_arrays_of_everything_that_holds_numbers():
    x = random_tensor(2, 3)
    assert np.array_equal(utils.to_numpy(x.requires_grad_()), x.detach().numpy())
    for value in ([1, 2], (1, 2), 3, 2.5, True, "word", np.arange(3)):
        assert np.array_equal(utils.to_numpy(value), np.array(value))
    assert utils.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert utils.to_numpy(torch.ones(2).half()).dtype == np.float16
    with pytest.raises(ValueError, match="invalid type"):
        utils.to_numpy({1: 2})


def test_shapes():
    x = random_tensor(1, 4, 5)
    assert torch.equal(utils.get_corner(x, 2), x[:2, :2, :2])
    m = FactoredMatrix(random_tensor(4, 2), random_tensor(2, 5))
    assert_close(utils.get_corner(m), m.AB[:3, :3])
    assert utils.remove_batch_dim(x).shape == (4, 5)
    assert utils.remove_batch_dim(x[0]) is not None and utils.remove_batch_dim(x[0]).shape == (4, 5)
    assert torch.equal(utils.transpose(x), x.mT)
    assert utils.is_square(torch.ones(2, 2)) and not utils.is_square(torch.ones(2, 2, 2))
    assert utils.is_lower_triangular(torch.ones(3, 3).tril()) and not utils.is_lower_triangular(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("given", "mode", "kept"),
    [
        (None, "identity", slice(None)),
        (2, "int", 2),
        ((3,), "slice", slice(3)),
        ((1, 4), "slice", slice(1, 4)),
        ((1, 5, 2), "slice", slice(1, 5, 2)),
        ([0, 3], "array", [0, 3]),
        (torch.tensor([1]), "array", [1]),
    ],
)
def test_slices_of_one_axis(given: Any, mode: str, kept: Any):
    x = random_tensor(2, 6, 3)
    one = utils.Slice(given)
    assert one.mode == mode
    assert torch.equal(one.apply(x, dim=1), x[:, kept])
    assert torch.equal(one.apply(x, dim=-2), x[:, kept])
    assert np.array_equal(one.indices(6), np.atleast_1d(np.arange(6)[kept]))
    assert utils.Slice(-1).indices(6).tolist() == [-1]  # an integer stays what it is
    assert utils.Slice.unwrap(one) is one
    assert utils.Slice.unwrap(given).apply(x, 1).ndim == 3


@pytest.mark.usefixtures("as_installed")
def test_slices_that_say_too_little_are_refused():
    with pytest.raises(ValueError, match="max_ctx"):
        utils.Slice([0, 1]).indices()
    with pytest.raises(ValueError, match="Invalid input_slice"):
        utils.Slice("1")  # pyright: ignore[reportArgumentType]


def test_losses_and_accuracy():
    logits, tokens = random_tensor(2, 5, 7), torch.tensor([[1, 2, 3, 4, 5], [0, 6, 2, 2, 1]])
    want = torch.stack([-logits[b, i].log_softmax(-1)[tokens[b, i + 1]] for b in range(2) for i in range(4)]).view(2, 4)
    assert_close(utils.lm_cross_entropy_loss(logits, tokens, per_token=True), want)
    assert_close(utils.lm_cross_entropy_loss(logits, tokens), want.mean())
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    counted = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert_close(utils.lm_cross_entropy_loss(logits, tokens, mask), (want * counted).sum() / 5)
    right = [[bool(logits[b, i].argmax() == tokens[b, i + 1]) for i in range(4)] for b in range(2)]
    assert utils.lm_accuracy(logits, tokens, per_token=True).tolist() == right
    assert utils.lm_accuracy(logits, tokens).item() == pytest.approx(np.mean(right))


def test_activation_functions():
    x = random_tensor(3, 5)
    tanh = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    for gelu in (utils.gelu_new, utils.gelu_fast, utils.gelu_pytorch_tanh):
        assert_close(gelu(x), tanh)
    assert_close(utils.solu(x), x * x.softmax(-1))
    assert utils.ACTIVATION_FN_DICT["solu_ln"] is utils.solu


def test_composition_scores_are_norms_of_products():
    left = FactoredMatrix(random_tensor(2, 3, 6, 2), random_tensor(2, 3, 2, 6, seed=1))
    right = FactoredMatrix(random_tensor(4, 6, 3, seed=2), random_tensor(4, 3, 6, seed=3))
    scores = utils.composition_scores(left, right)
    assert scores.shape == (2, 3, 4)
    norm = torch.linalg.matrix_norm
    for i, j, k in ((0, 0, 0), (1, 2, 3)):
        a, b = left.AB[i, j], right.AB[k]
        assert_close(scores[i, j, k], norm(a @ b) / norm(a) / norm(b))
    assert_close(utils.composition_scores(left[:, 0], right[:2], broadcast_dims=False), scores[[0, 1], 0, [0, 1]])
    with pytest.raises(AssertionError, match=r"left\.rdim==right\.ldim"):
        utils.composition_scores(left, right.T[:, :, :5].T[:, :5])


def marks(side: str, pad: int, bos: int) -> Any:
    return types.SimpleNamespace(padding_side=side, pad_token_id=pad, bos_token_id=bos, bos_token="<s>")


@pytest.mark.parametrize(
    ("side", "bos", "prepend", "ids", "mask"),
    [
        ("right", 1, True, [1, 5, 0, 6, 0, 0], [1, 1, 1, 1, 0, 0]),
        ("right", 0, True, [0, 5, 0, 6, 0, 0], [1, 1, 1, 1, 0, 0]),
        ("left", 1, True, [0, 0, 1, 5, 0, 6], [0, 0, 1, 1, 1, 1]),
        ("left", 0, True, [0, 0, 0, 5, 0, 6], [0, 0, 1, 1, 1, 1]),
        ("left", 0, False, [0, 0, 0, 5, 0, 6], [0, 0, 0, 1, 1, 1]),
        ("left", 0, True, [5, 2, 3, 5, 0, 0], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_masks_leave_outer_padding_out(side: str, bos: int, prepend: bool, ids: list[int], mask: list[int]):
    assert utils.get_attention_mask(marks(side, 0, bos), torch.tensor([ids]), prepend).tolist() == [mask]


def test_defaults_give_way_to_what_is_said():
    assert utils.override_or_use_default_value(True) is True
    assert utils.override_or_use_default_value(True, False) is False


class Table:
    """As much of a data set as is used."""

    def __init__(self, columns: dict[str, Any]):
        self.features = self.columns = columns

    def remove_columns(self, names: list[str]) -> "Table":
        return Table({name: column for name, column in self.columns.items() if name not in names})

    def map(self, fn: Any, batched: bool, num_proc: Any, remove_columns: list[str]) -> "Table":
        assert batched and remove_columns == list(self.columns)
        return Table(fn(self.columns))

    def set_format(self, type: str, columns: list[str]) -> None:
        assert (type, columns) == ("torch", ["tokens"])


class Letters:
    """A tokenizer whose tokens are letters."""

    eos_token, pad_token, bos_token_id, pad_token_id = ".", None, 1, 0

    def add_special_tokens(self, special: dict[str, str]) -> None:
        self.pad_token = special["pad_token"]

    def __call__(self, pieces: list[str], return_tensors: str, padding: bool) -> dict[str, np.ndarray]:
        longest = max(map(len, pieces))
        return {"input_ids": np.array([[ord(c) for c in piece] + [0] * (longest - len(piece)) for piece in pieces])}


def test_texts_become_rows_of_tokens_without_gaps():
    texts = ["abcdefghij" * 3, "klm"]
    table = Table({"text": texts, "meta": [1, 2]})
    ids = [ord(c) for c in ".".join(texts)]
    rows: Any = utils.tokenize_and_concatenate(table, Letters(), max_length=8).columns["tokens"]
    assert rows[:, 0].tolist() == [1] * 4
    assert rows[:, 1:].flatten().tolist() == ids[:28]
    rows = utils.tokenize_and_concatenate(table, Letters(), max_length=8, add_bos_token=False).columns["tokens"]
    assert rows.flatten().tolist() == ids[:32]
    (row,) = utils.tokenize_and_concatenate(Table({"text": ["ab"]}), Letters(), max_length=5).columns["tokens"]
    assert row.tolist() == [1, ord("a"), ord("b"), 0, 0]
    assert utils.tokenize_and_concatenate(Table({"text": [" "]}), Letters()).columns["tokens"].shape == (0,)


def test_what_is_not_covered_can_be_imported_and_says_what_to_do_instead():
    for name, instead in (
        ("get_dataset", "interp.data"),
        ("download_file_from_hf", "hf_hub_download"),
        ("sample_logits", "interp.model.Sampling"),
        ("init_xavier_uniform_", "torch.nn.init"),
        ("LocallyOverridenDefaults", "prepend_bos="),
    ):
        refused = getattr(utils, name)
        with pytest.raises(ConfigError, match=instead) as caught:
            refused("pile")
        assert name in str(caught.value)
        with pytest.raises(AttributeError, match=instead):
            _ = refused.default
        assert pickle.loads(pickle.dumps(refused)).__name__ == copy.deepcopy(refused).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'get_datasets'"):
        _ = utils.get_datasets
