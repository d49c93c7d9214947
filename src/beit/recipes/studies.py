"""Recipes of the studies on real pictures: what is compared, and under which budget.

The backbone is that of the artifact a study starts from, in both arms. What the demo chose on
its validation regions is taken over; nothing else was tuned, for either arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from beit.config import (
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
from beit.recipes import demo
from beit.recipes.demo import Budget
from beit.recipes.finetune import for_finetuning


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
    """The demo's fine-tuning with all labels, and the usual probes."""
    return ClassificationPlan(
        probe=ProbeConfig(loader=LoaderConfig(workers=0, cache=True)),
        finetune=demo.full().finetune,
        budgets=(Budget(per_class=None, steps=400, seeds=3, pretrained_lr=1e-3, scratch_lr=2e-3),),
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
