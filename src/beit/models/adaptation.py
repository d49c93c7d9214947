"""How much of a pre-trained backbone is trained: all of it, its later blocks, low-rank additions to
its weights, or none of it.

LoRA (Hu et al. 2021, arXiv:2106.09685) is implemented here as a parametrization of the weights of
attention and MLP, so that the backbone need not know of it and a plain model is published.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from beit.config.runs import AdaptationConfig
from beit.models.heads import BackboneModel
from beit.models.layers import Block, Dropping

Model = TypeVar("Model", bound=nn.Module)
Weight = Float[Tensor, "rows columns"]


class LowRank(nn.Module):
    """W + alpha / rank * up @ down; `up` is 0 at first, so that training starts from W (eq. 3)."""

    def __init__(self, weight: Weight, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self._scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Weight) -> Weight:
        return weight + self._scale * (self.up @ self.down)


def adapt(model: BackboneModel, config: AdaptationConfig) -> None:
    """Freeze, in place, all of the backbone that the config does not train; the head is always
    trained.

    Blocks in which nothing is trained drop no paths. LoRA's initial values are drawn from torch's
    global generator.
    """
    backbone, kept = model.backbone, config.freeze_blocks
    whole = config.freeze or config.lora > 0
    for name, parameter in backbone.named_parameters():
        if whole or (kept and backbone.parameter_depth(name) <= kept):
            parameter.requires_grad_(False)
    for number, block in enumerate(backbone.blocks):
        assert isinstance(block, Block)
        if config.freeze or number < kept:
            for module in block.modules():
                if isinstance(module, Dropping):
                    module.drops = False
        elif config.lora:
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                addition = LowRank(
                    linear.weight, config.lora, config.lora_alpha or 2.0 * config.lora
                )
                parametrize.register_parametrization(linear, "weight", addition)


def merged(model: Model) -> Model:
    """A copy of the model with the low-rank additions added to its weights; the model itself if it
    has none."""
    if not any(isinstance(module, LowRank) for module in model.modules()):
        return model
    plain = deepcopy(model)
    for module in [*plain.modules()]:
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            # By hand: `remove_parametrizations` would change the class, which the original shares.
            weight = module.weight.detach().clone()
            del module.parametrizations
            module.__class__ = nn.Linear
            module.weight = nn.Parameter(weight)
    return plain.requires_grad_(True)
