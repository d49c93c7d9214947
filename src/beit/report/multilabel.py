"""How a multi-label classifier does on validation: which labels, and which images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.runs import FinetuneRunConfig
from beit.data.augment import EvaluationView
from beit.data.pixel_types import ValueRange
from beit.data.sources import ImageSource
from beit.data.visualize import to_rgb
from beit.evaluation.classify import LabelAnswers, LabelScores, score_labels
from beit.models.heads import Classifier
from beit.report.images import show
from beit.report.markup import Markup, Section, block, count, element, join, note, percent, table
from beit.report.samples import batches, named
from beit.weights.answering import Answering

MOST_ROWS = 100
SHOWN = 8
LISTED = 5
"""Labels listed below an image, beside those that it has or is given."""


class ImageAnswers(NamedTuple):
    """The answers for the images that could be read, with their names."""

    answers: LabelAnswers
    keys: tuple[str, ...]
    reads: Answering

    @property
    def wrong(self) -> Float[Tensor, " images"]:
        """How far the worst answer of each image is on the wrong side of its threshold, in
        [-1, 1]: below 0 all are right."""
        thresholds = torch.tensor(self.reads.thresholds)
        # Both sides of a threshold reach from 0 to 1, wherever it lies.
        above = self.answers.probabilities - thresholds
        scaled = above / torch.where(above >= 0, 1 - thresholds, thresholds).clamp_min(1e-6)
        return torch.where(self.answers.targets, -scaled, scaled).amax(dim=1)


@torch.no_grad()
def answer_images(
    model: Classifier,
    reads: Answering,
    source: ImageSource,
    view: EvaluationView,
    device: torch.device,
    value_range: ValueRange | None = None,
) -> ImageAnswers:
    """One pass over images with their labels."""
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    keys: list[str] = []
    channels = model.backbone.config.channels
    for batch in batches(LabelledBatch, source, view, channels, value_range):
        rows.append(model(batch.images.to(device)).float().cpu())
        targets.append(batch.targets)
        keys += batch.keys
    return ImageAnswers(LabelAnswers(torch.cat(rows), torch.cat(targets)), tuple(keys), reads)


def multi_label_sections(
    found: ImageAnswers,
    source: ImageSource,
    view: EvaluationView,
    config: FinetuneRunConfig,
    available: int,
) -> list[Section]:
    """Each label with its scores, and the images answered most surely wrong and right."""
    scores = score_labels(found.answers, found.reads.thresholds)
    parts = [_surest(found, source, view, config, right=right) for right in (False, True)]
    lead = (
        "Each bar is a probability of its own, and the line in it is the threshold from which the "
        "label counts; in bold the labels that the image has."
    )
    return [
        Section("classes", "Labels", _summary(scores, available), _label_table(scores, found)),
        Section("answers", "The surest answers", lead, join(parts)),
    ]


def _summary(scores: LabelScores, available: int) -> str:
    of = f" of {available:,}" if scores.images < available else ""
    return (
        "Validation, measured for this page: mean average precision "
        f"{percent(scores.mean_average_precision)} (answering at random: "
        f"{percent(scores.chance_average_precision)}), macro F1 {percent(scores.macro_f1)}, micro "
        f"F1 {percent(scores.micro_f1)}, on {scores.images:,}{of} images, in float32. F1 is at "
        "thresholds that were chosen for it on these very images."
    )


def _label_table(scores: LabelScores, found: ImageAnswers) -> Markup:
    """The labels that occur, those of the lowest average precision first."""
    order = scores.average_precision.nan_to_num(nan=2).argsort(stable=True).tolist()
    order = [index for index in order if scores.support[index]]
    rows = []
    for index in order[:MOST_ROWS]:
        precision, support = float(scores.average_precision[index]), int(scores.support[index])
        bar = element("span", "", {"class": "bar", "style": f"--share:{precision:.3f}"})
        rows.append([
            found.reads.classes[index], bar, percent(precision), percent(support / scores.images),
            percent(float(scores.f1[index])), f"{scores.thresholds[index]:.3f}", str(support),
        ])  # fmt: skip
    titles = ["label", "", "average precision", "at random", "F1", "threshold", "images"]
    shown = table(titles, rows, "classes")
    absent = len(found.reads.classes) - len(order)
    words = f"{count(absent, 'label')} that no validation image has cannot be measured."
    return join([shown, note(words)]) if absent else shown


def bars(
    probabilities: Float[Tensor, " classes"], targets: Bool[Tensor, " classes"], reads: Answering
) -> Markup:
    """The labels that an image has or is given, and the next most probable ones: independent bars
    with their thresholds."""
    lines: list[Markup] = []
    for index in probabilities.argsort(descending=True, stable=True).tolist():
        probability, threshold = float(probabilities[index]), reads.thresholds[index]
        given, true = probability >= threshold, bool(targets[index])
        if not given and not true and len(lines) >= LISTED:
            continue
        name = element("b" if true else "span", reads.classes[index])
        style = f"--share:{probability:.3f};--threshold:{threshold:.3f}"
        kind = "track" if given else "track below"
        bar = element(
            "span", element("span", "", {"class": "bar"}), {"class": kind, "style": style}
        )
        lines.append(element("li", [name, " ✓ " if given else " ", percent(probability), bar]))
    return element("ul", lines, {"class": "labels"})


def _surest(
    found: ImageAnswers,
    source: ImageSource,
    view: EvaluationView,
    config: FinetuneRunConfig,
    *,
    right: bool,
) -> Markup:
    title = "Sure and right" if right else "Sure and wrong"
    words = (
        "All labels right, far from every threshold."
        if right
        else "One label at least is far on the wrong side: missing labels gather here, look first."
    )
    head = [element("h3", title), element("p", words, {"class": "explain"})]
    wrong = found.wrong
    order = wrong.argsort(descending=not right, stable=True).tolist()
    chosen = [index for index in order if bool(wrong[index] < 0) == right][:SHOWN]
    if not chosen:
        return join([*head, note(f"None of {count(len(found.keys), 'image')}.")])
    return join([*head, block("gallery", _shown(found, chosen, source, view, config))])


def _shown(
    found: ImageAnswers,
    indices: Sequence[int],
    source: ImageSource,
    view: EvaluationView,
    config: FinetuneRunConfig,
) -> list[Markup]:
    wanted = named(source, [found.keys[index] for index in indices])
    read = batches(LabelledBatch, wanted, view, config.model.channels, config.loader.value_range)
    images = [image for batch in read for image in batch.images]
    cells = []
    for index, image in zip(indices, images, strict=True):
        targets = found.answers.targets[index]
        lines = bars(found.answers.probabilities[index], targets, found.reads)
        name = element("code", found.keys[index].rsplit("/", 1)[-1])
        cells.append(show(to_rgb(image), alt_of(targets, found.reads), join([lines, name])))
    return cells


def alt_of(targets: Bool[Tensor, " classes"], reads: Answering) -> str:
    """An image in words."""
    names = [reads.classes[index] for index in targets.nonzero().flatten().tolist()]
    return f"An image with {', '.join(names)}" if names else "An image without a label"
