"""What can be done with a finished run or model: evaluate it, report on it, replay a step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Unpack, overload

from beit.config.evaluate import EvaluateConfig
from beit.config.options import EvaluateOptions
from beit.config.tree import override
from beit.errors import CheckpointError, ConfigError
from beit.report.comparison import write_comparison
from beit.report.page import write_page
from beit.report.plots import write_plots
from beit.tasks.execution import open_loader
from beit.tasks.inputs import Inputs
from beit.tasks.measurement import (
    ClassifierEvaluation,
    Measurement,
    MultiLabelEvaluation,
    SegmenterEvaluation,
)
from beit.tasks.task import task_of, task_of_kind
from beit.training.distributed import start_processes
from beit.training.nan_report import Replayed, replay
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.update import Updater
from beit.weights.load import open_artifact

PLAIN = EvaluateConfig()


Place = str | PathLike[str]
Kind = Literal["classifier", "multi-label classifier", "segmenter"]


@overload
def evaluate(
    model: Place,
    config: EvaluateConfig = PLAIN,
    *,
    kind: Literal["classifier"],
    **options: Unpack[EvaluateOptions],
) -> ClassifierEvaluation: ...
@overload
def evaluate(
    model: Place,
    config: EvaluateConfig = PLAIN,
    *,
    kind: Literal["multi-label classifier"],
    **options: Unpack[EvaluateOptions],
) -> MultiLabelEvaluation: ...
@overload
def evaluate(
    model: Place,
    config: EvaluateConfig = PLAIN,
    *,
    kind: Literal["segmenter"],
    **options: Unpack[EvaluateOptions],
) -> SegmenterEvaluation: ...
@overload
def evaluate(
    model: Place,
    config: EvaluateConfig = PLAIN,
    *,
    kind: None = None,
    **options: Unpack[EvaluateOptions],
) -> Measurement: ...
def evaluate(
    model: Place,
    config: EvaluateConfig = PLAIN,
    *,
    kind: Kind | None = None,
    **options: Unpack[EvaluateOptions],
) -> Measurement:
    """Measure a classifier on labelled images, or a segmenter on images with masks.

    Args:
        model: A run, an artifact, or any released file.
        config: Which images, and how they are read.
        kind: What the model must be, which tells type checkers the type of the result; None:
            anything that can be measured.
        options: Changes to the config by name.

    Raises:
        ConfigError: The model neither classifies nor segments or is of another `kind`, or an option
            is of the other kind of model.
    """
    config, reference = override(config, options), os.fspath(model)
    if not config.data:
        raise ConfigError("no images were given", remedy="add --data FOLDER")
    artifact = open_artifact(reference)
    task = task_of_kind(artifact.kind)
    if task is None or task.evaluate is None:
        raise ConfigError(
            f"{reference} holds a {artifact.kind} model, which neither classifies nor segments",
            remedy="fine-tune it with `beit finetune --init` or `beit segment --init`",
        )
    found = "multi-label " * artifact.details.multi_label + artifact.kind
    if kind not in (None, found):
        raise ConfigError(
            f"{reference} holds a {found}, and a {kind} is expected", remedy=f'use kind="{found}"'
        )
    return task.evaluate(artifact, reference, config)


def report_run(run: Path) -> Path:
    """Write RUN/report.html. Raises RunFolderError if there is no run, or none that can be read."""
    config = read_run_config(run)
    return write_page(run, config, task_of(config))


def report_plots(run: Path, folder: Path) -> list[Path]:
    """Write every curve of a run to FOLDER: see `beit.report.plots.write_plots`."""
    return write_plots(run, folder, task_of(read_run_config(run)))


def report_comparison(runs: Sequence[Path], place: Path) -> Path:
    """Write one page about several runs: see `beit.report.comparison.write_comparison`."""
    return write_comparison(runs, place, task_of)


def replay_step(file: str) -> Replayed:
    """Repeat the step of a record, from the newest checkpoint before it. The folder of the run is
    not changed.

    Raises:
        RunFolderError: The record is not in the folder of a run.
        CheckpointError: There is no such record, or the run cannot be restored.
    """
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(
            f"there is no file {path}",
            remedy="give the record that the error named: RUN/diverged/step-NUMBER.safetensors",
        )
    folder = RunFolder(path.absolute().parent.parent)
    config = read_run_config(folder.path)
    processes = start_processes(config.training)
    setup = task_of(config).prepare(config, processes, Inputs())
    updater = Updater(setup.objective, config.training, processes, print)
    return replay(updater, open_loader(setup, processes), folder, path)
