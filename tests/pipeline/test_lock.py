import errno
import os
from socket import socketpair

import pytest

from pipeline.lock import lock, locked


def test_a_child_of_who_has_locked_it_does_not_keep_it_locked(tmp_path):
    ours, theirs = socketpair()
    with locked(tmp_path / "lock"), (tmp_path / "other").open("w") as other:
        assert lock(other, tmp_path)
        if not (child := os.fork()):
            ours.close()
            theirs.sendall(b"!")
            theirs.recv(1)  # until the test ends
            os._exit(0)
        theirs.close()
        assert ours.recv(1) == b"!"  # it runs
        for name in ("lock", "other"):
            with (tmp_path / name).open("w") as file:
                assert not lock(file, tmp_path)
    try:
        for name in ("lock", "other"):
            with (tmp_path / name).open("w") as file:
                assert lock(file, tmp_path)
    finally:
        ours.close()
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [0, errno.ENOLCK])
def test_who_goes_on_without_a_lock_is_told_so(tmp_path, monkeypatch, number):
    def flock(*_):
        if number:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / "lock") as alone:
        assert alone == (not number)
