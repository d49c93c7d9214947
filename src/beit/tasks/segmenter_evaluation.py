"""How well a segmenter labels the pixels of images with masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from beit.batch import SegmentedBatch
from beit.config.data import Division
from beit.config.evaluate import ClassifiedConfig, EvaluateConfig
from beit.config.segment_run import IGNORE, MaskConfig, SegmentRunConfig, window_and_stride
from beit.data.augment import WholeView
from beit.data.images import check_readable
from beit.data.segmented import SegmentationData
from beit.data.sources import ImageSource, keys_of
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.metrics import one_answer
from beit.evaluation.segment import SegmentationScores, score_segmenter
from beit.models.segmenter import Segmenter
from beit.tasks.held_out import trained_on, unlearned
from beit.tasks.measurement import ClassPixels, SegmenterEvaluation, refuse_options
from beit.training.distributed import join_processes
from beit.weights.store import Artifact

BATCH = 8


def evaluate_segmenter(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> SegmenterEvaluation:
    """Measure a segmenter on images with masks, in any layout that `beit segment` reads.

    Images are read as the model says (`Details.inference`), unless options say otherwise; the
    classes of the data must be the model's. Ignored pixels count nowhere. If the data has no
    splits, the images that the model learned from are left out: see
    `beit.tasks.held_out.unlearned`.

    Args:
        artifact: The segmenter; its model is moved to the device of `config`.
        model: What the user called it; if this is a folder, the run that made the model is looked
            for there.
        config: Which images, and how they and their masks are read.

    Raises:
        ConfigError: The window does not fit, or an option of classifiers was given.
        DataError: The masks do not fit.
    """
    refuse_options(ClassifiedConfig(), config.classified, "classifier", f"{model} is a segmenter")
    segmenter, given = artifact.model, config.segmented
    assert isinstance(segmenter, Segmenter)
    built = segmenter.backbone.config
    inference = given.inference(artifact.details.inference, flip=config.flip)
    if not inference.whole:
        window, stride = window_and_stride(built, inference.window, inference.stride)
        inference = replace(inference, window=window, stride=stride)
    elif config.batch is not None:
        raise ConfigError(
            f"batch {config.batch} counts windows, and images are read at once",
            remedy="leave batch out, or give a window",
        )
    names = artifact.details.classes
    masks = _as_trained(model, config)
    data = SegmentationData(config.data, masks, extra_split=config.split)
    only, note = _unlearned(artifact, model, config, data)
    source = data.part(config.split, classes=names, only=only)
    loader = config.loader(artifact.details.value_range)
    check_readable(source, built.channels, loader.value_range)
    counts = _Counts()
    with join_processes(config.device) as processes:
        if processes.leads:
            source.account.log()
        images = EvalLoader(
            SegmentedBatch,
            source,
            WholeView(),
            batch=1,
            channels=built.channels,
            loader=loader,
            rank=processes.rank,
            world=processes.world,
        )
        own = score_segmenter(
            segmenter.to(processes.device).eval(),
            counts.counted(images),
            inference,
            batch=config.batch or BATCH,
        )
        parts = processes.gather((own.confusion, counts.images, counts.ignored))
        skips = images.skips.of_all(processes.gather)
    scores = SegmentationScores(torch.stack([part[0] for part in parts]).sum(dim=0))
    constant = one_answer(names, scores.answered, scores.confusion.sum(dim=1), "pixel")
    return SegmenterEvaluation(
        model=model,
        data=config.data,
        account=source.account,
        inference=inference,
        images=sum(part[1] for part in parts),
        unreadable=skips.unreadable,
        several=skips.multi_frame,
        pixels=int(scores.confusion.sum()),
        ignored_pixels=sum(part[2] for part in parts),
        miou=scores.mean_iou,
        miou_of_masks=scores.mean_iou_of_masks,
        mean_accuracy=scores.mean_accuracy,
        pixel_accuracy=scores.pixel_accuracy,
        classes=tuple(_class_pixels(names, scores)),
        notes=tuple(filter(None, (note, constant))),
    )


def _as_trained(model: str, config: EvaluateConfig) -> MaskConfig:
    """How masks are read: the data of the model's own run as that run read them, unless options say
    otherwise."""
    masks, run = config.segmented.masks, trained_on(model, config.data)
    return masks.over(run.masks) if isinstance(run, SegmentRunConfig) else masks


def _unlearned(
    artifact: Artifact, model: str, config: EvaluateConfig, data: SegmentationData
) -> tuple[frozenset[str] | None, str]:
    """The names of the images to measure on and a note about them, if the data has no splits; None
    if it has."""
    details, source = artifact.details, data.undivided
    if source is None:
        return None, ""

    def divide(division: Division) -> tuple[ImageSource, ImageSource]:
        found = data.divide(division, known=details.classes)
        return found.train, found.validation

    found = unlearned(
        model, details.trained, config.data, source, split=config.split, divide=divide
    )
    return frozenset(keys_of(found.source)), found.note


class _Counts:
    """Counts the images and the ignored pixels of the batches that go by."""

    def __init__(self) -> None:
        self.images = self.ignored = 0

    def counted(self, batches: Iterable[SegmentedBatch]) -> Iterator[SegmentedBatch]:
        for batch in batches:
            self.images += len(batch.labels)
            self.ignored += int((batch.labels == IGNORE).sum())
            yield batch


def _class_pixels(names: tuple[str, ...], scores: SegmentationScores) -> Iterator[ClassPixels]:
    """The classes in the order of their labels."""
    columns = zip(
        names,
        scores.iou.tolist(),
        scores.accuracy.tolist(),
        scores.confusion.sum(dim=1).tolist(),
        scores.answered.tolist(),
        strict=True,
    )
    for name, iou, accuracy, pixels, predicted in columns:
        yield ClassPixels(
            name=name,
            iou=iou if pixels else None,
            accuracy=accuracy if pixels else None,
            pixels=pixels,
            predicted=predicted,
        )
