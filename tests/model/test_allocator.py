"""Freed memory stays with the process, once a run was cached: counted in page faults, each in a fresh process."""

import json
import os
import platform
import subprocess
import sys

import pytest

COUNTED = """
import json, resource, sys, torch
from interp import HookedTransformer, TransformerConfig
cfg = TransformerConfig(n_layers=8, d_model=128, n_heads=4, n_ctx=256, d_vocab=50, seed=0)
model, tokens = HookedTransformer(cfg), torch.zeros(8, 256, dtype=torch.long)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
seen = []
for _ in range(4):
    before = faults()
    logits, cache = model.run_with_cache(tokens)
    held = sum({v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in cache.values()}.values())
    del logits, cache
    seen.append(faults() - before)
print(json.dumps([held // resource.getpagesize(), seen]))
"""
ONLY_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is tested is a setting of glibc")


def pages_and_faults(**environment: str) -> tuple[int, list[int]]:
    """Pages that a cache holds, and page faults of four cached runs in turn."""
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED], env=clean | environment, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


@ONLY_GLIBC
@pytest.mark.apart
def test_a_cache_takes_the_memory_of_those_that_are_gone():
    pages, faults = pages_and_faults()
    assert pages > 20_000  # more than glibc keeps by itself
    assert min(faults[1:]) < 0.05 * pages < faults[0]


@ONLY_GLIBC
@pytest.mark.apart
def test_malloc_is_left_alone_where_the_environment_sets_it_up():
    pages, faults = pages_and_faults(MALLOC_TOP_PAD_="131072")
    assert min(faults) > 0.2 * pages
