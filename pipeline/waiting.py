"""Threads that have nothing to do sleep, and leave the machine's cores to others."""

import os

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which the user has decided


def wait_passively() -> None:
    """Tell the OpenMP runtimes of torch and FAISS, before they are loaded, not to spin.

    A thread that waits for the others of its team keeps its core busy by default, also where these
    wait for that very core: beside busy processes a demo's training step took over 25 s, and 3 to
    5 s when waiting passively (benchmarks/recipes.py). Losses are the same. The runtimes read this
    once, as they load; child processes inherit it.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
