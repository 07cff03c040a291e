"""Digests of files and of values."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple


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
