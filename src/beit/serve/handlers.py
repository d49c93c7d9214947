"""What a served model can do with an image: one entry per path of the server."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from beit.batch import MaskedBatch
from beit.config.masking import BlockMasking
from beit.data.visualize import (
    PALETTE,
    data_uri,
    hide,
    label_map_png,
    overlay_labels,
    png_uri,
    to_rgb,
    token_map,
)
from beit.errors import ConfigError
from beit.models.attention_maps import attention_maps
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.objectives.reconstruction import decode_tokens, reconstruct
from beit.serve.http_errors import BAD_OPTION, NOT_FINITE, Refused
from beit.serve.predictor import Predictor, as_rgb
from beit.tokenizers.base import VisualTokenizer

Options = dict[str, int | None]
Answer = dict[str, Any]
MOST_SHOWN = 1024
"""Side of an overlay in pixels; the label map itself keeps the image's size."""


class Ability(NamedTuple):
    """Pixels [H, W, C] to what the model reads, and several of those to their answers."""

    prepare: Callable[[np.ndarray, Options], Any]
    answer: Callable[[Sequence[Any], Options], Sequence[Answer]]


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise Refused(NOT_FINITE)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Abilities:
    """The abilities of one predictor; a pre-training rebuilds images with its tokenizer."""

    def __init__(self, predictor: Predictor, tokenizer: VisualTokenizer | None = None) -> None:
        self.predictor = predictor
        self._tokenizer = tokenizer
        model = predictor.model
        self.of: dict[str, Ability] = {}
        if isinstance(model, Classifier):
            self.of["predict"] = Ability(self._view, self._predict)
        if isinstance(model, Segmenter):
            self.of["segment"] = Ability(lambda pixels, _: pixels, self._segment)
        if isinstance(model, BackboneModel):
            self.of["embed"] = Ability(self._view, self._embed)
            self.of["attention"] = Ability(self._view, self._attention)
        if isinstance(model, VisualTokenizer):
            self.of["tokens"] = Ability(self._view, self._tokens)
        if isinstance(model, MaskedImageModel) and tokenizer is not None:
            self.of["reconstruct"] = Ability(self._masked_views, self._reconstruct)

    def _view(self, pixels: np.ndarray, _options: Options) -> Tensor:
        return self.predictor.prepare(pixels)

    def _masked_views(self, pixels: np.ndarray, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        assert self._tokenizer is not None
        prepare = self.predictor.prepare
        mask = BlockMasking().build(self._tokenizer.grid)(random.Random(options["seed"]))
        return prepare(pixels), prepare(pixels, self._tokenizer.size), torch.from_numpy(mask)

    def _predict(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        rows = self.predictor.probabilities(views)
        _check_finite(rows)
        answering = self.predictor.answering
        return [
            {"labels": [label.answer() for label in answering.labels(row, options["top"])]}
            for row in rows
        ]

    def _block(self, options: Options) -> tuple[BackboneModel, int]:
        model = self.predictor.model
        assert isinstance(model, BackboneModel)
        try:
            return model, model.backbone.config.block(options["block"])
        except ConfigError:
            raise Refused(BAD_OPTION) from None

    def _embed(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        _, block = self._block(options)
        rows = self.predictor.embed(views, block=block)
        _check_finite(rows)
        return [{"block": block, "features": row.tolist()} for row in rows]

    def _attention(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        model, block = self._block(options)
        (maps,) = attention_maps(model.backbone, self.predictor.batch(views), [block])
        means = maps.mean(dim=1)[:, 1:, 1:]
        _check_finite(means)
        scaled = (means / means.amax(dim=2, keepdim=True).clamp(min=1e-12) * 255).round()
        return [
            {
                "block": block,
                "grid": list(model.backbone.config.grid),
                "weights": _base64(weights.numpy().tobytes()),
                "view": data_uri(to_rgb(view)),
            }
            for weights, view in zip(scaled.to(torch.uint8), views, strict=True)
        ]

    def _segment(self, images: Sequence[np.ndarray], _options: Options) -> Sequence[Answer]:
        return [self._segmentation(pixels) for pixels in images]

    def _segmentation(self, pixels: np.ndarray) -> Answer:
        labels = self.predictor.segment(pixels)
        ids, counts = np.unique(labels, return_counts=True)
        names = self.predictor.classes
        found = [
            {
                "id": number,
                "name": names[number] if number < len(names) else str(number),
                "fraction": count / labels.size,
                "colour": "#" + bytes(PALETTE[number]).hex(),
            }
            for number, count in zip(ids.tolist(), counts.tolist(), strict=True)
        ]
        overlay = Image.fromarray(overlay_labels(as_rgb(pixels), labels))
        overlay.thumbnail((MOST_SHOWN, MOST_SHOWN), Image.Resampling.NEAREST)
        return {
            "height": labels.shape[0],
            "width": labels.shape[1],
            "classes": sorted(found, key=lambda one: -float(one["fraction"])),
            "label_map": "data:image/png;base64," + _base64(label_map_png(labels)),
            "overlay": png_uri(np.asarray(overlay)),
        }

    def _tokens(self, views: Sequence[Tensor], _options: Options) -> Sequence[Answer]:
        model = self.predictor.model
        assert isinstance(model, VisualTokenizer)
        return [
            {
                "grid": list(model.grid),
                "codes": model.codes,
                "tokens": row.tolist(),
                "colours": data_uri(token_map(row, model.grid, model.codes)),
            }
            for row in self.predictor.tokens(views)
        ]

    def _reconstruct(
        self, triples: Sequence[tuple[Tensor, Tensor, Tensor]], _options: Options
    ) -> Sequence[Answer]:
        model, tokenizer = self.predictor.model, self._tokenizer
        assert isinstance(model, MaskedImageModel)
        assert tokenizer is not None
        images, token_images, masks = map(self.predictor.batch, zip(*triples, strict=True))
        keys = tuple(map(str, range(len(triples))))
        answers = []
        for one in reconstruct(model, tokenizer, MaskedBatch(images, token_images, masks, keys)):
            if not math.isfinite(one.score):
                raise Refused(NOT_FINITE)
            target, prediction = (
                to_rgb(decode_tokens(row, tokenizer))
                if tokenizer.can_decode
                else token_map(row, tokenizer.grid, tokenizer.codes)
                for row in (one.target, one.filled)
            )
            answers.append(
                {
                    "right": one.score,
                    "hidden": int(one.hidden.sum()),
                    "input": data_uri(hide(to_rgb(one.image), one.hidden, tokenizer.grid)),
                    "target": data_uri(target),
                    "prediction": data_uri(prediction),
                    "tokens": one.filled.tolist(),
                }
            )
        return answers
