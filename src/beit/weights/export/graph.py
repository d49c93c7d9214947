"""The module that is exported: preprocessing, model and answer in one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from beit.config.validation import require
from beit.errors import ConfigError
from beit.models.heads import BackboneModel, Classifier
from beit.models.inference import optimize_for_inference
from beit.models.segmenter import Segmenter
from beit.models.setr import NormNeck
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.vq import VQKDTokenizer
from beit.weights.export.positions import read_any_grid
from beit.weights.export.preprocessing import Normalise, Preprocess, central_view_graph
from beit.weights.store import Artifact

Answer = Literal["logits", "features", "tokens"]
Precision = Literal["fp32", "fp16", "int8"]
LARGEST = 64
"""Patches per side that a graph of dynamic size reads at most: 1024 pixels at patches of 16."""
SMALLEST = 2
"""A program of torch.export takes a side of one patch for a case of its own."""
MOST_IMAGES = 4096
MOST_PIXELS = 16384
"""Per side of an image that a graph resizes."""


class Shape(NamedTuple):
    """What the images of a graph look like."""

    channels: int
    size: tuple[int, int]
    """Height and width in pixels that the model is given."""
    unit: int
    """Both are multiples of it."""
    dynamic: bool
    """Whether other sizes than `size` are read, up to LARGEST units per side."""
    preprocess: Preprocess


class Graph(nn.Module):
    """Images in, the answer out; nothing else is needed to use it."""

    def __init__(
        self, model: nn.Module, answer: Answer, before: Sequence[nn.Module], half: bool
    ) -> None:
        super().__init__()
        self.before = nn.Sequential(*before)
        self.model = model
        self.answer = answer
        self.half_precision = half

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The logits, the tokens, or the mean patch vector [B,D] and all patch vectors [B,N,D]."""
        pixels = self.before(images)
        if isinstance(self.model, VisualTokenizer):
            return (self.model.encode(pixels),)
        pixels = pixels.half() if self.half_precision else pixels
        if self.answer == "logits":
            return (self.model(pixels).float(),)
        assert isinstance(self.model, BackboneModel)
        patches = self.model.backbone(pixels).patches.float()
        return patches.mean(dim=1), patches


def names_of(answer: Answer) -> list[str]:
    """The names of what the graph gives."""
    return ["features", "patches"] if answer == "features" else [answer]


def choose_answer(artifact: Artifact, asked: Answer | None) -> Answer:
    """What the model can give, or the answer asked for. Raises ConfigError if it cannot."""
    possible: list[Answer] = ["features"]
    if isinstance(artifact.model, Classifier | Segmenter):
        possible = ["logits", "features"]
    elif isinstance(artifact.model, VisualTokenizer):
        possible = ["tokens"]
    require(
        asked is None or asked in possible,
        f"a {artifact.kind} gives no {asked}",
        f"use --answer {' or '.join(possible)}",
    )
    return asked or possible[0]


def choose_shape(
    artifact: Artifact,
    answer: Answer,
    *,
    size: tuple[int, int] | None,
    dynamic: bool,
    preprocess: Preprocess,
) -> Shape:
    """The images that the graph will read. Raises ConfigError for what it cannot."""
    model = artifact.model
    if isinstance(model, VisualTokenizer):
        channels, own, unit = model.config.channels, model.size, model.config.downsampling
    else:
        assert isinstance(model, BackboneModel)
        config = model.backbone.config
        channels, own, unit = config.channels, config.size, config.patch
    chosen = size or own
    if min(chosen) < 1 or chosen[0] % unit or chosen[1] % unit:
        raise ConfigError(
            f"{chosen[0]} x {chosen[1]} pixels cannot be cut into patches of {unit}",
            remedy=f"use multiples of {unit}",
        )
    require(
        not (dynamic and preprocess == "resize"),
        "a graph that resizes its images has one size to resize to",
        "leave --dynamic or --preprocess resize out",
    )
    require(
        not dynamic or SMALLEST * unit <= min(chosen) <= max(chosen) <= LARGEST * unit,
        f"graphs of dynamic size read {SMALLEST} to {LARGEST} patches per side",
        "leave --dynamic out",
    )
    if answer == "logits" and isinstance(model, Segmenter):
        require(
            preprocess != "resize",
            "a segmenter answers for the pixels it is given: resized and cropped images have "
            "other pixels than the image",
            "use --preprocess normalise, and give it windows of the image",
        )
        require(
            not dynamic or isinstance(model.neck, NormNeck),
            "UperNet pools its deepest level into cells whose borders depend on the size, for "
            "which ONNX has no operator",
            "leave --dynamic out, and export one file per --size",
        )
    return Shape(channels, chosen, unit, dynamic, preprocess)


def build_graph(artifact: Artifact, answer: Answer, shape: Shape, precision: Precision) -> Graph:
    """The graph of an artifact, whose own model stays as it is. int8 comes after exporting."""
    model: nn.Module
    half = precision == "fp16"
    if isinstance(artifact.model, VisualTokenizer):
        model = copy.deepcopy(artifact.model).freeze()
        if half:
            model = artifact.model.in_precision(torch.float16)
        if shape.dynamic and isinstance(model, VQKDTokenizer):
            read_any_grid(model.encoder, LARGEST)
        mean, std = (0.0,) * shape.channels, (1.0,) * shape.channels
    else:
        assert isinstance(artifact.model, BackboneModel)
        model = optimize_for_inference(artifact.model)
        mean, std = model.backbone.config.mean, model.backbone.config.std
        if shape.dynamic:
            read_any_grid(model.backbone, LARGEST)
        model = model.half() if half else model
    before: list[nn.Module] = []
    if shape.preprocess == "resize":
        before.append(central_view_graph(shape.size, artifact.details))
    if shape.preprocess != "none":
        before.append(Normalise(mean, std))
    graph = Graph(model, answer, before, half).eval().requires_grad_(False)
    for tensor in (*graph.parameters(), *graph.buffers()):
        tensor.data = tensor.data.contiguous().clone()  # files hold no other strides, and no views
    return graph
