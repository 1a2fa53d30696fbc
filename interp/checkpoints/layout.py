"""Where each tensor of a checkpoint goes in the model, described by views, so that one description serves both ways.

Throughout this folder "ours" are the names and tensors of a `HookedTransformer`, and "theirs" are those of a
checkpoint.

A `Weight` is one tensor of the checkpoint. Each of its `Piece`s is a view of it that has the shape of one of our
tensors. To read a checkpoint is to copy this view into our tensor; to write one is to copy our tensor into the view. A
tensor that holds several of ours, such as GPT-2's queries, keys and values, has several pieces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.config import TransformerConfig

View = Callable[[Tensor], Tensor]
"""A function from a tensor of the checkpoint to a view of it with our axes."""


@dataclass(frozen=True)
class Piece:
    """One tensor of the model, as a part of a checkpoint's tensor.

    Attributes:
        ours: its name in the model's state dict.
        view: takes the checkpoint's tensor, and returns the view of it that is this tensor.
        plus: is added when a checkpoint is read, and subtracted when one is written. Gemma stores the gains of its
            norms as differences from 1.
        times: multiplies when a checkpoint is read, and divides when one is written. T5 multiplies by it what its last
            norm returns.
    """

    ours: str
    view: View
    plus: float = 0.0
    times: float = 1.0

    def take(self, theirs: Float[Tensor, "*theirs"], dtype: torch.dtype) -> Float[Tensor, "*ours"]:
        """The model's tensor. It is a view of the checkpoint's if neither its dtype nor its values have to change.

        `plus` is added in the finer of the two dtypes, which also holds the product with `times`.
        """
        part = self.view(theirs)
        if self.plus or self.times != 1:
            part = (part.to(torch.promote_types(part.dtype, dtype)) + self.plus) * self.times
        return part.to(dtype)

    def put(self, ours: Float[Tensor, "*ours"], theirs: Float[Tensor, "*theirs"]) -> None:
        """Write the model's tensor to its place in the checkpoint's."""
        changed = self.plus or self.times != 1
        self.view(theirs).copy_(ours / self.times - self.plus if changed else ours)


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint.

    Attributes:
        theirs: its name in the checkpoint.
        shape: its shape in the checkpoint.
        pieces: the tensors of the model that it holds. What they do not fill, no model reads; it is written as 0.
        copies: the names that the same tensor has as well. A checkpoint holds it by one of its names or by several.
        optional: whether a checkpoint may lack it. The model's tensors then stay as they are in a new model.
    """

    theirs: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    copies: tuple[str, ...] = ()
    optional: bool = False


def same(theirs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor as it is."""
    return theirs


def transposed(theirs: Float[Tensor, "output input"]) -> Float[Tensor, "input output"]:
    """A matrix that is stored for `x @ W.T`."""
    return theirs.T


def reading_heads(n: int) -> View:
    """[n * d_head, d_model] as [n, d_model, d_head]."""
    return lambda theirs: theirs.unflatten(0, (n, -1)).transpose(1, 2)


def writing_heads(n: int) -> View:
    """[d_model, n * d_head] as [n, d_head, d_model]."""
    return lambda theirs: theirs.unflatten(1, (n, -1)).permute(1, 2, 0)


def head_biases(n: int) -> View:
    """[n * d_head] as [n, d_head]."""
    return lambda theirs: theirs.unflatten(0, (n, -1))


def weight(
    theirs: str,
    shape: tuple[int, ...],
    ours: str,
    view: View = same,
    plus: float = 0.0,
    times: float = 1.0,
    copies: tuple[str, ...] = (),
    optional: bool = False,
) -> Weight:
    """A tensor of the checkpoint that holds one tensor of the model."""
    return Weight(theirs, shape, (Piece(ours, view, plus, times),), copies, optional)


def embedding(theirs: str, head: str, cfg: TransformerConfig) -> Weight:
    """The embedding, which is the head as well in a model with tied embeddings."""
    copies = (head,) if cfg.tie_word_embeddings else ()
    return weight(theirs, (cfg.d_vocab, cfg.d_model), "embed.W_E", copies=copies)


def layer_norm(theirs: str, size: int, ours: str) -> Iterator[Weight]:
    """Gain and bias of a LayerNorm."""
    yield weight(f"{theirs}.weight", (size,), f"{ours}.w")
    yield weight(f"{theirs}.bias", (size,), f"{ours}.b")
