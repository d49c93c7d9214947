"""Does the file give what the model gives? Asked of the file itself, before it is published."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from beit.data.augment import central_view
from beit.errors import ExportError
from beit.models.heads import BackboneModel
from beit.tokenizers.base import VisualTokenizer
from beit.weights.answering import answering
from beit.weights.export.formats import Run
from beit.weights.export.graph import LARGEST, Graph, Precision, Shape
from beit.weights.export.preprocessing import RESIZING_LEVELS, CentralView
from beit.weights.export.samples import Samples
from beit.weights.kinds import Answer
from beit.weights.store import Artifact

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4
"""Largest difference of an output from the model's, in fp32."""
LEAST_SAME: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.9, "int8": 0.0}
"""Share of the best classes or tokens that must be the same. The cost of int8 is told, not judged:
it depends on the use."""


class Parity(NamedTuple):
    """What was compared, and how it came out."""

    images: int
    """Compared at all, over all batch sizes and sizes."""
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    difference: float
    """Largest absolute difference of an output."""
    scale: float
    """Largest absolute value of an output."""
    same: float | None
    """Share of best classes (of pixels, for a segmenter), of decided labels or of tokens that are
    the same."""
    levels: int | None
    """Largest difference of a resized pixel from ours, out of 255."""
    accuracy: tuple[float, float] | None = None
    """Of the model and of the file, where the images have labels."""


class Pair(NamedTuple):
    """Images as the file takes them and as the model does."""

    given: np.ndarray
    pixels: Tensor
    levels: int


def reference(model: nn.Module, answer: Answer, pixels: Tensor) -> list[np.ndarray]:
    """What the model itself says about uint8 images [B,C,H,W]."""
    with torch.no_grad():
        if isinstance(model, VisualTokenizer):
            return [model.encode(pixels).numpy()]
        if answer == "logits":
            return [model(pixels).numpy()]
        assert isinstance(model, BackboneModel)
        patches = model.backbone(pixels).patches
        return [patches.mean(dim=1).numpy(), patches.numpy()]


def check(
    run: Run, artifact: Artifact, graph: Graph, shape: Shape, samples: Samples, precision: Precision
) -> Parity:
    """Compare over batch sizes, sizes and all images. Raises ExportError if they differ."""
    worst, scale, equal, places, count, levels = 0.0, 0.0, 0, 0, 0, 0
    hits = np.zeros(2)
    sizes = checked_sizes(shape, samples)
    for size in sizes:
        for batch in BATCHES:
            for start in range(0, max(len(samples.images) - batch + 1, 1), batch):
                chosen = [(start + i) % len(samples.images) for i in range(batch)]
                pair = _pair(
                    [samples.images[index] for index in chosen], artifact, graph, shape, size
                )
                found = run(pair.given)
                if any(
                    not np.array_equal(*two) for two in zip(found, run(pair.given), strict=True)
                ):
                    raise _failed("the same images twice give different answers")
                expected = reference(artifact.model, graph.answer, pair.pixels)
                for ours, theirs in zip(expected, found, strict=True):
                    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
                        raise _failed(
                            f"{batch} images of {size[0]} x {size[1]} give {theirs.shape} "
                            f"instead of {ours.shape}, or values that are not finite"
                        )
                    if ours.dtype.kind == "f":
                        worst = max(worst, float(np.abs(ours - theirs).max()))
                        scale = max(scale, float(np.abs(ours).max()))
                levels = max(levels, pair.levels)
                count += batch
                if graph.answer != "features":
                    best = [_best(each[0], graph.answer, artifact) for each in (expected, found)]
                    equal += int((best[0] == best[1]).sum())
                    places += best[0].size
                    if samples.targets and best[0].ndim == 1 and batch == 1:
                        target = samples.targets[start]
                        hits += [best[0][0] == target, best[1][0] == target]
    labelled = len(samples.images) * len(sizes)
    parity = Parity(
        count,
        BATCHES,
        tuple(sizes),
        worst,
        scale,
        equal / places if places else None,
        levels if shape.preprocess == "resize" else None,
        (float(hits[0]) / labelled, float(hits[1]) / labelled)
        if samples.targets and graph.answer == "logits"
        else None,
    )
    _judge(parity, precision)
    return parity


def _best(values: np.ndarray, answer: Answer, artifact: Artifact) -> np.ndarray:
    """The tokens, or the best class; of a multi-label classifier, whether each label counts."""
    if answer == "tokens":
        return values
    if artifact.details.multi_label:
        decided: np.ndarray = answering(artifact.details).decided(torch.from_numpy(values)).numpy()
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
    least = LEAST_SAME[precision]
    # A pixel between two classes, of very many, may fall to either side by rounding.
    least = min(least, 0.9999) if len(parity.sizes) and precision == "fp32" else least
    if parity.same is not None and parity.same < least:
        raise _failed(f"only {parity.same:.2%} of the best classes, labels or tokens are the same")


def checked_sizes(shape: Shape, samples: Samples) -> list[tuple[int, int]]:
    """The one size of a fixed graph; of a dynamic one its own, a smaller and a larger one that are
    not square; three sizes of images for a graph that resizes."""
    height, width = shape.size
    unit = shape.unit
    if shape.dynamic:
        rows, columns = height // unit, width // unit
        smaller = max(rows // 2, 2) * unit, max(columns - 1, 3) * unit
        larger = min(rows + 3, LARGEST) * unit, min(columns + 1, LARGEST) * unit
        return [shape.size, smaller, larger]
    if shape.preprocess == "resize":
        side = min(min(image.shape[:2]) for image in samples.images)
        return [(side, side), (max(side * 2 // 3, 1), side), (side, max(side // 2, 1))]
    return [shape.size]


def _prepared(image: np.ndarray, size: tuple[int, int], artifact: Artifact) -> Tensor:
    said = artifact.details
    return central_view(image, size, said.crop, said.resize, said.interpolation)


def _pair(
    images: list[np.ndarray],
    artifact: Artifact,
    graph: Graph,
    shape: Shape,
    size: tuple[int, int],
) -> Pair:
    """A batch for the file and for the model."""
    if shape.preprocess == "resize":
        cut = np.stack([image[: size[0], : size[1]] for image in images])
        view = graph.before[0]
        assert isinstance(view, CentralView)
        pixels = view(torch.from_numpy(cut)).permute(0, 3, 1, 2).contiguous()
        ours = torch.stack([_prepared(each, shape.size, artifact) for each in cut])
        return Pair(cut, pixels, int((pixels.int() - ours.int()).abs().max()))
    pixels = torch.stack([_prepared(each, size, artifact) for each in images]).contiguous()
    if shape.preprocess == "normalise":
        return Pair(pixels.permute(0, 2, 3, 1).contiguous().numpy(), pixels, 0)
    if isinstance(artifact.model, BackboneModel):
        floats = artifact.model.backbone.normalise(pixels)
    else:
        floats = pixels.float() / 255
    return Pair(floats.numpy(), pixels, 0)
