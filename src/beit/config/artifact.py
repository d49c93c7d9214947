"""What the `config.json` of an artifact says about its model: one config per kind of model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from beit.config.model import VisionTransformerConfig
from beit.config.runs import AggregationConfig, Pooling
from beit.config.segmentation import SegmentationHeadConfig
from beit.config.tokenizer import TokenizerConfig
from beit.config.validation import Config, Range

Outputs = Annotated[int, Range(1, 1_048_576)]


@dataclass(frozen=True, kw_only=True)
class TokenizerArchitecture(Config):
    """A visual tokenizer."""

    tokenizer: TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class BackboneArchitecture(Config):
    """A backbone without a head."""

    backbone: VisionTransformerConfig


@dataclass(frozen=True, kw_only=True)
class MaskedArchitecture(BackboneArchitecture):
    """A model that was pre-trained on masked patches, with its prediction head."""

    outputs: Outputs
    """Number of codes, or of pixel values in a patch."""
    aggregation: AggregationConfig | None = None


@dataclass(frozen=True, kw_only=True)
class PoolingHead(Config):
    """What a trained classifier records about its head."""

    pooling: Pooling


@dataclass(frozen=True, kw_only=True)
class ClassifierArchitecture(BackboneArchitecture):
    """A classifier of images."""

    head: PoolingHead
    outputs: Outputs
    """Number of classes."""


@dataclass(frozen=True, kw_only=True)
class SegmenterArchitecture(BackboneArchitecture):
    """A classifier of pixels."""

    head: SegmentationHeadConfig
    outputs: Outputs
    """Number of classes."""
