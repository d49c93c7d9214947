"""Visual tokenizers: their vocabularies, strides and pictures."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from beit.config.check import check_multiple, check_positive, check_that

if TYPE_CHECKING:
    from beit.tokenizers.base import VisualTokenizer
    from beit.tokenizers.dalle import DalleTokenizer
    from beit.tokenizers.dvae import DiscreteVAE

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "hidden", "decoder_input", "blocks_per_group")

    @property
    def downsampling(self) -> int:
        return 8  # three of the four groups halve the resolution

    def build(self) -> DalleTokenizer:
        from beit.tokenizers.dalle import DalleTokenizer

        return DalleTokenizer(self)
