"""Which patches are hidden, what pre-training predicts of them, and what the backbone sees."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from beit.config.model import VisionTransformerConfig
from beit.config.validation import (
    Config,
    Depth,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Width,
    require,
)
from beit.errors import ConfigError
from beit.terminal import shown

Target = Literal["tokens", "pixels"]
Predict = Literal["masked", "all"]
PixelLoss = Literal["squared", "absolute"]


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Config, abc.ABC):
    """A masking scheme; `beit.masking.build_sampler` makes its sampler."""

    @abc.abstractmethod
    def count(self, grid: tuple[int, int]) -> int:
        """Number of hidden patches M on this grid; for the published sampler, the maximum."""


@dataclass(frozen=True, kw_only=True)
class RatioMasking(MaskingConfig):
    """A scheme that hides a given fraction of the patches."""

    mask_ratio: Fraction = 75 / 196
    """Fraction of the patches to hide; the published value is 75 of 196."""

    def count(self, grid: tuple[int, int]) -> int:
        """At least one, unless the ratio is 0. Raises ConfigError if the ratio rounds to none."""
        patches = grid[0] * grid[1]
        if self.mask_ratio == 0:
            return 0
        count = round(self.mask_ratio * patches)
        if not 1 <= count <= patches:
            raise ConfigError(
                f"mask_ratio {self.mask_ratio:g} hides {count} of {patches} patches",
                remedy=f"use a ratio of at least {1 / patches:.3f}",
            )
        return count


@dataclass(frozen=True, kw_only=True)
class BlockMasking(RatioMasking):
    """Blocks until the count is reached, topped up to it exactly (Algorithm 1; log-uniform)."""

    smallest_block: PositiveInt = 16
    """Fewest patches in a block, on a 14 x 14 grid; scaled with the area of the grid."""
    largest_aspect: Annotated[float, Range(1, math.inf)] = 1 / 0.3
    """Largest ratio of a block's longer side to its shorter one."""

    def block_minimum(self, grid: tuple[int, int]) -> int:
        """Fewest patches in a block on this grid."""
        return max(1, math.ceil(self.smallest_block * grid[0] * grid[1] / 196))


@dataclass(frozen=True, kw_only=True)
class PublishedBlockMasking(BlockMasking):
    """The sampler of the published code: gives up after ten misses, hides *at most* the count."""


@dataclass(frozen=True, kw_only=True)
class UniformMasking(RatioMasking):
    """Each patch equally likely (the ablation of table 4)."""


@dataclass(frozen=True, kw_only=True)
class FixedMasking(MaskingConfig):
    """The same patches in every image, by row-major index; for tests and images."""

    hidden_patches: tuple[NonNegativeInt, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(set(self.hidden_patches)) == len(self.hidden_patches),
            f"hidden_patches {shown(self.hidden_patches)} names a patch twice",
            "name each patch once",
        )

    def count(self, grid: tuple[int, int]) -> int:
        return len(self.hidden_patches)


@dataclass(frozen=True, kw_only=True)
class PretrainObjectiveConfig(Config):
    """An objective of pre-training."""

    target: Target = "tokens"
    """What is predicted: visual `tokens`, or the normalised `pixels` of a patch (ablation of table
    4)."""

    @property
    def shows_hidden(self) -> bool:
        """Whether the backbone sees a mask token in the place of each hidden patch."""
        return True

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless this can be trained with the backbone and the masks."""
        require(
            not (isinstance(masking, RatioMasking) and masking.mask_ratio == 0),
            "mask_ratio is 0, and only masked positions are to be predicted",
            "hide some patches, or use --predict all",
        )


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(PretrainObjectiveConfig):
    """Masked image modeling, the objective of BEiT: predict what is hidden (section 2.4)."""

    predict: Predict = "masked"
    """Positions that the loss counts: the `masked` ones, or `all` (ablation of table 4)."""
    pixel_loss: PixelLoss = "squared"
    """Loss of pixels: the squared error, or the absolute one, as in SimMIM (arXiv:2111.09886)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.target == "pixels" or self.pixel_loss == "squared",
            f"pixel_loss is {self.pixel_loss}, and tokens are to be predicted",
            "use --target pixels, or leave --pixel-loss out",
        )

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless this can be trained with the backbone and the masks."""
        if self.predict == "masked":
            super().check_fits(model, masking)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(MaskedConfig):
    """Masked image modeling plus a contrastive loss on class tokens: two views of an image are to
    be closer to each other than to all other images (SimCLR, arXiv:2002.05709, section 2)."""

    contrast_weight: PositiveFloat = 1.0
    """Weight of the contrastive loss, relative to the loss of the hidden patches."""
    temperature: PositiveFloat = 0.2
    """Divides the cosines of class tokens before the softmax (MoCo v3, arXiv:2104.02057)."""
    projection: Width = 128
    """Length of the projected vectors that are compared; the projection is not saved with the
    model."""
    second_crop: tuple[float, float] = (0.3, 1.0)
    """Smallest and largest fraction of the first view's area in the second view."""
    second_jitter: Fraction = 0.4
    """Strength of the second view's random brightness, contrast and saturation; hue gets a quarter
    of it."""
    kept: Fraction = 0.5
    """Fraction of the second view's patches that the backbone sees: fewer cost less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.second_crop[0] <= self.second_crop[1] <= 1,
            f"second_crop {self.second_crop} is not a range of fractions of the area",
            "use two numbers with 0 < smallest <= largest <= 1",
        )
        require(self.kept > 0, "kept is 0, and the second view is to be seen", "use up to 1")

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless this can be trained with the backbone and the masks."""
        super().check_fits(model, masking)
        require(
            self.kept == 1 or (model.absolute_position and model.relative_position == "none"),
            f"kept is {self.kept:g}, and the relative position bias is one table of all pairs of "
            "patches for all images",
            "use --absolute-position --relative-position none, or --kept 1",
        )


@dataclass(frozen=True, kw_only=True)
class VisibleConfig(PretrainObjectiveConfig):
    """Visible-only prediction, which is not BEiT: the backbone sees only the visible patches, and a
    light decoder predicts the hidden ones (as in MAE, arXiv:2111.06377, section 3)."""

    decoder_width: Width = 256
    """Channels of the decoder."""
    decoder_depth: Depth = 2
    """Blocks of the decoder."""
    decoder_heads: Width = 8
    """Attention heads of the decoder."""
    normalise_patches: bool = False
    """Scale the pixels of each patch to mean 0 and deviation 1 before they are predicted, as in
    MAE."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.target == "pixels" or not self.normalise_patches,
            "normalise_patches is on, and tokens are to be predicted",
            "use --target pixels, or leave --normalise-patches out",
        )
        require(
            self.decoder_width % self.decoder_heads == 0,
            f"decoder_width {self.decoder_width} cannot be divided among {self.decoder_heads} "
            "decoder_heads",
            f"use a width that is a multiple of {self.decoder_heads}",
        )

    @property
    def shows_hidden(self) -> bool:
        """No: only visible patches enter the backbone."""
        return False

    def check_fits(self, model: VisionTransformerConfig, masking: MaskingConfig) -> None:
        """Raise ConfigError unless this can be trained with the backbone and the masks."""
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
