"""Every option of this package: frozen dataclasses that validate themselves and build what they
describe. Nothing here imports torch."""

from beit.config.data import AugmentConfig, LoaderConfig, ViewConfig
from beit.config.masking import (
    BlockMasking,
    FixedMasking,
    MaskingConfig,
    PublishedBlockMasking,
    UniformMasking,
)
from beit.config.model import SIZES, VisionTransformerConfig, sized
from beit.config.runs import (
    FinetuneRunConfig,
    HeadConfig,
    MaskedConfig,
    PretrainRunConfig,
    ReconstructConfig,
    RunConfig,
    TokenizerRunConfig,
)
from beit.config.tokenizer import DalleConfig, DiscreteVAEConfig, TokenizerConfig
from beit.config.training import TrainingConfig

__all__ = [
    "SIZES",
    "AugmentConfig",
    "BlockMasking",
    "DalleConfig",
    "DiscreteVAEConfig",
    "FinetuneRunConfig",
    "FixedMasking",
    "HeadConfig",
    "LoaderConfig",
    "MaskedConfig",
    "MaskingConfig",
    "PretrainRunConfig",
    "PublishedBlockMasking",
    "ReconstructConfig",
    "RunConfig",
    "TokenizerConfig",
    "TokenizerRunConfig",
    "TrainingConfig",
    "UniformMasking",
    "ViewConfig",
    "VisionTransformerConfig",
    "sized",
]
