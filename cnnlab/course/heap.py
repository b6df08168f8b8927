"""Let the process keep the memory that one batch frees, so that the next one can use it."""

import ctypes
import os
import sys


# From glibc's malloc.h: how much free memory at the end of the heap is given back, and from which
# size on a block is taken from the kernel and given back at once.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SETTINGS = {M_TRIM_THRESHOLD: 2**30, M_MMAP_THRESHOLD: 2**29}
OFF = ("0", "off", "no", "false")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in the process instead of giving it back to the kernel.

    Each training step frees its activations and takes as much again. By default every large block
    goes back to the kernel, which must fill it with zeros page by page before the next step gets
    it. Kept blocks save that time. The price is that the memory of the process stays at its peak.
    No result changes.

    Nothing happens on other systems, or if the environment has `CNNLAB_MALLOC=0` or settings of its
    own (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, another allocator in `LD_PRELOAD`).

    Returns:
        Whether it was done.

    >>> keep_freed_memory() in (True, False)
    True
    """
    own = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES")
    switched_off = os.environ.get("CNNLAB_MALLOC", "").strip().lower() in OFF
    if sys.platform != "linux" or switched_off or any(os.environ.get(name) for name in own):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all(mallopt(name, size) == 1 for name, size in SETTINGS.items())
