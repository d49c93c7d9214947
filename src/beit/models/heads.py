"""Backbone and head together: what is trained, and what an artifact holds."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig, HeadConfig, Pooling
from beit.masked_patches import Mask, MaskedPatches, read_mask
from beit.models.layers import TokenIndices, layer_norm
from beit.models.position import Grid
from beit.models.vit import Features, Images, VisionTransformer, draw, with_class_token

Logits = Callable[[Images], Tensor]


class BackboneModel(nn.Module, abc.ABC):
    """A backbone with a head; knows the depth of each parameter and which do not decay."""

    def __init__(self, backbone: VisionTransformerConfig) -> None:
        super().__init__()
        self.backbone = VisionTransformer(backbone)

    def parameter_depth(self, name: str) -> int:
        """Layer of a parameter for layer-wise decay; the head comes last."""
        if ".parametrizations." in name:  # a low-rank addition is as new as the head
            return self.deepest
        if name.startswith("backbone."):
            return self.backbone.parameter_depth(name.removeprefix("backbone."))
        return self.deepest

    @property
    def deepest(self) -> int:
        """The largest depth of a parameter."""
        return self.backbone.config.depth + 1

    def without_decay(self) -> frozenset[str]:
        """Parameters without weight decay."""
        vectors = [name for name, parameter in self.named_parameters() if parameter.ndim == 1]
        return frozenset(vectors) | {f"backbone.{name}" for name in self.backbone.without_decay()}


class PatchPredictor(BackboneModel):
    """Predicts codes or pixel values of patches."""

    outputs: int
    """Number of codes to choose from, or of values in a patch."""


class PatchAggregation(nn.Module):
    """Patch aggregation (BEiT v2, section 2.3): a second, shallow path from an early block to the
    hidden patches, which makes the class token carry the whole image.

    It sees the patches of the early block and, of everything after it, the last class token only,
    which therefore has to carry what the early patches lack. Only pre-training uses it.

    The extra blocks are initialised like the blocks of the backbone they stand beside, so that drop
    path and the division by sqrt(2 l) continue from the early block. The released code leaves
    PyTorch's defaults in them and only divides.
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
        """The patches after the extra blocks.

        Args:
            backbone: Its relative position bias, if blocks share one, is used here too.
            features: With the early block as their only intermediate.
            grid: Rows and columns of patches.
            select: The patches of each image to return; None for all.
        """
        (early,) = features.intermediates
        shared_bias = None if backbone.rel_pos_bias is None else backbone.rel_pos_bias(grid)
        x = torch.cat([features.cls[:, None], early[:, 1:]], dim=1)
        rows = None if select is None else with_class_token(select)
        for index, block in enumerate(self.blocks, start=1):
            x = block(x, shared_bias, grid, select=rows if index == len(self.blocks) else None)
        return x[:, 1:]


class MaskedImageModel(PatchPredictor):
    """Predicts hidden patches: which of K codes, or the pixel values (section 2.4).

    With patch aggregation (BEiT v2, section 2.3) it can predict them a second time.
    """

    def __init__(
        self,
        backbone: VisionTransformerConfig,
        outputs: int,
        aggregation: AggregationConfig | None = None,
    ) -> None:
        super().__init__(backbone)
        self.outputs = outputs
        self.norm = layer_norm(backbone.width, backbone.norm_epsilon)
        self.head = nn.Linear(backbone.width, outputs)
        draw(self.head.weight, cut=True)
        nn.init.zeros_(self.head.bias)
        self.aggregation = (
            PatchAggregation(aggregation, backbone, outputs)
            if aggregation is not None and aggregation.early_layer is not None
            else None
        )

    def forward(
        self, images: Images, mask: Mask | None = None, every_position: bool = False
    ) -> Float[Tensor, "rows outputs"]:
        """Predictions for the masked patches [M, K] in row-major order, or for all [B*N, K].

        Only the rows that are returned go through the rest of the last block, norm and head.

        Args:
            images: uint8, or floats already normalised.
            mask: True where a patch is hidden; None hides none.
            every_position: Predict all patches, not only the masked ones.
        """
        rows, _ = self._rows(images, read_mask(mask), every_position)
        predictions: Tensor = self.head(self.norm(rows[0]))
        return predictions

    def predictions(
        self, images: Images, mask: Mask | None = None, every_position: bool = False
    ) -> tuple[Float[Tensor, "rows outputs"], ...]:
        """What `forward` returns and, with patch aggregation, the second prediction of the same.

        Args:
            images: uint8, or floats already normalised.
            mask: True where a patch is hidden; None hides none.
            every_position: Predict all patches, not only the masked ones.
        """
        return self.predictions_and_class(images, mask, every_position)[0]

    def predictions_and_class(
        self, images: Images, mask: Mask | None = None, every_position: bool = False
    ) -> tuple[tuple[Float[Tensor, "rows outputs"], ...], Float[Tensor, "batch features"]]:
        """The predictions, and the class token of each image as it leaves the backbone.

        Args:
            images: uint8, or floats already normalised.
            mask: True where a patch is hidden; None hides none.
            every_position: Predict all patches, not only the masked ones.
        """
        extra = self.aggregation
        rows, cls = self._rows(images, read_mask(mask), every_position, extra)
        predictions = [self.head(self.norm(rows[0]))]
        if extra is not None:
            norm, head = extra.norm or self.norm, extra.head or self.head
            predictions.append(head(norm(rows[1])))
        return tuple(predictions), cls

    def _rows(
        self,
        images: Images,
        masked: MaskedPatches | None,
        every_position: bool,
        extra: PatchAggregation | None = None,
    ) -> tuple[list[Float[Tensor, "rows features"]], Float[Tensor, "batch features"]]:
        """The masked patches, or all, after the backbone and after the aggregation; and the class
        token after the backbone."""
        selected = None if every_position else masked
        places = None if selected is None else selected.places
        hidden = None if masked is None else masked.mask
        out_indices = () if extra is None else (extra.out_index,)
        features = self.backbone(images, hidden, out_indices=out_indices, select=places)
        found = [features.patches]
        if extra is not None:
            patch = self.backbone.config.patch
            grid = (images.shape[2] // patch, images.shape[3] // patch)
            found.append(extra(self.backbone, features, grid, places))
        rows = [
            patches.flatten(0, 1) if selected is None else selected.rows(patches)
            for patches in found
        ]
        return rows, features.cls


class PretrainedBackbone(BackboneModel):
    """A backbone and the norm it was pre-trained with, and no head."""

    def __init__(self, backbone: VisionTransformerConfig) -> None:
        super().__init__(backbone)
        self.norm = layer_norm(backbone.width, backbone.norm_epsilon)

    def forward(self, images: Images) -> Float[Tensor, "batch patches features"]:
        patches: Tensor = self.norm(self.backbone(images).patches)
        return patches


class Classifier(BackboneModel):
    """Backbone, pooling, norm and a linear head (section 2.6)."""

    def __init__(
        self, backbone: VisionTransformerConfig, classes: int, head: HeadConfig | None = None
    ) -> None:
        super().__init__(backbone)
        head = head or HeadConfig()
        self.pooling: Pooling = head.pooling
        self.norm = layer_norm(backbone.width, backbone.norm_epsilon)
        self.head = nn.Linear(backbone.width, classes)
        draw(self.head.weight, cut=False)
        with torch.no_grad():
            self.head.weight.mul_(head.head_scale)
            self.head.bias.zero_()

    def embed(self, images: Images) -> Float[Tensor, "batch features"]:
        """The normalised vector that the head reads."""
        features = self.backbone(images)
        pooled = features.patches.mean(dim=1) if self.pooling == "mean" else features.cls
        normalised: Tensor = self.norm(pooled)
        return normalised

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.head(self.embed(images))
        return logits


def flip_averaged(model: Logits, *, multi_label: bool = False) -> Logits:
    """A model whose logits stand for the mean of the probabilities of an image and its mirror
    image.

    Probabilities are a softmax over the classes or, with `multi_label`, independent.
    """

    def logits(images: Tensor) -> Tensor:
        views = torch.stack([model(images), model(images.flip(-1))]).float()
        if not multi_label:
            return views.log_softmax(dim=-1).logsumexp(dim=0)
        present, absent = (F.logsigmoid(sign * views).logsumexp(dim=0) for sign in (1, -1))
        return present - absent

    return logits


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and values of the weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
