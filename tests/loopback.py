"""A real HTTP server on this machine that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Handle = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers one request, whose body is given."""


@dataclass
class Loopback:
    """A running server: its address, and what was asked of it (method, path, headers, body)."""

    url: str
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test ends: an answer that comes too slowly waits for it."""


@contextmanager
def serve(handle: Handle) -> Iterator[Loopback]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            running.requests.append((self.command, self.path, dict(self.headers.items()), body))
            handle(self, body)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # a client that went away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    running = Loopback(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        running.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answer(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """Send one whole answer; underscores in header names stand for hyphens."""
    request.send_response(status)
    for name, value in ({"content_length": str(len(body))} | headers).items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def files_below(root: Path, fault: Callable[[BaseHTTPRequestHandler, Path], bool] = lambda *_: False) -> Handle:
    """Answer with files, whole or in part, as servers of objects do, unless ``fault`` has answered."""

    def handle(request: BaseHTTPRequestHandler, _body: bytes) -> None:
        file = root / unquote(request.path).lstrip("/")
        if fault(request, file):
            return
        if not file.is_file():
            answer(request, 404, b"no such thing")
            return
        data, part = file.read_bytes(), request.headers.get("range", "")
        if not part:
            answer(request, 200, data)
            return
        first, last = map(int, part.removeprefix("bytes=").split("-"))
        answer(request, 206, data[first : last + 1], content_range=f"bytes {first}-{last}/{len(data)}")

    return handle
