"""The folder in which a bank is being built: one build at a time, and nobody else's files."""

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from bank.errors import BankError
from bank.manifest import is_finished
from bank.receipts import WORK

KEPT = "what was finished is kept: run the command again when that is mended"
# A full or failing disk, a target that may not be written, a mount that is gone.
SITE_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENXIO", "ENODEV"),
        *("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)


@contextmanager
def building(bank: Path) -> Iterator[Path]:
    """Take the folder for this build; BankError where it is not ours to write into."""
    _check_ours(bank)
    try:
        (bank / WORK).mkdir(parents=True, exist_ok=True)
        with (bank / WORK / "lock").open("w") as lock:
            _take(lock.fileno(), bank)
            # Attempts of workers that were killed.
            shutil.rmtree(bank / WORK / "tmp", ignore_errors=True)
            yield bank.resolve()
    except lmdb.Error as error:
        raise BankError(f"cannot write patches into {bank}: {error}; {KEPT}") from error
    except OSError as error:
        if error.errno not in SITE_ERRORS:
            raise
        where = error.filename or bank
        raise BankError(f"cannot write {where}: {error.strerror}; {KEPT}") from error


def _check_ours(bank: Path) -> None:
    if bank.exists() and not bank.is_dir():
        raise BankError(f"--out {bank} is a file; name a folder")
    if bank.is_dir() and any(bank.iterdir()) and not (bank / WORK).is_dir():
        raise BankError(
            f"--out {bank} holds other files and no bank; name a folder that is new or empty"
        )


def _take(lock: int, bank: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BankError(
            f"another build is writing {bank}; wait for it, or name another --out"
        ) from error


def clear_work(bank: Path) -> None:
    """Plans, rows and receipts: of use until the manifest is there."""
    if is_finished(bank):
        shutil.rmtree(bank / WORK, ignore_errors=True)
