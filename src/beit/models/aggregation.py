"""Patch aggregation: make the class token carry the whole image (BEiT v2, section 2.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig
from beit.models.layers import TokenIndices, layer_norm
from beit.models.position import Grid
from beit.models.vit import Features, VisionTransformer, draw, with_class_token


class PatchAggregation(nn.Module):
    """A second, shallow way from an early block to the hidden patches.

    It sees the patches of the early block and, of all that comes later, the last class token only,
    which therefore has to say what the early patches cannot. Pre-training needs it, nothing else.

    The extra blocks are drawn as the blocks of the backbone they stand beside, so that drop path
    and the division by sqrt(2 l) go on from the early block. The released code leaves the defaults
    of PyTorch in them and only divides.
    """

    def __init__(
        self, config: AggregationConfig, backbone: VisionTransformerConfig, outputs: int
    ) -> None:
        super().__init__()
        assert config.early_layer is not None
        self.config = config
        self.out_index = config.early_layer - 1  # of the backbone, which counts blocks from 0
        end = config.early_layer + config.blocks
        depth = max(backbone.depth, end)
        self.blocks = VisionTransformer(replace(backbone, depth=depth)).blocks[
            config.early_layer : end
        ]
        self.norm: nn.LayerNorm | None = None
        self.head: nn.Linear | None = None
        if not config.shared_head:
            self.norm = layer_norm(backbone.width, backbone.norm_epsilon)
            self.head = nn.Linear(backbone.width, outputs)
            draw(self.head.weight, cut=True)
            nn.init.zeros_(self.head.bias)

    def forward(
        self,
        backbone: VisionTransformer,
        features: Features,
        grid: Grid,
        select: TokenIndices | None = None,
    ) -> Float[Tensor, "batch _ width"]:
        """The patches after the extra blocks, all or the selected ones; `features` have the early
        block as their only intermediate."""
        (early,) = features.intermediates
        shared_bias = None if backbone.rel_pos_bias is None else backbone.rel_pos_bias(grid)
        x = torch.cat([features.cls[:, None], early[:, 1:]], dim=1)
        rows = None if select is None else with_class_token(select)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, shared_bias, grid, select=rows if index == len(self.blocks) else None)
        return x[:, 1:]
