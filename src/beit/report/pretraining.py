"""What a pre-training run has learned: hidden patches and what the model thinks they are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from beit.batch import MaskedBatch
from beit.config.objective import VisibleConfig
from beit.config.runs import PretrainRunConfig
from beit.data.dataset import open_source, reading_for
from beit.data.sources import ImageSource, Target, evenly
from beit.data.transforms import Box, resize_crop
from beit.data.visualize import hide, judge, to_rgb, token_map
from beit.errors import ConfigError
from beit.masking import MaskSampler, build_sampler
from beit.models.heads import MaskedImageModel, PretrainedBackbone
from beit.objectives.reconstruction import (
    Reconstruction,
    decode_tokens,
    reconstruct,
    unpatchify,
)
from beit.report.attention import attention_section
from beit.report.images import show
from beit.report.markup import Markup, Section, block, element, join, number, percent
from beit.report.samples import affordable, batches, best_typical_worst
from beit.report.trained import trained
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_tokenizer

MOST_IMAGES = 64
EACH = 2
WITH_ATTENTION = 2
LEGEND = "teal: the tokenizer's token, orange: another one"


@dataclass(frozen=True, kw_only=True)
class CentralMasks:
    """The views of the run without chance: the centre that evaluation looks at, and a mask."""

    config: PretrainRunConfig
    tokenizer: VisualTokenizer | None
    sampler: MaskSampler

    def __call__(
        self, decoded: np.ndarray, _target: Target | None, generator: random.Random
    ) -> MaskedBatch:
        box = self._box(*decoded.shape[:2])
        images = resize_crop(decoded, box, self.config.model.size, "bicubic")[None]
        token_images = images
        if self.tokenizer is not None:
            how = self.tokenizer.config.interpolation
            token_images = resize_crop(decoded, box, self.tokenizer.size, how)[None]
        mask = torch.from_numpy(self.sampler(generator))[None]
        return MaskedBatch(images, token_images, mask)

    def _box(self, height: int, width: int) -> Box:
        """The centred crop, of the model's shape and the evaluation's share of the image."""
        model_height, model_width = self.config.model.size
        scale = self.config.evaluation_crop * min(height / model_height, width / model_width)
        tall = max(1, round(model_height * scale))
        wide = max(1, round(model_width * scale))
        return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def central_masks(config: PretrainRunConfig, tokenizer: VisualTokenizer | None) -> CentralMasks:
    """The view of a report for this run."""
    sampler = build_sampler(config.masking, config.model.grid)
    return CentralMasks(config=config, tokenizer=tokenizer, sampler=sampler)


def _token_row(one: Reconstruction, tokenizer: VisualTokenizer) -> list[Markup]:
    grid, image = tokenizer.grid, to_rgb(one.image)
    filled = one.filled
    right = one.prediction == one.target
    decoded = [
        show(to_rgb(decode_tokens(tokens, tokenizer)), f"{what} tokens decoded", label)
        for tokens, what, label in (
            (one.target, "Target", "target, decoded"),
            (filled, "Predicted", "prediction, decoded"),
        )
        if tokenizer.can_decode
    ]
    return [
        show(image, "The image", "image"),
        show(hide(image, one.hidden, grid), "What the model sees", "model's input"),
        *decoded,
        show(judge(image, one.hidden, right, grid), f"Right and wrong; {LEGEND}", "right or wrong"),
        show(token_map(filled, grid, tokenizer.codes), "Predicted tokens as colours", "tokens"),
    ]


def _pixel_row(one: Reconstruction, model: MaskedImageModel) -> list[Markup]:
    grid, image = model.backbone.config.grid, to_rgb(one.image)
    filled = one.filled
    return [
        show(image, "The image", "image"),
        show(hide(image, one.hidden, grid), "What the model sees", "model's input"),
        show(to_rgb(unpatchify(filled, model.backbone)), "Predicted pixels", "prediction"),
    ]


def _rows(guesses: list[Reconstruction], model: MaskedImageModel, tokenizer: VisualTokenizer | None
) -> list[Markup]:  # fmt: skip
    rows = []
    for name, index in best_typical_worst([one.score for one in guesses], EACH):
        one = guesses[index]
        if tokenizer is None:
            cells, score = _pixel_row(one, model), f"squared error {number(-one.score)}"
        else:
            cells = _token_row(one, tokenizer)
            score = f"{percent(one.score)} of {int(one.hidden.sum())} tokens right"
        head = [element("b", f"{name} " if name else ""), f"{score} · ", element("code", one.key)]
        rows.append(join([element("p", head, {"class": "row-title"}), block("strip", cells)]))
    return rows


def _summary(guesses: list[Reconstruction], config: PretrainRunConfig, codes: int) -> str:
    """The mean over the images beside what knowing nothing would give."""
    mean = sum(one.score for one in guesses) / len(guesses)
    targets = torch.cat([one.target[one.hidden] for one in guesses])
    if config.objective.target == "pixels":
        variance = float(targets.var(dim=0, correction=0).mean())
        return (
            f"Over {len(guesses)} images the squared error at the hidden places is "
            f"{number(-mean)} (normalised pixels); the mean patch would have {number(variance)}."
        )
    usual = float(targets.bincount(minlength=codes).max()) / len(targets)
    return (
        f"Over {len(guesses)} images {percent(mean)} of the asked tokens are right. By chance: "
        f"{percent(1 / codes)}; always guessing the most frequent token: {percent(usual)}."
    )


def _predictions(
    guesses: list[Reconstruction],
    config: PretrainRunConfig,
    model: MaskedImageModel,
    tokenizer: VisualTokenizer | None,
) -> Section:
    if tokenizer is None:
        advice = (
            "Visible places show the image, hidden ones the predicted pixels, which are blurred "
        )
        advice += "by nature. Healthy: shapes and colours go on across the border."
        codes = 0
    else:
        decoded = (
            "Decoded images show tokens, not pixels: even the target is as coarse as the "
            "tokenizer. In the prediction visible places keep their tokens. Healthy: it looks like "
            "the target. "
        )
        advice = (
            f"{decoded if tokenizer.can_decode else ''}Far inside a large hidden block nobody can "
            f"be right, near its border the model should be. Right or wrong: {LEGEND}."
        )
        codes = tokenizer.codes
    body = [element("p", advice, {"class": "explain"}), *_rows(guesses, model, tokenizer)]
    lead = _summary(guesses, config, codes)
    return Section("predictions", "Hidden patches, predicted", lead, join(body))


def predicts(config: PretrainRunConfig) -> bool:
    """Whether the artifact of such a run predicts hidden patches: visible-only prediction leaves a
    backbone alone."""
    return not isinstance(config.objective, VisibleConfig)


def _images(config: PretrainRunConfig) -> ImageSource:
    return open_source(config.data, reading_for(config.data, config.reading, config.labelled))


def _attention_alone(run: Path, config: PretrainRunConfig) -> Section:
    published = trained(run, PretrainedBackbone)
    source = evenly(_images(config), WITH_ATTENTION)
    view = central_masks(config, None)
    batch = next(
        iter(batches(MaskedBatch, source, view, config.model.channels, config.loader.value_range))
    )
    return attention_section(published.model.backbone, batch.images.to(published.device))


class Guesses(NamedTuple):
    """What a run's model makes of some images of its data."""

    model: MaskedImageModel
    tokenizer: VisualTokenizer | None
    images: list[Reconstruction]


def make_guesses(run: Path, config: PretrainRunConfig) -> Guesses:
    """Let the run's artifact predict hidden patches.

    Errors: BeitError if the artifact, its tokenizer or the images are not there, or if it holds
    nothing that predicts (see `predicts`).
    """
    if not predicts(config):
        raise ConfigError(
            f"the artifact of {run} is a backbone alone: what predicted hidden patches is not kept",
            remedy="look at its features: beit show neighbours, beit probe",
        )
    published = trained(run, MaskedImageModel)
    model, device = published.model, published.device
    tokenizer = None
    if config.objective.target == "tokens":
        tokenizer = open_tokenizer(config.tokenizer, may_import=False)
        tokenizer.to(device)
    source = _images(config)
    positions = config.model.patches + 1
    source = evenly(source, affordable(model, positions, device, MOST_IMAGES))
    view = central_masks(config, tokenizer)
    guesses: list[Reconstruction] = []
    for batch in batches(
        MaskedBatch, source, view, config.model.channels, config.loader.value_range
    ):
        moved = batch._replace(
            images=batch.images.to(device),
            token_images=batch.token_images.to(device),
            mask=batch.mask.to(device),
        )
        guesses += reconstruct(model, tokenizer, moved)
    return Guesses(model, tokenizer, guesses)


def pretraining_sections(run: Path, config: PretrainRunConfig) -> list[Section]:
    """Predictions and attention on a few images of the run's data; of a backbone alone attention.

    Errors: BeitError if the artifact, its tokenizer or the images are not there.
    """
    if not predicts(config):
        return [_attention_alone(run, config)]
    model, tokenizer, guesses = make_guesses(run, config)
    typical = best_typical_worst([one.score for one in guesses], EACH)[:WITH_ATTENTION]
    images = torch.stack([guesses[index].image for _, index in typical])
    return [
        _predictions(guesses, config, model, tokenizer),
        attention_section(model.backbone, images.to(model.backbone.cls_token.device)),
    ]
