"""A real server in a process of its own, with the smallest models."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from beit.config import LinearHeadConfig
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.store import Details, save_artifact
from miniature import BACKBONE, VAE

NAMES = ("classifier", "segmenter", "masked", "tokenizer")
IMAGE = {"content-type": "image/png"}
CLASSES = Details(classes=("disc", "stripes", "tiles"))
SECRET = "0123456789abcdef"  # noqa: S105
PATIENT = [f"--{what}-deadline=240" for what in ("header", "body", "idle", "write")]
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def write_classifier(place: Path, seed: int = 0) -> Path:
    """A classifier with random weights; another seed is another one."""
    torch.manual_seed(seed)
    model = Classifier(BACKBONE, len(CLASSES.classes))
    torch.nn.init.normal_(model.head.weight)  # else every image would have the same answer
    return save_artifact(place, model, CLASSES)


def write_artifacts(folder: Path) -> dict[str, Path]:
    """An artifact of each kind with random weights."""
    classifier = write_classifier(folder / "classifier")
    tokenizer = build_tokenizer(VAE)
    models = {
        "segmenter": (Segmenter(BACKBONE, 3, LinearHeadConfig()), CLASSES),
        "masked": (MaskedImageModel(BACKBONE, VAE.codes), Details(tokenizer=tokenizer.digest())),
        "tokenizer": (tokenizer, Details()),
    }
    return {"classifier": classifier} | {
        name: save_artifact(folder / name, model, details)
        for name, (model, details) in models.items()
    }


def png(number: int, size: tuple[int, int] = (24, 32)) -> bytes:
    """An image that no other number has."""
    coarse = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


class Running:
    """A server that listens."""

    def __init__(self, process: subprocess.Popen[str], port: int, place: Path) -> None:
        self.process = process
        self.port = port
        self._place = place

    def log(self) -> str:
        """What it and its worker wrote to the standard error."""
        return self._place.read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that run its models; for a while two, when newer ones are to be served."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:  # gone meanwhile
                continue
            if int(fields[1]) == self.process.pid:
                found.append(int(place.parent.name))
        return found

    @property
    def worker(self) -> int:
        """The process that runs its models."""
        (found,) = self.workers
        return found

    def memory(self) -> int:
        """Resident pages of the server and its worker."""
        places = [Path(f"/proc/{number}/statm") for number in (self.process.pid, self.worker)]
        return sum(int(place.read_text().split()[1]) for place in places)

    def handles(self) -> int:
        """Open files and threads of both."""
        places = [Path(f"/proc/{number}") for number in (self.process.pid, self.worker)]
        return sum(
            len(list((place / what).iterdir())) for place in places for what in ("fd", "task")
        )

    def connect(self, timeout: float = 240) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (read as JSON where it is), headers with names in small letters."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or (IMAGE if body is not None else {}))
            with connection.getresponse() as response:
                data = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        kind = found.get("content-type", "")
        return response.status, json.loads(data) if "json" in kind else data, found

    def is_well(self) -> bool:
        """Whether its models answer."""
        return self.ask("GET", "/health")[0] == 200

    def number(self, name: str) -> float:
        """One of its metrics."""
        text: str = self.ask("GET", "/metrics")[1].decode()
        return float(text.split(f"\n{name} ")[1].split()[0])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(240)


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    """Ask again and again until it is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@contextmanager
def serving(
    *arguments: str, environment: dict[str, str], before: Sequence[str] = (), **started: Any
) -> Iterator[Running]:
    """`beit serve` with these arguments on a free port; ended at the end. `before`: what stands
    before the verb; `started`: options of Popen."""
    with tempfile.NamedTemporaryFile("a") as log:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "beit.cli", *before, "serve", *arguments),
                *("--port", "0", "--drain", "0.2"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            **started,
        )
        place = Path(log.name)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(
                r"^ready: serving .* on http://127\.0\.0\.1:(\d+) \(process (\d+)\)$", line
            )
            if found is None:
                process.wait(240)
                raise AssertionError(line + place.read_text())
            assert int(found[2]) == process.pid  # whom SIGHUP reaches
            yield Running(process, int(found[1]), place)
        finally:
            process.kill()
            process.communicate()


def code_of(answer):
    status, body, headers = answer
    assert headers["x-request-id"] == body["error"]["request_id"]
    return status, body["error"]["code"]
