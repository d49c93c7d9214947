"""Recipes of discrete VAEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from beit.config import DiscreteVAEConfig, ReconstructConfig, TokenizerRunConfig, TrainingConfig
from beit.config.data import ViewConfig


def small() -> TokenizerRunConfig:
    """A vocabulary of 1024 for pictures of 224 pixels, seen at 112 (reference, section 2.2).

    For a folder of some thousand pictures and one GPU. Widths and vocabulary are ours: on few
    pictures a large vocabulary stays unused. Learning rate, betas and final temperature lie near
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
    decay 1e-4, temperature 1 to 1/16 over 150,000 steps, KL 6.6 over 5,000, average 0.999. The
    network is our discrete VAE, not DALL-E's. 64 GPUs in the original; not run by us.
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
            evaluate_every=10_000,
            save_every=5_000,
        ),
    )


def tiny() -> TokenizerRunConfig:
    """Seconds on a CPU: for tests and first tries. Pictures of 32 pixels, a grid of 8 x 8."""
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


RECIPES: dict[str, Callable[[], TokenizerRunConfig]] = {
    "small": small,
    "dalle": dalle,
    "tiny": tiny,
}
