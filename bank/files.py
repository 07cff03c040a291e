"""Digests of files and of values; arrays in files."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray


class FileDigest(NamedTuple):
    sha256: str  # 64 hex digits
    bytes: int


def file_digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(sha256, file.tell())


def canonical_json(value: Any) -> bytes:
    """One spelling per value, so that its digest means the value."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def json_digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def save_array(path: Path, array: NDArray[Any]) -> None:
    """As np.save, which of a disk that fills up knows only how much it took."""
    save_pieces(path, array.shape, array.dtype, (array,))


def save_pieces(
    path: Path, shape: Sequence[int], dtype: DTypeLike, pieces: Iterable[NDArray[Any]]
) -> None:
    """`save_array` of an array that comes in pieces, end to end."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype).data)
