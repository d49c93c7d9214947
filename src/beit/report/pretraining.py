"""What a pre-training run has learned: hidden patches and what the model thinks they are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from beit.artifact.store import load_artifact, load_tokenizer
from beit.batch import MaskedBatch
from beit.config.data import ViewConfig
from beit.config.runs import PretrainRunConfig
from beit.data.sources import ImageSource, open_source
from beit.data.views import MaskedViews
from beit.models.heads import MaskedImageModel
from beit.models.vit import VisionTransformer
from beit.objectives.masked import patchify
from beit.report.attention import attention_section
from beit.report.markup import Markup, Section, block, element, join, number, percent
from beit.report.pictures import hide, judge, show, to_rgb, token_map
from beit.report.samples import affordable, batches, best_typical_worst, chosen, report_device
from beit.tokenizers.base import VisualTokenizer

MOST_PICTURES = 64
EACH = 2
WITH_ATTENTION = 2
LEGEND = "teal: the tokenizer's token, orange: another one"


class Guess(NamedTuple):
    """One picture, what was asked of the model, and what it answered."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    asked: Bool[Tensor, " patches"]
    target: Tensor
    """Tokens [N], or the pixels of the patches, normalised [N, values]."""
    answer: Tensor
    """The same of the model; only the asked places count."""
    score: float
    """Share of right tokens, or minus the squared error."""


def fill(
    target: Int64[Tensor, "*batch patches"],
    answer: Int64[Tensor, "*batch patches"],
    asked: Bool[Tensor, "*batch patches"],
) -> Int64[Tensor, "*batch patches"]:
    """The tokens of the picture with the asked ones replaced by the model's."""
    return torch.where(asked, answer, target)


def central_masks(config: PretrainRunConfig, tokenizer: VisualTokenizer | None) -> MaskedViews:
    """The views of the run without chance: the largest centred crop, no jitter, no mirroring."""
    height, width = config.model.size
    whole = ViewConfig(
        crop_scale=(1.0, 1.0), crop_ratio=(width / height,) * 2, symmetry="none", jitter=0.0
    )
    return MaskedViews(
        config=whole,
        size=config.model.size,
        token_size=None if tokenizer is None else tokenizer.size,
        token_interpolation="bicubic" if tokenizer is None else tokenizer.config.interpolation,
        sampler=config.masking.build(config.model.grid),
    )


@torch.no_grad()
def guess(
    model: MaskedImageModel, tokenizer: VisualTokenizer | None, batch: MaskedBatch
) -> list[Guess]:
    """What the model answers, picture by picture. A mask that hides nothing asks for everything."""
    asked = batch.mask | ~batch.mask.any(dim=1, keepdim=True)
    answers = model(batch.images, batch.mask, True).float().unflatten(0, batch.mask.shape)
    if tokenizer is None:
        backbone = model.backbone
        targets = patchify(backbone.normalise(batch.images), backbone.config.patch)
        worth = -F.mse_loss(answers, targets, reduction="none").mean(dim=2)
    else:
        targets = tokenizer.encode(batch.token_images)
        answers = answers.argmax(dim=2)
        worth = (answers == targets).float()
    scores = (worth * asked).sum(dim=1) / asked.sum(dim=1)
    return [
        Guess(
            key,
            batch.images[index].cpu(),
            asked[index].cpu(),
            targets[index].cpu(),
            answers[index].cpu(),
            float(scores[index]),
        )
        for index, key in enumerate(batch.keys)
    ]


def pixels_of(
    patches: Float[Tensor, "patches values"], backbone: VisionTransformer
) -> Float[Tensor, "channels height width"]:
    """The picture in [0, 1] that normalised patches are of."""
    config = backbone.config
    image = F.fold(patches.T[None], config.size, kernel_size=config.patch, stride=config.patch)[0]
    return (image * backbone.std.cpu() + backbone.mean.cpu()).clamp(0, 1)


def _painted(tokens: Tensor, tokenizer: VisualTokenizer) -> Tensor:
    device = next(tokenizer.parameters()).device
    return tokenizer.decode(tokens[None].to(device))[0].cpu()


def _token_row(one: Guess, tokenizer: VisualTokenizer) -> list[Markup]:
    grid, picture = tokenizer.grid, to_rgb(one.image)
    filled = fill(one.target, one.answer, one.asked)
    right = one.answer == one.target
    return [
        show(picture, "The picture", "picture"),
        show(hide(picture, one.asked, grid), "What the model sees", "model's input"),
        show(to_rgb(_painted(one.target, tokenizer)), "Target tokens decoded", "target, decoded"),
        show(
            to_rgb(_painted(filled, tokenizer)), "Predicted tokens decoded", "prediction, decoded"
        ),
        show(
            judge(picture, one.asked, right, grid), f"Right and wrong; {LEGEND}", "right or wrong"
        ),
        show(token_map(filled, grid, tokenizer.codes), "Predicted tokens as colours", "tokens"),
    ]


def _pixel_row(one: Guess, model: MaskedImageModel) -> list[Markup]:
    grid, picture = model.backbone.config.grid, to_rgb(one.image)
    filled = torch.where(one.asked[:, None], one.answer, one.target)
    return [
        show(picture, "The picture", "picture"),
        show(hide(picture, one.asked, grid), "What the model sees", "model's input"),
        show(to_rgb(pixels_of(filled, model.backbone)), "Predicted pixels", "prediction"),
    ]


def _rows(guesses: list[Guess], model: MaskedImageModel, tokenizer: VisualTokenizer | None
) -> list[Markup]:  # fmt: skip
    rows = []
    for name, index in best_typical_worst([one.score for one in guesses], EACH):
        one = guesses[index]
        if tokenizer is None:
            cells, score = _pixel_row(one, model), f"squared error {number(-one.score)}"
        else:
            cells = _token_row(one, tokenizer)
            score = f"{percent(one.score)} of {int(one.asked.sum())} tokens right"
        head = [element("b", f"{name} " if name else ""), f"{score} · ", element("code", one.key)]
        rows.append(join([element("p", head, {"class": "row-title"}), block("strip", cells)]))
    return rows


def _summary(guesses: list[Guess], config: PretrainRunConfig, codes: int) -> str:
    """The mean over the pictures beside what knowing nothing would give."""
    mean = sum(one.score for one in guesses) / len(guesses)
    targets = torch.cat([one.target[one.asked] for one in guesses])
    if config.objective.target == "pixels":
        variance = float(targets.var(dim=0, correction=0).mean())
        return (
            f"Over {len(guesses)} pictures the squared error at the hidden places is "
            f"{number(-mean)} (normalised pixels); the mean patch would have {number(variance)}."
        )
    usual = float(targets.bincount(minlength=codes).max()) / len(targets)
    return (
        f"Over {len(guesses)} pictures {percent(mean)} of the asked tokens are right. By chance: "
        f"{percent(1 / codes)}; always guessing the most frequent token: {percent(usual)}."
    )


def _predictions(
    guesses: list[Guess],
    config: PretrainRunConfig,
    model: MaskedImageModel,
    tokenizer: VisualTokenizer | None,
) -> Section:
    if tokenizer is None:
        advice = (
            "Visible places show the picture, hidden ones the predicted pixels, which are blurred "
        )
        advice += "by nature. Healthy: shapes and colours go on across the border."
        codes = 0
    else:
        advice = (
            "Decoded pictures show tokens, not pixels: even the target is as coarse as the "
            "tokenizer. In the prediction visible places keep their tokens. Healthy: it looks like "
            "the target; far inside a large hidden block nobody can be right, near its border the "
            f"model should be. Right or wrong: {LEGEND}."
        )
        codes = tokenizer.codes
    body = [element("p", advice, {"class": "explain"}), *_rows(guesses, model, tokenizer)]
    lead = _summary(guesses, config, codes)
    return Section("predictions", "Hidden patches, predicted", lead, join(body))


def pretraining_sections(run: Path, config: PretrainRunConfig) -> list[Section]:
    """Predictions and attention on a few pictures of the run's data.

    Errors: BeitError if the artifact, its tokenizer or the pictures are not there.
    """
    device = report_device()
    model = load_artifact(run).model.to(device)
    assert isinstance(model, MaskedImageModel)
    tokenizer = None
    if config.objective.target == "tokens":
        tokenizer = load_tokenizer(config.tokenizer)
        tokenizer.to(device)
    source: ImageSource = open_source(config.data)
    positions = config.model.patches + 1
    source = chosen(source, affordable(model, positions, device, MOST_PICTURES))
    guesses: list[Guess] = []
    view = central_masks(config, tokenizer)
    for batch in batches(MaskedBatch, source, view, config.model.channels):
        moved = batch._replace(
            images=batch.images.to(device),
            token_images=batch.token_images.to(device),
            mask=batch.mask.to(device),
        )
        guesses += guess(model, tokenizer, moved)
    typical = best_typical_worst([one.score for one in guesses], EACH)[:WITH_ATTENTION]
    images = torch.stack([guesses[index].image for _, index in typical]).to(device)
    return [
        _predictions(guesses, config, model, tokenizer),
        attention_section(model.backbone, images),
    ]
