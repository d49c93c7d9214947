"""The demo's recipes: object scenes of 80 pixels, seen at 64, for two CPU cores.

The alternatives that were tried are in docs/notes/small-budgets.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from beit.config import (
    AugmentConfig,
    DiscreteVAEConfig,
    FinetuneRunConfig,
    JointConfig,
    LinearHeadConfig,
    LoaderConfig,
    MaskConfig,
    PatchCodebookConfig,
    PretrainRunConfig,
    ProbeConfig,
    ReconstructConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
    TrainingConfig,
    UniformMasking,
    ViewConfig,
    VisionTransformerConfig,
)
from beit.recipes import tokenizers
from beit.recipes.backbones import quick
from beit.recipes.finetune import for_finetuning

TILE = 80
SIZE = 64
# A crop of 64 pixels from a scene of 80, never resampled, mirrored half of the time.
CROP = (SIZE / TILE) ** 2
VIEWS = ViewConfig(
    crop_scale=(CROP, CROP), crop_ratio=(1.0, 1.0), symmetry="horizontal", jitter=0.0
)
LOADER = LoaderConfig(workers=1, cache=True)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Fine-tuning at one number of labels per class: steps and seeds."""

    per_class: int | None
    steps: int
    seeds: int

    @property
    def labels(self) -> str:
        """Labels per class, as tables show it."""
        return "all" if self.per_class is None else str(self.per_class)


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """All that the demo does: how many scenes it draws, its runs, and the budgets of both arms."""

    scenes: dict[str, int]
    """How many scenes each set has, by the names in `beit.studies.scenes.Counts`."""
    tokenizer: TokenizerRunConfig
    pretrain: PretrainRunConfig
    probe: ProbeConfig
    finetune: FinetuneRunConfig
    budget: Budget
    longer: int
    """The factor on the steps of a second training from scratch."""
    segment: SegmentRunConfig
    segmenting: Budget


def backbone() -> VisionTransformerConfig:
    """Six blocks of width 128 over a grid of 8 x 8 patches, a plain ViT: 1.2 million weights."""
    return quick(
        VisionTransformerConfig(
            size=(SIZE, SIZE), patch=8, width=128, depth=6, heads=4, hidden=512,
            mean=(0.5,) * 3, std=(0.25,) * 3,
        )
    )  # fmt: skip


def tokenizer() -> TokenizerRunConfig:
    """k-means of oriented gradients: 256 codes in seconds."""
    base = tokenizers.kmeans()
    return replace(
        base,
        tokenizer=PatchCodebookConfig(size=(SIZE, SIZE), patch=8, codes=256),
        views=VIEWS,
        loader=LOADER,
    )


def dvae() -> TokenizerRunConfig:
    """A discrete VAE of 256 codes in minutes: formerly the demo's tokenizer, now the studies'."""
    return TokenizerRunConfig(
        tokenizer=DiscreteVAEConfig(
            size=(32, 32), stride=4, codes=256, width=64, narrowest=64, codebook_width=64
        ),
        views=VIEWS,
        objective=ReconstructConfig(
            kl_weight=0.001, balance_weight=0.01, annealing=0.7, kl_warmup=0.2
        ),
        loader=LOADER,
        training=TrainingConfig(
            steps=500, batch=64, lr=1e-3, min_lr=2e-5, warmup_steps=50, weight_decay=1e-4,
            betas=(0.9, 0.99), clip=1.0, log_every=50, save_every=250,
        ),
    )  # fmt: skip


def pretrain() -> PretrainRunConfig:
    """Uniform masks of 40 %, 1,000 steps of 64 scenes: five epochs."""
    return PretrainRunConfig(
        model=backbone(),
        masking=UniformMasking(mask_ratio=0.4),
        views=VIEWS,
        tokenizer_recipe="kmeans",
        evaluation_crop=SIZE / TILE,
        loader=LOADER,
        training=TrainingConfig(
            steps=1000, batch=64, lr=1.5e-3, min_lr=2e-5, warmup_steps=100, weight_decay=0.05,
            betas=(0.9, 0.98), clip=3.0, log_every=50, save_every=250,
        ),
    )  # fmt: skip


def finetune() -> FinetuneRunConfig:
    """A budget sets the steps and labels. Learning rate and layer decay were the best of four on
    validation, for both arms (docs/notes/small-budgets.md)."""
    return FinetuneRunConfig(
        model=for_finetuning(backbone(), drop_path=0.0),
        augment=AugmentConfig(
            crop_scale=(CROP, CROP), crop_ratio=(1.0, 1.0), symmetry="horizontal", rand_augment="",
            erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1,
        ),
        evaluation_crop=SIZE / TILE,
        loader=replace(LOADER, workers=0),
        training=TrainingConfig(
            steps=250, batch=32, lr=3e-3, min_lr=1e-5, warmup_steps=25, weight_decay=0.05,
            layer_decay=0.75, clip=1.0, log_every=50, save_every=250, keep=1,
        ),
    )  # fmt: skip


def segment() -> SegmentRunConfig:
    """Objects against background, through a linear head."""
    base = finetune()
    return SegmentRunConfig(
        model=base.model,
        head=LinearHeadConfig(),
        masks=MaskConfig(mask_values="binary"),
        joint=JointConfig(
            resize_ratio=(0.8, 1.25), base_side=TILE, symmetry="horizontal", distortion=False
        ),
        loader=base.loader,
        training=replace(base.training, lr=2e-3),
    )


def plan() -> DemoPlan:
    """What `beit demo` does."""
    return DemoPlan(
        scenes={},
        tokenizer=replace(tokenizer(), recipe="demo"),
        pretrain=replace(pretrain(), recipe="demo"),
        probe=ProbeConfig(shots=(10,), seeds=3, epochs=10, attentive_epochs=0),
        finetune=replace(finetune(), recipe="demo"),
        budget=Budget(per_class=10, steps=250, seeds=3),
        longer=3,
        segment=replace(segment(), recipe="demo"),
        segmenting=Budget(per_class=None, steps=200, seeds=1),
    )
