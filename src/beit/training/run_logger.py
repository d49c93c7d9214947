"""What a run reports: metrics.jsonl, log.txt, trackers and the progress line."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from beit.atomic_io import replace_file
from beit.config.training import TrackerName
from beit.process import failures
from beit.terminal import LiveBar, duration, is_live, printable
from beit.training.run_folder import RunFolder, read_metrics
from beit.training.trackers import TRACKERS

# What is printed beside a metric on the progress line, and the expectation it comes from.
BESIDE = {"loss": ("chance", "chance_loss"), "perplexity": ("of", "perplexity_limit")}


class _Lines:
    """A file that grows by lines; those that the disk has no room for are written once it has."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._pending = b""
        self.failure: OSError | None = None

    def add(self, line: str) -> None:
        self._pending += f"{line}\n".encode()
        self.write()

    def write(self) -> None:
        """Write what is pending, as far as that goes."""
        self.failure = None
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            error.filename = self._file.name
            self.failure = error

    def flush(self) -> None:
        """Make durable what could be written."""
        self.write()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.write()
        self._file.close()


class RunLogger:
    """Writes everything about a run that a person or a tool reads later. Rank 0 only."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        first_step: int,
        steps: int = 0,
        trackers: Sequence[TrackerName] = ("tensorboard",),
        quiet: bool = False,
    ) -> None:
        """Open the files of the run.

        Args:
            folder: The folder of the run.
            first_step: Updates done before; rows of later steps are dropped from metrics.jsonl.
            steps: Steps of the whole run, for the bar that a terminal shows; 0 shows none.
            trackers: Names of the trackers that follow the run.
            quiet: Whether nothing is printed.
        """
        self._quiet = quiet
        self._bar: LiveBar | None = None
        if steps > first_step and not quiet and is_live(sys.stdout):
            self._bar = LiveBar(steps, first_step)
        self._lost_streams: set[str] = set()
        self._log = _Lines(folder.log)
        self._repeated = _forget_after(folder.metrics, first_step)
        self._metrics = _Lines(folder.metrics)
        self._artifact: Path | None = None
        self._trackers = [
            TRACKERS[name](name, folder, first_step=first_step)
            for name in trackers
            if name != "none"
        ]

    def info(self, text: str) -> None:
        """A line for the terminal and the log; names in it are written printably."""
        self.note(text)
        if not self._quiet:
            self._print(printable(text))

    def note(self, text: str) -> None:
        """A line for the log alone."""
        self._log.add(printable(text))

    def moved(self, step: int) -> None:
        """Move the bar: so many steps are done."""
        if self._bar is not None:
            self._show(lambda bar: bar.move(step))

    def progress(self, line: str, remark: str) -> None:
        """Log a line on the last steps. It is printed too, unless there is a bar, which shows the
        remark."""
        if self._bar is None:
            self.info(line)
            return
        self._log.add(printable(line))
        self._show(lambda bar: bar.remark(remark))

    def _show(self, change: Callable[[LiveBar], None]) -> None:
        """Change the bar; if it can no longer be drawn, give it up for printed lines."""
        assert self._bar is not None
        try:
            change(self._bar)
        except (OSError, ValueError):  # the terminal is gone, or has another encoding
            self._bar = None

    def _print(self, text: str) -> None:
        """Print a line. A terminal that is gone does not end the run; the log notes it, once."""
        lost: dict[str, object] = {}
        if self._bar is not None:
            self._show(lambda bar: bar.print(text))
        try:
            if self._bar is None:
                print(text, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
        except (OSError, ValueError) as error:  # a pipe or a file of the caller's, or closed
            self._quiet = True
            lost["stdout"] = error
        for name, problem in (lost | dict(failures())).items():
            if name not in self._lost_streams:
                self._lost_streams.add(name)
                self._log.add(
                    f"note: {name} cannot be written to any more ({problem}); what goes there is "
                    "dropped from here on; the run continues"
                )

    def metrics(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Write a row of metrics.jsonl, and give it to the trackers.

        Args:
            step: Updates done.
            kind: train or evaluate.
            values: Metrics by name; those that are not finite are written as null.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._metrics.add(json.dumps({"step": step, "kind": kind, **finite}))
        for tracker in self._trackers:
            if tracker.overwrites_steps or (step, kind) not in self._repeated:
                tracker.record(step, kind, values)
        self._warn()

    def finished(self, artifact: Path) -> None:
        """Note that the run is done, and its artifact, which is given to the trackers in the
        end."""
        self._artifact = artifact.resolve()

    @property
    def failure(self) -> OSError | None:
        """Why rows or lines could not be written; they are kept, and retried."""
        return self._metrics.failure or self._log.failure

    def flush(self) -> None:
        """Make durable what was logged up to here, as far as the disk takes it."""
        self._log.write()
        self._metrics.flush()

    def close(self) -> None:
        """Close everything. Nothing that fails here hides why the run ends."""
        if self._bar is not None:
            self._show(LiveBar.close)
        self._bar = None
        for tracker in self._trackers:
            tracker.finish(self._artifact)
        self._warn()
        for lines in (self._metrics, self._log):
            with suppress(OSError):
                lines.close()

    def _warn(self) -> None:
        """Name the trackers that failed, each once; the run does not need them."""
        for tracker in self._trackers:
            if problem := tracker.problem():
                self.info(f"warning: {tracker.name} no longer follows this run: {problem}")


def _forget_after(path: Path, step: int) -> set[tuple[int, str]]:
    """Drop the rows of steps that will be repeated, and a last row that was cut off; returns the
    steps and kinds of the dropped rows."""
    if not path.exists():
        return set()
    rows = list(read_metrics(path))
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
    replace_file(path, ["".join(kept).encode()])
    return {(row["step"], row["kind"]) for row in rows if row["step"] > step}


class Throughput:
    """Speed, waiting and time left, measured between two progress lines."""

    def __init__(self, first_step: int, steps: int, batch: int) -> None:
        self._first, self._steps, self._batch = first_step, steps, batch
        self._step, self._time = first_step, time.monotonic()
        self._waited = self._paused = self._paused_in_all = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for data."""
        self._waited += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in this context, evaluating, counts for the time left, not for the training
        speed."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def measure(self, done: int, device: torch.device) -> dict[str, float]:
        """Images per second, fraction of time spent waiting, memory in GiB and seconds left."""
        now, steps = time.monotonic(), done - self._step
        elapsed = max(now - self._time - self._paused, 1e-9)
        self._paused_in_all += self._paused
        left = math.nan
        if steps:
            each = elapsed / steps + self._paused_in_all / (done - self._first)
            left = (self._steps - done) * each
        values = {
            "images_per_second": steps * self._batch / elapsed,
            "data_wait": self._waited / elapsed,
            "memory_gib": _peak_memory(device) / 2**30,
            "seconds_left": left,
        }
        self._step, self._time = done, now
        self._waited = self._paused = 0.0
        return values


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return float(torch.mps.driver_allocated_memory())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def progress_line(
    done: int,
    steps: int,
    terms: Mapping[str, float],
    expectations: Mapping[str, float],
    rate: float,
    throughput: Mapping[str, float],
) -> str:
    """One line: where the run is, what it learns beside what chance would give, and how fast.

    Args:
        done: Updates done.
        steps: Steps of the whole run.
        terms: Means since the last line, by name.
        expectations: What chance would give, and limits, by the names in BESIDE.
        rate: Learning rate.
        throughput: What `Throughput.measure` returned.
    """
    parts = [f"step {done:>{len(str(steps))}}/{steps}"]
    for name, value in terms.items():
        word, expectation = BESIDE.get(name, ("", ""))
        beside = expectations.get(expectation)
        note = "" if beside is None else f" ({word} {beside:.4g})"
        parts.append(f"{name} {value:.4g}{note}")
    left = throughput["seconds_left"]
    parts += [
        f"lr {rate:.2e}",
        f"{throughput['images_per_second']:.0f} img/s",
        f"wait {throughput['data_wait']:.0%}",
        f"{throughput['memory_gib']:.1f} GiB",
        f"left {'?' if math.isnan(left) else duration(left)}",
    ]
    return "  ".join(parts)


def remark(terms: Mapping[str, float], rate: float, throughput: Mapping[str, float]) -> str:
    """What is shown beside a bar: the first two terms, the learning rate and the speed.

    Args:
        terms: Means since the last line, by name, the loss first.
        rate: Learning rate.
        throughput: What `Throughput.measure` returned.
    """
    learned = [f"{name} {value:.4g}" for name, value in terms.items() if name != "grad_norm"][:2]
    return "  ".join([*learned, f"lr {rate:.1e}", f"{throughput['images_per_second']:.0f} img/s"])
