"""The attention weights inside a backbone, listened to while it looks at images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from beit.models.attention import attention_weights
from beit.models.layers import Block
from beit.models.vit import VisionTransformer

Weights = Float[Tensor, "batch heads tokens tokens"]


@torch.no_grad()
def attention_maps(
    backbone: VisionTransformer,
    images: UInt8[Tensor, "batch channels height width"],
    blocks: Sequence[int],
) -> list[Weights]:
    """The attention weights of these blocks, for images without a mask; each row sums to one."""
    heard: dict[nn.Module, Tensor] = {}

    def listen(module: nn.Module, inputs: tuple[Tensor, Tensor | None, tuple[int, int]]) -> None:
        assert isinstance(module, Block)
        x, shared_bias, grid = inputs
        query, key, _ = module.attn.project(module.norm1(x))
        weights = attention_weights(query, key, module.attn.bias(shared_bias, grid))
        heard[module] = weights.float().cpu()

    listened = [backbone.blocks[index] for index in blocks]
    hooks = [module.register_forward_pre_hook(listen) for module in listened]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [heard[module] for module in listened]
