"""What is done with a run or a model by its task: evaluate it, report it, replay a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beit.config.evaluate import EvaluateConfig
from beit.config.tree import override
from beit.errors import CheckpointError, ConfigError
from beit.report.comparison import write_comparison
from beit.report.page import write_page
from beit.report.plots import write_plots
from beit.tasks.execution import open_loader
from beit.tasks.inputs import Inputs
from beit.tasks.measurement import Measurement
from beit.tasks.task import task_of, task_of_kind
from beit.training.distributed import start_processes
from beit.training.nan_report import Replayed, replay
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.update import Updater
from beit.weights.load import open_artifact

PLAIN = EvaluateConfig()


def evaluate(model: str, config: EvaluateConfig = PLAIN, **options: object) -> Measurement:
    """Measure a classifier on labelled images, or a segmenter on images with masks.

    `model` is a run, an artifact, or any released file; `options` change the config by name.
    Raises ConfigError for a model that does neither, and for options of the other kind of model.
    """
    config = override(config, options)
    if not config.data:
        raise ConfigError("no images were given", remedy="add --data FOLDER")
    artifact = open_artifact(model)
    task = task_of_kind(artifact.kind)
    if task is None or task.evaluate is None:
        raise ConfigError(
            f"{model} holds a {artifact.kind} model, which neither classifies nor segments",
            remedy="fine-tune it with `beit finetune --init` or `beit segment --init`",
        )
    return task.evaluate(artifact, model, config)


def report_run(run: Path) -> Path:
    """Write RUN/report.html. Raises RunFolderError if there is no run, or it is not understood."""
    config = read_run_config(run)
    return write_page(run, config, task_of(config))


def report_plots(run: Path, folder: Path) -> list[Path]:
    """Write every curve of a run to FOLDER: see `beit.report.plots.write_plots`."""
    return write_plots(run, folder, task_of(read_run_config(run)))


def report_comparison(runs: Sequence[Path], place: Path) -> Path:
    """Write one page about several runs: see `beit.report.comparison.write_comparison`."""
    return write_comparison(runs, place, task_of)


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
    setup = task_of(config).prepare(config, processes, Inputs())
    updater = Updater(setup.objective, config.training, processes, print)
    return replay(updater, open_loader(setup, processes), folder, path)
