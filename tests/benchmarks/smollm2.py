"""SmolLM2-135M-Instruct (float32) beside transformers' eager attention, as ratios within one run.

Run: interp fetch smollm2 && python tests/benchmarks/smollm2.py

Both load the same GGUF file; logits are compared before anything is timed.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from core import ratio

from interp import ActivationCache, HookedTransformer
from interp.checkpoints.fetch import local_path

NAME = "smollm2-135m-instruct"


def bytes_held(cache: ActivationCache) -> int:
    """Bytes of all activations, memory that several share counted once."""
    storages = [value.untyped_storage() for value in cache.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main(rounds: int = 15) -> None:
    path = local_path(NAME)
    if path is None:
        raise SystemExit(f"{NAME} is not known")
    ours = HookedTransformer.from_pretrained(NAME)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, attn_implementation="eager", dtype=torch.float32
    ).eval()
    tokens = torch.randint(100, ours.cfg.d_vocab, (4, 100), generator=torch.Generator().manual_seed(0))
    prompt = ours.to_tokens("Once upon a time there was a little dragon who")
    with torch.no_grad():
        difference = (ours(tokens) - theirs(tokens).logits).abs().max() / theirs(tokens).logits.abs().max()
        print(f"largest difference of the logits / largest logit: {float(difference):.1e}")
        forward = ratio(lambda: ours(tokens), lambda: theirs(tokens), rounds)
        everything = ratio(lambda: ours.run_with_cache(tokens), lambda: ours(tokens), rounds)
        patterns = ratio(
            lambda: ours.run_with_cache(tokens, names_filter="*hook_pattern"), lambda: ours(tokens), rounds
        )
        generate = ratio(
            lambda: ours.generate(prompt, 64, progress=False),
            lambda: theirs.generate(prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=2),
            5,
        )
        held = bytes_held(ours.run_with_cache(tokens)[1])
    print(f"forward, 4 x 100 tokens / transformers eager: {forward:.3f}")
    print(f"run_with_cache, everything / own forward: {everything:.3f}; the cache holds {held / 1e6:.0f} MB")
    print(f"run_with_cache, patterns / own forward: {patterns:.3f}")
    print(f"generate 64 tokens, greedy / transformers' generate: {generate:.3f}")


if __name__ == "__main__":
    main()
