"""A progress bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from tqdm import tqdm

from pipeline.output import informs
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
    done: int = 0,
    note: Callable[[], str] = str,
) -> Generator[T]:
    """Pass `items` on and show how far they are; `total` is how many there will be.

    unit  the singular
    size  an item counts for so many units: `progress(blocks, ..., "patch", size=len)`
    done  how many of `total` were done before
    note  what to show beside the count
    """
    if not informs():
        yield from items
        return
    start = last = time.monotonic()
    before, lines = done, not sys.stderr.isatty()
    with tqdm(
        desc=what, total=total, initial=done, unit=unit, dynamic_ncols=True, disable=lines
    ) as bar:
        for item in items:
            yield item
            number = size(item) if size else 1
            done += number
            if not lines:
                bar.set_postfix_str(note(), refresh=False)
                bar.update(number)
            elif (now := time.monotonic()) - last >= LINE_EVERY_S:
                last = now
                _print(f"{what}: {done:,}/{counted(total, unit)}, {now - start:.0f} s", note())
    if lines:
        seconds = time.monotonic() - start
        _print(f"{what}: {counted(done - before, unit)} in {seconds:.1f} s", note())


def _print(*parts: str) -> None:
    print(", ".join(filter(None, parts)), file=sys.stderr)
