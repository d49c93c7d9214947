"""The process that decodes images and runs the models: if it dies, the server does not.

It is started by `beit.serve.model_process` with one end of a socket. It ends when the other end is
closed, or when the accelerator fails: after that no call to it in this process succeeds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch

from beit.config.plugins import import_outside
from beit.data.colours import ValueRange
from beit.data.decode import decode, read_header
from beit.data.file_types import UNDECODED
from beit.errors import BeitError, CheckpointError, ConfigError, ResourceError, UnreadableError
from beit.hardware import raise_if_exhausted
from beit.inference.abilities import Ability, NotFiniteError, Options
from beit.inference.predictor import Predictor, load
from beit.process import end_with_parent
from beit.serve.http_errors import (
    BAD_OPTION,
    NOT_AN_IMAGE,
    NOT_FINITE,
    TOO_MANY_PIXELS,
    UNREADABLE,
    Reason,
    Refused,
)
from beit.serve.model_process import Frame, read
from beit.tasks.task import task_of_kind
from beit.terminal import log_to_terminal
from beit.tokenizers.base import VisualTokenizer

DECODERS = 2
TOLERANCE = 1e-4
TRIED: Options = {"top": 1, "block": None, "seed": 0}
REASONS: dict[type[BaseException], Reason] = {ConfigError: BAD_OPTION, NotFiniteError: NOT_FINITE}
"""What an ability raises, as clients see it."""


class Model(NamedTuple):
    """A model that is served, and what it can do."""

    predictor: Predictor
    abilities: Mapping[str, Ability]


Models = Mapping[str, Model]
Outcome = tuple[dict[str, str], bytes]
"""An empty head and the answer as JSON, or a head that says why there is no answer."""


def load_models(places: Mapping[str, str], device: str) -> Models:
    """Load the artifacts by name; a pre-trained model gets its tokenizer if that is served too.

    Raises BeitError if an artifact does not load.
    """
    predictors = {name: load(place, device=device) for name, place in places.items()}
    tokenizers = {
        predictor.model.digest(): predictor.model
        for predictor in predictors.values()
        if isinstance(predictor.model, VisualTokenizer)
    }
    for predictor in predictors.values():
        predictor.tokenizer = tokenizers.get(predictor.artifact.details.tokenizer)
    return {name: Model(predictor, _abilities(predictor)) for name, predictor in predictors.items()}


def _abilities(predictor: Predictor) -> dict[str, Ability]:
    """The abilities that its task gives a model, and for which it has all that it needs."""
    task = task_of_kind(predictor.artifact.kind)
    known = {} if task is None else task.abilities
    return {
        name: ability
        for name, ability in known.items()
        if predictor.tokenizer is not None or not ability.by_tokenizer
    }


def describe(models: Models) -> list[dict[str, Any]]:
    """The models as clients see them."""
    return [
        {
            "name": name,
            "kind": model.predictor.artifact.kind,
            "version": model.predictor.artifact.version(),
            "abilities": list(model.abilities),
            "classes": list(model.predictor.classes),
            "multi_label": model.predictor.artifact.details.multi_label,
            "size": list(model.predictor.size),
        }
        for name, model in models.items()
    ]


def try_models(models: Models) -> None:
    """Try every ability of every model on random images.

    Raises:
        CheckpointError: Numbers are not finite, a model fails, or a batch gets other answers than
            its images one by one.
    """
    rng = np.random.default_rng(0)
    for name, (predictor, abilities) in models.items():
        images = rng.integers(0, 256, (2, 48, 64, predictor.channels), np.uint8)
        for word, ability in abilities.items():
            try:
                items = [ability.prepare(predictor, pixels, TRIED) for pixels in images]
                alone = [ability.answer(predictor, [item], TRIED)[0] for item in items]
                both = ability.answer(predictor, items, TRIED)
            except (BeitError, RuntimeError) as error:
                raise_if_exhausted(error)
                problem = error.problem if isinstance(error, BeitError) else error
                raise CheckpointError(
                    f"the model '{name}' fails its self-test of {word}: {problem}",
                    remedy="evaluate the artifact, or train it again",
                ) from error
            apart = max(map(_distance, alone, both))
            if apart > TOLERANCE:
                raise CheckpointError(
                    f"the model '{name}' answers a batch unlike single images: {apart:.2g}",
                    remedy="serve it with --batch 1, and report the hardware and the artifact",
                )


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far apart two answers are, if they hold features or probabilities; else 0."""
    if "features" in one:
        apart = float(np.abs(np.subtract(one["features"], other["features"])).max())
        return apart / max(1.0, float(np.abs(one["features"]).max()))
    if one.get("labels"):
        return abs(float(one["labels"][0]["probability"] - other["labels"][0]["probability"]))
    return 0.0


def read_image(
    data: bytes, channels: int, most: int, value_range: ValueRange | None = None
) -> np.ndarray:
    """Decode an image to uint8 [H, W, channels].

    Args:
        data: The bytes of an image file.
        channels: Channels of the model's images.
        most: Largest number of pixels, height x width, that is accepted.
        value_range: Values that become black and white in images of more than 8 bits.

    Raises:
        Refused: It is not an image, has too many pixels, or cannot be decoded.
    """
    try:
        header = read_header(data)
    except UnreadableError as error:
        other = error.reason in UNDECODED.values()  # such as HEIC
        unknown = other or error.reason.startswith("its content is none of")
        raise Refused(NOT_AN_IMAGE if unknown else UNREADABLE) from None
    if header.height * header.width > most:
        raise Refused(TOO_MANY_PIXELS)
    try:
        return decode(data, channels=channels, pixel_limit=most, value_range=value_range)
    except UnreadableError:
        raise Refused(UNREADABLE) from None


class Worker:
    """Answers batches in the order in which they come: while the models run on one, the images of
    the next are decoded.

    Args:
        door: The socket to the server.
        models: The models by name.
        pixels: Largest number of pixels of an image that is accepted.
    """

    def __init__(self, door: socket.socket, models: Models, pixels: int) -> None:
        self._door = door
        self._models = models
        self._pixels = pixels
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._batches: SimpleQueue[tuple[dict[str, Any], list[Future[Any]]]] = SimpleQueue()
        threading.Thread(target=self._answer_batches, name="models", daemon=True).start()

    def take(self, head: dict[str, Any], images: Sequence[bytes]) -> None:
        """Start on a batch: image files for the same ability of the same model."""
        self._batches.put(
            (head, [self._decoders.submit(self._prepare, head, data) for data in images])
        )

    def _prepare(self, head: dict[str, Any], data: bytes) -> Any:
        predictor, abilities = self._models[head["model"]]
        pixels = read_image(data, predictor.channels, self._pixels, predictor.value_range)
        return abilities[head["ability"]].prepare(predictor, pixels, head["options"])

    def _answer_batches(self) -> None:
        while True:
            head, prepared = self._batches.get()
            heads, answers = zip(*self._outcomes(head, prepared), strict=True)
            self._door.sendall(Frame({"outcomes": heads}, answers).packed())

    def _outcomes(self, head: dict[str, Any], prepared: Sequence[Future[Any]]) -> Sequence[Outcome]:
        faults = [one.exception() for one in prepared]
        items = [one.result() for one, fault in zip(prepared, faults, strict=True) if fault is None]
        try:
            predictor, abilities = self._models[head["model"]]
            ability = abilities[head["ability"]]
            answered = iter(ability.answer(predictor, items, head["options"]) if items else ())
            return [_done(next(answered)) if fault is None else _failed(fault) for fault in faults]
        except Exception as error:  # the thread lives on, and the requests are answered
            return [_failed(fault or error) for fault in faults]


def _done(answer: dict[str, Any]) -> Outcome:
    return {}, json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()


def _failed(error: BaseException) -> Outcome:
    reason = error.reason if isinstance(error, Refused) else REASONS.get(type(error))
    if reason is not None:
        return {"refused": reason.code}, b""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, torch.AcceleratorError):  # the server starts another process
        print(text, "the accelerator failed, and stays so as long as this process lives", sep="",
              file=sys.stderr, flush=True)  # fmt: skip
        os._exit(ResourceError.exit_code)
    return {"failed": text}, b""


def main() -> None:
    """Load, try, report what is served, and answer until the server is gone."""
    end_with_parent()  # also where it hangs and does not see the socket close
    log_to_terminal(logging.WARNING)
    door = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(door.fileno(), False)
    stream = door.makefile("rb")
    first = read(stream)
    if first is None:
        return
    settings = first.head
    try:
        for module in settings["modules"]:
            import_outside(module)
        models = load_models(settings["places"], settings["device"])
        try_models(models)
    except BeitError as error:
        reason = {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}
        door.sendall(Frame(reason).packed())
        return
    worker = Worker(door, models, settings["pixels"])
    door.sendall(Frame({"models": describe(models)}).packed())
    while (frame := read(stream)) is not None:
        worker.take(*frame)
    os._exit(0)  # without waiting for threads: nobody is there to be answered


if __name__ == "__main__":
    main()
