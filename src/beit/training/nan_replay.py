"""A step whose numbers broke: found out about once more, recorded, and repeated on request."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from beit.batch import Batch
from beit.errors import CheckpointError, DivergedError
from beit.objectives.base import AnyObjective
from beit.training.checkpoint import newest_checkpoint
from beit.training.nan_report import (
    Record,
    StepContext,
    first_bad_value,
    read_record,
    write_record,
)
from beit.training.spec import FitSpec
from beit.training.update import Updater

MOST_NAMED = 8
"""Images of a micro-batch that an error names; its record has all."""


class Breakage(NamedTuple):
    """A way in which a step goes wrong, and what helps."""

    what: str
    remedy: str


NOT_FINITE = Breakage(
    "the loss or its gradient is not finite", "lower --lr, set --clip, or use --precision fp32"
)
OVERFLOWED = Breakage(
    "the gradients overflow in fp16 at every scale", "use --precision bf16 or fp32, or lower --lr"
)


class _Told(NamedTuple):
    """What one process has to say of a broken step."""

    found: str
    remedy: str


def diverged(breakage: Breakage, run: FitSpec, updater: Updater, step: int) -> DivergedError:
    """The error for a broken step, the same in every process, all of which must ask.

    What is needed to see it again is recorded in the run, by the processes with whose images it
    breaks; by all of them where none can tell.
    """
    processes = run.processes
    record, problem = None, ""
    try:
        record = _find(run, updater, step)
    except (OSError, RuntimeError, ValueError) as error:  # the divergence is what matters
        problem = str(error)
    places = processes.gather(record.where if record else "")
    told = _Told(f"no record could be made: {problem}", "")
    if record is not None and (record.where or not any(places)):
        told = _recorded(record, run, updater)
    first = next((rank for rank, where in enumerate(places) if where), 0)
    found, remedy = processes.gather(told)[first]
    return DivergedError(
        f"{breakage.what} at step {step}; {found}",
        remedy=f"{breakage.remedy}; the checkpoints are sound{remedy}",
    )


def _recorded(record: Record, run: FitSpec, updater: Updater) -> _Told:
    """Write a record, and say what it shows."""
    try:
        file = write_record(run.folder.diverged, record, {"torch": torch.__version__})
    except (OSError, RuntimeError, ValueError) as error:
        return _Told(f"no record could be made: {error}", "")
    quoted = ", ".join(record.batch.keys[:MOST_NAMED])
    place = record.where or (
        "a place that the replay finds"
        if updater.weights.wait_in_forward
        else "nothing but the sum of its micro-batches"
    )
    whose = f" of process {run.processes.rank}" if run.processes.world > 1 else ""
    return _Told(
        f"first in {place}, with the images {quoted}{whose}",
        f"; `beit doctor replay {file}` repeats the step",
    )


def _find(run: FitSpec, updater: Updater, step: int) -> Record:
    """The first micro-batch of the step that is broken by itself, else the last.

    The loader gives the same images for the same step again. The weights are those of before it:
    a broken step changes none. Every process looks at all its micro-batches, for a forward pass may
    wait for the other processes. Where weights are spread over processes, or statistics of batch
    norm are, a backward pass would wait, too, and for ever: there a replay, in one process, has to
    find the place.
    """
    records = []
    with closing(run.loader.batches(step, step + 1)) as batches:
        for first, batch in updater.micro_batches([], batches):
            at = updater.circumstances(step, first)
            where = "" if updater.weights.wait_in_forward else _first_bad_value(updater, batch, at)
            records.append(Record(batch, at, where))
    return next((record for record in records if record.where), records[-1])


def _first_bad_value(updater: Updater, batch: Batch, at: StepContext) -> str:
    return first_bad_value(
        updater.objective, batch, at, precision=updater.precision, device=updater.device
    )


class Replayed(NamedTuple):
    """What came of a step done again: the checkpoint it was reached from, and what broke first."""

    step: int
    restored: int
    where: str
    recorded: str


def replay(objective: AnyObjective, run: FitSpec, file: Path) -> Replayed:
    """Repeat the step of a record from the newest checkpoint before it; writes nothing, unless
    tokens that the run had kept are gone: they are kept again.

    Raises CheckpointError if the run has no such checkpoint, unless the record is of a step before
    the first one.
    """
    record = read_record(file)
    step = record.circumstances.step
    updater = Updater(objective, run.config, run.processes, say=print)
    found = newest_checkpoint(run.folder.checkpoints, up_to=step)
    restored = 0
    if found.checkpoint is not None:
        updater.load(found.checkpoint)
        restored = found.checkpoint.step
    elif found.damaged or newest_checkpoint(run.folder.checkpoints).checkpoint is not None:
        raise CheckpointError(
            f"{run.folder.checkpoints} holds no whole checkpoint of step {step} or before",
            remedy="repeat the run with --keep large enough, from the settings of its config.json",
        )
    with closing(run.loader.batches(restored, step)) as batches:
        for again in range(restored, step):
            updater.update(again, batches)
    where = _first_bad_value(updater, record.batch, record.circumstances)
    return Replayed(step, restored, where, record.where)
