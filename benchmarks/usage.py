"""What processes hold in memory, and what they take of the processors, while something runs."""

import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LOOK_S = 0.02
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Of one process, or of several: their processor time together, the memory of the largest."""

    cpu_s: float = 0.0
    own_mb: float = 0.0  # peak of RssAnon: what is not mapped from files
    mapped_mb: float = 0.0  # peak with what is, which the system may take back (VmHWM)


@contextmanager
def watched(pids: Collection[int]) -> Iterator[Callable[[], Usage]]:
    """A function that gives the usage of processes since the `with` block began."""
    own = dict.fromkeys(pids, 0.0)
    over = threading.Event()
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew
    cpu_before = sum(map(_cpu_s, pids))

    def look() -> None:
        for pid in pids:
            own[pid] = max(own[pid], _status_mb("RssAnon", pid))

    def keep_looking() -> None:
        while not over.wait(LOOK_S):
            look()

    def usage() -> Usage:
        look()
        mapped = [_status_mb("VmHWM", pid) for pid in pids]
        cpu_s = sum(map(_cpu_s, pids)) - cpu_before
        return Usage(cpu_s, max(own.values(), default=0.0), max(mapped, default=0.0))

    looking = threading.Thread(target=keep_looking)
    looking.start()
    try:
        yield usage
    finally:
        over.set()
        looking.join()


def _status_mb(name: str, pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e6


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * TICK_S
