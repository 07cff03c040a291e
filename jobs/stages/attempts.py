"""Photos that kill the process that decodes them: found, and named, without a guess.

A decoder that crashes takes its process along, and nothing is left to raise an error. So whoever
cuts a shard writes down which photo it has in hand. Where the next attempt finds such a note, it
tries that photo in a process of its own; only a photo that kills this one too is accused, as a
worker may have been killed from outside.
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

from pipeline.plan import read_plan

PROJECT = Path(__file__).parents[2]
# Sent by people and batch systems, not by decoders.
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DeadlyPhoto(NamedTuple):
    """A photo over which a process of its own died."""

    image_id: int
    file: str
    signal: str  # e.g. "SIGSEGV"


@contextmanager
def attempt(note: Path) -> Iterator[Callable[[int], None]]:
    """A function to be told the image id of each photo before it is touched."""
    note.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield lambda image_id: _write_down(descriptor, image_id)
    finally:
        os.close(descriptor)
        note.unlink(missing_ok=True)


def _write_down(descriptor: int, image_id: int) -> None:
    os.pwrite(descriptor, b"%-20d" % image_id, 0)


def deadly_photos(
    note: Path, plan: Path, photos: Path, recipe: Mapping[str, Any]
) -> tuple[DeadlyPhoto, ...]:
    """What an attempt that left its note died of: none where there is no note, or no proof.

    Once one photo of the shard is proven deadly all others are tried too.
    """
    try:
        suspect = int(note.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return ()
    planned = {p.photo.image_id: p.photo.file for p in read_plan(plan)}
    command = [sys.executable, "-m", "jobs.stages.probe", str(plan), str(photos)]
    command.append(json.dumps(recipe))
    if suspect not in planned or not (found := list(_tried(command, [suspect]))):
        return ()
    found += _tried(command, [image_id for image_id in planned if image_id != suspect])
    return tuple(DeadlyPhoto(image_id, planned[image_id], name) for image_id, name in found)


def _tried(command: Sequence[str], image_ids: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Those over which a process of their own dies, each with the signal's name."""
    rest = list(image_ids)
    while rest:
        ids = " ".join(map(str, rest))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *_search_path()])}
        done = subprocess.run(command, input=ids, env=env, capture_output=True, text=True)
        begun = done.stdout.split()
        if done.returncode >= 0 or -done.returncode in FROM_OUTSIDE or not begun:
            return
        last = int(begun[-1])
        yield last, signal.Signals(-done.returncode).name
        rest = rest[rest.index(last) + 1 :]


def _search_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
