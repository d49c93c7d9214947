"""Masked image modeling with a contrast of class tokens: features that serve without fine-tuning.

Predicting hidden patches teaches what a patch is, and little of what an image is: fine-tuning makes
much of such features, a linear classifier of frozen ones less. Here the class token of the image
with hidden patches must also find that of a second view among those of all other images. That view
is a crop of the first in other colours, of which only some patches enter the backbone (as in
MSN, arXiv:2204.07141). The contrast is that of SimCLR (arXiv:2002.05709); iBOT (arXiv:2111.07832)
and DINOv2 (arXiv:2304.07193) combine a self-distilled class token with masked patches for the same
reason.

The other images are those of the micro-batch on all processes: so the number of processes changes
nothing, and a smaller micro-batch is an easier task.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn

from beit.batch import MaskedBatch
from beit.config.masking import ContrastiveConfig
from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig
from beit.models.heads import MaskedImageModel
from beit.models.layers import layer_norm
from beit.models.vit import Images
from beit.objectives.base import Loss
from beit.objectives.masked import MaskedImageModeling, read_masked
from beit.objectives.second_view import NUMBERS, second_view

EXPANSION = 4
"""Hidden width of the projection over that of the backbone, as in its MLPs."""


class ContrastiveModel(MaskedImageModel):
    """Predicts hidden patches, and maps class tokens to the vectors that are compared.

    The projection has two layers as in SimCLR (arXiv:2002.05709, section 4.2). The norm before it
    is ours, in the place of batch norm: it norms each image alone, whatever else is in the batch.
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
        """The class tokens of images; with `keep_indices` only those patches enter the backbone."""
        cls: Tensor = self.backbone(images, keep_indices=keep_indices).cls
        return cls

    def strip_projection(self) -> MaskedImageModel:
        """The same weights without the projection: all that is of use after pre-training."""
        with torch.device("meta"):
            model = MaskedImageModel(self.backbone.config, self.outputs)
        model.backbone, model.norm, model.head = self.backbone, self.norm, self.head
        model.aggregation = self.aggregation
        return model.train(self.training)


class ContrastiveMaskedModeling(MaskedImageModeling):
    """Predict the visual tokens of masked patches, and tell images from one another."""

    model: ContrastiveModel
    config: ContrastiveConfig

    def forward(self, batch: MaskedBatch, progress: float) -> Loss:
        masked = read_masked(batch)
        predictions, first = self.model.predictions_and_class(
            batch.images, masked, self.predicts_all
        )
        total, terms = self.compare(predictions, batch, masked)
        second = self._second(batch)
        projected = centred(self.model.projection(torch.cat([first, second])).float())
        loss, hits = contrast(*projected.chunk(2), temperature=self.config.temperature)
        terms |= {"contrast_loss": loss.detach(), "contrast_accuracy": hits}
        return Loss(total + self.config.contrast_weight * loss, terms)

    def _second(self, batch: MaskedBatch) -> Float[Tensor, "batch features"]:
        """The class token of a second view of each image, of which some patches are seen."""
        config, backbone = self.config, self.model.backbone
        images = batch.images
        patches = backbone.config.patches
        numbers = self.rng.uniform("second view", len(images), NUMBERS + patches)
        numbers = numbers.to(images.device, non_blocking=True)
        views = second_view(
            images, numbers[:, :NUMBERS], crop=config.second_crop, jitter=config.second_jitter
        )
        kept = None
        if config.kept < 1:
            number = max(round(config.kept * patches), 1)
            kept = numbers[:, NUMBERS:].argsort(dim=1, stable=True)[:, :number]
        return self.model.embed((views - backbone.mean) / backbone.std, kept)

    def publish(self, model: nn.Module) -> nn.Module:
        """The masked image model, without the projection."""
        assert isinstance(model, ContrastiveModel)
        return model.strip_projection()


def centred(vectors: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    """Subtract the mean over the images of all processes.

    At first the mean is nearly all of a class token, so that the contrast learns sooner without it.
    Batch norm does this in SimCLR.
    """
    total = _summed(F.pad(vectors.sum(dim=0), (0, 1), value=len(vectors)))
    return vectors - total[:-1] / total[-1]


def contrast(
    first: Float[Tensor, "batch features"],
    second: Float[Tensor, "batch features"],
    *,
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """How well the two vectors of an image find each other among those of all images of all
    processes.

    Args:
        first: One vector per image, of any length.
        second: The other vector of each image.
        temperature: Divides the cosines.

    Returns:
        The cross-entropy (NT-Xent; SimCLR, eq. 1), and how often the nearest vector is the right
        one.
    """
    own = [F.normalize(vectors, dim=1) for vectors in (first, second)]
    every, start, images = _of_all_processes(torch.stack(own, dim=1))
    everyone = every.transpose(0, 1).flatten(0, 1)  # all first ones, then all second ones
    here = torch.arange(start, start + len(first), device=first.device)
    rows = torch.cat([here, here + images])
    likeness = torch.cat(own) @ everyone.t() / temperature
    likeness = likeness.scatter(1, rows[:, None], -math.inf)  # none is compared with itself
    partners = (rows + images) % (2 * images)
    loss = F.cross_entropy(likeness, partners)
    return loss, (likeness.argmax(dim=1) == partners).float().mean()


def _of_all_processes(values: Tensor) -> tuple[Tensor, int, int]:
    """The rows of all processes, which may have different numbers of them; the index of the first
    row of this process; and the number of rows."""
    if not distributed.is_initialized():
        return values, 0, len(values)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    counts = torch.zeros(world, dtype=torch.int64, device=values.device)
    counts[rank] = len(values)
    distributed.all_reduce(counts)
    ends = counts.cumsum(0).tolist()
    start = ends[rank] - len(values)
    padded = F.pad(values, (0, 0) * (values.ndim - 1) + (start, ends[-1] - ends[rank]))
    return _summed(padded), start, ends[-1]


def _summed(values: Tensor) -> Tensor:
    """The sum over processes."""
    total: Tensor = _Summed.apply(values) if distributed.is_initialized() else values
    return total


class _Summed(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
