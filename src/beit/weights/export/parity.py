"""Check on the file itself, before it is published, that it answers as the model does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from beit.config.data import AS_RECOGNISED, Division, Reading
from beit.config.validation import require
from beit.data.augment import central_view
from beit.data.colours import ValueRange
from beit.data.dataset import Dataset
from beit.data.decode import decode
from beit.data.labelled import divide
from beit.data.sources import ImageSource, evenly
from beit.errors import DataError, ExportError, UnreadableError
from beit.models.heads import BackboneModel
from beit.terminal import counted
from beit.weights.export.formats import Run
from beit.weights.export.graph import LARGEST, Graph, Precision, Target, answer_of
from beit.weights.export.layers import RESIZING_LEVELS, CentralView
from beit.weights.kinds import Answer
from beit.weights.store import Artifact

BUILT_IN = 32
BATCHES = (1, 2, 7)
TOLERANCE = 1e-4
"""Largest difference from the model's outputs that is allowed in fp32."""
LEAST_SAME: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.9, "int8": 0.0}
"""Fraction of the best classes or tokens that must be the same. Even in fp32, rounding can flip one
of very many pixels that lies between two classes. The cost of int8 is reported, not judged: how
much is acceptable depends on the use."""


# -- the images ------------------------------------------------------------------------------------


class Samples(NamedTuple):
    """Images uint8 [H, W, C] of any sizes, and where they come from."""

    images: list[np.ndarray]
    origin: str
    targets: list[int] | None = None
    """Their classes, numbered as in the model, where all images have labels of its classes."""


def built_in(channels: int) -> Samples:
    """Thirty-two computed images of 96 x 128 pixels: waves of several lengths and directions,
    over a gradient, with some noise; the same in every process."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:96j, -1:1:128j]
    images = []
    for _ in range(BUILT_IN):
        lengths, turns = draw.uniform(1, 12, channels), draw.uniform(0, 6.3, channels)
        levels = draw.uniform(40, 215, channels)
        waves = np.sin(lengths * (np.cos(turns) * x[..., None] + np.sin(turns) * y[..., None]) * 3)
        noise = draw.normal(0, 8, (96, 128, channels))
        pixels = levels + 60 * waves + 30 * x[..., None] + noise
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return Samples(images, f"{BUILT_IN} built-in images (waves, gradients, noise)")


def from_data(
    place: str,
    channels: int,
    limit: int,
    classes: tuple[str, ...],
    reading: Reading = AS_RECOGNISED,
    value_range: ValueRange | None = None,
) -> Samples:
    """Images to check on, evenly spread over a source of any kind.

    Args:
        place: Where the images are: whatever `--data` takes.
        channels: How many channels the images are decoded to.
        limit: How many images to take at most.
        classes: Classes of the model; labels are used only if all of them are among these.
        reading: How the source is read, where it leaves that open.
        value_range: The values that become black and white in images of more than 8 bits; None:
            what each file states, or all of its type.

    Raises:
        DataError: An image cannot be read.
    """
    source = _open(place, limit, reading)
    known = {name: number for number, name in enumerate(classes)}
    labelled = bool(source.classes) and known.keys() >= set(source.classes)
    images, targets = [], []
    for index in range(len(source)):
        try:
            record = source.read(index)
            images.append(decode(record.data, channels=channels, value_range=value_range))
            if labelled and isinstance(record.target, int):
                targets.append(known[source.classes[record.target]])
        except UnreadableError as error:
            raise DataError(
                f"{source.key(index)} cannot be read: {error.reason}",
                remedy="repair or remove it: `beit data check` names all of them",
            ) from error
    whole = len(targets) == len(images)
    return Samples(images, f"{counted(len(images), 'image')} of --data", targets if whole else None)


def _open(place: str, limit: int, reading: Reading) -> ImageSource:
    """Labelled images of the validation part; without labels, all images."""
    require(limit > 0, f"samples is {limit}", "check on one image at least")
    dataset = Dataset(place, reading)
    try:
        splits = divide(dataset, Division(split=0.5, seed=0))
    except DataError:
        return evenly(dataset.training(), limit)
    return evenly(splits.test or splits.validation, limit)


# -- the comparison --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Parity:
    """What was compared, and the result."""

    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...] = BATCHES
    images: int = 0
    """How many were compared, over all batch sizes and image sizes."""
    difference: float = 0.0
    """Largest absolute difference of an output."""
    scale: float = 0.0
    """Largest absolute value of an output."""
    same: float | None = None
    """Fraction of best classes (of pixels, for a segmenter), of decided labels or of tokens that
    are the same."""
    levels: int | None = None
    """Largest difference of a resized pixel from ours, out of 255."""
    accuracy: tuple[float, float] | None = None
    """Accuracy of the model and of the file, where the images have labels."""


class Pair(NamedTuple):
    """Images as the file takes them and as the model does."""

    given: np.ndarray
    pixels: Tensor
    levels: int = 0


def check(run: Run, artifact: Artifact, graph: Graph, samples: Samples) -> Parity:
    """Compare an exported file with its model over batch sizes, image sizes and all images.

    Args:
        run: Gives the outputs of the file.
        artifact: The model that was exported.
        graph: What the file was written from.
        samples: The images to compare on.

    Raises:
        ExportError: The answers differ by more than the precision allows.
    """
    target = graph.target
    parity = Parity(sizes=tuple(checked_sizes(target, samples)))
    ours: list[np.ndarray] = []  # the best classes or tokens, of every batch
    theirs: list[np.ndarray] = []
    hits, levels = np.zeros(2), 0
    count = len(samples.images)
    for size in parity.sizes:
        for batch in BATCHES:
            for start in range(0, max(count - batch + 1, 1), batch):
                chosen = [samples.images[(start + i) % count] for i in range(batch)]
                pair = _pair(chosen, artifact, graph, size)
                expected, found = _answers(run, artifact, target.answer, pair, size)
                if start == 0 and not all(map(np.array_equal, found, run(pair.given))):
                    raise _failed("the same images twice give different answers")
                parity.images += batch
                levels = max(levels, pair.levels)
                for mine, other in zip(expected, found, strict=True):
                    if mine.dtype.kind == "f":
                        parity.difference = max(parity.difference, _largest(mine - other))
                        parity.scale = max(parity.scale, _largest(mine))
                if target.answer == "features":
                    continue
                ours.append(_best(expected[0], target.answer, artifact))
                theirs.append(_best(found[0], target.answer, artifact))
                if samples.targets and ours[-1].ndim == 1 and batch == 1:
                    hits += [best[-1][0] == samples.targets[start] for best in (ours, theirs)]
    if ours:
        equal = sum(int((mine == other).sum()) for mine, other in zip(ours, theirs, strict=True))
        parity.same = equal / sum(best.size for best in ours)
    if target.preprocess == "resize":
        parity.levels = levels
    if samples.targets and target.answer == "logits":
        model, file = hits / (count * len(parity.sizes))
        parity.accuracy = float(model), float(file)
    _judge(parity, target.precision)
    return parity


def _answers(
    run: Run, artifact: Artifact, answer: Answer, pair: Pair, size: tuple[int, int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The answers of the model and of the file. Raises ExportError if they cannot be compared."""
    with torch.no_grad():
        expected = [each.numpy() for each in answer_of(artifact.model, answer, pair.pixels)]
    found = run(pair.given)
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise _failed(
                f"{counted(len(pair.given), 'image')} of {size[0]} x {size[1]} give {theirs.shape} "
                f"instead of {ours.shape}, or values that are not finite"
            )
    return expected, found


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def _best(values: np.ndarray, answer: Answer, artifact: Artifact) -> np.ndarray:
    """The tokens, or the best class; of a multi-label classifier, whether each label counts."""
    if answer == "tokens":
        return values
    if artifact.details.multi_label:
        decided: np.ndarray = artifact.details.decided(torch.from_numpy(values)).numpy()
        return decided
    best: np.ndarray = values.argmax(axis=1)
    return best


def _failed(problem: str) -> ExportError:
    return ExportError(
        f"the exported file is not the model: {problem}",
        remedy="nothing was published; try another --to or --precision, and report it",
    )


def _judge(parity: Parity, precision: Precision) -> None:
    if precision == "fp32" and parity.difference > TOLERANCE:
        raise _failed(
            f"outputs differ by up to {parity.difference:.1e}, allowed is {TOLERANCE:.0e}"
        )
    if parity.levels is not None and parity.levels > RESIZING_LEVELS:
        raise _failed(f"resized pixels differ by {parity.levels} levels of 255")
    if parity.same is not None and parity.same < LEAST_SAME[precision]:
        raise _failed(f"only {parity.same:.2%} of the best classes, labels or tokens are the same")


def checked_sizes(target: Target, samples: Samples) -> list[tuple[int, int]]:
    """The image sizes to compare: of a fixed graph its own; of a dynamic one also a smaller and a
    larger one that are not square; of a graph that resizes, three sizes of images."""
    (height, width), unit = target.size, target.unit
    if target.dynamic:
        rows, columns = height // unit, width // unit
        smaller = max(rows // 2, 2) * unit, max(columns - 1, 3) * unit
        larger = min(rows + 3, LARGEST) * unit, min(columns + 1, LARGEST) * unit
        return [target.size, smaller, larger]
    if target.preprocess == "resize":
        side = min(min(image.shape[:2]) for image in samples.images)
        return [(side, side), (max(side * 2 // 3, 1), side), (side, max(side // 2, 1))]
    return [target.size]


def _pair(
    images: list[np.ndarray], artifact: Artifact, graph: Graph, size: tuple[int, int]
) -> Pair:
    """A batch for the file and for the model."""
    details, target = artifact.details, graph.target

    def prepared(batch: list[np.ndarray], side: tuple[int, int]) -> Tensor:
        views = [central_view(each, side, details.crop, details.resize, details.interpolation)
                 for each in batch]  # fmt: skip
        return torch.stack(views).contiguous()

    if target.preprocess == "resize":
        cut = np.stack([image[: size[0], : size[1]] for image in images])
        view = graph.before[0]
        assert isinstance(view, CentralView)
        pixels = view(torch.from_numpy(cut)).permute(0, 3, 1, 2).contiguous()
        ours = prepared(list(cut), target.size)
        return Pair(cut, pixels, int((pixels.int() - ours.int()).abs().max()))
    pixels = prepared(images, size)
    if target.preprocess == "normalise":
        return Pair(pixels.permute(0, 2, 3, 1).contiguous().numpy(), pixels)
    if isinstance(artifact.model, BackboneModel):
        return Pair(artifact.model.backbone.normalise(pixels).numpy(), pixels)
    return Pair((pixels.float() / 255).numpy(), pixels)
