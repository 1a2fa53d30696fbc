"""Hashes of tensors and of texts, the same in every process: by these, files and jobs say what they are of."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors, of their shapes, dtypes and bits. Their order and their device do not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)  # and not a copy
    return digest.hexdigest()


def digest_of_text(text: str) -> str:
    """A hash of a text, such as the JSON of a value."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
