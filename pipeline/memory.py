"""Freed memory is kept for the next step instead of going back to the system."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Tell glibc's malloc not to map and unmap every large tensor anew.

    A training step on the CPU frees and takes the same hundreds of megabytes again; keeping their
    pages saves about a tenth of a step, and much more where other processes press for memory
    (benchmarks/step.py measures it). Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)
