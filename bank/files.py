"""Files that are either whole or not there, and their digests."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import lmdb
from safetensors import SafetensorError

# What libraries raise where a file cannot be written: LMDB, safetensors, and faiss the last.
WRITE_ERRORS = (OSError, lmdb.Error, SafetensorError, RuntimeError)
NUMBERS = {os.strerror(number): number for number in errno.errorcode}
# What a file system says of a call that it does not know.
UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP))
NO_FOLDERS = frozenset((errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM))
BLOCK = 1 << 20
PARTIAL = ".partial"  # how the names of what is not whole end


class FileDigest(NamedTuple):
    sha256: str  # 64 hex digits
    bytes: int


def file_digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(sha256, file.tell())


def canonical_json(value: Any) -> bytes:
    """One spelling per value, so that its digest means the value."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def json_digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def put_in_place(partial: Path, path: Path) -> None:
    """Give a finished file its name: its bytes reach the disk before its name does."""
    _sync(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
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


def os_error(error: Exception, path: Path) -> OSError | None:
    """What the system said, with its number and a name; None where it is no trouble with a file.

    Libraries keep only the system's words. numpy and LMDB do not even have these: of a write that
    went in part they know nothing but that, and LMDB calls it an input/output error.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        number = error.errno
    elif isinstance(error, OSError) and " requested and " in text:
        number = errno.EIO
    else:
        numbers = [number for words, number in NUMBERS.items() if words in text]
        if not numbers:
            return None
        number = numbers[0]
    words = os.strerror(number) + (" (is the disk full?)" if number == errno.EIO else "")
    return OSError(number, words, getattr(error, "filename", None) or os.fspath(path))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """OSError with number and name, whatever a library raises where `path` cannot be written."""
    try:
        yield
    except WRITE_ERRORS as error:
        cause = os_error(error, path)
        if cause is None:
            raise
        raise cause from error


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


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write to; the file takes its real name only when the `with` block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with writing(path):
            yield partial
            put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with written(path) as partial:
        partial.write_bytes(data)
