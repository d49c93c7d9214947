"""Numbers that are no longer finite: where they first appear, and what it takes to see it again.

A record is `diverged/step-00000012.safetensors`, the pixels of one micro-batch, and a JSON file
beside it: the names of the images, the seeds, and the place of the first bad value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import safetensors.torch
import torch
from torch import Tensor, nn

from beit.atomic_io import flush, make_folder, write_file
from beit.batch import Batch, Unreadable, to_device
from beit.errors import CheckpointError
from beit.json_object import parse_json
from beit.objectives.base import AnyObjective
from beit.rng import SampleRNG
from beit.training.parallel import autocast
from beit.training.streamed import safetensors_pieces

TYPES: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Batch)}


class StepContext(NamedTuple):
    """Beside weights and images, all that decides the numbers of a micro-batch."""

    seed: int
    step: int
    rank: int
    first: int
    """Place of its first image in the batch of the update."""
    accumulation: int
    progress: float
    scale: float
    """What the loss was multiplied with: 1 without fp16."""


class Record(NamedTuple):
    """One micro-batch of a step that went wrong."""

    batch: Batch
    circumstances: StepContext
    where: str
    """The first value that is not finite; empty if there is none in this micro-batch alone."""


def first_bad_value(
    objective: AnyObjective,
    batch: Batch,
    circumstances: StepContext,
    *,
    precision: torch.dtype,
    device: torch.device,
) -> str:
    """Carry out one micro-batch, looking at each value in the order in which it comes about.

    Returns the name of the first that is not finite, or nothing. Leaves gradients and buffers
    changed: it is for a run that is over.
    """
    for name, value in (*objective.named_parameters(), *objective.named_buffers()):
        if not _is_finite(value):
            return f"the weight {name}"
    at = circumstances
    objective.train()
    objective.draw(SampleRNG(at.seed, at.step, at.first), len(batch.keys), device)
    objective.zero_grad(set_to_none=True)
    with _watched(objective) as found, autocast(precision, device):
        loss = objective(to_device(batch, device), at.progress)
    if found:
        return f"the output of {found[0]}"
    if not _is_finite(loss.total):
        return "the loss"
    (loss.total / at.accumulation * at.scale).backward()
    for name, parameter in reversed([*objective.named_parameters()]):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return f"the gradient of {name}"
    return ""


@contextmanager
def _watched(objective: AnyObjective) -> Iterator[list[str]]:
    """The names of modules whose output is not finite, in the order in which they are done."""
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        def look(module: nn.Module, _given: object, output: object) -> None:
            if not all(_is_finite(tensor) for tensor in _tensors(output)):
                found.append(f"{name} ({type(module).__name__})")

        return module.register_forward_hook(look)

    hooks = [watch(name, module) for name, module in objective.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Iterable) and not isinstance(output, str):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def write_record(folder: Path, record: Record, versions: dict[str, str]) -> Path:
    """Write the record of a micro-batch; returns its safetensors file."""
    at = record.circumstances
    name = f"step-{at.step:08d}" + (f"-rank-{at.rank}" if at.rank else "")
    make_folder(folder)
    fields = record.batch._asdict()
    tensors = {key: value.cpu() for key, value in fields.items() if isinstance(value, Tensor)}
    text = {
        "where": record.where,
        **at._asdict(),
        "type": type(record.batch).__name__,
        **{key: value for key, value in fields.items() if key not in tensors},
        "versions": versions,
    }
    write_file(folder / f"{name}.json", [json.dumps(text, indent=1).encode()])
    file = folder / f"{name}.safetensors"
    write_file(file, safetensors_pieces(tensors))
    flush(folder)
    return file


def read_record(file: Path) -> Record:
    """Read what `write_record` wrote, from either of the two files.

    Raises CheckpointError if it is none.
    """
    try:
        text = parse_json(file.with_suffix(".json").read_bytes())
        fields = safetensors.torch.load(file.with_suffix(".safetensors").read_bytes())
        kind = TYPES[text["type"]]
        rest = {"keys": tuple(text["keys"])} | {
            "unreadable": tuple(Unreadable(*entry) for entry in text["unreadable"])
        }
        batch: Batch = kind(**fields, **rest)
        circumstances = StepContext(*(text[name] for name in StepContext._fields))
        return Record(batch, circumstances, text["where"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{file} is no record of a step that went wrong: {error}",
            remedy="give the file that the error of the run named: "
            "RUN/diverged/step-NUMBER.safetensors",
        ) from error
