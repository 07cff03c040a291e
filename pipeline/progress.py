"""A progress bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY_S = 10.0


def progress(items: Iterable[T], what: str, total: int, unit: str = "it") -> Iterator[T]:
    """Pass `items` on and show how far they are; `total` is how many there will be."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            print(f"{what}: {done:,}/{total:,} {unit}, {now - start:.0f} s", file=sys.stderr)
    print(f"{what}: {done:,} {unit} in {time.monotonic() - start:.1f} s", file=sys.stderr)
