"""The kinds of model that an artifact can hold. Each is one value, which knows how to describe a
model as JSON and build it from that, what can be exported, and what its model card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from beit.config.tree import from_json, to_json, type_name
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.terminal import shown
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer

Architecture = TokenizerArchitecture | BackboneArchitecture
Answer = Literal["logits", "features", "tokens"]


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """One kind of model."""

    name: str
    """Its name in the config of an artifact."""
    model: type[nn.Module]
    architecture: type[Architecture]
    describe: Callable[[Any], dict[str, object]]
    """Turns a model into the values of its architecture, as JSON."""
    build: Callable[[Any], nn.Module]
    """Turns an architecture into a model with fresh weights."""
    answers: tuple[Answer, ...] = ("features",)
    """What a graph of the model can output; the first is the default."""
    summary: str = "A Vision Transformer."
    """What its model card says it is."""
    use: str = 'answer = model.model(model.batch(["image.jpg"]))'
    """Python code that uses it, where `model` is loaded."""
    pipeline: str = "image-feature-extraction"
    """The task that the hub lists it under."""


TOKENIZER = ModelKind(
    name="tokenizer",
    model=VisualTokenizer,
    architecture=TokenizerArchitecture,
    describe=lambda model: {"tokenizer": to_json(model.config)},
    build=lambda architecture: build_tokenizer(architecture.tokenizer),
    answers=("tokens",),
    summary="A visual tokenizer: it turns images into tokens of a learned vocabulary.",
    use='tokens = model.tokens(["image.jpg"])  # [1, N]',
)
MASKED = ModelKind(
    name="masked",
    model=MaskedImageModel,
    architecture=MaskedArchitecture,
    describe=lambda model: {
        "backbone": to_json(model.backbone.config),
        "outputs": model.outputs,
        "aggregation": None if model.aggregation is None else to_json(model.aggregation.config),
    },
    build=lambda shape: MaskedImageModel(shape.backbone, shape.outputs, shape.aggregation),
    summary="A Vision Transformer, pre-trained without labels to predict hidden patches.",
    use='features = model.embed(["image.jpg"])  # [1, D]',
)
BACKBONE = ModelKind(
    name="backbone",
    model=PretrainedBackbone,
    architecture=BackboneArchitecture,
    describe=lambda model: {"backbone": to_json(model.backbone.config)},
    build=lambda shape: PretrainedBackbone(shape.backbone),
    summary="A Vision Transformer, pre-trained without labels.",
    use='features = model.embed(["image.jpg"])  # [1, D]',
)
CLASSIFIER = ModelKind(
    name="classifier",
    model=Classifier,
    architecture=ClassifierArchitecture,
    describe=lambda model: {
        "backbone": to_json(model.backbone.config),
        "head": {"pooling": model.pooling},
        "outputs": model.head.out_features,
    },
    build=lambda shape: Classifier(
        shape.backbone, shape.outputs, HeadConfig(pooling=shape.head.pooling)
    ),
    answers=("logits", "features"),
    summary="A Vision Transformer that names the class of an image.",
    use='for label in model.predict("image.jpg"):\n    print(label.name, label.probability)',
    pipeline="image-classification",
)
SEGMENTER = ModelKind(
    name="segmenter",
    model=Segmenter,
    architecture=SegmenterArchitecture,
    describe=lambda model: {
        "backbone": to_json(model.backbone.config),
        "head": to_json(model.config),
        "outputs": model.classes,
    },
    build=lambda shape: Segmenter(shape.backbone, shape.outputs, shape.head),
    answers=("logits", "features"),
    summary="A Vision Transformer that gives each pixel of an image a class.",
    use='classes = model.segment("image.jpg")  # an id for each pixel',
    pipeline="image-segmentation",
)
KINDS = {kind.name: kind for kind in (TOKENIZER, MASKED, BACKBONE, CLASSIFIER, SEGMENTER)}


def add_kind(kind: ModelKind) -> None:
    """Register a kind. Raises ConfigError if another one has its name or its architecture."""
    for known in KINDS.values():
        same = known.name == kind.name or known.architecture is kind.architecture
        if same and known is not kind:
            raise ConfigError(
                f"there is a kind of model named '{kind.name}', or one of its architecture",
                remedy="choose another name, and derive a config from `BackboneArchitecture`",
            )
    KINDS[kind.name] = kind


def describe(model: nn.Module) -> dict[str, Any]:
    """Kind and architecture of a model. Raises ConfigError for one of no known kind."""
    # Newest first: the model of a user's own kind may be derived from one of these.
    for kind in reversed(KINDS.values()):
        if isinstance(model, kind.model):
            return {"kind": kind.name, **kind.describe(model)}
    raise ConfigError(
        f"a {type(model).__name__} is not a model that an artifact can hold",
        remedy="let its task publish a `ModelKind` for it: see docs/own-task.md",
    )


def architecture_of(values: object) -> Architecture:
    """What `describe` described. Raises CheckpointError for an unknown kind, ConfigError for a
    wrong value."""
    name = values.get("kind") if isinstance(values, dict) else None
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(values, dict):
        raise CheckpointError(
            f"the artifact holds a model of kind {shown(name)}, which this version does not know",
            remedy="use the version of beit that wrote it, or import the task that it is of: "
            "`beit --import MODULE VERB ...`",
        )
    rest = {key: value for key, value in values.items() if key != "kind"}
    return from_json({"type": type_name(kind.architecture), **rest}, kind.architecture)


def build(architecture: Architecture) -> nn.Module:
    """The model of an architecture, with fresh weights."""
    (kind,) = (one for one in KINDS.values() if one.architecture is type(architecture))
    return kind.build(architecture)
