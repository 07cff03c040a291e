"""One build of a bank at a time, where the file system can tell."""

import errno
import fcntl
import os

import pytest

from bank.errors import BankError
from jobs.stages.staging import building


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
