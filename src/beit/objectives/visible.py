"""Visible-only prediction, which is not BEiT: hidden patches never enter the backbone.

As in MAE (arXiv:2111.06377, section 3) the backbone computes the visible patches alone, and a few
narrow blocks, which see where patches are hidden, predict what they hold: the targets are those of
masked image modeling. Hidden patches cost the backbone nothing, and it never meets a mask token,
just as after pre-training. The decoder is of use in pre-training only.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config.masking import VisibleConfig
from beit.config.model import VisionTransformerConfig
from beit.errors import ConfigError
from beit.masked_patches import Mask, MaskedPatches, read_mask
from beit.models.heads import PatchPredictor, PretrainedBackbone
from beit.models.layers import gather_tokens, layer_norm
from beit.models.vit import Features, Images, VisionTransformer, draw, with_class_token
from beit.objectives.masked import MaskedImageModeling


class LightDecoder(nn.Module):
    """Narrow blocks over the visible patches and a mask token in the place of each hidden one.

    Its blocks, positions and mask token are drawn like those of a backbone of its width.
    """

    def __init__(
        self, config: VisibleConfig, backbone: VisionTransformerConfig, outputs: int
    ) -> None:
        super().__init__()
        width = config.decoder_width
        narrow = VisionTransformer(
            replace(
                backbone,
                width=width,
                depth=config.decoder_depth,
                heads=config.decoder_heads,
                hidden=4 * width,
                mask_token=True,
                drop_path=0.0,
            )
        )
        assert narrow.pos_embed is not None
        assert narrow.mask_token is not None
        self.grid = backbone.grid
        self.embed = nn.Linear(backbone.width, width)
        self.mask_token, self.pos_embed = narrow.mask_token, narrow.pos_embed
        self.blocks = narrow.blocks
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, outputs)
        for linear in (self.embed, self.head):
            draw(linear.weight, cut=True)
            nn.init.zeros_(linear.bias)

    def forward(
        self, encoded: Float[Tensor, "batch seen features"], order: Int64[Tensor, "batch patches"]
    ) -> Float[Tensor, "rows outputs"]:
        """Predictions for the hidden patches, image by image in their order.

        Attention does not depend on the order of tokens, so they need not be put back into their
        places: each has its position.

        Args:
            encoded: The class token and the visible patches.
            order: Indices of all patches: those of `encoded`, then the hidden ones.
        """
        batch, seen = encoded.shape[:2]
        count = 1 + order.shape[1] - seen
        masks = self.mask_token.expand(batch, count, -1)
        positions = gather_tokens(self.pos_embed.expand(batch, -1, -1), with_class_token(order))
        x = torch.cat([self.embed(encoded), masks.to(encoded.dtype)], dim=1) + positions
        last = torch.arange(seen, seen + count, device=x.device).expand(batch, -1)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, None, self.grid, select=last if index == len(self.blocks) else None)
        predictions: Tensor = self.head(self.norm(x.flatten(0, 1)))
        return predictions


class VisibleOnlyModel(PatchPredictor):
    """A backbone that sees the visible patches only, its norm, and a light decoder."""

    def __init__(
        self, backbone: VisionTransformerConfig, outputs: int, config: VisibleConfig
    ) -> None:
        super().__init__(backbone)
        self.outputs = outputs
        self.norm = layer_norm(backbone.width)
        self.decoder = LightDecoder(config, backbone, outputs)

    def without_decay(self) -> frozenset[str]:
        """Parameters without weight decay, the decoder's positions among them, as the backbone's
        are."""
        return super().without_decay() | {"decoder.pos_embed"}

    def forward(self, images: Images, mask: Mask) -> Float[Tensor, "rows outputs"]:
        """Predictions for the masked patches [M, K] in row-major order.

        Raises:
            ConfigError: The images have different numbers of hidden patches.
        """
        masked = read_mask(mask)
        assert masked is not None
        fewest, most = masked.fewest, masked.most
        if fewest != most:
            raise ConfigError(
                f"{fewest} to {most} patches are hidden in the images of one batch, and the "
                "visible ones of all images are computed as one tensor",
                remedy="use masks of an exact number, such as BlockMasking or UniformMasking",
            )
        order = masked.mask.to(torch.uint8).argsort(dim=1, stable=True)
        features: Features = self.backbone(images, keep_indices=order[:, : order.shape[1] - most])
        encoded = torch.cat([features.cls[:, None], features.patches], dim=1)
        predictions: Tensor = self.decoder(self.norm(encoded), order)
        return predictions

    def strip_decoder(self) -> PretrainedBackbone:
        """The same weights without the decoder: all that is of use after pre-training."""
        with torch.device("meta"):
            model = PretrainedBackbone(self.backbone.config)
        model.backbone, model.norm = self.backbone, self.norm
        return model.train(self.training)


class VisibleOnlyPrediction(MaskedImageModeling):
    """Predict the visual tokens of masked patches, which the backbone never sees."""

    model: VisibleOnlyModel

    def predict(
        self, batch: MaskedBatch, masked: MaskedPatches
    ) -> tuple[Float[Tensor, "rows outputs"], ...]:
        return (self.model(batch.images, masked),)

    def pixels(self, batch: MaskedBatch) -> Float[Tensor, "batch patches values"]:
        """The pixel values; with `normalise_patches`, of zero mean and unit variance in each patch
        (MAE)."""
        patches = super().pixels(batch)
        assert isinstance(self.config, VisibleConfig)
        if not self.config.normalise_patches:
            return patches
        mean, variance = patches.mean(dim=2, keepdim=True), patches.var(dim=2, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def publish(self, model: nn.Module) -> nn.Module:
        """The backbone alone."""
        assert isinstance(model, VisibleOnlyModel)
        return model.strip_decoder()
