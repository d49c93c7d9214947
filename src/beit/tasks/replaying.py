"""`beit doctor replay`: a step whose numbers broke, done again."""

from __future__ import annotations

from pathlib import Path

from beit.config import (
    FinetuneRunConfig,
    PretrainRunConfig,
    RunConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
)
from beit.errors import CheckpointError
from beit.tasks import finetuning, pretraining, segmenting, tokenizing
from beit.tasks.execution import Task, open_loader
from beit.training.distributed import Processes, start_processes
from beit.training.nan_report import Replayed, replay
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.spec import FitSpec


def replay_step(file: str) -> Replayed:
    """Do the step of a record again, from the newest checkpoint before it; the run's folder stays
    as it is.

    Raises RunFolderError or CheckpointError if the record is not in a run that can be restored.
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
    task = _task(config, processes)

    run = FitSpec(
        config=config.training,
        folder=folder,
        processes=processes,
        loader=open_loader(config, task, processes),
        images=len(task.source),
        bad_limit=config.loader.bad_limit,
        evaluation=None,
        publish=lambda *_: None,
    )
    return replay(task.objective, run, path)


def _task(config: RunConfig, processes: Processes) -> Task:
    if isinstance(config, TokenizerRunConfig):
        return tokenizing.prepare(config, processes)
    if isinstance(config, PretrainRunConfig):
        return pretraining.prepare(config, processes)
    if isinstance(config, FinetuneRunConfig):
        return finetuning.prepare(config, processes)
    assert isinstance(config, SegmentRunConfig)
    return segmenting.prepare(config, processes)
