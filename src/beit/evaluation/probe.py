"""Classifiers of frozen features: linear heads of every block and learning rate, trained at once;
an attentive probe of patches; and logistic regression, fitted to convergence."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import PatchTable, standardised
from beit.evaluation.metrics import average_precision, in_float32

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
        self, features: Float[Tensor, "images blocks width"], targets: Int64[Tensor, " images"]
    ) -> Float[Tensor, "blocks rates"]:
        """Fraction of images that each head answers rightly."""
        hits = [
            (self.logits(some).argmax(dim=1) == right[:, None, None]).sum(dim=0)
            for some, right in zip(features.split(256), targets.split(256), strict=True)
        ]
        return torch.stack(hits).sum(dim=0) / len(targets)

    @torch.no_grad()
    def score(
        self, features: Float[Tensor, "images blocks width"], targets: Targets
    ) -> Float[Tensor, "blocks rates"]:
        """The accuracy or, of images that may have several labels, the mean average precision
        over the labels that some image has."""
        if targets.dtype != torch.bool:
            return self.accuracy(features, targets)
        blocks = []
        for block, weights in enumerate(self.weights):
            every = features[:, block] @ weights + self.bias[block]
            scores = [
                average_precision(some, targets).nanmean()
                for some in every.split(self.classes, dim=1)
            ]
            blocks.append(torch.stack(scores).float())
        return torch.stack(blocks)


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


def _summed_loss(
    logits: Float[Tensor, "batch classes blocks rates"], targets: Targets
) -> Float[Tensor, ""]:
    """Cross-entropy or, with several labels, binary cross-entropy; over all heads."""
    if targets.dtype == torch.bool:
        each = targets[:, :, None, None].expand_as(logits).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, each, reduction="sum")
    each = targets[:, None, None].expand(-1, *logits.shape[2:])
    return F.cross_entropy(logits, each, reduction="sum")


class AttentiveProbe(nn.Module):
    """One query per head weighs the normalised patches; a linear classifier reads their means.

    Without projections of keys and values, which is ours: fewer parameters for few labels.
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
    table: PatchTable, *, heads: int, classes: int, rate: float, config: ProbeConfig
) -> AttentiveProbe:
    """AdamW under a cosine per epoch. Queries start at zero: as the mean over the patches."""
    chance = torch.Generator().manual_seed(config.seed)
    probe = AttentiveProbe(width=table.patches.shape[2], heads=heads, classes=classes)
    with torch.no_grad():
        probe.head.weight.normal_(std=0.01, generator=chance)
        probe.head.bias.zero_()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.attentive_epochs)
    with torch.enable_grad():
        for _ in range(config.attentive_epochs):
            for rows in torch.randperm(len(table.targets), generator=chance).split(config.batch):
                loss = F.cross_entropy(probe(table.patches[rows].float()), table.targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return probe.eval()


@torch.no_grad()
@in_float32
def attentive_accuracy(probe: AttentiveProbe, table: PatchTable) -> float:
    """Fraction of images answered rightly."""
    pairs = zip(table.patches.split(256), table.targets.split(256), strict=True)
    hits = [(probe(some.float()).argmax(dim=1) == right).sum() for some, right in pairs]
    return float(torch.stack(hits).sum() / len(table.targets))


@in_float32
def linear_answers(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "queries width"],
    *,
    penalty: float = 1e-3,
) -> Int64[Tensor, " queries"]:
    """Classes by multinomial logistic regression on standardised features.

    The regression is fitted to convergence by L-BFGS with an L2 penalty on the weights (mean loss
    plus penalty/2 times their squared norm), so that the answers depend on nothing but features and
    penalty.
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


def linear_accuracy(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "queries width"],
    query_targets: Int64[Tensor, " queries"],
    *,
    penalty: float = 1e-3,
) -> float:
    """Accuracy of `linear_answers`."""
    answers = linear_answers(features, targets, queries, penalty=penalty)
    return float((answers == query_targets).float().mean())
