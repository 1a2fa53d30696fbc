"""Sweeps of an encoder with a decoder beside a loop of single patched runs, in one process and one thread.

Run: python tests/benchmarks/two_stacks.py

The model is random (float32), 4 layers of 8 heads in each stack, d_model 256, a source of 24 tokens and a target of 20.
Each sweep patches `z` of one stack at every layer, position and head, one at a time: of the decoder's attention, of its
cross-attention, and of the encoder, whose patches change the memory that the whole decoder reads. The loop runs the
model once for each of them, with a hook. Both are compared cell by cell.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp import HookedEncoderDecoder, PairCache
from interp.metrics import Logit
from interp.model import SourceAndTarget
from interp.patching import sweep

N_LAYERS, N_HEADS, N_SOURCE, N_TARGET, D_VOCAB, ANSWER = 4, 8, 24, 20, 500, 1
SITES = {  # the hook of a layer, and how many positions it has
    ("z", "decoder"): ("decoder.blocks.{}.attn.hook_z", N_TARGET),
    ("z", "cross_attn"): ("decoder.blocks.{}.cross_attn.hook_z", N_TARGET),
    ("z", "encoder"): ("encoder.blocks.{}.attn.hook_z", N_SOURCE),
}


def random_model() -> HookedEncoderDecoder:
    stack = {"n_layers": N_LAYERS, "n_heads": N_HEADS, "d_model": 256, "d_vocab": D_VOCAB, "n_ctx": 64, "seed": 0}
    return HookedEncoderDecoder({"encoder": stack, "decoder": stack | {"seed": 1}})


@torch.no_grad()
def looped(model: HookedEncoderDecoder, corrupted: SourceAndTarget, clean: PairCache, hook: str, n_pos: int) -> Tensor:
    """One run for every layer, position and head."""

    def patch(name: str, pos: int, head: int) -> Callable[[Tensor, Any], None]:
        def write(z: Tensor, hook: Any) -> None:
            z[:, pos, head] = clean[name][:, pos, head]

        return write

    found = []
    for layer, pos, head in itertools.product(range(N_LAYERS), range(n_pos), range(N_HEADS)):
        name = hook.format(layer)
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, patch(name, pos, head))])
        found.append(logits[0, -1, ANSWER])
    return torch.stack(found).view(N_LAYERS, n_pos, N_HEADS)


def main() -> None:
    torch.set_num_threads(1)
    model, generator = random_model(), torch.Generator().manual_seed(0)
    target = torch.randint(D_VOCAB, (1, N_TARGET), generator=generator)
    corrupted, clean = (
        model.masked_tokens(torch.randint(D_VOCAB, (1, N_SOURCE), generator=generator), target) for _ in range(2)
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
    for site, (hook, n_pos) in SITES.items():
        start = time.perf_counter()
        swept = sweep(model, corrupted, cache, Logit(ANSWER), site, ("layer", "pos", "head"), progress=False)
        between = time.perf_counter()
        wanted = looped(model, corrupted, cache, hook, n_pos)
        ours, theirs = between - start, time.perf_counter() - between
        off = float((torch.as_tensor(swept.values) - wanted).abs().max())
        assert off < 1e-4, f"{site}: cells differ by {off}"
        print(f"{' '.join(site):14} {ours:6.2f} s   loop {theirs:6.2f} s   {theirs / ours:5.1f} x   differ {off:.0e}")


if __name__ == "__main__":
    main()
