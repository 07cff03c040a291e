"""A handful of disks here, all by `python -m tests.endurance.disks`."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bank import index
from bank.errors import BankError
from bank.index import build_indexes
from bank.shards import write_patches
from bank.table import vectors_to_fill, write_table
from jobs.stages.receipts import WORK
from jobs.stages.staging import building
from model.frozen import write_network
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


# What the libraries that write a bank's files say of a disk that takes no more

SMALL = 1 << 16  # bytes that a file may have
ROWS = 4 * SMALL


def write_patches_of_a_shard(folder):
    write_patches(folder, ((number, bytes(12288)) for number in range(100)), 1 << 24)


def write_index(folder):
    vectors, ids = np.zeros((ROWS, 2), np.float32), np.arange(ROWS)
    build_indexes(folder / "index", vectors, ids, ["sea"] * ROWS, "digest")


def write_index_without_faiss(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "faiss", None)
        write_index(folder)


def write_features(folder):
    with vectors_to_fill(folder / "features.arrow", np.arange(ROWS), 2, "feature"):
        pass


def write_patch_table(folder):
    write_table(folder / "patches.arrow", pa.table({"patch_id": np.arange(ROWS)}))


def write_weights(folder):
    write_network(folder / "weights.safetensors", torch.nn.Linear(ROWS, 1), "linear", {})


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_patches_of_a_shard, "data.mdb"),
        (write_index, "index"),
        (write_index_without_faiss, "index"),
        (write_features, "features.arrow"),
        (write_patch_table, "patches.arrow"),
        (write_weights, "weights.safetensors"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_by_number_and_name(tmp_path, write, name):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, most))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir() if path.name != "data.mdb"] == []


def test_only_the_system_says_that_a_disk_takes_no_more(tmp_path):
    words = f"DefaultCPUAllocator: can't allocate memory ({os.strerror(errno.ENOSPC)})"
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), building(tmp_path / "bank"):
        raise RuntimeError(words)
    with (
        pytest.raises(BankError, match="/b: No space left"),
        building(tmp_path / "b"),
    ):
        raise OSError(errno.ENOSPC, "in the words of a library")


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
