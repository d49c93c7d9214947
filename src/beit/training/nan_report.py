"""A step whose numbers are no longer finite: find where they broke, record the step, repeat it.

A record is `diverged/step-00000012.safetensors`, the pixels of one micro-batch, and a JSON file
beside it: the names of the images, the seeds, and the place of the first bad value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from beit.atomic_io import flush, make_folder, write_file
from beit.batch import Batch, Unreadable, to_device
from beit.errors import CheckpointError, DivergedError
from beit.json_object import parse_json
from beit.rng import SampleRNG
from beit.training.checkpoint import newest_checkpoint, safetensors_pieces
from beit.training.device import autocast
from beit.training.run_folder import RunFolder
from beit.training.spec import Batches
from beit.training.update import Updater

NOT_FINITE = "the loss or its gradient is not finite"
OVERFLOWED = "the gradients overflow in fp16 at every scale"
REMEDIES = {
    NOT_FINITE: "lower --lr, set --clip, or use --precision fp32",
    OVERFLOWED: "use --precision bf16 or fp32, or lower --lr",
}
UNRECORDED = (OSError, RuntimeError, ValueError, MemoryError)
"""What may keep a step from being recorded; the run still ends with the error of the divergence."""
MOST_NAMED = 8
"""Images of a micro-batch that an error names; its record has all."""
TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Batch)}


class StepContext(NamedTuple):
    """Everything besides weights and images that decides the numbers of a micro-batch."""

    seed: int
    step: int
    rank: int
    first: int
    """Place of its first image in the batch of the update."""
    accumulation: int
    progress: float
    scale: float
    """What the loss was multiplied by: 1 without fp16."""


class Record(NamedTuple):
    """One micro-batch of a step that went wrong."""

    batch: Batch
    context: StepContext
    where: str
    """The first value that is not finite; empty if there is none in this micro-batch alone."""


def _first_bad_value(updater: Updater, batch: Batch, context: StepContext) -> str:
    """Run one micro-batch, and check each value in the order in which it is computed.

    Returns the name of the first that is not finite, or an empty string. Changes gradients and
    buffers, so it is only for a run that has ended.
    """
    objective, device = updater.objective, updater.device
    for name, value in (*objective.named_parameters(), *objective.named_buffers()):
        if not _is_finite(value):
            return f"the weight {name}"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _given: object, output: object) -> None:
            if not all(map(_is_finite, _tensors(output))):
                found.append(f"the output of {name} ({type(module).__name__})")

        return hook

    objective.train()
    objective.draw(SampleRNG(context.seed, context.step, context.first), len(batch.keys), device)
    objective.zero_grad(set_to_none=True)
    with ExitStack() as hooks, autocast(updater.precision, device):
        for name, module in objective.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(look(name)).remove)
        loss = objective(to_device(batch, device), context.progress)
    if found:
        return found[0]
    if not _is_finite(loss.total):
        return "the loss"
    (loss.total / context.accumulation * context.scale).backward()
    for name, parameter in reversed([*objective.named_parameters()]):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return f"the gradient of {name}"
    return ""


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Iterable) and not isinstance(output, str):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def diverged(
    problem: str, updater: Updater, loader: Batches, folder: RunFolder, step: int
) -> DivergedError:
    """The error for a broken step, the same in every process, all of which must call this.

    What a replay needs is recorded in the run, by the processes whose images break the step; by all
    of them if it is not known which do.

    Args:
        problem: NOT_FINITE or OVERFLOWED.
        updater: Holds the weights from before the step.
        loader: Gives the images of the step again.
        folder: The folder of the run, for the record.
        step: The step that broke.
    """
    processes = updater.processes
    record: Record | None = None
    text = remedy = ""
    try:
        record = _find(updater, loader, step)
    except UNRECORDED as error:
        text = f"no record could be made: {error}"
    where = record.where if record else ""
    known = processes.any(bool(where))
    if record is not None and (where or not known):
        try:
            file = write_record(folder.diverged, record)
        except UNRECORDED as error:
            text = f"no record could be made: {error}"
        else:
            text = _describe(record, updater)
            remedy = f"; `beit doctor replay {file}` repeats the step"
    reports = processes.gather((where, text, remedy))
    _, text, remedy = next((report for report in reports if report[0]), reports[0])
    return DivergedError(
        f"{problem} at step {step}; {text}",
        remedy=f"{REMEDIES[problem]}; the checkpoints are sound{remedy}",
    )


def _find(updater: Updater, loader: Batches, step: int) -> Record:
    """The first micro-batch of the step that is broken by itself, else the last.

    The loader gives the same images for the same step again. The weights are those from before it,
    since a broken step changes none. Every process checks all of its micro-batches, as a forward
    pass may wait for the other processes. Where processes sync in a forward pass, a backward pass
    would wait forever: there a replay, in one process, has to find the place.
    """
    records = []
    with closing(loader.batches(step, step + 1)) as batches:
        for first, batch in updater.micro_batches([], batches):
            context = StepContext(
                seed=updater.config.seed,
                step=step,
                rank=updater.processes.rank,
                first=first,
                accumulation=updater.accumulation,
                progress=step / updater.config.steps,
                scale=updater.scaler.get_scale() if updater.scaler.is_enabled() else 1.0,
            )
            syncs = updater.weights.syncs_in_forward
            where = "" if syncs else _first_bad_value(updater, batch, context)
            records.append(Record(batch, context, where))
    return next((record for record in records if record.where), records[-1])


def _describe(record: Record, updater: Updater) -> str:
    unknown = "nothing but the sum of its micro-batches"
    if updater.weights.syncs_in_forward:
        unknown = "a place that the replay finds"
    images = ", ".join(record.batch.keys[:MOST_NAMED])
    world = updater.processes.world
    whose = f" of process {record.context.rank}" if world > 1 else ""
    return f"first in {record.where or unknown}, with the images {images}{whose}"


class Replayed(NamedTuple):
    """The result of a replay: the checkpoint it started from, where it broke now, and where it
    broke first."""

    step: int
    restored: int
    where: str
    recorded: str


def replay(updater: Updater, loader: Batches, folder: RunFolder, file: Path) -> Replayed:
    """Repeat the step of a record, starting from the newest checkpoint before it.

    Nothing is written, except tokens that the run had cached and that are missing.

    Args:
        updater: An updater for the run's config; it takes the state of the checkpoint.
        loader: The loader of the run's images.
        folder: The folder of the run.
        file: Either of the two files of the record.

    Raises:
        CheckpointError: The file is not a record, or the run has checkpoints, but no whole one of
            this step or before.
    """
    record = read_record(file)
    step, restored = record.context.step, 0
    found = newest_checkpoint(folder.checkpoints, up_to=step)
    if found.checkpoint is not None:
        updater.load(found.checkpoint)
        restored = found.checkpoint.step
    elif found.damaged or newest_checkpoint(folder.checkpoints).checkpoint is not None:
        raise CheckpointError(
            f"{folder.checkpoints} holds no whole checkpoint of step {step} or before",
            remedy="repeat the run with --keep large enough, from the settings of its config.json",
        )
    with closing(loader.batches(restored, step)) as batches:
        for again in range(restored, step):
            updater.update(again, batches)
    where = _first_bad_value(updater, record.batch, record.context)
    return Replayed(step, restored, where, record.where)


def write_record(folder: Path, record: Record) -> Path:
    """Write the record of a micro-batch; returns its safetensors file."""
    context, fields = record.context, record.batch._asdict()
    name = f"step-{context.step:08d}" + (f"-rank-{context.rank}" if context.rank else "")
    make_folder(folder)
    tensors = {key: value.cpu() for key, value in fields.items() if isinstance(value, Tensor)}
    text = {
        "where": record.where,
        **context._asdict(),
        "type": type(record.batch).__name__,
        **{key: value for key, value in fields.items() if key not in tensors},
        "versions": {"torch": torch.__version__},
    }
    write_file(folder / f"{name}.json", [json.dumps(text, indent=1).encode()])
    file = folder / f"{name}.safetensors"
    write_file(file, safetensors_pieces(tensors))
    flush(folder)
    return file


def read_record(file: Path) -> Record:
    """Read what `write_record` wrote, from either of the two files.

    Raises:
        CheckpointError: They are no such record.
    """
    try:
        text = parse_json(file.with_suffix(".json").read_bytes())
        fields = safetensors.torch.load(file.with_suffix(".safetensors").read_bytes())
        unreadable = tuple(Unreadable(*entry) for entry in text["unreadable"])
        batch: Batch = TYPES[text["type"]](
            **fields, keys=tuple(text["keys"]), unreadable=unreadable
        )
        context = StepContext(*(text[name] for name in StepContext._fields))
        return Record(batch, context, text["where"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{file} is not a record of a step that went wrong: {error}",
            remedy="give the file that the error of the run named: "
            "RUN/diverged/step-NUMBER.safetensors",
        ) from error
