"""After a kill nothing is left of a run but its folder, and the next start goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from beit.training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

STEPS = 60
LONGEST = 120.0
"""Seconds to wait for what happens at once on a machine that has time."""


def until(condition: Callable[[], object], what: str) -> None:
    latest = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < latest, what
        time.sleep(0.05)


class Started:
    """A run that trains, with two processes that read its images."""

    def __init__(self, out: Path, data: Path, environment: dict[str, str], *before: str) -> None:
        self.out, self._environment = out, environment
        self._command = [
            sys.executable, *before, "-m", "beit.cli", "finetune", "tiny", "--data", str(data),
            "--out", str(out), "--steps", str(STEPS), "--save-every", "2", "--log-every", "1",
            "--batch", "8", "--workers", "2", "--cache", "False", "--device", "cpu",
            "--precision", "fp32", "--tracker", "none",
        ]  # fmt: skip
        self.run = self._start()
        until(lambda: self.saved() >= 2 or self.run.poll() is not None, "it does not save")
        self.processes = self.alive()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._command, *options], env=self._environment)

    def saved(self) -> int:
        """The newest step that was announced as saved."""
        log = self.out / "log.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        return max((int(line.split()[-1]) for line in lines if line.startswith("saved")), default=0)

    def alive(self) -> list[int]:
        """All processes that belong to it; those it forks have its command line, too."""
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_bytes().split(b"\0")
            except OSError:  # gone meanwhile
                continue
            if os.fsencode(self.out) in words:
                found.append(int(place.parent.name))
        return found

    def readers(self) -> list[int]:
        return [number for number in self.alive() if number != self.run.pid]

    def assert_nothing_is_left(self) -> None:
        self.run.wait(LONGEST)
        until(lambda: not self.alive(), "processes are left")
        names = [path.name for path in Path("/dev/shm").iterdir()]  # noqa: S108
        left = [name for name in names if any(str(one) in name for one in self.processes)]
        assert not left
        assert not list(self.out.glob(".writing-*"))

    def go_on(self) -> None:
        """To the end, from where it was."""
        before = self.saved()
        self.run = self._start("--resume")
        assert self.run.wait(2 * LONGEST) == 0
        log = (self.out / "log.txt").read_text()
        steps = [int(line.partition(":")[0].split()[-1]) for line in log.splitlines()
                 if line.startswith("going on after step")]  # fmt: skip
        assert before <= steps[-1] < STEPS
        self.assert_nothing_is_left()
        found = newest_checkpoint(self.out / "checkpoints")
        assert found.checkpoint is not None
        assert found.checkpoint.step == STEPS


@pytest.fixture
def start(class_folders, tmp_path, environment):
    """Starts a run; what is left of it in spite of all is ended with the test."""
    runs = []

    def begin(*before: str) -> Started:
        runs.append(Started(tmp_path / "run", class_folders, environment, *before))
        return runs[-1]

    yield begin
    for run in runs:
        for process in run.alive():
            os.kill(process, signal.SIGKILL)


def kill_it(started: Started) -> None:
    os.kill(started.run.pid, signal.SIGKILL)


def kill_it_while_readers_hang(started: Started) -> None:
    """They cannot see that their parent is gone."""
    for reader in started.readers():
        os.kill(reader, signal.SIGSTOP)
    kill_it(started)


@pytest.mark.parametrize("strike", [kill_it, kill_it_while_readers_hang])
def test_a_killed_run_leaves_nothing_but_its_folder(strike, start):
    started = start()
    assert len(started.readers()) == 2
    strike(started)
    started.assert_nothing_is_left()
    assert started.run.returncode == -signal.SIGKILL
    started.go_on()


def test_a_reader_that_is_killed_leaves_nothing(start):
    """The run replaces it and goes on to its end."""
    started = start()
    os.kill(started.readers()[0], signal.SIGKILL)
    started.assert_nothing_is_left()
    assert started.run.returncode == 0
    assert "were lost and replaced" in (started.out / "log.txt").read_text()


def test_processes_whose_torchrun_is_killed_save_and_end(start):
    """They would train on where nobody looks, and keep their devices."""
    started = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    kill_it(started)
    started.assert_nothing_is_left()
    assert "stopped on request" in (started.out / "log.txt").read_text()
    started.go_on()
