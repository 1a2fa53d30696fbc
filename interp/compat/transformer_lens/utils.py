"""`transformer_lens.utils`: names of activations, and small helpers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.compat.transformer_lens.checks import ensure, refusals
from interp.compat.transformer_lens.factored_matrix import FactoredMatrix
from interp.model import ACTIVATIONS, next_token_loss
from interp.precision import at_least_float32

USE_DEFAULT_VALUE = None
"""For an argument: whatever the model's config says."""

__getattr__ = refusals(__name__)

# ---------------------------------------------------------------------- names of activations

_SHORT = {"attn": "pattern", "attn_logits": "attn_scores", "key": "k", "query": "q", "value": "v", "mlp_pre": "pre",
          "mlp_mid": "mid", "mlp_post": "post"}  # fmt: skip
_PARTS = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_OF_ATTENTION = {"k", "v", "q", "z", "rot_k", "rot_q", "result", "pattern", "attn_scores"}
_OF_MLP = {"pre", "post", "mid", "pre_linear"}


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of a hook point: ("k", 6) and "k6" are `blocks.6.attn.hook_k`, ("scale",) is that of ln_final."""
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    if found := re.match(r"([a-z]+)(\d+)([a-z]?.*)", name):
        name, layer, layer_type = found.groups()
    name = _SHORT.get(name, name)
    part = "attn" if name in _OF_ATTENTION else "mlp" if name in _OF_MLP else layer_type or ""
    part = _PARTS.get(part, part)
    if name in ("scale", "normalized") and layer is None:
        part = f"ln_final.{part}".rstrip(".")
    return ".".join([*([] if layer is None else [f"blocks.{layer}"]), *([part] if part else []), f"hook_{name}"])


# ---------------------------------------------------------------------- tensors


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor, parameter, list, tuple, number or text as an array. Raises `ValueError` for anything else."""
    if isinstance(tensor, Tensor):
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16
    if not isinstance(tensor, np.ndarray | list | tuple | int | float | bool | str):
        raise ValueError(f"Input to to_numpy has invalid type: {type(tensor)}")
    return np.asarray(tensor)


def get_corner(tensor: Tensor | FactoredMatrix, n: int = 3) -> Tensor:
    """The first `n` along every axis."""
    return tensor.get_corner(n) if isinstance(tensor, FactoredMatrix) else tensor[(slice(n),) * tensor.ndim]


def remove_batch_dim(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Without the first axis if that has size 1, else as it is."""
    return tensor.squeeze(0)


def transpose(tensor: Float[Tensor, "*axes a b"]) -> Float[Tensor, "*axes b a"]:
    """The last two axes exchanged."""
    return tensor.mT


def is_square(x: Tensor) -> bool:
    """Whether it is a square matrix."""
    return x.ndim == 2 and x.shape[0] == x.shape[1]


def is_lower_triangular(x: Tensor) -> bool:
    """Whether it is a square matrix with nothing above the diagonal."""
    return is_square(x) and x.equal(x.tril())


def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix, broadcast_dims: bool = True
) -> Float[Tensor, "..."]:
    """`|left @ right| / (|left| |right|)` in Frobenius norms (Elhage et al. 2021).

    Of every matrix of `left` with every one of `right`, [*left's batch, *right's batch], or with
    `broadcast_dims=False` of pairs whose batch axes broadcast. Raises `LensError` where they have no product.
    """
    ensure(
        left.rdim == right.ldim,
        f"Composition scores require left.rdim==right.ldim, shapes were left: {left.shape}, right: {right.shape}",
    )
    thin, across = left.core.reduced(), right.core.T.reduced().mT  # of rank size, and of the same norms
    if not broadcast_dims:
        return torch.linalg.matrix_norm(thin @ across) / left.norm() / right.norm()
    products = [torch.linalg.matrix_norm(one @ across) for one in thin.reshape(-1, *thin.shape[-2:])]
    norms = torch.stack(products).reshape(*left.shape[:-2], *right.shape[:-2])
    return norms / left.norm()[(..., *[None] * (right.ndim - 2))] / right.norm()


SliceInput = int | tuple[int, ...] | list[int] | slice | Tensor | np.ndarray | None
"""One index, (stop,), (start, stop) or (start, stop, step), several indices, or None for all."""


class Slice:
    """An index along one axis: an integer takes the axis away, None changes nothing.

    `slice` is what a tensor is indexed with. Raises `ValueError` for what is no `SliceInput`.
    """

    def __init__(self, input_slice: "Slice | SliceInput" = None):
        self.slice: Any = input_slice
        match input_slice:
            case Slice():
                self.slice, self.mode = input_slice.slice, input_slice.mode
            case None:
                self.slice, self.mode = slice(None), "identity"
            case tuple():
                self.slice, self.mode = slice(*input_slice), "slice"
            case slice():
                self.mode = "slice"
            case int():
                self.mode = "int"
            case list() | Tensor() | np.ndarray():
                self.slice, self.mode = to_numpy(input_slice), "array"
            case _:
                raise ValueError(f"Invalid input_slice {input_slice}")

    @classmethod
    def unwrap(cls, slice_input: "Slice | SliceInput") -> "Slice":
        """A Slice of anything that can be one; an integer keeps its axis, with size 1."""
        if isinstance(slice_input, Slice):
            return slice_input
        return cls([slice_input] if isinstance(slice_input, int) else slice_input)

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The tensor at these indices of one axis."""
        index = [slice(None)] * tensor.ndim
        index[dim] = self.slice
        return tensor[tuple(index)]

    def indices(self, max_ctx: int | None = None) -> np.ndarray:
        """The indices of an axis of `max_ctx` places, which all but an integer need. Raises `ValueError`."""
        if self.mode == "int":
            return np.array([self.slice])
        if max_ctx is None:
            raise ValueError("max_ctx must be specified if slice is not an integer")
        return np.arange(max_ctx)[self.slice]

    def __repr__(self) -> str:
        return f"Slice: {self.slice} Mode: {self.mode} "


# ---------------------------------------------------------------------- logits


def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Float[Tensor, ""] | Float[Tensor, "batch predicted"]:
    """Cross-entropy of every next token in nats, or its mean; see `interp.model.next_token_loss`."""
    mask = None if attention_mask is None else attention_mask.bool()
    return next_token_loss(logits, tokens.to(logits.device), mask, per_token)


def lm_accuracy(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], per_token: bool = False
) -> Float[Tensor, ""] | Bool[Tensor, "batch predicted"]:
    """Whether the likeliest token is the next one, or how often."""
    right = logits.argmax(dim=-1)[:, :-1] == tokens[:, 1:]
    return right if per_token else right.sum() / right.numel()


gelu_new = gelu_pytorch_tanh = ACTIVATIONS["gelu_new"]
gelu_fast, solu = ACTIVATIONS["gelu_fast"], ACTIVATIONS["solu"]
ACTIVATION_FN_DICT: dict[str, Callable[[Tensor], Tensor]] = {**ACTIVATIONS, "gelu_pytorch_tanh": gelu_new}


def override_or_use_default_value(default_flag: Any, override: Any = None) -> Any:
    """The override, or the default where that is None."""
    return default_flag if override is None else override


def get_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


# ---------------------------------------------------------------------- text


def get_attention_mask(tokenizer: Any, tokens: Int[Tensor, "batch pos"], prepend_bos: bool) -> Int[Tensor, "batch pos"]:
    """1 for tokens, 0 for leading or trailing padding; where the first token is the padding token, 1 for that."""
    if tokenizer is None:
        return torch.ones_like(tokens)
    right = tokenizer.padding_side == "right"
    marks = tokens == tokenizer.pad_token_id
    padding = (marks.flip(-1).int().cumprod(-1).flip(-1) if right else marks.int().cumprod(-1)).bool()
    if not right and prepend_bos and tokenizer.bos_token_id == tokenizer.pad_token_id:
        padding = padding & padding.roll(-1, dims=-1)  # the last of them is the first token
        padding[:, -1] = False
    return (~padding).to(tokens.dtype)


def tokenize_and_concatenate(
    dataset: Any,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int = 10,
) -> Any:
    """A data set (of `datasets`) of texts as one of rows of `max_length` tokens, in the column "tokens".

    Texts are joined by the end token and cut as they come. What does not fill a row is dropped, but in a batch that
    fills none, whose row is padded. As in TransformerLens, a batch of texts is cut into 20 pieces before these become
    tokens, which may split a word.
    """
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    ensure(tokenizer.eos_token is not None, "Tokenizer must have an EOS token.")
    length = max_length - add_bos_token

    def rows_of(examples: dict[str, list[str]]) -> dict[str, np.ndarray]:
        text = tokenizer.eos_token.join(examples[column_name])
        if not text.strip():
            return {"tokens": np.array([], dtype=np.int64)}
        size = (len(text) - 1) // 20 + 1
        pieces = [text[i * size : (i + 1) * size] for i in range(20)]
        tokens = tokenizer(pieces, return_tensors="np", padding=True)["input_ids"].flatten()
        tokens = tokens[tokens != tokenizer.pad_token_id]
        whole = max(len(tokens) // length, 1) * length
        tokens = np.pad(tokens[:whole], (0, max(whole - len(tokens), 0)), constant_values=tokenizer.pad_token_id)
        rows = tokens.reshape(-1, length)
        return {"tokens": np.pad(rows, ((0, 0), (int(add_bos_token), 0)), constant_values=tokenizer.bos_token_id)}

    workers = None if streaming else num_proc
    rows = dataset.map(rows_of, batched=True, num_proc=workers, remove_columns=list(dataset.features))
    rows.set_format(type="torch", columns=["tokens"])
    return rows


def test_prompt(
    prompt: str,
    answer: str | list[str],
    model: Any,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> None:
    """Print the rank, logit and probability of an answer after a prompt, token by token, and the likeliest tokens.

    Of several answers the first tokens are compared.
    """
    from rich import print as rich_print
    from rich.markup import escape

    answers = [answer] if isinstance(answer, str) else answer
    if prepend_space_to_answer:
        answers = [" " + text.removeprefix(" ") for text in answers]
    several = len(answers) > 1
    before, expected = model.to_tokens(prompt, prepend_bos=prepend_bos), model.to_tokens(answers, prepend_bos=False)
    expected = expected[:, :1] if several else expected
    strings = [model.to_str_tokens(text, prepend_bos=False) for text in answers]
    if print_details:
        print("Tokenized prompt:", model.to_str_tokens(prompt, prepend_bos=prepend_bos))
        print(f"Tokenized answer{'s' if several else ''}:", strings if several else strings[0])
    logits = at_least_float32(model(torch.cat([before.repeat(len(expected), 1), expected], dim=1)))
    ranks = []
    for i, (here, right) in enumerate(zip(logits[:, before.shape[1] - 1 : -1].unbind(1), expected.T, strict=True)):
        probs, order = here.softmax(dim=-1).sort(dim=-1, descending=True)
        places = (order == right[:, None]).int().argmax(dim=-1).tolist()
        ranks.append([(text[i], place) for text, place in zip(strings, places, strict=True)])
        if not print_details:
            continue
        rich_print(f"Performance on answer token{'s' if several else ''}:")
        for row, (text, place) in enumerate(ranks[-1]):
            logit, prob = here[row, right[row]].item(), probs[row, place].item()
            rich_print(f"[b]Rank: {place: <8} Logit: {logit:5.2f} Prob: {prob:6.2%} Token: |{escape(text)}|[/b]")
        for k, (prob, token) in enumerate(zip(probs[0, :top_k], order[0, :top_k], strict=True)):
            said = f"Logit: {here[0, token].item():5.2f} Prob: {prob.item():6.2%} Token: |{model.to_string(token)}|"
            print(f"Top {k}th token. {said}")
    rich_print(f"[b]Ranks of the answer tokens:[/b] {escape(str(ranks if several else [one for (one,) in ranks]))}")


test_prompt.__test__ = False  # pyright: ignore
