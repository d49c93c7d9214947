"""The process that decodes images and runs the models, so that its end is not the server's.

It is started by `beit.serve.process` with one end of a socket, and ends when the other end does,
or when the accelerator fails: after that no call to it in this process succeeds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from beit.config.plugins import import_outside
from beit.data.decode import decode, read_header
from beit.data.pixel_types import UnreadableError, ValueRange
from beit.errors import BeitError, ResourceError
from beit.process import end_with_parent
from beit.serve.batching import Batcher, Job
from beit.serve.http_errors import NOT_A_IMAGE, TOO_MANY_PIXELS, UNREADABLE, Refused
from beit.serve.ipc import Frame, read
from beit.serve.model_pool import Served, load_served
from beit.terminal import log_to_terminal

DECODERS = 2


class Asked(NamedTuple):
    """What a request wants."""

    head: dict[str, Any]
    data: bytes
    deadline: float
    result: Future[Any]


def read_image(
    data: bytes, channels: int, most: int, value_range: ValueRange | None = None
) -> np.ndarray:
    """The image, uint8 [H, W, channels], if it has at most so many pixels. Raises Refused."""
    try:
        header = read_header(data)
    except UnreadableError as error:
        unknown = error.reason.startswith("its content is none of")
        raise Refused(NOT_A_IMAGE if unknown else UNREADABLE) from None
    if header.height * header.width > most:
        raise Refused(TOO_MANY_PIXELS)
    try:
        return decode(data, channels=channels, pixel_limit=most, value_range=value_range)
    except UnreadableError:
        raise Refused(UNREADABLE) from None


class Worker:
    """Answers what comes over a socket; each request is answered once, also if it was dropped."""

    def __init__(self, door: socket.socket, settings: dict[str, Any], served: Served) -> None:
        self._door = door
        self._settings = settings
        self._served = served
        self._asked: dict[int, Asked] = {}
        self._speaking = threading.Lock()
        # As many decoded images as are at work, and as many again to go on with.
        self._room = threading.Semaphore(2 * settings["batch"])
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._batcher = Batcher(
            settings["wait"], lambda images: self._say(Frame({"batch": images}))
        )

    def take(self, frame: Frame) -> None:
        """Begin with a request, or drop one."""
        if "drop" in frame.head:
            if (dropped := self._asked.get(frame.head["drop"])) is not None:
                dropped.result.cancel()
            return
        number = frame.head["number"]
        deadline = time.monotonic() + self._settings["deadline"]
        asked = Asked(frame.head, frame.data, deadline, Future())
        self._asked[number] = asked
        asked.result.add_done_callback(partial(self._tell, number))
        self._decoders.submit(self._prepare, number)

    def _prepare(self, number: int) -> None:
        self._room.acquire()
        asked = self._asked.get(number)
        if asked is None:  # dropped
            self._room.release()
            return
        asked.result.add_done_callback(lambda _: self._room.release())
        head, most = asked.head, self._settings["pixels"]
        word, options = head["ability"], head["options"]
        try:
            model = self._served[head["model"]]
            ability = model.of[word]
            predictor = model.predictor
            pixels = read_image(asked.data, predictor.channels, most, predictor.value_range)
            item = ability.prepare(pixels, options)
        except Exception as error:  # the thread lives on; the request is told
            if asked.result.set_running_or_notify_cancel():
                asked.result.set_exception(error)
            return
        key = (head["model"], head["ability"], *options.items())
        together = self._settings["batch"] if ability.together else 1
        self._batcher.submit(
            Job(
                key,
                lambda items: ability.answer(items, options),
                item,
                together,
                asked.deadline,
                asked.result,
            )
        )

    def _tell(self, number: int, result: Future[Any]) -> None:
        del self._asked[number]
        head: dict[str, Any] = {"number": number}
        data = b""
        if result.cancelled():
            head["dropped"] = True
        elif isinstance(error := result.exception(), Refused):
            head["refused"] = error.reason.code
        elif isinstance(error, torch.AcceleratorError):
            _give_up(error)
        elif error is not None:
            head["failed"] = "".join(traceback.format_exception(error))
        else:
            try:
                data = json.dumps(result.result(), allow_nan=False, separators=(",", ":")).encode()
            except ValueError as unfit:
                head["failed"] = "".join(traceback.format_exception(unfit))
        self._say(Frame(head, data))

    def _say(self, frame: Frame) -> None:
        with self._speaking:
            self._door.sendall(frame.packed())


def _give_up(error: Exception) -> NoReturn:
    """End the process. Who waits is told by the server, which starts another one."""
    traceback.print_exception(error)
    print("the accelerator failed, which lasts as long as the process", file=sys.stderr, flush=True)
    os._exit(ResourceError.exit_code)


def main() -> None:
    """Load, try, say what is served, and answer until the server is gone."""
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
        served = load_served(settings["places"], settings["device"])
        served.try_all()
    except BeitError as error:
        said = {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}
        door.sendall(Frame(said).packed())
        return
    worker = Worker(door, settings, served)
    door.sendall(Frame({"models": served.describe()}).packed())
    while (frame := read(stream)) is not None:
        worker.take(frame)
    os._exit(0)  # without waiting for threads: nobody is there to be answered


if __name__ == "__main__":
    main()
