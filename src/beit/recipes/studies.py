"""Recipes of the studies on real images: what is compared, and under which budget.

The backbone is that of the artifact a study starts from, in both arms. What the demo chose on
its validation regions is taken over; nothing else was tuned, for either arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from beit.config import (
    DiscreteVAEConfig,
    FinetuneRunConfig,
    InferenceConfig,
    JointConfig,
    LinearHeadConfig,
    LoaderConfig,
    PretrainRunConfig,
    ProbeConfig,
    QuantiseConfig,
    RandomProjectionConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
    TrainingConfig,
    UperNetConfig,
    VQConfig,
    VQKDConfig,
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
class TokenizersPlan:
    """Targets of pre-training by how they are made, each used with every seed."""

    dvae: TokenizerRunConfig
    vq: TokenizerRunConfig
    vqkd: TokenizerRunConfig
    random: RandomProjectionConfig
    pretrain: PretrainRunConfig
    finetune: FinetuneRunConfig
    budget: Budget
    stride: int
    labelled_stride: int


@dataclass(frozen=True, kw_only=True)
class SegmentationPlan:
    """Heads by name, each trained in both arms with every seed."""

    heads: dict[str, SegmentRunConfig]
    budget: Budget


def classification() -> ClassificationPlan:
    """The demo's fine-tuning with all labels, and the usual probes."""
    return ClassificationPlan(
        probe=ProbeConfig(loader=LoaderConfig(workers=0, cache=True)),
        finetune=demo.finetune(),
        budgets=(Budget(per_class=None, steps=400, seeds=3, pretrained_lr=1e-3, scratch_lr=2e-3),),
    )


def tokenizers() -> TokenizersPlan:
    """Five targets for a backbone of four blocks of width 64, under a short budget.

    All vocabularies have 128 codes on a grid of 8 x 8; all trainings have batches of 64. Rates and
    images are those of the demo, for every target; nothing was tuned.
    """
    steps = replace(
        demo.dvae().training,
        steps=800,
        batch=64,
        warmup_steps=50,
        save_every=400,
        evaluate_every=0,
    )
    loader = LoaderConfig(workers=0, cache=True)
    dvae = replace(
        demo.dvae(),
        tokenizer=DiscreteVAEConfig(
            size=(32, 32), stride=4, codes=128, width=32, narrowest=32, codebook_width=32
        ),
        training=steps,
        loader=loader,
    )
    quantised = QuantiseConfig(revive_every=20)
    vq, vqkd = (
        kind(
            size=(64, 64),
            patch=8,
            width=64,
            depth=3,
            decoder_depth=1,
            heads=4,
            hidden=256,
            codes=128,
            codebook_width=16,
        )
        for kind in (VQConfig, VQKDConfig)
    )
    model = replace(demo.backbone(), width=64, depth=4, heads=4, hidden=256)
    return TokenizersPlan(
        dvae=dvae,
        vq=replace(dvae, tokenizer=vq, objective=quantised),
        vqkd=replace(dvae, tokenizer=vqkd, objective=quantised),
        random=RandomProjectionConfig(
            size=(64, 64), patch=8, codes=128, mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        pretrain=replace(
            demo.pretrain(),
            model=model,
            loader=loader,
            knn_images=0,
            accept_collapsed=True,  # that too would be a result
            training=replace(
                demo.pretrain().training, steps=300, batch=64, warmup_steps=30, evaluate_every=0,
            ),
        ),
        finetune=replace(
            demo.finetune(), model=for_finetuning(model, drop_path=0.0), loader=loader
        ),
        budget=Budget(per_class=20, steps=120, seeds=3, pretrained_lr=2e-3, scratch_lr=2e-3),
        stride=10,
        labelled_stride=35,
    )  # fmt: skip


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
        budget=Budget(per_class=None, steps=300, seeds=3, pretrained_lr=2e-3, scratch_lr=2e-3),
    )
