"""How long a run will take here: a few real steps, on copies, with real images."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from beit.data.loader import Loader, choose_workers
from beit.data.transforms import CachedViews
from beit.tasks.task import Setup
from beit.training.distributed import Processes
from beit.training.update import Updater

FIRST = 8
"""Images of the first step that is measured on a CPU."""
STEPS = 2
"""Steps that are measured, after one that is not."""


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
