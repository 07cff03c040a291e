"""How long each part of a measurement takes, and how much memory the process then has."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Costs:
    """Seconds by part, and the most memory that the process had during it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, int] = {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Counts what happens inside to this part."""
        _forget_peak()
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        self.peak_mb[part] = max(self.peak_mb.get(part, 0), _peak_mb())

    def to_json(self) -> dict[str, dict[str, float]]:
        return {
            part: {"seconds": round(seconds, 2), "process_peak_mb": self.peak_mb[part]}
            for part, seconds in self.seconds.items()
        }


def _forget_peak() -> None:
    """Linux begins to measure the peak anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> int:
    """Of the process since then; 0 where the system does not tell."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1000
    return 0
