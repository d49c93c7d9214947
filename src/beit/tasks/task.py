"""A task, which is everything specific to one kind of run in one value; and all tasks there are."""

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
    """How a run is carried out; none of this changes its results."""

    resume: bool
    quiet: bool
    report: bool


@dataclass(frozen=True, kw_only=True)
class Setup(Generic[Config]):
    """What one run trains, on which images, how these are seen, and how the model is measured."""

    config: Config
    """The config, with what was decided while the run was prepared."""
    objective: AnyObjective
    source: ImageSource
    view: View
    channels: int
    evaluation: Evaluation | None
    details: Details
    """What the artifact will say about its model."""
    decide: Callable[[Details, nn.Module], Details] = lambda details, _model: details
    """Adds to the details what evaluating the model decides, such as thresholds."""
    notes: tuple[str, ...] = ()
    """What the user should know before the first step."""
    start: tuple[str, ...] = ()
    """Which weights were taken from the model `init`, and which were not; empty without one."""
    places: np.ndarray | None = None
    """Indices of the images of an epoch, int64, if some come several times; None: each comes
    once."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Training images that are also among those for validation, each with its name there."""


@dataclass(frozen=True, kw_only=True)
class Task(RunKind[Config]):
    """One kind of run: how it is prepared and shown (see `RunKind`), and what it publishes."""

    config: type[Config]
    """The type by which its runs are recognised, so each task has one of its own."""
    recipes: Mapping[str, Callable[[], Config]]
    prepare: Callable[[Config, Processes, Inputs], Setup[Config]]
    publishes: tuple[ModelKind, ...]
    """The kinds of model that it trains; if several tasks train one, the first answers for it."""
    start_from: Callable[[Config, VisionTransformerConfig, str], Config] | None = None
    """The config with the architecture of the model `init`; None: it cannot start from a model."""
    take_up: Callable[[Config, Config, Inputs], Config] = lambda config, *_: config
    """The config of a resumed run, with what the recorded config decided."""
    first: Callable[[Config], RunConfig | None] = lambda _: None
    """The run that must precede one, such as that of its tokenizer, which the config then names."""
    complete: Callable[[Config, RunOptions, Inputs], Config] = lambda config, *_: config
    """The config with what must exist before the processes start, such as a tokenizer."""
    abilities: Mapping[str, Ability] = field(default_factory=dict)
    """What a server can do with the models that it publishes, by the path of the request."""
    evaluate: Callable[[Artifact, str, EvaluateConfig], Measurement] | None = None
    """What `beit evaluate` does with the models that it publishes; None: it refuses them."""


AnyTask = Task[Any]
TASKS: dict[str, AnyTask] = {}
"""By verb."""


def register(task: Task[Config]) -> Task[Config]:
    """Make a task known: its verb, its recipes, the page of its runs, its models.

    Raises:
        ConfigError: There is already a task with this verb or this type of config.
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
    """The task of a run. Raises ConfigError if no task has this type of config."""
    for task in TASKS.values():
        if type(config) is task.config:
            return task
    raise ConfigError(
        f"no task trains by a {type(config).__name__}",
        remedy="register one in the module that defines it: see docs/own-task.md",
    )


def task_of_kind(kind: str) -> AnyTask | None:
    """The task that answers for a kind of model, if there is one."""
    return next((task for task in TASKS.values() if KINDS[kind] in task.publishes), None)
