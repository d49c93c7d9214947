"""What a backbone is worth: fine-tuned with few labels, and frozen under a linear classifier.

One loop for all. A backbone maps floats [B, 3, 64, 64] to tokens [B, 1 + N, D], the class token
first.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.quality import scenes
from benchmarks.quality.scenes import Labelled


class Classifier(nn.Module):
    """The mean patch, normalised, and a linear layer."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            width = backbone(torch.zeros(1, 3, scenes.SIZE, scenes.SIZE)).shape[-1]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.backbone(images)[:, 1:].mean(dim=1)))
        return logits


def finetune(
    backbone: nn.Module,
    few: Labelled,
    *,
    steps: int,
    rate: float,
    decay: float,
    seed: int,
) -> Classifier:
    """All weights, AdamW, layers deeper down by `decay` slower; crops and mirrorings, smoothing."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = Classifier(copy.deepcopy(backbone), int(few.targets.max()) + 1).train()
    depths = {name: depth(name) for name, _ in model.named_parameters()}
    deepest = max(depth for depth in depths.values() if depth < math.inf) + 1
    groups = [
        {
            "params": [value],
            "scale": decay ** (deepest - min(depths[name], deepest)),
            "weight_decay": 0.05 if value.ndim > 1 else 0.0,
        }
        for name, value in model.named_parameters()
    ]
    adamw = torch.optim.AdamW(groups)
    for step in range(steps):
        for group in adamw.param_groups:
            rising, falling = (
                (step + 1) / (0.1 * steps),
                0.5 + 0.5 * math.cos(math.pi * step / steps),
            )
            group["lr"] = rate * group["scale"] * min(rising, falling)
        rows = torch.randint(len(few.targets), (64,), generator=chance)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(scenes.crops(few.images[rows], chance))
        loss = F.cross_entropy(logits.float(), few.targets[rows], label_smoothing=0.1)
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
    return model.eval()


def depth(name: str) -> float:
    """Embeddings are 0, block k is k + 1, what follows is deepest."""
    parts = name.split(".")
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1]) + 1
    embeds = {"patch_embed", "cls_token", "pos_embed", "mask_token"}
    return 0 if embeds & set(parts) else math.inf


@torch.no_grad()
def accuracy(model: nn.Module, images: Labelled) -> float:
    """Top-1 in per cent."""
    hits = [
        (model(scenes.centre(part)).argmax(dim=1) == targets).float()
        for part, targets in zip(images.images.split(256), images.targets.split(256), strict=True)
    ]
    return 100 * float(torch.cat(hits).mean())


@torch.no_grad()
def frozen(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The class token and the mean patch of each image."""
    tokens = [backbone(scenes.centre(part)).float() for part in images.split(256)]
    return {
        "class token": torch.cat([part[:, 0] for part in tokens]),
        "mean patch": torch.cat([part[:, 1:].mean(dim=1) for part in tokens]),
    }
