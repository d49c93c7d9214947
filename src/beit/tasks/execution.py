"""Carry out a run: its config, its folder, training, the artifact, the page."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn

from beit.atomic_io import replace_file
from beit.config import DividedDataConfig, RunConfig
from beit.config.following import followed
from beit.config.training import TrainingConfig
from beit.config.tree import by_name, to_json
from beit.data.account import Account
from beit.data.images import narrow_note, range_note
from beit.data.loader import Loader, resolve_order
from beit.data.sources import select
from beit.errors import ConfigError, ResourceError, on_one_line
from beit.recipes import DEFAULT, find_recipe
from beit.report.page import write_page
from beit.tasks.agreement import check_agreement
from beit.tasks.budget import make_plan
from beit.tasks.inputs import Inputs
from beit.tasks.rehearsal import forecast, forecast_with_first
from beit.tasks.run_config import resolve_config, was_stopped_before, with_order
from beit.tasks.task import AnyTask, RunOptions, Setup, Task, task_of
from beit.terminal import print_lines
from beit.training.dataset_manifest import DatasetManifest, check_moved
from beit.training.device import resolve_precision
from beit.training.distributed import Processes, restarts, start_processes
from beit.training.loop import fit
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.skipped_images import ImageList
from beit.training.spec import FitSpec
from beit.training.trackers import check_trackers
from beit.weights.store import save_artifact

Config = TypeVar("Config", bound=RunConfig)
logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A finished run: its folder, its artifact, its last evaluation, and the step of its best."""

    folder: Path
    artifact: Path
    metrics: dict[str, float]
    best_step: int


def run(
    task: Task[Config],
    recipe: str | Config | None,
    options: Mapping[str, object],
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    inputs: Inputs | None = None,
    keep_data: bool = False,
) -> Run:
    """Carry out a run of a task: what every verb that trains does.

    Args:
        task: The kind of run.
        recipe: A recipe's name, `module:function`, or a config; None: the recipe of the run that is
            resumed, else the default one.
        options: Changes to the config by name. A new run needs `data` and `out`, here or in
            `recipe`.
        resume: Continue the run in `out`; a run that `torchrun` restarted is continued anyway.
        quiet: Write the log, but print nothing.
        report: Write report.html at the end.
        inputs: Artifacts and images that were opened for this run already.
        keep_data: Keep the listing of the data for the next run that gets these `inputs`.

    Raises:
        BeitError: Something is wrong with the options, the data or a model. This is found before
            the folder of the run is made.
    """
    inputs = inputs or Inputs()
    out = options.get("out") or (recipe.out if isinstance(recipe, RunConfig) else "")
    resume = resume or (restarts() > 0 and RunFolder(Path(str(out))).config.exists())
    config = resolve_config(task, recipe, options, inputs, resume=resume)
    folder = RunFolder(Path(config.out))
    if resume and was_stopped_before(task, config, folder):
        resume = False
        if not quiet:
            print_lines(f"{config.out} has not started yet: the run before it is resumed first")
    run_options = RunOptions(resume, quiet, report)
    if run_options.resume and folder.config.exists():
        recorded = read_run_config(folder.path)
        if isinstance(recorded, task.config):
            config = task.take_up(config, recorded, inputs)
            config = with_order(config, recorded.training.order)
    single = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if single:
        # Of several processes the first may have made it already: they check once they have met.
        _check_folder(folder, config, run_options)
    plan = None
    if not resume:
        if config.time:
            named = isinstance(recipe, RunConfig) or recipe not in (None, DEFAULT)
            if not quiet:  # the plan itself is only printed once it is made
                print_lines(f"planning for {config.time}: steps are tried on this machine first")
            plan = make_plan(task, config, options, named, inputs)
            config = plan.config
        for line in plan.lines if plan else forecast_with_first(task, config, inputs):
            if not quiet:
                print_lines(line)
    config = task.complete(config, run_options, inputs)
    if plan is not None:
        config = plan.of_what_is_left(config)
    processes = start_processes(config.training)
    setup = task.prepare(config, processes, inputs)
    order = resolve_order(config.training.order, setup.source)
    setup = replace(setup, config=with_order(setup.config, order))
    if not keep_data:
        inputs.close_data()
    return run_training(
        task, setup, processes, run_options, inputs, plan=plan.lines if plan else ()
    )


def _check_folder(folder: RunFolder, config: RunConfig, run_options: RunOptions) -> None:
    if run_options.resume:
        folder.check_resumable(config)
    else:
        folder.check_free()


def open_loader(setup: Setup[Any], processes: Processes) -> Loader:
    """The loader of a run, which reads its images in its order, in micro-batches."""
    training = setup.config.training
    source, places = setup.source, setup.places
    return Loader(
        source if places is None else select(source, places),
        setup.view,
        channels=setup.channels,
        batch=training.batch,
        micro_batch=training.micro_batch or training.batch // processes.world,
        seed=training.seed,
        order=training.order,
        rank=processes.rank,
        world=processes.world,
        config=setup.config.loader,
        pin_memory=processes.device.type == "cuda",
    )


def _notes(setup: Setup[Any], folder: RunFolder) -> Iterator[str]:
    """What the user should know before the first step."""
    yield from setup.notes
    if setup.places is not None:
        yield (
            f"the classes are balanced: an epoch draws {len(setup.places):,} times from "
            f"{len(setup.source):,} images"
        )
    yield from _followed(setup.config)
    yield from _idle_patience(setup.config.training)
    given = setup.config.loader.value_range
    note = range_note(given) if given else narrow_note(setup.source)
    if note:
        yield note
    for key, other in islice(setup.shared.items(), 1):
        yield (
            f"{len(setup.shared)} of the training images come again for validation, such as "
            f"{key} ({other}): the scores will be too high; {folder.shared} names all that were "
            "found"
        )


def _idle_patience(training: TrainingConfig) -> Iterator[str]:
    """That patience cannot end a run with so few evaluations."""
    if training.patience is None:
        return
    first = (training.patience + 1) * training.evaluate_every
    if first >= training.steps:
        yield (
            f"patience {training.patience} has no effect: with --evaluate-every "
            f"{training.evaluate_every} it could end the run after step {first} at the earliest, "
            f"and the run has {training.steps}"
        )


def _followed(config: RunConfig) -> Iterator[str]:
    """Notes on options that differ from the recipe because they follow one that does."""
    try:
        recipe = find_recipe(task_of(config).verb, config.recipe, type(config))
    except ConfigError:
        return  # a config without a recipe, or one whose code is not loaded
    yield from followed(by_name(recipe), by_name(config))


def _account_lines(account: Account, before: str) -> Iterator[str]:
    """The account of the data, or one line if the run `before` has given the same account."""
    if before:
        yield f"data: {account.data}: the same images as for {before}"
    else:
        yield from account.lines()


def _origin(setup: Setup[Any], data: str) -> dict[str, object]:
    """What the artifact records about its training, except for the metrics."""
    config = setup.config
    origin: dict[str, object] = {
        "recipe": config.recipe,
        "steps": config.training.steps,
        "images": len(setup.source),
        "data": data,
    }
    if isinstance(config, DividedDataConfig) and config.label_file.given:
        # To read other label files of the same form, whose images lie elsewhere.
        origin["label_file"] = to_json(replace(config.label_file, image_folder=""))
    if config.division is not None:  # so that what was held out is known from the artifact alone
        origin["division"] = config.division._asdict()
    return origin


def _open(
    folder: RunFolder,
    setup: Setup[Any],
    manifest: DatasetManifest,
    parts: Mapping[str, str],
    run_options: RunOptions,
) -> None:
    if run_options.resume:
        folder.check_resumable(setup.config)
        check_moved(folder, setup.config, manifest, parts)
    folder.open(setup.config, resume=run_options.resume)
    replace_file(folder.account, [setup.source.account.to_json().encode()])


def _report(folder: RunFolder, task: AnyTask) -> None:
    """Write the page of a finished run. If there is no room for it, the run is still a success."""
    try:
        write_page(folder.path, read_run_config(folder.path), task)
    except ResourceError as error:
        logger.warning(
            "the run is done, its page is not: %s; then beit report %s",
            on_one_line(error),
            folder.path,
        )


def run_training(
    task: AnyTask,
    setup: Setup[Any],
    processes: Processes,
    run_options: RunOptions,
    inputs: Inputs,
    *,
    plan: Sequence[str] = (),
) -> Run:
    """Open the folder of a run, train, publish, report.

    Args:
        task: The kind of run; it decides what the page shows.
        setup: What is trained, on which images, and how it is measured.
        processes: The processes that train together; they are closed at the end.
        run_options: Whether to resume, to print and to write the page.
        inputs: Knows the account of data that a run just before this one has given.
        plan: The lines of the `--time` plan, which are kept in the folder; empty without one.

    Raises:
        ConfigError: An option does not suit this machine or this run, or the processes would not
            train the same thing.
        RunFolderError: The folder is taken, or holds no run that can be resumed.
        BeitError: Training failed, as `beit.training.loop.fit` says.
    """
    config, evaluation = setup.config, setup.evaluation
    resolve_precision(config.training.precision, processes.device)
    if config.training.patience is not None and (evaluation is None or not evaluation.best):
        raise ConfigError(
            "patience waits for a better score, and this run is not measured by one",
            remedy="leave --patience out",
        )
    check_trackers(config.training.tracker)
    loader, source = open_loader(setup, processes), setup.source
    manifest = DatasetManifest(source.fingerprint(), lambda: map(source.key, range(len(source))))
    check_agreement(
        processes, config, setup.objective, manifest.fingerprint, resume=run_options.resume
    )
    folder = RunFolder(Path(config.out))
    parts = {"tokenizer": setup.details.tokenizer} if setup.details.tokenizer else {}
    expected = () if plan or run_options.resume else tuple(forecast(setup, processes))
    begun = run_options.resume and any(
        folder.checkpoints.glob("*")
    )  # they replace the weights that `init` gave
    origin = _origin(setup, manifest.fingerprint)

    def publish(model: nn.Module, best: bool, metrics: Mapping[str, float]) -> None:
        chosen = evaluation is not None and evaluation.best
        place = folder.model if best or not chosen else folder.last
        details = replace(
            setup.decide(setup.details, model),
            value_range=config.loader.value_range,
            trained={**origin, "metrics": dict(metrics)},
        )
        save_artifact(place, setup.objective.publish(model), details)

    try:
        processes.on_leader(lambda: _open(folder, setup, manifest, parts, run_options))
        if plan:
            replace_file(folder.plan, ["\n".join([*plan, ""]).encode()])
        if processes.leads:
            ImageList(folder.shared).add(
                {key: f"the same as {other}" for key, other in setup.shared.items()}
            )
        spec = FitSpec(
            config=config.training,
            folder=folder,
            processes=processes,
            loader=loader,
            images=len(source),
            bad_limit=config.loader.bad_limit,
            evaluation=evaluation,
            publish=publish,
            quiet=run_options.quiet,
            notes=(
                *_account_lines(source.account, inputs.same_account(source.account, config.out)),
                *(() if begun else setup.start),
                *(f"note: {note}" for note in (*_notes(setup, folder), *expected)),
            ),
            manifest=manifest,
            accept_changed_data=config.accept_changed_data,
            parts=parts,
        )
        fitted = fit(setup.objective, spec, resume=run_options.resume)
        if run_options.report and processes.leads:
            _report(folder, task)
    finally:
        folder.close()
        processes.close()
    return Run(folder.path, folder.model, fitted.metrics, fitted.best_step)
