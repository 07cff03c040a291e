"""One build of a bank at a time, where the file system can tell."""

import errno
import fcntl
import os
import shutil
from dataclasses import replace

import pytest

from bank.errors import BankError
from bank.manifest import read_manifest, write_manifest
from bank.verify import verify
from jobs.stages.staging import building, next_version, swap_in


def test_a_second_build_of_a_bank_is_told_of_the_first(tmp_path):
    with (
        building(tmp_path / "bank"),
        pytest.raises(BankError, match="another build is writing"),
        building(tmp_path / "bank"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_line_and_the_build_goes_on(
    tmp_path, monkeypatch, capsys, number
):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with building(tmp_path / "bank") as bank:
        (bank / "file").write_text("goes on")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path}/bank lies on a file system without locks")


def test_a_lock_that_fails_otherwise_stops_the_build(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BankError, match="Input/output error"), building(tmp_path / "bank"):
        pass


def test_a_next_version_without_the_optional_table_takes_it_away(toy_bank, tmp_path):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    manifest = read_manifest(bank)
    files = {path: d for path, d in manifest.files.items() if path != "quality.arrow"}
    next_version(bank).mkdir(parents=True)
    write_manifest(next_version(bank), replace(manifest, files=files))
    swap_in(bank)
    assert not (bank / "quality.arrow").exists()
    assert read_manifest(bank).files == files
    assert verify(bank).damages == ()


def test_a_next_version_brings_its_own_table_of_quality(toy_bank, tmp_path):
    bank = shutil.copytree(toy_bank, tmp_path / "bank")
    next_version(bank).mkdir(parents=True)
    (bank / "quality.arrow").rename(next_version(bank) / "quality.arrow")
    (bank / "quality.arrow").write_bytes(b"of before")
    write_manifest(next_version(bank), read_manifest(bank))
    swap_in(bank)
    assert verify(bank).damages == ()
