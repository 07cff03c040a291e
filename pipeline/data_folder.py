"""A dataset's files by relative path, unpacked in a folder or inside the zips that lie in it."""

import errno
import functools
import hashlib
import lzma
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.errors import DatasetError
from pipeline.output import log

# What the system says where there is no such file, nor could be: of a link to itself, say.
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
SAYS_UTF_8, UNICODE_PATH = 0x800, 0x7075  # a flag of a zip's member, and a part of its extra field

# What unpacking raises for bytes that are not those that were packed.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


LARGE_BYTES = 50_000_000  # of an annotation file: that it is being read is said
MOST_BYTES = 20_000_000_000  # far more than the largest, which is COCO's: 1.2 GB
MACOS = "__MACOSX/"  # what its packer adds of its own to a zip


class DataFolder:
    """Reads `a/b.jpg` from FOLDER/a/b.jpg, or else from whichever FOLDER/*.zip has that member.

    Holds a path and no handle, so it can be sent to any worker.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], "DataFolder"], tuple[Path]]:
        return DataFolder, (self.path,)

    def __str__(self) -> str:
        return str(self.path)

    def has(self, file: str) -> bool:
        status = self._status(file)
        plain = status is not None and stat.S_ISREG(status.st_mode)
        return plain or self._archive_of(file) is not None

    def has_folder(self, folder: str) -> bool:
        here = any((self.path / form).is_dir() for form in _forms(folder))
        return here or any(_composed(folder) in a.folders for a in self._archives)

    def has_entries(self, folder: str) -> bool:
        """Whether it is there and not empty, as it is where a disk is not mounted."""
        here = any(_has_entries(self.path / form) for form in _forms(folder))
        return here or any(_composed(folder) in a.folders for a in self._archives)

    def has_broken_link(self, folder: str) -> bool:
        """Whether the folder or one that it lies in is a link that leads nowhere."""
        forms = map(PurePosixPath, _forms(folder))
        paths = (self.path / part for form in forms for part in (form, *form.parents))
        return any(path.is_symlink() and not path.exists() for path in paths)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Names of the files right in `folder` that end in `suffix`, sorted."""
        here = self._path(folder)
        names = {p.name for p in here.iterdir() if p.is_file()} if here.is_dir() else set()
        for archive in self._archives:
            members = (PurePosixPath(member) for member in archive.members)
            names |= {m.name for m in members if str(m.parent) == _composed(folder)}
        return sorted(name for name in names if name.endswith(suffix))

    def has_anything(self) -> bool:
        return any(not path.name.startswith(".") for path in self.path.iterdir())

    def find(self, suffix: str, depth: int = 3) -> list[str]:
        """Relative paths of the files that end in `suffix`, at most `depth` deep, sorted."""
        patterns = ("/".join(["*"] * n) + suffix for n in range(1, depth + 1))
        found = {str(p.relative_to(self.path)) for g in patterns for p in self.path.glob(g)}
        for archive in self._archives:
            found |= {m for m in archive.members if m.endswith(suffix) and m.count("/") < depth}
        return sorted(found)

    def where(self, file: str) -> str:
        """How a message names the file: with the zip that holds it, if one does."""
        if self._status(file) is None and (archive := self._archive_of(file)):
            return f"{archive.path}, {file}"
        return str(self._path(file))

    def size(self, file: str) -> int:
        """Bytes, unpacked; OSError as `open`."""
        return self._stamp(file)[0]

    def stamp(self, file: str) -> tuple[int, int] | None:
        """Size, and time or checksum: cheap to look at, and both change when it is mended. None
        where the file cannot be looked at."""
        try:
            return self._stamp(file)
        except OSError:
            return None

    def _path(self, file: str) -> Path:
        """Of the unpacked file, in the form of Unicode in which its name is there."""
        first, *others = (self.path / form for form in _forms(file))
        if not others or _status(first) is not None:
            return first
        return next((path for path in others if _status(path) is not None), first)

    def _status(self, file: str) -> os.stat_result | None:
        """Of the unpacked file; None where there is none."""
        return _status(self._path(file))

    def _stamp(self, file: str) -> tuple[int, int]:
        if (status := self._status(file)) is None:
            if archive := self._archive_of(file):
                member = archive.members[_composed(file)]
                return member.file_size, member.CRC
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / file))
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            # Opening a pipe waits for a writer, reading a device may never end.
            raise NoPlainFileError(errno.EINVAL, "it is no plain file", str(self.path / file))
        return status.st_size, status.st_mtime_ns

    @contextmanager
    def open(self, file: str) -> Iterator[BinaryIO]:
        """OSError where it cannot be read, FileNotFoundError where it is not there,
        DamagedMemberError where a zip holds it damaged."""
        self._stamp(file)  # looks before it waits for a pipe
        archive = self._archive_of(file) if self._status(file) is None else None
        if archive is None:
            with self._path(file).open("rb") as opened:
                yield opened
            return
        try:
            with archive.open(file) as opened:
                yield opened
        except (*DAMAGE, OSError) as error:
            # bz2 says only that a stream is invalid, as an OSError without a number.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedMemberError(
                f"{archive.path}, {file} is damaged ({error}); download the zip again"
            ) from error

    def read(self, file: str) -> bytes:
        """Errors as `open`."""
        with self.open(file) as opened:
            return opened.read()

    def read_input(self, file: str, inputs: dict[str, str], most_bytes: int = MOST_BYTES) -> bytes:
        """An annotation file whole, its SHA-256 noted in `inputs`; DatasetError where it cannot
        be read or is larger than any such file."""
        try:
            if (size := self.size(file)) > most_bytes:
                raise DatasetError(
                    f"{self.where(file)} has {size:,} bytes, more than {most_bytes:,}: this is no "
                    f"file of that kind; download it again"
                )
            if size > LARGE_BYTES:
                log.info(f"reading {self.where(file)}, {size / 1e6:,.0f} MB")
            data = self.read(file)
        except OSError as error:
            reason = error.strerror or error
            raise DatasetError(f"{self.where(file)} cannot be read: {reason}") from error
        inputs[file] = hashlib.sha256(data).hexdigest()
        return data

    @cached_property
    def _archives(self) -> list["Archive"]:
        paths = sorted(p for p in self.path.glob("*.zip") if p.is_file())
        return [open_archive(path, path.stat().st_mtime_ns) for path in paths]

    def _archive_of(self, file: str) -> "Archive | None":
        """The first zip that has it; DatasetError where another has other bytes by that name."""
        name = _composed(file)
        holding = [archive for archive in self._archives if name in archive.members]
        for other in holding[1:]:
            first, second = (a.members[name] for a in (holding[0], other))
            if (first.file_size, first.CRC) != (second.file_size, second.CRC):
                raise DatasetError(
                    f"{holding[0].path} and {other.path.name} both hold {file}, but not the same: "
                    f"one would hide the other; move one zip to a folder of its own, or unpack "
                    f"both and give one of the files another name"
                )
        return holding[0] if holding else None


def _composed(name: str) -> str:
    """With a letter and its accents as one character: the form that most systems write. macOS and
    the zips it makes take them apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _forms(name: str) -> list[str]:
    """The name as it is given, and in the other forms that show as the same."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys((name, _composed(name), unicodedata.normalize("NFD", name))))


def _has_entries(path: Path) -> bool:
    try:
        return path.is_dir() and any(path.iterdir())
    except PermissionError:  # files whose names are known may be read all the same
        return True


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


class NoPlainFileError(OSError):
    """A pipe, a socket or a device where a file should be."""


class DamagedMemberError(DatasetError):
    """One file of a zip whose bytes are not those that were packed."""


def _top_folder(members: list[str]) -> str:
    """`mine/`, where a whole dataset was packed as a folder: its files count as right in the zip.

    It is known by the annotations in it; in COCO's zips of photos the top folder means something.
    """
    tops = {member.split("/")[0] + "/" for member in members}
    top = tops.pop() if len(tops) == 1 else ""
    return top if any(m.startswith(f"{top}annotations/") for m in members) else ""


class Archive:
    """An opened zip and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (*DAMAGE, NotImplementedError, OSError) as error:
            raise DatasetError(
                f"{path} is not a whole zip file ({error}); download it again, or move it away "
                f"if it does not belong to the dataset"
            ) from error
        files = [m for m in self._zip.infolist() if m.filename and not m.is_dir()]
        files = [m for m in files if not m.filename.startswith(MACOS)]
        by_name = {_composed(_name(m)): m for m in files}
        top = _top_folder(list(by_name))
        self.members = {name.removeprefix(top): m for name, m in by_name.items()}
        parents = {PurePosixPath(name).parent for name in self.members}
        self.folders = {str(p) for parent in parents for p in (parent, *parent.parents)}

    def open(self, member: str) -> BinaryIO:
        try:
            return self._zip.open(self.members[_composed(member)])  # type: ignore[return-value]
        except (NotImplementedError, RuntimeError) as error:  # a method unknown, or encrypted
            raise DatasetError(
                f"{self.path}, {member} cannot be unpacked ({error}); unpack the zip by hand"
            ) from error


def _name(member: zipfile.ZipInfo) -> str:
    """A member's name where the zip does not say that it is UTF-8, as macOS and older zippers
    write it: by its own record of it, or as UTF-8 if it can be that."""
    name = member.filename
    if name.isascii() or member.flag_bits & SAYS_UTF_8:
        return name
    written = name.encode("cp437")  # as zipfile has read it
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == UNICODE_PATH and extra[5:9] == struct.pack("<I", zlib.crc32(written)):
            written = extra[9 : 4 + size]
        extra = extra[4 + size :]
    try:
        return written.decode()
    except UnicodeDecodeError:
        return name


@functools.cache
def open_archive(path: Path, changed_ns: int) -> Archive:
    """This process's one handle on a zip: its list of members takes a second to read."""
    return Archive(path)


# A handle's place in the file is shared with a fork's parent: a child opens its own.
os.register_at_fork(after_in_child=open_archive.cache_clear)
