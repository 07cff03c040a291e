"""Photos that crash the process that decodes them: found by trial, and named.

A decoder that crashes takes its process along, and nothing is left to raise an error. So a worker
that cuts a shard writes down which photo it is cutting. Where the next attempt finds such a note,
it tries that photo in a process of its own. Only a photo that crashes this process too is named, as
a worker may have been killed from outside.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bank.errors import BankError
from jobs.stages.project import search_path
from pipeline.plan import read_plan

PROBE = "jobs.stages.probe"  # the module that tries photos
# Sent by people and batch systems, not by decoders.
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CrashingPhoto(NamedTuple):
    """A photo over which a process of its own crashed."""

    image_id: int
    file: str
    signal: str  # e.g. "SIGSEGV"


@contextmanager
def attempt(note: Path) -> Iterator[Callable[[int], None]]:
    """A function to be called with the image id of each photo before it is read."""
    note.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield lambda image_id: _write_down(descriptor, image_id)
    finally:
        os.close(descriptor)
        note.unlink(missing_ok=True)


def _write_down(descriptor: int, image_id: int) -> None:
    os.pwrite(descriptor, b"%-20d" % image_id, 0)


def crashing_photos(
    note: Path, plan: Path, photos: Path, options: Mapping[str, Any]
) -> tuple[CrashingPhoto, ...]:
    """The photos proven to crash; none where no note was left, or where the photo that it names
    does not crash again.

    Once one photo of the shard is proven to crash, all others are tried too, as far as they can be.
    BankError where not even the first can be tried.
    """
    try:
        suspect = int(note.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return ()
    planned = {p.photo.image_id: p.photo.file for p in read_plan(plan)}
    if suspect not in planned:
        return ()
    command = [sys.executable, "-m", PROBE, str(plan), str(photos), json.dumps(options)]
    first = _probe(command, [suspect])
    if first.failed and not first.begun:  # that it was not tried is no proof that it does not crash
        raise BankError(_not_tried(first))
    if not first.crashed:
        return ()
    others = [image_id for image_id in planned if image_id != suspect]
    crashes = [(suspect, first.signal_name), *_crashes(command, others)]
    return tuple(CrashingPhoto(image_id, planned[image_id], name) for image_id, name in crashes)


def _crashes(command: Sequence[str], image_ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Those over which a process of their own crashes, each with the signal's name."""
    rest = list(image_ids)
    while rest:
        probe = _probe(command, rest)
        if not probe.crashed:
            return
        last = probe.begun[-1]
        yield last, probe.signal_name
        rest = rest[rest.index(last) + 1 :]


class _Probe(NamedTuple):
    """How a process ended that tried photos one after the other."""

    begun: tuple[int, ...]  # image ids of those that it began
    code: int  # its exit code; -n where signal n ended it
    last_line: str  # of what it printed about errors

    @property
    def failed(self) -> bool:
        return self.code != 0 and -self.code not in FROM_OUTSIDE

    @property
    def crashed(self) -> bool:
        """Over the last photo that it began."""
        return self.code < 0 and self.failed and bool(self.begun)

    @property
    def signal_name(self) -> str:
        return signal.Signals(-self.code).name


def _probe(command: Sequence[str], image_ids: Sequence[int]) -> _Probe:
    ids = " ".join(map(str, image_ids))
    env = {**os.environ, "PYTHONPATH": search_path()}
    done = subprocess.run(command, input=ids, env=env, capture_output=True, text=True)
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return _Probe(tuple(map(int, done.stdout.split())), done.returncode, last)


def _not_tried(probe: _Probe) -> str:
    tried = "an earlier attempt crashed, but its photos cannot be tried one by one"
    command = f"`{sys.executable} -m {PROBE}`"
    if probe.code > 0:
        return (
            f"{tried}: {command} does not start (exit code {probe.code}: {probe.last_line}); mend "
            f"that installation and run the command again"
        )
    return (
        f"{tried}: {command} was killed before its first photo ({probe.signal_name}: "
        f"{probe.last_line}); SIGKILL mostly means too little memory, other signals a package "
        f"that crashes when it is imported: mend that and run the command again"
    )
