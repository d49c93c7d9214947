"""How a classifier does on validation: which classes, which confusions, which images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from markupsafe import Markup
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.runs import FinetuneRunConfig, RunConfig
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset
from beit.data.labelled import divide
from beit.data.sources import ImageSource, class_counts, evenly, keys_of
from beit.errors import DataError
from beit.evaluation.baselines import baseline_accuracies, compare, untrained_like
from beit.evaluation.classify import LabelAnswers, score_labels
from beit.evaluation.metrics import confusion_matrix, top_k_hits, wilson_interval
from beit.models.heads import Classifier
from beit.report.charts import read_charts
from beit.report.history import History
from beit.report.inputs import RunModel, batches, images_named, open_model
from beit.report.markup import (
    Example,
    Finding,
    LabelBar,
    PageImage,
    Section,
    number,
    percent,
    render,
)
from beit.report.page import Examples, Figure, best_and_last
from beit.visualize import to_rgb
from beit.weights.store import Details

MOST_IMAGES = 5000
MOST_CLASSES = 20
MOST_TOP = 5
MOST_ROWS = 100
SHOWN = 8
LISTED = {False: 3, True: 5}
"""Most probable classes listed (multi-label or not); those an image has or is given always are."""

MOST_KNOWN = 2000
"""Training images from which the baselines learn."""
NO_BETTER = (
    "the classifier is not clearly better than that baseline: train longer, start from a "
    "pre-trained model, or check that the classes differ in more than such a baseline can see"
)
TOO_EASY = "every answer is right: only harder images could tell it from that baseline"

CHARTS = read_charts("classification")
logger = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """The logits for every image that could be read, and the right answers."""

    logits: Float[Tensor, "images classes"]
    targets: Tensor
    """Class ids [images], or of a multi-label model bool [images, classes]."""
    keys: tuple[str, ...]
    details: Details

    @property
    def probabilities(self) -> Float[Tensor, "images classes"]:
        """With one class per image they add up to 1; those of several labels are independent."""
        return self.details.probabilities(self.logits)

    @property
    def truth(self) -> Tensor:
        """Which classes each image has, bool [images, classes]."""
        if self.details.multi_label:
            return self.targets
        return torch.nn.functional.one_hot(self.targets, len(self.details.classes)).bool()

    @property
    def margins(self) -> Float[Tensor, " images"]:
        """How confidently each image is answered, in [-1, 1]: above 0 if the answer is right.

        With several labels, how far the worst of them lies on the right side of its threshold.
        """
        probabilities = self.probabilities
        if not self.details.multi_label:
            surest, given = probabilities.max(dim=1)
            return torch.where(given == self.targets, surest, -surest)
        thresholds = torch.tensor(self.details.effective_thresholds)
        # Both sides of a threshold reach from 0 to 1, wherever it lies.
        above = probabilities - thresholds
        scaled = above / torch.where(above >= 0, 1 - thresholds, thresholds).clamp_min(1e-6)
        return torch.where(self.targets, scaled, -scaled).amin(dim=1)

    def surest(self, *, right: bool) -> list[int]:
        """Indices of some images answered rightly (or wrongly), the most confident answer first."""
        margins = self.margins
        order = margins.argsort(descending=right, stable=True).tolist()
        return [index for index in order if bool(margins[index] > 0) == right][:SHOWN]

    def bars(self, index: int) -> tuple[LabelBar, ...]:
        """The classes that an image has or is given, and the next most probable ones."""
        details, truth = self.details, self.truth[index]
        probabilities = self.probabilities[index]
        given = details.decided(self.logits[index, None])[0]
        lines: list[LabelBar] = []
        for place in probabilities.argsort(descending=True, stable=True).tolist():
            bar = LabelBar(
                details.classes[place],
                float(probabilities[place]),
                details.effective_thresholds[place] if details.multi_label else None,
                bool(truth[place]),
                bool(given[place]),
            )
            if bar.is_true or bar.is_given or len(lines) < LISTED[details.multi_label]:
                lines.append(bar)
        return tuple(lines)

    def example(self, index: int, image: UInt8[Tensor, "channels height width"]) -> Example:
        """An image with its classes."""
        details, key = self.details, self.keys[index]
        names = [details.classes[label] for label in self.truth[index].nonzero().flatten().tolist()]
        alt = f"An image {'with' if details.multi_label else 'of'} {', '.join(names)}"
        shown = PageImage(
            to_rgb(image), alt if names else "An image without a label", key.rsplit("/", 1)[-1]
        )
        margin = float(self.margins[index])
        words = "right" if margin > 0 else "wrong"
        return Example(key, (shown,), (), words, margin, self.bars(index))


class Validation:
    """A run's classifier and its validation images.

    Raises:
        BeitError: The artifact or the images are not there, or the classes have changed.
    """

    def __init__(self, run: Path, config: FinetuneRunConfig) -> None:
        self.opened: RunModel[Classifier] = open_model(run, Classifier)
        self.details = self.opened.details
        self.train, self.source = divided(config, self.details.classes)
        self._view = EvaluationView(config.model.size, config.crop)
        self._channels, self._range = config.model.channels, config.loader.value_range

    def batches(self, source: ImageSource) -> Iterable[LabelledBatch]:
        """One pass over images."""
        return batches(LabelledBatch, source, self._view, self._channels, self._range)

    @torch.no_grad()
    def predict(self, source: ImageSource) -> Predicted:
        """The model's answers to all images that can be read."""
        model, device = self.opened.model, self.opened.device
        rows: list[tuple[Tensor, Tensor, tuple[str, ...]]] = [
            (model(batch.images.to(device)).float().cpu(), batch.targets, batch.keys)
            for batch in self.batches(source)
        ]
        logits, targets, keys = zip(*rows, strict=True)
        return Predicted(torch.cat(logits), torch.cat(targets), sum(keys, ()), self.details)

    def examples(self, keys: Sequence[str], found: Predicted | None = None) -> dict[str, Example]:
        """Images by key, with what the model says about them; `found` has answers already made."""
        if not keys:
            return {}
        source = images_named(self.source, keys)
        found = found or self.predict(source)
        return {
            key: found.example(found.keys.index(key), image)
            for batch in self.batches(source)
            for key, image in zip(batch.keys, batch.images, strict=True)
        }


def divided(config: FinetuneRunConfig, classes: tuple[str, ...]) -> tuple[ImageSource, ImageSource]:
    """The training and validation images of a run. Raises DataError if the classes have changed."""
    data = Dataset(config.data, config.reading)
    train, validation, _ = divide(data, config.division, multi_label=config.multi_label)
    if validation.classes != classes:
        raise DataError(
            f"{config.data} has other classes than the run was trained on",
            remedy="bring back the folders of that time to see these images",
        )
    return train, validation


def confusions(confusion: Int64[Tensor, "classes classes"], classes: Sequence[str]) -> Markup:
    """Which classes are confused: as a matrix or, of many classes, the most frequent mistakes."""
    totals = confusion.sum(dim=1)
    wrong = confusion.clone().fill_diagonal_(0).flatten()
    cells = wrong.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist()
    pairs = [divmod(cell, len(classes)) for cell in cells if wrong[cell]]
    return render(
        "confusions.html.j2",
        classes=classes,
        as_matrix=len(classes) <= MOST_CLASSES,
        confusion=confusion.tolist(),
        fractions=(confusion / totals.clamp_min(1)[:, None]).tolist(),
        pairs=[
            (classes[true], classes[given], f"{int(confusion[true, given])} of {int(totals[true])}")
            for true, given in pairs
        ],
    )


def _labels(found: Predicted, available: int) -> Section:
    """The scores of each label that occurs, the lowest average precision first."""
    details = found.details
    scores = score_labels(LabelAnswers(found.logits, found.targets), details.effective_thresholds)
    support = scores.support.tolist()
    worst_first = scores.average_precision.nan_to_num(nan=2).argsort(stable=True).tolist()
    body = render(
        "labels.html.j2",
        scores=scores,
        classes=details.classes,
        order=[index for index in worst_first if support[index]][:MOST_ROWS],
        precision=scores.average_precision.tolist(),
        f1=scores.f1.tolist(),
        support=support,
        available=available,
    )
    return Section("classes", "Labels", body)


def _classes(found: Predicted, available: int) -> Section:
    """The accuracy of each class, the worst first, and which classes are confused."""
    images, classes = len(found.targets), found.details.classes
    probabilities, targets = found.probabilities, found.targets
    confusion = confusion_matrix(probabilities.argmax(dim=1), targets, len(classes))
    totals = confusion.sum(dim=1)
    right = confusion.diagonal() / totals.clamp_min(1)
    many = len(classes) > MOST_TOP
    body = render(
        "classes.html.j2",
        top1=top_k_hits(probabilities, targets, 1) / images,
        top5=top_k_hits(probabilities, targets, MOST_TOP) / images if many else None,
        usual=float(totals.max()) / images,
        images=images,
        available=available,
        confusions=confusions(confusion, classes),
        classes=classes,
        order=[index for index in right.argsort(stable=True).tolist() if totals[index]][:MOST_ROWS],
        right=right.tolist(),
        totals=totals.tolist(),
    )
    return Section("classes", "Classes", body)


def _baselines(validation: Validation, found: Predicted, most: int) -> Section:
    """The accuracy of features that need no training, on the same images."""
    built, device = validation.opened.model.backbone.config, validation.opened.device
    known = evenly(validation.train, min(most, MOST_KNOWN))
    queries = images_named(validation.source, found.keys)
    accuracies = baseline_accuracies(
        untrained_like(built, 0).to(device),
        validation.batches(known),
        validation.batches(queries),
        device,
    )
    counts, images = class_counts(validation.train), len(found.targets)
    own = float((found.probabilities.argmax(dim=1) == found.targets).double().mean())
    frequent = float((found.targets == int(counts.argmax())).double().mean())
    best = max(accuracies, key=lambda name: accuracies[name])
    verdict = compare(("classifier", own), (best, accuracies[best]), frequent, images)
    rows = [("this classifier", own), *accuracies.items(), ("the most frequent class", frequent)]
    advice = TOO_EASY if own == 1 else NO_BETTER
    text = verdict.text if verdict.beyond else f"{verdict.text}; {advice}"
    body = render(
        "baselines.html.j2",
        rows=[(name, value, wilson_interval(value, images)) for name, value in rows],
        known=len(known),
        available=len(validation.train),
    )
    say = logger.info if verdict.beyond else logger.warning
    say("%s", text)
    finding = Finding(f"{text[0].upper()}{text[1:]}.", not verdict.beyond)
    return Section("baselines", "Baselines", body, finding)


def sections(run: Path, config: FinetuneRunConfig) -> list[Section]:
    """Scores of each class and the most confident answers, on the validation images of the run.

    Raises:
        BeitError: The artifact or the images are not there, or the classes have changed.
    """
    validation = Validation(run, config)
    amount = validation.opened.affordable(config.model.patches + 1, MOST_IMAGES)
    found = validation.predict(evenly(validation.source, amount))
    galleries = []
    for right in (False, True):
        keys = [found.keys[index] for index in found.surest(right=right)]
        galleries.append((right, list(validation.examples(keys, found).values())))
    body = render(
        "answers.html.j2",
        galleries=galleries,
        multi_label=found.details.multi_label,
        images=len(found.keys),
    )
    measured = _labels if found.details.multi_label else _classes
    beside = config.baselines and not found.details.multi_label
    return [
        *([_baselines(validation, found, amount)] if beside else []),
        measured(found, len(validation.source)),
        Section("answers", "Most confident answers", body),
    ]


def examples(run: Path, config: FinetuneRunConfig) -> Examples:
    """The validation images of a run, with its answers; raises as `sections` does."""
    validation = Validation(run, config)
    return Examples(keys_of(validation.source), validation.examples)


def headline(_config: RunConfig, history: History) -> list[Figure]:
    """The big numbers of a classifier, with one class per image or with several labels."""
    loss = number(history.last("evaluate", "loss"))
    if history.points("evaluate", "map"):
        chance = percent(history.last("evaluate", "chance_map"))
        f1 = history.last("evaluate", "macro_f1")
        return [
            *best_and_last(history, "map", "mean average precision", f"at random: {chance}"),
            Figure(percent(f1), "macro F1, last", "validation, last step"),
            Figure(loss, "validation loss", "per label"),
        ]
    top5 = history.last("evaluate", "top5")
    figures = best_and_last(history, "top1", "top-1")
    if top5 is not None and top5 < 1:
        figures.append(Figure(percent(top5), "top-5, last", "validation, last step"))
    chance = number(history.last("train", "chance_loss"))
    return [*figures, Figure(loss, "validation loss", f"chance {chance}")]


def findings(history: History) -> list[Finding]:
    """Whether the model overfits."""
    losses = [value for _, value in history.points("evaluate", "loss")]
    if len(losses) > 2 and losses[-1] > 1.1 * min(losses):
        return [Finding(
            f"The validation loss has risen from {number(min(losses))} to {number(losses[-1])}: "
            "the model is overfitting. Train for fewer steps, augment more, or label more images.",
        )]  # fmt: skip
    return []
