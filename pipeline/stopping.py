"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) in work that can be ended in good order."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_requests() -> Iterator[Sequence[signal.Signals]]:
    """The signal that asks this process to stop, once there is one; a second one ends it at once.

    Signals that are ignored (by nohup, say) stay so; nothing is caught outside the main thread.
    """
    received: list[signal.Signals] = []
    found = {number: signal.getsignal(number) for number in REQUESTS}
    # None: installed by other than Python, which could not put it back.
    before = {number: handler for number, handler in found.items() if handler is not None}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        restore()
        with suppress(OSError):  # print may not be called by a signal's handler
            os.write(2, b"\nstopping after this step; once more: at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield received
    finally:
        restore()
