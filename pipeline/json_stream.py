"""A JSON file that holds a list -> its entries, one at a time: any file fits into little memory."""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from pipeline.checks import BROKEN
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.progress import progress

CHUNK_BYTES = 1 << 20
MOST_ENTRY = 1 << 26  # characters; a photo's entry in Visual Genome has some ten thousand

MARK = "\ufeff"  # some editors put it before the text

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonList:
    """Iterate once over the entries; then `sha256` is that of the whole file.

    DatasetError, with the byte, where the file is not a whole JSON list in UTF-8.
    """

    def __init__(self, folder: DataFolder, file: str) -> None:
        self.sha256 = ""
        self._folder, self._file = folder, file
        self._where = folder.where(file)
        self._text = ""  # read, from `_at` on not yet parsed
        self._at = 0
        self._dropped = 0  # bytes of the file before `_text`
        self._chunks = self._read_chunks()
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def __iter__(self) -> Iterator[Any]:
        self._expect("[", "a list should begin")
        if self._next() == "]":
            self._at += 1
        else:
            yield from self._entries()
        if self._next():
            self._fail(self._at, "there is more after the end of the list")

    def _entries(self) -> Iterator[Any]:
        while True:
            self._next()
            yield self._entry()
            if self._next() == "]":
                self._at += 1
                return
            self._expect(",", "a comma or the list's end should be")

    def _entry(self) -> Any:
        """Parse what begins at `_at`, reading on while it is not whole."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                further = error.pos - self._at
                if len(self._text) - self._at > MOST_ENTRY or not self._read_on():
                    self._fail(self._at + further, error.msg)
            except RecursionError:
                self._fail(self._at, "brackets nest too deeply in the entry that begins here")
            except ValueError as error:  # not a number, or one of thousands of digits
                self._fail(self._at, f"in the entry that begins here, {error}")
            else:
                # A number near the end of what was read may go on, say with "e+5".
                length, near = end - self._at, len(self._text) - end < 3
                if not near or not self._read_on():
                    self._at += length
                    return value

    def _expect(self, sign: str, what: str) -> None:
        if (character := self._next()) != sign:
            shown = repr(character) if character else "the end of the file"
            self._fail(self._at, f"{what}, but there is {shown}")
        self._at += 1

    def _next(self) -> str:
        """The first character from `_at` on that is no space, or "" at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Add as much again as is not yet parsed, at least a chunk; whether there was any."""
        self._dropped += len(self._text[: self._at].encode())
        self._text, self._at = self._text[self._at :], 0
        added, wanted = [], max(len(self._text), 1)
        while wanted > 0 and (chunk := next(self._chunks, None)) is not None:
            added.append(chunk)
            wanted -= len(chunk)
        self._text += "".join(added)
        return bool(added)

    def _read_chunks(self) -> Iterator[str]:
        """The file's text, hashed and shown on a progress bar as it passes."""
        digest, read, first = hashlib.sha256(), 0, True
        decoder = codecs.getincrementaldecoder("utf-8")()
        size = self._folder.size(self._file)
        chunks = _chunks(self._folder, self._file)
        try:
            for chunk in progress(chunks, f"reading {self._file}", size, "B", size=len):
                digest.update(chunk)
                read += len(chunk)
                text = decoder.decode(chunk)
                if first and text.startswith(MARK):
                    self._dropped += len(MARK.encode())
                    text = text.removeprefix(MARK)
                first = first and not text
                yield text
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            at = read - len(error.object) + error.start
            raise DatasetError(
                f"{self._where} is not UTF-8 text at byte {at:,} of {size:,}; {BROKEN}"
            ) from error
        self.sha256 = digest.hexdigest()

    def _fail(self, at: int, what: str) -> NoReturn:
        byte = self._dropped + len(self._text[:at].encode())
        raise DatasetError(
            f"{self._where} is not a whole JSON list at byte {byte:,} of "
            f"{self._folder.size(self._file):,}: {what}; {BROKEN}"
        )


def _chunks(folder: DataFolder, file: str) -> Iterator[bytes]:
    try:
        with folder.open(file) as opened:
            while chunk := opened.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{folder.where(file)} cannot be read: {reason}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")
