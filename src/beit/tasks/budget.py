"""`--time`: a plan of what to train in so much time on this machine and these images.

A plan is a set of options; those that were given win over it. The run records what was chosen, and
goes on with that: nothing is planned twice.
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
"""Fraction of the time for measuring, at least `LEAST` and at most `MOST` seconds."""
LEAST, MOST = 4.0, 60.0
TOKENIZER_FRACTION = 0.25
"""Fraction of the time that a tokenizer may take; else k-means is trained, in seconds."""
TOO_FEW = 100
"""Steps below which next to nothing is learned."""
FEWEST_STEPS, SMALLEST_BATCH = 400, 16
"""A batch is halved, and with it the learning rate, down to this, until there are so many steps."""
HEADERS = 100


@dataclass(frozen=True)
class Plan(Generic[Config]):
    """What was chosen, and why."""

    config: Config
    lines: tuple[str, ...]
    measured: Measured
    deadline: float
    """Until when it may take, by `time.monotonic`."""
    given: frozenset[str]
    verb: str

    def of_what_is_left(self, config: Config) -> Config:
        """The config with as many steps as fit into the time that is left: the tokenizer, if one
        was trained, took what it took."""
        left = self.measured._replace(tokenizer=0.0)
        return _of_length(config, left, self.deadline - time.monotonic(), self.given, self.verb)


def make_plan(
    task: Task[Config], config: Config, given: Mapping[str, object], named: bool, inputs: Inputs
) -> Plan[Config]:
    """What to train in `config.time`.

    Args:
        task: Whose run it is.
        config: The recipe with the options that were given.
        given: Those options.
        named: Whether a recipe other than the default one was named, which then decides all but
            the length.
        inputs: What was opened already.

    Raises:
        ConfigError: Several processes are to train.
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
    """The largest row of the table that sees enough images in the time."""
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
    """What a row sets of a config, but for what was given."""
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
    """Of a device, as the table of budgets has it, where every GPU counts as one of CUDA."""
    return "cpu" if processes.device.type == "cpu" else "cuda"


def _with_labels(
    config: Config, device: str, given: Mapping[str, object], inputs: Inputs
) -> Config:
    """The config with the batch, the rate and the head that its backbone takes with labels."""
    if isinstance(config, PretrainRunConfig | TokenizerRunConfig):
        return config
    if isinstance(config, SegmentRunConfig) and device == "cpu":
        known = {field.name for field in fields(config.head)}
        head = config.head if known & given.keys() else _small_head(config.init, inputs)
        config = replace(config, head=head)
    width = by_name(config).get("width")  # which a task of one's own may call otherwise
    rates = [
        rate for widest, rate in LABELLED_LR.items() if isinstance(width, int) and width <= widest
    ]
    if not rates or given.keys() & {"batch", "lr"}:
        return config
    return override(config, {"batch": LABELLED_BATCH[device], "lr": rates[0]})


def _small_head(init: str, inputs: Inputs) -> SegmentationHeadConfig:
    """That of the segmenter that training goes on from; else a linear one, which in a short run
    segments much better than UperNet, and costs less (docs/notes/small-budgets.md)."""
    model = inputs.artifact(init).model if init else None
    return model.config if isinstance(model, Segmenter) else LinearHeadConfig()


def _operations(row: Budget) -> float:
    """What a view costs, relatively."""
    places = (row.size // row.patch) ** 2
    return places * row.depth * (12 * row.width**2 + 2 * places * row.width)


def _views(config: RunConfig, measured: Measured, seconds: float) -> float:
    return float(measured.steps(seconds) * config.training.batch)


def _source(task: Task[Config], config: Config, inputs: Inputs) -> ImageSource:
    """The images of a run, which its tokenizer need not be there for."""
    reading = getattr(config, "reading", None)
    if reading is not None:
        return inputs.data(config.data, reading).training()
    return task.prepare(config, start_processes(config.training), inputs).source


def _shortest(source: ImageSource) -> int:
    """The median of the shorter sides of some images, in pixels."""
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
    """Halve the batch, and the learning rate with it, while there are few steps or images."""
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
    """The config with the steps that fit, and a few evaluations among them."""
    steps = min(measured.steps(seconds), most_steps(verb, measured.images, config.training.batch))
    every = math.ceil(steps / measured.evaluations(seconds))
    options = {"steps": steps, "evaluate_every": every, "save_every": max(min(500, every), 1)}
    warmup = config.training.warmup_steps
    if warmup:
        options["warmup_steps"] = max(min(warmup, steps // 20), 1) if steps > 1 else 0
    return override(config, {name: value for name, value in options.items() if name not in given})


def most_steps(verb: str, images: int, batch: int) -> int:
    """Steps beyond which more time brings little."""
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
    if total > seconds:  # steps that were given, or one and what comes before and after it
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
"""What to try before training from nothing."""
