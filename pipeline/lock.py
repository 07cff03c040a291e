"""One process at a time writes a folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from pipeline.files import UNSUPPORTED
from pipeline.output import log

# Of Lustre mounted without flock, NFS without its lock daemon, some FUSE.
NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}

_locked: WeakSet[IO[Any]] = WeakSet()


def lock(file: IO[Any], folder: Path) -> bool:
    """Lock an open file of the folder for as long as this process has it open; False where another
    process has locked it. On a file system without locks a note says so, and it is True."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            f"note: {folder} lies on a file system without locks ({error.strerror}): see to it "
            f"that nothing else writes it at the same time"
        )
    _locked.add(file)
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """One process at a time is inside; others wait, and go on when it ends or dies. On a file
    system without locks nobody waits, and what is given is False."""
    with path.open("w") as file:
        _locked.add(file)
        alone = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            alone = False
        yield alone


def _release() -> None:
    for file in _locked:
        file.close()


# A forked process (a loader's) would hold the locks for as long as it lives.
os.register_at_fork(after_in_child=_release)
