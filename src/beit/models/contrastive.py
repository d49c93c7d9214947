"""A masked image model whose class tokens are compared: with a projection, which is not kept."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig
from beit.models.heads import MaskedImageModel
from beit.models.layers import layer_norm
from beit.models.vit import Images

EXPANSION = 4
"""Hidden width of the projection over that of the backbone, as in its MLPs."""


class ContrastiveModel(MaskedImageModel):
    """Predicts what is hidden, and maps class tokens to the vectors that are compared.

    The projection has two layers as in SimCLR (arXiv:2002.05709, section 4.2). The norm before it
    is ours, in the place of batch norm: of a single image, whoever else is in the batch.
    """

    def __init__(
        self,
        backbone: VisionTransformerConfig,
        outputs: int,
        aggregation: AggregationConfig | None = None,
        *,
        projection: int,
    ) -> None:
        super().__init__(backbone, outputs, aggregation)
        hidden = EXPANSION * backbone.width
        first, second = nn.Linear(backbone.width, hidden), nn.Linear(hidden, projection)
        self.projection = nn.Sequential(
            layer_norm(backbone.width, backbone.norm_epsilon), first, nn.GELU(), second
        )
        for linear in (first, second):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def embed(
        self, images: Images, keep_indices: Int64[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch features"]:
        """The class tokens of images of which all patches, or some, enter the backbone."""
        cls: Tensor = self.backbone(images, keep_indices=keep_indices).cls
        return cls

    def strip_projection(self) -> MaskedImageModel:
        """The same weights without the projection: all that is of use after pre-training."""
        with torch.device("meta"):
            model = MaskedImageModel(self.backbone.config, self.outputs)
        model.backbone, model.norm, model.head = self.backbone, self.norm, self.head
        model.aggregation = self.aggregation
        return model.train(self.training)
