"""How long a run will take here, measured on a few real steps of a copy of the model with real
images; and what is announced of it if the user gave no time."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from beit.config import RunConfig
from beit.config.tree import override
from beit.data.loader import Loader, choose_workers
from beit.data.transforms import CachedViews
from beit.errors import ConfigError
from beit.hardware import cores
from beit.recipes import DEFAULT
from beit.tasks.inputs import Inputs
from beit.tasks.task import Setup, Task, task_of
from beit.training.distributed import Processes, start_processes
from beit.training.update import Updater
from beit.weights.store import save_artifact

Config = TypeVar("Config", bound=RunConfig)
FIRST = 8
"""Batch of the first measurement on a CPU."""
STEPS = 2
"""Steps that are measured, after one for warming up."""
RESERVE = 0.06
"""Fraction of the time for starting, saving and the page."""
EVALUATIONS, EVALUATING = 4, 0.1
"""Evaluations of a run, and the fraction of the time that they may take; if they would take more,
there is only the one at the end."""
ANNOUNCED = 8.0
"""Seconds spent on measuring if the user gave no time."""
LONG = 2 * 3600.0
"""Seconds above which a run on a CPU is told that its recipe is for a GPU."""


class Measured(NamedTuple):
    """What a config costs here."""

    step: float
    """Seconds per step."""
    evaluation: float
    """Seconds per evaluation."""
    tokenizer: float
    """Seconds for training a tokenizer first; 0 if none is to be trained."""
    images: int

    def evaluations(self, seconds: float) -> int:
        """How many evaluations a run of this length has."""
        return EVALUATIONS if EVALUATIONS * self.evaluation < EVALUATING * seconds else 1

    def steps(self, seconds: float) -> int:
        """How many steps fit into this time beside tokenizer and evaluations, at least 1."""
        beside = self.tokenizer + self.evaluations(seconds) * self.evaluation
        return max(int((seconds * (1 - RESERVE) - beside) / self.step), 1)


def rehearse(
    setup: Setup[Any], processes: Processes, *, allowance: float, compiled: bool = False
) -> float | None:
    """Seconds for one step of a run.

    On a CPU the batch grows until the allowance is used up, and the line through the last two sizes
    is extended: a step has a fixed cost, which is most of the cost of a small batch.

    Args:
        setup: The run, which is not changed: copies of its model are trained.
        processes: The processes that will train together, of which this one is measured.
        allowance: Seconds that measuring may take on a CPU, unless the smallest batch takes more.
        compiled: Compile the model if the run does; otherwise it is measured without.

    Returns:
        The seconds; None if the run keeps its views on disk, as measuring would fill that cache.
    """
    if isinstance(setup.view, CachedViews):
        return None
    whole: int = setup.config.training.batch // processes.world
    batch = whole if processes.device.type == "cuda" else min(whole, FIRST)
    deadline = time.monotonic() + allowance
    measured: list[tuple[int, float]] = []
    while True:
        measured.append((batch, _step(setup, processes, batch, compiled=compiled)))
        larger = min(whole, 4 * batch)
        next_one = (STEPS + 1) * _extended(measured, larger)
        if batch == whole or time.monotonic() + next_one > deadline:
            return _extended(measured, whole)
        batch = larger


def _extended(measured: Sequence[tuple[int, float]], batch: int) -> float:
    """Seconds for a step of `batch` images, extrapolated from the smaller batches measured."""
    (smaller, before), (size, seconds) = (measured[0], *measured)[-2:]
    if smaller == size:
        return seconds * batch / size
    each = max((seconds - before) / (size - smaller), 0.5 * seconds / size)  # noise may say less
    return seconds + each * (batch - size)


def _step(setup: Setup[Any], processes: Processes, batch: int, *, compiled: bool) -> float:
    """Seconds per step of `batch` images. They are read in this process, since loader processes
    take seconds to start. If the run has such processes, the slower of reading and computing
    counts."""
    config = setup.config
    training = replace(
        config.training,
        batch=batch * processes.world,
        micro_batch=None,
        compile=config.training.compile if compiled else "off",
    )
    with torch.random.fork_rng():
        updater = Updater(copy.deepcopy(setup.objective), training, processes, lambda _: None)
        loader = Loader(
            setup.source,
            setup.view,
            channels=setup.channels,
            batch=training.batch,
            micro_batch=batch,
            seed=training.seed,
            rank=processes.rank,
            world=processes.world,
            config=replace(config.loader, workers=0),
            pin_memory=processes.device.type == "cuda",
        )
        batches = loader.batches(0, STEPS + 1)
        reading = computing = 0.0
        try:
            for step in range(STEPS + 1):
                began = time.monotonic()
                images = next(batches)
                read = time.monotonic()
                updater.update(step, iter([images]))
                _wait(processes)
                if step:  # the first one warms up
                    reading += read - began
                    computing += time.monotonic() - read
        finally:
            batches.close()
    workers = choose_workers(config.loader, processes.world)
    return (max(reading / workers, computing) if workers else reading + computing) / STEPS


def _wait(processes: Processes) -> None:
    if processes.device.type == "cuda":
        torch.cuda.synchronize(processes.device)


def evaluation_seconds(setup: Setup[Any], processes: Processes) -> float:
    """How long one evaluation takes."""
    if setup.evaluation is None:
        return 0.0
    with torch.random.fork_rng(), torch.no_grad():
        model = copy.deepcopy(setup.objective.model).to(processes.device).eval()
        began = time.monotonic()
        setup.evaluation.measure(model)
        _wait(processes)
    return time.monotonic() - began


def is_trivial(setup: Setup[Any], processes: Processes) -> bool:
    """Whether a run is too short for its length to matter: below about ten seconds."""
    weights = sum(tensor.numel() for tensor in setup.objective.model.parameters())
    model = getattr(setup.config, "model", None) or getattr(setup.config, "tokenizer", None)
    places = model.grid[0] * model.grid[1] if model is not None else 196
    training = setup.config.training
    operations: float = 6 * weights * places * training.steps * training.batch / processes.world
    return operations < (1e12 if processes.device.type == "cpu" else 1e15)


def in_words(seconds: float) -> str:
    """A length of time as people say it: 40 s, 12 min, 3.5 h, 9 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def measure(
    task: Task[Config],
    config: Config,
    processes: Processes,
    inputs: Inputs,
    allowance: float,
    *,
    evaluate: bool = True,
) -> Measured:
    """What a config costs here, measured on a few real steps.

    If the run trains a tokenizer first, an untrained one stands in for it.

    Args:
        task: The kind of run.
        config: The run, with all of its options.
        processes: The processes that will train together.
        inputs: What the run reads, which is opened here and used again by the run itself.
        allowance: Seconds for measuring the steps on a CPU; a third of this comes on top for a
            tokenizer.
        evaluate: Measure an evaluation, too; if not, it counts as 0 seconds.

    Raises:
        ConfigError: The run keeps its views on disk.
        BeitError: The run cannot be prepared.
    """
    first, seconds = task.first(config), 0.0
    with tempfile.TemporaryDirectory() as folder:
        if first is not None:
            before = task_of(first).prepare(first, processes, inputs)
            if not Path(first.out, "model").exists():
                seconds = first.training.steps * _pace(before, processes, allowance / 3)
            model = before.objective.publish(before.objective.model)
            save_artifact(Path(folder), model, before.details)
            config = override(config, {"tokenizer": folder})
        setup = task.prepare(config, processes, inputs)
        step = _pace(setup, processes, allowance)
        evaluation = evaluation_seconds(setup, processes) if evaluate else 0.0
        return Measured(step, evaluation, seconds, len(setup.source))


def _pace(setup: Setup[Any], processes: Processes, allowance: float) -> float:
    found = rehearse(setup, processes, allowance=allowance, compiled=True)
    if found is None:
        raise ConfigError(
            "--time cannot plan a run whose views are kept on disk",
            remedy="leave --token-views and --teacher-views out, or give --steps",
        )
    return found


def forecast(setup: Setup[Any], processes: Processes) -> Iterator[str]:
    """Say how long a run will take, if that is worth measuring: on a CPU, where a step may take
    minutes. On a GPU, the first line of progress says so soon enough."""
    if processes.world > 1 or processes.device.type != "cpu" or is_trivial(setup, processes):
        return
    step = rehearse(setup, processes, allowance=ANNOUNCED)
    if step is not None:
        yield from _expected(setup.config, step * setup.config.training.steps)


def forecast_with_first(task: Task[Config], config: Config, inputs: Inputs) -> Iterator[str]:
    """Announce the run that precedes this one, such as that of its tokenizer, and say how long both
    will take on a CPU.

    Args:
        task: The kind of run.
        config: The run, with all of its options.
        inputs: What the run reads, which is opened here and used again by the run itself.

    Returns:
        Lines to print; none if no run precedes this one, or that run is finished.
    """
    first = task.first(config)
    if first is None or Path(first.out, "model").exists():
        return
    yield (
        "no tokenizer was named (--tokenizer): one is trained first, "
        f"{first.training.steps:,} steps of {first.training.batch}, in {first.out}"
    )
    processes = start_processes(config.training) if "WORLD_SIZE" not in os.environ else None
    if processes is None or processes.device.type != "cpu":
        return
    before = task_of(first).prepare(first, processes, inputs)
    if is_trivial(before, processes):
        return
    cost = measure(task, config, processes, inputs, ANNOUNCED, evaluate=False)
    yield f"about {in_words(cost.tokenizer)} here for the tokenizer"
    yield from _expected(config, cost.step * config.training.steps)


def _expected(config: RunConfig, seconds: float) -> Iterator[str]:
    training = config.training
    yield (
        f"about {in_words(seconds)} here for {training.steps:,} steps of {training.batch} on "
        f"{cores()} CPU cores"
    )
    if config.recipe == DEFAULT and seconds > LONG:
        yield (
            f"the recipe {DEFAULT} is for a GPU: --time 1h chooses what this machine can do in an "
            "hour"
        )
