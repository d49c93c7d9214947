"""SIGINT, SIGTERM or SIGUSR1 at a random time of a run, some followed by SIGKILL."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from every_resume import write_images
from trial import Trial, Try, speak_through

import beit
from beit.config import MaskedConfig
from beit.errors import Preempted
from beit.process import SIGNALS
from beit.training.checkpoint import newest_checkpoint
from states import assert_same

STEPS = 12
OPTIONS: dict[str, Any] = {
    "objective": MaskedConfig(target="pixels"), "steps": STEPS, "batch": 4, "warmup_steps": 1,
    "average": 0.9, "save_every": 3, "evaluate_every": 4, "log_every": 1, "workers": 0,
    "device": "cpu", "precision": "fp32", "report": False, "knn_images": 0,
}  # fmt: skip
DIED = 113
"""Exit code of a run that raised what it should not."""
BEGUN = re.compile(r"^(starting|going on after step \d+):", re.MULTILINE)


def train(data: Path, out: Path, said: int) -> int:
    """What `beit pretrain` does, saying it to a pipe; its exit code."""
    speak_through(said)
    try:
        beit.pretrain(
            "tiny", data=str(data), out=str(out), resume=(out / "config.json").exists(), **OPTIONS
        )
    except Preempted as stopped:
        return stopped.exit_code
    return 0


class Stopping:
    """Runs that are stopped and resumed until they are done, then compared and begun anew."""

    def __init__(self, folder: Path) -> None:
        self._chance = random.Random(0)
        self._data, self._whole, self._run = folder / "data", folder / "whole", folder / "run"
        write_images(self._data)
        began = time.monotonic()
        code, _ = self._ended(self._whole, None, 0.0)
        assert code == 0
        self._longest = time.monotonic() - began

    def _ended(self, out: Path, number: signal.Signals | None, grace: float) -> tuple[int, str]:
        """The exit code of a run, below zero if a signal ended it, and what it said."""
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks")
            child = os.fork()
        if child == 0:
            code = DIED
            try:
                os.close(reader)
                code = train(self._data, out, writer)
            except KeyboardInterrupt:  # before the run began, as any program
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os._exit(code)
        os.close(writer)
        if number is not None:
            time.sleep(self._chance.uniform(0, self._longest))
            os.kill(child, number)
            if grace:
                time.sleep(grace)
                os.kill(child, signal.SIGKILL)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said

    def stop(self, number: signal.Signals, killed: bool) -> None:
        """Ask once; a run that is killed in its grace has the checkpoint before."""
        grace = self._chance.uniform(0.001, 0.1) if killed else 0.0
        code, said = self._ended(self._run, number, grace)
        found = newest_checkpoint(self._run / "checkpoints")
        assert not found.damaged
        step = found.checkpoint.step if found.checkpoint else 0
        if code == Preempted.exit_code:
            assert step > 0
            assert f"stopped on request after step {step};" in (self._run / "log.txt").read_text()
        elif code == 0:  # asked after its last step
            assert step == STEPS
        else:
            assert code in (-number, -signal.SIGKILL if killed else -number), said
            assert killed or step == STEPS or not BEGUN.search(said), said
        told = [int(saved) for saved in re.findall(r"saved after step (\d+)\n", said)]
        assert max([0, *told]) <= step
        if step == STEPS:
            assert_same(found.checkpoint, newest_checkpoint(self._whole / "checkpoints").checkpoint)
            shutil.rmtree(self._run)


def tries(folder: Path, count: int) -> Iterator[Try]:
    stopping = Stopping(folder)
    for number in range(count):
        yield partial(stopping.stop, SIGNALS[number % len(SIGNALS)], number % 4 == 3)


TRIAL = Trial(
    fault="SIGINT, SIGTERM or SIGUSR1 at a random time of a run; in one try of four SIGKILL within "
    "a tenth of a second",
    promise="before its first step the run ends as any program; from then on it finishes the step, "
    "saves and exits with 75, or with 0 if it was the last; the resumed run equals one that was "
    "left alone, bit for bit",
    count=200,
    tries=tries,
)
