"""A progress bar in a terminal, plain lines elsewhere.

A worker process shows nothing: it reports how far it is (`reporting`), and the process that leads
shows that as a bar of its own.
"""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Self, TypeVar

from tqdm import tqdm

from pipeline.output import informs
from pipeline.wording import counted

T = TypeVar("T")

LINE_EVERY_S = 10.0
REPORT_EVERY_S = 1.0


class Report(NamedTuple):
    """How far some work is."""

    what: str
    done: int
    total: int
    unit: str


_report: ContextVar[Callable[[Report], None] | None] = ContextVar("report", default=None)


@contextmanager
def reporting(to: Callable[[Report], None]) -> Iterator[None]:
    """Inside, `progress` shows nothing and reports to this function instead: at the start, about
    once a second, and at the end."""
    token = _report.set(to)
    try:
        yield
    finally:
        _report.reset(token)


class Bar:
    """How far some work is: a bar in a terminal; elsewhere a line every ten seconds and a last one.

    done   how many of `total` were done before
    began  by time.monotonic(); default: now
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "item",
        done: int = 0,
        began: float | None = None,
    ) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._before = done
        self._note: Callable[[], str] = str
        self._shown = informs()
        self._last = time.monotonic() if self._shown else 0.0
        self._start = self._last if began is None else began
        self._lines = self._shown and not sys.stderr.isatty()
        self._tqdm = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit,
            dynamic_ncols=True,
            disable=self._lines or not self._shown,
        )
        if not self._tqdm.disable:
            self._tqdm.start_t -= self._last - self._start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(ended=kind is None)

    def advance(self, number: int = 1, note: Callable[[], str] = str) -> None:
        """`note` gives what to show beside the count."""
        self.done += number
        self._note = note
        if not self._lines:
            if not self._tqdm.disable:
                self._tqdm.set_postfix_str(note(), refresh=False)
            self._tqdm.update(number)
        elif self.done < self.total and (now := time.monotonic()) - self._last >= LINE_EVERY_S:
            self._last = now
            how_far = f"{self.done:,}/{counted(self.total, self.unit)}"
            self._print(f"{self.what}: {how_far}, {self._times(now - self._start)}")

    def reach(self, done: int) -> None:
        """Advance to so many done."""
        self.advance(done - self.done)

    def close(self, *, ended: bool = True) -> None:
        self._tqdm.close()
        if self._lines and ended:
            seconds = time.monotonic() - self._start
            new = f", the last {self.done - self._before:,}" if self._before else ""
            self._print(f"{self.what}: {counted(self.done, self.unit)}{new} in {seconds:.1f} s")

    def _times(self, seconds: float) -> str:
        left = seconds * (self.total - self.done) / max(1, self.done - self._before)
        return f"{seconds:.0f} s" + (f", about {left:.0f} s left" if left >= 1 else "")

    def _print(self, line: str) -> None:
        print(", ".join(filter(None, (line, self._note()))), file=sys.stderr)


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
    if (report := _report.get()) is not None:
        report(told := Report(what, done, total, unit))
        last = time.monotonic()
        for item in items:
            yield item
            done += size(item) if size else 1
            if (now := time.monotonic()) - last >= REPORT_EVERY_S:
                last = now
                report(told := Report(what, done, total, unit))
        if told.done != done:  # the end is told once
            report(Report(what, done, total, unit))
        return
    with Bar(what, total, unit, done) as bar:
        for item in items:
            yield item
            bar.advance(size(item) if size else 1, note)
