"""The C library's heap, where memory on a CPU comes from. No torch."""

import ctypes
import functools
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Of `mallopt`, by malloc.h of the GNU C library."""
KEPT_BYTES = {M_TRIM_THRESHOLD: 1 << 30, M_MMAP_THRESHOLD: 1 << 30, M_TOP_PAD: 1 << 28}


@functools.cache
def keep_freed_memory() -> None:
    """What is freed stays with the process, up to a gibibyte at a time, where the C library is GNU's.

    Else a step may get the memory of large maps from the system page by page, to give it back and get it again: which
    does so depends on the luck of a process's heap. The two-layer network with skip connections of Bhatnagar et al., at
    batch 256, had 16,000 page faults a step, a quarter of its time. Whoever has set the heap by the environment
    (MALLOC_TRIM_THRESHOLD_ and others) has it as it was set.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, num_bytes in KEPT_BYTES.items():
            mallopt(parameter, num_bytes)
