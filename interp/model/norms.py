"""Normalisation, exact at any scale that a hook imposes, and linear at a frozen one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.config import NormType
from interp.model.hooks import HookPoint
from interp.precision import at_least_float32


class Norm(nn.Module):
    """LayerNorm (mean and variance over the last axis), RMSNorm, or nothing, with a gain `w` and (LN) a bias `b`."""

    def __init__(self, kind: NormType | None, size: int, eps: float, axes: str = "batch pos", last: str = "d_model"):
        super().__init__()
        self.kind, self.size, self.eps = kind, size, eps
        self.w = nn.Parameter(torch.ones(size)) if kind else None
        self.b = nn.Parameter(torch.zeros(size)) if kind == "LN" else None
        if kind:
            self.hook_scale = HookPoint(
                f"{axes} 1", "what the norm divides by: the root of the variance (RMS: mean square) + eps"
            )
            self.hook_normalized = HookPoint(f"{axes} {last}", "output of the norm, gain and bias included")

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.kind}, {self.size}" if self.kind else "none"

    def is_watched(self) -> bool:
        """Whether there are hooks on its points."""
        return self.w is not None and bool(self.hook_scale.hooks or self.hook_normalized.hooks)

    def scale(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes 1"]:
        """`sqrt(mean((x - mean)^2) + eps)`; RMS takes no mean off. At least float32."""
        norm = torch.linalg.vector_norm(self._centred(at_least_float32(x)), dim=-1, keepdim=True)  # one pass over x
        return (norm.square() / self.size + self.eps).sqrt()

    def at_scale(self, x: Float[Tensor, "*axes size"], scale: Float[Tensor, "*#axes 1"]) -> Float[Tensor, "*axes size"]:
        """The norm without its bias at a given scale: a *linear* map of `x`, which is what makes attribution exact."""
        if self.w is None:
            return x
        return (self._centred(at_least_float32(x)) / scale).to(x.dtype) * self.w.to(x.device)

    def pull_back(
        self, directions: Float[Tensor, "*axes size"], scale: Float[Tensor, "*#axes 1"]
    ) -> Float[Tensor, "*axes size"]:
        """Directions of its output as directions of its input, by the transpose of `at_scale`.

        For all x, `at_scale(x, scale) . directions = x . pull_back(directions, scale)`.
        """
        if self.w is None:
            return directions
        wide = at_least_float32(directions) * self.w.to(directions.device) / scale
        return self._centred(wide).to(directions.dtype)

    def _centred(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        return x - x.mean(-1, keepdim=True) if self.kind == "LN" else x

    def unhooked(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """`(x - mean) / scale * w + b`, past the hook points: LayerNorm by torch's fused kernel."""
        if self.kind == "LN":
            return F.layer_norm(x, (self.size,), self.w, self.b, self.eps)
        return x if self.w is None else self.at_scale(x, self.scale(x))

    def forward(self, x: Float[Tensor, "*axes size"]) -> Float[Tensor, "*axes size"]:
        """As `unhooked`, with the scale and the result open to hooks."""
        return self.read(x)[0]

    def read(
        self, x: Float[Tensor, "*axes size"]
    ) -> tuple[Float[Tensor, "*axes size"], Float[Tensor, "*axes 1"] | None]:
        """What `forward` returns, and the scale that hooks imposed, or None."""
        if self.w is None:
            return x, None
        if self.kind == "RMS":
            scale = self.hook_scale(self.scale(x))
            imposed = scale if self.hook_scale.hooks and self.hook_scale.edited else None
            return self.hook_normalized(self.at_scale(x, scale)), imposed
        normalized, imposed = self.unhooked(x), None
        if self.hook_scale.hooks:
            scale = self.scale(x)
            edited = self.hook_scale(scale)
            if edited is not scale:  # as a difference, so that an edit of nothing changes no bit
                imposed = edited if self.hook_scale.edited else None
                unbiased = normalized if self.b is None else normalized - self.b
                normalized = normalized + (unbiased * (scale / edited - 1)).to(x.dtype)
        return self.hook_normalized(normalized), imposed
