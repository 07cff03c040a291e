import shutil
from dataclasses import replace

import pytest

from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest, write_manifest
from bank.table import read_table, write_table
from bank.tasks import Place, contents_at
from bank.verify import Part, check, verify


@pytest.fixture
def bank(toy_bank, tmp_path):
    return shutil.copytree(toy_bank, tmp_path / "bank")


def test_the_tables_are_opened_once_for_all_tasks(bank):
    contents_at.cache_clear()
    assert len(read_manifest(bank).shards) > 1
    verify(bank)
    assert contents_at.cache_info().misses == 1


def test_other_tables_at_the_same_place_are_opened_anew(bank):
    manifest = read_manifest(bank)
    before = contents_at(Place.of(bank, manifest))
    assert contents_at(Place.of(bank, manifest)) is before
    table = read_table(bank / "patches.arrow")
    write_table(bank / "patches.arrow", table.slice(1))
    files = {**manifest.files, "patches.arrow": file_digest(bank / "patches.arrow")}
    write_manifest(bank, replace(manifest, files=files))
    after = contents_at(Place.of(bank, read_manifest(bank)))
    assert len(after.patch_ids) == len(before.patch_ids) - 1


def test_every_row_lies_in_one_shard(bank):
    contents = contents_at(Place.of(bank, read_manifest(bank)))
    rows = [contents.rows_of_shard(shard) for shard in contents.patches.shards]
    assert sorted(i for patches, _ in rows for i in patches) == [*range(len(contents.patch_ids))]
    assert sorted(i for _, scenes in rows for i in scenes) == [*range(len(contents.image_ids))]
    for shard, (patches, scenes) in zip(contents.patches.shards, rows, strict=True):
        images = set(contents.image_ids[scenes])
        assert set(contents.shards_of_images(contents.image_ids[scenes])) == {shard}
        assert {int(i) >> 16 for i in contents.patch_ids[patches]} <= images


def test_a_worker_that_does_not_see_the_bank_takes_nothing_for_damaged(tmp_path):
    with pytest.raises(BankError, match=r"a worker cannot see the bank .*nowhere: "):
        check(Part(tmp_path / "nowhere", {}))
