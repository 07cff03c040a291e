"""A JSON file from outside -> its value, or one line that says where it is broken."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pipeline.checks import BROKEN
from pipeline.errors import DatasetError

DECLINED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decoded(data: Any, decode: Callable[[Any], Any], where: str) -> Any:
    """What msgspec's `decode` makes of bytes or of a raw part of them. Where it declines, the
    standard library reads them, or says why it cannot; then parts are values, which stay as they
    are."""
    if not isinstance(data, bytes | msgspec.Raw):
        return data
    try:
        return decode(data)
    except DECLINED:
        return json_value(bytes(data), where, BROKEN)


def read_json(path: Path, remedy: str) -> Any:
    """`remedy` ends the message about a file that is not whole: what to do about it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    return json_value(data, str(path), remedy)


def json_value(data: bytes, where: str, remedy: str) -> Any:
    """The value; DatasetError with the place in the file `where` at which it breaks off."""
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{where} is not UTF-8 text at byte {start + error.start:,} of {len(data):,}"
        raise DatasetError(f"{what}; {remedy}") from error
    try:
        json.loads(text, object_pairs_hook=len)  # a file that breaks off late would fill the memory
        return json.loads(text)
    except json.JSONDecodeError as error:
        offset = start + len(text[: error.pos].encode("utf-8"))
        place = f"byte {offset:,} of {len(data):,} (line {error.lineno}, column {error.colno})"
        raise DatasetError(f"{where} is not JSON at {place}: {error.msg}; {remedy}") from error
    except RecursionError as error:
        raise DatasetError(f"{where} nests brackets too deeply to be read; {remedy}") from error
    except ValueError as error:  # a number of thousands of digits
        raise DatasetError(f"{where} cannot be read as JSON: {error}; {remedy}") from error
