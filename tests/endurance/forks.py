"""A command in a fork of this process, which has imported it: that saves its start. It tells what
it is at, so that it can be killed there."""

import contextlib
import os
import resource
import select
import signal
import struct
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_S = 120.0  # beyond, a command hangs
NEXT = "next"
# What is told of a stage besides its number: how many tasks it has, or
JOINS, IS_DONE = 254, 255
EVENT = struct.Struct("<BBq")  # stage, what, bytes of the bank's disk that are used


class BadEndError(Exception):
    """What did not end as it must."""


class Event(NamedTuple):
    """What a command told of a stage, and when."""

    stage: str
    what: int
    when: float
    used: int = 0  # bytes of the bank's disk


class Fork:
    """A command in a process group of its own; it announces its stages.

    act         the command itself, which exits; it writes EVENTs to the pipe that it is given
    folder      has its TMPDIR, `scratch`
    stages      their names, in the order of their numbers
    begins_in   the stage before the first that is announced
    together    stages of which several may go on at a time
    log         the file for what it prints
    """

    def __init__(
        self,
        act: Callable[[int], None],
        folder: Path,
        stages: Sequence[str],
        begins_in: str,
        together: Collection[str] = (),
        log: str = "log",
    ) -> None:
        self.log = folder / log
        self.stages, self.together = stages, together
        self.stage = begins_in  # that began last
        self.under_way = set[str]()
        self.status: int | None = None
        self.events, announce = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.events)
            _become(act, folder / "scratch", self.log, announce)
        os.close(announce)

    def follow(self, stage: str = "") -> list[Event]:
        """What it tells, until `stage` begins (NEXT: anything) or the command ends."""
        told = []
        while self.stage != stage and (event := self._hear(PATIENCE_S)):
            told.append(event)
            if stage == NEXT:
                break
        return told

    def is_in(self, stage: str) -> bool:
        """Of stages that go on at the same time it is in all."""
        while self._hear(0):
            pass
        return stage in {self.stage, *self.under_way}

    def _hear(self, seconds: float) -> Event | None:
        """What it tells within that time."""
        if not select.select([self.events], [], [], seconds)[0]:
            if seconds:
                raise self.hanging()
            return None
        if not (told := os.read(self.events, EVENT.size)):
            return None
        number, what, used = EVENT.unpack(told)
        event = Event(self.stages[number], what, time.monotonic(), used)
        if event.what == IS_DONE:
            self.under_way.discard(event.stage)
        elif event.what != JOINS:
            self.stage = event.stage
            self.under_way |= {event.stage} if event.stage in self.together else set()
        return event

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self) -> int:
        """Its exit status, negative for a signal; nothing that it started outlives it."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.has_ended() or is_group(self.pid):
            if time.monotonic() > deadline:
                raise self.hanging()
            time.sleep(0.002)
        os.close(self.events)
        assert self.status is not None
        return self.status

    def hanging(self) -> BadEndError:
        os.killpg(self.pid, signal.SIGKILL)
        return BadEndError(f"hangs in {self.stage}: {self.said()}")

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:]


def is_group(group: int) -> bool:
    """Whether anyone in it lives: the dead of a dead parent may never be buried."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def _become(act: Callable[[int], None], scratch: Path, log: Path, announce: int) -> None:
    """In the fork: the command, as from a command line."""
    status = 70
    try:
        os.setsid()
        with log.open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        act(announce)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def announcing(tell: Callable[[], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, told of when it is called."""

    def announced(*args: Any, **kwargs: Any) -> Any:
        tell()
        return function(*args, **kwargs)

    return announced


def children(pid: int) -> list[int]:
    """Of all its threads."""
    pids = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += map(int, listed.read_text().split())
    return pids


def show(module: str, options: Namespace, seconds: float, table: str) -> None:
    """Print a tally under the command that gave it, and write it to `--out`."""
    how = f"`python -m {module} --count {options.count} --seed {options.seed}`"
    text = f"{how}: {seconds:.0f} s\n\n{table}\n"
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")
