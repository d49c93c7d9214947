"""Shards behind an address are those of a folder: fetched by ranges, through failures."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tar_shards import NAMES, contents, tar

from beit.config.data import Division, LoaderConfig, ViewConfig
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.data.loader import Loader
from beit.data.pack import pack
from beit.data.transforms import SingleView
from beit.errors import DataError, ResourceError, UnreadableError

Draw = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("own_home")


class RangeServer(SimpleHTTPRequestHandler):
    """A server of files that knows ranges, and can be told to fail."""

    failures = 0
    requests: list[tuple[str, str]] = []  # noqa: RUF012 - shared on purpose

    def send_head(self) -> io.BytesIO | None:  # type: ignore[override]
        wanted = self.headers.get("Range", "")
        type(self).requests.append((f"{self.command} {self.path}", wanted))
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return None
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404)
            return None
        size = len(data)
        if wanted:
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        return io.BytesIO(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(elsewhere: Path) -> Iterator[str]:
    RangeServer.failures, RangeServer.requests = 0, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeServer, directory=str(elsewhere)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_shards_behind_an_address(
    draw: Draw, elsewhere: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr("beit.data.storage.PAUSE_SECONDS", 0)
    pack(str(draw(*NAMES)), str(elsewhere / "out"))
    near = open_source(str(elsewhere / "out"))
    far = open_source(f"{served}/out")
    assert contents(far) == contents(near)
    assert far.fingerprint() == near.fingerprint()
    read = [one for one in RangeServer.requests if one[0].startswith("GET") and ".tar" in one[0]]
    assert {bool(wanted) for path, wanted in read if path.endswith(".tar")} == {True}
    labelled = divide(Dataset(f"{served}/out"), Division(split=0.5, seed=0))
    assert [len(labelled.train), len(labelled.validation)] == [12, 12]
    RangeServer.failures = 2
    assert far.read(3) == near.read(3)
    RangeServer.failures = 5
    with pytest.raises(UnreadableError, match="503"):
        far.read(3)
    loader = Loader(
        far, SingleView(config=ViewConfig(), size=(16, 16)), channels=3, batch=4, micro_batch=4,
        seed=1, config=LoaderConfig(workers=2, cache=False),
    )  # fmt: skip
    keys = [key for batch in loader.batches(0, 3) for key in batch.keys]
    assert sorted(keys) == sorted(near.key(index) for index in range(12))


def test_foreign_shards_behind_an_address_are_indexed(elsewhere: Path, served: str) -> None:
    pytest.importorskip("aiohttp")
    tar(elsewhere / "0.tar", {"1.png": b"one", "1.cls": b"a"})
    tar(elsewhere / "1.tar", {"2.png": b"two", "2.cls": b"b"})
    source = open_source(f"{served}/{{0..1}}.tar")
    assert contents(source) == [("1.png", 0, b"one"), ("2.png", 1, b"two")]
    asked = len(RangeServer.requests)
    open_source(f"{served}/{{0..1}}.tar")
    assert not [
        one
        for one in RangeServer.requests[asked:]
        if one[0].endswith(("0.tar", "1.tar")) and one[1]
    ]
    with pytest.raises(DataError, match=r"2\.tar cannot be read"):
        open_source(f"{served}/{{1..2}}.tar")
    with pytest.raises(DataError, match=r"its shards\.json cannot be read"):
        open_source(f"{served}/nowhere")


def test_missing_library_is_named() -> None:
    with pytest.raises(ResourceError, match="library for it is not installed") as caught:
        open_source("gs://bucket/{0..3}.tar")
    assert "beit[remote]" in caught.value.remedy
