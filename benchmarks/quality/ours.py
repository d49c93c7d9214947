"""Ours, as a user has it: `beit tokenizer` and `beit pretrain` on the folder of scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import beit
from beit.config import ContrastiveConfig, MaskedConfig, PretrainObjectiveConfig
from beit.models.heads import BackboneModel
from beit.models.vit import VisionTransformer
from beit.recipes import demo
from beit.weights.store import load_artifact
from benchmarks.race import OURS

OBJECTIVES: dict[str, PretrainObjectiveConfig] = {
    OURS: MaskedConfig(),
    f"{OURS} contrastive": ContrastiveConfig(),
}


class Tokens(nn.Module):
    """A backbone of ours as the benchmark uses all: floats in [0, 1] to tokens."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.backbone.mean) / self.backbone.std
        cls, patches, _ = self.backbone(normalised)
        return torch.cat([cls[:, None], patches], dim=1)


def pretrain(who: str, scenes: Path, out: Path, *, steps: int, seed: int, quick: bool) -> Tokens:
    """The backbone after a tokenizer and so many steps, with the settings of the demo."""
    loader = replace(demo.LOADER, workers=0)  # all in one process, whose CPU time counts
    tokenizer = replace(
        demo.tokenizer(), data=str(scenes), out=str(out / "tokenizer"), loader=loader
    )
    first = replace(tokenizer.training, seed=seed)
    first = replace(first, steps=1, warmup_steps=0) if quick else first
    beit.tokenizer(replace(tokenizer, training=first), quiet=True, report=False)
    config = demo.pretrain()
    config = replace(
        config,
        data=str(scenes),
        out=str(out / "pretrain"),
        tokenizer=str(out / "tokenizer"),
        accept_collapsed=quick,
        objective=OBJECTIVES[who],
        loader=loader,
        knn_images=0,
        training=replace(
            config.training,
            steps=steps,
            warmup_steps=min(config.training.warmup_steps, steps // 10),
            evaluate_every=0,
            save_every=steps,
            seed=seed,
        ),
    )
    run = beit.pretrain(config, quiet=True, report=False)
    model = load_artifact(run.folder).model
    assert isinstance(model, BackboneModel)
    return Tokens(model.backbone).eval()
