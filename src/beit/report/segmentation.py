"""How a segmenter does on validation: which classes, and what it paints."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from beit.batch import SegmentedBatch
from beit.config.segment_run import SegmentRunConfig
from beit.data.segmentation_transforms import WholeView
from beit.data.segmented import SegmentationData
from beit.data.sources import ImageSource, evenly
from beit.data.visualize import PALETTE, overlay_labels, to_rgb
from beit.evaluation.segment import SegmentationScores, pixel_confusion
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map
from beit.report.images import show
from beit.report.markup import Markup, Section, block, element, join, percent, table
from beit.report.samples import affordable, batches, best_typical_worst
from beit.report.trained import trained

MOST_IMAGES = 48
MOST_ROWS = 150
EACH = 2
HEAD_COST = 5
"""Work of a head beside that of the trunk: four fifths are UperNet's."""


class Answer(NamedTuple):
    """An image with its mask, the labels it was given, and how well they agree."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    labels: UInt8[Tensor, "height width"]
    predicted: UInt8[Tensor, "height width"]
    scores: SegmentationScores


def answers(model: Segmenter, source: ImageSource, config: SegmentRunConfig) -> list[Answer]:
    """One pass over whole images, as the run's evaluation reads them."""
    found = []
    channels, value_range = config.model.channels, config.loader.value_range
    for batch in batches(SegmentedBatch, source, WholeView(), channels, value_range, batch=1):
        image, labels = batch.images[0], batch.labels[0]
        predicted = label_map(model, image, config.inference).cpu()
        scores = SegmentationScores(pixel_confusion(predicted, labels, model.classes))
        found.append(Answer(batch.keys[0], image, labels, predicted, scores))
    return found


def _swatch(label: int) -> Markup:
    colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[label])
    style = f"display:inline-block;background:{colour};border:1px solid var(--rule)"
    return element("span", "", {"class": "swatch", "style": style})


def class_table(scores: SegmentationScores, classes: tuple[str, ...]) -> Markup:
    """IoU and accuracy of each class with its share of the pixels, the worst first."""
    share = scores.confusion.sum(dim=1).double() / scores.confusion.sum().clamp_min(1)
    iou, accuracy = scores.iou, scores.accuracy
    rows = []
    for label in iou.argsort(stable=True).tolist()[:MOST_ROWS]:
        value = float(iou[label])
        if value != value:
            continue  # neither in the masks nor predicted
        right = float(accuracy[label])
        bar = element("span", "", {"class": "bar", "style": f"--share:{value:.3f}"})
        rows.append([join([_swatch(label), f" {classes[label]}"]), bar, percent(value),
                     percent(right) if right == right else "not in the masks",
                     percent(float(share[label]))])  # fmt: skip
    return table(["class", "", "IoU", "accuracy", "of the pixels"], rows, "classes")


def _classes(found: list[Answer], available: int, classes: tuple[str, ...]) -> Section:
    scores = SegmentationScores(torch.stack([one.scores.confusion for one in found]).sum(dim=0))
    of = f" of {available:,}" if len(found) < available else ""
    lead = (
        f"Measured for this page on {len(found):,}{of} validation images: mean IoU "
        f"{percent(scores.mean_iou)} over {scores.scored} classes, mean accuracy "
        f"{percent(scores.mean_accuracy)}, {percent(scores.pixel_accuracy)} of the pixels right."
    )
    absent = [name for name, value in zip(classes, scores.iou.tolist(), strict=True)
              if value != value]  # fmt: skip
    words = f"Left out, since they neither occur nor are predicted: {', '.join(absent)}."
    explanation = element("p", words, {"class": "explain"}) if absent else ""
    return Section("classes", "Classes", lead, join([explanation, class_table(scores, classes)]))


def _row(name: str, one: Answer) -> Markup:
    """Image, mask and answer side by side."""
    image = to_rgb(one.image)
    right = one.scores.pixel_accuracy
    cells = [
        show(image, f"Image {one.key}", element("code", one.key.rsplit("/", 1)[-1])),
        show(overlay_labels(image, one.labels.numpy()), "Its mask", "mask"),
        show(overlay_labels(image, one.predicted.numpy()), "Its labels", [
            element("b", name), f" answer, {percent(right)} right"]),
    ]  # fmt: skip
    return block("strip", cells)


def held_out(config: SegmentRunConfig, classes: tuple[str, ...]) -> ImageSource:
    """The validation images of a run. Errors: DataError if the classes have changed."""
    data = SegmentationData(config.data, config.masks)
    return data.divide(split=config.split, seed=config.split_seed, known=classes).validation


def segmentation_sections(run: Path, config: SegmentRunConfig) -> list[Section]:
    """The classes and some overlays, on the validation images of the run.

    Errors: BeitError if the artifact or the images are not there, or the classes have changed.
    """
    published = trained(run, Segmenter)
    model, classes = published.model, published.classes
    everything = held_out(config, classes)
    positions = HEAD_COST * (config.model.patches + 1)
    source = evenly(everything, affordable(model, positions, published.device, MOST_IMAGES))
    found = answers(model, source, config)
    labelled = [one for one in found if one.scores.confusion.any()]
    order = best_typical_worst([one.scores.pixel_accuracy for one in labelled], EACH)
    rows = [_row(name, labelled[index]) for name, index in order]
    lead = "Pixels that the mask ignores are left uncovered there."
    images = Section("overlays", "Images", lead, block("pairs", rows))
    return [_classes(found, len(everything), classes), images]
