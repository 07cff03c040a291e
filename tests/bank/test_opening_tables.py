"""The ways that the README shows to open a bank's tables without this project's code."""

import textwrap

import pytest

from bank.bank import Bank

PANDAS = """
import pandas as pd

patches = pd.read_feather("bank/coco/patches.arrow")  # Feather 2 is Arrow IPC
patches_per_category = patches.groupby("category").size()
"""
DUCKDB = """
import duckdb
import pyarrow.dataset as ds

patches = ds.dataset("bank/coco/patches.arrow", format="ipc")  # a name that SQL may use
candidates = ds.dataset("bank/coco/candidates.arrow", format="ipc")
counts = duckdb.sql("SELECT category, count(*) FROM patches GROUP BY category").fetchall()
joined = duckdb.sql("SELECT category, candidate_ids FROM patches JOIN candidates USING (patch_id)")
"""
PYARROW = """
import pyarrow as pa

with pa.memory_map("bank/coco/patches.arrow") as file:
    patches = pa.ipc.open_file(file).read_all()
patches_per_category = patches.group_by("category").aggregate([("patch_id", "count")])
"""


@pytest.fixture
def opened(toy_bank):
    """Run a snippet on the toy bank and give its names back."""

    def run(snippet: str) -> dict[str, object]:
        names: dict[str, object] = {}
        exec(textwrap.dedent(snippet).replace("bank/coco", str(toy_bank)), names)
        return names

    return run


@pytest.fixture
def counts(toy_bank):
    categories = Bank.open(toy_bank).contents.strings("category")
    return {name: categories.count(name) for name in categories}


def test_pandas_opens_the_table(opened, counts, toy_bank):
    names = opened(PANDAS)
    assert names["patches_per_category"].to_dict() == counts
    assert names["patches"].columns.tolist() == Bank.open(toy_bank).table.column_names
    assert names["patches"].pixels_sha256.map(len).eq(32).all()


def test_duckdb_queries_and_joins_the_tables(opened, counts):
    names = opened(DUCKDB)
    assert dict(names["counts"]) == counts
    rows = names["joined"].fetchall()
    assert len(rows) == sum(counts.values())
    assert {len(ids) for _, ids in rows} == {20}


def test_pyarrow_maps_the_table(opened, counts, toy_bank):
    names = opened(PYARROW)
    rows = names["patches_per_category"].to_pylist()
    assert {row["category"]: row["patch_id_count"] for row in rows} == counts
    assert names["patches"].equals(Bank.open(toy_bank).table)
