"""Every option of this package: frozen dataclasses that validate themselves and build what they
describe. Nothing here imports torch."""

from beit.config.data import (
    AugmentConfig,
    BalanceConfig,
    FolderConfig,
    LabelFileConfig,
    LoaderConfig,
    ViewConfig,
)
from beit.config.evaluate import ClassifiedConfig, EvaluateConfig, ProbeConfig, SegmentedConfig
from beit.config.masking import (
    BlockMasking,
    ContrastiveConfig,
    FixedMasking,
    MaskedConfig,
    MaskingConfig,
    PretrainObjectiveConfig,
    PublishedBlockMasking,
    UniformMasking,
    VisibleConfig,
)
from beit.config.model import SIZES, VisionTransformerConfig, sized
from beit.config.runs import (
    AdaptationConfig,
    AggregationConfig,
    FinetuneRunConfig,
    HeadConfig,
    PretrainRunConfig,
    QuantiseConfig,
    ReconstructConfig,
    RunConfig,
    TokenizerRunConfig,
)
from beit.config.segment_run import (
    InferenceConfig,
    JointConfig,
    MaskConfig,
    SegmentRunConfig,
)
from beit.config.segmentation import (
    LinearHeadConfig,
    SegmentationHeadConfig,
    SETRConfig,
    UperNetConfig,
)
from beit.config.tokenizer import (
    DalleConfig,
    DiscreteVAEConfig,
    PatchCodebookConfig,
    QuantisedConfig,
    RandomProjectionConfig,
    TokenizerConfig,
    VQConfig,
    VQKDConfig,
)
from beit.config.training import TrainingConfig

__all__ = [
    "SIZES",
    "AdaptationConfig",
    "AggregationConfig",
    "AugmentConfig",
    "BalanceConfig",
    "BlockMasking",
    "ClassifiedConfig",
    "ContrastiveConfig",
    "DalleConfig",
    "DiscreteVAEConfig",
    "EvaluateConfig",
    "FinetuneRunConfig",
    "FixedMasking",
    "FolderConfig",
    "HeadConfig",
    "InferenceConfig",
    "JointConfig",
    "LabelFileConfig",
    "LinearHeadConfig",
    "LoaderConfig",
    "MaskConfig",
    "MaskedConfig",
    "MaskingConfig",
    "PatchCodebookConfig",
    "PretrainObjectiveConfig",
    "PretrainRunConfig",
    "ProbeConfig",
    "PublishedBlockMasking",
    "QuantiseConfig",
    "QuantisedConfig",
    "RandomProjectionConfig",
    "ReconstructConfig",
    "RunConfig",
    "SETRConfig",
    "SegmentRunConfig",
    "SegmentationHeadConfig",
    "SegmentedConfig",
    "TokenizerConfig",
    "TokenizerRunConfig",
    "TrainingConfig",
    "UniformMasking",
    "UperNetConfig",
    "VQConfig",
    "VQKDConfig",
    "ViewConfig",
    "VisibleConfig",
    "VisionTransformerConfig",
    "sized",
]
