"""A handful of disks here, all by `python -m tests.endurance.disks`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bank.errors import BankError
from jobs.stages.receipts import WORK
from jobs.stages.staging import building
from pipeline.files import reserve
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
