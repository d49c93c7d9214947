"""`--time`: a plan of what to train in so much time on this machine and these images.

A plan is a set of options; those that were given win over it. The run records what was chosen, and
goes on with that: nothing is planned twice.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from beit.config import PretrainRunConfig, RunConfig, TokenizerRunConfig
from beit.config.tree import by_name, override
from beit.config.validation import seconds_of
from beit.data.decode import read_header
from beit.data.loader import choose_workers
from beit.data.pixel_types import UnreadableError
from beit.data.sources import ImageSource, evenly
from beit.errors import ConfigError
from beit.hardware import cores
from beit.recipes import DEFAULT
from beit.recipes.budgets import BUDGETS, LIMITS, Budget, fitting_size
from beit.tasks.inputs import Inputs
from beit.tasks.rehearsal import evaluation_seconds, in_words, is_trivial, rehearse
from beit.tasks.task import Setup, Task, task_of
from beit.terminal import counted
from beit.training.distributed import Processes, start_processes
from beit.weights.store import save_artifact

Config = TypeVar("Config", bound=RunConfig)
RESERVE = 0.06
"""Fraction of the time for starting, saving and the page."""
CALIBRATION = 0.03
"""Fraction of the time for measuring, at least `LEAST` and at most `MOST` seconds."""
LEAST, MOST = 4.0, 60.0
TOKENIZER_FRACTION = 0.25
"""Fraction of the time that a tokenizer may take; else k-means is trained, in seconds."""
EVALUATIONS, EVALUATING = 4, 0.1
"""Evaluations of a run; only that at the end where they would take more than this fraction."""
TOO_FEW = 100
"""Steps below which next to nothing is learned."""
FEWEST_STEPS, SMALLEST_BATCH = 400, 16
"""A batch is halved, and with it the learning rate, down to this, until there are so many steps."""
HEADERS = 100
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
    if not fixed:
        row, config, measured = _chosen(task, config, given, seconds, processes, inputs, allowance)
    if measured is None:
        measured = _measured(task, config, processes, inputs, allowance)
    if isinstance(config, PretrainRunConfig) and measured.tokenizer > TOKENIZER_FRACTION * seconds:
        config = override(config, {"tokenizer_recipe": "kmeans"})
        measured = _measured(task, config, processes, inputs, allowance)
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
    rows = [row for row in BUDGETS if row.device == processes.device.type]
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
        cost = _measured(task, tried, processes, inputs, allowance / len(rows))
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
        "hidden": 4 * row.width, "batch": row.batch, "lr": row.lr,
        "tokenizer_recipe": row.tokenizer, "knn_images": 1_000,
    }  # fmt: skip
    if not isinstance(config, PretrainRunConfig):
        options |= {"batch": 64 if row.device == "cpu" else 128, "lr": 1e-3}
    known = by_name(config)
    return {name: value for name, value in options.items() if name in known and name not in given}


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


def _measured(
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


# -- what it says ---------------------------------------------------------------------------------


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
    where = f"{cores()} CPU cores" if device.type == "cpu" else torch.cuda.get_device_name(device)
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


# -- without --time -------------------------------------------------------------------------------


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
    cost = _measured(task, config, processes, inputs, ANNOUNCED, evaluate=False)
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
