"""What the person at the keyboard reads."""

import errno
import os
import signal

import pytest
import torch

from pipeline.errors import Stopped, UserError, exit_code, suggestion

KNOWN = ["boat", "sky-other", "sea", "potted plant"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("boot", "boat"), ("skyy", "sky-other"), ("plants", "potted plant"), ("sae", "sea")],
)
def test_an_unknown_name_is_told_its_nearest_by_letters_or_by_word(name, meant):
    assert suggestion(name, KNOWN).startswith(f"did you mean {meant!r}")


def test_a_name_like_none_is_told_what_is_known():
    assert suggestion("xylophone", KNOWN) == "known are boat, sky-other, sea, potted plant"


def test_what_a_user_can_mend_is_one_line_and_exit_code_1(capsys):
    def job():
        raise UserError("no photos at data/coco")

    assert exit_code(job) == 1
    assert capsys.readouterr().err == "error: no photos at data/coco\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_that_was_stopped_in_good_order_says_so_and_nothing_else(capsys, number, code):
    def job():
        raise Stopped(number, "stopped at step 3; saved")

    assert exit_code(job) == code
    assert capsys.readouterr().err == "stopped at step 3; saved\n"


def test_a_bug_keeps_its_traceback():
    def job():
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_code(job)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_disk_that_takes_no_more_is_one_line_with_the_file_and_what_to_do(capsys, number):
    def job():
        raise OSError(number, os.strerror(number), "runs/1/metrics.jsonl")

    assert exit_code(job) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runs/1/metrics.jsonl: {os.strerror(number)}; ")
    assert ("ulimit -n" in line) == (number == errno.EMFILE)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_too_little_memory_is_one_line(capsys, error):
    def job():
        raise error("Unable to allocate 34.8 GiB\nsee the documentation")

    assert exit_code(job) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: too little memory: Unable to allocate 34.8 GiB; use smaller batches"


def test_a_file_where_a_folder_is_to_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert exit_code(lambda: (tmp_path / "run").mkdir(exist_ok=True)) == 1
    assert exit_code(lambda: (tmp_path / "run/samples").mkdir(parents=True)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(str(tmp_path / "run") in line and "name another" in line for line in lines)
