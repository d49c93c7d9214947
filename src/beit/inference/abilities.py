"""What models do with images: predict, segment, embed, ...; each is a path of the server."""

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
from beit.inference.predictor import Predictor
from beit.models.attention_maps import attention_maps
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.objectives.reconstruction import decode_tokens, reconstruct
from beit.tokenizers.base import VisualTokenizer

Options = dict[str, int | None]
Answer = dict[str, Any]
MOST_SHOWN = 1024
"""Side of an overlay in pixels; the label map itself keeps the image's size."""


class Ability(NamedTuple):
    """Something that a model does with images."""

    prepare: Callable[[Predictor, np.ndarray, Options], Any]
    """Pixels [H, W, C] to what the model reads. Raises ConfigError for an option out of range."""
    answer: Callable[[Predictor, Sequence[Any], Options], Sequence[Answer]]
    """Several of those to their answers, in JSON. Raises NotFiniteError."""
    by_tokenizer: bool = False
    """Whether it takes the tokenizer that the model was trained with: `Predictor.tokenizer`."""


class NotFiniteError(RuntimeError):
    """The model gave numbers that are not finite."""


def _check_finite(*values: Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise NotFiniteError("not_finite")


def view(predictor: Predictor, pixels: np.ndarray, _options: Options) -> Tensor:
    """The image as the model sees it, uint8 [C, H, W]."""
    return predictor.prepare(pixels)


def to_batch(predictor: Predictor, views: Sequence[Tensor]) -> Tensor:
    """Views [C, H, W] on the device of the model."""
    return torch.stack(list(views)).to(predictor.device)


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_SHOWN, MOST_SHOWN), Image.Resampling.NEAREST)
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@torch.no_grad()
def _predict(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    logits: Tensor = predictor.model(to_batch(predictor, views))
    answering = predictor.answering
    rows = answering.probabilities(logits).cpu()
    _check_finite(rows)
    return [
        {"labels": [label.answer() for label in answering.labels(row, options["top"])]}
        for row in rows
    ]


@torch.no_grad()
def _embed(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    model = predictor.model
    assert isinstance(model, BackboneModel)
    block = model.backbone.config.block(options["block"])
    output = model.backbone(to_batch(predictor, views), out_indices=(block,)).intermediates[0]
    rows = output[:, 1:].float().mean(dim=1).cpu()
    _check_finite(rows)
    return [{"block": block, "features": row.tolist()} for row in rows]


def _attention(predictor: Predictor, views: Sequence[Tensor], options: Options) -> Sequence[Answer]:
    model = predictor.model
    assert isinstance(model, BackboneModel)
    block = model.backbone.config.block(options["block"])
    (maps,) = attention_maps(model.backbone, to_batch(predictor, views), [block])
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


def _segment(
    predictor: Predictor, images: Sequence[np.ndarray], _options: Options
) -> Sequence[Answer]:
    answers = []
    for pixels in images:
        labels = predictor.segment(pixels)
        ids, counts = np.unique(labels, return_counts=True)
        colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., [0, 0, 0]]
        names = predictor.classes
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
        for row in model.encode(to_batch(predictor, views)).cpu()
    ]


def _two_views(
    predictor: Predictor, pixels: np.ndarray, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the image: what the model sees, what the tokenizer sees, and a mask."""
    tokenizer, details = predictor.tokenizer, predictor.artifact.details
    assert tokenizer is not None
    mask = BlockMasking().build(tokenizer.grid)(random.Random(options["seed"]))
    token_view = central_view(
        pixels, tokenizer.size, details.crop, details.resize, details.interpolation
    )
    return predictor.prepare(pixels), token_view, torch.from_numpy(mask)


def _reconstruct(
    predictor: Predictor, triples: Sequence[tuple[Tensor, Tensor, Tensor]], _options: Options
) -> Sequence[Answer]:
    model, tokenizer = predictor.model, predictor.tokenizer
    assert isinstance(model, MaskedImageModel)
    assert tokenizer is not None
    images, token_images, masks = (to_batch(predictor, part) for part in zip(*triples, strict=True))
    keys = tuple(str(index) for index in range(len(triples)))
    answers = []
    for one in reconstruct(model, tokenizer, MaskedBatch(images, token_images, masks, keys)):
        if not math.isfinite(one.score):
            raise NotFiniteError("not_finite")
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


PREDICT = Ability(view, _predict)
SEGMENT = Ability(lambda _predictor, pixels, _options: pixels, _segment)
EMBED = Ability(view, _embed)
ATTENTION = Ability(view, _attention)
TOKENS = Ability(view, _tokens)
RECONSTRUCT = Ability(_two_views, _reconstruct, by_tokenizer=True)
