import numpy as np
import pyarrow as pa
import pytest

from bank.table import read_table, write_table
from jobs.stages import merge
from jobs.stages.merge import write_merged

SCHEMA = pa.schema(
    [
        ("key", pa.int64()),
        ("name", pa.string()),
        ("share", pa.float32()),
        ("digest", pa.binary(5)),
        ("bytes", pa.int64()),
    ]
)


def table(keys, nulls=False):
    rng = np.random.default_rng(int(keys[0]) if len(keys) else 0)
    return pa.table(
        {
            "key": keys,
            "name": ["\u00df" * (k % 4) + str(k) * (k % 3) for k in keys],
            "share": rng.random(len(keys)),
            "digest": [None if nulls and k % 5 == 0 else rng.bytes(5) for k in keys],
            "bytes": [None if nulls and k % 3 == 0 else k * 7 for k in keys],
        },
        SCHEMA,
    )


def shared_out(count, parts, nulls=False):
    """Keys from 0, every part's rising, as splits share out photos."""
    of = np.random.default_rng(count).integers(0, parts, count)
    return [table(np.flatnonzero(of == part).tolist(), nulls) for part in range(parts)]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (8, 3), (100, 7), (333, 40)])
def test_the_file_is_that_of_the_sorted_table(tmp_path, monkeypatch, count, parts, nulls):
    monkeypatch.setattr(merge, "ROWS_AT_ONCE", 16)
    tables = shared_out(count, parts, nulls)
    assert write_merged(tmp_path / "merged.arrow", tables, SCHEMA, "key") == count
    write_table(tmp_path / "sorted.arrow", pa.concat_tables(tables).sort_by("key"))
    merged, wanted = (tmp_path / f"{name}.arrow" for name in ("merged", "sorted"))
    assert read_table(merged).equals(read_table(wanted))
    assert merged.read_bytes() == wanted.read_bytes()


def test_tables_of_files_and_slices_of_tables_are_merged_alike(tmp_path):
    tables = shared_out(50, 2)
    for number, part in enumerate(tables):
        write_table(tmp_path / f"{number}.arrow", part)
    mapped = [read_table(tmp_path / f"{number}.arrow") for number in range(2)]
    cut = [mapped[0].slice(0, 7), mapped[1], mapped[0].slice(7)]
    write_merged(tmp_path / "merged.arrow", cut, SCHEMA, "key")
    assert read_table(tmp_path / "merged.arrow").equals(pa.concat_tables(tables).sort_by("key"))


def test_a_table_comes_in_one_batch_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "ROWS_AT_ONCE", 16)
    write_merged(tmp_path / "merged.arrow", shared_out(100, 3), SCHEMA, "key")
    assert [p.name for p in tmp_path.iterdir()] == ["merged.arrow"]
    with pa.memory_map(str(tmp_path / "merged.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == 1
