"""The config of a run: of a recipe, of options, of the model it starts from, or of what it goes on
with."""

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
    """The recipe's config with the options applied; `init` decides the architecture first."""
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
    """The config with the order that `auto` stands for in this run."""
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
    """What options change: a recipe, with the architecture of the model `init` among them; or, of a
    run by the same recipe that goes on in `out`, what it recorded, so that nothing need be repeated
    and nothing that it decided is decided again."""
    if resume and not isinstance(recipe, RunConfig):
        folder = Path(str(options.get("out", "")))
        if recipe is not None:
            find_recipe(task.verb, recipe, task.config)  # and imports the code of one's own
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
    """The config with the architecture of an artifact or a released file, as its task needs it.

    All else stays the recipe's: drop path, augmentation, masks, heads and what they read, but for
    what follows the architecture (`beit.config.following`).
    """
    task, inputs = task_of(config), inputs or Inputs()
    if task.start_from is None:
        raise ConfigError(f"a {task.verb} starts from nothing", remedy="leave --init out")
    backbone = inputs.backbone(init)
    seen = inputs.artifact(init).details.value_range
    if seen:  # what the backbone has seen is what it goes on with
        config = replace(config, loader=replace(config.loader, value_range=seen))
    started: Config = task.start_from(config, backbone, init)
    before = by_name(config)
    changed = {name: value for name, value in by_name(started).items() if value != before.get(name)}
    return override(started, {rule.follower: value for rule, value in following(before, changed)})


def _check_recorded(task: Task[Config], config: Config) -> None:
    """RunFolderError where a run is to go on, without its options, of which none are recorded."""
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
    """Whether this run was not begun yet, but the tokenizer that it trains first was: that goes on,
    and this run starts after it."""
    first = None if folder.config.exists() else task.first(config)
    return first is not None and RunFolder(Path(first.out)).config.exists()
