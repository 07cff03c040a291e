"""A command of the project, run by another in a process of its own."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from pipeline.options import QUIET
from pipeline.output import informs, log

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_command(module: str, *flags: object) -> None:
    """Run a command in a process of its own. Where it fails, exit with its exit code: it has
    printed its own message."""
    quiet = () if informs() else (QUIET,)
    arguments = ["-m", module, *(str(flag) for flag in flags), *quiet]
    log.info(f"$ python {shlex.join(arguments)}")
    code, stopped_by = wait_for([sys.executable, *arguments])
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    if code < 0:  # the command was killed and could print nothing
        print(f"error: {module} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        sys.exit(128 - code)
    if code > 0:
        sys.exit(code)


def wait_for(command: Sequence[str]) -> tuple[int, signal.Signals | None]:
    """A process's exit code, and the signal over which it was stopped, if this process got one.

    The process never outlives this one's Ctrl-C or SIGTERM. Ctrl-C in a terminal reaches both
    processes: the child has it blocked, so that only this process reports it.
    """
    received: list[signal.Signals] = []
    child: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        if child is not None:
            child.terminate() if len(received) == 1 else child.kill()

    replaced = [(s, signal.getsignal(s)) for s in STOPPING if signal.getsignal(s) != signal.SIG_IGN]
    for number, _ in replaced:
        signal.signal(number, stop)
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the child inherits it
        try:
            child = subprocess.Popen(command)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if received:  # before there was a child to stop
            child.terminate()
        code = child.wait()
    finally:
        for number, handler in replaced:
            signal.signal(number, handler)
    return code, received[0] if received else None
