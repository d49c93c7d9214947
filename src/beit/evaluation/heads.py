"""Linear probes: classifiers for every block and every learning rate, trained at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.config.probe import ProbeConfig
from beit.evaluation.multilabel import average_precision
from beit.evaluation.precision import in_float32

Targets = Int64[Tensor, " images"] | Bool[Tensor, "images classes"]


class LinearHeads(NamedTuple):
    """One linear classifier per block and learning rate, as one batched product."""

    weights: Float[Tensor, "blocks width heads"]
    """Of each block the heads of all learning rates, one after the other."""
    bias: Float[Tensor, "blocks one heads"]
    classes: int

    def logits(
        self, features: Float[Tensor, "batch blocks width"]
    ) -> Float[Tensor, "batch classes blocks rates"]:
        """The answers of every head."""
        every = torch.baddbmm(self.bias, features.transpose(0, 1), self.weights)
        apart: Tensor = every.unflatten(2, (-1, self.classes))
        return apart.permute(1, 3, 0, 2)

    @torch.no_grad()
    def accuracy(
        self,
        features: Float[Tensor, "images blocks width"],
        targets: Int64[Tensor, " images"],
    ) -> Float[Tensor, "blocks rates"]:
        """Share of images that each head answers rightly."""
        hits = [
            (self.logits(some).argmax(dim=1) == wanted[:, None, None]).sum(dim=0)
            for some, wanted in zip(features.split(256), targets.split(256), strict=True)
        ]
        return torch.stack(hits).sum(dim=0) / len(targets)

    @torch.no_grad()
    def mean_average_precision(
        self,
        features: Float[Tensor, "images blocks width"],
        targets: Bool[Tensor, "images classes"],
    ) -> Float[Tensor, "blocks rates"]:
        """Of each head, over the labels that some image has."""
        blocks = []
        for block, weights in enumerate(self.weights):
            every = features[:, block] @ weights + self.bias[block]
            scores = [
                average_precision(some, targets).nanmean()
                for some in every.split(self.classes, dim=1)
            ]
            blocks.append(torch.stack(scores).float())
        return torch.stack(blocks)

    def score(
        self, features: Float[Tensor, "images blocks width"], targets: Targets
    ) -> Float[Tensor, "blocks rates"]:
        """The accuracy or, of images that may have several labels, the mean average precision."""
        if targets.dtype == torch.bool:
            return self.mean_average_precision(features, targets)
        return self.accuracy(features, targets)


def _summed_loss(
    logits: Float[Tensor, "batch classes blocks rates"], targets: Targets
) -> Float[Tensor, ""]:
    """Cross-entropy or, with several labels, binary cross-entropy; over all heads."""
    if targets.dtype == torch.bool:
        each = targets[:, :, None, None].expand_as(logits).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, each, reduction="sum")
    wanted = targets[:, None, None].expand(-1, *logits.shape[2:])
    return F.cross_entropy(logits, wanted, reduction="sum")


@in_float32
def train_heads(
    features: Float[Tensor, "images blocks width"],
    targets: Targets,
    *,
    classes: int,
    config: ProbeConfig,
) -> LinearHeads:
    """AdamW under a cosine per epoch; weights start at normal(0, 0.01) (unilm, run_linear_eval.py).

    The losses of all heads are summed: each has the gradient that it would have alone.
    """
    chance = torch.Generator().manual_seed(config.seed)
    _, blocks, width = features.shape
    start = 0.01 * torch.randn(blocks, width, classes, generator=chance)
    weights = [start.clone().requires_grad_() for _ in config.learning_rates]
    biases = [torch.zeros(blocks, 1, classes, requires_grad=True) for _ in config.learning_rates]
    groups = [
        {"params": pair, "lr": rate}
        for *pair, rate in zip(weights, biases, config.learning_rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    )
    with torch.enable_grad():
        for _ in range(config.epochs):
            for rows in torch.randperm(len(targets), generator=chance).split(config.batch):
                heads = LinearHeads(torch.cat(weights, dim=2), torch.cat(biases, dim=2), classes)
                logits = heads.logits(features[rows])
                optimizer.zero_grad()
                (_summed_loss(logits, targets[rows]) / len(rows)).backward()
                optimizer.step()
            schedule.step()
    return LinearHeads(
        torch.cat(weights, dim=2).detach(), torch.cat(biases, dim=2).detach(), classes
    )
