"""How good the features are while they are being learned: nearest neighbours, block by block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from beit.batch import ImageBatch, LabelledBatch, Unreadable
from beit.config.data import ViewConfig
from beit.config.runs import PretrainRunConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import LabelledSplits
from beit.data.sources import ImageSource, evenly
from beit.data.transforms import SingleView
from beit.evaluation.eval_loader import CentreView, Passes
from beit.evaluation.features import FeatureTable, extract_features
from beit.evaluation.neighbours import neighbour_accuracy, retrieval_accuracy
from beit.models.heads import BackboneModel

SECOND_VIEW = ViewConfig(crop_scale=(0.4, 0.8), jitter=0.2)


class NeighbourScore:
    """Accuracy of a nearest-neighbour vote among labelled images, for the best block.

    The best block is chosen on the very images it is measured on: a curve to watch, not a result.
    """

    def __init__(
        self, splits: LabelledSplits, config: PretrainRunConfig, device: torch.device
    ) -> None:
        view = EvaluationView(config.model.size, config.evaluation_crop)
        self._device = device
        self._known, self._asked = (
            Passes(
                LabelledBatch,
                evenly(part, config.knn_images),
                view,
                size=config.model.size,
                channels=config.model.channels,
                loader=config.loader,
            )
            for part in (splits.train, splits.validation)
        )

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that could not be read."""
        return self._known.unreadable() + self._asked.unreadable()

    def several(self) -> tuple[str, ...]:
        """Images that are the first of several in their file."""
        return self._known.several() + self._asked.several()

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        known, asked = (
            every_block(model, part, self._device) for part in (self._known, self._asked)
        )
        scores = [
            neighbour_accuracy(
                known.features[:, block], known.targets, asked.features[:, block], asked.targets
            )
            for block in range(known.features.shape[1])
        ]
        best = int(np.argmax(scores))
        return {"neighbours": scores[best], "neighbours_block": float(best)}


class RetrievalScore:
    """Share of images found again among second views, for the best block: needs no labels."""

    def __init__(
        self, source: ImageSource, config: PretrainRunConfig, device: torch.device
    ) -> None:
        size, images = config.model.size, evenly(source, config.knn_images)
        views = (
            CentreView(size, config.evaluation_crop),
            SingleView(config=SECOND_VIEW, size=size),
        )
        self._device = device
        self._first, self._second = (
            Passes(
                ImageBatch,
                images,
                view,
                size=size,
                channels=config.model.channels,
                loader=config.loader,
            )
            for view in views
        )

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that could not be read."""
        return self._first.unreadable() + self._second.unreadable()

    def several(self) -> tuple[str, ...]:
        """Images that are the first of several in their file."""
        return self._first.several() + self._second.several()

    def __call__(self, model: nn.Module) -> Mapping[str, float]:
        first, second = (
            every_block(model, part, self._device) for part in (self._first, self._second)
        )
        scores = [
            retrieval_accuracy(first.features[:, block], second.features[:, block])
            for block in range(first.features.shape[1])
        ]
        best = int(np.argmax(scores))
        return {"retrieval": scores[best], "retrieval_block": float(best)}


def every_block(
    model: nn.Module, passes: Passes[LabelledBatch] | Passes[ImageBatch], device: torch.device
) -> FeatureTable:
    """Mean patch vectors of every block."""
    assert isinstance(model, BackboneModel)
    backbone = model.backbone
    return extract_features(
        backbone, passes, out_indices=tuple(range(backbone.config.depth)), device=device
    )
