"""A folder behind HTTP, as far away as object storage: answers come late and through a wire of
limited width. It counts its requests, and misbehaves as told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 2**18


class FarServer(ThreadingHTTPServer):
    """Serves the files of a folder with ranges."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, latency: float = 0.0, rate: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.latency, self.rate = folder, latency, rate
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: Counter[str] = Counter()
        """By the path."""
        self.moods: tuple[str, ...] = ()
        """Of the first requests for each shard: `503` or `cut`; then the server is well."""
        self._wire = threading.Lock()
        self._free = 0.0
        """When the wire has carried what was given to it."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away."""

    def wait_for_wire(self, size: int) -> None:
        """Until that many bytes have passed, one after the other with all other answers."""
        if not self.rate:
            return
        with self._wire:
            self._free = max(self._free, time.monotonic()) + size / self.rate
            until = self._free
        time.sleep(max(until - time.monotonic(), 0))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FarServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        time.sleep(self.server.latency)
        place = self.server.folder / self.path.removeprefix("/")
        at, moods = self.server.requests[self.path] - 1, self.server.moods
        mood = moods[at] if place.suffix == ".tar" and at < len(moods) else ""
        if mood == "503" or not place.is_file():
            self._start(503 if mood else 404, 0)
            return
        size = place.stat().st_size
        first, last = 0, size - 1
        wanted = self.headers.get("Range")
        if wanted:
            begin, end = wanted.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
        self._start(206 if wanted else 200, last + 1 - first, f"bytes {first}-{last}/{size}")
        if self.command == "HEAD":
            return
        with place.open("rb") as file:
            file.seek(first)
            left = last + 1 - first
            if mood == "cut":
                left //= 2
                self.close_connection = True
            while left:
                data = file.read(min(left, PIECE))
                self.server.wait_for_wire(len(data))
                self.wfile.write(data)
                left -= len(data)

    do_HEAD = do_GET  # noqa: N815

    def _start(self, status: int, size: int, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", part)
        self.end_headers()


@contextmanager
def serving(folder: Path, latency: float = 0.0, rate: float = 0.0) -> Iterator[FarServer]:
    """The running server, in a thread."""
    server = FarServer(folder, latency, rate)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
