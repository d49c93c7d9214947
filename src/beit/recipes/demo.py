"""The demo's recipes: satellite tiles of 80 pixels seen at 64, on two CPU cores.

Every number here was chosen on the validation regions; what was tried is in docs/demo.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from beit.config import (
    AugmentConfig,
    BlockMasking,
    DiscreteVAEConfig,
    FinetuneRunConfig,
    LoaderConfig,
    PretrainRunConfig,
    ReconstructConfig,
    TokenizerRunConfig,
    TrainingConfig,
    ViewConfig,
    VisionTransformerConfig,
)
from beit.recipes.finetune import for_finetuning

TILE = 80
SIZE = 64
MEAN, STD = (0.506, 0.543, 0.481), (0.221, 0.169, 0.215)  # of the brightened training tiles
# A crop of 64 pixels from a tile of 80, never resampled, in any of its eight orientations.
CROP = (SIZE / TILE) ** 2
VIEWS = ViewConfig(crop_scale=(CROP, CROP), crop_ratio=(1.0, 1.0), symmetry="all", jitter=0.0)
LOADER = LoaderConfig(workers=1, cache=True)


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
class DemoPlan:
    """All of the demo: the tiles, three kinds of run, and which comparisons are made."""

    tokenizer: TokenizerRunConfig
    pretrain: PretrainRunConfig
    finetune: FinetuneRunConfig
    budgets: tuple[Budget, ...]
    stride: int
    labelled_stride: int


def backbone() -> VisionTransformerConfig:
    """Six blocks of width 128 over a grid of 8 x 8 patches: 1.2 million weights."""
    return VisionTransformerConfig(
        size=(SIZE, SIZE),
        patch=8,
        width=128,
        depth=6,
        heads=4,
        hidden=512,
        absolute_position=True,
        mean=MEAN,
        std=STD,
    )


def full() -> DemoPlan:
    """The study of the README: under two hours on two cores."""
    tokenizer = TokenizerRunConfig(
        recipe="demo",
        tokenizer=DiscreteVAEConfig(
            size=(32, 32), stride=4, codes=256, width=64, narrowest=64, codebook_width=64
        ),
        views=VIEWS,
        objective=ReconstructConfig(
            kl_weight=0.001, balance_weight=0.01, annealing=0.7, kl_warmup=0.2
        ),
        loader=LOADER,
        training=TrainingConfig(
            steps=1500,
            batch=64,
            lr=1e-3,
            min_lr=2e-5,
            warmup_steps=50,
            weight_decay=1e-4,
            betas=(0.9, 0.99),
            clip=1.0,
            log_every=50,
            save_every=250,
        ),
    )
    pretrain = PretrainRunConfig(
        recipe="demo",
        model=backbone(),
        masking=BlockMasking(mask_ratio=0.4, smallest_block=12),
        views=VIEWS,
        evaluation_crop=SIZE / TILE,
        loader=LOADER,
        training=TrainingConfig(
            steps=4000,
            batch=128,
            lr=2e-3,
            min_lr=2e-5,
            warmup_steps=100,
            weight_decay=0.05,
            betas=(0.9, 0.98),
            clip=3.0,
            log_every=50,
            evaluate_every=1000,
            save_every=250,
        ),
    )
    finetune = FinetuneRunConfig(
        recipe="demo",
        model=for_finetuning(backbone(), drop_path=0.1),
        augment=AugmentConfig(
            crop_scale=(CROP, CROP),
            crop_ratio=(1.0, 1.0),
            symmetry="all",
            rand_augment="",
            erasing=0.0,
            mixup=0.0,
            cutmix=0.0,
            smoothing=0.1,
        ),
        evaluation_crop=SIZE / TILE,
        loader=replace(LOADER, workers=0),
        training=TrainingConfig(
            steps=240,
            batch=64,
            lr=1e-3,
            min_lr=1e-5,
            warmup_steps=24,
            weight_decay=0.05,
            layer_decay=0.75,
            clip=1.0,
            log_every=40,
            save_every=240,
            keep=1,
        ),
    )
    return DemoPlan(
        tokenizer=tokenizer,
        pretrain=pretrain,
        finetune=finetune,
        budgets=(
            Budget(per_class=5, steps=160, seeds=5, pretrained_lr=2e-3, scratch_lr=2e-3),
            Budget(per_class=20, steps=240, seeds=5, pretrained_lr=2e-3, scratch_lr=2e-3),
            Budget(per_class=None, steps=400, seeds=5, pretrained_lr=1e-3, scratch_lr=2e-3),
        ),
        stride=10,
        labelled_stride=35,
    )


def short() -> DemoPlan:
    """The same path in a quarter of an hour on two cores: less of everything."""
    plan = full()
    return replace(
        plan,
        tokenizer=replace(plan.tokenizer, training=replace(plan.tokenizer.training, steps=500)),
        pretrain=replace(
            plan.pretrain,
            training=replace(
                plan.pretrain.training, steps=800, warmup_steps=60, evaluate_every=300
            ),
        ),
        budgets=(
            Budget(per_class=5, steps=160, seeds=3, pretrained_lr=2e-3, scratch_lr=2e-3),
            Budget(per_class=20, steps=240, seeds=3, pretrained_lr=2e-3, scratch_lr=2e-3),
        ),
    )
