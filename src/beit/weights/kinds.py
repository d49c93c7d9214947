"""The kinds of model that an artifact holds: described as JSON, and built from that."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from beit.config.artifact import (
    BackboneArchitecture,
    ClassifierArchitecture,
    MaskedArchitecture,
    SegmenterArchitecture,
    TokenizerArchitecture,
)
from beit.config.runs import HeadConfig
from beit.config.tree import from_json, to_json
from beit.errors import CheckpointError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.terminal import shown
from beit.tokenizers.base import VisualTokenizer

Architecture = TokenizerArchitecture | BackboneArchitecture
Kind = Literal["tokenizer", "masked", "backbone", "classifier", "segmenter"]
ARCHITECTURES: dict[Kind, type[Architecture]] = {
    "tokenizer": TokenizerArchitecture,
    "masked": MaskedArchitecture,
    "backbone": BackboneArchitecture,
    "classifier": ClassifierArchitecture,
    "segmenter": SegmenterArchitecture,
}


def describe(model: nn.Module) -> dict[str, Any]:
    """Kind and architecture of a model."""
    if isinstance(model, VisualTokenizer):
        return {"kind": "tokenizer", "tokenizer": to_json(model.config)}
    if isinstance(model, MaskedImageModel):
        extra = model.aggregation
        return {
            "kind": "masked",
            "backbone": to_json(model.backbone.config),
            "outputs": model.outputs,
            "aggregation": None if extra is None else to_json(extra.config),
        }
    if isinstance(model, PretrainedBackbone):
        return {"kind": "backbone", "backbone": to_json(model.backbone.config)}
    if isinstance(model, Segmenter):
        return {
            "kind": "segmenter",
            "backbone": to_json(model.backbone.config),
            "head": to_json(model.config),
            "outputs": model.classes,
        }
    assert isinstance(model, Classifier)
    return {
        "kind": "classifier",
        "backbone": to_json(model.backbone.config),
        "head": {"pooling": model.pooling},
        "outputs": model.head.out_features,
    }


def architecture_of(values: object) -> Architecture:
    """What `describe` described. Raises CheckpointError, or ConfigError for a wrong value."""
    kind = values.get("kind") if isinstance(values, dict) else None
    known = ARCHITECTURES.get(kind) if isinstance(kind, str) else None  # type: ignore[call-overload]
    if known is None or not isinstance(values, dict):
        raise CheckpointError(
            f"the artifact holds a model of kind {shown(kind)}, which this version does not know",
            remedy="use the version of beit that wrote it",
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    found: Architecture = from_json({"type": known.__name__, **rest}, known)
    return found


def build(architecture: Architecture) -> nn.Module:
    """The model of an architecture, with fresh weights."""
    if isinstance(architecture, TokenizerArchitecture):
        return architecture.tokenizer.build()
    backbone = architecture.backbone
    if isinstance(architecture, MaskedArchitecture):
        return MaskedImageModel(backbone, architecture.outputs, architecture.aggregation)
    if isinstance(architecture, SegmenterArchitecture):
        return Segmenter(backbone, architecture.outputs, architecture.head)
    if isinstance(architecture, ClassifierArchitecture):
        head = HeadConfig(pooling=architecture.head.pooling)
        return Classifier(backbone, architecture.outputs, head)
    return PretrainedBackbone(backbone)
