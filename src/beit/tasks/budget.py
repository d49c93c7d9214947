"""`--time`: plan what to train in a given time on this machine and these images.

A plan is a set of options; those that the user gave take precedence. The run records what was
chosen, and a resumed run keeps it: nothing is planned twice.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Generic, Literal, TypeVar

import numpy as np
import torch

from beit.config import (
    LinearHeadConfig,
    PretrainRunConfig,
    RunConfig,
    SegmentationHeadConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
)
from beit.config.tree import by_name, override
from beit.config.validation import seconds_of
from beit.data.decode import read_header
from beit.data.loader import choose_workers
from beit.data.sources import ImageSource, evenly
from beit.errors import ConfigError, UnreadableError
from beit.hardware import cores
from beit.models.segmenter import Segmenter
from beit.recipes.budgets import (
    BUDGETS,
    LABELLED_BATCH,
    LABELLED_LR,
    LIMITS,
    Budget,
    fitting_size,
)
from beit.tasks.inputs import Inputs
from beit.tasks.rehearsal import Measured, in_words, measure
from beit.tasks.task import Task
from beit.terminal import counted
from beit.training.distributed import Processes, start_processes

Config = TypeVar("Config", bound=RunConfig)
CALIBRATION = 0.03
"""Fraction of the time spent on measuring, but at least `LEAST` and at most `MOST` seconds."""
LEAST, MOST = 4.0, 60.0
TOKENIZER_FRACTION = 0.25
"""Fraction of the time that training the tokenizer may take; if it would take more, k-means is used
instead, which takes seconds."""
TOO_FEW = 100
"""Steps below which next to nothing is learned."""
FEWEST_STEPS, SMALLEST_BATCH = 400, 16
"""The batch, and the learning rate with it, is halved until this many steps fit, or until the batch
is no larger than this."""
HEADERS = 100
"""Images whose headers are read to find out how large the images are."""


@dataclass(frozen=True)
class Plan(Generic[Config]):
    """What was chosen, and the lines that explain why."""

    config: Config
    lines: tuple[str, ...]
    measured: Measured
    deadline: float
    """When the time is up, on the clock of `time.monotonic`."""
    given: frozenset[str]
    """Names of the options that the user gave."""
    verb: str

    def of_what_is_left(self, config: Config) -> Config:
        """The config with as many steps as fit into the time that is left now, after the tokenizer,
        if any, was trained."""
        left = self.measured._replace(tokenizer=0.0)
        return _of_length(config, left, self.deadline - time.monotonic(), self.given, self.verb)


def make_plan(
    task: Task[Config], config: Config, given: Mapping[str, object], named: bool, inputs: Inputs
) -> Plan[Config]:
    """Plan what to train in `config.time`.

    Args:
        task: The kind of run; it prepares the runs whose steps are measured.
        config: The recipe's config with the user's options applied.
        given: The user's options by name, which the plan does not change.
        named: Whether the user named a recipe other than the default; its model is then kept.
        inputs: Artifacts and images that were opened for this run already.

    Raises:
        ConfigError: Several processes are to train, or the run keeps its views on disk.
    """
    began, seconds = time.monotonic(), seconds_of(config.time)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "--time plans for one process", remedy="give --steps where torchrun starts several"
        )
    processes = start_processes(config.training)
    allowance = min(max(CALIBRATION * seconds, LEAST), MOST)
    fixed = named or bool(getattr(config, "init", "")) or isinstance(config, TokenizerRunConfig)
    row, measured = None, None
    if fixed and not named:
        config = _with_labels(config, _kind(processes), given, inputs)
    if not fixed:
        row, config, measured = _chosen(task, config, given, seconds, processes, inputs, allowance)
    if measured is None:
        measured = measure(task, config, processes, inputs, allowance)
    slow = measured.tokenizer > TOKENIZER_FRACTION * seconds
    if isinstance(config, PretrainRunConfig) and slow and "tokenizer_recipe" not in given:
        config = override(config, {"tokenizer_recipe": "kmeans"})
        measured = measure(task, config, processes, inputs, allowance)
    config, measured = _smaller_batches(config, measured, seconds, given)
    deadline = began + seconds
    left = deadline - time.monotonic()
    config = _of_length(config, measured, left, frozenset(given), task.verb)
    lines = tuple(_lines(task.verb, config, row, measured, processes.device, seconds, left))
    processes.close()
    return Plan(config, lines, measured, deadline, frozenset(given), task.verb)


def _chosen(
    task: Task[Config],
    config: Config,
    given: Mapping[str, object],
    seconds: float,
    processes: Processes,
    inputs: Inputs,
    allowance: float,
) -> tuple[Budget, Config, Measured]:
    """The largest row of `BUDGETS` that sees enough images in the time, its config and its cost."""
    rows = [row for row in BUDGETS if row.device == _kind(processes)]
    best: tuple[Budget, Config, Measured] | None = None
    shortest = 0
    for row in rows:
        if best is not None:
            factor = _operations(row) / _operations(best[0])
            if _views(best[1], best[2], seconds) / factor < row.enough:
                break
        if not shortest:
            shortest = _shortest(_source(task, config, inputs))
        tried = override(config, _options(row, shortest, config, given))
        tried = _with_labels(tried, row.device, given, inputs)
        cost = measure(task, tried, processes, inputs, allowance / len(rows))
        if best is not None and _views(tried, cost, seconds) < row.enough:
            break
        best = row, tried, cost
    assert best is not None
    return best


def _options(
    row: Budget, shortest: int, config: RunConfig, given: Mapping[str, object]
) -> dict[str, object]:
    """The options of a config that a row sets, without those that the user gave."""
    size, patch = fitting_size(row, shortest)
    if "size" in given or "patch" in given:
        known = by_name(config)
        size = size if "size" not in given else known["size"]  # type: ignore[assignment]
        patch = patch if "patch" not in given else known["patch"]  # type: ignore[assignment]
        if isinstance(size, int):
            size = max(size // patch, 1) * patch
    options: dict[str, object] = {
        "size": (size, size) if isinstance(size, int) else size,
        "patch": patch, "width": row.width, "depth": row.depth, "heads": row.heads,
        "hidden": 4 * row.width, "tokenizer_recipe": row.tokenizer, "knn_images": 1_000,
    }  # fmt: skip
    if isinstance(config, PretrainRunConfig):
        options |= {"batch": row.batch, "lr": row.lr}
    known = by_name(config)
    return {name: value for name, value in options.items() if name in known and name not in given}


def _kind(processes: Processes) -> Literal["cpu", "cuda"]:
    """The kind of device in the terms of `BUDGETS`, where every GPU counts as `cuda`."""
    return "cpu" if processes.device.type == "cpu" else "cuda"


def _with_labels(
    config: Config, device: str, given: Mapping[str, object], inputs: Inputs
) -> Config:
    """The config with the batch, learning rate and head that suit training its backbone on
    labels."""
    if isinstance(config, PretrainRunConfig | TokenizerRunConfig):
        return config
    if isinstance(config, SegmentRunConfig) and device == "cpu":
        known = {field.name for field in fields(config.head)}
        head = config.head if known & given.keys() else _small_head(config.init, inputs)
        config = replace(config, head=head)
    width = by_name(config).get("width")  # a task from elsewhere may name it differently
    rates = [
        rate for widest, rate in LABELLED_LR.items() if isinstance(width, int) and width <= widest
    ]
    if not rates or given.keys() & {"batch", "lr"}:
        return config
    return override(config, {"batch": LABELLED_BATCH[device], "lr": rates[0]})


def _small_head(init: str, inputs: Inputs) -> SegmentationHeadConfig:
    """The head of the segmenter `init`, if it is one; otherwise a linear head, which in a short run
    segments much better than UperNet, and costs less (docs/notes/small-budgets.md)."""
    model = inputs.artifact(init).model if init else None
    return model.config if isinstance(model, Segmenter) else LinearHeadConfig()


def _operations(row: Budget) -> float:
    """The relative cost of one view with a row's backbone."""
    places = (row.size // row.patch) ** 2
    return places * row.depth * (12 * row.width**2 + 2 * places * row.width)


def _views(config: RunConfig, measured: Measured, seconds: float) -> float:
    return float(measured.steps(seconds) * config.training.batch)


def _source(task: Task[Config], config: Config, inputs: Inputs) -> ImageSource:
    """The images of a run, whose tokenizer need not exist yet."""
    reading = getattr(config, "reading", None)
    if reading is not None:
        return inputs.data(config.data, reading).training()
    return task.prepare(config, start_processes(config.training), inputs).source


def _shortest(source: ImageSource) -> int:
    """The median of the shorter sides of up to `HEADERS` images, in pixels."""
    sides = []
    few = evenly(source, HEADERS)
    for index in range(len(few)):
        try:
            header = read_header(few.read(index).data)
        except UnreadableError:
            continue
        sides.append(min(header.height, header.width))
    return int(np.median(sides)) if sides else BUDGETS[0].size


def _smaller_batches(
    config: Config, measured: Measured, seconds: float, given: Mapping[str, object]
) -> tuple[Config, Measured]:
    """Halve the batch, and the learning rate with it, while too few steps fit or the batch exceeds
    the number of images."""
    batch, lr, step = config.training.batch, config.training.lr, measured.step
    if "batch" in given:
        return config, measured
    while batch > SMALLEST_BATCH and (
        measured.steps(seconds) < FEWEST_STEPS or batch > measured.images
    ):
        batch, lr, step = batch // 2, lr / 2, step / 2
        measured = measured._replace(step=step)
    options = {"batch": batch} | ({} if "lr" in given else {"lr": lr})
    return override(config, options), measured


def _of_length(
    config: Config, measured: Measured, seconds: float, given: frozenset[str], verb: str
) -> Config:
    """The config with as many steps as fit into `seconds`, and a few evaluations among them."""
    steps = min(measured.steps(seconds), most_steps(verb, measured.images, config.training.batch))
    every = math.ceil(steps / measured.evaluations(seconds))
    options = {"steps": steps, "evaluate_every": every, "save_every": max(min(500, every), 1)}
    warmup = config.training.warmup_steps
    if warmup:
        options["warmup_steps"] = max(min(warmup, steps // 20), 1) if steps > 1 else 0
    return override(config, {name: value for name, value in options.items() if name not in given})


def most_steps(verb: str, images: int, batch: int) -> int:
    """Steps beyond which more time brings little.

    Args:
        verb: Decides which of `LIMITS` apply: by default 1,000 epochs or 2,000 steps.
        images: Number of training images, to count epochs.
        batch: Images per step.
    """
    epochs, least = LIMITS.get(verb, (1_000, 2_000))
    return max(epochs * images // batch, least)


def _lines(
    verb: str,
    config: RunConfig,
    row: Budget | None,
    measured: Measured,
    device: torch.device,
    seconds: float,
    left: float,
) -> Iterator[str]:
    training, known = config.training, by_name(config)
    where = {"cpu": f"{cores()} CPU cores", "mps": "an Apple GPU"}.get(device.type)
    where = where or torch.cuda.get_device_name(device)
    yield f"plan for {config.time} of {verb} on {where}, for {measured.images:,} images"
    steps = training.steps
    if "width" in known:
        model = f"{known['depth']} blocks of width {known['width']}"
        source = f"from {known['init']}" if known.get("init") else "from random weights"
        size = known["size"]
        assert isinstance(size, tuple)
        yield (
            f"  what    {model}, images of {size[0]} x {size[1]} in patches of {known['patch']}, "
            f"{source}"
        )
    epochs = steps * training.batch / measured.images
    workers = choose_workers(config.loader, 1)
    readers = f"read by {counted(workers, 'process')}" if workers else "read between the steps"
    yield (
        f"          {counted(steps, 'step')} of {training.batch} images ({epochs:.1f} epochs), "
        f"{readers}, learning rate {training.lr:.1e}"
    )
    if measured.tokenizer:
        yield (
            f"          first a tokenizer ({known['tokenizer_recipe']}), in {config.out}-tokenizer"
            f": about {in_words(measured.tokenizer)}"
        )
    yield (
        f"  why     a step takes {measured.step:.3g} s here, an evaluation "
        f"{measured.evaluation:.2g} s"
    )
    beside = measured.evaluations(left) * measured.evaluation
    total = measured.tokenizer + steps * measured.step + beside
    short = ", as more steps would bring little" if total < 0.8 * left else ""
    if steps < TOO_FEW:
        short = ": too little to learn much from, give it more"
    if total > seconds:  # the user gave the steps, or not even one fits
        short = ": that does not fit, give it more, or try when this machine is less busy"
    yield f"  time    about {in_words(total)} of {in_words(seconds)}{short}"
    if row is not None:
        yield f"  expect  {row.measured or 'this row of the table of budgets was not measured'}"
    yield (
        f"  instead {ALTERNATIVES.get(verb, '')}"
        if not known.get("init")
        else ("  instead `beit probe` measures the model as it is, without training, in minutes")
    )


ALTERNATIVES = {
    "tokenizer": "a released tokenizer: `beit models --kind tokenizer`",
    "pretrain": "first `beit probe beit-base-22k` (a released model, if there are labels), then "
    "fine-tune it; or go on from it: --init beit-base-22k",
    "finetune": "a released model is the better start: --init beit-base-22k (`beit models`)",
    "segment": "a released model is the better start: --init beit-base-22k (`beit models`)",
}
"""What to try before training from scratch."""
