"""A handful of disks here, all by `python -m tests.endurance.disks`."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from safetensors import SafetensorError

from bank.errors import BankError
from bank.files import reserve, writing
from jobs.stages.receipts import WORK
from jobs.stages.staging import building
from tests.endurance.disks import has_namespaces

ROOT = Path(__file__).parents[2]


def test_full_and_lost_disks_are_one_line_and_a_rerun_goes_on():
    if not has_namespaces():
        pytest.skip("this system lets us mount nothing (`unshare -Urm`)")
    done = subprocess.run(
        [sys.executable, "-m", "tests.endurance.disks", "--quick", "--steps", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| build |")]
    assert "0 ended badly" in done.stdout
    assert sum("No space left on device" in row for row in rows) >= 2
    assert sum("was taken away" in row for row in rows) == 1
    assert sum("put the photos back" in row for row in rows) == 1


# What libraries say


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EROFS, "whatever"), errno.EROFS),
        (OSError("1000000 requested and 262112 written"), errno.EIO),  # numpy
        (lmdb.Error("mdb_txn_commit: Input/output error"), errno.EIO),
        (lmdb.DiskError("mdb_txn_commit: No space left on device"), errno.ENOSPC),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("write error in a: 1 != 4 (No space left on device)"), errno.ENOSPC),  # faiss
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_a_library_says_of_a_file_that_cannot_be_written_gets_number_and_name(error, number):
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught, writing(Path("a")):
        raise error
    assert (caught.value.errno, caught.value.filename) == (number, "a")


def test_the_name_that_the_system_gave_stays():
    with pytest.raises(FileNotFoundError, match="nowhere") as caught, writing(Path("a")):
        Path("nowhere").read_bytes()
    assert caught.value.filename == "nowhere"


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), writing(Path("a")):
        raise RuntimeError("shapes cannot be multiplied")


def test_a_reserved_file_has_no_holes(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        reserve(file, 1 << 20)
    status = (tmp_path / "a").stat()
    assert (status.st_size, status.st_blocks * 512 >= 1 << 20) == (1 << 20, True)
    assert not np.fromfile(tmp_path / "a", np.uint8).any()


@pytest.mark.parametrize("end", [None, ValueError("whatever comes of it")])
def test_a_bank_whose_folder_is_another_one_at_the_end_was_taken_away(tmp_path, end):
    bank = tmp_path / "bank"

    def build():
        with building(bank):
            bank.rename(tmp_path / "elsewhere")
            (bank / WORK).mkdir(parents=True)
            (bank / WORK / "lock").touch()
            if end:
                raise end

    with pytest.raises(BankError, match="was taken away while"):
        build()


def test_what_killed_builds_have_left_half_written_is_removed(tmp_path):
    bank = tmp_path / "bank"
    (bank / WORK / "tmp" / "train-00000.7").mkdir(parents=True)
    (bank / "patches.arrow.x.partial").mkdir()
    (bank / "features.arrow.7.partial").touch()
    with building(bank):
        assert sorted(p.name for p in bank.rglob("*")) == ["lock", WORK]
