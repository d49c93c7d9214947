"""What a pre-trained model thinks that hidden patches are, image by image."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from beit.batch import MaskedBatch
from beit.models.heads import MaskedImageModel
from beit.models.vit import VisionTransformer
from beit.objectives.targets import patchify
from beit.tokenizers.base import VisualTokenizer


class Guess(NamedTuple):
    """One image, what was asked of the model, and what it answered."""

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
    """The tokens of the image with the asked ones replaced by the model's."""
    return torch.where(asked, answer, target)


@torch.no_grad()
def guess(
    model: MaskedImageModel, tokenizer: VisualTokenizer | None, batch: MaskedBatch
) -> list[Guess]:
    """What the model answers, image by image. A mask that hides nothing asks for everything."""
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
    """The image in [0, 1] that normalised patches are of."""
    config = backbone.config
    image = F.fold(patches.T[None], config.size, kernel_size=config.patch, stride=config.patch)[0]
    return (image * backbone.std.cpu() + backbone.mean.cpu()).clamp(0, 1)


def painted(tokens: Tensor, tokenizer: VisualTokenizer) -> Tensor:
    """The image of some tokens [N]."""
    device = next(iter(tokenizer.state_dict().values()), tokens).device
    return tokenizer.decode(tokens[None].to(device))[0].cpu()
