"""`transformer_lens.SVDInterpreter`: directions of weights, read as logits (Millidge & Black 2022)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.compat.transformer_lens.checks import ensure
from interp.errors import check_choice
from interp.precision import at_least_float32

VECTOR_TYPES = ["OV", "w_in", "w_out"]


class SVDInterpreter:
    """What the right singular vectors of a model's weights are as logits."""

    def __init__(self, model: Any):
        self.model, self.cfg = model, model.cfg

    def get_singular_vectors(
        self, vector_type: str, layer_index: int, num_vectors: int = 10, head_index: int | None = None
    ) -> Float[Tensor, "d_vocab_out 1 num_vectors"]:
        """The logits of the first right singular vectors, whose signs are arbitrary.

        They are those of `W_V W_O` of a head ("OV"), of `W_in^T` times the gain of the norm before it ("w_in"), or of
        `W_out` ("w_out"). Raises `ConfigError` for another word, `LensError` out of range.
        """
        check_choice("vector_type", vector_type, VECTOR_TYPES)
        layers, heads = self.cfg.n_layers, self.cfg.n_heads
        ensure(0 <= layer_index < layers, f"Layer index must be between 0 and {layers - 1} but got {layer_index}")
        block = self.model.blocks[layer_index]
        if vector_type == "OV":
            ensure(head_index is not None, f"Head index optional only for w_in and w_out, got {vector_type}")
            head = head_index or 0
            ensure(0 <= head < heads, f"Head index must be between 0 and {heads - 1} but got {head}")
            vectors = self.model.core.OV[layer_index, head].svd().Vh
        else:
            gain = getattr(getattr(block, "ln2", None), "w", None)
            matrix = block.mlp.W_out if vector_type == "w_out" else block.mlp.W_in.T * (1 if gain is None else gain)
            vectors = torch.linalg.svd(at_least_float32(matrix), full_matrices=False).Vh
        ensure(num_vectors <= len(vectors), f"num_vectors = {num_vectors}; there are {len(vectors)}")
        return (vectors[:num_vectors] @ at_least_float32(self.model.W_U)).T[:, None]
