import numpy as np
import pyarrow as pa
import pytest

from bank.errors import BankError
from bank.files import file_digest
from bank.table import (
    column,
    digest_column,
    read_table,
    read_vectors,
    rows_digest,
    write_table,
    write_vectors,
)

ROWS = {"id": [1, 2, 3], "name": ["a", "\u00df", ""], "x": [0.5, -0.0, 2.0]}
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("x", pa.float32())])


def table(**changes):
    return pa.table({**ROWS, **changes}, SCHEMA)


def test_a_table_is_read_as_it_was_written(tmp_path):
    write_table(tmp_path / "a.arrow", table())
    assert read_table(tmp_path / "a.arrow").equals(table())
    assert column(read_table(tmp_path / "a.arrow"), "id").tolist() == [1, 2, 3]


def test_the_bytes_do_not_show_in_which_pieces_a_table_came(tmp_path):
    write_table(tmp_path / "whole.arrow", table())
    write_table(
        tmp_path / "pieces.arrow", pa.concat_tables([table().slice(0, 1), table().slice(1)])
    )
    assert file_digest(tmp_path / "whole.arrow") == file_digest(tmp_path / "pieces.arrow")


def test_an_empty_table_is_a_table(tmp_path):
    write_table(tmp_path / "a.arrow", table().slice(0, 0))
    assert read_table(tmp_path / "a.arrow", ["id"]).num_rows == 0


def test_vectors_come_back_with_their_ids(tmp_path):
    ids, vectors = np.array([3, 9]), np.arange(6, dtype=np.float32).reshape(2, 3)
    write_vectors(tmp_path / "v.arrow", ids, vectors, "feature")
    found_ids, found = read_vectors(tmp_path / "v.arrow", "feature")
    assert np.array_equal(found_ids, ids)
    assert np.array_equal(found, vectors)


@pytest.mark.parametrize(
    "change", [{"id": [1, 2, 4]}, {"name": ["a", "\u00df", " "]}, {"x": [0.5, 0.0, 2.0]}]
)
def test_the_digest_notices_every_changed_value(change):
    assert rows_digest(table(**change)) != rows_digest(table())


def test_the_digest_does_not_notice_pieces():
    pieces = pa.concat_tables([table().slice(0, 1), table().slice(1)])
    assert rows_digest(pieces) == rows_digest(table())


def test_a_missing_damaged_or_foreign_table_is_named(tmp_path):
    path = tmp_path / "a.arrow"
    with pytest.raises(BankError, match=r"a\.arrow is missing or damaged"):
        read_table(path)
    path.write_bytes(b"ARROW1 or so")
    with pytest.raises(BankError, match=r"a\.arrow is missing or damaged"):
        read_table(path)
    write_table(path, table())
    with pytest.raises(BankError, match="has no column 'patch_id'"):
        read_table(path, ["patch_id"])


def test_a_table_cut_short_is_named(tmp_path):
    path = tmp_path / "a.arrow"
    write_table(path, table())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BankError, match="is missing or damaged"):
        read_table(path)


def test_a_column_of_numbers_or_digests_or_vectors_is_mapped_and_not_copied(tmp_path):
    path = tmp_path / "x.arrow"
    digests = pa.array([bytes(32), bytes(range(32))], pa.binary(32))
    write_table(path, pa.table({"x": pa.array([1, 2]), "digest": digests}))
    write_vectors(tmp_path / "v.arrow", np.array([1, 2]), np.ones((2, 3), np.float32), "v")
    before = pa.total_allocated_bytes()
    table = read_table(path)
    held = [column(table, "x"), digest_column(table, "digest")]
    held += read_vectors(tmp_path / "v.arrow", "v")
    assert pa.total_allocated_bytes() == before
    assert held[1][1].tolist() == list(range(32))
    assert held[3].shape == (2, 3)
