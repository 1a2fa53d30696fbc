"""Keeping freed memory at hand: what a cache of a whole run costs on Linux.

A cached run fills hundreds of megabytes that were not in use before. glibc gives the top of its heap back to the system
whenever more than (by its own rules at most) 64 MB of it are free, so that the next cached run takes every page from
the system again: a quarter of the run's time, for SmolLM2. With a higher threshold the pages of a cache that is gone
serve the next one, as torch's allocator does it on a GPU.
"""

import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the two parameters (mallopt(3))."""
KEPT = 2**31 - 1
"""Most bytes that stay free at the top of the heap: 2 GB, the largest that an int of C holds."""
MAPPED = 1 << 28
"""From how many bytes on an allocation has pages of its own, which go back to the system: logits must stay below."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep up to 2 GB of freed memory for what is allocated next, for the rest of this process.

    Returns whether it does so now: not on other systems, nor where the environment sets up malloc itself.

    >>> kept = keep_freed_memory()  # once, before the first run
    """
    given = os.environ.get("GLIBC_TUNABLES", "") + "".join(name for name in os.environ if name.startswith("MALLOC_"))
    if "malloc" in given.lower():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc; Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED) and mallopt(M_TRIM_THRESHOLD, KEPT))
