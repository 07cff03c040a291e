import hashlib
import itertools
import os
import re
import resource
import ssl
import threading
import time
from base64 import b64encode
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from urllib3 import exceptions

from pipeline import fetch as fetching
from pipeline.errors import DISK_ERRORS
from pipeline.fetch import FetchError, UnreachableError, fetch, fetch_bytes
from tests.web_server import (
    WebServer,
    answer,
    drops,
    flips,
    ignores_range,
    leads,
    says_nothing,
    sends_more,
    serving,
    status,
    trickles,
    truncates,
    wrong_range,
    zips,
    zips_rest,
)

DATA = bytes(range(256)) * 1200  # more than is asked of a connection at once
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "a file.bin"


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT_S", 0.0)
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    with serving(folder) as web:
        yield web


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "here/sub/a.bin"


def got(web: WebServer, path: Path, **changed) -> bytes:
    wanted = {"size": len(DATA), "sha256": SHA256, **changed}
    fetch(web.address.file(NAME), path, **wanted)
    assert os.listdir(path.parent) == [path.name]  # nothing else is left
    return path.read_bytes()


def refused(web: WebServer, path: Path, match: str, **changed) -> None:
    """One line that begins with the address; nothing takes the file's name."""
    with pytest.raises(FetchError, match=match) as caught:
        got(web, path, **changed)
    line = str(caught.value)
    assert line.startswith(web.address.file(NAME))
    assert "\n" not in line
    assert not path.exists()


def ranges(web: WebServer) -> list[str | None]:
    return [asked for _, asked in web.asked]


def test_a_file_comes_whole(web, path):
    assert got(web, path) == DATA
    assert ranges(web) == [None]
    assert got(web, path) == DATA  # it is there: nothing is asked
    assert len(web.asked) == 1


def test_an_empty_file_comes_without_a_word(web, path):
    assert got(web, path, size=0, sha256=hashlib.sha256().hexdigest()) == b""
    assert web.asked == []


def test_a_dropped_connection_goes_on_where_it_broke_off(web, path):
    web.next[NAME] = [drops(1000), drops(70_000)]
    assert got(web, path) == DATA
    assert ranges(web) == [None, "bytes=1000-", "bytes=71000-"]


def test_a_killed_fetch_goes_on_where_it_broke_off(web, path):
    path.parent.mkdir(parents=True)
    path.with_name("a.bin.partial").write_bytes(DATA[:5000])
    assert got(web, path) == DATA
    assert ranges(web) == ["bytes=5000-"]


def test_a_whole_partial_file_needs_no_server(web, path):
    path.parent.mkdir(parents=True)
    path.with_name("a.bin.partial").write_bytes(DATA)
    assert got(web, path) == DATA
    assert web.asked == []


def test_a_partial_file_that_is_too_long_or_another_is_begun_anew(web, path):
    for partial in (bytes(len(DATA) + 1), bytes(5000), bytes(len(DATA))):
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("a.bin.partial").write_bytes(partial)
        assert got(web, path) == DATA


def no_such_range(handler, _: bytes) -> None:
    """Said in a packed page."""
    handler.head(416, Content_Length=0, Content_Encoding="gzip")


@pytest.mark.parametrize("fault", [ignores_range, wrong_range, status(416), no_such_range])
def test_where_another_part_than_was_asked_for_comes_all_is_fetched(web, path, fault):
    web.next[NAME] = [drops(5000), fault]
    assert got(web, path) == DATA
    assert ranges(web)[:2] == [None, "bytes=5000-"]


def test_a_part_that_nobody_asked_for_is_refused(web, path):
    web.always[NAME] = wrong_range
    refused(web, path, "with a part of the file, unasked")


def test_a_server_without_ranges_that_always_drops_is_left(web, path, monkeypatch):
    monkeypatch.setattr(fetching, "ENOUGH", 1000)
    web.always[NAME] = drops(5000, ranges=False)
    refused(web, path, "the connection broke off")
    assert len(web.asked) == fetching.TRIES + 1  # the first brought something


def test_tries_that_bring_something_are_not_counted(web, path, monkeypatch):
    monkeypatch.setattr(fetching, "ENOUGH", 20_000)
    web.always[NAME] = drops(20_000)
    assert got(web, path) == DATA
    assert len(web.asked) == 16 > fetching.TRIES


def test_tries_are_bounded(web, path):
    web.always[NAME] = status(503)
    refused(web, path, r"answers 503 Service Unavailable; try again later")
    assert len(web.asked) == fetching.TRIES


def test_what_has_come_is_kept_for_the_next_call(web, path):
    web.next[NAME] = [drops(5000)] + [status(500)] * fetching.TRIES
    refused(web, path, "answers 500 Internal Server Error")
    assert got(web, path) == DATA
    assert ranges(web)[-1] == "bytes=5000-"


def test_a_busy_server_is_asked_again(web, path):
    web.next[NAME] = [status(code) for code in (500, 503, 429)]
    assert got(web, path) == DATA


def test_waits_grow(web, path, monkeypatch):
    waited = []
    monkeypatch.setattr(fetching, "WAIT_S", 1.0)
    monkeypatch.setattr(time, "sleep", waited.append)
    web.always[NAME] = status(503)
    refused(web, path, "try again later")
    assert waited == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (404, r"is not there \(404 Not Found\); is the address right"),
        (410, r"is not there \(410 Gone\)"),
        (401, r"may not be read \(401 Unauthorized\): ask"),
        (403, r"may not be read \(403 Forbidden\): ask"),
        (418, r"the server answers 418 I'm a Teapot, not with the file"),
        (299, r"the server answers 299, not with the file"),
    ],
)
def test_what_the_server_refuses_is_said_at_once(web, path, code, said):
    web.always[NAME] = status(code)
    refused(web, path, said)
    assert len(web.asked) == 1


def test_a_byte_that_changed_on_the_way_is_fetched_again(web, path):
    web.next[NAME] = [flips(100_000)]
    assert got(web, path) == DATA
    assert ranges(web) == [None, None]  # from the beginning


def test_a_byte_that_is_always_another_is_named(web, path):
    web.always[NAME] = flips(100_000)
    refused(web, path, "is not the file that its manifest names: its SHA-256 differs, as often")
    assert len(web.asked) == 2
    assert os.listdir(path.parent) == []  # of the wrong bytes nothing is kept


def test_a_shorter_or_longer_file_is_named_before_it_comes(web, path):
    web.always[NAME] = truncates(1000)
    refused(web, path, "it has 1,000 bytes, and the manifest says 307,200; it was damaged or repl")
    web.always[NAME] = answer
    refused(web, path, "it has 307,200 bytes, and the manifest says 1,000;", size=1000)


def test_no_more_is_taken_than_the_manifest_says(web, path, monkeypatch):
    written = []
    path.parent.mkdir(parents=True)
    unlink = Path.unlink

    def seen(file: Path, **options: bool) -> None:
        written.append(file.stat().st_size)
        unlink(file, **options)

    monkeypatch.setattr(Path, "unlink", seen)
    web.always[NAME] = sends_more
    refused(web, path, "it has more bytes, and the manifest says 307,200;")
    assert written[0] <= len(DATA)
    assert os.listdir(path.parent) == []


def test_a_file_that_comes_packed_is_refused(web, path):
    web.always[NAME] = zips
    refused(web, path, "in encoding 'gzip', unasked; it must send files as they are")
    web.next[NAME] = [drops(5000), zips_rest]
    refused(web, path, "in encoding 'gzip', unasked")
    assert ranges(web)[-1] == "bytes=5000-"


def test_a_server_that_falls_silent_is_asked_again(web, path, monkeypatch):
    monkeypatch.setattr(fetching, "READ_S", 1.0)
    web.next[NAME] = [says_nothing]
    assert got(web, path) == DATA
    assert ranges(web) == [None, f"bytes={len(DATA) // 2}-"]
    monkeypatch.setattr(fetching, "READ_S", 0.05)
    web.always[NAME] = says_nothing
    path.unlink()
    refused(web, path, "nothing more came within 0.05 s")


def clock(step: float) -> SimpleNamespace:
    """Of which so many seconds go by between two looks."""
    return SimpleNamespace(monotonic=itertools.count(0, step).__next__, sleep=lambda _: None)


def test_a_server_that_trickles_is_asked_again_and_left(web, path, monkeypatch):
    monkeypatch.setattr(fetching, "time", clock(fetching.READ_S + 1))
    web.always[NAME] = trickles
    refused(web, path, r"fewer than 65,536 bytes came within 60 s")
    assert ranges(web) == [None, *(f"bytes={i}-" for i in range(1, fetching.TRIES))]


@pytest.mark.parametrize("enough", [True, False])
def test_how_slow_a_server_may_be(monkeypatch, enough):
    """It sends some bytes ten times in READ_S."""
    monkeypatch.setattr(fetching, "time", clock(fetching.READ_S / 9.99))
    block = bytes(fetching.LEAST // 10 + enough)
    sent = iter([*[block] * 100, b""])
    response = SimpleNamespace(read1=lambda *_, **__: next(sent))
    blocks = fetching._blocks(response, "http://h/x")
    if enough:
        assert len(list(blocks)) == 100
    else:
        with pytest.raises(UnreachableError, match="fewer than"):
            list(blocks)
        assert len([*sent]) == 91  # what had come was handed on


def test_the_server_may_lead_elsewhere_on_the_web(web, path):
    web.next[NAME] = [leads("/elsewhere")]
    (web.folder / "elsewhere").write_bytes(DATA)
    assert got(web, path) == DATA
    web.next[NAME] = [drops(500), leads(web.address.file("elsewhere"))]
    path.unlink()
    assert got(web, path) == DATA
    assert ranges(web)[-1] == "bytes=500-"


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "pipe:touch pwned", "ftp://h/x", "http://[::1/"]
)
def test_the_server_leads_nowhere_else(web, path, to, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    web.always[NAME] = leads(to)
    refused(web, path, re.escape(f"the server leads to '{to}', which is refused"))
    assert not Path("pwned").exists()


def test_no_server_leads_on_for_ever(web, path):
    web.always[NAME] = leads("/a%20file.bin")
    refused(web, path, "leads on and on to other addresses")
    assert len(web.asked) == fetching.MOST_REDIRECTS + 1


def test_from_https_the_server_does_not_lead_to_http(monkeypatch):
    class Answers:
        def request(self, *_, **__):
            return self

        def get_redirect_location(self):
            return "http://example.org/x"

        def close(self):
            pass

    monkeypatch.setattr(fetching, "_pool", lambda _: Answers())
    with pytest.raises(FetchError, match=r"leads to 'http://example.org/x', which is refused"):
        fetch_bytes("https://example.org/y", most=10)


def test_a_machine_that_does_not_answer_is_named(path, monkeypatch):
    monkeypatch.setattr(fetching, "WAIT_S", 0.0)
    with serving(path.parent) as gone:
        pass
    refused(gone, path, r"127\.0\.0\.1 takes no connection \(Connection refused\); is a server")


@pytest.mark.parametrize(
    ("error", "said", "later"),
    [
        (
            exceptions.NameResolutionError("h.org", None, OSError("x")),
            "known as h.org; is it",
            True,
        ),
        (exceptions.ConnectTimeoutError(None, "x"), "h.org does not answer within 10 s", True),
        (exceptions.ReadTimeoutError(None, "", "x"), "nothing more came within 60 s", True),
        (exceptions.ProtocolError("Connection broken"), "failed (Connection broken)", True),
        (exceptions.SSLError("x"), "certificate of h.org is not to be trusted (expired)", False),
    ],
)
def test_what_can_happen_to_a_connection_is_told_apart(error, said, later):
    if not later:
        error.__cause__ = ssl.SSLCertVerificationError("x")
        error.__cause__.verify_message = "expired"
    told = fetching._unreachable("https://h.org/x", error)
    assert said in str(told)
    assert isinstance(told, UnreachableError) == later


def test_a_full_disk_loses_nothing(web, path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/a\.bin'") as caught:
            got(web, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in DISK_ERRORS
    assert not path.exists()
    assert got(web, path) == DATA
    assert ranges(web) == [None, "bytes=100000-"]


def test_one_of_several_processes_fetches(web, path):
    context = get_context("spawn")
    given = (web.address.file(NAME), path)
    wanted = {"size": len(DATA), "sha256": SHA256}
    processes = [context.Process(target=fetch, args=given, kwargs=wanted) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert got(web, path) == DATA
    assert len(web.asked) == 1


def test_of_several_threads_one_fetches(web, path, capsys):
    def slowly(handler, data: bytes) -> None:
        second.start()
        handler.head_of(data, 0)
        while "waiting for another process" not in capsys.readouterr().out:
            time.sleep(0.01)
        handler.wfile.write(data)

    web.next[NAME] = [slowly]
    given = (web.address.file(NAME), path)
    wanted = {"size": len(DATA), "sha256": SHA256}
    first, second = (threading.Thread(target=fetch, args=given, kwargs=wanted) for _ in range(2))
    first.start()
    first.join()
    second.join()
    assert path.read_bytes() == DATA
    assert len(web.asked) == 1


def test_a_process_that_is_forked_meanwhile_writes_nothing(web, path):
    """It closes the file, and all that came was written before."""

    def fork(_: int) -> None:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)

    web.next[NAME] = [drops(1000)]
    fetch(web.address.file(NAME), path, size=len(DATA), sha256=SHA256, told=fork)
    assert path.read_bytes() == DATA
    assert ranges(web) == [None, "bytes=1000-"]


def test_how_far_it_is_is_told(web, path):
    told = []
    web.next[NAME] = [drops(5000), ignores_range, answer]
    fetch(web.address.file(NAME), path, size=len(DATA), sha256=SHA256, told=told.append)
    assert sum(told) == len(DATA)
    assert -5000 in told
    assert 5000 in told
    told.clear()
    fetch(web.address.file(NAME), path, size=len(DATA), sha256=SHA256, told=told.append)
    assert told == [len(DATA)]


def test_bytes_of_a_bounded_number_may_be_asked_for(web):
    address = web.address.file(NAME)
    web.next[NAME] = [drops(7), status(500)]
    assert fetch_bytes(address, most=len(DATA)) == DATA
    with pytest.raises(FetchError, match="has more than 0 MB"):
        fetch_bytes(address, most=len(DATA) - 1)
    web.always[NAME] = status(500)
    with pytest.raises(UnreachableError, match="answers 500"):
        fetch_bytes(address, most=len(DATA), tries=2)


def test_bytes_come_whole_and_as_they_are_or_not_at_all(web):
    address = web.address.file(NAME)
    for fault, said in (
        (wrong_range, "with a part of the file, unasked"),
        (zips_rest, "with a part of the file, unasked"),
        (status(416), "answers 416 Requested Range Not Satisfiable, not with the file"),
        (zips, "in encoding 'gzip', unasked"),
    ):
        web.next[NAME] = [fault]
        with pytest.raises(FetchError, match=rf"^{address}: the server .*{said}"):
            fetch_bytes(address, most=2 * len(DATA))
    assert len(web.asked) == 4


def test_a_proxy_is_told_name_and_password(web, path, monkeypatch):
    told = []

    def proxy(handler, _: bytes) -> None:
        told.append(handler.headers["Proxy-Authorization"])
        if told[-1]:
            answer(handler, DATA)
        else:
            status(407)(handler, b"")

    address = "http://bank.invalid/x"
    web.always[address] = proxy
    monkeypatch.setenv("http_proxy", web.address.replace("//", "//me:a%40%C3%A4@"))
    fetch(address, path, size=len(DATA), sha256=SHA256)
    assert path.read_bytes() == DATA
    assert told == ["Basic " + b64encode("me:a@\u00e4".encode()).decode()]


@pytest.mark.parametrize("address", ["http://bank.invalid/x", "https://bank.invalid/x"])
def test_a_proxy_that_asks_for_a_name_is_told_apart(web, address, monkeypatch):
    monkeypatch.setenv(f"{urlsplit(address).scheme}_proxy", web.address)
    web.always[address] = web.always["bank.invalid:443"] = status(407)
    with pytest.raises(FetchError, match=rf"^{address}: the proxy .* a name and a password") as at:
        fetch_bytes(address, most=10)
    assert f"{urlsplit(address).scheme}_proxy=http://NAME:PASSWORD@" in str(at.value)
    assert len(web.asked) == 1


def test_a_proxy_of_the_environment_is_used(web, path, monkeypatch):
    (web.folder / "http:").mkdir()
    monkeypatch.setenv("http_proxy", web.address)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web.always["http://bank.invalid/x"] = lambda handler, _: answer(handler, DATA)
    fetch("http://bank.invalid/x", path, size=len(DATA), sha256=SHA256)
    assert path.read_bytes() == DATA
    path.unlink()
    assert got(web, path) == DATA  # without it
    assert web.names() == ["http://bank.invalid/x", NAME]
