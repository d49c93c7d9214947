"""`beit evaluate`: how well any classifier answers for labelled pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from beit.artifact.load import open_artifact
from beit.artifact.store import Artifact
from beit.batch import Batch, LabelledBatch, Unreadable
from beit.config import LoaderConfig
from beit.config.check import check_multiple, check_that
from beit.data.loader import evaluate_batches
from beit.data.sources import (
    VALIDATION_FOLDERS,
    ImageSource,
    check_readable,
    must_exist,
    open_source,
    select,
    split_folder,
)
from beit.errors import ConfigError, DataError
from beit.evaluation.answers import Answers, find_answers
from beit.evaluation.classify import (
    Logits,
    Scores,
    answering_among,
    flip_averaged,
    score_classifier,
)
from beit.evaluation.passes import CentreView
from beit.models.heads import Classifier

WORST = 20


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class that is right for some of the pictures."""

    name: str
    accuracy: float
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, and of what: shares in [0, 1]."""

    model: str
    data: str
    size: tuple[int, int]
    crop: float
    flip: bool
    pictures: int
    left_out: int
    """Pictures for which the label map calls no class right."""
    unreadable: tuple[Unreadable, ...]
    top1: float
    top5: float
    mean_per_class: float
    negative_log_likelihood: float
    """In nats."""
    calibration_error: float
    """Expected calibration error of the first answer, 15 bins of equal width."""
    classes: tuple[ClassScore, ...]
    notes: tuple[str, ...]


def evaluate(
    model: str,
    *,
    data: str,
    split: str = "val",
    crop: float | None = None,
    size: tuple[int, int] | None = None,
    flip: bool = False,
    labels: str = "",
    batch: int = 32,
    device: str = "cpu",
    loader: LoaderConfig | None = None,
) -> Evaluation:
    """Measure a classifier on class folders, a labelled list, or files named in a label map.

    Pictures are resized bicubically and cropped as the model says (published: 0.875 of the side
    below 384 pixels, else all of it), unless `crop` or `size` say otherwise. `data` is the folder
    of one part or holds parts, of which `split` is read. `labels` is a label map in JSON; for its
    format see `beit.evaluation.answers.find_answers`. `flip` averages the probabilities of a
    picture and its mirror image.
    Raises ConfigError if the model does not classify, DataError if labels do not fit its classes.
    """
    artifact = open_artifact(model)
    classifier = _classifier(artifact, model)
    channels, classes = classifier.backbone.config.channels, artifact.details.classes
    view = _view(artifact, size or classifier.backbone.config.size, crop)
    check_that(batch > 0, f"batch is {batch}", "use at least one picture at a time")
    place = part_of(data, split)
    source = open_source(place)
    check_readable(source, channels)
    answers = find_answers(source, classes, labels)
    logits: Logits = classifier.to(torch.device(device)).eval()
    logits = flip_averaged(logits) if flip else logits
    logits = logits if answers.among is None else answering_among(logits, answers.among)
    read = evaluate_batches(
        select(source, answers.answerable),
        view,
        channels=channels,
        batch=batch,
        config=loader or LoaderConfig(),
    )
    unreadable: list[Unreadable] = []
    scores = score_classifier(
        logits,
        _labelled(source, answers, read, unreadable),
        classes=len(classes),
        device=torch.device(device),
        accepted=answers.accepted,
    )
    return Evaluation(
        model=model,
        data=place,
        size=view.size,
        crop=view.crop_share,
        flip=flip,
        pictures=scores.pictures,
        left_out=len(source) - len(answers.answerable),
        unreadable=tuple(unreadable),
        top1=scores.top1,
        top5=scores.top5,
        mean_per_class=scores.mean_per_class,
        negative_log_likelihood=scores.loss,
        calibration_error=scores.calibration_error,
        classes=_class_scores(classes, scores),
        notes=tuple(note for note in (source.note, answers.note) if note),
    )


def part_of(data: str, split: str) -> str:
    """The folder of one part: DATA/split where there are parts, else DATA itself."""
    must_exist(data)
    names = VALIDATION_FOLDERS if split in VALIDATION_FOLDERS else (split,)
    part = split_folder(data, names)
    if part is None and split_folder(data, ("train",)):
        raise DataError(
            f"{data} has a folder train/, but none called {split}/",
            remedy="choose another --split, or name the folder of the part itself",
        )
    return data if part is None else str(Path(data, part))


def _classifier(artifact: Artifact, model: str) -> Classifier:
    if not isinstance(artifact.model, Classifier):
        raise ConfigError(
            f"{model} holds a {artifact.kind} model, which does not classify",
            remedy="fine-tune it with `beit finetune --init`",
        )
    return artifact.model


def _view(artifact: Artifact, size: tuple[int, int], crop: float | None) -> CentreView:
    view = CentreView(size, artifact.details.crop if crop is None else crop)
    assert artifact.backbone is not None
    check_multiple("size", size, artifact.backbone.patch)
    check_that(0 < view.crop_share <= 1, f"crop is {crop}", "use a share above 0, up to 1")
    return view


def _labelled(
    source: ImageSource, answers: Answers, batches: Iterable[Batch], unreadable: list[Unreadable]
) -> Iterator[LabelledBatch]:
    """The batches with the place of each picture in `answers` as target; gathers the unreadable."""
    places = {source.key(index): index for index in answers.answerable}
    if len(places) < len(answers.answerable):
        raise DataError("some pictures are listed twice", remedy="list every picture once")
    for batch in batches:
        unreadable.extend(batch.unreadable)
        targets = torch.tensor([places[key] for key in batch.keys])
        yield LabelledBatch(batch.images, targets, batch.keys)


def _class_scores(classes: tuple[str, ...], scores: Scores) -> tuple[ClassScore, ...]:
    columns = zip(classes, scores.right.tolist(), scores.total.tolist(), strict=True)
    return tuple(
        ClassScore(name=name, accuracy=right / total, pictures=total)
        for name, right, total in columns
        if total
    )


def print_json(found: Evaluation) -> None:
    """Everything, as one JSON object."""
    content = asdict(found)
    content["unreadable"] = {picture.key: picture.reason for picture in found.unreadable}
    print(json.dumps(content, indent=1))


def print_table(found: Evaluation) -> None:
    """A table for people; of many classes the worst, while JSON has all."""
    print(f"model: {found.model}\ndata: {found.data}")
    for note in found.notes:
        print(f"note: {note}")
    for picture in found.unreadable:
        print(f"unreadable: {picture.key}: {picture.reason}")
    table = Table("measure", "value")
    height, width = found.size
    rows = {
        "pictures": f"{found.pictures:,}",
        "unreadable": f"{len(found.unreadable):,}",
        "left out, without a right class": f"{found.left_out:,}",
        "view": f"{height} x {width}, crop {found.crop:g}" + (", mirrored too" * found.flip),
        "top-1": f"{found.top1:.2%}",
        "top-5": f"{found.top5:.2%}",
        "mean over classes": f"{found.mean_per_class:.2%}",
        "negative log-likelihood": f"{found.negative_log_likelihood:.4f}",
        "calibration error (15 equal bins)": f"{found.calibration_error:.2%}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    worst = sorted(found.classes, key=lambda each: each.accuracy)[:WORST]
    each_class = Table(f"class (worst {len(worst)} of {len(found.classes)})", "right", "pictures")
    for score in worst:
        each_class.add_row(score.name, f"{score.accuracy:.1%}", str(score.pictures))
    console = Console()
    console.print(table, each_class)
