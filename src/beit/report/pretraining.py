"""What a pre-training has learned: what the model predicts for hidden patches, and where its
attention goes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from beit.batch import MaskedBatch
from beit.claim import claim_output
from beit.config.masking import VisibleConfig
from beit.config.runs import PretrainRunConfig
from beit.data.dataset import open_source, reading_for
from beit.data.sources import ImageSource, Target, evenly
from beit.data.transforms import Box, resize_crop
from beit.errors import ConfigError
from beit.masking import build_sampler
from beit.models.features import attention_maps
from beit.models.heads import MaskedImageModel, PretrainedBackbone
from beit.models.vit import VisionTransformer
from beit.objectives.reconstruction import (
    Reconstruction,
    decode_tokens,
    reconstruct,
    unpatchify,
)
from beit.report.charts import read_charts
from beit.report.history import History
from beit.report.inputs import batches, best_typical_worst, open_model
from beit.report.markup import Example, Finding, PageImage, Section, number, percent, render
from beit.report.page import Examples, Figure
from beit.tokenizers.base import VisualTokenizer
from beit.training.run_folder import read_run_config
from beit.visualize import Grid, heat, hide, judge, mark, to_rgb, token_map
from beit.weights.load import open_tokenizer

MOST_IMAGES = 64
EACH = 2
STRIP_ROWS, ZOOM = 3, 3
WITH_ATTENTION = 2
SINGLE_HEADS = 3
QUERIES = ((0.3, 0.3), (0.5, 0.7), (0.8, 0.45))
"""Places of the query patches, as fractions of height and width."""
COLOURS = 64
"""Palette of a heat map."""
BORDER = 6

CHARTS = read_charts("pretraining")


class CentralMasks:
    """A view without random crops: the centre of the image as evaluation sees it, and a mask."""

    def __init__(self, config: PretrainRunConfig, tokenizer: VisualTokenizer | None) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._sampler = build_sampler(config.masking, config.model.grid)

    def __call__(
        self, decoded: np.ndarray, _target: Target | None, generator: random.Random
    ) -> MaskedBatch:
        box = self._box(*decoded.shape[:2])
        images = resize_crop(decoded, box, self._config.model.size, "bicubic")[None]
        token_images = images
        if self._tokenizer is not None:
            how = self._tokenizer.config.interpolation
            token_images = resize_crop(decoded, box, self._tokenizer.size, how)[None]
        mask = torch.from_numpy(self._sampler(generator))[None]
        return MaskedBatch(images, token_images, mask)

    def _box(self, height: int, width: int) -> Box:
        """The centred crop, of the model's shape and the evaluation's fraction of the image."""
        model_height, model_width = self._config.model.size
        scale = self._config.evaluation_crop * min(height / model_height, width / model_width)
        tall = max(1, round(model_height * scale))
        wide = max(1, round(model_width * scale))
        return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def _images(config: PretrainRunConfig) -> ImageSource:
    return open_source(config.data, reading_for(config.data, config.reading, config.labelled))


class Predicted(NamedTuple):
    """A run's model, and what it predicts for some images of its data."""

    model: MaskedImageModel
    tokenizer: VisualTokenizer | None
    images: list[Reconstruction]


def predicts(config: PretrainRunConfig) -> bool:
    """Whether the artifact predicts hidden patches; visible-only prediction leaves a backbone."""
    return not isinstance(config.objective, VisibleConfig)


def predict(run: Path, config: PretrainRunConfig) -> Predicted:
    """Let the run's artifact predict hidden patches.

    Raises:
        ConfigError: The artifact is a backbone alone (see `predicts`).
        BeitError: The artifact, its tokenizer or the images are not there.
    """
    if not predicts(config):
        raise ConfigError(
            f"the artifact of {run} is a backbone alone: what predicted hidden patches is not kept",
            remedy="look at its features: beit show neighbours, beit probe",
        )
    opened = open_model(run, MaskedImageModel)
    tokenizer = None
    if config.objective.target == "tokens":
        tokenizer = open_tokenizer(config.tokenizer, may_import=False)
        tokenizer.to(opened.device)
    source = evenly(_images(config), opened.affordable(config.model.patches + 1, MOST_IMAGES))
    view, value_range = CentralMasks(config, tokenizer), config.loader.value_range
    found: list[Reconstruction] = []
    for batch in batches(MaskedBatch, source, view, config.model.channels, value_range):
        moved = batch._replace(
            images=batch.images.to(opened.device),
            token_images=batch.token_images.to(opened.device),
            mask=batch.mask.to(opened.device),
        )
        found += reconstruct(opened.model, tokenizer, moved)
    return Predicted(opened.model, tokenizer, found)


def _example(one: Reconstruction, found: Predicted) -> Example:
    """The image and what the model sees; which tokens are right, tokens decoded and as colours."""
    model, tokenizer, _ = found
    image, grid = to_rgb(one.image), model.backbone.config.grid
    hidden = hide(image, one.hidden, grid)
    given = (
        PageImage(image, "The image", "image"),
        PageImage(hidden, "What the model sees", "model's input"),
    )
    if tokenizer is None:
        pixels = to_rgb(unpatchify(one.filled, model.backbone))
        made = [PageImage(pixels, "Predicted pixels", "prediction")]
        return Example(
            one.key, given, tuple(made), f"squared error {number(-one.score)}", one.score
        )
    colours = "teal: the tokenizer's token, orange: another one"
    judged = judge(image, one.hidden, one.prediction == one.target, grid)
    made = [PageImage(judged, f"Right and wrong; {colours}", "right or wrong")]
    if tokenizer.can_decode:
        for name, tokens in (("Target", one.target), ("Prediction", one.filled)):
            decoded = to_rgb(decode_tokens(tokens, tokenizer))
            made.append(PageImage(decoded, f"{name} tokens decoded", f"{name.lower()}, decoded"))
    filled = token_map(one.filled, grid, tokenizer.codes)
    made.append(PageImage(filled, "Predicted tokens as colours", "tokens"))
    words = f"{percent(one.score)} of {int(one.hidden.sum())} tokens right"
    return Example(one.key, given, tuple(made), words, one.score)


def _predictions(found: Predicted) -> Section:
    """Predictions, and the score that always answering the same would get."""
    _, tokenizer, images = found
    targets = torch.cat([one.target[one.hidden] for one in images])
    if tokenizer is None:
        blind = float(targets.var(dim=0, correction=0).mean())
    else:
        blind = float(targets.bincount(minlength=tokenizer.codes).max()) / len(targets)
    order = best_typical_worst([one.score for one in images], EACH)
    body = render(
        "predictions.html.j2",
        rows=[(name, _example(images[index], found)) for name, index in order],
        images=len(images),
        mean=sum(one.score for one in images) / len(images),
        blind=blind,
        tokenizer=tokenizer,
    )
    return Section("predictions", "Hidden patches, predicted", body)


def queries(grid: Grid) -> list[int]:
    """The patches whose attention is shown."""
    places = [(int(row * grid[0]), int(column * grid[1])) for row, column in QUERIES]
    return list(dict.fromkeys(row * grid[1] + column for row, column in places))


def title(config: PretrainRunConfig) -> str:
    """The title of a run's page: which kind of pre-training it is."""
    return "BEiT pre-training" if predicts(config) else "Visible-only pre-training"


def attention_section(
    backbone: VisionTransformer, images: UInt8[Tensor, "batch channels height width"]
) -> Section:
    """Attention of a few patches of a few images, from a middle block and the last."""
    config, grid = backbone.config, backbone.config.grid
    blocks = sorted({config.depth // 2, config.depth - 1})
    maps = attention_maps(backbone, images, blocks)
    rows = []
    for index, pixels in enumerate(images):
        image = to_rgb(pixels)
        for patch in queries(grid):
            weights = [each[index, :, 1 + patch, 1:] for each in maps]
            shown = {
                f"block {block}": of.mean(dim=0) for block, of in zip(blocks, weights, strict=True)
            }
            shown |= {f"head {head}": one for head, one in enumerate(weights[-1][:SINGLE_HEADS])}
            framed = PageImage(mark(image, patch, grid), "Image, query patch framed", "query")
            rows.append(Example("", (framed, *(
                PageImage(heat(image, of, grid), f"Attention of {name}", name, COLOURS)
                for name, of in shown.items()
            ))))  # fmt: skip
    body = render("attention.html.j2", rows=rows, last=blocks[-1])
    return Section("attention", "Attention", body)


def sections(run: Path, config: PretrainRunConfig) -> list[Section]:
    """Predictions and attention on a few images of the run's data; only attention if the artifact
    is a backbone alone.

    Raises:
        BeitError: The artifact, its tokenizer or the images are not there.
    """
    if not predicts(config):
        opened = open_model(run, PretrainedBackbone)
        source, view = evenly(_images(config), WITH_ATTENTION), CentralMasks(config, None)
        value_range = config.loader.value_range
        batch = next(batches(MaskedBatch, source, view, config.model.channels, value_range))
        return [attention_section(opened.model.backbone, batch.images.to(opened.device))]
    found = predict(run, config)
    typical = best_typical_worst([one.score for one in found.images], EACH)[:WITH_ATTENTION]
    images = torch.stack([found.images[index].image for _, index in typical])
    backbone = found.model.backbone
    return [
        _predictions(found),
        attention_section(backbone, images.to(backbone.cls_token.device)),
    ]


def examples(run: Path, config: PretrainRunConfig) -> Examples:
    """Predictions for images of its data, if a run predicts tokens; raises as `sections` does."""
    if config.objective.target != "tokens" or not predicts(config):
        return Examples()
    found = predict(run, config)
    images = {one.key: one for one in found.images}
    return Examples(list(images), lambda keys: {key: _example(images[key], found) for key in keys})


def headline(config: PretrainRunConfig, history: History) -> list[Figure]:
    """The big numbers of a pre-training."""
    loss = number(history.last("train", "loss"))
    if config.objective.target == "pixels":
        mean = number(history.last("train", "target_variance"))
        figures = [Figure(loss, "squared error", f"always the mean: {mean}")]
    else:
        chance = number(history.last("train", "chance_loss"))
        entropy = number(history.last("train", "token_entropy"))
        right = percent(history.last("train", "accuracy"))
        figures = [
            Figure(right, "token accuracy", "training, last steps"),
            Figure(loss, "loss", f"chance {chance}, token entropy {entropy}"),
        ]
    for name, label in (("neighbours", "nearest neighbours"), ("retrieval", "images retrieved")):
        score, best = history.last("evaluate", name), history.last("evaluate", f"{name}_block")
        if score is not None:
            place = "" if best is None else f", block {best:.0f}"
            figures.append(Figure(percent(score), label, f"frozen features{place}", score))
    return figures


def findings(history: History) -> list[Finding]:
    """Whether the model knows more than which tokens are frequent."""
    loss, entropy = history.last("train", "loss"), history.last("train", "token_entropy")
    if loss is None or entropy is None:
        return []
    if loss > entropy:
        return [Finding(
            f"The loss ({number(loss)}) has not fallen below the entropy of the tokens "
            f"({number(entropy)}): so far the model knows little more than which tokens are "
            "frequent. Train longer, or on more images.", True,
        )]  # fmt: skip
    return [Finding(
        f"The loss ({number(loss)}) is below the entropy of the tokens ({number(entropy)}): the "
        "model predicts hidden patches from what surrounds them.",
    )]  # fmt: skip


def write_strip(run: Path, place: Path) -> Path:
    """Write typical rows of a pre-training as one PNG: image, input, target, prediction, tokens.

    Target and prediction are omitted if the tokenizer cannot decode.

    Raises:
        ConfigError: The run predicts no tokens.
    """
    with claim_output(place, replaces=True) as file, file.open("wb") as handle:
        config = read_run_config(run)
        if not isinstance(config, PretrainRunConfig) or config.objective.target != "tokens":
            raise ConfigError(
                f"{run} is not a pre-training run with tokens",
                remedy="give the run of `beit pretrain`",
            )
        found = predict(run, config)
        lines = []
        for one in _worth_showing(found.images, STRIP_ROWS):
            example = _example(one, found)
            shown = (*example.given, *example.made[1:])
            lines.append([_framed(each.pixels, config.model.size) for each in shown])
        strip = np.concatenate([np.concatenate(line, axis=1) for line in lines])
        Image.fromarray(strip).save(handle, "PNG", optimize=True)
    return place


def _worth_showing(images: Sequence[Reconstruction], most: int) -> list[Reconstruction]:
    """Of the images in the middle half of the scores, those with the most contrast."""
    order = sorted(images, key=lambda one: one.score)
    middle = order[len(order) // 4 : -(len(order) // 4) or None]
    return sorted(middle, key=lambda one: -float(one.image.float().std()))[:most]


def _framed(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scaled = Image.fromarray(pixels).resize(
        (size[1] * ZOOM, size[0] * ZOOM), Image.Resampling.NEAREST
    )
    border = ((BORDER, BORDER), (BORDER, BORDER), (0, 0))
    return np.pad(np.asarray(scaled), border, constant_values=255)
