"""Recipes of tokenizers: discrete VAEs, VQ-KD (BEiT v2), and VQ without a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from beit.config import (
    DiscreteVAEConfig,
    PatchCodebookConfig,
    QuantiseConfig,
    ReconstructConfig,
    TokenizerRunConfig,
    TrainingConfig,
    VQConfig,
    VQKDConfig,
)
from beit.config.data import ViewConfig

VQKD_EPOCH = 2502  # steps of 512 of the 1,281,167 images of ImageNet-1k


def small() -> TokenizerRunConfig:
    """A vocabulary of 1024 for images of 224 pixels, seen at 112 (reference, section 2.2).

    For a folder of some thousand images and one GPU. Widths and vocabulary are ours: on few
    images a large vocabulary stays unused. Learning rate, betas and final temperature lie near
    DALL-E's (appendix A.2), shortened; its KL weight of 6.6/192 is what `kl_weight` says here.
    """
    return TokenizerRunConfig(
        tokenizer=DiscreteVAEConfig(size=(112, 112), stride=8, codes=1024, width=256),
        views=ViewConfig(crop_scale=(0.2, 1.0), jitter=0.0),
        objective=ReconstructConfig(kl_weight=6.6 / 192),
        training=TrainingConfig(
            steps=10_000,
            batch=64,
            lr=5e-4,
            min_lr=1e-5,
            warmup_steps=200,
            weight_decay=1e-4,
            clip=1.0,
            average=0.999,
            evaluate_every=1000,
        ),
    )


def dalle() -> TokenizerRunConfig:
    """The scale of DALL-E's own tokenizer training (arXiv:2102.12092, appendix A.2).

    8192 codes, logit-Laplace likelihood, batch 512, 3,000,000 steps, AdamW 1e-4 to 1.25e-6, weight
    decay 1e-4, temperature 1 to 1/16 over 150,000 steps, KL 6.6 over 5,000, average 0.999, no
    clipping. The rate falls over all steps; in the original over the first 1,200,000. The network
    is our discrete VAE, not DALL-E's. 64 GPUs in the original; not run by us.
    """
    base = small()
    return replace(
        base,
        tokenizer=DiscreteVAEConfig(
            size=(256, 256), stride=8, codes=8192, width=512, likelihood="logit-laplace", blocks=2
        ),
        objective=ReconstructConfig(
            kl_weight=6.6 / 192, annealing=150_000 / 3_000_000, kl_warmup=5_000 / 3_000_000
        ),
        training=replace(
            base.training,
            steps=3_000_000,
            batch=512,
            lr=1e-4,
            min_lr=1.25e-6,
            warmup_steps=0,
            clip=None,
            evaluate_every=10_000,
            save_every=5_000,
        ),
    )


def kmeans() -> TokenizerRunConfig:
    """k-means of oriented gradients of patches: 512 codes in seconds, for small budgets.

    A hundred batches see 400,000 patches, 800 for each code; more batches do not change the codes.
    The learning rate is for the patches that are painted for the codes, the only weights.
    """
    return TokenizerRunConfig(
        tokenizer=PatchCodebookConfig(codes=512),
        views=ViewConfig(crop_scale=(0.2, 1.0), jitter=0.0),
        objective=QuantiseConfig(revive_every=20),
        training=TrainingConfig(
            steps=100, batch=64, lr=3e-2, min_lr=1e-3, warmup_steps=0, log_every=20, save_every=100
        ),
    )


def tiny() -> TokenizerRunConfig:
    """Seconds on a CPU: for tests and first tries. Images of 32 pixels, a grid of 8 x 8."""
    return TokenizerRunConfig(
        tokenizer=DiscreteVAEConfig(
            size=(32, 32), stride=4, codes=32, width=32, narrowest=16, codebook_width=16
        ),
        views=ViewConfig(crop_scale=(0.5, 1.0), jitter=0.0),
        objective=ReconstructConfig(kl_weight=0.01, revive_every=20),
        training=TrainingConfig(
            steps=60,
            batch=16,
            lr=2e-3,
            warmup_steps=5,
            weight_decay=1e-4,
            clip=1.0,
            save_every=30,
        ),
    )


def vqkd() -> TokenizerRunConfig:
    """VQ-KD as released, decoder of 3 blocks: CLIP's features in 8192 codes of 32 values (BEiT v2).

    unilm beit2/TOKENIZER.md: encoder ViT-B/16 at 224, ImageNet-1k, 100 epochs at batch 512, AdamW
    2e-4 (5e-5 for each 128 images) to 1e-5, betas 0.9 and 0.99, weight decay 1e-4, warm-up 10
    epochs, crops of 0.08 to 1, no jitter, no clipping; dead codes are left alone. Expected: 97 % of
    the codes in use. 8 GPUs in the original; not run by us.
    """
    return TokenizerRunConfig(
        tokenizer=VQKDConfig(),
        teacher="clip",
        views=ViewConfig(crop_scale=(0.08, 1.0), jitter=0.0),
        objective=QuantiseConfig(revive_every=0),
        training=TrainingConfig(
            steps=100 * VQKD_EPOCH,
            batch=512,
            lr=2e-4,
            min_lr=1e-5,
            warmup_steps=10 * VQKD_EPOCH,
            weight_decay=1e-4,
            betas=(0.9, 0.99),
            log_every=50,
            evaluate_every=5_000,
            save_every=1_000,
        ),
    )


def vqkd_decoder1() -> TokenizerRunConfig:
    """The same with a decoder of 1 block: 100 % of the codes in use (TOKENIZER.md)."""
    config = vqkd()
    return replace(config, tokenizer=VQKDConfig(decoder_depth=1))


def vqkd_dino() -> TokenizerRunConfig:
    """The same with DINO as the teacher, decoder of 1 block: 100 % in use (TOKENIZER.md)."""
    return replace(vqkd(), tokenizer=VQKDConfig(decoder_depth=1, teacher_width=768), teacher="dino")


def vqkd_small() -> TokenizerRunConfig:
    """VQ-KD for a folder of some thousand images and one GPU; name your --teacher.

    Width 384 over 14 x 14 tokens of 224 pixels, 1024 codes; dead codes are revived, as a small
    batch leaves many. Rates are those of `vqkd`, at batch 64 and with clipping; sizes are ours.
    """
    base = vqkd()
    return replace(
        base,
        tokenizer=VQKDConfig(width=384, depth=6, decoder_depth=1, heads=6, hidden=1536, codes=1024),
        teacher="",
        objective=QuantiseConfig(revive_every=100),
        training=replace(
            base.training, steps=10_000, batch=64, warmup_steps=500, clip=1.0, evaluate_every=1000
        ),
    )


def vq() -> TokenizerRunConfig:
    """The parts of `vqkd-small` without a teacher: the tokens rebuild pixels.

    There is no perceptual loss: it needs a trained network, which could be the teacher instead.
    """
    base = vqkd_small()
    return replace(
        base,
        tokenizer=VQConfig(width=384, depth=6, decoder_depth=3, heads=6, hidden=1536, codes=1024),
    )


def vqkd_tiny() -> TokenizerRunConfig:
    """VQ-KD in seconds on a CPU, for tests; name a --teacher with a grid of 8 x 8."""
    base = tiny()
    return replace(
        base,
        tokenizer=VQKDConfig(
            size=(32, 32), patch=4, width=48, depth=2, decoder_depth=1, heads=3, hidden=96,
            codes=32, codebook_width=8,
        ),
        objective=QuantiseConfig(revive_every=20),
    )  # fmt: skip


def vq_tiny() -> TokenizerRunConfig:
    """VQ in seconds on a CPU, for tests: images of 32 pixels, 8 x 8 tokens."""
    return replace(
        vqkd_tiny(),
        tokenizer=VQConfig(
            size=(32, 32), patch=4, width=48, depth=2, decoder_depth=1, heads=3, hidden=96,
            codes=32, codebook_width=8,
        ),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], TokenizerRunConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        small, kmeans, dalle, vqkd, vqkd_decoder1, vqkd_dino, vqkd_small, vq, tiny, vqkd_tiny,
        vq_tiny,
    )
}  # fmt: skip
