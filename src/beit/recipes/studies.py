"""Recipes of the studies on real pictures: what is compared, and under which budget.

The backbone is that of the artifact a study starts from, in both arms. Learning rates and layer
decay are like those of the demo; nothing was tuned on these pictures, for either arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from beit.config import (
    AugmentConfig,
    FinetuneRunConfig,
    InferenceConfig,
    JointConfig,
    LinearHeadConfig,
    LoaderConfig,
    ProbeConfig,
    SegmentRunConfig,
    TrainingConfig,
    UperNetConfig,
    sized,
)
from beit.recipes.finetune import for_finetuning


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Fine-tuning at one number of labels per class: steps, seeds, and the two learning rates."""

    per_class: int | None
    steps: int
    seeds: int
    pretrained_lr: float
    scratch_lr: float

    @property
    def labels(self) -> str:
        """Labels per class, as tables say it."""
        return "all" if self.per_class is None else str(self.per_class)


@dataclass(frozen=True, kw_only=True)
class ClassificationPlan:
    """Probes of every block, and fine-tuning at several numbers of labels."""

    probe: ProbeConfig
    finetune: FinetuneRunConfig
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentationPlan:
    """Heads by name, each trained in both arms with every seed."""

    heads: dict[str, SegmentRunConfig]
    pretrained_lr: float
    scratch_lr: float
    seeds: int


def classification() -> ClassificationPlan:
    """Handwritten characters, seen almost whole; letters are never mirrored."""
    loader = LoaderConfig(workers=0, cache=True)
    return ClassificationPlan(
        probe=ProbeConfig(crop=1.0, loader=loader),
        finetune=FinetuneRunConfig(
            recipe="classification-study",
            model=for_finetuning(sized("tiny"), drop_path=0.1),
            augment=AugmentConfig(
                crop_scale=(0.6, 1.0),
                crop_ratio=(0.85, 1.18),
                symmetry="none",
                rand_augment="",
                erasing=0.0,
                mixup=0.0,
                cutmix=0.0,
            ),
            evaluation_crop=1.0,
            loader=loader,
            training=TrainingConfig(
                steps=1500,
                batch=32,
                lr=1e-3,
                min_lr=1e-5,
                warmup_steps=150,
                weight_decay=0.05,
                layer_decay=0.75,
                clip=1.0,
                log_every=50,
                save_every=1500,
                keep=1,
            ),
        ),
        budgets=(Budget(per_class=None, steps=1500, seeds=3, pretrained_lr=1e-3, scratch_lr=1e-3),),
    )


def segmentation() -> SegmentationPlan:
    """Climate groups of the land, pixel by pixel; from above there is no upright."""
    upernet = SegmentRunConfig(
        recipe="segmentation-study",
        model=for_finetuning(sized("tiny", size=64, patch=8), drop_path=0.1),
        head=UperNetConfig(head_channels=64, auxiliary_channels=32),
        joint=JointConfig(
            resize_ratio=(0.8, 1.25), base_side=150, symmetry="all", distortion=False
        ),
        inference=InferenceConfig(stride=(32, 32)),
        loader=LoaderConfig(workers=0, cache=True),
        training=TrainingConfig(
            steps=300,
            batch=32,
            lr=1e-3,
            min_lr=0.0,
            schedule="linear",
            warmup_steps=30,
            weight_decay=0.05,
            layer_decay=0.75,
            clip=1.0,
            log_every=50,
            save_every=300,
            keep=1,
        ),
    )
    return SegmentationPlan(
        heads={"linear head": replace(upernet, head=LinearHeadConfig()), "UperNet": upernet},
        pretrained_lr=2e-3,
        scratch_lr=2e-3,
        seeds=3,
    )
