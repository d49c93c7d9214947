"""Visual tokenizers, and how one is made from its config."""

from __future__ import annotations

from functools import singledispatch

from beit.config.tokenizer import (
    DalleConfig,
    DiscreteVAEConfig,
    PatchCodebookConfig,
    RandomProjectionConfig,
    TokenizerConfig,
    VQConfig,
    VQKDConfig,
)
from beit.errors import ConfigError
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.dalle import DalleTokenizer
from beit.tokenizers.dvae import DiscreteVAE
from beit.tokenizers.patches import PatchCodebook, RandomProjection
from beit.tokenizers.vq import VQKDTokenizer, VQTokenizer


@singledispatch
def build_tokenizer(config: TokenizerConfig) -> VisualTokenizer:
    """A tokenizer with its initial weights. One of your own is registered like those below.

    Raises:
        ConfigError: No tokenizer is registered for the type of `config`.
    """
    raise ConfigError(
        f"no tokenizer is registered for {type(config).__name__}",
        remedy="register it: build_tokenizer.register(YourConfig, YourTokenizer)",
    )


build_tokenizer.register(DiscreteVAEConfig, DiscreteVAE)
build_tokenizer.register(DalleConfig, DalleTokenizer)
build_tokenizer.register(PatchCodebookConfig, PatchCodebook)
build_tokenizer.register(VQConfig, VQTokenizer)
build_tokenizer.register(VQKDConfig, VQKDTokenizer)
build_tokenizer.register(RandomProjectionConfig, RandomProjection)
