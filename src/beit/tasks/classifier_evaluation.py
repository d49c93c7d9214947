"""How well a classifier does on labelled images, with one class each or any number of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch, SkipLog
from beit.config.data import Division, LabelFileConfig
from beit.config.evaluate import EvaluateConfig, SegmentedConfig
from beit.config.tree import from_json
from beit.config.validation import check_multiple
from beit.data.augment import EvaluationView
from beit.data.copies import merge_copies
from beit.data.dataset import Dataset
from beit.data.images import check_readable
from beit.data.labelled import divide
from beit.data.sources import FileSource, ImageSource, is_multi_label, select, target_at
from beit.errors import BeitError, DataError, nearest
from beit.evaluation.classify import (
    LabelScores,
    Scores,
    answer_labels,
    answering_among,
    score_classifier,
    score_labels,
)
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.label_mapping import find_answers
from beit.evaluation.metrics import one_answer
from beit.models.heads import Classifier, Logits, flip_averaged
from beit.tasks.held_out import unlearned
from beit.tasks.measurement import (
    ClassifierEvaluation,
    ClassScore,
    LabelScore,
    MultiLabelEvaluation,
    refuse_options,
)
from beit.terminal import quoted
from beit.training.distributed import Processes, join_processes
from beit.weights.store import Artifact

BATCH = 32
ONE_EACH = "every image has one class here: it counts as an image without any other label"


class _Opened(NamedTuple):
    """The images to measure on, the place to report for them, and notes about them."""

    place: str
    source: ImageSource
    notes: tuple[str, ...]


def evaluate_classifier(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> ClassifierEvaluation | MultiLabelEvaluation:
    """Measure a classifier on labelled images in any form, or on those that a label map names.

    Images are resized bicubically and cropped as the model says (published: 0.875 of the side
    below 384 pixels, else all of it), unless `crop` or `size` say otherwise. If the data has no
    splits, the images that the model learned from are left out, unless there is a label map: see
    `beit.tasks.held_out.unlearned`. For a multi-label model, class folders are read as one image
    per file, however many folders hold it.

    Args:
        artifact: The classifier; its model is moved to the device of `config`.
        model: What the user called it; if this is a folder, the run that made the model is looked
            for there.
        config: Which images, and how they are read. For the format of `labels` see
            `beit.evaluation.label_mapping.find_answers`.

    Raises:
        ConfigError: An option of segmenters was given.
        DataError: The labels do not fit the model's classes.
    """
    refuse_options(SegmentedConfig(), config.segmented, "segmenter", f"{model} is a classifier")
    classifier, details = artifact.model, artifact.details
    assert isinstance(classifier, Classifier)
    measure = _of_labels if details.multi_label else _of_classes
    view = _view(artifact, config)
    opened = _open(artifact, model, config)
    with join_processes(config.device) as processes:
        if processes.leads:
            opened.source.account.log()
        logits: Logits = classifier.to(processes.device).eval()
        if config.flip:
            logits = flip_averaged(logits, multi_label=details.multi_label)
        measuring = _Measuring(artifact, model, config, view, processes, SkipLog())
        return measure(measuring, opened, logits)


class _Measuring(NamedTuple):
    """The measurement of one model on one set of images."""

    artifact: Artifact
    model: str
    config: EvaluateConfig
    view: EvaluationView
    processes: Processes
    skips: SkipLog

    def check(self, source: ImageSource) -> None:
        """Raise DataError if no image can be read."""
        check_readable(source, self._channels, self.artifact.details.value_range)

    @property
    def _channels(self) -> int:
        backbone = self.artifact.backbone
        assert backbone is not None
        return backbone.channels

    def batches(
        self, source: ImageSource, indices: Sequence[int], targets: Tensor
    ) -> Iterator[LabelledBatch]:
        """The images of a source at `indices`, in batches, each with its row of `targets`."""
        rows = {source.key(index): index for index in indices}
        if len(rows) < len(indices):
            raise DataError("some images are listed twice", remedy="list every image once")
        for batch in EvalLoader(
            ImageBatch,
            select(source, indices),
            self.view,
            channels=self._channels,
            loader=self.config.loader(self.artifact.details.value_range),
            batch=self.config.batch or BATCH,
            rank=self.processes.rank,
            world=self.processes.world,
            skips=self.skips,
        ):
            yield LabelledBatch(
                batch.images, targets[[rows[key] for key in batch.keys]], batch.keys
            )

    def common(self, opened: _Opened, *notes: str) -> dict[str, Any]:
        """The fields that both kinds of evaluation share."""
        skips = self.skips.of_all(self.processes.gather)
        return {
            "model": self.model,
            "data": opened.place,
            "size": self.view.size,
            "crop": self.view.crop,
            "flip": self.config.flip,
            "account": opened.source.account,
            "unreadable": skips.unreadable,
            "several": skips.multi_frame,
            "notes": tuple(note for note in (*opened.notes, *notes) if note),
        }


def _of_classes(measuring: _Measuring, opened: _Opened, logits: Logits) -> ClassifierEvaluation:
    source, labels = opened.source, measuring.config.classified.labels
    classes = measuring.artifact.details.classes
    if is_multi_label(source) and not labels:
        raise DataError(
            f"the images of {opened.place} may have several labels each, and {measuring.model} "
            "answers one class",
            remedy="fine-tune on such labels with `beit finetune`; or say with --labels FILE which "
            "answers count as right for each image",
        )
    measuring.check(source)
    answers = find_answers(source, classes, labels)
    scores = score_classifier(
        logits if answers.among is None else answering_among(logits, answers.among),
        measuring.batches(source, answers.answerable, torch.arange(len(source))),
        classes=len(classes),
        device=measuring.processes.device,
        accepted=answers.accepted,
        gather=measuring.processes.gather,
    )
    constant = one_answer(classes, scores.answered, scores.total, "image")
    return ClassifierEvaluation(
        **measuring.common(opened, answers.note, constant),
        images=scores.images,
        left_out=len(source) - len(answers.answerable),
        top1=scores.top1,
        top5=scores.top5,
        mean_per_class=scores.mean_per_class,
        negative_log_likelihood=scores.loss,
        calibration_error=scores.calibration_error,
        classes=_class_scores(classes, scores),
    )


def _of_labels(measuring: _Measuring, opened: _Opened, logits: Logits) -> MultiLabelEvaluation:
    source, details = opened.source, measuring.artifact.details
    measuring.check(source)
    labels = _labels(source, details.classes, measuring.config.classified.labels)
    if not labels.any():
        raise DataError(
            f"no image of {opened.place} has a label: there is nothing to measure",
            remedy="name images with their labels",
        )
    batches = measuring.batches(source, range(len(source)), torch.from_numpy(labels))
    answers = answer_labels(logits, batches, measuring.processes.device, measuring.processes.gather)
    scores = score_labels(answers, details.effective_thresholds)
    one_each = source.targets is not None and not is_multi_label(source)
    chosen = "those of the model, chosen on its validation images"
    how = chosen if details.thresholds else "0.5, as the model has none of its own"
    return MultiLabelEvaluation(
        **measuring.common(opened, ONE_EACH * one_each, f"thresholds are {how}"),
        images=scores.images,
        mean_average_precision=scores.mean_average_precision,
        chance_average_precision=scores.chance_average_precision,
        macro_f1=scores.macro_f1,
        micro_f1=scores.micro_f1,
        binary_cross_entropy=scores.loss,
        without_labels=int((~answers.targets.any(dim=1)).sum()),
        unmeasured=int((scores.support == 0).sum()),
        classes=_label_scores(details.classes, scores),
    )


def _open(artifact: Artifact, model: str, config: EvaluateConfig) -> _Opened:
    """The images of the requested split; of data without splits, those that the model did not learn
    from, as far as that is known."""
    details, mapped = artifact.details, bool(config.classified.labels)
    data, notes = _dataset(artifact, config)
    place, source = data.part(config.split, labelled=not mapped)
    if mapped:
        return _Opened(place, source, notes)
    if details.multi_label and isinstance(source, FileSource):
        source = merge_copies(source)
    if place != config.data:
        return _Opened(place, source, notes)

    def divided(division: Division) -> tuple[ImageSource, ImageSource]:
        train, validation, _ = divide(data, division, multi_label=details.multi_label)
        return train, validation

    found = unlearned(model, details.trained, place, source, split=config.split, divide=divided)
    return _Opened(place, found.source, (*notes, found.note))


def _dataset(artifact: Artifact, config: EvaluateConfig) -> tuple[Dataset, tuple[str, ...]]:
    """The data, read with the given options, and notes. A label file for which none were given is
    read with those that the model was trained with, if it has such columns."""
    given = config.classified.reading
    as_given = Dataset(config.data, given)
    known = artifact.details.trained.get("label_file")
    if given.label_file.given or not isinstance(known, dict) or as_given.form != "label file":
        return as_given, ()
    try:
        options = from_json(known, LabelFileConfig)
        as_trained = Dataset(config.data, given._replace(label_file=options))
        as_trained.splits()
    except BeitError:  # another kind of file, or an artifact of another version
        return as_given, ()
    named = ", ".join(f"{name} {getattr(options, name)}" for name in options.given)
    return as_trained, (f"the label file is read as the model was trained: {named}",)


def _view(artifact: Artifact, config: EvaluateConfig) -> EvaluationView:
    """How each image is read: as the model says, unless the config says otherwise."""
    backbone, given = artifact.backbone, config.classified
    assert backbone is not None
    size = given.size or backbone.size
    check_multiple("size", size, backbone.patch)
    return artifact.details.view(size, crop=given.crop)


def _labels(source: ImageSource, classes: tuple[str, ...], labels: str) -> np.ndarray:
    """The labels of every image, in terms of the model's classes, bool [n, C]."""
    found = np.zeros((len(source), len(classes)), np.bool_)
    if labels:
        for index, right in enumerate(find_answers(source, classes, labels).accepted):
            found[index, list(right)] = True
        return found
    if source.targets is None:
        notes = "; ".join(source.account.notes)
        raise DataError(
            "the images have no labels" + (f": {notes}" if notes else ""),
            remedy="give a label file, class folders, or --labels FILE",
        )
    ids = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in source.classes if name not in ids]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(source.classes)} labels are none of the model's: "
            + quoted(unknown),
            remedy="spell them as the model does, or take them away: "
            + nearest(unknown[0], list(ids)),
        )
    columns = np.array([ids[name] for name in source.classes])
    for index in range(len(source)):
        found[index, columns[target_at(source.targets, index)]] = True
    return found


def _class_scores(classes: tuple[str, ...], scores: Scores) -> tuple[ClassScore, ...]:
    columns = zip(classes, scores.right.tolist(), scores.total.tolist(), strict=True)
    return tuple(
        ClassScore(name=name, accuracy=right / total if total else None, images=total)
        for name, right, total in columns
    )


def _label_scores(classes: tuple[str, ...], scores: LabelScores) -> tuple[LabelScore, ...]:
    columns = zip(
        classes,
        scores.average_precision.tolist(),
        scores.f1.tolist(),
        scores.thresholds,
        scores.support.tolist(),
        strict=True,
    )
    return tuple(
        LabelScore(
            name=name,
            average_precision=None if math.isnan(precision) else precision,
            f1=None if math.isnan(f1) else f1,
            threshold=threshold,
            support=support,
            prevalence=support / scores.images,
        )
        for name, precision, f1, threshold, support in columns
    )
