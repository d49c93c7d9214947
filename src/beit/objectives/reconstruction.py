"""What a pre-trained model predicts for hidden patches, image by image, to be looked at."""

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


class Reconstruction(NamedTuple):
    """One image, the patches that were predicted, and how."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    hidden: Bool[Tensor, " patches"]
    target: Tensor
    """Tokens [N], or the normalised pixels of the patches [N, values]."""
    prediction: Tensor
    """The same from the model; only the hidden places count."""
    score: float
    """Fraction of right tokens, or minus the mean squared error."""

    @property
    def filled(self) -> Tensor:
        """The target with the hidden places as the model predicts them."""
        hidden = self.hidden if self.target.ndim == 1 else self.hidden[:, None]
        return torch.where(hidden, self.prediction, self.target)


@torch.no_grad()
def reconstruct(
    model: MaskedImageModel, tokenizer: VisualTokenizer | None, batch: MaskedBatch
) -> list[Reconstruction]:
    """Predict the hidden patches of each image; all of them where a mask hides nothing.

    Args:
        model: In evaluation mode.
        tokenizer: The one it was trained with; None if it predicts pixels.
        batch: On the device of the model.
    """
    hidden = batch.mask | ~batch.mask.any(dim=1, keepdim=True)
    predictions = model(batch.images, batch.mask, True).float().unflatten(0, batch.mask.shape)
    if tokenizer is None:
        backbone = model.backbone
        targets = patchify(backbone.normalise(batch.images), backbone.config.patch)
        worth = -F.mse_loss(predictions, targets, reduction="none").mean(dim=2)
    else:
        targets = tokenizer.encode(batch.token_images)
        predictions = predictions.argmax(dim=2)
        worth = (predictions == targets).float()
    scores = (worth * hidden).sum(dim=1) / hidden.sum(dim=1)
    columns = (batch.images.cpu(), hidden.cpu(), targets.cpu(), predictions.cpu(), scores.tolist())
    return [Reconstruction(*row) for row in zip(batch.keys, *columns, strict=True)]


def unpatchify(
    patches: Float[Tensor, "patches values"], backbone: VisionTransformer
) -> Float[Tensor, "channels height width"]:
    """Assemble normalised patches into an image in [0, 1]."""
    config = backbone.config
    image = F.fold(patches.T[None], config.size, kernel_size=config.patch, stride=config.patch)[0]
    return (image * backbone.std.cpu() + backbone.mean.cpu()).clamp(0, 1)


def decode_tokens(
    tokens: Int64[Tensor, " patches"], tokenizer: VisualTokenizer
) -> Float[Tensor, "channels height width"]:
    """The image, on the CPU, that a tokenizer draws for the tokens of one image."""
    device = next(iter(tokenizer.state_dict().values()), tokens).device
    return tokenizer.draw(tokens[None].to(device))[0].cpu()
