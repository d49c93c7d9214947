"""Classifiers of frozen features: linear heads of every block and learning rate, trained at once;
an attentive probe of patches; and logistic regression, fitted to convergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import Patches, standardised
from beit.evaluation.metrics import average_precision, in_float32
from beit.evaluation.rows import Rows

CPU = torch.device("cpu")
SCORED = 4096
"""Images scored at a time."""
Targets = Int64[Tensor, " images"] | Bool[Tensor, "images classes"]


class LinearHeads(NamedTuple):
    """One linear classifier per block and learning rate, as one batched product."""

    weights: Float[Tensor, "blocks width heads"]
    """For each block, the heads of all learning rates, one after the other."""
    bias: Float[Tensor, "blocks one heads"]
    classes: int

    def logits(
        self, features: Float[Tensor, "batch blocks width"]
    ) -> Float[Tensor, "batch classes blocks rates"]:
        """The logits of every head."""
        every = torch.baddbmm(self.bias, features.transpose(0, 1), self.weights)
        apart: Tensor = every.unflatten(2, (-1, self.classes))
        return apart.permute(1, 3, 0, 2)

    @torch.no_grad()
    def accuracy(
        self,
        features: Float[Tensor, "images blocks width"] | Rows,
        targets: Int64[Tensor, " images"],
    ) -> Float[Tensor, "blocks rates"]:
        """Fraction of images that each head answers correctly."""
        device = self.weights.device
        hits = [
            (self.logits(some.to(device)).argmax(dim=1).cpu() == right[:, None, None]).sum(dim=0)
            for some, right in zip(features.split(256), targets.split(256), strict=True)
        ]
        return torch.stack(hits).sum(dim=0) / len(targets)

    @torch.no_grad()
    def score(
        self, features: Float[Tensor, "images blocks width"] | Rows, targets: Targets
    ) -> Float[Tensor, "blocks rates"]:
        """The accuracy of each head or, if images may have several labels, its mean average
        precision over the labels that some image has."""
        if targets.dtype != torch.bool:
            return self.accuracy(features, targets)
        blocks = []
        for block, weights in enumerate(self.weights):
            parts = [
                some[:, block].to(weights.device) @ weights + self.bias[block]
                for some in features.split(SCORED)
            ]
            every = torch.cat([part.cpu() for part in parts])
            scores = [
                average_precision(some, targets).nanmean()
                for some in every.split(self.classes, dim=1)
            ]
            blocks.append(torch.stack(scores).float())
        return torch.stack(blocks)


@in_float32
def train_heads(
    features: Float[Tensor, "images blocks width"] | Rows,
    targets: Targets,
    *,
    classes: int,
    config: ProbeConfig,
    some: tuple[int, Sequence[int]] | None = None,
    device: torch.device = CPU,
) -> LinearHeads:
    """Train a linear head for every block and learning rate, all at once.

    AdamW with a cosine schedule per epoch; weights start at normal(0, 0.01) (unilm,
    run_linear_eval.py). The losses of all heads are summed, so that each head has the gradient that
    it would have alone.

    Args:
        features: Features of every image, from all blocks or those that `some` names.
        targets: Class of every image, or which labels it has.
        classes: Number of classes.
        config: Learning rates, epochs, batch, weight decay and seed.
        some: Number of blocks of the backbone, and which of them the features are from. Initial
            weights are drawn for all blocks, so that heads start as if all were trained.
        device: Where the heads are trained.
    """
    chance = torch.Generator().manual_seed(config.seed)
    rows = features if isinstance(features, Rows) else Rows(features)
    _, blocks, width = rows.shape
    depth, chosen = some or (blocks, range(blocks))
    start = 0.01 * torch.randn(depth, width, classes, generator=chance)[list(chosen)]
    start = start.to(device)
    weights = [start.clone().requires_grad_() for _ in config.learning_rates]
    biases = [
        torch.zeros(blocks, 1, classes, device=device, requires_grad=True)
        for _ in config.learning_rates
    ]
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
            for at in rows.shuffled(chance, config.batch):
                heads = LinearHeads(torch.cat(weights, dim=2), torch.cat(biases, dim=2), classes)
                logits = heads.logits(rows[at].to(device))
                optimizer.zero_grad()
                (_summed_loss(logits, targets[at].to(device)) / len(at)).backward()
                optimizer.step()
            schedule.step()
    return LinearHeads(
        torch.cat(weights, dim=2).detach(), torch.cat(biases, dim=2).detach(), classes
    )


def _summed_loss(
    logits: Float[Tensor, "batch classes blocks rates"], targets: Targets
) -> Float[Tensor, ""]:
    """Cross-entropy or, with several labels, binary cross-entropy, summed over all heads."""
    if targets.dtype == torch.bool:
        each = targets[:, :, None, None].expand_as(logits).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, each, reduction="sum")
    each = targets[:, None, None].expand(-1, *logits.shape[2:])
    return F.cross_entropy(logits, each, reduction="sum")


class AttentiveProbe(nn.Module):
    """One query per head weighs the normalised patches; a linear classifier takes their means.

    Keys and values are not projected. That is our choice: fewer parameters for few labels.
    """

    def __init__(self, *, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.zeros(heads, width))
        self.head = nn.Linear(width, classes)

    def forward(
        self, patches: Float[Tensor, "batch patches width"]
    ) -> Float[Tensor, "batch classes"]:
        keys: Tensor = self.norm(patches)
        weights = (keys @ self.queries.t() / math.sqrt(keys.shape[2])).softmax(dim=1)
        pooled = torch.einsum("bnh,bnhd->bhd", weights, keys.unflatten(2, (self.heads, -1)))
        logits: Tensor = self.head(pooled.flatten(1))
        return logits


@in_float32
def train_attentive(
    patches: Patches, *, heads: int, classes: int, config: ProbeConfig, device: torch.device = CPU
) -> list[AttentiveProbe]:
    """Train a probe for each learning rate, all in the same passes over the patches.

    AdamW with a cosine schedule per epoch. Queries start at zero, which averages the patches.

    Args:
        patches: Training images.
        heads: Queries of a probe; their number divides the width of the patches.
        classes: Number of classes.
        config: Learning rates, epochs, batch, weight decay and seed.
        device: Where the probes are trained.
    """
    chance = torch.Generator().manual_seed(config.seed)
    probe = AttentiveProbe(width=patches.width, heads=heads, classes=classes)
    with torch.no_grad():
        probe.head.weight.normal_(std=0.01, generator=chance)
        probe.head.bias.zero_()
    probes = [deepcopy(probe).to(device) for _ in config.learning_rates]
    optimizers = [
        torch.optim.AdamW(each.parameters(), lr=rate, weight_decay=config.weight_decay)
        for each, rate in zip(probes, config.learning_rates, strict=True)
    ]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(each, config.attentive_epochs)
        for each in optimizers
    ]
    for _ in range(config.attentive_epochs):
        order = torch.randperm(len(patches), generator=chance)
        for some, targets in patches.batches(order, config.batch):
            images, right = some.to(device).float(), targets.to(device)
            with torch.enable_grad():
                for each, optimizer in zip(probes, optimizers, strict=True):
                    optimizer.zero_grad()
                    F.cross_entropy(each(images), right).backward()
                    optimizer.step()
        for schedule in schedules:
            schedule.step()
    return [each.eval() for each in probes]


@torch.no_grad()
@in_float32
def attentive_accuracies(probes: Sequence[AttentiveProbe], patches: Patches) -> list[float]:
    """Fraction of images that each probe answers correctly, measured in one pass."""
    hits, images = torch.zeros(len(probes)), 0
    device = probes[0].queries.device
    for some, targets in patches.batches(torch.arange(len(patches)), 256):
        answers = [probe(some.to(device).float()).argmax(dim=1).cpu() for probe in probes]
        hits += torch.stack([(each == targets).sum() for each in answers])
        images += len(targets)
    found: list[float] = (hits / images).tolist()
    return found


@in_float32
def linear_answers(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "queries width"],
    *,
    penalty: float = 1e-3,
) -> Int64[Tensor, " queries"]:
    """Classify queries by multinomial logistic regression on standardised features.

    The regression is fitted to convergence by L-BFGS with an L2 penalty on the weights (mean loss
    plus penalty/2 times their squared norm), so that the answers depend on nothing but features and
    penalty.

    Args:
        features: Features of the known images.
        targets: Class of each known image.
        queries: Features of the images to classify.
        penalty: Strength of the L2 penalty.
    """
    inputs, unseen = standardised(features, features), standardised(queries, features)
    classes = int(targets.max()) + 1
    weights = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weights + bias, targets)
        loss = loss + penalty / 2 * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return (unseen @ weights.detach() + bias.detach()).argmax(dim=1)
