"""A task: all that is specific to one kind of run, in one value; and the tasks there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch import nn

from beit.config import RunConfig
from beit.config.evaluate import EvaluateConfig
from beit.config.model import VisionTransformerConfig
from beit.data.loader import View
from beit.data.sources import ImageSource
from beit.errors import ConfigError
from beit.inference.abilities import Ability
from beit.objectives.base import AnyObjective
from beit.recipes import RECIPES
from beit.report.page import RunKind
from beit.tasks.inputs import Inputs
from beit.tasks.measurement import Measurement
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights.kinds import KINDS, ModelKind, add_kind
from beit.weights.store import Artifact, Details

Config = TypeVar("Config", bound=RunConfig)


class RunOptions(NamedTuple):
    """How a run is carried out: nothing of it changes a number."""

    resume: bool
    quiet: bool
    report: bool


@dataclass(frozen=True, kw_only=True)
class Setup(Generic[Config]):
    """What one run trains, on which images, seen how, and how it is measured."""

    config: Config
    """With what was decided while it was put together."""
    objective: AnyObjective
    source: ImageSource
    view: View
    channels: int
    evaluation: Evaluation | None
    details: Details
    """What the artifact says of itself."""
    decide: Callable[[Details, nn.Module], Details] = lambda details, _model: details
    """The details with what the evaluation of the model decides, such as thresholds."""
    notes: tuple[str, ...] = ()
    """What the user should know before."""
    start: tuple[str, ...] = ()
    """Which weights it started from, and which not."""
    places: np.ndarray | None = None
    """The images of an epoch, int64, where some come several times; None: each comes once."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Images to learn from that come again for validation, each with its name there."""


@dataclass(frozen=True, kw_only=True)
class Task(RunKind[Config]):
    """One kind of run: how it is put together, shown (see `RunKind`), and what comes out of it."""

    config: type[Config]
    """Its runs are recognised by it, so each task has a type of its own."""
    recipes: Mapping[str, Callable[[], Config]]
    prepare: Callable[[Config, Processes, Inputs], Setup[Config]]
    publishes: tuple[ModelKind, ...]
    """The kinds of model that it trains; of several tasks the first one answers for a kind."""
    start_from: Callable[[Config, VisionTransformerConfig, str], Config] | None = None
    """The config with the architecture of the model `init`; None: it starts from nothing."""
    take_up: Callable[[Config, Config, Inputs], Config] = lambda config, *_: config
    """The config of a run that goes on, with what the recorded one decided."""
    first: Callable[[Config], RunConfig | None] = lambda _: None
    """The run that has to precede one, such as that of its tokenizer, which it then names."""
    complete: Callable[[Config, RunOptions, Inputs], Config] = lambda config, *_: config
    """The config with what must be there before the processes start, such as a tokenizer."""
    abilities: Mapping[str, Ability] = field(default_factory=dict)
    """What a server does with those models, by the path for it."""
    evaluate: Callable[[Artifact, str, EvaluateConfig], Measurement] | None = None
    """What `beit evaluate` does with the models that it publishes."""


AnyTask = Task[Any]
TASKS: dict[str, AnyTask] = {}
"""By verb."""


def register(task: Task[Config]) -> Task[Config]:
    """Make a task known: its verb, its recipes, the page of its runs, its models.

    Raises ConfigError if there is one of this verb or this config.
    """
    known = TASKS.get(task.verb)
    if known is not None or any(task.config is other.config for other in TASKS.values()):
        raise ConfigError(
            f"there is a task '{task.verb}', or one with a {task.config.__name__}",
            remedy="give the task a verb and a type of config of its own",
        )
    for kind in task.publishes:
        add_kind(kind)
    TASKS[task.verb] = task
    RECIPES[task.verb] = task.recipes
    return task


def task_of(config: RunConfig) -> AnyTask:
    """The task of a run. Raises ConfigError for a config that is no task's."""
    for task in TASKS.values():
        if type(config) is task.config:
            return task
    raise ConfigError(
        f"no task trains by a {type(config).__name__}",
        remedy="register one in the module that defines it: see docs/own-task.md",
    )


def task_of_kind(kind: str) -> AnyTask | None:
    """The task that answers for a kind of model."""
    return next((task for task in TASKS.values() if KINDS[kind] in task.publishes), None)
