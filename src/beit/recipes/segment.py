"""Recipes of semantic segmentation. With `--init` the architecture comes from the artifact, except
for the size, which is that of the crop.

The published ones are from unilm, `beit/semantic_segmentation/configs` and, for v2, the same folder
in `beit2`: ADE20K on 8 GPUs, batch 16, 160,000 updates. None of them was run by us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from beit.config import (
    InferenceConfig,
    JointConfig,
    LinearHeadConfig,
    MaskConfig,
    SegmentationHeadConfig,
    SegmentRunConfig,
    SETRConfig,
    TrainingConfig,
    UperNetConfig,
    VisionTransformerConfig,
    sized,
)
from beit.config.model import IMAGENET_MEAN, IMAGENET_STD
from beit.recipes import backbones
from beit.recipes.finetune import PRETRAINING_SIZE, for_finetuning, from_row


def for_segmenting(
    backbone: VisionTransformerConfig, recipe: SegmentRunConfig
) -> VisionTransformerConfig:
    """The backbone as a recipe fine-tunes it: with a position bias table per block, and the
    recipe's crop as its size, each side rounded to the nearest multiple of the patch. If the
    backbone's own size is smaller it is kept, unless the crop is larger than the size of
    pre-training, as in the published recipes.

    Pixel statistics are the backbone's own, unless the recipe has ImageNet's and the backbone three
    channels: so the published segmenters were trained, whatever their backbones had seen.
    """
    sides = recipe.model.size
    if min(sides) <= PRETRAINING_SIZE:
        sides = min(sides[0], backbone.size[0]), min(sides[1], backbone.size[1])
    height, width = (max(round(side / backbone.patch), 2) * backbone.patch for side in sides)
    model = replace(for_finetuning(backbone, recipe.model.drop_path), size=(height, width))
    if recipe.model.mean == IMAGENET_MEAN and backbone.channels == 3:
        return replace(model, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return model


class Row(NamedTuple):
    """One published segmenter. What all of them have in common is in `build`."""

    backbone: str
    crop: int
    lr: float
    layer_decay: float
    drop_path: float
    layer_scale: float | None
    """None for the plain ViT of the paper's tables, which also has absolute positions; else the
    backbone is BEiT+, as released."""
    source: str
    """What it starts from and, if published, the mIoU to expect and its source; this is the
    description of the recipe."""
    head: SegmentationHeadConfig = UperNetConfig()


B, L = "base", "large"
PUBLISHED: dict[str, Row] = {
    "base-ade20k": Row(B, 512, 7e-4, 0.65, 0.1, 0.1,
        "Self-supervised base on ADE20K, UperNet: crop 512, lr 7e-4, layer decay 0.65, drop path "
        "0.1.\n\n    The file's name ends in `_pt`; its result is not in the README.\n    "),
    "base-ade20k-22k": Row(B, 512, 3e-5, 0.9, 0.1, 0.1,
        "Base tuned on ImageNet-22k, on ADE20K, UperNet: crop 512, lr 3e-5, layer decay 0.9."),
    "base-640-ade20k-22k": Row(B, 640, 3e-5, 0.9, 0.1, 0.1,
        "The same with crop 640: 53.6 mIoU, 54.2 with multi-scale and flip (README)."),
    "large-ade20k-22k": Row(L, 512, 2e-5, 0.95, 0.2, 1e-6,
        "Large tuned on ImageNet-22k, on ADE20K: crop 512, lr 2e-5, layer decay 0.95, drop path "
        ".2."),
    "large-640-ade20k-22k": Row(L, 640, 2e-5, 0.95, 0.2, 1e-6,
        """The same with crop 640: 56.7 mIoU, 57.0 with multi-scale and flip (README).

    Its 320,000 iterations and 3,000 of warm-up each hold half a batch: 160,000 and 1,500 updates.
    """),
    "base-setr-ade20k": Row(B, 512, 1e-3, 0.65, 0.1, None,
        """Self-supervised base, a plain ViT, on ADE20K with the paper's SETR-PUP head: lr 1e-3
    (tables 3 and 14).

    Not released; the pipeline is that of the released configs, which resize positions otherwise
    than table 14: by its spline, not bilinearly.
    """, head=SETRConfig()),
    "v2-base-ade20k": Row(B, 512, 5e-5, 0.75, 0.15, 0.1,
        "Self-supervised base of BEiT v2 on ADE20K: lr 5e-5, layer decay 0.75; 53.1 mIoU "
        "(README)."),
    "v2-base-ade20k-21k": Row(B, 512, 5e-5, 0.85, 0.15, 0.1,
        "Base of BEiT v2 tuned on ImageNet-21k: lr 5e-5, layer decay 0.85; 53.5 mIoU (README)."),
    "v2-large-ade20k": Row(L, 512, 4e-5, 0.9, 0.2, 1e-6,
        "Self-supervised large of BEiT v2 on ADE20K: lr 4e-5, layer decay 0.9; 56.7 mIoU "
        "(README)."),
    "v2-large-ade20k-21k": Row(L, 512, 3e-5, 0.9, 0.2, 1e-6,
        "Large of BEiT v2 tuned on ImageNet-21k: lr 3e-5, layer decay 0.9; 57.5 mIoU (README)."),
}  # fmt: skip


def build(row: Row) -> SegmentRunConfig:
    """The config of a row, with the settings that all of them share."""
    backbone = replace(sized(row.backbone, size=row.crop), layer_scale=row.layer_scale)
    model = replace(
        for_finetuning(
            backbones.plain(backbone) if row.layer_scale is None else backbone, row.drop_path
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return SegmentRunConfig(
        model=model,
        head=row.head,
        masks=MaskConfig(layout="ade20k"),
        inference=InferenceConfig(short_side=row.crop),
        training=TrainingConfig(
            steps=160_000,
            batch=16,
            lr=row.lr,
            min_lr=0.0,
            schedule="linear",
            warmup_steps=1500,
            weight_decay=0.05,
            layer_decay=row.layer_decay,
            log_every=50,
            evaluate_every=16_000,
            save_every=4_000,
        ),
    )


def small() -> SegmentRunConfig:
    """A folder of images and masks and one GPU: crops of 224 pixels, 5,000 updates of 16.

    `base-ade20k` with a head of 256 channels; crop, length and weight average are ours.
    """
    config = build(PUBLISHED["base-ade20k"])
    return replace(
        config,
        model=for_finetuning(backbones.small(), drop_path=0.1),
        head=UperNetConfig(head_channels=256),
        masks=MaskConfig(),
        inference=InferenceConfig(),
        training=replace(
            config.training,
            steps=5_000,
            warmup_steps=250,
            average=0.999,
            log_every=20,
            evaluate_every=500,
            save_every=500,
        ),
    )


def small_linear() -> SegmentRunConfig:
    """`small` with a linear head on the patches of the backbone, which is fine-tuned."""
    return replace(small(), head=LinearHeadConfig())


def small_setr() -> SegmentRunConfig:
    """`small` with the SETR-PUP head."""
    return replace(small(), head=SETRConfig())


def tiny() -> SegmentRunConfig:
    """Seconds on a CPU: for tests and first tries. The partner of the `tiny` pre-training."""
    return SegmentRunConfig(
        model=for_finetuning(backbones.tiny(), drop_path=0.0),
        head=UperNetConfig(head_channels=16, auxiliary_channels=8),
        joint=JointConfig(resize_ratio=(0.75, 1.5)),
        training=TrainingConfig(
            steps=30,
            batch=8,
            lr=1e-3,
            min_lr=0.0,
            schedule="linear",
            warmup_steps=3,
            layer_decay=0.8,
            log_every=10,
            evaluate_every=15,
            save_every=15,
        ),
    )


def tiny_linear() -> SegmentRunConfig:
    """`tiny` with a linear head."""
    return replace(tiny(), head=LinearHeadConfig())


RECIPES: dict[str, Callable[[], SegmentRunConfig]] = {
    "small": small,
    "small-linear": small_linear,
    "small-setr": small_setr,
    **{name: from_row(build, row, row.source) for name, row in PUBLISHED.items()},
    "tiny": tiny,
    "tiny-linear": tiny_linear,
}
