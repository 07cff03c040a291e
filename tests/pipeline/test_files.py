"""Files that are whole or not there, also on file systems that can do less than others."""

import errno
import os
import stat

import pytest

from pipeline.files import (
    PARTIAL,
    remove_folder,
    remove_partial,
    reserve,
    write_bytes,
    writing,
    written,
    written_folder,
)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")}


def write_half(attempt, path, name=""):
    with attempt(path) as partial:
        (partial / name).write_text("new")
        raise ZeroDivisionError


def replaced(path):
    with written_folder(path) as folder:
        (folder / "2.txt").touch()


def test_what_is_not_written_to_its_end_leaves_all_as_it_was(tmp_path):
    write_bytes(tmp_path / "a.txt", b"old")
    with written_folder(tmp_path / "b") as folder:
        (folder / "c.txt").write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(written, tmp_path / "a.txt")
    with pytest.raises(ZeroDivisionError):
        write_half(written_folder, tmp_path / "b", "c.txt")
    assert files(tmp_path) == {"a.txt": "old", "b/c.txt": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write_bytes(tmp_path / "a/old.txt", b"old")
    with written_folder(tmp_path / "a") as folder:
        (folder / "in").mkdir()
        (folder / "in/new.txt").write_text("new")
    assert files(tmp_path) == {"a/in/new.txt": "new"}


@pytest.mark.parametrize("there", [True, False])
def test_of_several_that_write_one_folder_the_first_that_is_done_is_kept(tmp_path, there):
    if there:
        write_bytes(tmp_path / "a/old.txt", b"old")
    with written_folder(tmp_path / "a") as slow:
        (slow / "a.txt").write_text("slow")
        with written_folder(tmp_path / "a") as fast:
            (fast / "a.txt").write_text("fast")
    assert files(tmp_path) == {"a/a.txt": "fast"}


def test_what_killed_processes_have_left_of_a_folder_goes_and_nothing_else(tmp_path):
    names = ("a", f"a.1{PARTIAL}", f"a.2{PARTIAL}", f"ab.1{PARTIAL}", "[a]", f"[a].1{PARTIAL}")
    for name in names:
        write_bytes(tmp_path / name / "in.txt", b"")
    remove_partial(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "[a]", *names[3:]}
    remove_partial(tmp_path / "[a]")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "[a]", f"ab.1{PARTIAL}"}


@pytest.mark.parametrize(
    ("change", "left"), [(replaced, ["2.txt"]), (remove_folder, [])], ids=["replaced", "removed"]
)
def test_a_folder_half_removed_never_has_its_name(tmp_path, monkeypatch, change, left):
    write_bytes(tmp_path / "a/1.txt", b"")

    def killed(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        change(tmp_path / "a")
    assert [path.name for path in tmp_path.rglob("*.txt") if path.parent.name == "a"] == left


def test_bytes_reach_the_disk_before_their_names_do(tmp_path, monkeypatch):
    made, synced, sync = tmp_path / "a", [], os.fsync

    def fsync(opened):
        synced.append((os.fstat(opened).st_ino, made.exists()))
        sync(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    with written_folder(made) as folder:
        (folder / "b").touch()
    inside, itself, around = (path.stat().st_ino for path in (made / "b", made, tmp_path))
    assert synced == [(inside, False), (itself, False), (around, True)]


def test_an_error_of_the_system_names_what_was_to_be_written(tmp_path):
    (tmp_path / "file.1.partial").mkdir()
    with pytest.raises(IsADirectoryError) as caught, writing(tmp_path / "file"):
        (tmp_path / "file.1.partial").write_bytes(b"")
    assert caught.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught, writing(tmp_path):
        raise OSError(errno.ENOSPC, "in the words of a library")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught, writing(tmp_path):
        (tmp_path / "nowhere").read_bytes()
    assert caught.value.filename == str(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate"),
        RuntimeError(f"error code {errno.ENOSPC} ({os.strerror(errno.ENOSPC)})"),
        OSError("an error of no number"),
    ],
)
def test_what_only_reads_like_an_error_of_the_system_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, written(tmp_path / "a"):
        raise error
    assert caught.value is error


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
