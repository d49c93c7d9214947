"""What there is to go on with: a run, the one that precedes it, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from beit.config import RunConfig
from beit.errors import RunFolderError
from beit.tasks.task import Task, task_of
from beit.training.run_folder import RunFolder

Config = TypeVar("Config", bound=RunConfig)


def check_recorded(task: Task[Config], config: Config) -> None:
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
