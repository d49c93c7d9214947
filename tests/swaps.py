"""Several versions of a model, and clients that ask while one takes the place of another."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import beit
from beit.weights.store import save_artifact
from served import Running, png, wait_for, write_classifier

IMAGES = 16


class Versions:
    """Classifiers that answer differently; `place` holds the one that is to be served."""

    def __init__(self, folder: Path, count: int) -> None:
        self.place = folder / "served"
        self.images = [png(number) for number in range(IMAGES)]
        made = [beit.load(write_classifier(folder / str(seed), seed)) for seed in range(count)]
        self._artifacts = [each.artifact for each in made]
        self.names = [artifact.version() for artifact in self._artifacts]
        answers = [each.probabilities(self.images) for each in made]
        self.right = dict(zip(self.names, answers, strict=True))
        for number, one in enumerate(answers):  # most answers tell them apart
            for other in answers[:number]:
                assert float(((one - other).abs().amax(dim=1) > 1e-4).float().mean()) > 0.5

    def put(self, number: int) -> None:
        """Write a version into the place."""
        artifact = self._artifacts[number]
        save_artifact(self.place, artifact.model, artifact.details)

    def damage(self) -> None:
        """Flip a bit of the weights in the place."""
        weights = self.place / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)

    def check(self, answer: tuple[int, Any, dict[str, str]], image: int) -> int:
        """The answer is that of the version that it names; which one that is."""
        status, body, headers = answer
        assert status == 200, (status, body)
        version = headers["x-model-version"]
        found = {label["name"]: label["probability"] for label in body["labels"]}
        right = self.right[version][image].tolist()
        for name, probability in zip(("disc", "stripes", "tiles"), right, strict=True):
            assert abs(found[name] - probability) < 1e-5, (version, found, right)
        return self.names.index(version)


class Clients:
    """Ask without a pause, each one question after the other, until they are stopped."""

    def __init__(self, server: Running, versions: Versions, count: int) -> None:
        self._server = server
        self._versions = versions
        self._done = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._asking: list[Future[list[int]]] = [
            self._pool.submit(self._ask, first) for first in range(count)
        ]

    def _ask(self, image: int) -> list[int]:
        told = []
        while not self._done.is_set():
            image = (image + 1) % IMAGES
            answer = self._server.ask("POST", "/predict", self._versions.images[image])
            told.append(self._versions.check(answer, image))
        return told

    def stop(self) -> list[list[int]]:
        """The versions of each one's answers, in their order. Raises what went wrong."""
        self._done.set()
        self._pool.shutdown()
        return [one.result() for one in self._asking]


def reload(server: Running, result: str) -> None:
    """Tell the server to serve what is there now, and wait for it to come out so."""
    name = f'beit_models_reloads_total{{result="{result}"}}'
    before = server.number(name)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.number(name) == before + 1)
    assert server.ask("GET", "/health")[1] == {"state": "ok", "reload": result}
    wait_for(lambda: len(server.workers) == 1)
