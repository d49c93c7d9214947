"""The contract of a visual tokenizer: images in, a grid of discrete ids out."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from beit.config.tokenizer import TokenizerConfig
from beit.config.training import Precision
from beit.errors import ConfigError
from beit.hardware import multiplies_bfloat16
from beit.masked_patches import Mask, read_mask
from beit.models.heads import weights_digest

Pixels = UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"]
FEW = 8
"""Codes of a vector that are scored twice. The best code in float32 is lost only if half precision
puts eight others before it."""
ROWS = 2048
"""Vectors scored at once: the weights of their few codes are gathered (128 MiB if 2048 wide)."""


class VisualTokenizer(nn.Module, abc.ABC):
    """Turns an image into h x w codes out of K (section 2.1).

    Pixels are uint8, or floats in [0, 1]; any further mapping is up to the tokenizer. `encode` is
    deterministic, without gradients, and in float32 even under autocast, unless another precision
    was requested. Once frozen, a tokenizer stays in evaluation mode whatever its parent does.
    """

    can_decode = True
    """Whether `decode` returns images; a tokenizer may rebuild something else."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.frozen = False
        self.precision = torch.float32  # of the vectors that are scored; the scores are float32

    @property
    def codes(self) -> int:
        """Vocabulary size K."""
        return self.config.codes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images it was made for."""
        return self.config.size

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side for images of `size`."""
        return self.config.grid

    @torch.no_grad()
    def encode(self, images: Pixels, mask: Mask | None = None) -> Int64[Tensor, "*places"]:
        """Token ids in row-major order: [B, N], or with a mask only those where it is true, [M].

        The K codes are scored at the requested places, and at no others.
        """
        with torch.autocast(images.device.type, enabled=False):
            vectors = self._vectors(self.pixels(images))
            masked = read_mask(mask)
            rows = vectors.flatten(0, 1) if masked is None else masked.select(vectors)
            tokens = self._best(rows)
        return tokens if mask is not None else tokens.reshape(vectors.shape[:2])

    @torch.no_grad()
    def decode(
        self, tokens: Int64[Tensor, "batch patches"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images in [0, 1] from token ids; `grid` is (h, w) if it is not the usual one.

        Raises:
            ConfigError: The tokens do not fill the grid, or the tokenizer cannot decode.
        """
        height, width = grid or self.grid
        if tokens.shape[1] != height * width:
            raise ConfigError(
                f"{tokens.shape[1]} tokens do not fill a grid of {height} x {width}",
                remedy="give the grid the tokens were made with",
            )
        with torch.autocast(tokens.device.type, enabled=False):
            return self._decode(tokens.reshape(-1, height, width))

    @torch.no_grad()
    def draw(
        self, tokens: Int64[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images in [0, 1] that show people what tokens stand for: the decoded ones, unless they
        show nothing."""
        return self.decode(tokens)

    @abc.abstractmethod
    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        """The vectors that codes are scored from, for images in [0, 1]; mostly computed in
        `precision`."""

    def _best(self, rows: Float[Tensor, "rows features"]) -> Int64[Tensor, " rows"]:
        """The code with the highest float32 score for each vector."""
        return self._scores(rows.float()).argmax(dim=1)

    @abc.abstractmethod
    def _scores(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows codes"]:
        """Scores of all codes for each vector; the best code is the token."""

    @abc.abstractmethod
    def _trunk(self) -> Iterable[nn.Module]:
        """The modules that compute the vectors, and nothing else."""

    @abc.abstractmethod
    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images in [0, 1]."""

    def pixels(self, images: Pixels) -> Float[Tensor, "batch channels height width"]:
        """The images as floats in [0, 1].

        Raises:
            ConfigError: They have the wrong channels, or sides that the stride does not divide.
        """
        _, channels, height, width = images.shape
        stride = self.config.downsampling
        if channels != self.config.channels:
            raise ConfigError(
                f"images have {channels} channels, the tokenizer reads {self.config.channels}",
                remedy="train a tokenizer on images of the same kind",
            )
        if height % stride or width % stride:
            raise ConfigError(
                f"images of {height} x {width} pixels are not a multiple of the stride {stride}",
                remedy=f"resize them to {self.size[0]} x {self.size[1]}",
            )
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def freeze(self) -> VisualTokenizer:
        """Switch to evaluation mode without gradients, for good; weights become channels-last, as
        convolutions read them."""
        self.requires_grad_(False)
        self.eval()
        self.to(memory_format=torch.channels_last)
        self.frozen = True
        return self

    def in_precision(self, precision: torch.dtype) -> VisualTokenizer:
        """A frozen copy that computes its vectors in another type: faster, but some ids differ."""
        other = copy.deepcopy(self).freeze()
        other.precision = precision
        for module in other._trunk():
            module.to(precision)
        return other

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the modules that compute the vectors in place, like `torch.nn.Module.compile`."""
        for module in self._trunk():
            module.compile(*args, **kwargs)

    def train(self, mode: bool = True) -> VisualTokenizer:
        return super().train(mode and not self.frozen)

    def digest(self) -> str:
        """SHA-256 of the weights: the identity of this tokenizer."""
        return weights_digest(self)


def count_codes(tokens: Int64[Tensor, " tokens"], codes: int) -> Int64[Tensor, " codes"]:
    """How often each code occurs: `torch.bincount` without waiting for a GPU."""
    return tokens.new_zeros(codes).scatter_add_(0, tokens, torch.ones_like(tokens))


# -- the type it encodes in, and the best code in float32 ------------------------------------------


def encoding_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the vectors that are scored; the scores themselves are always float32.

    `auto` is fp16 on a GPU, as published: as fast as bf16, with an eighth of its rounding. On a CPU
    it is bf16 where that is fast, else fp32.

    Raises:
        ConfigError: fp16 was requested on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "a tokenizer encodes in fp16 only on a GPU",
            remedy="use tokenizer_precision bf16, fp32 or auto",
        )
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def best_codes(
    rows: Float[Tensor, "rows features"],
    weight: Float[Tensor, "codes features"],
    bias: Float[Tensor, " codes"] | None,
) -> Int64[Tensor, " rows"]:
    """argmax over the codes of `rows @ weight.T + bias`, with float32 weights.

    Rows in float32 are scored as they are. Rows in half precision are scored in their own type,
    which takes half of the time or less, and the few best codes once more in float32: these decide.

    Args:
        rows: Vectors in float32 or half precision.
        weight: One row per code, in float32.
        bias: In float32; None for none.
    """
    if rows.dtype == torch.float32:
        return F.linear(rows, weight, bias).argmax(dim=1)
    half = weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    return torch.cat([_twice(part, weight, bias, half) for part in rows.split(ROWS)])


def _twice(
    rows: Tensor, weight: Tensor, bias: Tensor | None, half: tuple[Tensor, Tensor | None]
) -> Tensor:
    near = F.linear(rows, *half).topk(min(FEW, len(weight)), dim=1).indices
    few = near.sort(dim=1).values  # so that of equal scores the first wins, as it does in float32
    scores = torch.bmm(weight[few], rows.float()[:, :, None])[:, :, 0]
    if bias is not None:
        scores += bias[few]
    return few.gather(1, scores.argmax(dim=1, keepdim=True))[:, 0]
