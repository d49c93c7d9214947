"""Recipes of classification. With `--init` the architecture comes from the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from beit.config import (
    AugmentConfig,
    FinetuneRunConfig,
    TrainingConfig,
    VisionTransformerConfig,
    sized,
)

IMAGENET_1K_EPOCH = 1251  # steps of 1024 pictures


def for_finetuning(model: VisionTransformerConfig, drop_path: float) -> VisionTransformerConfig:
    """The pre-training architecture as fine-tuning has it: a table per block, nothing to mask."""
    shared = model.relative_position == "shared"
    return replace(
        model,
        relative_position="per-block" if shared else model.relative_position,
        mask_token=False,
        drop_path=drop_path,
        initialisation="finetune",
    )


def base_in1k() -> FinetuneRunConfig:
    """Self-supervised base to ImageNet-1k: 100 epochs, batch 1024, lr 4e-3, layer decay 0.65.

    Warm-up 20 epochs, drop path 0.1, weight decay 0.05, mixup 0.8, cutmix 1, smoothing 0.1, erasing
    0.25, RandAugment 9/0.5 (table 13; unilm README: 83.7 top-1 from the 22k model). Not run by us.
    """
    return FinetuneRunConfig(
        model=for_finetuning(sized("base"), drop_path=0.1),
        augment=AugmentConfig(),
        training=TrainingConfig(
            steps=100 * IMAGENET_1K_EPOCH,
            batch=1024,
            lr=4e-3,
            min_lr=1e-6,
            warmup_steps=20 * IMAGENET_1K_EPOCH,
            weight_decay=0.05,
            layer_decay=0.65,
            log_every=50,
            evaluate_every=IMAGENET_1K_EPOCH,
            save_every=IMAGENET_1K_EPOCH,
        ),
    )


def large_in1k() -> FinetuneRunConfig:
    """Self-supervised large to ImageNet-1k: 50 epochs, lr 1e-3, layer decay 0.75 (README: 86.0)."""
    config = base_in1k()
    return replace(
        config,
        model=for_finetuning(sized("large"), drop_path=0.2),
        training=replace(
            config.training,
            steps=50 * IMAGENET_1K_EPOCH,
            lr=1e-3,
            warmup_steps=5 * IMAGENET_1K_EPOCH,
            layer_decay=0.75,
        ),
    )


def small() -> FinetuneRunConfig:
    """A labelled folder and one GPU: `base-in1k` at batch 128, its learning rate scaled with it.

    Weight averaging 0.999 is ours: it steadies small validation sets.
    """
    config = base_in1k()
    return replace(
        config,
        model=for_finetuning(sized("small"), drop_path=0.1),
        training=replace(
            config.training,
            steps=5_000,
            batch=128,
            lr=5e-4,
            warmup_steps=500,
            average=0.999,
            log_every=20,
            evaluate_every=500,
            save_every=500,
        ),
    )


def tiny() -> FinetuneRunConfig:
    """Seconds on a CPU: for tests and first tries. The partner of the `tiny` pre-training."""
    model = replace(sized("tiny", size=32, patch=4), width=48, depth=4, heads=3, hidden=192)
    return FinetuneRunConfig(
        model=for_finetuning(model, drop_path=0.0),
        augment=AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.0, mixup=0.0, cutmix=0.0),
        evaluation_crop=1.0,
        training=TrainingConfig(
            steps=30,
            batch=16,
            lr=1e-3,
            warmup_steps=3,
            layer_decay=0.8,
            log_every=10,
            evaluate_every=15,
            save_every=15,
        ),
    )


RECIPES: dict[str, Callable[[], FinetuneRunConfig]] = {
    "small": small,
    "base-in1k": base_in1k,
    "large-in1k": large_in1k,
    "tiny": tiny,
}
