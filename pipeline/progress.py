"""A progress bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from pipeline.wording import counted

T = TypeVar("T")

LINE_EVERY_S = 10.0


def progress(
    items: Iterable[T],
    what: str,
    total: int,
    unit: str = "item",
    *,
    size: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Pass `items` on and show how far they are; `total` is how many there will be.

    unit    the singular

    With `size`, an item counts for so many units: `progress(blocks, ..., "patch", size=len)`.
    """
    if sys.stderr.isatty():
        yield from _bar(items, what, total, unit, size)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item) if size else 1
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            shown = f"{done:,}/{counted(total, unit)}"
            print(f"{what}: {shown}, {now - start:.0f} s", file=sys.stderr)
    seconds = time.monotonic() - start
    print(f"{what}: {counted(done, unit)} in {seconds:.1f} s", file=sys.stderr)


def _bar(
    items: Iterable[T], what: str, total: int, unit: str, size: Callable[[T], int] | None
) -> Iterator[T]:
    with tqdm(desc=what, total=total, unit=unit, dynamic_ncols=True) as bar:
        for item in items:
            yield item
            bar.update(size(item) if size else 1)
