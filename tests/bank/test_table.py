import numpy as np
import pyarrow as pa
import pytest

from bank.errors import BankError
from bank.files import file_digest
from bank.table import (
    codes,
    column,
    digest_column,
    interned_strings,
    read_table,
    read_vectors,
    rows_digest,
    vectors_to_fill,
    write_sorted,
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


def shared_out(count, parts, nulls):
    """Keys from 0, every part's rising, as splits share out photos."""
    rng = np.random.default_rng(count)
    part_of = rng.integers(0, parts, count)
    rows = [
        {
            "key": k,
            "name": "\u00df" * (k % 4) + str(k) * (k % 3),
            "x": rng.random(),
            "digest": None if nulls and k % 5 == 0 else rng.bytes(5),
            "bytes": None if nulls and k % 3 == 0 else k * 7,
        }
        for k in range(count)
    ]
    kinds = {"key": pa.int64(), "name": pa.string(), "x": pa.float32()}
    schema = pa.schema({**kinds, "digest": pa.binary(5), "bytes": pa.int64()})
    return [
        pa.Table.from_pylist([rows[k] for k in np.flatnonzero(part_of == part)], schema)
        for part in range(parts)
    ]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (8, 3), (100, 7), (333, 40)])
def test_what_is_written_sorted_is_the_sorted_table(tmp_path, nulls, count, parts):
    for number, part in enumerate(tables := shared_out(count, parts, nulls)):
        write_table(tmp_path / f"part-{number}.arrow", part)
    mapped = [read_table(tmp_path / f"part-{number}.arrow") for number in range(parts)]
    cut = [mapped[0].slice(0, 3), *mapped[1:], mapped[0].slice(3)]
    for name, parts_ in (("whole", tables), ("mapped", mapped), ("cut", cut)):
        write_sorted(tmp_path / f"{name}.arrow", pa.concat_tables(parts_), "key")
    write_table(tmp_path / "wanted.arrow", pa.concat_tables(tables).sort_by("key"))
    wanted = (tmp_path / "wanted.arrow").read_bytes()
    for name in ("whole", "mapped", "cut"):
        assert (tmp_path / f"{name}.arrow").read_bytes() == wanted
    with pa.memory_map(str(tmp_path / "cut.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == (1 if count else 0)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".arrow"] == []


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


# Of the table above: banks that are there say so.
PINNED = "8128046a7e67ef8568fc17ad3bd8ad46a2da41de7ad3320bb179e7a1f669f7f9"


@pytest.mark.parametrize("rows", [1, 2, 3, 1 << 16])
def test_the_digest_does_not_show_how_many_rows_are_looked_at_in_one_go(monkeypatch, rows):
    monkeypatch.setattr("bank.table.DIGESTED_AT_ONCE", rows)
    with_bytes = table().append_column("sha", pa.array([b"ab", b"cd", b"ef"], pa.binary(2)))
    assert rows_digest(with_bytes) == PINNED


def test_text_columns_come_as_codes_and_as_strings_that_are_shared():
    repeated = pa.table({"name": ["b", "\u00df", "b", "a"]})
    names, rows = codes(repeated, "name")
    assert [names[row] for row in rows] == ["b", "\u00df", "b", "a"]
    strings = interned_strings(repeated, "name")
    assert strings.tolist() == ["b", "\u00df", "b", "a"]
    assert strings[0] is strings[2]


def test_a_text_column_whose_offsets_lead_elsewhere_is_damage():
    offsets, text = np.array([0, 1, 99, 2], np.int32), b"ab"
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )
    with pytest.raises(BankError, match="missing or damaged"):
        codes(pa.table({"name": broken}), "name")


def test_vectors_that_come_in_pieces_make_the_same_file(tmp_path):
    ids, vectors = np.array([3, 9, 12]), np.arange(6, dtype=np.float32).reshape(3, 2)
    write_vectors(tmp_path / "whole.arrow", ids, vectors, "feature")
    with vectors_to_fill(tmp_path / "pieces.arrow", ids, 2, "feature") as filled:
        filled[2:] = vectors[2:]
        filled[:2] = vectors[:2]
    assert file_digest(tmp_path / "pieces.arrow") == file_digest(tmp_path / "whole.arrow")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pieces.arrow", "whole.arrow"]


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
