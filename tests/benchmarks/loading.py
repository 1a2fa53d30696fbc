"""What loading a GGUF file costs, in fresh processes. Run: python tests/benchmarks/loading.py

- Time from the start of the process to the first logits, ours over transformers' own GGUF loading.
- Peak memory: the most the process ever held, and what of it came after the imports, over the float32 weights.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from interp.checkpoints import fetch

PROMPT = "When Mary and John went to the store, John gave a drink to"
MEASURED = """
import json, resource, sys, time, torch
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
{imports}
before = peak()
{load}
with torch.no_grad():
    logits = {run}
n_bytes = 4 * sum(p.numel() for p in model.parameters())
print(json.dumps([float(logits[0, -1].softmax(-1).max()), before, peak(), n_bytes]))
"""
OURS = {
    "imports": "from interp import HookedTransformer",
    "load": "model = HookedTransformer.from_pretrained('smollm2-135m-instruct')",
    "run": f"model({PROMPT!r})",
}
THEIRS = {
    "imports": "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "load": "model = AutoModelForCausalLM.from_pretrained({folder!r}, gguf_file={file!r})\n"
    "tokenizer = AutoTokenizer.from_pretrained({folder!r}, gguf_file={file!r})",
    "run": f"model(**tokenizer({PROMPT!r}, return_tensors='pt')).logits",
}


def measure(parts: dict[str, str]) -> tuple[float, list[float]]:
    """Seconds of a fresh process, and what it printed: largest probability, peak before and after, bytes of weights."""
    start = time.perf_counter()
    code = MEASURED.format(**parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, json.loads(done.stdout.splitlines()[-1])


def main(rounds: int = 3) -> None:
    """Print the ratios."""
    path, _ = fetch.fetch_model("smollm2")
    theirs = THEIRS | {"load": THEIRS["load"].format(folder=str(path.parent), file=path.name)}
    measure(OURS)  # fill the file cache
    pairs = [(measure(OURS), measure(theirs)) for _ in range(rounds)]
    ratio = statistics.median(ours[0] / other[0] for ours, other in pairs)
    print(f"GGUF to first logits / transformers: {ratio:.3f}", end=" ")
    print(f"({statistics.median(p[0][0] for p in pairs):.2f} s / {statistics.median(p[1][0] for p in pairs):.2f} s)")
    for name, which in (("ours", 0), ("transformers", 1)):
        probability, before, peak, n_bytes = pairs[0][which][1]
        print(f"{name}: peak memory / float32 weights: {(peak - before) / n_bytes:.2f} while loading, ", end="")
        print(f"{peak / n_bytes:.2f} with Python and its imports; probability of the next token {probability:.4f}")


if __name__ == "__main__":
    main()
