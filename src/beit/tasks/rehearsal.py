"""How long a run will take here: a few real steps, on copies, with real images; and what is said of
it where no time was given."""

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
"""Images of the first step that is measured on a CPU."""
STEPS = 2
"""Steps that are measured, after one that is not."""
RESERVE = 0.06
"""Fraction of the time for starting, saving and the page."""
EVALUATIONS, EVALUATING = 4, 0.1
"""Evaluations of a run; only that at the end where they would take more than this fraction."""
ANNOUNCED = 8.0
"""Seconds for measuring where no time was given."""
LONG = 2 * 3600.0
"""Seconds from which on a recipe for a GPU is called that on a CPU."""


class Measured(NamedTuple):
    """What a config costs here."""

    step: float
    """Seconds per step."""
    evaluation: float
    tokenizer: float
    """Seconds of training a tokenizer first."""
    images: int

    def evaluations(self, seconds: float) -> int:
        """How many evaluations a run of so many seconds has."""
        return EVALUATIONS if EVALUATIONS * self.evaluation < EVALUATING * seconds else 1

    def steps(self, seconds: float) -> int:
        """How many steps fit, the evaluations beside them."""
        beside = self.tokenizer + self.evaluations(seconds) * self.evaluation
        return max(int((seconds * (1 - RESERVE) - beside) / self.step), 1)


def rehearse(
    setup: Setup[Any], processes: Processes, *, allowance: float, compiled: bool = False
) -> float | None:
    """Seconds for one step of the run, which itself is left as it is.

    On a CPU batches grow until the allowance, in seconds, is used up, and the line through the last
    two sizes is extended: a step costs something whatever it holds, which in a small batch is most
    of it. None where views are kept on disk: to measure them would be to fill them.
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
    """Seconds for a step of this batch, from those of smaller ones."""
    (smaller, before), (size, seconds) = (measured[0], *measured)[-2:]
    if smaller == size:
        return seconds * batch / size
    each = max((seconds - before) / (size - smaller), 0.5 * seconds / size)  # if noise says less
    return seconds + each * (batch - size)


def _step(setup: Setup[Any], processes: Processes, batch: int, *, compiled: bool) -> float:
    """Seconds per step of so many images. They are read in this process, since others take seconds
    to start; with others, the slower of reading and computing counts."""
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
    """Whether a run is so small that it is done before anybody asks: below about ten seconds."""
    weights = sum(tensor.numel() for tensor in setup.objective.model.parameters())
    model = getattr(setup.config, "model", None) or getattr(setup.config, "tokenizer", None)
    places = model.grid[0] * model.grid[1] if model is not None else 196
    training = setup.config.training
    operations: float = 6 * weights * places * training.steps * training.batch / processes.world
    return operations < (1e12 if processes.device.type == "cpu" else 1e15)


def in_words(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h, 9 days."""
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
    """What a config costs, measured on a few real steps; an untrained tokenizer stands in for the
    one that is yet to be trained."""
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
    """How long a run will take, if that is long and can be measured at once: on a CPU, where a step
    may take minutes; on a GPU the first progress line says it soon."""
    if processes.world > 1 or processes.device.type != "cpu" or is_trivial(setup, processes):
        return
    step = rehearse(setup, processes, allowance=ANNOUNCED)
    if step is not None:
        yield from _expected(setup.config, step * setup.config.training.steps)


def forecast_with_first(task: Task[Config], config: Config, inputs: Inputs) -> Iterator[str]:
    """The same of a run that another one precedes, both together, and that it does."""
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
