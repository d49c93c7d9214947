"""Recipes of classification, and of probes of frozen features. With `--init` the architecture comes
from the artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

from beit.config import (
    AugmentConfig,
    FinetuneRunConfig,
    ProbeConfig,
    TrainingConfig,
    VisionTransformerConfig,
    sized,
)
from beit.config.model import IMAGENET_MEAN, IMAGENET_STD
from beit.recipes import backbones

PRETRAINING_SIZE = 224
Values = TypeVar("Values")
Run = TypeVar("Run")


def for_finetuning(model: VisionTransformerConfig, drop_path: float) -> VisionTransformerConfig:
    """The pre-training architecture as it is fine-tuned: a position bias table per block instead of
    a shared one, and no mask token."""
    shared = model.relative_position == "shared"
    return replace(
        model,
        relative_position="per-block" if shared else model.relative_position,
        mask_token=False,
        drop_path=drop_path,
        initialisation="finetune" if model.initialisation == "pretrain" else model.initialisation,
    )


def for_classifying(
    backbone: VisionTransformerConfig, recipe: FinetuneRunConfig
) -> VisionTransformerConfig:
    """The backbone as a recipe fine-tunes it: at its own size, or at the recipe's if that is larger
    than the size of pre-training."""
    model = for_finetuning(backbone, recipe.model.drop_path)
    enlarges = min(recipe.model.size) > PRETRAINING_SIZE
    return replace(model, size=recipe.model.size) if enlarges else model


class Row(NamedTuple):
    """One published fine-tuning. What all of them have in common is in `build`."""

    backbone: str
    batch: int
    lr: float
    warmup_epochs: int
    epochs: int
    layer_decay: float
    drop_path: float
    weight_decay: float
    mixed: bool
    """Whether it has mixup 0.8 and cutmix 1, or neither."""
    source: str
    """Where it was published, and the top-1 accuracy stated there; the recipe's description."""
    size: int = PRETRAINING_SIZE
    images: int = 1_281_167
    erasing: float = 0.25
    min_lr: float = 1e-6
    imagenet_statistics: bool = False
    """Whether pixels are normalised by ImageNet's mean and deviation, as for v2; else by 0.5."""
    plain: bool = False
    """Whether it is the ViT of the paper's tables, with absolute positions and no layer scale; else
    it is BEiT+, as released."""


START = "beit/get_started_for_image_classification.md"
V2 = "beit2/get_started_for_image_classification.md"
B, L, IN22K = "base", "large", 14_197_122  # images of ImageNet-22k
RATES = (
    "The paper gives the size and 10 epochs; all else is as DeiT was fine-tuned at 384 (rate, "
    "decay and batch: facebookresearch/deit issue 64; 5 epochs of warm-up: its default), with the "
    "drop path of the first stage. A plain ViT"
)

PUBLISHED: dict[str, Row] = {
    "base-in1k": Row(B, 1024, 4e-3, 20, 100, 0.65, 0.1, 0.05, True,
        f"Self-supervised to ImageNet-1k ({START}): 83.7. Table 13, for models that saw "
        "ImageNet-1k only (83.2), has the same but searches the rate in {2, 3, 4, 5}e-3"),
    "large-in1k": Row(L, 1024, 1e-3, 5, 50, 0.75, 0.2, 0.05, True,
        f"Self-supervised to ImageNet-1k ({START}): 86.0. Table 13, for models that saw "
        "ImageNet-1k only (85.2), searches the rate in {2, 3, 4, 5}e-3 and has a drop path of 0.1"),
    "base-in1k-384": Row(B, 512, 5e-6, 5, 10, 1.0, 0.1, 1e-8, True,
        f"From `base-in1k` to 384 pixels (section 3.1 of the paper): 84.6 (table 1). {RATES}",
        size=384, min_lr=5e-6, plain=True),
    "large-in1k-384": Row(L, 512, 5e-6, 5, 10, 1.0, 0.2, 1e-8, True,
        f"From `large-in1k` to 384 pixels (section 3.1 of the paper): 86.3 (table 1). {RATES}",
        size=384, min_lr=5e-6, plain=True),
    "base-in22k": Row(B, 4096, 3e-3, 5, 90, 0.65, 0.2, 0.05, False,
        f"Self-supervised to ImageNet-22k ({START}): not evaluated", images=IN22K),
    "large-in22k": Row(L, 2048, 2e-3, 5, 90, 0.75, 0.2, 0.05, False,
        f"Self-supervised to ImageNet-22k ({START}): not evaluated", images=IN22K),
    "base-in22k-in1k": Row(B, 512, 2e-5, 5, 30, 0.85, 0.1, 1e-8, False,
        f"From `base-in22k` to ImageNet-1k ({START}): 85.2"),
    "base-in22k-in1k-384": Row(B, 512, 2e-5, 5, 30, 0.85, 0.1, 1e-8, False,
        f"From `base-in22k` to ImageNet-1k at 384 ({START}): 86.820", size=384),
    "large-in22k-in1k": Row(L, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, False,
        f"From `large-in22k` to ImageNet-1k ({START}): 87.396"),
    "large-in22k-in1k-384": Row(L, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, False,
        f"From `large-in22k` to ImageNet-1k at 384 ({START}): 88.408", size=384),
    "large-in22k-in1k-512": Row(L, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, False,
        "From `large-in22k` to ImageNet-1k at 512 (beit/README.md): 88.60, but no command is "
        "published; these are the values for 384", size=512),
    "base-cifar100": Row(B, 512, 4e-3, 20, 150, 0.65, 0.1, 0.3, True,
        "Self-supervised to CIFAR-100 (tables 11 and 13), a plain ViT: 90.1; the rate is that of "
        "ImageNet-1k, searched in {2, 3, 4, 5}e-3", images=50_000, erasing=0.0, plain=True),
    "v2-base-in1k": Row(B, 1024, 5e-4, 20, 100, 0.6, 0.2, 0.05, True,
        f"From 1600 epochs of BEiT v2 to ImageNet-1k ({V2}): 85.5", imagenet_statistics=True),
    "v2-base-300-in1k": Row(B, 1024, 5e-4, 20, 100, 0.65, 0.1, 0.05, True,
        f"From 300 epochs of BEiT v2 to ImageNet-1k ({V2}): 85.0", imagenet_statistics=True),
    "v2-large-in1k": Row(L, 1024, 2e-4, 5, 50, 0.8, 0.2, 0.05, True,
        f"From 1600 epochs of BEiT v2 to ImageNet-1k ({V2}): 87.3", imagenet_statistics=True),
    "v2-large-300-in1k": Row(L, 1024, 5e-4, 5, 50, 0.8, 0.2, 0.05, True,
        f"From 300 epochs of BEiT v2 to ImageNet-1k ({V2}): 86.6", imagenet_statistics=True),
    "v2-base-in21k": Row(B, 4096, 6e-4, 20, 90, 0.75, 0.1, 0.05, True,
        f"From BEiT v2 to ImageNet-21k ({V2}): not evaluated", images=IN22K,
        imagenet_statistics=True),
    "v2-large-in21k": Row(L, 4096, 6e-4, 20, 90, 0.75, 0.2, 0.05, True,
        f"From BEiT v2 to ImageNet-21k ({V2}): not evaluated", images=IN22K,
        imagenet_statistics=True),
    "v2-base-in21k-in1k": Row(B, 1024, 5e-5, 20, 30, 0.75, 0.1, 0.05, False,
        f"From `v2-base-in21k` to ImageNet-1k ({V2}): 86.458", imagenet_statistics=True),
    "v2-large-in21k-in1k": Row(L, 1024, 7e-5, 5, 20, 0.8, 0.25, 0.05, False,
        f"From `v2-large-in21k` to ImageNet-1k ({V2}): 88.370", imagenet_statistics=True),
}  # fmt: skip


def build(row: Row) -> FinetuneRunConfig:
    """The config of a row. `--init` replaces its model, except for the drop path and for a size
    larger than 224.

    All rows have smoothing 0.1, RandAugment 9/0.5, crops of 0.08 to 1, and no clipping: the 22k
    commands ask for clipping, but DeepSpeed never read the option (reference, section 9.2). Table
    13 ticks repeated augmentation; the code has none, and its authors used none (unilm issue 554).
    """
    epoch = row.images // row.batch
    backbone = sized(row.backbone, size=row.size)
    model = for_finetuning(
        backbones.plain(backbone) if row.plain else backbone, drop_path=row.drop_path
    )
    if row.imagenet_statistics:
        model = replace(model, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return FinetuneRunConfig(
        model=model,
        augment=AugmentConfig(
            erasing=row.erasing,
            mixup=0.8 if row.mixed else 0.0,
            cutmix=1.0 if row.mixed else 0.0,
        ),
        training=TrainingConfig(
            steps=row.epochs * epoch,
            batch=row.batch,
            lr=row.lr,
            min_lr=row.min_lr,
            warmup_steps=row.warmup_epochs * epoch,
            weight_decay=row.weight_decay,
            layer_decay=row.layer_decay,
            log_every=50,
            evaluate_every=epoch,
            save_every=epoch,
        ),
    )


def from_row(build: Callable[[Values], Run], row: Values, description: str) -> Callable[[], Run]:
    """A recipe from one row of a table.

    Args:
        build: Builds the config of a row.
        row: The row.
        description: The docstring of the recipe, whose first line the help shows.
    """
    recipe = partial(build, row)
    recipe.__doc__ = description
    return recipe


def small() -> FinetuneRunConfig:
    """A labelled folder and one GPU: `base-in1k` at batch 128, its learning rate scaled with it.

    Weight averaging 0.999 is ours: it steadies small validation sets.
    """
    config = build(PUBLISHED["base-in1k"])
    return replace(
        config,
        model=for_finetuning(backbones.small(), drop_path=0.1),
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
    return FinetuneRunConfig(
        model=for_finetuning(backbones.tiny(), drop_path=0.0),
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
    "tiny": tiny,
} | {name: from_row(build, row, f"{row.source}. Not run by us.") for name, row in PUBLISHED.items()}


def probe_small() -> ProbeConfig:
    """A labelled folder: features standardised, since few steps cannot undo their scales. Ours."""
    return ProbeConfig()


def probe_published() -> ProbeConfig:
    """The released code: raw features, AdamW 4e-3, decay 1e-4, batch 1024, 100 epochs.

    unilm, run_linear_eval.py. The paper (appendix D) has 50 epochs, and found block 9 (base) and 14
    (large) best: 56.7 and 73.5 top-1 on ImageNet (table 9). Not run by us.
    """
    return ProbeConfig(learning_rates=(4e-3,), batch=1024, standardise=False)


def probe_tiny() -> ProbeConfig:
    """Seconds on a CPU: for tests and first tries."""
    return ProbeConfig(
        learning_rates=(1e-3, 1e-2),
        epochs=5,
        batch=16,
        neighbours=(1, 5),
        temperatures=(0.07, 0.2),
        attentive_epochs=2,
        shots=(1, 2),
        seeds=2,
    )


PROBES: dict[str, Callable[[], ProbeConfig]] = {
    "small": probe_small,
    "published": probe_published,
    "tiny": probe_tiny,
}
