"""Trainings in processes of their own: their threads, and what becomes of them when the study is
killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beit.studies.jobs import at_once
from beit.training.run_folder import RunFolder

STUDY = """
import sys
from dataclasses import replace

from beit.recipes import tokenizers
from beit.studies.jobs import Job, run_jobs

if __name__ == "__main__":
    config = tokenizers.tiny()
    training = replace(config.training, steps=10**6, batch=2, save_every=10**6, log_every=1)
    config = replace(config, data=sys.argv[1], training=training)
    jobs = [Job("tokenizer", replace(config, out=out), tested=False) for out in sys.argv[2:]]
    list(run_jobs(jobs, 2))
"""
LONGEST = 120.0
"""Seconds to wait for what happens at once on a machine that has time."""


@pytest.mark.parametrize(("calls", "threads"), [(1, 2), (2, 1)])
def test_one_alone_has_all_threads_which_sleep_while_they_wait(calls, threads, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # so that it is undone
    monkeypatch.delenv("OMP_WAIT_POLICY")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(at_once(torch.get_num_threads, [()] * calls, 2)) == [threads] * calls
        waiting = list(at_once(os.getenv, [("OMP_WAIT_POLICY",)] * calls, 2))
    finally:
        torch.set_num_threads(before)
    assert waiting == ["passive"] * calls


@pytest.mark.slow
def test_trainings_of_a_killed_study_save_and_end(class_folders, tmp_path, environment):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    runs = [RunFolder(tmp_path / name) for name in ("a", "b")]
    command = [sys.executable, str(script), str(class_folders), *(str(run.path) for run in runs)]
    study = subprocess.Popen(command, env=environment)
    started: list[int] = []
    try:
        until(lambda: all(run.metrics.exists() and run.metrics.stat().st_size for run in runs))
        started = children(study.pid)
        assert len(started) > 2
        study.kill()
        study.wait()
        until(lambda: not any(map(runs_on, started)))
    finally:
        study.kill()
        study.wait()
        for left in filter(runs_on, started):
            os.kill(left, signal.SIGKILL)
    assert all(list(run.checkpoints.glob("step-*")) for run in runs)


def until(condition: Callable[[], object]) -> None:
    latest = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.05)


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in listed.split()]


def runs_on(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
