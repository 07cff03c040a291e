"""Many sorted tables -> one table file, row by rising key, whatever memory there is."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.table import column, write_table
from pipeline.files import PARTIAL, writing

ROWS_AT_ONCE = 1 << 16  # a multiple of 8, so that whole bytes of validity bits are appended


def write_merged(path: Path, tables: Sequence[pa.Table], schema: pa.Schema, key: str) -> int:
    """What `write_table` would write of all tables, sorted by `key`; how many rows that is.

    The file is one record batch, which Arrow writes from memory. So its columns are first laid out
    in files, and mapped: what is held is ROWS_AT_ONCE rows and some numbers for each row.
    """
    order = np.argsort(np.concatenate([column(t, key) for t in tables]), kind="stable")
    firsts = np.cumsum([0, *(t.num_rows for t in tables)])
    with (
        writing(path),
        tempfile.TemporaryDirectory(prefix=path.name, suffix=PARTIAL, dir=path.parent) as folder,
    ):
        columns = [_Column(Path(folder) / field.name, field.type) for field in schema]
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = _gathered(tables, firsts, order[start : start + ROWS_AT_ONCE])
            for written, values in zip(columns, rows.select(schema.names).columns, strict=True):
                written.append(pa.concat_arrays(values.chunks))
        write_table(path, pa.Table.from_arrays([c.array() for c in columns], schema=schema))
    return len(order)


def _gathered(
    tables: Sequence[pa.Table], firsts: NDArray[np.int64], rows: NDArray[np.int64]
) -> pa.Table:
    """Rows of all tables laid end to end, of which `firsts` tells where each begins."""
    table_of = np.searchsorted(firsts, rows, side="right") - 1
    used, place = np.unique(table_of, return_inverse=True)
    least = np.full(len(used), np.iinfo(np.int64).max)
    most = np.zeros(len(used), np.int64)
    np.minimum.at(least, place, rows)
    np.maximum.at(most, place, rows)
    sizes = most - least + 1
    parts = [
        tables[t].slice(first - firsts[t], size)
        for t, first, size in zip(used.tolist(), least.tolist(), sizes.tolist(), strict=True)
    ]
    shift = np.cumsum(sizes) - sizes - least
    return pa.concat_tables(parts).take(pa.array(rows + shift[place]))


class _Column:
    """The buffers of one array, growing in files."""

    def __init__(self, path: Path, kind: pa.DataType) -> None:
        self.kind = kind
        self.has_text = pa.types.is_string(kind)
        self.rows = self.nulls = self.text_bytes = 0
        names = ["valid", "offsets", "text"] if self.has_text else ["valid", "values"]
        self.paths = [path.with_name(f"{path.name}.{name}") for name in names]
        for file in self.paths:
            file.touch()
        if self.has_text:
            _append(self.paths[1], np.zeros(1, np.int32))

    def append(self, array: pa.Array) -> None:
        valid = np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
        _append(self.paths[0], valid)
        if self.has_text:
            offsets = _view(array, np.dtype(np.int32), 1)
            _append(self.paths[1], offsets[1:] - offsets[0] + np.int32(self.text_bytes))
            text = np.frombuffer(array.buffers()[2] or b"", np.uint8)
            _append(self.paths[2], text[offsets[0] : offsets[-1]])
            self.text_bytes += int(offsets[-1] - offsets[0])
        else:
            _append(self.paths[1], _view(array, np.dtype((np.void, self.kind.byte_width)), 0))
        self.rows += len(array)
        self.nulls += array.null_count

    def array(self) -> pa.Array:
        """Mapped, not read."""
        buffers = [_mapped(path) for path in self.paths]
        return pa.Array.from_buffers(self.kind, self.rows, buffers, self.nulls)


def _view(array: pa.Array, kind: np.dtype[Any], more: int) -> NDArray[Any]:
    """The array's part of its second buffer: a value, or an offset, per row and `more`."""
    values = np.frombuffer(array.buffers()[1], kind)
    return values[array.offset : array.offset + len(array) + more]


def _append(path: Path, values: NDArray[Any]) -> None:
    with path.open("ab") as file:
        file.write(values.tobytes())


def _mapped(path: Path) -> pa.Buffer:
    if not path.stat().st_size:
        return pa.py_buffer(b"")
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()
