"""What models do with images: predict, segment, embed, ...; each is a path of the server."""

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
from beit.inference.outputs import regions
from beit.inference.predictor import Predictor, as_rgb
from beit.masking import build_sampler
from beit.models.features import attention_maps
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.models.vit import VisionTransformer
from beit.objectives.reconstruction import decode_tokens, reconstruct
from beit.tokenizers.base import VisualTokenizer
from beit.visualize import (
    PALETTE,
    data_uri,
    hide,
    label_map_png,
    overlay_labels,
    png_uri,
    to_rgb,
    token_map,
)

Options = dict[str, int | None]
Answer = dict[str, Any]
MOST_SHOWN = 1024
"""Side of an overlay in pixels; the label map itself keeps the image's size."""


class Ability(NamedTuple):
    """Something that a model does with images."""

    prepare: Callable[[Predictor, np.ndarray, Options], Any]
    """Makes the model's input of pixels [H, W, C]. Raises ConfigError for a bad option."""
    answer: Callable[[Predictor, Sequence[Any], Options], Sequence[Answer]]
    """Gives the answers to several such inputs, as JSON. Raises NotFiniteError."""
    by_tokenizer: bool = False
    """Whether it needs the tokenizer that the model was trained with: `Predictor.tokenizer`."""


class NotFiniteError(RuntimeError):
    """The model gave numbers that are not finite."""


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise NotFiniteError("not_finite")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def view(predictor: Predictor, pixels: np.ndarray, _options: Options) -> Tensor:
    """The image as the model sees it, uint8 [C, H, W]: an `Ability.prepare` without options.

    Args:
        predictor: The model.
        pixels: The image, uint8 [H, W, C].
        _options: Not used.
    """
    return predictor.prepare(pixels)


def _predict(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    rows = predictor.probabilities(views)
    _check_finite(rows)
    labels = predictor.artifact.details.labels
    return [{"labels": [label.answer() for label in labels(row, options["top"])]} for row in rows]


def _embed(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    block = _backbone(predictor).config.block(options["block"])
    rows = predictor.embed(views, block=block)
    _check_finite(rows)
    return [{"block": block, "features": row.tolist()} for row in rows]


def _attention(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    backbone = _backbone(predictor)
    block = backbone.config.block(options["block"])
    (maps,) = attention_maps(backbone, predictor.batch(views), [block])
    means = maps.mean(dim=1)[:, 1:, 1:]
    _check_finite(means)
    scaled = (means / means.amax(dim=2, keepdim=True).clamp(min=1e-12) * 255).round()
    return [
        {
            "block": block,
            "grid": list(backbone.config.grid),
            "weights": _base64(weights.numpy().tobytes()),
            "view": data_uri(to_rgb(view)),
        }
        for weights, view in zip(scaled.to(torch.uint8), views, strict=True)
    ]


def _backbone(predictor: Predictor) -> VisionTransformer:
    assert isinstance(predictor.model, BackboneModel)
    return predictor.model.backbone


def _segment(
    predictor: Predictor, images: Sequence[np.ndarray], _options: Options
) -> Sequence[Answer]:
    return [_segmentation(predictor, pixels) for pixels in images]


def _segmentation(predictor: Predictor, pixels: np.ndarray) -> Answer:
    labels = predictor.segment(pixels)
    overlay = Image.fromarray(overlay_labels(as_rgb(pixels), labels))
    overlay.thumbnail((MOST_SHOWN, MOST_SHOWN), Image.Resampling.NEAREST)
    return {
        "height": labels.shape[0],
        "width": labels.shape[1],
        "classes": [
            {**region._asdict(), "colour": "#" + bytes(PALETTE[region.id]).hex()}
            for region in regions(labels, predictor.classes)
        ],
        "label_map": "data:image/png;base64," + _base64(label_map_png(labels)),
        "overlay": png_uri(np.asarray(overlay)),
    }


def _tokens(predictor: Predictor, views: Sequence[Tensor], _options: Options) -> Sequence[Answer]:
    model = predictor.model
    assert isinstance(model, VisualTokenizer)
    return [
        {
            "grid": list(model.grid),
            "codes": model.codes,
            "tokens": row.tolist(),
            "colours": data_uri(token_map(row, model.grid, model.codes)),
        }
        for row in predictor.tokens(views)
    ]


def _two_views(
    predictor: Predictor, pixels: np.ndarray, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """What the model sees of the image, what the tokenizer sees, and a mask."""
    tokenizer = predictor.tokenizer
    assert tokenizer is not None
    mask = build_sampler(BlockMasking(), tokenizer.grid)(random.Random(options["seed"]))
    token_view = predictor.prepare(pixels, tokenizer.size)
    return predictor.prepare(pixels), token_view, torch.from_numpy(mask)


def _reconstruct(
    predictor: Predictor, triples: Sequence[tuple[Tensor, Tensor, Tensor]], _options: Options
) -> Sequence[Answer]:
    model, tokenizer = predictor.model, predictor.tokenizer
    assert isinstance(model, MaskedImageModel)
    assert tokenizer is not None
    images, token_images, masks = map(predictor.batch, zip(*triples, strict=True))
    keys = tuple(map(str, range(len(triples))))
    answers = []
    for one in reconstruct(model, tokenizer, MaskedBatch(images, token_images, masks, keys)):
        if not math.isfinite(one.score):
            raise NotFiniteError("not_finite")
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


PREDICT = Ability(view, _predict)
SEGMENT = Ability(lambda _predictor, pixels, _options: pixels, _segment)
EMBED = Ability(view, _embed)
ATTENTION = Ability(view, _attention)
TOKENS = Ability(view, _tokens)
RECONSTRUCT = Ability(_two_views, _reconstruct, by_tokenizer=True)
