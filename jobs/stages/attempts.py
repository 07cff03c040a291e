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

    Once one photo of the shard is proven to crash, all others are tried too. BankError where they
    cannot be tried.
    """
    try:
        suspect = int(note.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return ()
    planned = {p.photo.image_id: p.photo.file for p in read_plan(plan)}
    command = [sys.executable, "-m", PROBE, str(plan), str(photos), json.dumps(options)]
    if suspect not in planned or not (crashes := list(_crashes(command, [suspect]))):
        return ()
    crashes += _crashes(command, [image_id for image_id in planned if image_id != suspect])
    return tuple(CrashingPhoto(image_id, planned[image_id], name) for image_id, name in crashes)


def _crashes(command: Sequence[str], image_ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Those over which a process of their own crashes, each with the signal's name."""
    rest = list(image_ids)
    while rest:
        ids = " ".join(map(str, rest))
        env = {**os.environ, "PYTHONPATH": search_path()}
        done = subprocess.run(command, input=ids, env=env, capture_output=True, text=True)
        if done.returncode == 0 or -done.returncode in FROM_OUTSIDE:
            return
        begun = done.stdout.split()
        if not begun:  # that no photo was tried is no proof that none crashes
            raise BankError(_not_started(done))
        if done.returncode > 0:
            return
        last = int(begun[-1])
        yield last, signal.Signals(-done.returncode).name
        rest = rest[rest.index(last) + 1 :]


def _not_started(probe: subprocess.CompletedProcess[str]) -> str:
    code = probe.returncode
    ending = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    last = (probe.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    return (
        f"an earlier attempt crashed, but its photos cannot be tried one by one: "
        f"`{sys.executable} -m {PROBE}` does not start ({ending}: {last}); mend that installation "
        f"and run the command again"
    )
