"""What an evaluation found, as a table for people and as JSON."""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from beit.batch import Unreadable
from beit.config.segment_run import InferenceConfig
from beit.config.tree import differences
from beit.data.account import Account
from beit.errors import ConfigError
from beit.terminal import TextTable, print_tables, printable

WORST = 20


def worst_first(
    what: str, columns: Sequence[str], rows: Sequence[tuple[float | None, Sequence[str]]]
) -> TextTable:
    """A table of the classes with the lowest scores and, if there is room, of those without one.

    Args:
        what: What a row is, such as class or label; the heading of the first column.
        columns: Headings of the other columns.
        rows: For each class its score, None if there is none, and its cells, beginning with its
            name.
    """
    scored = [(score, cells) for score, cells in rows if score is not None]
    worst = [cells for _, cells in sorted(scored, key=lambda row: row[0])][:WORST]
    shown = "worst first" if len(worst) == len(scored) else f"worst {len(worst)} of {len(scored)}"
    table = TextTable(f"{what} ({shown})", *columns)
    unscored = [cells for score, cells in rows if score is None]
    for cells in [*worst, *unscored][:WORST]:
        table.add_row(*cells)
    return table


def _percent(score: float | None) -> str:
    """The score of a class; one that no image has does not count as answered wrongly."""
    return "no images" if score is None else f"{score:.1%}"


@dataclass(frozen=True, kw_only=True)
class Measurement(abc.ABC):
    """What was measured, and on which images. Scores are fractions in [0, 1]."""

    model: str
    data: str
    account: Account
    """How the data was understood, and what was skipped."""
    images: int
    unreadable: tuple[Unreadable, ...]
    several: tuple[str, ...]
    """Files that hold several images, of which the first was used."""
    notes: tuple[str, ...]

    @abc.abstractmethod
    def rows(self) -> dict[str, str]:
        """The rows of the table below the number of images: each measure with its value."""

    @abc.abstractmethod
    def class_table(self) -> TextTable:
        """A table of the classes, the worst first."""


@dataclass(frozen=True, kw_only=True)
class ViewedMeasurement(Measurement):
    """A measurement of images that are resized and cropped."""

    size: tuple[int, int]
    crop: float
    flip: bool

    def view_row(self) -> dict[str, str]:
        """How the images were seen."""
        height, width = self.size
        mirrored = ", mirrored too" * self.flip
        return {"view": f"{height} x {width}, crop {self.crop:g}{mirrored}"}


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class, and how often it is recognised."""

    name: str
    accuracy: float | None
    """None for a class that no image has: it counts in no mean."""
    images: int
    """Images for which it is right."""


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation(ViewedMeasurement):
    """How well a classifier does."""

    left_out: int
    """Images for which the label map names no right class."""
    top1: float
    top5: float
    mean_per_class: float
    negative_log_likelihood: float
    """In nats."""
    calibration_error: float
    """Expected calibration error of the most probable class, with 15 bins of equal width."""
    classes: tuple[ClassScore, ...]

    def rows(self) -> dict[str, str]:
        absent = sum(each.accuracy is None for each in self.classes)
        missing = {"classes without images": f"{absent:,} of {len(self.classes):,}"}
        return {
            "skipped, without a right class": f"{self.left_out:,}",
            **(missing if absent else {}),
            **self.view_row(),
            "top-1": f"{self.top1:.2%}",
            "top-5": f"{self.top5:.2%}",
            "mean over classes": f"{self.mean_per_class:.2%}",
            "negative log-likelihood": f"{self.negative_log_likelihood:.4f}",
            "calibration error (15 equal bins)": f"{self.calibration_error:.2%}",
        }

    def class_table(self) -> TextTable:
        rows = [
            (each.accuracy, (each.name, _percent(each.accuracy), str(each.images)))
            for each in self.classes
        ]
        return worst_first("class", ("right", "images"), rows)


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """One label of a multi-label model; its scores are None if no image has it."""

    name: str
    average_precision: float | None
    f1: float | None
    """At `threshold`."""
    threshold: float
    support: int
    """Images that have the label."""
    prevalence: float
    """Fraction of the images that have the label: the average precision of random answers."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelEvaluation(ViewedMeasurement):
    """How well a multi-label classifier does."""

    mean_average_precision: float
    """Over the labels that some image has: see `beit.evaluation.metrics.average_precision`."""
    chance_average_precision: float
    """The same for random answers: the mean prevalence of these labels."""
    macro_f1: float
    """Mean F1 of these labels, at their thresholds."""
    micro_f1: float
    """F1 over all decisions taken together."""
    binary_cross_entropy: float
    """In nats, the mean over images and labels."""
    without_labels: int
    """Images that have no label at all."""
    unmeasured: int
    """Labels that no image has."""
    classes: tuple[LabelScore, ...]

    def rows(self) -> dict[str, str]:
        return {
            "without any label": f"{self.without_labels:,}",
            "labels that no image has": f"{self.unmeasured:,} of {len(self.classes):,}",
            **self.view_row(),
            "mean average precision": f"{self.mean_average_precision:.2%}",
            "  of answering at random": f"{self.chance_average_precision:.2%}",
            "macro F1": f"{self.macro_f1:.2%}",
            "micro F1": f"{self.micro_f1:.2%}",
            "binary cross-entropy": f"{self.binary_cross_entropy:.4f}",
        }

    def class_table(self) -> TextTable:
        rows = [
            (each.average_precision, (
                each.name,
                _percent(each.average_precision),
                f"{each.prevalence:.1%}",
                "" if each.f1 is None else f"{each.f1:.1%}",
                f"{each.threshold:.3f}",
                str(each.support),
            ))
            for each in self.classes
        ]  # fmt: skip
        columns = ("average precision", "at random", "F1", "threshold", "images")
        return worst_first("label", columns, rows)


@dataclass(frozen=True, kw_only=True)
class ClassPixels:
    """One class of a segmenter; its scores are None if no pixel of the masks has it."""

    name: str
    iou: float | None
    accuracy: float | None
    pixels: int
    """Pixels of the class in the masks."""
    predicted: int
    """Pixels for which the class was predicted."""


@dataclass(frozen=True, kw_only=True)
class SegmenterEvaluation(Measurement):
    """How well a segmenter does."""

    inference: InferenceConfig
    """How images were segmented; window and stride are set unless each was segmented at once."""
    pixels: int
    """Pixels that were scored."""
    ignored_pixels: int
    miou: float
    """Over the classes that occur in the masks or were predicted; 0 for those only predicted."""
    miou_of_masks: float
    """Over the classes that occur in the masks."""
    mean_accuracy: float
    """Over the classes that occur in the masks."""
    pixel_accuracy: float
    classes: tuple[ClassPixels, ...]

    def rows(self) -> dict[str, str]:
        absent = [each for each in self.classes if each.iou is None]
        seen = sum(each.predicted > 0 for each in absent)
        missing = {"classes not in the masks": f"{len(absent)} of {len(self.classes)}"}
        without = {f"  without the {seen} only predicted": f"{self.miou_of_masks:.2%}"}
        return {
            "pixels": f"{self.pixels:,}",
            "ignored pixels": f"{self.ignored_pixels:,}",
            **(missing if absent else {}),
            "reading": self._reading(),
            "scales": self._scales(),
            f"mean IoU of {len(self.classes) - len(absent) + seen} classes": f"{self.miou:.2%}",
            **(without if seen else {}),
            "mean accuracy": f"{self.mean_accuracy:.2%}",
            "pixel accuracy": f"{self.pixel_accuracy:.2%}",
        }

    def _reading(self) -> str:
        how = self.inference
        if how.window is None or how.stride is None:
            return "at once"
        window, stride = (f"{down} x {across}" for down, across in (how.window, how.stride))
        return f"window {window}, stride {stride}"

    def _scales(self) -> str:
        how = self.inference
        words = ", ".join(f"{scale:g}" for scale in how.scales)
        words += f", of a shorter side of {how.short_side}" if how.short_side else ""
        return words + ", mirrored too" * how.flip

    def class_table(self) -> TextTable:
        rows = [
            (each.iou, (each.name, f"{each.iou:.1%}", f"{each.accuracy:.1%}", f"{each.pixels:,}",
                        f"{each.predicted:,}"))
            if each.iou is not None
            else (None, (each.name, "not in the masks", "", "0", f"{each.predicted:,}"))
            for each in sorted(self.classes, key=lambda each: -each.predicted)
        ]  # fmt: skip
        return worst_first("class", ("IoU", "accuracy", "pixels", "predicted"), rows)


def refuse_options(plain: object, given: object, taker: str, problem: str) -> None:
    """Refuse options that the model does not take.

    Args:
        plain: The config with every option at its default.
        given: The same config with the user's options.
        taker: The kind of model that takes these options, for the message.
        problem: Why this model does not, for the message.

    Raises:
        ConfigError: An option differs from its default.
    """
    for name in differences(plain, given):
        option = name.rpartition(".")[2]
        raise ConfigError(
            f"{option} was given, and {problem}",
            remedy=f"leave {option} out: only a {taker} takes it",
        )


def print_json(found: Measurement) -> None:
    """Print everything, as one JSON object."""
    content = asdict(found)
    content["unreadable"] = {image.key: image.reason for image in found.unreadable}
    print(json.dumps(content, indent=1))


def print_table(found: Measurement) -> None:
    """Print a table for people, which shows the worst of many classes; the JSON has them all."""
    print(printable(f"model: {found.model}"))
    for note in found.notes:
        print(printable(f"note: {note}"))
    for image in found.unreadable:
        print(printable(f"unreadable: {image.key}: {image.reason}"))
    for key in found.several:
        print(printable(f"first of several in its file: {key}"))
    table = TextTable("measure", "value")
    counts = {
        "images": f"{found.images:,}",
        "unreadable": f"{len(found.unreadable):,}",
        "files with several images (first used)": f"{len(found.several):,}",
    }
    for name, value in (counts | found.rows()).items():
        table.add_row(name, value)
    print_tables(table, found.class_table())
