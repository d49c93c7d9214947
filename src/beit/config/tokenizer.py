"""Visual tokenizers: their vocabularies, their strides and the images they see."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from beit.config.model import HALF, MAX_PATCHES, VisionTransformerConfig
from beit.config.validation import (
    Config,
    Depth,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    Range,
    Side,
    Sides,
    Width,
    check_multiple,
    require,
)
from beit.terminal import shown

MAX_CODES = 8192
MAX_MATRIX = 2**28  # 1 GB of float32
ORIENTATIONS = 9  # of gradients without a sign, as in HOG (Dalal and Triggs 2005, section 6.4)
Likelihood = Literal["l2", "logit-laplace"]
Interpolation = Literal["bicubic", "lanczos", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config, abc.ABC):
    """What every tokenizer has: the size it looks at, its stride and its vocabulary."""

    size: Sides = (112, 112)
    """Height and width in pixels of the image that the tokenizer sees."""
    codes: Annotated[int, Range(2, MAX_CODES)] = MAX_CODES
    """Vocabulary size K."""
    channels: Width = 3
    """Channels of an image."""
    interpolation: Interpolation = "bicubic"
    """How a crop is resized to the tokenizer's size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiple("size", self.size, self.downsampling)
        require(
            self.grid[0] * self.grid[1] <= MAX_PATCHES,
            f"size {self.size} has {self.grid[0] * self.grid[1]:,} tokens",
            f"use at most {MAX_PATCHES:,} per image",
        )

    @property
    @abc.abstractmethod
    def downsampling(self) -> int:
        """Pixels per token along each side."""

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side, (h, w)."""
        return self.size[0] // self.downsampling, self.size[1] // self.downsampling


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig(TokenizerConfig):
    """A discrete variational autoencoder to train on your own images (section 2.1)."""

    stride: Annotated[int, Range(2, 65_536)] = 8
    """Pixels per token along each side: the product of the encoder's downsamplings."""
    width: Width = 256
    """Channels at the token grid; halved with each step towards the pixels, down to `narrowest`."""
    narrowest: Width = 32
    """Fewest channels, next to the pixels."""
    blocks: Depth = 1
    """Residual blocks at the token grid, in the encoder and in the decoder."""
    codebook_width: Width = 128
    """Length of a code vector."""
    likelihood: Likelihood = "l2"
    """Reconstruction loss: `l2`, the squared error, or `logit-laplace`, that of DALL-E (appendix
    A.3)."""

    @property
    def downsampling(self) -> int:
        return self.stride


@dataclass(frozen=True, kw_only=True)
class DalleConfig(TokenizerConfig):
    """The DALL-E discrete VAE that the published BEiT v1 models were pre-trained with."""

    interpolation: Interpolation = "lanczos"
    hidden: Width = 256
    """Width of the first group; doubled in each further group."""
    decoder_input: Width = 128
    """Width of the decoder's first convolution."""
    blocks_per_group: Depth = 2
    """Residual blocks in each of the four groups."""
    decoder: bool = True
    """Have the decoder, which turns tokens into images; it is published apart from the encoder."""

    @property
    def downsampling(self) -> int:
        return 8  # three of the four groups halve the resolution


@dataclass(frozen=True, kw_only=True)
class QuantisedConfig(TokenizerConfig):
    """A ViT encoder, a codebook on the sphere, and a ViT decoder (BEiT v2, section 2.2).

    The values are those of the released files; one of them has a decoder of one block.
    """

    size: Sides = (224, 224)
    patch: Side = 16
    """Pixels per token along each side."""
    width: Width = 768
    """Length of a patch vector, in encoder and decoder."""
    depth: Depth = 12
    """Blocks of the encoder."""
    decoder_depth: Depth = 3
    """Blocks of the decoder: a deeper one reconstructs better and uses fewer codes."""
    heads: Width = 12
    """Attention heads, in encoder and decoder."""
    hidden: Width = 3072
    """Width of the hidden layer of each MLP, in encoder and decoder."""
    codebook_width: Width = 32
    """Length of a code vector."""
    codebook_decay: Fraction = 0.99
    """Decay of the moving averages by which codes and their frequencies are updated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiple("width", (self.width,), self.heads)

    @property
    def downsampling(self) -> int:
        return self.patch

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """Number of values that are reconstructed from each token."""

    @property
    def encoder(self) -> VisionTransformerConfig:
        """A plain ViT, initialised as for fine-tuning; it sees [0, 1] mapped to [-1, 1]."""
        return VisionTransformerConfig(
            size=self.size,
            patch=self.patch,
            channels=self.channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            hidden=self.hidden,
            absolute_position=True,
            relative_position="none",
            layer_scale=None,
            mask_token=False,
            initialisation="finetune",
            mean=(0.5,) * self.channels,
            std=(0.5,) * self.channels,
        )

    @property
    def decoder(self) -> VisionTransformerConfig:
        """The same ViT over an image whose pixels are code vectors."""
        return replace(
            self.encoder,
            size=self.grid,
            patch=1,
            channels=self.codebook_width,
            depth=self.decoder_depth,
            mean=(0.5,) * self.codebook_width,
            std=(0.5,) * self.codebook_width,
        )


@dataclass(frozen=True, kw_only=True)
class VQKDConfig(QuantisedConfig):
    """Vector-quantised knowledge distillation, the tokenizer of BEiT v2 (its section 2.2)."""

    teacher_width: Width = 512
    """Length of the teacher's vectors: 512 for CLIP base, 768 for DINO base."""

    @property
    def outputs(self) -> int:
        return self.teacher_width


@dataclass(frozen=True, kw_only=True)
class VQConfig(QuantisedConfig):
    """The same parts without a teacher: each token reconstructs the pixels of its patch."""

    @property
    def outputs(self) -> int:
        return self.patch**2 * self.channels


@dataclass(frozen=True, kw_only=True)
class PatchCodebookConfig(TokenizerConfig):
    """k-means of patches: the codes are learned, what is compared is not. Seconds on a CPU."""

    size: Sides = (224, 224)
    patch: Annotated[int, Range(2, MAX_PATCHES)] = 16
    """Pixels per token along each side."""
    compared: Literal["pixels", "gradients"] = "gradients"
    """What of a patch is compared: its `pixels`, or its `gradients`, histograms of orientations in
    four cells, to which colour and contrast matter little."""
    codebook_decay: Fraction = 0.95
    """Decay of the moving averages by which codes and their frequencies are updated."""

    @property
    def downsampling(self) -> int:
        return self.patch

    @property
    def codebook_width(self) -> int:
        """Length of a code vector: the values that are compared, and a constant."""
        return 1 + (4 * ORIENTATIONS if self.compared == "gradients" else self.outputs)

    @property
    def outputs(self) -> int:
        """Number of values in the patch that is painted for a code."""
        return self.patch**2 * self.channels


@dataclass(frozen=True, kw_only=True)
class RandomProjectionConfig(TokenizerConfig):
    """Nothing is learned: patches through a random matrix, to the nearest of random codes.

    As BEST-RQ does with speech (arXiv:2202.01855, section 3.1).
    """

    size: Sides = (224, 224)
    patch: Side = 16
    """Pixels per token along each side."""
    codebook_width: Width = 16
    """Length of a code vector, as in BEST-RQ."""
    seed: NonNegativeInt = 0
    """Seed of the matrix and the codes."""
    mean: tuple[float, ...] = HALF
    """Mean of each channel, for pixels in [0, 1]: random codes are in even use only if the images
    are brought to zero mean."""
    std: tuple[PositiveFloat, ...] = HALF
    """Standard deviation of each channel, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = self.patch**2 * self.channels * self.codebook_width
        require(
            entries <= MAX_MATRIX,
            f"patch {self.patch} takes a random matrix of {entries:,} entries",
            f"use smaller patches or codes: at most {MAX_MATRIX:,}",
        )
        require(
            len(self.mean) == len(self.std) == self.channels,
            f"mean {shown(self.mean)} and std {shown(self.std)} do not suit "
            f"{self.channels} channels",
            "give one value per channel",
        )

    @property
    def downsampling(self) -> int:
        return self.patch
