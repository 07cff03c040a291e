"""Values from annotation files, looked at before they are used and shown in messages."""

import re
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import DatasetError

MAX_SIDE_PX = 65_535  # JPEG's own limit
MAX_BOX_PX = 1_000_000  # of a box number: far outside any photo, far inside single precision

BROKEN = "unpack or download it again, it may have been cut short"

# Line breaks and lone surrogates would spoil messages and tables.
UNFIT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def get(value: Any, key: str, where: object) -> Any:
    """`value[key]`, or DatasetError that begins with `where`."""
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: it is a {kind_of(value)}, not an object with {key!r}")
    if key not in value:
        raise DatasetError(f"{where}: it has no {key!r}")
    return value[key]


def show(value: Any) -> str:
    """Short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def clip(text: str) -> str:
    """The same for a file's name, which is shown without quotes."""
    return text if len(text) <= 120 else text[:117] + "..."


def kind_of(value: Any) -> str:
    """In JSON's words."""
    names = {list: "list", dict: "object", str: "text", bool: "truth value"}
    return names.get(type(value), "null" if value is None else "number")


MAX_EXACT = 2**53  # up to here a float is the whole number that was written
WRITTEN_WHOLE = re.compile("-?[0-9]{1,20}")


def whole(value: Any) -> int | None:
    """The whole number that is meant: tools write 7 as 7.0 or as "7" too. None for all else."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= MAX_EXACT:
        return int(value)
    if isinstance(value, str) and WRITTEN_WHOLE.fullmatch(value):
        return int(value)
    return None


def is_box(value: Any) -> bool:
    """Four finite numbers x, y, width, height in px, near enough to a photo."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(v) in (int, float) and abs(v) <= MAX_BOX_PX for v in value)
    )


def side(value: Any) -> int | None:
    """A photo's width or height in px, or None."""
    px = whole(value)
    return px if px is not None and 1 <= px <= MAX_SIDE_PX else None


def stays_inside(name: Any) -> bool:
    """A plain relative path with forward slashes that never leaves its folder."""
    if not isinstance(name, str) or UNFIT.search(name) or re.match("[A-Za-z]:", name):
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and not {"..", "\\"} & {*path.parts, *name}


def url(value: Any) -> str:
    """The address, or "": reports make links of these, so nothing but the web's own schemes."""
    text = words(value)
    return text if text.startswith(("http://", "https://")) else ""


def words(value: Any) -> str:
    """The text, or "" where it is none that fits into a line."""
    return value if isinstance(value, str) and not UNFIT.search(value) else ""
