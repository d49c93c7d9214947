"""The Vision Transformer of BEiT, in every role: student, encoder, decoder, trunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.errors import ConfigError
from beit.models.layers import Block, TokenIndices, gather_tokens
from beit.models.position import (
    Grid,
    RelativePositionBias,
    resize_absolute_position,
    sine_positions,
)

Images = UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"]


class Features(NamedTuple):
    """What the backbone returns: the raw output of its last block, and of the requested ones.

    The backbone ends without a norm: pre-training norms each patch, classification norms the mean
    or the class token, segmentation norms nothing, so the norm belongs to the head.
    """

    cls: Float[Tensor, "batch width"]
    patches: Float[Tensor, "batch patches width"]  # all that entered, or those selected
    intermediates: tuple[Float[Tensor, "batch tokens width"], ...]


class PatchEmbedding(nn.Module):
    """Cut the image into patches, row by row, and map each to a vector."""

    def __init__(self, *, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        embedded: Tensor = self.proj(images)
        return embedded.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """The backbone (sections 2.3 and 2.5; relative bias and layer scale: appendix A).

    Images are uint8, or floats already normalised; any height and width that the patch divides.
    Parameters carry the names of the published files.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.width, config.grid
        self.patch_embed = PatchEmbedding(patch=config.patch, channels=config.channels, width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if config.mask_token else None
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + config.patches, width))
            if config.absolute_position
            else None
        )
        self.rel_pos_bias = (
            RelativePositionBias(grid=grid, heads=config.heads)
            if config.relative_position == "shared"
            else None
        )
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=config.heads,
                hidden=config.hidden,
                layer_scale=config.layer_scale,
                drop_path=config.drop_path * index / max(config.depth - 1, 1),
                relative_grid=grid if config.relative_position == "per-block" else None,
                norm_epsilon=config.norm_epsilon,
            )
            for index in range(config.depth)
        )
        shape = (config.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(config.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).reshape(shape), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Every initial value in one place (section 2.5; the released code differs by task).

        | what                             | pretrain                     | finetune | xavier     |
        | linear weights                   | normal(0, 0.02) cut at ±0.02 | not cut  | Xavier's * |
        | class and mask token             | the same                     | not cut  | not cut    |
        | absolute positions               | the same                     | not cut  | sines      |
        | patch projection                 | the same                     | PyTorch's | Xavier's  |
        | biases, relative tables          | 0                            | 0        | 0          |
        | attn.proj and mlp.fc2 of block l | divided by sqrt(2 l)         | the same | as drawn   |

        * uniform; queries, keys and values each as a layer of its own (MAE, arXiv:2111.06377, A.1).
        """
        if self.config.initialisation == "xavier":
            self._initialise_by_width()
            return
        pretraining = self.config.initialisation == "pretrain"
        for module in self.modules():
            if isinstance(module, nn.Linear):
                draw(module.weight, cut=pretraining)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.mask_token, self.pos_embed):
            if token is not None:
                draw(token, cut=pretraining)
        if pretraining:
            draw(self.patch_embed.proj.weight, cut=True)
            assert self.patch_embed.proj.bias is not None
            nn.init.zeros_(self.patch_embed.proj.bias)
        if self.cls_token.is_meta:  # else torch would load its compiler, for no values
            return
        with torch.no_grad():
            for layer, block in enumerate(self.blocks, start=1):
                assert isinstance(block, Block)
                block.attn.proj.weight.div_(math.sqrt(2 * layer))
                block.mlp.fc2.weight.div_(math.sqrt(2 * layer))

    def _initialise_by_width(self) -> None:
        """The column `xavier` of the table."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                parts = module.out_features // module.in_features if module.bias is None else 1
                for weight in module.weight.chunk(parts):  # qkv alone has no bias of its own
                    nn.init.xavier_uniform_(weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.mask_token):
            if token is not None:
                draw(token, cut=False)
        if self.pos_embed is not None:
            waves = sine_positions(self.config.grid, self.config.width)
            nn.init.zeros_(self.pos_embed)
            with torch.no_grad():
                self.pos_embed[0, 1:].copy_(waves)
        projection = self.patch_embed.proj
        nn.init.xavier_uniform_(projection.weight.flatten(1))
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)

    def normalise(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        """uint8 images to zero mean and unit variance per channel; floats are taken as such."""
        if images.dtype != torch.uint8:
            return images
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def _grid(self, images: Tensor) -> Grid:
        _, channels, height, width = images.shape
        patch = self.config.patch
        if channels != self.config.channels:
            raise ConfigError(
                f"images have {channels} channels, the backbone reads {self.config.channels}",
                remedy="give images with that many channels, or build it with `channels`",
            )
        if height % patch or width % patch:
            legal = [f"{side // patch * patch} or {(side // patch + 1) * patch}" for side in
                     (height, width)]  # fmt: skip
            raise ConfigError(
                f"images of {height} x {width} pixels cannot be cut into patches of {patch}",
                remedy=f"resize to a height of {legal[0]} and a width of {legal[1]}",
            )
        return height // patch, width // patch

    def _check_keeps(self) -> None:
        """Check that patches may be left out, which a relative position bias forbids.

        The bias is one matrix for all images: the kernels rely on that, and its gradient is summed
        over the images. With different patches in each image there would be one matrix per image,
        as large as its attention; absolute positions come along at no cost.

        Raises:
            ConfigError: The backbone has a relative position bias.
        """
        if self.config.relative_position != "none":
            raise ConfigError(
                "some patches were to be left out of a backbone with a relative position bias",
                remedy='build it with relative_position="none" and absolute_position=True',
            )

    def forward(
        self,
        images: Images,
        mask: Bool[Tensor, "batch patches"] | None = None,
        out_indices: Sequence[int] = (),
        select: TokenIndices | None = None,
        keep_indices: TokenIndices | None = None,
    ) -> Features:
        """Features of the images; patches where `mask` is true are hidden from the start.

        Args:
            images: uint8, or floats already normalised.
            mask: Of all patches, in row-major order; a hidden patch is replaced by the mask token.
            out_indices: Blocks (0 is the first) whose raw output [B, 1+N, D] is returned too.
            select: The only patches of each image to return, [B, W, D]: the last block then
                computes no others.
            keep_indices: The only patches of each image that enter the blocks, each with its
                position; N is their number then, and `select` counts among them.

        Raises:
            ConfigError: The images do not fit the backbone, it has no mask token for the mask, or
                it has a relative position bias and patches are to be left out.
        """
        grid = self._grid(images)
        x = self.patch_embed(self.normalise(images))
        if mask is not None:
            if self.mask_token is None:
                raise ConfigError(
                    "a mask was given to a backbone without a mask token",
                    remedy="build it with mask_token=True, or call it without a mask",
                )
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        if self.pos_embed is not None:
            x = x + resize_absolute_position(self.pos_embed, self.config.grid, grid)
        if keep_indices is not None:
            self._check_keeps()
            x = gather_tokens(x, with_class_token(keep_indices))
        shared_bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid)
        rows = None if select is None else with_class_token(select)
        last = len(self.blocks) - 1
        outputs = {}
        for index, block in enumerate(self.blocks):
            only = rows if index == last and index not in out_indices else None
            x = block(x, shared_bias, grid, select=only)
            if index in out_indices:
                outputs[index] = x
        if last in out_indices:
            x = gather_tokens(x, rows)
        return Features(x[:, 0], x[:, 1:], tuple(outputs[index] for index in out_indices))

    def parameter_depth(self, name: str) -> int:
        """Layer of a parameter for layer-wise decay: 0 embedding, k+1 block k, depth+1 the rest."""
        if name.startswith(("cls_token", "mask_token", "pos_embed", "patch_embed.")):
            return 0
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.config.depth + 1

    def without_decay(self) -> frozenset[str]:
        """Parameters without weight decay: vectors, biases, the class token, absolute positions.

        As published, the mask token and the relative tables do decay.
        """
        return frozenset(
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim == 1 or name in ("cls_token", "pos_embed")
        )


def with_class_token(patches: TokenIndices) -> Int64[Tensor, "batch _"]:
    """The places of these patches among the tokens, and that of the class token before them."""
    return F.pad(patches + 1, (1, 0))


def draw(weight: Tensor, *, cut: bool) -> None:
    """Fill with normal(0, 0.02), cut at one sigma (real deviation 0.54 sigma) or not at all."""
    bound = 0.02 if cut else 2.0
    nn.init.trunc_normal_(weight, std=0.02, a=-bound, b=bound)
