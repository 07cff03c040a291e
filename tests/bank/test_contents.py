"""What enters the content digest."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from bank.contents import Contents, content_digest
from bank.table import read_table, write_table

FILES = ("patches.arrow", "scenes.index.arrow", "photos.arrow", "vocabulary.json")


@pytest.fixture
def bank(toy_bank, tmp_path):
    """The files that the digest is of."""
    for name in FILES:
        shutil.copy(toy_bank / name, tmp_path)
    return tmp_path


def change_first(path, name, value):
    """Give the first row another value."""
    table = read_table(path)
    values = [value, *table[name].to_pylist()[1:]]
    at = table.schema.get_field_index(name)
    write_table(path, table.set_column(at, name, pa.array(values, table.schema.field(name).type)))


@pytest.mark.parametrize(
    ("file", "name", "value", "counts"),
    [
        ("patches.arrow", "photo_file", "elsewhere/1.jpg", False),
        ("patches.arrow", "licence", "another", True),
        ("patches.arrow", "source_url", "https://example.org/another", True),
        ("patches.arrow", "split", "another", True),
        ("scenes.index.arrow", "shard", "train-00099", False),
        ("photos.arrow", "shard", "train-00099", False),
        ("photos.arrow", "annotation_sha256", b"a" * 32, False),
        ("photos.arrow", "sha256", b"a" * 32, True),
    ],
)
def test_a_photo_counts_by_its_id_and_sha_256_and_not_by_its_place(bank, file, name, value, counts):
    before = content_digest(bank)
    change_first(bank / file, name, value)
    assert (content_digest(bank) != before) is counts


def test_a_photo_that_gave_no_scene_does_not_count(bank):
    before = content_digest(bank)
    path = bank / "photos.arrow"
    table = read_table(path)
    row = {"image_id": 1 << 40, "shard": "train-00000", "annotation_sha256": b"a" * 32}
    more = pa.Table.from_pylist([{**row, "bytes": None, "sha256": None}], table.schema)
    write_table(path, pa.concat_tables([table, more]))
    assert content_digest(bank) == before


def test_equal_files_are_counted_and_those_that_are_both_in_and_out_of_train(toy_bank):
    contents = Contents(toy_bank, 64)
    assert contents.equal_files() == (0, 0)
    a, b, c = np.flatnonzero(contents.splits == "train")[:3]
    other = np.flatnonzero(contents.splits != "train")[0]
    photos = contents.photos.copy()
    photos[b] = photos[a]
    contents.photos = photos
    assert contents.equal_files() == (1, 0)
    photos[other] = photos[c]
    assert contents.equal_files() == (2, 1)


def test_by_the_first_rule_a_photo_counted_by_its_path(bank):
    (bank / "photos.arrow").unlink()
    before = content_digest(bank, rule=1)
    change_first(bank / "patches.arrow", "photo_file", "elsewhere/1.jpg")
    assert content_digest(bank, rule=1) != before
