"""The config of a run, put together from a recipe, options, the model that it starts from, and what
a resumed run has recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from beit.config import RunConfig
from beit.config.following import following
from beit.config.model import VisionTransformerConfig
from beit.config.training import Order
from beit.config.tree import by_name, override
from beit.errors import ConfigError, RunFolderError
from beit.recipes import DEFAULT, find_recipe
from beit.tasks.inputs import Inputs
from beit.tasks.task import Task, task_of
from beit.training.run_folder import RunFolder, read_run_config
from beit.weights.transfer import check_same_architecture

Config = TypeVar("Config", bound=RunConfig)


def resolve_config(
    task: Task[Config],
    recipe: str | Config | None,
    options: Mapping[str, object],
    inputs: Inputs,
    *,
    resume: bool = False,
) -> Config:
    """The recipe's config with the options applied; `init` decides the architecture first.

    Args:
        task: The kind of run.
        recipe: A recipe's name, `module:function`, or a config; None: that of a resumed run, else
            the default one.
        options: Changes to the config by name.
        inputs: Opens the model `init`.
        resume: Whether the run in `out` is resumed, whose recorded config then comes first.

    Raises:
        ConfigError: An option or the recipe is wrong, or `data` or `out` is missing.
        CheckpointError: The model `init` cannot be used, or has another architecture.
        RunFolderError: The run to resume has recorded nothing.
    """
    config = base_config(task, recipe, options, inputs, resume=resume)
    config = override(config, options)
    if resume and config.out and not config.data:
        _check_recorded(task, config)
    if not config.data:
        raise ConfigError("no images were given", remedy="add --data FOLDER")
    if not config.out:
        raise ConfigError("no folder was given for the run", remedy="add --out FOLDER")
    start: str = getattr(config, "init", "")
    if start:
        model: VisionTransformerConfig = getattr(config, "model")  # noqa: B009 (of its type)
        check_same_architecture(model, inputs.backbone(start))
    return config


def with_order(config: Config, order: Order) -> Config:
    """The config with `order` in the place of `auto`; any other order stays."""
    if config.training.order != "auto":
        return config
    return replace(config, training=replace(config.training, order=order))


def base_config(
    task: Task[Config],
    recipe: str | Config | None,
    options: Mapping[str, object],
    inputs: Inputs,
    *,
    resume: bool = False,
) -> Config:
    """The config that options are then applied to.

    This is a recipe, with the architecture of the model `init` if the options name one. For a run
    by the same recipe that is resumed, it is what the run recorded, so that no option need be
    repeated and nothing that was decided is decided again.

    Args:
        task: The kind of run.
        recipe: A recipe's name, `module:function`, or a config; None: that of a resumed run, else
            the default one.
        options: The user's options by name, of which only `init` and `out` are read here.
        inputs: Opens the model `init`.
        resume: Whether the run in `out` is resumed.

    Raises:
        ConfigError: There is no such recipe, or a run of this task starts from no model.
        CheckpointError: The model `init` cannot be opened, or has no backbone.
    """
    if resume and not isinstance(recipe, RunConfig):
        folder = Path(str(options.get("out", "")))
        if recipe is not None:
            find_recipe(task.verb, recipe, task.config)  # which imports the user's own code
        if RunFolder(folder).config.exists():
            recorded = read_run_config(folder)
            if not isinstance(recorded, task.config):
                verb = task_of(recorded).verb
                raise RunFolderError(
                    f"{folder} holds a run of `beit {verb}`, not of `beit {task.verb}`",
                    remedy=f"continue it with `beit {verb} --resume`, or choose another --out",
                )
            if recipe in (None, recorded.recipe):
                return recorded
    if isinstance(recipe, RunConfig):
        config = recipe
    else:
        default = DEFAULT if DEFAULT in task.recipes else next(iter(task.recipes))
        config = find_recipe(task.verb, recipe or default, task.config)
    init = options.get("init")
    return starting_from(config, init, inputs) if isinstance(init, str) and init else config


def starting_from(config: Config, init: str, inputs: Inputs | None = None) -> Config:
    """The config with the architecture of another model, as its task needs it.

    All else stays the recipe's: drop path, augmentation, masks, heads and what they read, except
    for what follows the architecture (`beit.config.following`).

    Args:
        config: The config of a run, usually a recipe's.
        init: The model to start from: a run, an artifact or a released file.
        inputs: What was opened already; None: the model is opened anew.

    Raises:
        ConfigError: A run of this task starts from no model.
        CheckpointError: The model cannot be opened, or has no backbone.
    """
    task, inputs = task_of(config), inputs or Inputs()
    if task.start_from is None:
        raise ConfigError(f"a {task.verb} starts from nothing", remedy="leave --init out")
    backbone = inputs.backbone(init)
    seen = inputs.artifact(init).details.value_range
    if seen:  # values are to be scaled as the backbone has seen them
        config = replace(config, loader=replace(config.loader, value_range=seen))
    started: Config = task.start_from(config, backbone, init)
    before = by_name(config)
    changed = {name: value for name, value in by_name(started).items() if value != before.get(name)}
    return override(started, {rule.follower: value for rule, value in following(before, changed)})


def _check_recorded(task: Task[Config], config: Config) -> None:
    """Raise RunFolderError if a run is to be resumed without its options, but recorded none."""
    folder = RunFolder(Path(config.out))
    if was_stopped_before(task, config, folder):
        first = task.first(config)
        assert first is not None
        raise RunFolderError(
            f"the run in {folder.path} was not begun yet, only that of its {task_of(first).verb} "
            f"in {first.out}",
            remedy="repeat the command that started it, with --data and all of its options, and "
            "add --resume",
        )
    if not folder.config.exists():
        folder.check_resumable(config)


def was_stopped_before(task: Task[Config], config: Config, folder: RunFolder) -> bool:
    """Whether a run has not begun yet, but the run before it has, such as that of its tokenizer.
    Then the earlier run is resumed, and this one starts after it.

    Args:
        task: The kind of run.
        config: The run, with all of its options.
        folder: The folder of the run.
    """
    first = None if folder.config.exists() else task.first(config)
    return first is not None and RunFolder(Path(first.out)).config.exists()
