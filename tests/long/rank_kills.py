"""SIGKILL or SIGSTOP to one of two processes of a run that `torchrun` watches."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from every_resume import write_images
from safetensors.torch import load_file
from torch import Tensor
from trial import Trial, Try

import beit

STEPS = 40
GOES_ON = "going on after step"
PATIENCE = 10
"""Seconds after which a process that hangs is given up."""


class Ranks:
    """Two processes that train to the end, whatever happens to one of them on the way."""

    def __init__(self, folder: Path) -> None:
        self._chance = random.Random(0)
        self._folder = folder
        write_images(folder / "data")
        path = Path(beit.__file__).parents[1]
        self._environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        self._whole = self._train("whole", None)

    def lose(self, number: signal.Signals, rank: int, attempt: int) -> None:
        """The weights are those of the run that nothing happened to, and it was begun again."""
        weights = self._train(f"run-{attempt}", (number, rank))
        assert weights.keys() == self._whole.keys()
        assert all(weights[name].equal(self._whole[name]) for name in weights)

    def _train(self, name: str, loss: tuple[signal.Signals, int] | None) -> dict[str, Tensor]:
        out = self._folder / name
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "--max-restarts", "3", "--monitor-interval", "0.1", "-m", "beit.cli", "pretrain",
            "tiny", "--data", str(self._folder / "data"), "--out", str(out),
            "--target", "pixels", "--steps", str(STEPS), "--batch", "8", "--warmup-steps", "1",
            "--save-every", "2", "--log-every", "1", "--workers", "0", "--device", "cpu",
            "--precision", "fp32", "--knn-images", "0", "--process-timeout", str(PATIENCE),
        ]  # fmt: skip
        with (self._folder / f"{name}.txt").open("w+") as said:
            with subprocess.Popen(
                command, env=self._environment, stdout=said, stderr=subprocess.STDOUT
            ) as run:
                try:
                    if loss is not None:
                        self._strike(run, out, *loss)
                        self._await_restart(run, Path(said.name), loss[0])
                    code = run.wait(timeout=240)
                finally:
                    run.kill()
            said.seek(0)
            text = said.read()
        assert code == 0, text[-3000:]
        assert (GOES_ON in text) == (loss is not None), text[-3000:]
        return load_file(out / "model" / "model.safetensors")

    def _strike(
        self, run: subprocess.Popen[bytes], out: Path, number: signal.Signals, rank: int
    ) -> None:
        """After a random step of the run, and not before its first save."""
        step = self._chance.randrange(3, STEPS // 2)
        until = time.monotonic() + 120
        while _done(out / "metrics.jsonl") < step:
            assert run.poll() is None, "ended before it was struck"
            assert time.monotonic() < until, "does not get on"
            time.sleep(0.01)
        os.kill(_child(run.pid, rank), number)

    def _await_restart(
        self, run: subprocess.Popen[bytes], said: Path, number: signal.Signals
    ) -> None:
        """Tell how long after the loss was noticed the run goes on; a hanging process is noticed
        when the others' patience ends."""
        struck = time.monotonic()
        while GOES_ON not in said.read_text():
            assert run.poll() is None, f"ended instead of going on: {said.read_text()[-3000:]}"
            assert time.monotonic() < struck + 240, "does not go on"
            time.sleep(0.05)
        taken = time.monotonic() - struck - (PATIENCE if number == signal.SIGSTOP else 0)
        print(f"{number.name}: goes on {taken:.1f} s after it was noticed")


def _done(journal: Path) -> int:
    """The newest step that a run has told."""
    if not journal.exists():
        return 0
    lines = journal.read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def _child(parent: int, rank: int) -> int:
    """The process of a rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"{parent} has no rank {rank}")


def tries(folder: Path, count: int) -> Iterator[Try]:
    ranks = Ranks(folder)
    for number in range(count):
        lost = signal.SIGSTOP if number % 5 == 2 else signal.SIGKILL
        yield partial(ranks.lose, lost, number % 2, number)


TRIAL = Trial(
    fault="one of two processes of a run under torchrun is killed, or (in one try of five) hangs",
    promise="the other ends, torchrun starts both again, and the run goes on from its newest "
    "checkpoint to the weights of one that nothing happened to, bit for bit",
    count=10,
    tries=tries,
)
