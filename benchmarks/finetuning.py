"""A fine-tuning step, without augmentation, which is the loader's: forward, backward, update."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.config import AugmentConfig, TrainingConfig
from beit.models.heads import Classifier
from beit.objectives.classify import Classification
from beit.training.optim import Optimizer
from benchmarks.peers import gather, in_timm, in_transformers, normalised
from benchmarks.race import Clock, Contest, Contestant
from benchmarks.setting import Setting

CLASSES = 1000
PLAIN = AugmentConfig(rand_augment="", erasing=0.0, mixup=0.0, cutmix=0.0)
TRAINING = TrainingConfig(steps=2, batch=1, lr=1e-4, layer_decay=0.65)
"""Its optimizer is ours; the rest of it is not used."""


def contests(setting: Setting) -> Iterator[Contest]:
    """All classify the same images into 1000 classes."""
    torch.manual_seed(0)
    model = Classifier(setting.classifying, CLASSES).to(setting.device).train()
    images = setting.images(model.backbone.config.size)
    pixels = normalised(images, model.backbone.config)
    targets = torch.randint(CLASSES, (setting.batch,), device=setting.device)
    peers, skipped = gather(
        {"transformers": lambda: in_transformers(model), "timm": lambda: in_timm(model)}
    )
    calls: dict[str, Callable[[], Tensor]] = {"beit": lambda: model(images)}
    if "transformers" in peers:
        calls["transformers"] = lambda: peers["transformers"](pixels).logits
    if "timm" in peers:
        calls["timm"] = lambda: peers["timm"](pixels)
    objective = Classification(model, PLAIN, classes=CLASSES)
    for precision in setting.precisions:
        contestants = {}
        for name, call in calls.items():
            trained = model if name == "beit" else peers[name].train()
            optimizer = (
                Optimizer(objective, TRAINING).adamw
                if name == "beit"
                else torch.optim.AdamW(trained.parameters(), lr=TRAINING.lr)
            )
            contestants[name] = _step(setting, optimizer, call, targets, precision)
        yield Contest(
            case=f"step {precision}",
            contestants=contestants,
            skipped=skipped,
            precision=precision,
            counts_flops=True,
        )


def _step(
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    logits: Callable[[], Tensor],
    targets: Tensor,
    precision: str,
) -> Contestant:
    def step(clock: Clock) -> None:
        with setting.autocast(precision):
            predictions = logits()
        loss = F.cross_entropy(predictions.float(), targets, label_smoothing=PLAIN.smoothing)
        clock.lap("forward")
        loss.backward()
        clock.lap("backward")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.lap("optimizer")

    return step
