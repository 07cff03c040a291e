"""A file on a web server -> a file here, gone on with where it broke off, and checked.

Only http and https are spoken, to whatever place the server may lead.
"""

import functools
import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import responses
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.util import make_headers, parse_url

from pipeline.checks import clip, show
from pipeline.errors import UserError
from pipeline.files import PARTIAL, put_in_place, writing
from pipeline.lock import lock
from pipeline.output import log

CONNECT_S = 10.0  # for a connection
READ_S = 60.0  # for the next bytes
LEAST = 1 << 16  # bytes in READ_S
TRIES = 6  # that bring less than ENOUGH, in a row
WAIT_S = 1.0  # after the first of these; twice as long after each further one
ENOUGH = 1 << 20  # bytes
BLOCK = 1 << 16
POLL_S = 0.1  # whether another process has done
MOST_REDIRECTS = 5
THREADS = 8  # that may ask one server at once
BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))  # may answer otherwise in a while


class FetchError(UserError):
    """A file that cannot be fetched as it should be."""


class UnreachableError(FetchError):
    """... because the server cannot be reached, is busy or breaks off: later it may be."""


class OtherFileError(FetchError):
    """... because it is not the one that the manifest names."""


Told = Callable[[int], None]


def _ignored(_: int) -> None:
    """Nobody asks how far it is."""


def fetch(address: str, path: Path, *, size: int, sha256: str, told: Told = _ignored) -> None:
    """The file at `address` as `path`, which is written whole or not at all.

    What has arrived is kept as `path`.partial, and the next call goes on from there. One process
    fetches; others that ask for the same wait. FetchError where the file cannot be had or is
    another; OSError where the disk does not take it.

    size     bytes that it has; no more are taken
    sha256   64 hex digits of its content; one that arrives otherwise is fetched once more
    told     is given the number of further bytes; less than 0 where some must come again
    """
    with _partial(path, size) as file:
        if file is None:  # another process has fetched it meanwhile
            told(size)
            return
        told(file.seek(0, os.SEEK_END))
        try:
            for _ in range(2):
                _fill(address, file, size, told)
                if _digest(file) == sha256:
                    put_in_place(Path(file.name), path)
                    return
                _empty(file, told)
            raise OtherFileError(
                f"{address} is not the file that its manifest names: its SHA-256 differs, as often "
                f"as it is fetched; it was damaged or replaced there: ask who hosts it"
            )
        except OtherFileError:
            Path(file.name).unlink(missing_ok=True)
            raise


def fetch_bytes(address: str, *, most: int, tries: int = TRIES) -> bytes:
    """What lies at `address`, of at most so many bytes. FetchError where it cannot be had."""
    for failed in range(1, tries + 1):
        try:
            data = bytearray()
            with _answer(address) as response:
                for block in _blocks(response, address):
                    data += block
                    if len(data) > most:
                        raise FetchError(f"{address} has more than {most / 1e6:.0f} MB")
            return bytes(data)
        except UnreachableError:
            if failed == tries:
                raise
            time.sleep(WAIT_S * 2 ** (failed - 1))
    raise AssertionError("the last try has returned or raised")


@contextmanager
def _partial(path: Path, size: int) -> Iterator[IO[bytes] | None]:
    """`path`.partial, locked, to read and to append to; None where the file is there now."""
    partial = path.with_name(path.name + PARTIAL)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Without a buffer: a process that is forked meanwhile would write it once more.
        with writing(path), partial.open("a+b", buffering=0) as file:
            _wait_for(file, path)
            if not _is_named(file, partial):  # whoever had locked it has given it its name
                continue
            if _has_size(path, size):
                partial.unlink()
                yield None
            else:
                yield file
            return


def _wait_for(file: IO[bytes], path: Path) -> None:
    """Lock it."""
    said = False
    while not lock(file, path.parent):
        if not said:
            log.info(f"waiting for another process that fetches {path.name}")
            said = True
        time.sleep(POLL_S)


def _is_named(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _empty(file: IO[bytes], told: Told) -> None:
    told(-file.seek(0, os.SEEK_END))
    file.truncate(0)


def _fill(address: str, file: IO[bytes], size: int, told: Told) -> None:
    """Append what the file lacks, in as many tries as bring something, and some more."""
    most = failed = 0
    while True:
        if (start := file.seek(0, os.SEEK_END)) > size:
            _empty(file, told)
        elif start == size:
            return
        else:
            try:
                _append(address, file, start, size, told)
            except UnreachableError:
                if (now := file.seek(0, os.SEEK_END)) >= most + ENOUGH:
                    most, failed = now, 0
                else:
                    failed += 1
                if failed == TRIES:
                    raise
                time.sleep(WAIT_S * 2 ** max(failed - 1, 0))


def _append(address: str, file: IO[bytes], start: int, size: int, told: Told) -> None:
    """One request for what comes from `start` on; the file is emptied where another part comes."""
    with _answer(address, start) as response:
        if response.status == 200:
            if start:  # a server that knows no ranges
                _empty(file, told)
                start = 0
            _check_length(response, size, address)
        elif not _is_rest(response, start, size):
            _empty(file, told)
            return
        for block in _blocks(response, address):
            start += len(block)
            if start > size:
                raise OtherFileError(_other_size(address, "more", size))
            _write(file, block)
            told(len(block))
    if start < size:
        raise UnreachableError(f"{address}: the connection broke off")


def _write(file: IO[bytes], block: bytes) -> None:
    """All of it: a disk that fills up takes a part first."""
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]


def _check_length(response: urllib3.BaseHTTPResponse, size: int, address: str) -> None:
    """OtherFileError where the server says that the whole file has another size."""
    length = re.fullmatch(r"\d{1,20}", response.headers.get("Content-Length", ""), re.ASCII)
    if length and int(length[0]) != size:
        raise OtherFileError(_other_size(address, f"{int(length[0]):,}", size))


def _other_size(address: str, has: str, size: int) -> str:
    return (
        f"{address} is not the file that its manifest names: it has {has} bytes, and the manifest "
        f"says {size:,}; it was damaged or replaced there: ask who hosts it"
    )


def _is_rest(response: urllib3.BaseHTTPResponse, start: int, size: int) -> bool:
    """Whether what comes is the file's bytes from `start` on."""
    if response.status != 206:
        return False
    said = re.fullmatch(
        r"bytes (\d{1,20})-\d{1,20}/(\d{1,20}|\*)", response.headers.get("Content-Range", "")
    )
    return said is not None and int(said[1]) == start and said[2] in ("*", str(size))


def _blocks(response: urllib3.BaseHTTPResponse, address: str) -> Iterator[bytes]:
    """What comes, as it comes. UnreachableError where that is fewer than LEAST bytes in READ_S of
    waiting: a byte now and then would take for ever."""
    came, waited = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            block = response.read1(BLOCK, decode_content=False)
        except (exceptions.HTTPError, OSError) as error:
            raise _unreachable(address, error) from error
        if not block:
            return
        came, waited = came + len(block), waited + time.monotonic() - began
        yield block
        if waited > READ_S:
            if came < LEAST:
                raise UnreachableError(
                    f"{address}: fewer than {LEAST:,} bytes came within {READ_S:g} s"
                )
            came, waited = 0, 0.0


@contextmanager
def _answer(address: str, start: int = 0) -> Iterator[urllib3.BaseHTTPResponse]:
    """The answer to a request for what comes from `start` on: the file or, unless that is all of
    it, a part or 416. FetchError for all else."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _request(address, {"Accept-Encoding": "identity", **headers}) as response:
        _check_status(response.status, address, part=start > 0)
        encoding = response.headers.get("Content-Encoding")
        if encoding and response.status != 416:
            raise FetchError(
                f"{address}: the server sends it in encoding {show(encoding)}, unasked; it must "
                f"send files as they are"
            )
        yield response


def _request(address: str, headers: dict[str, str]) -> closing[urllib3.BaseHTTPResponse]:
    """Led to other places by the server, but only to those of the web."""
    url = address
    for _ in range(MOST_REDIRECTS + 1):
        try:
            response = _pool(_proxy(url)).request(
                "GET",
                url,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (exceptions.HTTPError, OSError) as error:
            raise _unreachable(url, error) from error
        if not (to := response.get_redirect_location()):
            return closing(response)
        response.close()
        url = _led(url, to, address)
    raise FetchError(f"{address}: the server leads on and on to other addresses")


def _led(url: str, to: str, address: str) -> str:
    """Where a server leads: to the web, and not from https to http."""
    try:
        there = urljoin(url, to)
        allowed = ("https",) if urlsplit(url).scheme == "https" else ("https", "http")
        if urlsplit(there).scheme in allowed and urlsplit(there).hostname:
            return there
    except ValueError:  # of brackets that do not close
        pass
    raise FetchError(f"{address}: the server leads to {show(to)}, which is refused")


def _check_status(status: int, address: str, *, part: bool) -> None:
    """`part`: whether one was asked for."""
    if status == 200 or (part and status in (206, 416)):
        return
    if status == 206:
        raise FetchError(f"{address}: the server answers with a part of the file, unasked")
    said = f"{status} {responses.get(status, '')}".rstrip()
    if status in BUSY:
        raise UnreachableError(f"{address}: the server answers {said}; try again later")
    if status == 407:
        raise _proxy_refuses(address)
    if status in (401, 403):
        raise FetchError(
            f"{address} may not be read ({said}): ask who hosts it, or copy the bank to a disk of "
            f"yours by other means"
        )
    if status in (404, 410):
        raise FetchError(f"{address} is not there ({said}); is the address right?")
    raise FetchError(f"{address}: the server answers {said}, not with the file")


def _proxy_refuses(address: str) -> FetchError:
    return FetchError(
        f"{address}: the proxy refuses (407): it asks for a name and a password, or for others; "
        f"set {urlsplit(address).scheme}_proxy=http://NAME:PASSWORD@HOST:PORT"
    )


def _unreachable(address: str, error: Exception) -> FetchError:
    """What went wrong with a connection, in a line."""
    host, cause = urlsplit(address).hostname, error.__cause__ or error.__context__
    reason = clip(getattr(cause, "strerror", None) or str(error).partition("\n")[0])
    if isinstance(error, exceptions.ProxyError) and "failed: 407" in str(cause):
        return _proxy_refuses(address)
    if isinstance(error, exceptions.NameResolutionError):
        return UnreachableError(
            f"{address}: no machine is known as {host}; is it spelt right, and is the network up?"
        )
    if isinstance(error, exceptions.NewConnectionError):
        return UnreachableError(
            f"{address}: {host} takes no connection ({reason}); is a server running there?"
        )
    if isinstance(error, exceptions.ConnectTimeoutError):
        return UnreachableError(f"{address}: {host} does not answer within {CONNECT_S:g} s")
    if isinstance(error, exceptions.ReadTimeoutError):
        return UnreachableError(f"{address}: nothing more came within {READ_S:g} s")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FetchError(
            f"{address}: the certificate of {host} is not to be trusted ({cause.verify_message}); "
            f"SSL_CERT_FILE names certificates of your own"
        )
    if isinstance(error, exceptions.IncompleteRead) or isinstance(cause, exceptions.IncompleteRead):
        return UnreachableError(f"{address}: the connection broke off")
    return UnreachableError(f"{address}: the connection failed ({reason})")


def _proxy(address: str) -> str | None:
    """By the environment, as everything else here that speaks http: `https_proxy`, `no_proxy`."""
    parts = urlsplit(address)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


@functools.cache
def _pool(proxy: str | None) -> urllib3.PoolManager:
    """This process's connections."""
    if proxy:
        auth = unquote(parse_url(proxy).auth or "", "latin-1")  # the bytes that are meant, as text
        headers = make_headers(proxy_basic_auth=auth)
        return urllib3.ProxyManager(proxy, maxsize=THREADS, proxy_headers=headers)
    return urllib3.PoolManager(maxsize=THREADS)


# Two processes on one connection would take each other's answers.
os.register_at_fork(after_in_child=_pool.cache_clear)
