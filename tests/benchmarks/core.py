"""What hooks and imports cost, as ratios within one run. Run: python tests/benchmarks/core.py

- A forward pass without hooks (6 layers, d_model 512, 4 x 128 tokens) against the same arithmetic as bare functions on
  the same tensors, bit for bit.
- `import interp` against `import torch`, each in a fresh interpreter.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interp import HookedTransformer, TransformerConfig
from interp.model.norms import Norm


def norm(x: Tensor, module: Norm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], module.w, module.b, 1e-5)


def bare_forward(model: HookedTransformer, tokens: Tensor) -> Tensor:
    """The model's arithmetic without modules, hook points or checks."""
    heads, d_head = model.cfg.n_heads, model.cfg.d_head
    batch, n = tokens.shape
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    x = F.embedding(tokens, model.embed.W_E) + model.pos_embed.W_pos[:n]
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        read = norm(x, block.ln1)
        q, k, v = (
            F.linear(read, W.transpose(0, 1).flatten(1).T, b.flatten()).view(batch, n, heads, d_head).transpose(1, 2)
            for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
        )
        scores = ((q / model.cfg.attn_scale) @ k.transpose(2, 3)).masked_fill(~visible, float("-inf"))
        z = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, n, heads * d_head)
        x = x + F.linear(z, attn.W_O.flatten(0, 1).T, attn.b_O)
        hidden = F.gelu(F.linear(norm(x, block.ln2), mlp.W_in.T, mlp.b_in))
        x = x + F.linear(hidden, mlp.W_out.T, mlp.b_out)
    return F.linear(norm(x, model.ln_final), model.W_U.T, model.b_U)


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """Median over rounds of first's time over second's, taken in turn."""
    ratios = []
    for _ in range(rounds):
        times = []
        for run in (first, second):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def ratio_of_minima(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """First's shortest time over second's, taken in turn; for machines with other work."""
    shortest = [float("inf"), float("inf")]
    for _ in range(rounds):
        for i, run in enumerate((first, second)):
            start = time.perf_counter()
            run()
            shortest[i] = min(shortest[i], time.perf_counter() - start)
    return shortest[0] / shortest[1]


def forward_ratio(rounds: int = 60) -> float:
    """Our forward pass over the bare one."""
    cfg = TransformerConfig(n_layers=6, d_model=512, n_heads=8, n_ctx=128, d_vocab=5_000, seed=0)
    model = HookedTransformer(cfg)
    tokens = torch.randint(cfg.d_vocab, (4, 128))
    with torch.no_grad():
        if not torch.equal(model(tokens), bare_forward(model, tokens)):
            raise AssertionError("the bare functions do other arithmetic than the model")
        return ratio(lambda: model(tokens), lambda: bare_forward(model, tokens), rounds)


def import_ratio(rounds: int = 9) -> float:
    """`import interp` over `import torch`."""

    def importing(name: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    ratio(importing("interp"), importing("torch"), 1)  # fill the file cache
    return ratio(importing("interp"), importing("torch"), rounds)


if __name__ == "__main__":
    print(f"forward without hooks / bare functions: {forward_ratio():.3f}")
    print(f"import interp / import torch: {import_ratio():.3f}")
