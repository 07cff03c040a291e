"""Arrow tables of a bank: one row per patch, per scene, per vector."""

import hashlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from bank.errors import BankError
from bank.files import canonical_json
from pipeline.crop import Pixels
from pipeline.files import PARTIAL, reserve, writing, written
from pipeline.pack import Member, SamplePlace, SceneSample, sample_digest
from pipeline.scene import Scene

PATCHES = pa.schema(
    [
        ("patch_id", pa.int64()),
        ("image_id", pa.int64()),
        ("object_index", pa.int32()),
        ("category", pa.string()),
        ("x0", pa.float32()),  # the box, as fractions of the photo
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("source_width", pa.int32()),  # of the photo, px
        ("source_height", pa.int32()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("source_url", pa.string()),
        ("photo_file", pa.string()),  # relative to the data folder
        ("pixels_sha256", pa.binary(32)),
    ]
)

MEMBERS = SamplePlace._fields
SCENES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("split", pa.string()),
        ("shard", pa.string()),
        *[(f"{m}_{what}", pa.int64()) for m in MEMBERS for what in Member._fields],
        ("sample_sha256", pa.binary(32)),
    ]
)
DIGESTED_AT_ONCE = 1 << 16  # rows

# What a patch and a scene are, apart from where they lie: only this enters the content digest.
PATCH_CONTENT = tuple(name for name in PATCHES.names if name != "photo_file")
SCENE_CONTENT = ("image_id", "split", "sample_sha256")

# Of each photo that was planned, whether or not it gave a scene.
PHOTOS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("shard", pa.string()),
        ("annotation_sha256", pa.binary(32)),  # of pipeline/plan.py's spelling
        ("bytes", pa.int64()),  # of the photo's file; null where it could not be read
        ("sha256", pa.binary(32)),  # ... likewise
    ]
)
PHOTO_CONTENT = ("image_id", "sha256")


def patch_rows(scene: Scene, patches: Pixels) -> list[dict[str, Any]]:
    """Rows of patches.arrow for a scene and its patches (n, patch_size, patch_size, 3)."""
    photo = scene.photo
    return [
        {
            "patch_id": patch_id,
            "image_id": photo.image_id,
            "object_index": object_.object_index,
            "category": object_.category,
            **object_.box._asdict(),
            "source_width": photo.width,
            "source_height": photo.height,
            "split": photo.split,
            "licence": photo.licence,
            "source_url": photo.source_url,
            "photo_file": photo.file,
            "pixels_sha256": hashlib.sha256(pixels.tobytes()).digest(),
        }
        for patch_id, object_, pixels in zip(scene.patch_ids, scene.objects, patches, strict=True)
    ]


def scene_row(sample: SceneSample, split: str, shard: str, place: SamplePlace) -> dict[str, Any]:
    """The row of scenes.index.arrow for one sample."""
    members = {
        f"{name}_{what}": getattr(member, what)
        for name, member in place._asdict().items()
        for what in Member._fields
    }
    return {
        "image_id": sample.image_id,
        "split": split,
        "shard": shard,
        **members,
        "sample_sha256": sample_digest(sample),
    }


def write_table(path: Path, table: pa.Table) -> None:
    """`save_table` to a path that takes its name when the bytes are on the disk."""
    with written(path) as partial:
        save_table(partial, table)


def write_sorted(path: Path, table: pa.Table, key: str) -> None:
    """`write_table` of the rows by rising key, with no more than a column of them in memory."""
    order = pc.sort_indices(table.column(key))
    with (
        writing(path),
        tempfile.TemporaryDirectory(  # NFS keeps files that are still mapped; they are swept later
            prefix=path.name, suffix=PARTIAL, dir=path.parent, ignore_cleanup_errors=True
        ) as folder,
    ):
        columns = []
        for name in table.column_names:
            save_table(Path(folder) / name, table.select([name]).take(order))
            columns.append(read_table(Path(folder) / name).column(name))
        write_table(path, pa.Table.from_arrays(columns, schema=table.schema))


def save_table(path: Path, table: pa.Table) -> None:
    """As Arrow IPC (Parquet's bytes change with its version), in one batch: read without a copy."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        columns = [whole_column(table, name) for name in table.column_names]
        whole = pa.Table.from_arrays(columns, schema=table.schema)
        writer.write_table(whole, max_chunksize=max(table.num_rows, 1))


def read_table(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """A memory-mapped table; BankError where it is missing, damaged or lacks a column."""
    with sound(str(path)):
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate()
        names = table.column_names
    if absent := sorted(set(columns) - set(names)):
        raise BankError(f"{path} has no column {absent[0]!r}; it was not written by build_bank")
    return table


@contextmanager
def sound(what: str) -> Iterator[None]:
    """BankError for what Arrow finds wrong with a file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise BankError(
            f"{what} is missing or damaged ({repr(line[:150])[1:-1]}); "
            f"`python -m jobs.verify_bank BANK` names all that is damaged"
        ) from error


def whole_column(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece, mapped where the table is."""
    chunked = table.column(name)
    # combine_chunks copies even a single one.
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as a numpy array (strings as objects)."""
    with sound(f"the bank's column {name!r}"):
        values = whole_column(table, name)
        fixed = pa.types.is_primitive(values.type)
        if not fixed:  # offsets that lead elsewhere would crash
            values.validate(full=True)
        array: NDArray[Any] = values.to_numpy(zero_copy_only=fixed)
    return array


def digest_column(table: pa.Table, name: str) -> NDArray[np.uint8]:
    """A column of SHA-256 digests as (rows, 32), mapped where the table is."""
    with sound(f"the bank's column {name!r}"):
        values = whole_column(table, name)
        if not isinstance(values, pa.FixedSizeBinaryArray):
            raise ValueError(f"its type is {values.type}")
        width = values.type.byte_width
        data = np.frombuffer(values.buffers()[1] or b"", np.uint8)
        rows = data[values.offset * width :][: len(values) * width]
        return rows.reshape(len(values), width)


def codes(table: pa.Table, name: str) -> tuple[list[str], NDArray[np.int32]]:
    """A text column as its different strings and, for each row, which of them it is."""
    with sound(f"the bank's column {name!r}"):
        values = whole_column(table, name)
        values.validate(full=True)
        coded = values.dictionary_encode()
        return coded.dictionary.to_pylist(), coded.indices.to_numpy()


def interned_strings(table: pa.Table, name: str) -> NDArray[np.object_]:
    """A text column of few different strings: a pointer per row, not a string."""
    strings, rows = codes(table, name)
    interned: NDArray[np.object_] = np.array(strings, object)[rows]
    return interned


def write_vectors(
    path: Path, ids: NDArray[np.int64], vectors: NDArray[np.float32], name: str
) -> None:
    """patch_id (B,) and a column `name` of float32 vectors (B, D)."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    write_table(path, pa.table({"patch_id": pa.array(ids, pa.int64()), name: lists}))


@contextmanager
def vectors_to_fill(
    path: Path, ids: NDArray[np.int64], width: int, name: str
) -> Iterator[NDArray[np.float32]]:
    """`write_vectors` for vectors that come in pieces: (B, width) to fill."""
    with array_to_fill(path, (len(ids), width), np.float32) as vectors:
        yield vectors
        write_vectors(path, ids, vectors, name)


@contextmanager
def array_to_fill(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """An array of zeros for what will be written to `path`, mapped from a file beside it, so that
    as much of it lies in memory as there is room for."""
    with (
        writing(path),
        tempfile.NamedTemporaryFile(prefix=path.name, suffix=PARTIAL, dir=path.parent) as file,
    ):
        reserve(file, max(math.prod(shape), 1) * np.dtype(dtype).itemsize)
        yield np.memmap(file.name, dtype, "r+", shape=shape)


def read_vectors(path: Path, name: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """ids (B,) and vectors (B, D), memory-mapped."""
    table = read_table(path, ("patch_id", name))
    with sound(str(path)):
        lists = whole_column(table, name)
        vectors = lists.flatten().to_numpy(zero_copy_only=True)
        rows = vectors.reshape(len(lists), lists.type.list_size)
    return column(table, "patch_id"), rows


def rows_digest(table: pa.Table, replaced: Mapping[str, bytes] | None = None) -> str:
    """SHA-256 of the rows as values, column by column, whatever file or batches they came in.

    `replaced` gives another column of digests, end to end: those just computed from the pixels.
    """
    digest = hashlib.sha256()
    for field in table.schema:
        values = (replaced or {}).get(field.name)
        digest.update(canonical_json([field.name, str(field.type), table.num_rows]))
        for piece in _column_bytes(table, field.name) if values is None else (values,):
            digest.update(piece)
    return digest.hexdigest()


def _column_bytes(table: pa.Table, name: str) -> Iterator[bytes]:
    """A column's values in pieces, so that no more than one of them is held: text as the JSON list
    of the whole, all else as little-endian numbers or bytes end to end."""
    text = pa.types.is_string(table.schema.field(name).type)
    if text:
        yield b"["
    for start in range(0, table.num_rows, DIGESTED_AT_ONCE):
        some = table.slice(start, DIGESTED_AT_ONCE)
        if text:
            yield (b"," if start else b"") + canonical_json(column(some, name).tolist())[1:-1]
        elif pa.types.is_fixed_size_binary(some.schema.field(name).type):
            yield digest_column(some, name).tobytes()
        else:
            array = column(some, name)
            yield array.astype(array.dtype.newbyteorder("<")).tobytes()
    if text:
        yield b"]"
