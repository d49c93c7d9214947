"""Shards in object storage, behind a server of S3 in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import Loader
from beit.data.pack import pack
from beit.data.sources import ImageSource
from beit.data.transforms import SingleView
from beit.errors import DataError, UnreadableError

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
# Its transports are closed by the collector when a connection was cut.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Draw = Callable[..., Path]
NAMES = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(6)]


class Wire:
    """Carries bytes to a server and back; cuts that many answers after their first bytes."""

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self.cut = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            for ends in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self.cuts:
                    self.cuts -= 1
                    self.cut += 1
                    sink.sendall(data[:40])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a server that trusts everybody until it is told otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    process = subprocess.Popen(
        [str(program), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/"):
                    break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def wire(server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(server)
    for name, value in {
        "AWS_ENDPOINT_URL": wire.address, "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
        "BEIT_HOME": str(tmp_path / "home"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("beit.data.storage.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # ours are what is looked at
    s3fs.S3FileSystem.clear_instance_cache()
    yield wire
    s3fs.S3FileSystem.clear_instance_cache()
    wire.close()


@pytest.fixture
def packed(wire: Wire, draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """What was packed and now lies in the bucket, as it lies on this machine."""
    folder = pack(str(draw(*NAMES)), str(tmp_path_factory.mktemp("packed") / "out")).folder
    storage = s3fs.S3FileSystem()
    storage.mkdirs("bucket", exist_ok=True)
    storage.put(f"{folder}/", "bucket/data/", recursive=True)
    storage.put(f"{folder}/000000.tar", "bucket/bare/000000.tar")  # without its index
    return open_source(str(folder))


def contents(source: ImageSource) -> list[Any]:
    return [source.read(index)[:3] for index in range(len(source))]


@pytest.mark.parametrize(
    "address", ["data", "data/000000.tar", "data/*.tar", "bare/{000000..000000}.tar"]
)
def test_storage_gives_what_the_folder_gives(packed: ImageSource, address: str) -> None:
    source = open_source(f"s3://bucket/{address}")
    assert contents(source) == contents(packed)
    assert source.classes == packed.classes == ("cat", "dog")
    assert source.fingerprint() == packed.fingerprint()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_reads_the_same_batches(packed: ImageSource, workers: int) -> None:
    read = []
    for source in (packed, open_source("s3://bucket/data")):
        loader = Loader(
            source, SingleView(config=ViewConfig(), size=(16, 16)), channels=3, batch=4,
            micro_batch=4, seed=1, config=LoaderConfig(workers=workers, cache=False),
        )  # fmt: skip
        read.append(list(loader.batches(0, 6)))
    for near, far in zip(*read, strict=True):
        assert near.keys == far.keys
        assert not far.unreadable
        assert torch.equal(near.images, far.images)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nobucket/data", r"s3://nobucket/data is not a folder of shards.*bucket does not exist"),
        ("nobucket/0.tar", r"s3://nobucket/0\.tar cannot be read.*bucket does not exist"),
        ("nobucket/*.tar", r"nothing is there for 's3://nobucket/\*\.tar'"),
        ("bucket/x.tar", r"s3://bucket/x\.tar cannot be read"),
        ("bucket/x/*.tar", r"nothing is there for 's3://bucket/x/\*\.tar'"),
    ],
)
def test_what_is_not_there(packed: ImageSource, address: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_source(f"s3://{address}")


def test_wrong_credentials(packed: ImageSource, server: int) -> None:
    def trust(requests: str) -> None:
        told = urllib.request.Request(
            f"http://127.0.0.1:{server}/moto-api/reset-auth",
            requests.encode(),
            {"Content-Type": "text/plain"},
            method="POST",
        )
        with urllib.request.urlopen(told):
            pass

    source = open_source("s3://bucket/data")
    trust("0")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        for address in ("data", "data/000000.tar", "data/*.tar"):
            with pytest.raises(DataError, match=r"Forbidden|Access Key Id .* does not exist"):
                open_source(f"s3://bucket/{address}")
        with pytest.raises(UnreadableError, match=r"Forbidden|Access Key Id"):
            source.read(0)
    finally:
        trust("inf")


def test_no_credentials(packed: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"s3://bucket/data.*Unable to locate credentials"):
        open_source("s3://bucket/data")


def test_a_cut_connection_is_tried_again(packed: ImageSource, wire: Wire) -> None:
    source = open_source("s3://bucket/data")
    wire.cuts = 2
    assert contents(source) == contents(packed)
    assert wire.cut == 2
    wire.cuts = 10**6
    with pytest.raises(UnreadableError, match=r"s3://bucket/data/000000\.tar"):
        source.read(0)
    with pytest.raises(DataError, match=r"s3://bucket/data/\*\.tar cannot be listed"):
        open_source("s3://bucket/data/*.tar")
    wire.cuts = 0
    assert source.read(0)[:3] == packed.read(0)[:3]
