"""The trainings of a study: each in a folder of its own, done once, and measured; one after the
other, or several at a time."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from beit import tasks
from beit.atomic_io import replace_file
from beit.config import RunConfig
from beit.errors import Preempted, RunFolderError
from beit.process import end_with_parent, ended_together
from beit.report.history import read_history
from beit.studies.measures import classifier_hits, segmenter_overlaps
from beit.training.run_folder import RunFolder

Result = TypeVar("Result")


def check_plan(folder: Path, plan: Mapping[str, object]) -> None:
    """Write the plan of a new study. Raise RunFolderError if the folder holds a study of another
    plan, since what is done there would not be done again."""
    if once(folder / "plan.json", lambda: plan) != plan:
        raise RunFolderError(
            f"{folder} holds a study of another length or version",
            remedy="choose another --out",
        )


def once(record: Path, make: Callable[[], Any]) -> Any:
    """The JSON value in a file, which is made and written if the file is not there."""
    if not record.exists():
        made = json.dumps(make(), indent=1)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, [made.encode()])
    return json.loads(record.read_text())


class Job(NamedTuple):
    """A training, and what is measured of it."""

    verb: str
    config: RunConfig
    tested: bool = True
    """Whether it is measured on test."""

    @property
    def run(self) -> Path:
        return Path(self.config.out)

    @property
    def done(self) -> bool:
        return (self.run / ("test.json" if self.tested else "seconds.json")).exists()


def tested(run: Path) -> list[float]:
    """What was measured of a run on test: for each image whether the answer is right, or the IoU
    of each class."""
    found: list[float] = json.loads((run / "test.json").read_text())
    return found


def at_a_time() -> int:
    """Trainings to run at a time: one per core, as each is too small for two; on a GPU one."""
    return 1 if torch.cuda.is_available() else torch.get_num_threads()


def run_job(job: Job) -> Job:
    """Start or resume the training, and measure it on test; can run in any process."""
    run = job.run
    if not (run / "model").exists() or not (run / "seconds.json").exists():
        resume = RunFolder(run).config.exists()
        before = read_history(run).step if resume else 0
        begun, steps = time.process_time(), job.config.training.steps
        getattr(tasks, job.verb)(job.config, resume=resume, quiet=True, report=False)
        seconds = (time.process_time() - begun) * steps / max(steps - before, 1)
        once(run / "seconds.json", lambda: seconds)
    if job.tested:
        measure = segmenter_overlaps if job.verb == "segment" else classifier_hits
        once(run / "test.json", lambda: measure(run, job.config.data, job.config.loader))
    return job


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[Job]:
    """Run the jobs, the longest first; yields each as soon as it and those before it are done."""
    ordered = sorted(jobs, key=lambda job: -job.config.training.steps)
    return at_once(run_job, [(job,) for job in ordered], processes)


def record_made(record: Path, make: Callable[[], Any]) -> Path:
    """`once` in any process; returns the file, not its content."""
    once(record, make)
    return record


def at_once(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], processes: int
) -> Iterator[Result]:
    """Call a function several times, in several processes, and yield the results in order.

    Each of several calls has one thread, which for small models is faster than one call after the
    other with all threads; a single call has all. If this process is killed or interrupted, the
    calls save and end.

    Args:
        function: Can be sent to other processes.
        calls: The arguments of each call.
        processes: Calls at a time; with 1 they are made in this process.
    """
    if processes == 1 or not calls:
        yield from itertools.starmap(function, calls)
        return
    # Threads that wait for others sleep: by default they spin, and on a busy machine take as much
    # CPU time again, which would count as that of the training.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    threads = torch.get_num_threads() if len(calls) == 1 else 1
    pool = ProcessPoolExecutor(min(processes, len(calls)), get_context("spawn"), _begin, (threads,))
    with ended_together(pool):
        yield from pool.map(partial(_here, function), calls)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    end_with_parent(signal.SIGTERM)


def _here(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """A call in a process of the pool. The process ends if its parent is gone, as it would wait for
    ever, and if it is asked to stop, as it would go on with the next call."""
    try:
        return function(*arguments)
    except Preempted as stopped:
        os._exit(stopped.exit_code)
    finally:
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)
