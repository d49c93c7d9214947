"""`beit segment`: a segmenter from a pre-trained artifact, or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from beit.batch import SegmentedBatch
from beit.config import SegmentRunConfig
from beit.config.segmentation import check_statistics
from beit.data.duplicates import shared_images
from beit.data.segmentation_transforms import JointView, WholeView
from beit.data.segmented import SegmentationData, SegmentedSplits
from beit.data.sources import ImageSource, check_readable
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.segment import SegmentationScores, score_segmenter
from beit.models.segmenter import Segmenter
from beit.objectives.segment import Segmentation
from beit.recipes import DEFAULT
from beit.rng import seed_everything
from beit.tasks.execution import Run, Task, resolve, run_options, run_training
from beit.tasks.initial import Opened, take_over
from beit.training.parallel import Processes, restarts, start_processes
from beit.training.run_folder import RunFolder, read_run_config
from beit.training.spec import Evaluation
from beit.weights.store import Details


class _Validation:
    """Whole validation images, shared out among the processes."""

    def __init__(self, source: ImageSource, config: SegmentRunConfig, processes: Processes) -> None:
        self._inference, self._processes = config.inference, processes
        self.images = EvalLoader(
            SegmentedBatch,
            source,
            WholeView(),
            batch=1,
            channels=config.model.channels,
            loader=config.loader,
            rank=processes.rank,
            world=processes.world,
        )

    def measure(self, model: nn.Module) -> Mapping[str, float]:
        """The scores of all images, the same in every process."""
        assert isinstance(model, Segmenter)
        mine = score_segmenter(model, self.images, self._inference).confusion
        scores = SegmentationScores(torch.stack(self._processes.gather(mine)).sum(dim=0))
        return {
            "miou": scores.mean_iou,
            "mean_accuracy": scores.mean_accuracy,
            "pixel_accuracy": scores.pixel_accuracy,
            "scored_classes": float(scores.scored),
        }


def _with_shared_statistics(model: Segmenter, processes: Processes) -> Segmenter:
    """Batch norm over the images of all processes, as published.

    Errors: ConfigError for several processes without GPUs, whose models would drift apart.
    """
    normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if processes.world == 1 or not normed:
        return model
    if processes.device.type != "cuda":
        raise ConfigError(
            "several processes can share the statistics of batch norm on GPUs only",
            remedy="use one process, or the linear head, which has no batch norm",
        )
    shared: Segmenter = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return shared


def _check_portions(config: SegmentRunConfig, processes: Processes) -> None:
    """ConfigError for a micro-batch that batch norm cannot take the statistics of."""
    cells = config.head.normed_cells(config.model.grid)
    if cells is not None and processes.world == 1:  # several share them
        check_statistics((config.training.micro_batch or config.training.batch) * cells)


def segment(
    recipe: str | SegmentRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    opened: Opened | None = None,
    **options: object,
) -> Run:
    """Train a segmenter on images and masks, from the artifact `init` or from scratch.

    `opened` holds that artifact where it was opened already.
    """
    opened = opened or Opened()
    config = resolve("segment", recipe, SegmentRunConfig, options, opened)
    if resume or restarts():
        config = _with_recorded_masks(config)
    manner = run_options(config, resume, quiet, report)
    processes = start_processes(config.training)
    splits = _opened(config, processes)
    config = replace(config, masks=splits.masks)  # so that nothing is decided twice
    return run_training(config, _prepared(config, splits, processes, opened), processes, manner)


def _with_recorded_masks(config: SegmentRunConfig) -> SegmentRunConfig:
    """The config with what the run in its folder, if there is one, decided about its masks: an
    option that is given stays, and is refused where it differs."""
    folder = RunFolder(Path(config.out))
    recorded = read_run_config(folder.path) if folder.config.exists() else None
    if not isinstance(recorded, SegmentRunConfig):
        return config
    undecided = {
        item.name: getattr(recorded.masks, item.name)
        for item in fields(config.masks)
        if getattr(config.masks, item.name) == item.default
    }
    return replace(config, masks=replace(config.masks, **undecided))


def _opened(config: SegmentRunConfig, processes: Processes) -> SegmentedSplits:
    _check_portions(config, processes)
    data = SegmentationData(config.data, config.masks)
    return data.divide(split=config.split, seed=config.split_seed)


def prepare(config: SegmentRunConfig, processes: Processes, opened: Opened | None = None) -> Task:
    """The segmenter and all that its training needs."""
    return _prepared(config, _opened(config, processes), processes, opened or Opened())


def _prepared(
    config: SegmentRunConfig, splits: SegmentedSplits, processes: Processes, opened: Opened
) -> Task:
    built = config.model
    for part in (splits.train, splits.validation):
        check_readable(part, built.channels, config.loader.value_range)
    classes = splits.train.classes
    seed_everything(config.training.seed)
    model = Segmenter(built, len(classes), config.head)
    details = Details(classes=classes, inference=config.inference)
    start = take_over(model, details, config.init, opened)
    model = _with_shared_statistics(model, processes)
    validation = _Validation(splits.validation, config, processes)
    fill = tuple(round(255 * mean) for mean in built.mean)
    return Task(
        objective=Segmentation(model, auxiliary_weight=config.auxiliary_weight),
        source=splits.train,
        view=JointView(config.joint, built.size, fill),
        channels=built.channels,
        evaluation=Evaluation(
            validation.measure,
            best="miou",
            unreadable=validation.images.unreadable,
            several=validation.images.multi_frame,
        ),
        details=details,
        start=start,
        shared=shared_images(splits.train, splits.validation) if processes.leads else {},
    )
