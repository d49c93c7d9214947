"""How a classifier does on validation: which classes, which confusions, which images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.runs import FinetuneRunConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.pixel_types import ValueRange
from beit.data.sources import ImageSource, evenly
from beit.data.visualize import to_rgb
from beit.errors import DataError
from beit.evaluation.metrics import confusion_matrix, top_k_hits
from beit.models.heads import Classifier
from beit.report.images import show
from beit.report.markup import Markup, Section, block, count, element, join, note, percent, table
from beit.report.multilabel import answer_images, multi_label_sections
from beit.report.samples import affordable, batches, named
from beit.report.trained import trained

MOST_IMAGES = 5000
MOST_CLASSES = 20
MOST_ROWS = 100
SHOWN = 8


class Answers(NamedTuple):
    """The probabilities of every class for every image that could be read."""

    probabilities: Float[Tensor, "images classes"]
    targets: Int64[Tensor, " images"]
    keys: tuple[str, ...]

    @property
    def predicted(self) -> Int64[Tensor, " images"]:
        """The most probable class."""
        return self.probabilities.argmax(dim=1)

    @property
    def confidence(self) -> Float[Tensor, " images"]:
        """The probability of that class."""
        return self.probabilities.amax(dim=1)


@torch.no_grad()
def answer(
    model: Classifier,
    source: ImageSource,
    view: EvaluationView,
    device: torch.device,
    value_range: ValueRange | None = None,
) -> Answers:
    """One pass over labelled images."""
    channels = model.backbone.config.channels
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    keys: list[str] = []
    for batch in batches(LabelledBatch, source, view, channels, value_range):
        logits: Tensor = model(batch.images.to(device))
        rows.append(logits.float().softmax(dim=1).cpu())
        targets.append(batch.targets)
        keys += batch.keys
    return Answers(torch.cat(rows), torch.cat(targets), tuple(keys))


def most_confident(answers: Answers, *, right: bool, most: int) -> list[int]:
    """Images answered right (or wrong), the surest first."""
    hits = answers.predicted == answers.targets
    order = answers.confidence.argsort(descending=True, stable=True).tolist()
    return [index for index in order if bool(hits[index]) == right][:most]


def confusion_table(
    confusion: Int64[Tensor, "classes classes"], classes: tuple[str, ...]
) -> Markup:
    """Rows: true class, columns: answer; shaded by the share of the row."""
    shares = confusion / confusion.sum(dim=1, keepdim=True).clamp_min(1)
    columns = [element("th", element("span", name), {"scope": "col"}) for name in classes]
    corner = element("th", "true class \\ answer", {"class": "corner"})
    rows = [element("tr", [corner, *columns])]
    for row, name in enumerate(classes):
        cells = [element("th", name, {"scope": "row"})]
        for column in range(len(classes)):
            cell = int(confusion[row, column])
            kind = ("hit" if row == column else "miss") if cell else "none"
            strength = f"--share:{float(shares[row, column]):.3f}"
            title = f"{name} answered as {classes[column]}: {cell}"
            attributes = {"class": kind, "style": strength, "title": title}
            cells.append(element("td", str(cell) if cell else "·", attributes))
        rows.append(element("tr", cells))
    return block("scroll", element("table", rows, {"class": "confusion"}))


def confusion_list(confusion: Int64[Tensor, "classes classes"], classes: tuple[str, ...]) -> Markup:
    """The most frequent confusions, where a whole matrix would be too large to read."""
    wrong = confusion.clone()
    wrong.fill_diagonal_(0)
    totals = confusion.sum(dim=1)
    cells = wrong.flatten().argsort(descending=True, stable=True)[:MOST_CLASSES].tolist()
    pairs = [divmod(cell, len(classes)) for cell in cells if wrong.flatten()[cell]]
    rows = [(classes[a], classes[b], f"{int(wrong[a, b])} of {int(totals[a])}") for a, b in pairs]
    return table(["true class", "answered as", "images"], rows)


def class_table(confusion: Int64[Tensor, "classes classes"], classes: tuple[str, ...]) -> Markup:
    """Accuracy of each class with its number of images, the worst first."""
    totals = confusion.sum(dim=1)
    shares = confusion.diagonal() / totals.clamp_min(1)
    order = [index for index in shares.argsort(stable=True).tolist() if totals[index]]
    rows = []
    for index in order[:MOST_ROWS]:
        width = f"--share:{float(shares[index]):.3f}"
        bar = element("span", "", {"class": "bar", "style": width})
        rows.append([classes[index], bar, percent(float(shares[index])), str(int(totals[index]))])
    return table(["class", "", "right", "images"], rows, "classes")


def _gallery(
    answers: Answers,
    indices: list[int],
    source: ImageSource,
    view: EvaluationView,
    channels: int,
    value_range: ValueRange | None,
) -> Markup:
    """These images with the answer, its probability and, where it is wrong, the truth."""
    classes = source.classes
    wanted = named(source, [answers.keys[index] for index in indices])
    images = [
        image
        for batch in batches(LabelledBatch, wanted, view, channels, value_range)
        for image in batch.images
    ]
    cells = []
    for index, image in zip(indices, images, strict=True):
        true, said = int(answers.targets[index]), int(answers.predicted[index])
        words = [element("b", classes[said]), f" {percent(float(answers.confidence[index]))}"]
        if true != said:
            chance = percent(float(answers.probabilities[index, true]))
            words += [Markup("<br>"), f"is {classes[true]} {chance}"]
        words += [Markup("<br>"), element("code", answers.keys[index].rsplit("/", 1)[-1])]
        alt = f"An image of {classes[true]}, answered as {classes[said]}"
        cells.append(show(to_rgb(image), alt, words))
    return block("gallery", cells)


def _matrix(answers: Answers, classes: tuple[str, ...]) -> Section:
    confusion = confusion_matrix(answers.predicted, answers.targets, len(classes))
    if len(classes) <= MOST_CLASSES:
        shown = confusion_table(confusion, classes)
        words = "Rows: true class, columns: answer. Healthy: numbers on the diagonal only."
    else:
        shown = confusion_list(confusion, classes)
        words = f"The most frequent confusions of {len(classes)} classes."
    advice = element(
        "p",
        "A class far below the others often has few or doubtful labels: look at its images.",
        {"class": "explain"},
    )
    body = [shown, element("h3", "Class by class, worst first"), advice]
    return Section("classes", "Classes", words, join([*body, class_table(confusion, classes)]))


def _summary(answers: Answers, available: int, classes: int) -> str:
    images = len(answers.targets)
    top1 = top_k_hits(answers.probabilities, answers.targets, 1) / images
    text = f"Validation, measured for this page: top-1 {percent(top1)}"
    if classes > 5:
        top5 = top_k_hits(answers.probabilities, answers.targets, 5) / images
        text += f", top-5 {percent(top5)}"
    of = f" of {available:,}" if images < available else ""
    usual = float(answers.targets.bincount().max()) / images
    return (
        f"{text}, on {images:,}{of} images, in float32. Always answering the most frequent "
        f"class: {percent(usual)}."
    )


def held_out(config: FinetuneRunConfig, classes: tuple[str, ...]) -> ImageSource:
    """The validation images of a run. Errors: DataError if the classes have changed."""
    found = open_labelled(
        config.data,
        split=config.split,
        per_class=config.per_class,
        seed=config.subset_seed,
        reading=config.reading,
        multi_label=config.multi_label,
    ).validation
    if found.classes != classes:
        raise DataError(
            f"{config.data} has other classes than the run was trained on",
            remedy="bring back the folders of that time to see these images",
        )
    return found


def classification_sections(run: Path, config: FinetuneRunConfig) -> list[Section]:
    """The confusion matrix (of a multi-label model, each label) and the surest answers, on the
    validation images of the run.

    Errors: BeitError if the artifact or the images are not there, or the classes have changed.
    """
    published = trained(run, Classifier)
    model, classes, device = published.model, published.classes, published.device
    everything = held_out(config, classes)
    view = EvaluationView(config.model.size, config.crop)
    source = evenly(everything, affordable(model, config.model.patches + 1, device, MOST_IMAGES))
    if published.answering.multi_label:
        labels = answer_images(
            model, published.answering, source, view, device, config.loader.value_range
        )
        return multi_label_sections(labels, source, view, config, len(everything))
    answers = answer(model, source, view, device, config.loader.value_range)
    body = [_surest(answers, source, view, config, right) for right in (False, True)]
    lead = _summary(answers, len(everything), len(classes))
    images = Section("answers", "The surest answers", lead, join(body))
    return [_matrix(answers, classes), images]


def _surest(
    answers: Answers,
    source: ImageSource,
    view: EvaluationView,
    config: FinetuneRunConfig,
    right: bool,
) -> Markup:
    title = "Sure and right" if right else "Sure and wrong"
    words = (
        "The images the model finds clearest."
        if right
        else "Wrong labels and doubtful images gather here: look at them first."
    )
    indices, channels = most_confident(answers, right=right, most=SHOWN), config.model.channels
    head = [element("h3", title), element("p", words, {"class": "explain"})]
    if not indices:
        return join([*head, note(f"None of {count(len(answers.targets), 'image')}.")])
    return join(
        [*head, _gallery(answers, indices, source, view, channels, config.loader.value_range)]
    )
