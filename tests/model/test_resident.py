"""Scenes and patches held at once: where they are put, and that they are the bank's."""

import os
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.errors import BankError
from model import resident
from model.resident import MappedSource, mapped, mapped_folder, on_device, place, sizes
from model.sources import BankSource, part_of
from pipeline.address import Address
from pipeline.cache import VARIABLE
from pipeline.errors import UserError
from pipeline.scene import image_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with so much free memory."""

    def with_free(size):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size, 2 * size))

    return with_free


def disk_with(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def same(ours, theirs, bank):
    ids = np.roll(bank.scene_ids("train"), 3)[:9]
    part = part_of(bank, ids)
    for a, b in zip(ours.scenes(part), theirs.scenes(part), strict=True):
        if torch.is_tensor(a):
            assert torch.equal(a, b)
        else:
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    patches = bank.candidates(bank.patch_ids[np.isin(image_of(bank.patch_ids), ids)], 4).ids.copy()
    patches[1, 2:] = -1
    assert torch.equal(ours.patches(patches), theirs.patches(patches))
    assert ours.patches(patches)[1, 2:].max() == 0
    assert ours.patches(patches[:0]).shape == (0, 4, 64, 64, 3)


@pytest.mark.parametrize("kind", ["mapped", "on the device"])
def test_what_is_held_is_what_the_bank_gives(bank, own_cache, kind):
    held = mapped(bank) if kind == "mapped" else on_device(bank, CPU)
    same(held, BankSource(bank), bank)
    pictures, patches = sizes(bank)
    assert held.pictures.numel() == pictures
    assert held.all_patches.numel() == patches


def test_the_folder_is_written_once_and_shared_by_path(bank, own_cache, monkeypatch):
    first = mapped(bank)
    files = {path: path.stat().st_mtime_ns for path in mapped_folder(bank).iterdir()}
    monkeypatch.setattr(resident, "_read", lambda *_: pytest.fail("written again"))
    again = pickle.loads(pickle.dumps(mapped(bank)))
    assert len(pickle.dumps(again)) < 500
    assert {path: path.stat().st_mtime_ns for path in mapped_folder(bank).iterdir()} == files
    assert torch.equal(again.pictures, first.pictures)


@pytest.mark.parametrize("file", ["pictures.npy", "patches.npy", "nodes.npy", "patches_by_id.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_folder_that_is_not_whole_is_written_again(bank, own_cache, capsys, file, damage):
    mapped(bank)
    path = mapped_folder(bank) / file
    if damage == "cut":
        with path.open("rb+") as opened:
            opened.truncate(path.stat().st_size - 1)
    else:
        path.unlink()
    same(mapped(bank), BankSource(bank), bank)
    assert f"{mapped_folder(bank)} is not whole; it is written again" in capsys.readouterr().err
    assert isinstance(MappedSource(mapped_folder(bank)), MappedSource)


def test_what_a_killed_writer_left_is_removed(bank, own_cache):
    partial = mapped_folder(bank).with_name(f"{mapped_folder(bank).name}.ab12cd34.partial")
    partial.mkdir(parents=True)
    (partial / "pictures.npy").write_bytes(b"half")
    same(mapped(bank), BankSource(bank), bank)
    assert not partial.exists()


def test_banks_of_other_content_have_other_folders(bank, own_cache):
    other = Bank.open(bank.path)
    assert mapped_folder(other) == mapped_folder(bank)
    other.manifest = replace(other.manifest, content_digest="f" * 64)
    assert mapped_folder(other) != mapped_folder(bank)


def test_a_bank_that_only_claims_its_digest_fills_no_folder(bank, own_cache):
    """Or the bank whose digest that is would be given its pixels."""
    forged = Bank.open(bank.path)
    forged.manifest = replace(forged.manifest, content_digest="f" * 64)
    with pytest.raises(
        BankError, match=r"claims content digest ffffffffffff\.\.\., but its tables"
    ):
        mapped(forged)
    assert not mapped_folder(forged).exists()


def test_what_fits_goes_to_the_gpu_and_what_does_not_to_the_disk(bank, own_cache, gpu):
    needed = sum(sizes(bank))
    gpu(2 * needed)
    there = place(bank, "auto", CUDA)
    assert there.where == "device"
    assert there.why.endswith("fit into the 13.3 MB free on cuda:1")
    gpu(2 * needed - 2)
    for kind in ("auto", "resident"):
        there = place(bank, kind, CUDA)
        assert there.where == "folder"
        assert "too much for the 13.3 MB free on cuda:1" in there.why
        assert f"written to {mapped_folder(bank)} (it may be deleted later)" in there.why


def test_a_disk_without_room_is_streamed_or_one_line(bank, own_cache, monkeypatch):
    disk_with(monkeypatch, sum(sizes(bank)))
    assert place(bank, "auto", CPU).where == "stream"
    with pytest.raises(UserError, match=r"--loader resident: .* has 6.7 MB free; make room"):
        place(bank, "resident", CPU)
    disk_with(monkeypatch, 2 * sum(sizes(bank)))
    assert place(bank, "auto", CPU).where == "folder"
    mapped(bank)
    disk_with(monkeypatch, 0)  # it is there already
    assert place(bank, "resident", CPU).where == "folder"


def test_a_cache_that_may_not_be_written_is_one_line_or_streamed(bank, own_cache, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert place(bank, "auto", CPU).where == "stream"
    with pytest.raises(UserError, match=r"--loader resident: .* may not be written; .*stream$"):
        place(bank, "resident", CPU)


def test_a_bank_at_an_address_is_streamed_unless_it_is_held_already(bank, own_cache, gpu):
    there = Bank.open(bank.path)
    there.path = Address("http://host/bank")
    gpu(10**12)
    for device in (CPU, CUDA):
        assert place(there, "auto", device).where == "stream"
    assert place(there, "resident", CUDA).where == "device"
    assert place(there, "resident", CPU).where == "folder"
    mapped(bank)
    assert place(there, "auto", CPU).where == "folder"


def test_stream_is_what_was_asked_for(bank, gpu):
    gpu(10**12)
    assert place(bank, "stream", CUDA).where == "stream"
