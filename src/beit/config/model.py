"""The backbone: its sizes and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from beit.config.validation import (
    Config,
    Depth,
    FractionBelowOne,
    PositiveFloat,
    Range,
    Side,
    Sides,
    Width,
    check_multiple,
    require,
)
from beit.errors import ConfigError, nearest

Position = Literal["none", "shared", "per-block"]
Initialisation = Literal["pretrain", "finetune", "xavier"]

MAX_PATCHES = 65_536  # 256 x 256: their attention scores take 16 GB per head and image
MAX_INDEX = 2**30  # 8 GB of int64
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Mean = Annotated[float, Range(-1e6, 1e6)]
Deviation = Annotated[float, Range(1e-6, 1e6)]
"""Outside of these ranges, float32 cannot tell black from white, or overflows."""


class Size(NamedTuple):
    """One row of the size table."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int


SIZES: dict[str, Size] = {
    "tiny": Size(192, 12, 3, 768, 16),  # DeiT, table 1
    "small": Size(384, 12, 6, 1536, 16),  # DeiT, table 1
    "base": Size(768, 12, 12, 3072, 16),  # BEiT, section 2.5
    "large": Size(1024, 24, 16, 4096, 16),  # BEiT, section 3.1
    "huge": Size(1280, 32, 16, 5120, 14),  # ViT, table 1
    "giant": Size(1408, 40, 16, 6144, 14),  # BEiT-3, table 2
}


def published_crop(side: int) -> float:
    """The fraction of the side that unilm's centre crop keeps for evaluation (`build_transform`):
    224/256 below 384 pixels, all of it from there on."""
    return 0.875 if side < 384 else 1.0


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig(Config):
    """A Vision Transformer as BEiT uses it, in every role."""

    size: Sides = (224, 224)
    """Height and width of images in pixels, for which the position tables are made."""
    patch: Side = 16
    """Side of a patch in pixels."""
    channels: Width = 3
    """Channels of an image."""
    width: Width = 768
    """Length of a patch vector."""
    depth: Depth = 12
    """Number of blocks."""
    heads: Width = 12
    """Attention heads."""
    hidden: Width = 3072
    """Width of the hidden layer of each MLP."""
    absolute_position: bool = False
    """Add a learned position embedding (the plain ViT of the paper's main tables)."""
    relative_position: Position = "shared"
    """Relative position bias: `none`, one `shared` table for all blocks (pre-training), or one
    `per-block`."""
    layer_scale: PositiveFloat | None = 0.1
    """Initial value of layer scale, the per-channel gains of residual branches (1e-5 for large);
    None leaves it out."""
    mask_token: bool = True
    """Have the learned vector that stands for a hidden patch; off once pre-training is over."""
    drop_path: FractionBelowOne = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    initialisation: Initialisation = "pretrain"
    """How weights are drawn: `pretrain` and `finetune` as published, from normal(0, 0.02), cut at
    one sigma or not; `xavier` as in ViT and MAE, by the width and with positions that start as
    sines: small backbones learn much sooner."""
    mean: tuple[Mean, ...] = HALF
    """Mean of each channel, for pixels in [0, 1]."""
    std: tuple[Deviation, ...] = HALF
    """Standard deviation of each channel, for pixels in [0, 1]."""
    norm_epsilon: Annotated[float, Range(0, 1, above=True, below=True)] = 1e-6
    """Epsilon of every layer norm: 1e-6 in all of BEiT, 1e-12 in transformers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiple("size", self.size, self.patch)
        require(
            self.patches <= MAX_PATCHES,
            f"size {self.size} has {self.patches:,} patches of {self.patch} x {self.patch} pixels",
            f"use at most {MAX_PATCHES:,}: attention relates each patch to every other",
        )
        tables = {"none": 0, "shared": 1, "per-block": self.depth}[self.relative_position]
        entries = tables * (1 + self.patches) ** 2
        require(
            entries <= MAX_INDEX,
            f"relative positions of size {self.size} take an index of {entries:,} entries",
            f"use images of fewer patches, or absolute positions: at most {MAX_INDEX:,}",
        )
        require(
            self.width % self.heads == 0,
            f"width {self.width} cannot be divided among {self.heads} heads",
            f"use a width that is a multiple of {self.heads}",
        )
        for name, values in (("mean", self.mean), ("std", self.std)):
            require(
                len(values) == self.channels,
                f"{name} has {len(values)} values for {self.channels} channels",
                f"give one value per channel, e.g. {name}={(0.5,) * self.channels}",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per side, (h, w)."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def patches(self) -> int:
        """Number of patches N = h * w."""
        return self.grid[0] * self.grid[1]

    def block(self, index: int | None) -> int:
        """The index of a block; None is the last one. Raises ConfigError if there is no such
        block."""
        if index is None:
            return self.depth - 1
        if not 0 <= index < self.depth:
            raise ConfigError(
                f"there is no block {index}", remedy=f"use a block from 0 to {self.depth - 1}"
            )
        return index


def sized(
    name: str, *, size: int | tuple[int, int] = 224, patch: int | None = None
) -> VisionTransformerConfig:
    """The backbone of a named size, with layer scale 0.1 up to 12 blocks and 1e-5 beyond.

    Args:
        name: A key of `SIZES`, such as base.
        size: Side of the images in pixels, or height and width.
        patch: Side of a patch in pixels; None: that of the named size.

    Raises:
        ConfigError: There is no such size, or the patch does not divide the images.
    """
    if name not in SIZES:
        raise ConfigError(f"there is no size '{name}'", remedy=nearest(name, SIZES))
    row = SIZES[name]
    height, width = (size, size) if isinstance(size, int) else size
    return VisionTransformerConfig(
        size=(height, width),
        patch=patch or row.patch,
        width=row.width,
        depth=row.depth,
        heads=row.heads,
        hidden=row.hidden,
        layer_scale=0.1 if row.depth <= 12 else 1e-5,
    )
