"""How a classifier does on validation: which classes, which confusions, which pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.artifact.store import load_artifact
from beit.batch import LabelledBatch
from beit.config.runs import FinetuneRunConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource, select
from beit.evaluation.metrics import confusion_matrix, top_k_hits
from beit.models.heads import Classifier
from beit.report.markup import Markup, Section, block, count, element, join, note, percent, table
from beit.report.pictures import show, to_rgb
from beit.report.samples import affordable, batches, chosen, report_device

MOST_PICTURES = 5000
MOST_CLASSES = 20
MOST_ROWS = 100
SHOWN = 8


class Answers(NamedTuple):
    """The probabilities of every class for every picture that could be read."""

    probabilities: Float[Tensor, "pictures classes"]
    targets: Int64[Tensor, " pictures"]
    keys: tuple[str, ...]

    @property
    def predicted(self) -> Int64[Tensor, " pictures"]:
        """The most probable class."""
        return self.probabilities.argmax(dim=1)

    @property
    def confidence(self) -> Float[Tensor, " pictures"]:
        """The probability of that class."""
        return self.probabilities.amax(dim=1)


@torch.no_grad()
def answer(
    model: Classifier, source: ImageSource, view: EvaluationView, device: torch.device
) -> Answers:
    """One pass over labelled pictures."""
    rows, targets, keys = [], [], []
    for batch in batches(LabelledBatch, source, view, model.backbone.config.channels):
        logits: Tensor = model(batch.images.to(device))
        rows.append(logits.float().softmax(dim=1).cpu())
        targets.append(batch.targets)
        keys += batch.keys
    return Answers(torch.cat(rows), torch.cat(targets), tuple(keys))


def most_confident(answers: Answers, *, right: bool, most: int) -> list[int]:
    """Pictures answered right (or wrong), the surest first."""
    hits = answers.predicted == answers.targets
    order = answers.confidence.argsort(descending=True, stable=True).tolist()
    return [index for index in order if bool(hits[index]) == right][:most]


def confusion_table(confusion: Int64[Tensor, "classes classes"], classes: tuple[str, ...]) -> Markup:
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
            strength = f"--share:{100 * float(shares[row, column]):.0f}%"
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
    rows = [
        (classes[a], classes[b], f"{int(wrong[a, b])} of {int(totals[a])}") for a, b in pairs
    ]
    return table(["true class", "answered as", "pictures"], rows)


def class_table(confusion: Int64[Tensor, "classes classes"], classes: tuple[str, ...]) -> Markup:
    """Accuracy of each class with its number of pictures, the worst first."""
    totals = confusion.sum(dim=1)
    shares = confusion.diagonal() / totals.clamp_min(1)
    order = [index for index in shares.argsort(stable=True).tolist() if totals[index]]
    rows = []
    for index in order[:MOST_ROWS]:
        width = f"--share:{100 * float(shares[index]):.1f}%"
        bar = element("span", "", {"class": "bar", "style": width})
        rows.append([classes[index], bar, percent(float(shares[index])), str(int(totals[index]))])
    return table(["class", "", "right", "pictures"], rows, "classes")


def _gallery(
    answers: Answers, indices: list[int], source: ImageSource, view: EvaluationView, channels: int
    , classes: tuple[str, ...]
) -> Markup:  # fmt: skip
    places = {source.key(index): index for index in range(len(source))}
    wanted = select(source, [places[answers.keys[index]] for index in indices])
    images = [
        image for batch in batches(LabelledBatch, wanted, view, channels) for image in batch.images
    ]
    cells = []
    for index, image in zip(indices, images, strict=True):
        true, said = int(answers.targets[index]), int(answers.predicted[index])
        words = [element("b", classes[said]), f" {percent(float(answers.confidence[index]))}"]
        if true != said:
            chance = percent(float(answers.probabilities[index, true]))
            words += [element("br_", "") if False else Markup("<br>"), f"is {classes[true]} {chance}"]
        words += [Markup("<br>"), element("code", answers.keys[index].rsplit("/", 1)[-1])]
        alt = f"A picture of {classes[true]}, answered as {classes[said]}"
        cells.append(show(to_rgb(image), alt, words))
    return block("strip", cells)
