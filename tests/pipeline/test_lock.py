import os

from pipeline.lock import lock, locked


def test_a_child_of_who_has_locked_it_does_not_keep_it_locked(tmp_path):
    path = tmp_path / "lock"
    reading, writing = os.pipe()
    with locked(path), (tmp_path / "other").open("w") as other:
        assert lock(other, tmp_path)
        if not (child := os.fork()):
            os.close(writing)
            os.read(reading, 1)  # until the test ends
            os._exit(0)
        for name in ("lock", "other"):
            with (tmp_path / name).open("w") as file:
                assert not lock(file, tmp_path)
    try:
        for name in ("lock", "other"):
            with (tmp_path / name).open("w") as file:
                assert lock(file, tmp_path)
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)
