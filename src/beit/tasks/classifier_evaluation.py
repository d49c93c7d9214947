"""How well a classifier answers for labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from beit.batch import Batch, LabelledBatch
from beit.config.data import LabelFileConfig, Reading
from beit.config.evaluate import EvaluateConfig
from beit.config.tree import from_json
from beit.config.validation import check_multiple
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset
from beit.data.label_file import is_label_file, read_label_file
from beit.data.labelled import divide
from beit.data.loader import evaluate_batches
from beit.data.sources import ImageSource, check_readable, is_multi_label, select
from beit.errors import BeitError, DataError
from beit.evaluation.classify import (
    Logits,
    Scores,
    answering_among,
    flip_averaged,
    score_classifier,
)
from beit.evaluation.eval_loader import SkipLog
from beit.evaluation.label_mapping import Answers, find_answers
from beit.hardware import find_device
from beit.models.heads import Classifier
from beit.tasks.held_out import judged
from beit.tasks.measurement import WORST, Measurement
from beit.tasks.task import Division
from beit.terminal import TextTable
from beit.weights.store import Artifact

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class that is right for some of the images."""

    name: str
    accuracy: float
    images: int


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(Measurement):
    """How well a classifier does."""

    size: tuple[int, int]
    crop: float
    flip: bool
    left_out: int
    """Images for which the label map calls no class right."""
    top1: float
    top5: float
    mean_per_class: float
    negative_log_likelihood: float
    """In nats."""
    calibration_error: float
    """Expected calibration error of the first answer, 15 bins of equal width."""
    classes: tuple[ClassScore, ...]

    def rows(self) -> dict[str, str]:
        height, width = self.size
        return {
            "left out, without a right class": f"{self.left_out:,}",
            "view": f"{height} x {width}, crop {self.crop:g}" + (", mirrored too" * self.flip),
            "top-1": f"{self.top1:.2%}",
            "top-5": f"{self.top5:.2%}",
            "mean over classes": f"{self.mean_per_class:.2%}",
            "negative log-likelihood": f"{self.negative_log_likelihood:.4f}",
            "calibration error (15 equal bins)": f"{self.calibration_error:.2%}",
        }

    def class_table(self) -> TextTable:
        worst = sorted(self.classes, key=lambda each: each.accuracy)[:WORST]
        table = TextTable(f"class (worst {len(worst)} of {len(self.classes)})", "right", "images")
        for score in worst:
            table.add_row(score.name, f"{score.accuracy:.1%}", str(score.images))
        return table


def evaluate_classifier(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> ClassifierEvaluation:
    """Measure a classifier on labelled images in any form, or those that a label map names.

    Images are resized bicubically and cropped as the model says (published: 0.875 of the side
    below 384 pixels, else all of it), unless `crop` or `size` say otherwise. For the format of
    `labels` see `beit.evaluation.label_mapping.find_answers`. Of images without parts those that
    the model learned from are left out, unless there is a label map: see
    `beit.tasks.held_out.judged`.
    Raises DataError if labels do not fit the model's classes.
    """
    classifier = artifact.model
    assert isinstance(classifier, Classifier)
    channels, classes = classifier.backbone.config.channels, artifact.details.classes
    view, device = view_of(artifact, config), find_device(config.device)
    place, source, notes = _opened(artifact, model, config)
    source.account.log()
    if is_multi_label(source) and not config.classified.labels:
        raise DataError(
            f"the images of {place} may have several labels each, and {model} answers one class",
            remedy="fine-tune on such labels with `beit finetune`; or say with --labels FILE which "
            "answers count as right for each image",
        )
    check_readable(source, channels, artifact.details.value_range)
    answers = find_answers(source, classes, config.classified.labels)
    logits: Logits = classifier.to(device).eval()
    logits = flip_averaged(logits) if config.flip else logits
    logits = logits if answers.among is None else answering_among(logits, answers.among)
    read = evaluate_batches(
        select(source, answers.answerable),
        view,
        channels=channels,
        batch=config.batch or BATCH,
        config=config.loader(artifact.details.value_range),
    )
    skips = SkipLog()
    scores = score_classifier(
        logits,
        _labelled(source, answers, read, skips),
        classes=len(classes),
        device=device,
        accepted=answers.accepted,
    )
    return ClassifierEvaluation(
        model=model,
        data=place,
        size=view.size,
        crop=view.crop,
        flip=config.flip,
        account=source.account,
        images=scores.images,
        left_out=len(source) - len(answers.answerable),
        unreadable=skips.unreadable(),
        several=skips.multi_frame(),
        top1=scores.top1,
        top5=scores.top5,
        mean_per_class=scores.mean_per_class,
        negative_log_likelihood=scores.loss,
        calibration_error=scores.calibration_error,
        classes=_class_scores(classes, scores),
        notes=tuple(note for note in (*notes, answers.note) if note),
    )


def _opened(
    artifact: Artifact, model: str, config: EvaluateConfig
) -> tuple[str, ImageSource, tuple[str, ...]]:
    """What the images are called, and what to say of them: those of a part, or where there are no
    parts those that the model did not learn from, as far as that can be told."""
    reading, notes = reading_for(artifact, config)
    mapped = bool(config.classified.labels)
    data = Dataset(config.data, reading)
    place, source = data.part(config.split, labelled=not mapped)
    if place != config.data or mapped:
        return place, source, notes

    def divided(division: Division) -> tuple[ImageSource, ImageSource]:
        split, seed, per_class = division
        train, validation, _ = divide(data, split=split, per_class=per_class, seed=seed)
        return train, validation

    trained = artifact.details.trained
    found = judged(model, trained, place, source, split=config.split, divide=divided)
    return place, found.source, (*notes, found.note)


def reading_for(artifact: Artifact, config: EvaluateConfig) -> tuple[Reading, tuple[str, ...]]:
    """How the data are read: as given, or else a label file with the columns that the model was
    trained with, if the file has them."""
    given = config.classified.reading
    known = artifact.details.trained.get("label_file")
    if given.label_file.given or not isinstance(known, dict) or not is_label_file(config.data):
        return given, ()
    try:
        options = from_json(known, LabelFileConfig)
        read_label_file(config.data, options)
    except BeitError:  # another file, or an artifact of another version
        return given, ()
    named = ", ".join(f"{name} {getattr(options, name)}" for name in options.given)
    noted = f"the label file is read as the model was trained: {named}"
    return given._replace(label_file=options), (noted,)


def view_of(artifact: Artifact, config: EvaluateConfig) -> EvaluationView:
    """How each image is read: as the model says, but for what the config gives."""
    backbone, asked = artifact.backbone, config.classified
    assert backbone is not None
    size = asked.size or backbone.size
    check_multiple("size", size, backbone.patch)
    said = artifact.details
    crop = said.crop if asked.crop is None else asked.crop
    return EvaluationView(size, crop, said.resize, said.interpolation, labelled=False)


def _labelled(
    source: ImageSource, answers: Answers, batches: Iterable[Batch], skips: SkipLog
) -> Iterator[LabelledBatch]:
    """The batches with the place of each image in `answers` as target; what else they say goes to
    `skips`."""
    places = {source.key(index): index for index in answers.answerable}
    if len(places) < len(answers.answerable):
        raise DataError("some images are listed twice", remedy="list every image once")
    for batch in batches:
        skips.add(batch)
        targets = torch.tensor([places[key] for key in batch.keys])
        yield LabelledBatch(batch.images, targets, batch.keys)


def _class_scores(classes: tuple[str, ...], scores: Scores) -> tuple[ClassScore, ...]:
    columns = zip(classes, scores.right.tolist(), scores.total.tolist(), strict=True)
    return tuple(
        ClassScore(name=name, accuracy=right / total, images=total)
        for name, right, total in columns
        if total
    )
