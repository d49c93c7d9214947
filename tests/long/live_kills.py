"""SIGKILL at a random time of a training that goes on and on, in a process of its own."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from trial import Trial, Try, speak_through

from beit.training.checkpoint import newest_checkpoint
from beit.training.loop import fit
from children import in_a_child
from miniature import InMemory, masked, masked_batch, opened
from states import assert_same

STEPS = 12


def train(folder: Path, tell: int | None = None) -> None:
    """A run of a few steps that saves after each; its announcements go to a pipe."""
    if tell is not None:
        speak_through(tell)
    with opened(folder, InMemory(masked_batch), steps=STEPS, save_every=1, average=0.9,
                quiet=tell is None) as run:  # fmt: skip
        fit(masked(), run, resume=(folder / "checkpoints").exists())


class Training:
    """Runs that are killed and resumed until they are done, then compared and begun anew."""

    def __init__(self, folder: Path) -> None:
        self._chance = random.Random(0)
        self._whole, self._run = folder / "whole", folder / "run"
        began = time.monotonic()
        assert in_a_child(lambda: train(self._whole)) == 0
        self._longest = time.monotonic() - began
        self._told = 0

    def kill(self) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks")
            child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reader)
                train(self._run, writer)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        time.sleep(self._chance.uniform(0, self._longest))
        os.kill(child, signal.SIGKILL)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, -signal.SIGKILL), said
        told = [int(step) for step in re.findall(r"saved after step (\d+)\n", said)]
        self._told = max([self._told, *told])
        found = newest_checkpoint(self._run / "checkpoints")
        assert not found.damaged
        assert self._told <= (found.checkpoint.step if found.checkpoint else 0)
        if found.checkpoint is not None and found.checkpoint.step == STEPS:
            assert_same(found.checkpoint, newest_checkpoint(self._whole / "checkpoints").checkpoint)
            shutil.rmtree(self._run)
            self._told = 0


def tries(folder: Path, count: int) -> Iterator[Try]:
    training = Training(folder)
    for _ in range(count):
        yield training.kill


TRIAL = Trial(
    fault="SIGKILL at a random time of a live training",
    promise="no announced checkpoint is lost, none is damaged, and the resumed run equals one that "
    "was left alone, bit for bit",
    count=500,
    tries=tries,
)
