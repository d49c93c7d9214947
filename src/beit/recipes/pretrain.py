"""Recipes of pre-training: masked image modeling, alone or together with a contrastive loss on
class tokens (`contrastive-`), and visible-only prediction (`visible-`).

"BEiT" is the plain ViT of the paper's tables 1 to 4, "BEiT+" the variant with relative position
bias and layer scale of appendix A that the released 22k models have; the names of plain models
contain `-plain`. Recipes that begin with `visible-` are not BEiT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from beit.config import (
    AggregationConfig,
    BlockMasking,
    ContrastiveConfig,
    MaskedConfig,
    PretrainRunConfig,
    PublishedBlockMasking,
    TrainingConfig,
    UniformMasking,
    ViewConfig,
    VisibleConfig,
    VisionTransformerConfig,
    sized,
)
from beit.config.model import IMAGENET_MEAN, IMAGENET_STD
from beit.recipes import backbones
from beit.recipes.backbones import plain

IMAGENET_1K_EPOCH = 625  # steps of 2048 images
IMAGENET_22K_EPOCH = 6932  # 14,197,122 images in steps of 2048


def for_pretraining(
    backbone: VisionTransformerConfig, recipe: PretrainRunConfig
) -> VisionTransformerConfig:
    """A backbone that was trained before, set up for more pre-training: drop path, layer scale and
    initialisation are the recipe's, the latter two for what is new, such as aggregation blocks."""
    scaled = backbone.layer_scale is not None and recipe.model.layer_scale is not None
    return replace(
        backbone,
        layer_scale=recipe.model.layer_scale if scaled else backbone.layer_scale,
        mask_token=recipe.objective.shows_hidden,
        drop_path=recipe.model.drop_path,
        initialisation=recipe.model.initialisation,
    )


def base_in22k() -> PretrainRunConfig:
    """BEiT+ base on ImageNet-22k, as released: 150 epochs, batch 2048 (unilm README, row 1).

    lr 1.5e-3, warm-up 10,000 steps, clip 3, drop path 0.1, layer scale 0.1, 75 of 196 patches at
    most, mean and std 0.5. Fine-tuned on ImageNet-1k: 83.7 top-1 (README). 16 GPUs; not run by us.
    """
    return PretrainRunConfig(
        model=replace(sized("base"), drop_path=0.1),
        masking=PublishedBlockMasking(),
        views=ViewConfig(),
        training=TrainingConfig(
            steps=150 * IMAGENET_22K_EPOCH,
            batch=2048,
            lr=1.5e-3,
            min_lr=1e-5,
            warmup_steps=10_000,
            weight_decay=0.05,
            clip=3.0,
            log_every=50,
            evaluate_every=5_000,
            save_every=1_000,
        ),
    )


def _on_in1k(size: str) -> VisionTransformerConfig:
    return replace(sized(size), drop_path=0.1, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def base_in1k() -> PretrainRunConfig:
    """BEiT+ base on ImageNet-1k: 800 epochs, ImageNet mean and std (unilm README, row 2).

    The command as printed there trains BEiT+; the model of the paper's tables and the released file
    are `base-plain-in1k`.
    """
    config = base_in22k()
    return replace(
        config,
        model=_on_in1k("base"),
        training=replace(
            config.training,
            steps=800 * IMAGENET_1K_EPOCH,
            warmup_steps=10 * IMAGENET_1K_EPOCH,
        ),
    )


def base_plain_in1k() -> PretrainRunConfig:
    """The paper's base model on ImageNet-1k: plain ViT, absolute positions (tables 1 and 12).

    800 epochs; fine-tuned 83.2 top-1 at 224 (table 1). About five days on 16 V100 (section 2.5).
    The paper does not state mean and std: ImageNet's are those of the README. Masks are drawn as in
    the code, at most 75 patches with log-uniform aspect ratios, whereas algorithm 1 goes beyond
    40 % of the patches and draws aspect ratios uniformly.
    """
    config = base_in1k()
    return replace(config, model=plain(config.model))


def large_plain_in1k() -> PretrainRunConfig:
    """The paper's large model on ImageNet-1k: clip 1 (table 12); 85.2 top-1 at 224 (table 1).

    No command was released; all else is as for `base-plain-in1k`.
    """
    config = base_plain_in1k()
    training = replace(config.training, clip=1.0)
    return replace(config, model=plain(_on_in1k("large")), training=training)


def _ablation(config: PretrainRunConfig) -> PretrainRunConfig:
    """300 epochs, as all rows of table 4."""
    return replace(config, training=replace(config.training, steps=300 * IMAGENET_1K_EPOCH))


def ablation_beit() -> PretrainRunConfig:
    """Table 4, first row: 82.86 top-1 after 300 epochs."""
    return _ablation(base_plain_in1k())


def ablation_uniform() -> PretrainRunConfig:
    """Table 4: random instead of block masks, 82.77."""
    return replace(ablation_beit(), masking=UniformMasking())


def ablation_pixels() -> PretrainRunConfig:
    """Table 4: regress the pixels of masked patches instead of tokens, 81.04."""
    return replace(ablation_beit(), objective=MaskedConfig(target="pixels"))


def ablation_pixels_uniform() -> PretrainRunConfig:
    """Table 4: pixels and random masks, 80.50."""
    return replace(ablation_pixels(), masking=UniformMasking())


def ablation_all_tokens() -> PretrainRunConfig:
    """Table 4: predict the tokens of all patches, masked or not, 82.59."""
    return replace(ablation_beit(), objective=MaskedConfig(predict="all"))


def ablation_no_masking() -> PretrainRunConfig:
    """Table 4: nothing hidden, predict all tokens, 81.67."""
    return replace(ablation_all_tokens(), masking=UniformMasking(mask_ratio=0.0))


def base_v2_in1k() -> PretrainRunConfig:
    """BEiT v2 base on ImageNet-1k, 1600 epochs: VQ-KD tokens, patch aggregation from block 9.

    unilm beit2/PRETRAINING.md: batch 2048, lr 1.5e-3, warm-up 10 epochs, clip 3, betas 0.9 and
    0.999, drop path 0.1, layer scale 0.1, exactly 75 masked patches, crops of 0.2 to 1; two extra
    blocks, head shared. The tokenizer is that of `beit tokenizer vqkd`, or a released one. Expected
    after fine-tuning: 85.5 top-1. 16 GPUs; not run by us.
    """
    config = base_in1k()
    return replace(
        config,
        masking=BlockMasking(),
        views=ViewConfig(crop_scale=(0.2, 1.0)),
        aggregation=AggregationConfig(early_layer=9),
        training=replace(config.training, steps=1600 * IMAGENET_1K_EPOCH),
    )


def base_v2_in1k_300() -> PretrainRunConfig:
    """BEiT v2 base, 300 epochs: second beta 0.98, no drop path; 85.0 top-1 (PRETRAINING.md)."""
    return _v2_in_300(base_v2_in1k())


def large_v2_in1k() -> PretrainRunConfig:
    """BEiT v2 large, 1600 epochs: block 21 of 24, layer scale 1e-5; 87.3 (PRETRAINING.md)."""
    config = base_v2_in1k()
    aggregation = AggregationConfig(early_layer=21)
    return replace(config, model=_on_in1k("large"), aggregation=aggregation)


def large_v2_in1k_300() -> PretrainRunConfig:
    """BEiT v2 large, 300 epochs; 86.6 top-1 (PRETRAINING.md)."""
    return _v2_in_300(large_v2_in1k())


def _v2_in_300(config: PretrainRunConfig) -> PretrainRunConfig:
    return replace(
        config,
        model=replace(config.model, drop_path=0.0),
        training=replace(config.training, steps=300 * IMAGENET_1K_EPOCH, betas=(0.9, 0.98)),
    )


def small() -> PretrainRunConfig:
    """A folder of images and one GPU: a plain ViT of 22 million weights, 224 pixels.

    Settings of `base-plain-in1k` at batch 512 with the learning rate halved, as its authors advise
    for that batch (unilm issue 383); uniform masks, which learn sooner (docs/notes/
    small-budgets.md); 20,000 steps, which you can change to what you can wait for.
    """
    return PretrainRunConfig(
        model=replace(backbones.small(), drop_path=0.1),
        masking=UniformMasking(),
        training=TrainingConfig(
            steps=20_000,
            batch=512,
            lr=7.5e-4,
            min_lr=1e-5,
            warmup_steps=1_000,
            clip=3.0,
            evaluate_every=2_000,
        ),
    )


def tiny() -> PretrainRunConfig:
    """Seconds on a CPU: for tests and first tries. Images of 32 pixels, patches of 4."""
    return PretrainRunConfig(
        model=backbones.tiny(),
        masking=UniformMasking(mask_ratio=0.4),
        views=ViewConfig(crop_scale=(0.5, 1.0), jitter=0.2),
        tokenizer_recipe="tiny",
        knn_images=64,
        training=TrainingConfig(
            steps=30, batch=16, lr=1e-3, warmup_steps=3, clip=3.0, log_every=10, save_every=15
        ),
    )


def _visible_only(config: PretrainRunConfig, objective: VisibleConfig) -> PretrainRunConfig:
    """The same backbone, three quarters of the patches hidden, as in MAE."""
    return replace(
        config,
        model=replace(config.model, mask_token=False),
        masking=UniformMasking(mask_ratio=0.75),
        objective=objective,
    )


def visible_small() -> PretrainRunConfig:
    """`small` as visible-only prediction, which is not BEiT: the backbone computes a quarter of the
    patches, two blocks of width 256 predict the tokens of the others.

    The hidden fraction and the light decoder are those of MAE (arXiv:2111.06377, section 4.1 and
    table 1: one or two blocks fine-tune as well as eight), with visual tokens instead of pixels;
    not run by us at this size.
    """
    return _visible_only(small(), VisibleConfig())


def visible_tiny() -> PretrainRunConfig:
    """`tiny` as visible-only prediction: seconds on a CPU."""
    return _visible_only(tiny(), VisibleConfig(decoder_width=24, decoder_depth=1, decoder_heads=3))


def contrastive_small() -> PretrainRunConfig:
    """`small` with a contrast of class tokens beside the masked tokens.

    Weight, temperature and second view are those of `ContrastiveConfig`. On the demo's scenes and
    backbone it did worse than plain BEiT (docs/notes/quality.md); not run by us at this size.
    """
    return replace(small(), objective=ContrastiveConfig())


def contrastive_tiny() -> PretrainRunConfig:
    """`tiny` with a contrast of class tokens: seconds on a CPU."""
    return replace(tiny(), objective=ContrastiveConfig())


RECIPES: dict[str, Callable[[], PretrainRunConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        small, base_in1k, base_in22k, base_plain_in1k, large_plain_in1k, base_v2_in1k,
        base_v2_in1k_300, large_v2_in1k, large_v2_in1k_300, ablation_beit, ablation_uniform,
        ablation_pixels, ablation_pixels_uniform, ablation_all_tokens, ablation_no_masking, tiny,
        visible_small, visible_tiny, contrastive_small, contrastive_tiny,
    )
}  # fmt: skip
