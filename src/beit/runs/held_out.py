"""Whether data are those a run was trained on, so that only what it held out may be measured."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from beit.config import RunConfig
from beit.data.sources import VALIDATION_FOLDERS
from beit.errors import RunFolderError
from beit.training.run_folder import read_run_config

Config = TypeVar("Config", bound=RunConfig)
NOTE = "the run was trained on the other pictures here: these are the share it held out"


def run_on(model: str, data: str, split: str, kind: type[Config]) -> Config | None:
    """The config of the run that made a model, if it was trained on these data and its validation
    part is asked for; None else.

    `model` is the folder of a run, or of an artifact in it.
    """
    if split not in VALIDATION_FOLDERS:
        return None
    for folder in (Path(model), Path(model).parent):
        try:
            config = read_run_config(folder)
        except RunFolderError:
            continue
        if isinstance(config, kind) and Path(config.data).resolve() == Path(data).resolve():
            return config
    return None
