"""What every verb that trains shares: its config, its images, its start, and carrying it out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from torch import nn

from beit.atomic_io import replace_file
from beit.config import LabelFileConfig, RunConfig
from beit.config.reading import Reading
from beit.config.tree import override, to_json
from beit.data.account import Account
from beit.data.depth import narrow_note, range_note
from beit.data.loader import Loader, View
from beit.data.sources import ImageSource, check_readable, open_source
from beit.errors import ConfigError, ResourceError
from beit.objectives.base import AnyObjective
from beit.recipes import find_recipe
from beit.report.page import write_report
from beit.tasks.agreement import check_agreement
from beit.tasks.held_out import division_of
from beit.tasks.initial import Opened, check_start, starting_from
from beit.training.dataset_manifest import DatasetManifest, check_moved
from beit.training.device import resolve_precision
from beit.training.distributed import Processes, restarts
from beit.training.loop import fit
from beit.training.run_folder import RunFolder
from beit.training.skipped_images import ImageList
from beit.training.spec import Evaluation, FitSpec
from beit.training.trackers import check_trackers
from beit.weights.store import Details, save_artifact

Config = TypeVar("Config", bound=RunConfig)
logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A finished run: its folder, its artifact, and the last evaluation."""

    folder: Path
    artifact: Path
    metrics: dict[str, float]
    best_step: int


class Task(NamedTuple):
    """What a run trains, on which images, seen how, judged how, what its artifact says, and what
    the user should know before; `start` says which weights it started from; `shared` are images
    to learn from that come again for validation, each with what it is there."""

    objective: AnyObjective
    source: ImageSource
    view: View
    channels: int
    evaluation: Evaluation | None
    details: Details
    notes: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    decided: Callable[[Details, nn.Module], Details] = lambda details, _model: details
    """The details with what the evaluation of the model decides, such as thresholds."""
    shared: Mapping[str, str] = MappingProxyType({})


class RunOptions(NamedTuple):
    """How a run is carried out: nothing of it changes a number."""

    resume: bool
    quiet: bool
    report: bool
    after: str = ""
    """Folder of a run that was carried out just before for this one: the same account of the same
    data is not given twice."""


def run_options(config: RunConfig, resume: bool, quiet: bool, report: bool) -> RunOptions:
    """As requested; a run that `torchrun` started again after a loss goes on with what is there.

    Raises RunFolderError, before any work, if the run cannot begin or go on in its folder. Several
    processes ask once they have met: the first may have made the folder meanwhile.
    """
    folder = RunFolder(Path(config.out))
    manner = RunOptions(resume or (restarts() > 0 and folder.config.exists()), quiet, report)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return manner
    if manner.resume:
        folder.check_resumable(config)
    else:
        folder.check_free()
    return manner


def resolve(
    verb: str,
    recipe: str | Config,
    kind: type[Config],
    options: Mapping[str, object],
    opened: Opened | None = None,
) -> Config:
    """The recipe's config with the options applied; `init` decides the architecture first."""
    config = find_recipe(verb, recipe, kind) if isinstance(recipe, str) else recipe
    opened = opened or Opened()
    init = options.get("init")
    if isinstance(init, str) and init:
        config = starting_from(config, init, opened)
    config = override(config, options)
    if not config.data:
        raise ConfigError("no images were given", remedy="add --data FOLDER")
    if not config.out:
        raise ConfigError("no folder was given for the run", remedy="add --out FOLDER")
    check_start(config, opened)
    return config


def open_images(config: RunConfig, channels: int, reading: Reading) -> ImageSource:
    """The run's images, of which at least some can be read."""
    source = open_source(config.data, reading)
    check_readable(source, channels, config.loader.value_range)
    return source


def open_loader(config: RunConfig, task: Task, processes: Processes) -> Loader:
    """The images of the task, in the order and the portions of the run."""
    training = config.training
    return Loader(
        task.source,
        task.view,
        channels=task.channels,
        batch=training.batch,
        micro_batch=training.micro_batch or training.batch // processes.world,
        seed=training.seed,
        rank=processes.rank,
        world=processes.world,
        config=config.loader,
        pin_memory=processes.device.type == "cuda",
    )


def dataset_manifest(source: ImageSource) -> DatasetManifest:
    """The images, by which a changed folder is noticed."""
    return DatasetManifest(source.fingerprint(), lambda: map(source.key, range(len(source))))


def _told_of_shared(shared: Mapping[str, str], folder: RunFolder) -> Iterator[str]:
    for key, other in islice(shared.items(), 1):
        yield (
            f"{len(shared)} of the images to learn from come again for validation, as {key} does "
            f"as {other}: the scores will be too high; {folder.shared} names all that were found"
        )


def _value_notes(task: Task, config: RunConfig) -> Iterator[str]:
    """The range of values of more than 8 bits; without one, that grey levels are lost."""
    given = config.loader.value_range
    note = range_note(given) if given else narrow_note(task.source)
    if note:
        yield note


def _account_lines(account: Account, after: str) -> Iterator[str]:
    """The account of the data, or that it is the one given just before."""
    given = RunFolder(Path(after)).account if after else None
    if given and given.is_file() and given.read_text(encoding="utf-8") == account.to_json():
        yield f"data: {account.data}: the same images as for {after}"
    else:
        yield from account.lines()


def _open(
    folder: RunFolder,
    config: RunConfig,
    manifest: DatasetManifest,
    parts: Mapping[str, str],
    account: Account,
    manner: RunOptions,
) -> None:
    if manner.resume:
        folder.check_resumable(config)
        check_moved(folder, config, manifest, parts)
    folder.open(config, resume=manner.resume)
    try:
        replace_file(folder.account, [account.to_json().encode()])
    except OSError:
        folder.close()  # it is not ours to hold if nothing will be done in it
        raise


def _report(folder: RunFolder) -> None:
    """The page of a run that is done, which is not undone if there is no room for it."""
    try:
        write_report(folder.path)
    except ResourceError as error:
        logger.warning(
            "the run is done, its page is not: %s; then beit report %s", error, folder.path
        )


def run_training(config: RunConfig, task: Task, processes: Processes, manner: RunOptions) -> Run:
    """Open the folder, train, publish, report."""
    training, evaluation = config.training, task.evaluation
    resolve_precision(training.precision, processes.device)
    check_trackers(training.tracker)
    loader = open_loader(config, task, processes)
    manifest = dataset_manifest(task.source)
    check_agreement(processes, config, task.objective, manifest.fingerprint, resume=manner.resume)
    folder = RunFolder(Path(config.out))
    account = task.source.account
    parts = {"tokenizer": task.details.tokenizer} if task.details.tokenizer else {}
    processes.on_leader(lambda: _open(folder, config, manifest, parts, account, manner))
    if processes.leads:
        ImageList(folder.shared).add(
            {key: f"the same as {other}" for key, other in task.shared.items()}
        )
    begun = manner.resume and any(folder.checkpoints.glob("*"))  # these replace what was taken over
    notes = (*task.notes, *_value_notes(task, config), *_told_of_shared(task.shared, folder))
    origin: dict[str, object] = {
        "recipe": config.recipe,
        "steps": training.steps,
        "pictures": len(task.source),
        "data": manifest.fingerprint,
    }
    label_file = getattr(config, "label_file", None)
    if isinstance(label_file, LabelFileConfig) and label_file.given:
        # How other label files of the same form are read; their images lie elsewhere.
        origin["label_file"] = to_json(replace(label_file, image_folder=""))
    division = division_of(config)
    if division is not None:  # so that the share held out can be told from the artifact alone
        origin["division"] = division._asdict()

    def publish(model: nn.Module, best: bool, metrics: Mapping[str, float]) -> None:
        chosen = evaluation is not None and evaluation.best
        place = folder.model if best or not chosen else folder.last
        details = replace(
            task.decided(task.details, model),
            value_range=config.loader.value_range,
            trained={**origin, "metrics": dict(metrics)},
        )
        save_artifact(place, task.objective.publish(model), details)

    try:
        run = FitSpec(
            config=training,
            folder=folder,
            processes=processes,
            loader=loader,
            images=len(task.source),
            bad_limit=config.loader.bad_limit,
            evaluation=evaluation,
            publish=publish,
            quiet=manner.quiet,
            notes=(
                *_account_lines(account, manner.after),
                *(() if begun else task.start),
                *(f"note: {note}" for note in notes),
            ),
            manifest=manifest,
            accept_changed_data=config.accept_changed_data,
            parts=parts,
        )
        fitted = fit(task.objective, run, resume=manner.resume)
        if manner.report and processes.leads:
            _report(folder)
    finally:
        folder.close()
        processes.close()
    return Run(folder.path, folder.model, fitted.metrics, fitted.best_step)
