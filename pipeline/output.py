"""What commands print: in UTF-8 whatever the locale, and never a reason to stop the work.

The reader of our output may go away (`| head`), or the disk of a log fill up.
What is being built or trained goes on then, unseen.

What a command is there for (digests, scores, where its files lie) is printed. All else is logged:
how the work goes as information, which --quiet silences, what its user should know as a warning.
"""

import errno
import io
import logging
import os
import sys
from typing import Any, TextIO

# Of a pipe that nobody reads, or of a terminal that was closed: nobody misses what is printed.
READER_GONE = (errno.EPIPE, errno.EIO)
UTF_8 = "utf-8"

log = logging.getLogger("retrievegan")


class Output(io.TextIOWrapper):
    """Text to a file descriptor; what that does not take is lost, and `error` says why first."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except UnicodeEncodeError:  # half a character, as JSON may hold one by its number
            encoding = self.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self.error = self.error or error
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.error = self.error or error


class Lines(logging.Handler):
    """Information on stdout, warnings on stderr, as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno > logging.INFO else sys.stdout
        print(self.format(record), file=stream, flush=True)


def show_log(*, quiet: bool = False) -> None:
    """Print what is logged from now on; `quiet`: warnings alone."""
    log.handlers = [Lines()]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def informs() -> bool:
    """Whether information is shown."""
    return log.isEnabledFor(logging.INFO)


def use_utf_8() -> None:
    """Start this command again in Python's UTF-8 mode, where the locale is another: the names of
    files in annotations are found then as they are written."""
    if sys.getfilesystemencoding().lower() != UTF_8 and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def prepare_streams() -> None:
    """Put an `Output` in the place of stdout and stderr."""
    _fill_closed()
    sys.stdout = sys.__stdout__ = _output(sys.stdout, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _output(sys.stderr, 2)  # type: ignore[misc]


def _fill_closed() -> None:
    """A closed stdout (`>&-`) would give its number to the next file, and take what is printed
    into it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _output(stream: TextIO | None, number: int) -> Output:
    if stream is None:  # it was closed
        return Output(open(number, "wb", closefd=False), UTF_8, "surrogateescape")
    buffering: dict[str, Any] = {"line_buffering": number == 2 or stream.isatty()}
    encoding = stream.encoding if "PYTHONIOENCODING" in os.environ else UTF_8
    errors = "surrogateescape" if encoding.lower() == UTF_8 else "backslashreplace"
    stream.flush()
    return Output(stream.detach(), encoding, errors, **buffering)  # type: ignore[attr-defined]


def lost_output() -> OSError | None:
    """Why what was printed is not whole; None where it is, or where its reader has gone."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        error = stream.error if isinstance(stream, Output) else None
        if error is not None and error.errno not in READER_GONE:
            return error
    return None
