"""`beit segment`: a segmenter from a pre-trained artifact, or from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

import torch
from torch import nn

from beit.batch import SegmentedBatch
from beit.config import SegmentRunConfig
from beit.config.model import VisionTransformerConfig
from beit.config.options import SegmentOptions
from beit.config.segmentation import check_statistics
from beit.data.augment import JointView, WholeView
from beit.data.copies import shared_images
from beit.data.images import check_readable
from beit.data.order import balanced_places, class_weights
from beit.data.segmented import SegmentationData
from beit.data.sources import ImageSource
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.metrics import one_answer
from beit.evaluation.segment import SegmentationScores, score_segmenter
from beit.inference import abilities
from beit.inference.abilities import ATTENTION, EMBED
from beit.models.adaptation import adapt
from beit.models.segmenter import Segmenter
from beit.objectives.segment import Segmentation
from beit.recipes import DEFAULT
from beit.recipes.segment import RECIPES, for_segmenting
from beit.report import segmentation as page
from beit.rng import seed_everything
from beit.tasks.execution import Run, run
from beit.tasks.inputs import Inputs
from beit.tasks.segmenter_evaluation import evaluate_segmenter
from beit.tasks.task import Setup, Task, register
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights import kinds
from beit.weights.store import Details


def _evaluation(source: ImageSource, config: SegmentRunConfig, processes: Processes) -> Evaluation:
    """Scores on whole images, which are divided among the processes; all get the same scores."""
    remark = ""
    images = EvalLoader(
        SegmentedBatch,
        source,
        WholeView(),
        batch=1,
        channels=config.model.channels,
        loader=config.loader,
        rank=processes.rank,
        world=processes.world,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        nonlocal remark
        assert isinstance(model, Segmenter)
        mine = score_segmenter(model, images, config.inference).confusion
        scores = SegmentationScores(torch.stack(processes.gather(mine)).sum(dim=0))
        total = scores.confusion.sum(dim=1)
        remark = one_answer(source.classes, scores.answered, total, "validation pixel")
        return {
            "miou": scores.mean_iou,
            "mean_accuracy": scores.mean_accuracy,
            "pixel_accuracy": scores.pixel_accuracy,
            "scored_classes": float(scores.scored),
        }

    return Evaluation(measure, best="miou", skips=images.skips, remark=lambda: remark)


def _with_shared_statistics(model: Segmenter, processes: Processes) -> Segmenter:
    """The model with batch norm over the images of all processes, as published.

    Raises:
        ConfigError: Several processes have no GPUs: their models would drift apart.
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
    """Raise ConfigError for a micro-batch that is too small for the statistics of batch norm."""
    cells = config.head.normed_cells(config.model.grid)
    if cells is not None and processes.world == 1:  # several processes share the statistics
        check_statistics((config.training.micro_batch or config.training.batch) * cells)


def segment(
    recipe: str | SegmentRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: Unpack[SegmentOptions],
) -> Run:
    """Train a segmenter on images and masks, from the artifact `init` or from scratch.

    Args:
        recipe: A recipe's name, `module:function`, or a config.
        resume: Continue the run in `out` instead of starting a new one.
        quiet: Write the log, but print nothing.
        report: Write report.html at the end.
        options: Changes to the config by name, such as `data` and `out`.

    Raises:
        BeitError: Something is wrong with the options, the data or the model `init`. This is found
            before the folder of the run is made.
    """
    return run(SEGMENT, recipe, options, resume=resume, quiet=quiet, report=report)


def _take_up(
    config: SegmentRunConfig, recorded: SegmentRunConfig, _inputs: Inputs
) -> SegmentRunConfig:
    """The config of a resumed run, with what it decided about its masks. An option that is given
    stays, and is refused later if it differs."""
    return replace(config, masks=config.masks.over(recorded.masks))


def _start_from(
    config: SegmentRunConfig, backbone: VisionTransformerConfig, init: str
) -> SegmentRunConfig:
    return replace(config, init=init, model=for_segmenting(backbone, config))


def prepare(
    config: SegmentRunConfig, processes: Processes, inputs: Inputs
) -> Setup[SegmentRunConfig]:
    """The segmenter and all that its training needs.

    Args:
        config: The run.
        processes: The processes that will train together; they decide the device.
        inputs: Opens the model `init`.

    Raises:
        ConfigError: An option does not fit, or batch norm would have too few values.
        DataError: The images or their masks cannot be used.
        CheckpointError: The model `init` cannot be used.
    """
    _check_portions(config, processes)
    splits = SegmentationData(config.data, config.masks).divide(config.division)
    config = replace(config, masks=splits.masks)  # so that nothing is decided twice
    built = config.model
    for part in (splits.train, splits.validation):
        check_readable(part, built.channels, config.loader.value_range)
    classes = splits.train.classes
    seed_everything(config.training.seed)
    model = Segmenter(built, len(classes), config.head)
    details = Details(classes=classes, inference=config.inference)
    start = inputs.take_over(model, details, config.init)
    adapt(model, config.adaptation)
    pixels, places = splits.pixels, None
    if config.balance.balanced_sampling:
        places = balanced_places(pixels > 0, config.training.seed)
        pixels = pixels[places]
    weights = class_weights(pixels.sum(axis=0), config.balance.class_weights)
    model = _with_shared_statistics(model, processes)
    fill = tuple(round(255 * mean) for mean in built.mean)
    return Setup(
        config=config,
        objective=Segmentation(
            model,
            auxiliary_weight=config.auxiliary_weight,
            weights=None if weights is None else torch.from_numpy(weights),
        ),
        source=splits.train,
        view=JointView(config.joint, built.size, fill),
        channels=built.channels,
        places=places,
        evaluation=_evaluation(splits.validation, config, processes),
        details=details,
        start=start,
        shared=shared_images(splits.train, splits.validation) if processes.leads else {},
    )


SEGMENT = register(
    Task(
        verb="segment",
        config=SegmentRunConfig,
        recipes=RECIPES,
        prepare=prepare,
        publishes=(kinds.SEGMENTER,),
        abilities={"segment": abilities.SEGMENT, "embed": EMBED, "attention": ATTENTION},
        start_from=_start_from,
        take_up=_take_up,
        evaluate=evaluate_segmenter,
        title=lambda _: "Semantic segmentation",
        use='predictor.segment("image.jpg")    # a class id per pixel, [H, W]',
        next="beit predict {run} image.jpg --out predicted",
        charts=page.CHARTS,
        headline=page.headline,
        findings=page.findings,
        sections=page.sections,
        examples=page.examples,
    )
)
