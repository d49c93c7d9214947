"""The attentive probe: learned queries that look for what matters among the patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from beit.config.probe import ProbeConfig
from beit.evaluation.features import PatchTable
from beit.evaluation.precision import in_float32


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
        shares = (keys @ self.queries.t() / math.sqrt(keys.shape[2])).softmax(dim=1)
        pooled = torch.einsum("bnh,bnhd->bhd", shares, keys.unflatten(2, (self.heads, -1)))
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
    """Share of images answered rightly."""
    pairs = zip(table.patches.split(256), table.targets.split(256), strict=True)
    hits = [(probe(some.float()).argmax(dim=1) == wanted).sum() for some, wanted in pairs]
    return float(torch.stack(hits).sum() / len(table.targets))
