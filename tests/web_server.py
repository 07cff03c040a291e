"""A web server for the tests, of one folder, that fails as it is told."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from pipeline.address import Address

Fault = Callable[["Handler", bytes], None]


@dataclass
class WebServer:
    folder: Path
    address: Address = field(init=False)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # file, Range
    next: dict[str, list[Fault]] = field(default_factory=dict)  # for the next requests for a file
    always: dict[str, Fault] = field(default_factory=dict)  # ... for all after these
    stopping: threading.Event = field(default_factory=threading.Event)

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


@contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    """With ranges, at an address of this machine."""
    web = WebServer(folder)
    server = Server(("127.0.0.1", 0), lambda *given: Handler(web, *given))
    web.address = Address(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.stopping.set()
        server.shutdown()
        thread.join()
        server.socket.close()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has gone is none."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, web: WebServer, *given) -> None:
        self.web = web
        super().__init__(*given)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = unquote(self.path.lstrip("/"))
        self.web.asked.append((name, self.headers["Range"]))
        waiting = self.web.next.get(name)
        fault = waiting.pop(0) if waiting else self.web.always.get(name, answer)
        path = self.web.folder / name
        if path.is_file() or fault is not answer:
            fault(self, path.read_bytes() if path.is_file() else b"")
        else:
            status(404)(self, b"")

    def do_CONNECT(self) -> None:
        """As a proxy that is asked for https."""
        self.do_GET()

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        return int(found[1]) if found else 0

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def head_of(self, data: bytes, start: int) -> None:
        if self.headers["Range"] and start:
            ranges = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.head(206, Content_Length=len(data) - start, Content_Range=ranges)
        else:
            self.head(200, Content_Length=len(data))


def answer(handler: Handler, data: bytes) -> None:
    handler.head_of(data, handler.start)
    handler.wfile.write(data[handler.start :])


def ignores_range(handler: Handler, data: bytes) -> None:
    handler.head(200, Content_Length=len(data))
    handler.wfile.write(data)


def wrong_range(handler: Handler, data: bytes) -> None:
    """The right bytes, said to be others."""
    ranges = f"bytes 1-{len(data) - 1}/{len(data)}"
    handler.head(206, Content_Length=len(data) - handler.start, Content_Range=ranges)
    handler.wfile.write(data[handler.start :])


def drops(after: int, ranges: bool = True) -> Fault:
    """The connection, after so many bytes."""

    def fault(handler: Handler, data: bytes) -> None:
        start = handler.start if ranges else 0
        handler.head_of(data, start)
        handler.wfile.write(data[start : start + after])
        handler.close_connection = True

    return fault


def truncates(to: int) -> Fault:
    """Another file, as far as the server knows."""
    return lambda handler, data: answer(handler, data[:to])


def flips(place: int) -> Fault:
    def fault(handler: Handler, data: bytes) -> None:
        answer(handler, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])

    return fault


def sends_more(handler: Handler, data: bytes) -> None:
    """Than there is, and does not say how much."""
    handler.head(200, Connection="close")
    handler.wfile.write(data + bytes(1 << 16))
    handler.close_connection = True


def zips(handler: Handler, data: bytes) -> None:
    handler.head(200, Content_Length=len(data), Content_Encoding="gzip")
    handler.wfile.write(data)


def zips_rest(handler: Handler, data: bytes) -> None:
    ranges = f"bytes {handler.start}-{len(data) - 1}/{len(data)}"
    length = len(data) - handler.start
    handler.head(206, Content_Length=length, Content_Range=ranges, Content_Encoding="gzip")
    handler.wfile.write(data[handler.start :])


def trickles(handler: Handler, data: bytes) -> None:
    """A byte, and until the test is over no other: one asks for the next in vain."""
    handler.head_of(data, handler.start)
    handler.wfile.write(data[handler.start : handler.start + 1])
    handler.wfile.flush()
    handler.web.stopping.wait()
    handler.close_connection = True


def status(code: int) -> Fault:
    return lambda handler, _: handler.head(code, Content_Length=0)


def leads(to: str) -> Fault:
    return lambda handler, _: handler.head(302, Content_Length=0, Location=to)


def says_nothing(handler: Handler, data: bytes) -> None:
    """Half of it, and then no more until the test is over."""
    handler.head(200, Content_Length=len(data))
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    handler.web.stopping.wait()
    handler.close_connection = True
