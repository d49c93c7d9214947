"""The DALL-E discrete VAE, frozen: the tokenizer the published BEiT v1 models learned from.

Architecture from "Zero-Shot Text-to-Image Generation" (arXiv:2102.12092), appendix A.2: four groups
of residual bottleneck blocks without normalisation, pooled between groups, stride 8. Modules are
named as in the published files (`blocks.group_1.block_1.res_path.conv_1`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from beit.config.tokenizer import DalleConfig
from beit.errors import ConfigError
from beit.tokenizers.base import VisualTokenizer, best_codes

GROUPS = 4
EPSILON = 0.1
"""Margin of the pixel map of the logit-Laplace likelihood (appendix A.3)."""


def to_logit_laplace(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Squeeze [0, 1] into [0.1, 0.9], where the likelihood is finite."""
    return (1 - 2 * EPSILON) * pixels + EPSILON


def from_logit_laplace(location: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The image in [0, 1] whose logit the decoder gave."""
    return ((location.sigmoid() - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class BottleneckBlock(nn.Module):
    """Identity path plus a gain times four convolutions at a quarter of the width."""

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        hidden = outputs // 4
        self.id_path = _convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        widths = [inputs, hidden, hidden, hidden, outputs]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, kernel in enumerate(kernels, start=1):
            # The first reads what the identity path reads too; the others own their input.
            layers[f"relu_{number}"] = nn.ReLU(inplace=number > 1)
            layers[f"conv_{number}"] = _convolution(widths[number - 1], widths[number], kernel)
        self.res_path = nn.Sequential(layers)

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch out h w"]:
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.gain)


def _group(
    inputs: int, outputs: int, blocks: int, kernels: tuple[int, ...], after: nn.Module | None
) -> nn.Sequential:
    """One group of equal width, with the pooling or upsampling that follows it."""
    gain = 1 / (GROUPS * blocks) ** 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, blocks + 1):
        width = inputs if number == 1 else outputs
        layers[f"block_{number}"] = BottleneckBlock(width, outputs, kernels, gain)
    if after is not None:
        layers["pool" if isinstance(after, nn.MaxPool2d) else "upsample"] = after
    return nn.Sequential(layers)


def _output(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=_convolution(width, outputs, 1)))


class DalleEncoder(nn.Module):
    """Images mapped to [0.1, 0.9] in, scores of the codes at an eighth of the resolution out."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["input"] = _convolution(config.channels, config.hidden, 7)
        inputs = config.hidden
        for number in range(1, GROUPS + 1):
            outputs = config.hidden << (number - 1)
            pool = nn.MaxPool2d(2) if number < GROUPS else None
            layers[f"group_{number}"] = _group(
                inputs, outputs, config.blocks_per_group, (3, 3, 3, 1), pool
            )
            inputs = outputs
        layers["output"] = _output(inputs, config.codes)
        self.blocks = nn.Sequential(layers)

    @property
    def trunk(self) -> nn.Sequential:
        """All but the output, which scores the codes place by place."""
        return self.blocks[:-1]

    @property
    def score(self) -> nn.Conv2d:
        """The last convolution, 1 x 1."""
        score = self.blocks.get_submodule("output.conv")
        assert isinstance(score, nn.Conv2d)
        return score

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch codes h w"]:
        scores: Tensor = self.blocks(x)
        return scores


class DalleDecoder(nn.Module):
    """One-hot codes in; location and log scale of the logit-Laplace out. For images only."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["input"] = _convolution(config.codes, config.decoder_input, 1)
        inputs = config.decoder_input
        for number in range(1, GROUPS + 1):
            outputs = config.hidden << (GROUPS - number)
            upsample = nn.Upsample(scale_factor=2, mode="nearest") if number < GROUPS else None
            layers[f"group_{number}"] = _group(
                inputs, outputs, config.blocks_per_group, (1, 3, 3, 3), upsample
            )
            inputs = outputs
        layers["output"] = _output(inputs, 2 * config.channels)
        self.blocks = nn.Sequential(layers)

    def forward(
        self, x: Float[Tensor, "batch codes h w"]
    ) -> Float[Tensor, "batch outputs height width"]:
        painted: Tensor = self.blocks(x)
        return painted


class DalleTokenizer(VisualTokenizer):
    """DALL-E's encoder and decoder as a `VisualTokenizer`; frozen from the start."""

    config: DalleConfig

    def __init__(self, config: DalleConfig) -> None:
        super().__init__(config)
        self.encoder = DalleEncoder(config)
        self.decoder = DalleDecoder(config) if config.decoder else None
        self.can_decode = config.decoder
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=fan_in**-0.5)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.freeze()

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        pixels = to_logit_laplace(pixels).to(self.precision, memory_format=torch.channels_last)
        vectors: Tensor = self.encoder.trunk(pixels)
        return vectors.permute(0, 2, 3, 1).flatten(1, 2)

    def _best(self, rows: Float[Tensor, "rows features"]) -> Int64[Tensor, " rows"]:
        score = self.encoder.score
        return best_codes(F.relu(rows), score.weight.flatten(1), score.bias)

    def _scores(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows codes"]:
        score = self.encoder.score
        return F.linear(F.relu(rows), score.weight.flatten(1), score.bias)

    def _trunk(self) -> Iterable[nn.Module]:
        return (self.encoder.trunk,)

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        if self.decoder is None:
            raise ConfigError(
                "this DALL-E tokenizer was loaded without its decoder",
                remedy="put decoder.pkl beside encoder.pkl and load it again",
            )
        one_hot = F.one_hot(tokens, self.codes).permute(0, 3, 1, 2).float()
        return from_logit_laplace(self.decoder(one_hot)[:, : self.config.channels])
