"""How a segmenter does on validation: the scores of its classes, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from beit.batch import SegmentedBatch
from beit.config.runs import RunConfig
from beit.config.segment_run import SegmentRunConfig
from beit.data.augment import WholeView
from beit.data.segmented import SegmentationData
from beit.data.sources import ImageSource, evenly, keys_of
from beit.evaluation.segment import SegmentationScores, pixel_confusion
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map
from beit.report.charts import read_charts
from beit.report.history import History
from beit.report.inputs import batches, best_typical_worst, images_named, open_model
from beit.report.markup import Example, Finding, PageImage, Section, percent, render
from beit.report.page import Examples, Figure, best_and_last
from beit.visualize import PALETTE, overlay_labels, to_rgb

MOST_IMAGES = 48
MOST_ROWS = 150
EACH = 2
HEAD_COST = 5
"""Work of the whole model in units of the backbone's: four fifths of it are UperNet's."""

CHARTS = read_charts("segmentation")


class Predicted(NamedTuple):
    """An image with its mask, the predicted labels, and how well they agree."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    labels: UInt8[Tensor, "height width"]
    predicted: UInt8[Tensor, "height width"]
    scores: SegmentationScores

    def example(self) -> Example:
        """Image, mask and predicted labels."""
        image, right = to_rgb(self.image), self.scores.pixel_accuracy
        mask = overlay_labels(image, self.labels.numpy())
        predicted = overlay_labels(image, self.predicted.numpy())
        return Example(
            self.key,
            (PageImage(image, f"Image {self.key}", "image"), PageImage(mask, "Its mask", "mask")),
            (PageImage(predicted, "Its labels", "prediction"),),
            f"{percent(right)} right",
            right,
        )


def _predict(model: Segmenter, source: ImageSource, config: SegmentRunConfig) -> list[Predicted]:
    """One pass over whole images, as the run's evaluation reads them."""
    found = []
    channels, value_range = config.model.channels, config.loader.value_range
    for batch in batches(SegmentedBatch, source, WholeView(), channels, value_range, batch=1):
        image, labels = batch.images[0], batch.labels[0]
        predicted = label_map(model, image, config.inference).cpu()
        scores = SegmentationScores(pixel_confusion(predicted, labels, model.classes))
        found.append(Predicted(batch.keys[0], image, labels, predicted, scores))
    return found


def held_out(config: SegmentRunConfig, classes: tuple[str, ...]) -> ImageSource:
    """The validation images of a run. Raises DataError if the classes have changed."""
    data = SegmentationData(config.data, config.masks)
    # Without `per_class`, which changes nothing here, no mask needs to be read.
    return data.divide(config.division._replace(per_class=None), known=classes).validation


def sections(run: Path, config: SegmentRunConfig) -> list[Section]:
    """The scores of each class and some images, from the validation part.

    Raises:
        BeitError: The artifact or the images are not there, or the classes have changed.
    """
    opened = open_model(run, Segmenter)
    classes = opened.details.classes
    everything = held_out(config, classes)
    positions = HEAD_COST * (config.model.patches + 1)
    source = evenly(everything, opened.affordable(positions, MOST_IMAGES))
    found = _predict(opened.model, source, config)
    scores = SegmentationScores(torch.stack([one.scores.confusion for one in found]).sum(dim=0))
    pixels = scores.confusion.sum(dim=1).double() / scores.confusion.sum().clamp_min(1)
    # Classes that are predicted but not in the masks come last: nothing can be measured of them.
    ranked = scores.iou.where(scores.occurs | scores.iou.isnan(), 2)
    worst_first = ranked.argsort(stable=True).tolist()
    measured = render(
        "segmentation.html.j2",
        scores=scores,
        classes=classes,
        # Classes that neither occur nor are predicted have no IoU.
        absent=[name for name, iou in zip(classes, scores.iou, strict=True) if iou.isnan()],
        order=[label for label in worst_first if not scores.iou[label].isnan()],
        most=MOST_ROWS,
        iou=scores.iou.tolist(),
        accuracy=scores.accuracy.tolist(),
        pixels=pixels.tolist(),
        palette=[tuple(colour) for colour in PALETTE],
        images=len(found),
        available=len(everything),
    )
    labelled = [one for one in found if one.scores.confusion.any()]
    order = best_typical_worst([one.scores.pixel_accuracy for one in labelled], EACH)
    rows = [(name, labelled[index].example()) for name, index in order]
    return [
        Section("classes", "Classes", measured),
        Section("overlays", "Images", render("overlays.html.j2", rows=rows)),
    ]


def examples(run: Path, config: SegmentRunConfig) -> Examples:
    """The validation images of a run, with its predictions; raises as `sections` does."""
    opened = open_model(run, Segmenter)
    source = held_out(config, opened.details.classes)

    def some(keys: Sequence[str]) -> dict[str, Example]:
        found = _predict(opened.model, images_named(source, keys), config)
        return {one.key: one.example() for one in found}

    return Examples(keys_of(source), some)


def headline(_config: RunConfig, history: History) -> list[Figure]:
    """The big numbers of a segmenter."""
    occurring = history.last("evaluate", "scored_classes")
    beside = "" if occurring is None else f"last step; {occurring:.0f} classes occur"
    labels = {"mean_accuracy": "mean accuracy", "pixel_accuracy": "pixel accuracy"}
    return [
        *best_and_last(history, "miou", "mean IoU"),
        *(
            Figure(percent(history.last("evaluate", name)), f"{label}, last", beside)
            for name, label in labels.items()
        ),
    ]


def findings(history: History) -> list[Finding]:
    """Pixel accuracy and mean IoU on validation images, in a sentence."""
    iou, right = history.last("evaluate", "miou"), history.last("evaluate", "pixel_accuracy")
    if iou is None or right is None:
        return []
    text = f"On validation images, pixel accuracy is {percent(right)} and mean IoU {percent(iou)}"
    return [Finding(f"{text}: the table of classes below shows which ones hold it back.")]
