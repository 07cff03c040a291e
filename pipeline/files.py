"""Files and folders that are either whole or not there."""

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO

# What a file system says of a call that it does not know.
UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
NO_FOLDERS = frozenset((errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM))
# Of file systems that have no links, or not between these two places.
NO_LINKS = UNSUPPORTED | {errno.EXDEV, errno.EPERM, errno.EMLINK}
NOT_EMPTY = frozenset((errno.ENOTEMPTY, errno.EEXIST))
BLOCK = 1 << 20
PARTIAL = ".partial"  # how the names of what is not whole end
# What reading raises where a file is not as it was written: by the disk, and by numpy and json of
# other bytes. MemoryError: for a size that is none; SyntaxError, TokenError: for an array's header.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TokenError,
)


def write_bytes(path: Path, data: bytes) -> None:
    with written(path) as partial:
        partial.write_bytes(data)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes its real name only when the `with` block ends well.

    Several processes, of any machine, may write one file: each has a path of its own.
    """
    partial = _partial_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            put_in_place(partial, path)
    finally:
        with suppress(OSError):  # why it could not be written says more
            partial.unlink()


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the name `path` only when the `with` block ends well, and
    the folder that was there before it goes.

    Several processes, of any machine, may write one folder: each has one of its own, and the first
    that is done is kept.
    """
    partial, before = _partial_name(path), _number(path)
    try:
        with writing(path):
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                sync(file)
            with _aside(path, before):
                put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _aside(path: Path, before: tuple[int, int] | None) -> Iterator[None]:
    """Inside, the name is free for another folder, unless another process was faster: `before` is
    the folder to make room of."""
    old = path.rename(_partial_name(path)) if before and before == _number(path) else None
    try:
        yield
    except OSError as error:
        if old is not None:
            with suppress(OSError):
                old.rename(path)
        if error.errno not in NOT_EMPTY:
            raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """What is half removed has another name."""
    partial = path.rename(_partial_name(path))
    shutil.rmtree(partial, ignore_errors=True)


def remove_partial(path: Path) -> None:
    """What killed processes have left of a folder, for a caller that no other process writes."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)


def _partial_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def _number(path: Path) -> tuple[int, int] | None:
    """By which one folder of a name is told from the next; None where there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def put_in_place(partial: Path, path: Path) -> None:
    """Give what is finished its name: its bytes reach the disk before its name does."""
    sync(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)
    sync(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under another name, without a second copy where the file system has links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Where the file system can: some cannot sync, or even open, a folder (SMB, some FUSE)."""
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in UNSUPPORTED and not (error.errno in NO_FOLDERS and path.is_dir()):
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError of the system comes with its number, its words and a name: `path` where it has
    none, or that of what is not whole."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        named = error.filename is not None and PARTIAL not in os.fsdecode(error.filename)
        name = error.filename if named else os.fspath(path)
        raise OSError(error.errno, os.strerror(error.errno), name) from error


def reserve(file: IO[bytes], size: int) -> None:
    """Make the file `size` bytes long, all of them on the disk: OSError where it is full. To write
    into the holes of a mapped file would then crash the process (SIGBUS)."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        file.truncate(size)
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        for start in range(0, size, BLOCK):
            file.write(bytes(min(BLOCK, size - start)))
        file.flush()
        file.seek(0)
