"""Visual tokenizers: their vocabularies, strides and pictures."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beit.config.check import check_multiple, check_positive, check_share, check_that
from beit.config.model import HALF, VisionTransformerConfig

if TYPE_CHECKING:
    from beit.tokenizers.base import VisualTokenizer
    from beit.tokenizers.dalle import DalleTokenizer
    from beit.tokenizers.dvae import DiscreteVAE
    from beit.tokenizers.random_projection import RandomProjection
    from beit.tokenizers.vq import VQTokenizer
    from beit.tokenizers.vqkd import VQKDTokenizer

MAX_CODES = 8192
Likelihood = Literal["l2", "logit-laplace"]
Interpolation = Literal["bicubic", "lanczos", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(abc.ABC):
    """What every tokenizer has: the size it looks at, its stride and its vocabulary."""

    size: tuple[int, int] = (112, 112)
    """Height and width in pixels of the picture the tokenizer looks at."""
    codes: int = MAX_CODES
    """Vocabulary size K."""
    channels: int = 3
    """Channels of a picture."""
    interpolation: Interpolation = "bicubic"
    """How a crop is resized to the tokenizer's size."""

    def __post_init__(self) -> None:
        check_positive(self, "codes", "channels")
        check_multiple("size", self.size, self.downsampling)
        check_that(
            2 <= self.codes <= MAX_CODES,
            f"codes is {self.codes}",
            f"use a vocabulary from 2 to {MAX_CODES} codes",
        )

    @property
    @abc.abstractmethod
    def downsampling(self) -> int:
        """Pixels per token and side."""

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side, (h, w)."""
        return self.size[0] // self.downsampling, self.size[1] // self.downsampling

    @abc.abstractmethod
    def build(self) -> VisualTokenizer: ...


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig(TokenizerConfig):
    """A discrete variational autoencoder to train on one's own pictures (section 2.1)."""

    stride: int = 8
    """Pixels per token and side: the product of the encoder's downsamplings."""
    width: int = 256
    """Channels at the token grid; halved with each step to the pixels, at least `narrowest`."""
    narrowest: int = 32
    """Fewest channels next to the pixels."""
    blocks: int = 1
    """Residual blocks at the token grid, in the encoder and in the decoder."""
    codebook_width: int = 128
    """Length of a code's vector."""
    likelihood: Likelihood = "l2"
    """Reconstruction loss: squared error, or the logit-Laplace of DALL-E (appendix A.3)."""

    def __post_init__(self) -> None:
        check_positive(self, "stride", "width", "narrowest", "blocks", "codebook_width")
        super().__post_init__()
        check_that(self.stride > 1, "stride is 1: nothing is compressed", "use a stride from 2 up")

    @property
    def downsampling(self) -> int:
        return self.stride

    def build(self) -> DiscreteVAE:
        from beit.tokenizers.dvae import DiscreteVAE

        return DiscreteVAE(self)


@dataclass(frozen=True, kw_only=True)
class DalleConfig(TokenizerConfig):
    """The DALL-E discrete VAE that the published BEiT v1 models were pre-trained with."""

    interpolation: Interpolation = "lanczos"
    hidden: int = 256
    """Width of the first group; doubled in each further group."""
    decoder_input: int = 128
    """Width of the decoder's first convolution."""
    blocks_per_group: int = 2
    """Residual blocks in each of the four groups."""
    decoder: bool = True
    """Own the decoder, which paints pictures; it is published apart from the encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "decoder_input", "blocks_per_group")

    @property
    def downsampling(self) -> int:
        return 8  # three of the four groups halve the resolution

    def build(self) -> DalleTokenizer:
        from beit.tokenizers.dalle import DalleTokenizer

        return DalleTokenizer(self)


@dataclass(frozen=True, kw_only=True)
class QuantisedConfig(TokenizerConfig):
    """A ViT encoder, a codebook on the sphere, and a ViT decoder (BEiT v2, section 2.2).

    The values are those of the released files; one of them has a decoder of one block.
    """

    size: tuple[int, int] = (224, 224)
    patch: int = 16
    """Pixels per token and side."""
    width: int = 768
    """Length of a patch vector, in encoder and decoder."""
    depth: int = 12
    """Blocks of the encoder."""
    decoder_depth: int = 3
    """Blocks of the decoder: a deeper one rebuilds better and uses fewer codes."""
    heads: int = 12
    """Attention heads, in encoder and decoder."""
    hidden: int = 3072
    """Width of the hidden layer of each MLP, in encoder and decoder."""
    codebook_width: int = 32
    """Length of a code's vector."""
    codebook_decay: float = 0.99
    """Decay of the moving averages that the codes and their shares are."""

    def __post_init__(self) -> None:
        check_positive(self, "patch", "width", "depth", "decoder_depth", "heads", "hidden")
        check_positive(self, "codebook_width")
        check_share(self, "codebook_decay")
        check_multiple("width", (self.width,), self.heads)
        super().__post_init__()

    @property
    def downsampling(self) -> int:
        return self.patch

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """Values that are rebuilt from each token."""

    @property
    def encoder(self) -> VisionTransformerConfig:
        """A plain ViT, drawn as for fine-tuning; it sees [0, 1] mapped to [-1, 1]."""
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
        """The same over a picture that has a code's vector for each pixel."""
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

    teacher_width: int = 512
    """Length of the teacher's vectors: 512 for CLIP base, 768 for DINO base."""

    def __post_init__(self) -> None:
        check_positive(self, "teacher_width")
        super().__post_init__()

    @property
    def outputs(self) -> int:
        return self.teacher_width

    def build(self) -> VQKDTokenizer:
        from beit.tokenizers.vqkd import VQKDTokenizer

        return VQKDTokenizer(self)


@dataclass(frozen=True, kw_only=True)
class VQConfig(QuantisedConfig):
    """The same parts without a teacher: each token is to rebuild the pixels of its patch."""

    @property
    def outputs(self) -> int:
        return self.patch**2 * self.channels

    def build(self) -> VQTokenizer:
        from beit.tokenizers.vq import VQTokenizer

        return VQTokenizer(self)


@dataclass(frozen=True, kw_only=True)
class RandomProjectionConfig(TokenizerConfig):
    """Nothing is learned: patches through a random matrix, to the nearest of random codes.

    As BEST-RQ does with speech (arXiv:2202.01855, section 3.1).
    """

    size: tuple[int, int] = (224, 224)
    patch: int = 16
    """Pixels per token and side."""
    codebook_width: int = 16
    """Length of a code's vector, as in BEST-RQ."""
    seed: int = 0
    """Decides matrix and codes."""
    mean: tuple[float, ...] = HALF
    """Mean of each channel, for pixels in [0, 1]: random codes are in even use only if the pictures
    are brought to zero mean."""
    std: tuple[float, ...] = HALF
    """Standard deviation of each channel, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        check_positive(self, "patch", "codebook_width")
        super().__post_init__()
        check_that(
            len(self.mean) == len(self.std) == self.channels and all(v > 0 for v in self.std),
            f"mean {self.mean} and std {self.std} do not suit {self.channels} channels",
            "give one value per channel, and positive deviations",
        )

    @property
    def downsampling(self) -> int:
        return self.patch

    def build(self) -> RandomProjection:
        from beit.tokenizers.random_projection import RandomProjection

        return RandomProjection(self)
