"""How the logits of a classifier are read: the one place that knows softmax from sigmoid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from beit.weights.store import Details

BEST = 5
"""Classes in an answer, of a model whose images have one."""
EVEN = 0.5
"""Threshold of a label for which the artifact has none."""


class Label(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float
    threshold: float | None = None
    """Of a multi-label model: the probability from which the label counts."""

    @property
    def selected(self) -> bool:
        """Whether the label counts; a class of a model whose images have one is only ranked."""
        return self.threshold is None or self.probability >= self.threshold

    def answer(self) -> dict[str, str | float]:
        """As JSON; without a threshold where there is none."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Answering(NamedTuple):
    """What the logits of a classifier mean.

    Of a model whose images have one class, the probabilities of an image add up to one. Of a
    multi-label model each is independent, and a label counts from its threshold on.
    """

    classes: tuple[str, ...]
    """In the order of the logits."""
    multi_label: bool
    thresholds: tuple[float, ...]
    """Of a multi-label model, one for each class."""

    def probabilities(
        self, logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """In float32, on the device of the logits."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def decided(self, logits: Float[Tensor, "batch classes"]) -> Bool[Tensor, "batch classes"]:
        """The classes that are answered: the best one, or those from their thresholds on."""
        probabilities = self.probabilities(logits)
        if self.multi_label:
            thresholds = torch.tensor(self.thresholds, dtype=torch.float64)
            return probabilities.double() >= thresholds.to(probabilities.device)
        best = torch.zeros_like(probabilities, dtype=torch.bool)
        return best.scatter(1, probabilities.argmax(dim=1, keepdim=True), value=True)

    def labels(
        self, probabilities: Float[Tensor, " classes"], top: int | None = None
    ) -> list[Label]:
        """What an image is called, most probable first.

        With `top`, so many classes, whether they count or not. Without it the five most probable;
        of a multi-label model the labels that count, which may be none.
        """
        selected_only = self.multi_label and top is None
        if top is None:
            top = len(self.classes) if self.multi_label else BEST
        values, indices = probabilities.topk(min(top, len(self.classes)))
        found = [
            Label(self.classes[index], value, self.thresholds[index] if self.multi_label else None)
            for index, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return [label for label in found if label.selected or not selected_only]


def answering(details: Details) -> Answering:
    """How an artifact says that its logits are read."""
    thresholds = details.thresholds or (EVEN,) * len(details.classes)
    return Answering(
        details.classes, details.multi_label, thresholds if details.multi_label else ()
    )
