"""What the person at the keyboard can mend: one clear line, exit code 1, no traceback."""

import errno
import re
import signal
import sys
from collections.abc import Callable
from difflib import get_close_matches

# A full or failing disk, a place that may not be written, a mount that is gone.
DISK_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENXIO", "ENODEV"),
        *("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)
# A file where a folder should be, or a folder where a file should be.
IN_THE_WAY = frozenset((errno.EEXIST, errno.ENOTDIR, errno.EISDIR))
NO_HANDLES = frozenset((errno.EMFILE, errno.ENFILE))
MORE_HANDLES = "allow more open files, `ulimit -n 4096`"


class UserError(Exception):
    """Says what is wrong (with the value), where, and what to do."""


class Stopped(KeyboardInterrupt):
    """Work that a signal ended in good order; says what was kept, and how to go on."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.number = number


class DatasetError(UserError):
    """Annotations or photos that cannot be used as they are."""


def suggestion(name: str, known: list[str]) -> str:
    """A hint for an unknown name: `did you mean 'boat' or 'boot'?`, or some of the known ones.

    A name's words count too: 'skyy' is near 'sky-other'.
    """
    words = {word: full for full in reversed(known) for word in re.split(r"[ _-]", full)}
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    close += [words[word] for word in get_close_matches(name, list(words), n=3, cutoff=0.6)]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in list(dict.fromkeys(close))[:3]) + "?"
    shown = ", ".join(known[:20])
    return f"known are {shown}{', ...' if len(known) > 20 else ''}"


def exit_code(job: Callable[[], None]) -> int:
    """Run a command: 0 when it ends well, 1 with one line where the user can mend it."""
    try:
        job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except _no_memory() as error:
        reason = str(error).partition("\n")[0] or "none is left"
        print(f"error: too little memory: {reason}; use smaller batches", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in DISK_ERRORS | IN_THE_WAY | NO_HANDLES:
            raise
        print(f"error: {_of_the_system(error)}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept: run the command again", file=sys.stderr)
        return 130
    return 0


def _no_memory() -> tuple[type[Exception], ...]:
    """What says so: Python and numpy, and torch on a GPU where it is loaded."""
    torch = sys.modules.get("torch")
    return (MemoryError, torch.OutOfMemoryError) if torch else (MemoryError,)


def _of_the_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in NO_HANDLES:
        mend = f"{MORE_HANDLES}, and run the command again"
    elif error.errno in IN_THE_WAY:
        mend = "move it away, or name another"
    else:
        mend = "mend this, or name another place, and run the command again"
    return f"{where}{error.strerror}; {mend}"
