"""How well a multi-label classifier answers for images with any number of labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from beit.batch import Batch, LabelledBatch
from beit.config.evaluate import EvaluateConfig
from beit.data.copies import merge_copies
from beit.data.dataset import Dataset
from beit.data.labelled import divide
from beit.data.listing import quoted
from beit.data.loader import evaluate_batches
from beit.data.sources import FileSource, ImageSource, check_readable, is_multi_label, target_at
from beit.errors import DataError, nearest
from beit.evaluation.classify import LabelScores, Logits, answer_labels, flip_averaged, score_labels
from beit.evaluation.eval_loader import SkipLog
from beit.evaluation.label_mapping import find_answers
from beit.hardware import find_device
from beit.models.heads import Classifier
from beit.tasks.classifier_evaluation import BATCH, reading_for, view_of
from beit.tasks.held_out import judged
from beit.tasks.measurement import WORST, Measurement
from beit.tasks.task import Division
from beit.terminal import TextTable
from beit.weights.answering import answering
from beit.weights.store import Artifact

ONE_EACH = "every image has one class here: it counts as an image without any other label"


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """One label; without an image that has it there is nothing to measure."""

    name: str
    average_precision: float | None
    f1: float | None
    """At the threshold."""
    threshold: float
    support: int
    """Images that have it."""
    prevalence: float
    """The fraction of the images that has it: the average precision of answering at random."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation(Measurement):
    """How well a multi-label classifier does."""

    size: tuple[int, int]
    crop: float
    flip: bool
    mean_average_precision: float
    """Over the labels that some image has: see `beit.evaluation.metrics.average_precision`."""
    chance_average_precision: float
    """That of answering at random: the mean prevalence of the same labels."""
    macro_f1: float
    """Mean F1 of the same labels, at their thresholds."""
    micro_f1: float
    """F1 of all decisions together."""
    binary_cross_entropy: float
    """In nats, the mean over images and labels."""
    without_labels: int
    """Images that have no label at all."""
    unmeasured: int
    """Labels that no image has."""
    classes: tuple[LabelScore, ...]

    def rows(self) -> dict[str, str]:
        height, width = self.size
        return {
            "without any label": f"{self.without_labels:,}",
            "labels that no image has": f"{self.unmeasured:,} of {len(self.classes):,}",
            "view": f"{height} x {width}, crop {self.crop:g}" + (", mirrored too" * self.flip),
            "mean average precision": f"{self.mean_average_precision:.2%}",
            "  of answering at random": f"{self.chance_average_precision:.2%}",
            "macro F1": f"{self.macro_f1:.2%}",
            "micro F1": f"{self.micro_f1:.2%}",
            "binary cross-entropy": f"{self.binary_cross_entropy:.4f}",
        }

    def class_table(self) -> TextTable:
        measured = [each for each in self.classes if each.average_precision is not None]
        worst = sorted(measured, key=lambda each: each.average_precision or 0.0)[:WORST]
        head = f"label (worst {len(worst)} of {len(self.classes)})"
        table = TextTable(head, "average precision", "at random", "F1", "threshold", "images")
        for each in worst:
            table.add_row(
                each.name,
                f"{each.average_precision:.1%}",
                f"{each.prevalence:.1%}",
                f"{each.f1:.1%}",
                f"{each.threshold:.3f}",
                str(each.support),
            )
        return table


def evaluate_multi_label(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> MultiLabelEvaluation:
    """Measure a multi-label classifier on images with their labels, in any form.

    Class folders are read as one image per file, however many folders hold it. Of undivided data
    the images that the model learned from are not measured, unless there is a label map, which
    names all labels of each image: see `beit.tasks.held_out.judged`.
    Raises DataError if labels do not fit the model's classes.
    """
    classifier = artifact.model
    assert isinstance(classifier, Classifier)
    channels, reads = classifier.backbone.config.channels, answering(artifact.details)
    view, device = view_of(artifact, config), find_device(config.device)
    place, source, notes = _opened(artifact, model, config)
    source.account.log()
    value_range = artifact.details.value_range
    check_readable(source, channels, value_range)
    labels = _labels(source, reads.classes, config.classified.labels)
    if not labels.any():
        raise DataError(
            f"no image of {place} has a label: there is nothing to measure",
            remedy="name images with their labels",
        )
    logits: Logits = classifier.to(device).eval()
    logits = flip_averaged(logits, multi_label=True) if config.flip else logits
    skips = SkipLog()
    read = evaluate_batches(
        source,
        view,
        channels=channels,
        batch=config.batch or BATCH,
        config=config.loader(value_range),
    )
    answers = answer_labels(logits, _with_labels(source, labels, read, skips), device)
    scores = score_labels(answers, reads.thresholds)
    one_each = source.targets is not None and not is_multi_label(source)
    chosen = "those of the model, chosen by the best F1 on its validation images"
    how = chosen if artifact.details.thresholds else "0.5, as the model has none of its own"
    return MultiLabelEvaluation(
        model=model,
        data=place,
        size=view.size,
        crop=view.crop,
        flip=config.flip,
        account=source.account,
        images=scores.images,
        unreadable=skips.unreadable(),
        several=skips.multi_frame(),
        mean_average_precision=scores.mean_average_precision,
        chance_average_precision=scores.chance_average_precision,
        macro_f1=scores.macro_f1,
        micro_f1=scores.micro_f1,
        binary_cross_entropy=scores.loss,
        without_labels=int((~answers.targets.any(dim=1)).sum()),
        unmeasured=int((scores.support == 0).sum()),
        classes=label_scores(reads.classes, scores),
        notes=tuple(
            note for note in (*notes, ONE_EACH * one_each, f"thresholds are {how}") if note
        ),
    )


def _opened(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> tuple[str, ImageSource, tuple[str, ...]]:
    """What the images are called, and what to say of them."""
    reading, notes = reading_for(artifact, config)
    mapped = bool(config.classified.labels)
    data = Dataset(config.data, reading)
    place, source = data.part(config.split, labelled=not mapped)
    if mapped:
        return place, source, notes
    source = merge_copies(source) if isinstance(source, FileSource) else source
    if place != config.data:
        return place, source, notes

    def divided(division: Division) -> tuple[ImageSource, ImageSource]:
        split, seed, per_class = division
        train, validation, _ = divide(
            data, split=split, per_class=per_class, seed=seed, multi_label=True
        )
        return train, validation

    trained = artifact.details.trained
    found = judged(model, trained, place, source, split=config.split, divide=divided)
    return place, found.source, (*notes, found.note)


def _labels(source: ImageSource, classes: tuple[str, ...], labels: str) -> np.ndarray:
    """The labels of every image in the classes of the model, bool [n, C]."""
    found = np.zeros((len(source), len(classes)), np.bool_)
    if labels:
        for index, right in enumerate(find_answers(source, classes, labels).accepted):
            found[index, list(right)] = True
        return found
    if source.targets is None:
        noted = "; ".join(source.account.notes)
        raise DataError(
            "the images have no labels" + (f": {noted}" if noted else ""),
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


def _with_labels(
    source: ImageSource, labels: np.ndarray, batches: Iterable[Batch], skips: SkipLog
) -> Iterator[LabelledBatch]:
    """The batches with their labels; what else they say goes to `skips`."""
    rows = {source.key(index): index for index in range(len(source))}
    if len(rows) < len(source):
        raise DataError("some images are listed twice", remedy="list every image once")
    for batch in batches:
        skips.add(batch)
        targets = torch.from_numpy(labels[[rows[key] for key in batch.keys]])
        yield LabelledBatch(batch.images, targets, batch.keys)


def label_scores(classes: tuple[str, ...], scores: LabelScores) -> tuple[LabelScore, ...]:
    """The measures of each label by its name."""
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
