"""Servers on this machine: one with a file, which misbehaves as told, and a small hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers without a word on the console."""

    server: Any

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(handler: type[Handler], **state: object) -> Iterator[Any]:
    """The running server, with its `url`, the `requests` it got, and a state for its handler."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.__dict__.update(state, requests=[], ended=threading.Event())
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Shelf(Handler):
    """Serves `content` under `etag`. Each request takes one of `moods`, then the server is well."""

    def do_GET(self) -> None:
        mood = self.server.moods.pop(0) if self.server.moods else "well"
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        etag = {"ETag": self.server.etag}
        content = self.server.content
        if mood.startswith("http"):
            return self.answer(302, Location=mood)
        if mood.isdecimal():
            return self.answer(int(mood))
        if mood == "web page":
            return self.answer(200, b"<html>moved", Content_Type="text/html; charset=utf-8")
        if mood == "hangs":
            self.server.ended.wait()
            return None
        if mood == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)
            return None
        if mood == "in pieces":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))
            return None
        start = 0
        same = self.headers["If-Range"] == self.server.etag or mood == "minds no condition"
        if wanted and same and mood != "knows no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
        begun = start - 1 if mood == "goes on elsewhere" else start
        body = content[begun:]
        if start:
            etag["Content-Range"] = f"bytes {begun}-{len(content) - 1}/{len(content)}"
        if mood == "slow":
            self.server.ended.wait(0.1)
        if mood == "cuts":
            etag["Content-Length"] = str(len(body))
            body = body[: len(body) // 2]
        return self.answer(206 if start else 200, body, **etag)


class Hub(Handler):
    """The part of the Hugging Face hub that downloads need. `repositories`: id to files."""

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        api = path.startswith("api/models/")
        repository = "/".join(path.removeprefix("api/models/").split("/")[:2])
        rest = path.removeprefix("api/models/").removeprefix(repository).split("/")[1:]
        files = self.server.repositories.get(repository)
        if files is None:
            code = "GatedRepo" if "gated" in repository else "RepoNotFound"
            return self.answer(403 if "gated" in repository else 404, X_Error_Code=code)
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if not api:
            return self.resolve(files, "/".join(rest[2:]))
        listed = [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}  # noqa: S324
            for name, body in files.items()
        ]
        found = listed if rest[0] == "tree" else {"id": repository, "sha": COMMIT, "siblings": []}
        return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815

    def resolve(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        etag = hashlib.sha1(files[name]).hexdigest()  # noqa: S324
        return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
