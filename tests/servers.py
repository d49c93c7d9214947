"""Servers on this machine: one with a file, which misbehaves as told, and a small hub to read from
and to write to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"

TOKEN = "hf_of_owner"  # noqa: S105
OWNER = "owner"
LICENSES = ("mit", "apache-2.0", "cc-by-4.0")


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


class WritableHub(Hub):
    """A hub that `owner` may write to, held to what the real one asks: a large file goes to storage
    first (git LFS), then one commit names it by its hash. `broken`: paths that answer 500; `full`:
    nothing is stored."""

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.command, path))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.refuse(401, "Invalid credentials in Authorization header")
        if path in self.server.broken:
            return self.refuse(500, "Internal Error")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path == "/storage/verify":
            asked = json.loads(body)
            whole = len(self.server.storage[asked["oid"]]) == asked["size"]
            return self.tell({}) if whole else self.refuse(404, "not there")
        repository = path.removeprefix("/api/models").removeprefix("/").removesuffix(LFS)
        repository, verb = "/".join(repository.split("/")[:2]), repository.split("/")[2:]
        if repository not in self.server.repositories:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if path.endswith(LFS):
            return self.places(json.loads(body)["objects"])
        if verb == ["preupload", "main"]:
            return self.modes(json.loads(body)["files"])
        assert verb == ["commit", "main"]
        return self.commit(repository, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        self.server.requests.append((self.command, "/storage"))
        body = b"".join(self.pieces())
        oid = self.path.rpartition("/")[2]
        if self.server.full or hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(403, "this is not to be stored")
        self.server.storage[oid] = body
        return self.answer(200)

    def pieces(self) -> Iterator[bytes]:
        """The body, whose length is stated in front of it or of each of its chunks."""
        if "Content-Length" in self.headers:
            yield self.rfile.read(int(self.headers["Content-Length"]))
            return
        while length := int(self.rfile.readline(), 16):
            yield self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()

    def tell(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def refuse(self, status: int, why: str) -> None:
        body = json.dumps({"error": why}).encode()
        self.answer(status, body, Content_Type="application/json")

    def create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            return self.refuse(403, f"You may not create a model for {asked['organization']}")
        if repository in self.server.repositories:
            return self.refuse(409, "You already created this model repo")
        self.server.repositories[repository] = {}
        self.server.visible[repository] = asked["visibility"]
        return self.tell({"url": f"{self.server.url}/{repository}"})

    def validate(self, content: str) -> None:
        _, head, _ = content.split("---\n", 2)
        known = yaml.safe_load(head).get("license", "mit") in LICENSES
        errors = [] if known else [{"message": f"license must be one of {LICENSES}"}]
        body = json.dumps({"errors": errors, "warnings": []}).encode()
        self.answer(200 if known else 400, body, Content_Type="application/json")

    def modes(self, files: list[dict[str, Any]]) -> None:
        self.tell({"files": [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]})  # fmt: skip

    def places(self, objects: list[dict[str, Any]]) -> None:
        actions = {
            thing["oid"]: {
                "upload": {"href": f"{self.server.url}/storage/{thing['oid']}"},
                "verify": {"href": f"{self.server.url}/storage/verify"},
            }
            for thing in objects
        }
        self.tell({"objects": [thing | {"actions": actions[thing["oid"]]} for thing in objects]})

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile"
                files[value["path"]] = self.server.storage[value["oid"]]
        self.tell({"commitUrl": f"{self.server.url}/{repository}/commit/{COMMIT}",
                   "commitOid": COMMIT})  # fmt: skip


LFS = ".git/info/lfs/objects/batch"


@contextmanager
def writable_hub() -> Iterator[Any]:
    """An empty one."""
    state: dict[str, Any] = {"repositories": {}, "visible": {}, "storage": {}, "messages": []}
    with serving(WritableHub, broken=set(), full=False, **state) as server:
        yield server
