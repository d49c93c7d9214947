"""What pre-training predicts of hidden patches, and what the backbone sees meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beit.config.masking import MaskingConfig, PublishedBlockMasking, RatioMasking
from beit.config.model import VisionTransformerConfig
from beit.config.validation import Config, Depth, Width, require

Target = Literal["tokens", "pixels"]
Predict = Literal["masked", "all"]


@dataclass(frozen=True, kw_only=True)
class PretrainObjectiveConfig(Config):
    """An objective of pre-training."""

    target: Target = "tokens"
    """Visual tokens, or the normalised pixels of the patch (ablation of table 4)."""

    @property
    def shows_hidden(self) -> bool:
        """Whether the backbone is given a mask token in the place of each hidden patch."""
        return True

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless it can be trained with this backbone and these masks."""
        require(
            not (isinstance(masking, RatioMasking) and masking.mask_ratio == 0),
            "mask_ratio is 0, and only masked positions are to be predicted",
            "hide some patches, or use --predict all",
        )


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(PretrainObjectiveConfig):
    """Masked image modeling, the objective of BEiT: predict what is hidden (section 2.4)."""

    predict: Predict = "masked"
    """Which positions the loss reads: the masked ones, or all (ablation of table 4)."""

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless it can be trained with this backbone and these masks."""
        if self.predict == "masked":
            super().check_fits(model, masking)


@dataclass(frozen=True, kw_only=True)
class VisibleConfig(PretrainObjectiveConfig):
    """Visible-only prediction, which is not BEiT: the backbone is given the visible patches alone,
    and a light decoder predicts the hidden ones (as in MAE, arXiv:2111.06377, section 3)."""

    decoder_width: Width = 256
    """Channels of the decoder."""
    decoder_depth: Depth = 2
    """Blocks of the decoder."""
    decoder_heads: Width = 8
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.decoder_width % self.decoder_heads == 0,
            f"decoder_width {self.decoder_width} cannot be divided among {self.decoder_heads} "
            "decoder_heads",
            f"use a width that is a multiple of {self.decoder_heads}",
        )

    @property
    def shows_hidden(self) -> bool:
        """No: the backbone does not know of them."""
        return False

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless it can be trained with this backbone and these masks."""
        super().check_fits(model, masking)
        require(
            model.absolute_position and model.relative_position == "none",
            "only visible patches enter the backbone, and its relative position bias is one table "
            "of all pairs of patches for all images",
            "use --absolute-position --relative-position none",
        )
        require(
            not model.mask_token,
            "only visible patches enter the backbone, and it has a mask token",
            "use --no-mask-token",
        )
        require(
            not isinstance(masking, PublishedBlockMasking),
            "PublishedBlockMasking hides at most a number of patches, and a batch of visible ones "
            "needs the same number of each image",
            "use a recipe with BlockMasking or UniformMasking, which hide exactly that number",
        )
