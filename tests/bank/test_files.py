"""Files on file systems that can do less than others."""

import errno
import os
import stat

import pytest

from bank.files import reserve, write_bytes


def refusing(monkeypatch, number, *, folders):
    """fsync fails for folders, or for files."""
    sync = os.fsync

    def fsync(opened):
        if stat.S_ISDIR(os.fstat(opened).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        sync(opened)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES])
def test_a_folder_that_cannot_be_synced_takes_files_all_the_same(tmp_path, monkeypatch, number):
    refusing(monkeypatch, number, folders=True)
    write_bytes(tmp_path / "new/file", b"bytes")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert (tmp_path / "new/file").read_bytes() == b"bytes"


@pytest.mark.parametrize("folders", [True, False])
def test_a_disk_that_fails_when_it_is_synced_is_an_error(tmp_path, monkeypatch, folders):
    refusing(monkeypatch, errno.EIO, folders=folders)
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(tmp_path / "file", b"bytes")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_room_is_reserved_where_the_file_system_can_only_be_written_to(
    tmp_path, monkeypatch, number
):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused, raising=False)
    with (tmp_path / "file").open("wb") as file:
        reserve(file, 3_000_001)
        file.write(b"start")
    made = (tmp_path / "file").read_bytes()
    assert (len(made), made[:5], any(made[5:])) == (3_000_001, b"start", False)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refused, raising=False)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="No space left"):
        reserve(file, 3_000_001)
    assert (tmp_path / "file").stat().st_size == 0
