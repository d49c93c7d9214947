"""What a served model can do with an image: one entry per path of the server."""

from __future__ import annotations

import base64
import io
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
from beit.data.augment import central_view
from beit.data.visualize import (
    PALETTE,
    data_uri,
    hide,
    label_map_png,
    overlay_labels,
    to_rgb,
    token_map,
)
from beit.models.features import attention_maps
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.objectives.reconstruction import decode_tokens, reconstruct
from beit.serve.http_errors import BAD_OPTION, NOT_FINITE, Refused
from beit.serve.predictor import Predictor
from beit.tokenizers.base import VisualTokenizer

Options = dict[str, int | None]
Answer = dict[str, Any]
MOST_SHOWN = 1024
"""Side of an overlay in pixels; the label map itself keeps the image's size."""


class Ability(NamedTuple):
    """Pixels [H, W, C] to what the model reads, and several of those to their answers."""

    prepare: Callable[[np.ndarray, Options], Any]
    answer: Callable[[Sequence[Any], Options], Sequence[Answer]]
    together: bool = True
    """Whether images go through the model as a batch."""


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise Refused(NOT_FINITE)


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_SHOWN, MOST_SHOWN), Image.Resampling.NEAREST)
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


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
            self.of["segment"] = Ability(lambda pixels, _: pixels, self._segment, together=False)
        if isinstance(model, BackboneModel):
            self.of["embed"] = Ability(self._view, self._embed)
            self.of["attention"] = Ability(self._view, self._attention)
        if isinstance(model, VisualTokenizer):
            self.of["tokens"] = Ability(self._view, self._tokens)
        if isinstance(model, MaskedImageModel) and tokenizer is not None:
            self.of["reconstruct"] = Ability(self._two_views, self._reconstruct)

    def _view(self, pixels: np.ndarray, _options: Options) -> Tensor:
        return self.predictor.prepare(pixels)

    def _two_views(self, pixels: np.ndarray, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        assert self._tokenizer is not None
        grid = self._tokenizer.grid
        mask = BlockMasking().build(grid)(random.Random(options["seed"]))
        said, size = self.predictor.artifact.details, self._tokenizer.size
        token_view = central_view(pixels, size, said.crop, said.resize, said.interpolation)
        return self.predictor.prepare(pixels), token_view, torch.from_numpy(mask)

    def _moved(self, views: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(views)).to(self.predictor.device)

    @torch.no_grad()
    def _predict(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        logits: Tensor = self.predictor.model(self._moved(views))
        answering = self.predictor.answering
        rows = answering.probabilities(logits).cpu()
        _check_finite(rows)
        return [
            {"labels": [label.answer() for label in answering.labels(row, options["top"])]}
            for row in rows
        ]

    @torch.no_grad()
    def _embed(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        model, block = self.predictor.model, self._block(options)
        assert isinstance(model, BackboneModel)
        output = model.backbone(self._moved(views), out_indices=(block,)).intermediates[0]
        rows = output[:, 1:].float().mean(dim=1).cpu()
        _check_finite(rows)
        return [{"block": block, "features": row.tolist()} for row in rows]

    def _block(self, options: Options) -> int:
        backbone = self.predictor.artifact.backbone
        assert backbone is not None
        block = options["block"]
        if block is None:
            return backbone.depth - 1
        if block >= backbone.depth:
            raise Refused(BAD_OPTION)
        return block

    def _attention(self, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
        model, block = self.predictor.model, self._block(options)
        assert isinstance(model, BackboneModel)
        (maps,) = attention_maps(model.backbone, self._moved(views), [block])
        means = maps.mean(dim=1)[:, 1:, 1:]
        _check_finite(means)
        scaled = (means / means.amax(dim=2, keepdim=True).clamp(min=1e-12) * 255).round()
        return [
            {
                "block": block,
                "grid": list(model.backbone.config.grid),
                "weights": base64.b64encode(one.to(torch.uint8).numpy().tobytes()).decode("ascii"),
                "view": data_uri(to_rgb(view)),
            }
            for one, view in zip(scaled, views, strict=True)
        ]

    def _segment(self, images: Sequence[np.ndarray], _options: Options) -> Sequence[Answer]:
        answers = []
        for pixels in images:
            labels = self.predictor.segment(pixels)
            ids, counts = np.unique(labels, return_counts=True)
            colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
            names = self.predictor.classes
            found = [
                {
                    "id": number,
                    "name": names[number] if number < len(names) else str(number),
                    "share": count / labels.size,
                    "colour": "#" + bytes(PALETTE[number]).hex(),
                }
                for number, count in zip(ids.tolist(), counts.tolist(), strict=True)
            ]
            answers.append(
                {
                    "height": labels.shape[0],
                    "width": labels.shape[1],
                    "classes": sorted(found, key=lambda one: -float(one["share"])),
                    "label_map": "data:image/png;base64,"
                    + base64.b64encode(label_map_png(labels)).decode("ascii"),
                    "overlay": _png(overlay_labels(colours, labels)),
                }
            )
        return answers

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
            for row in model.encode(self._moved(views)).cpu()
        ]

    def _reconstruct(
        self, triples: Sequence[tuple[Tensor, Tensor, Tensor]], _options: Options
    ) -> Sequence[Answer]:
        model, tokenizer = self.predictor.model, self._tokenizer
        assert isinstance(model, MaskedImageModel)
        assert tokenizer is not None
        images, token_images, masks = (self._moved(part) for part in zip(*triples, strict=True))
        keys = tuple(str(index) for index in range(len(triples)))
        answers = []
        for one in reconstruct(model, tokenizer, MaskedBatch(images, token_images, masks, keys)):
            if not math.isfinite(one.score):
                raise Refused(NOT_FINITE)
            filled = one.filled
            shown = [
                to_rgb(decode_tokens(row, tokenizer))
                if tokenizer.can_decode
                else token_map(row, tokenizer.grid, tokenizer.codes)
                for row in (one.target, filled)
            ]
            answers.append(
                {
                    "right": one.score,
                    "hidden": int(one.hidden.sum()),
                    "input": data_uri(hide(to_rgb(one.image), one.hidden, tokenizer.grid)),
                    "target": data_uri(shown[0]),
                    "prediction": data_uri(shown[1]),
                    "tokens": filled.tolist(),
                }
            )
        return answers
