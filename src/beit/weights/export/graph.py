"""The module that is exported: preprocessing, model and answer in one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from beit.config.validation import require
from beit.models.heads import BackboneModel
from beit.models.inference import optimize_for_inference
from beit.models.segmenter import NormNeck, Segmenter
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.vq import VQKDTokenizer
from beit.weights.export.layers import Normalise, central_view_graph, read_any_grid
from beit.weights.kinds import KINDS, Answer
from beit.weights.store import Artifact

Format = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]
Preprocess = Literal["none", "normalise", "resize"]
"""none: floats [B,C,H,W] as the model reads them (normalised; for a tokenizer in [0, 1]).
normalise: uint8 [B,H,W,C] of the model's size. resize: uint8 [B,H,W,C] of any size."""
LARGEST = 64
"""Most patches per side that a graph of dynamic size reads: 1024 pixels at patches of 16."""
OPSET = 18
"""Opset of ONNX (IR 8, December 2022): PyTorch's exporter is written for it, so that nothing is
converted, and every later runtime reads it."""
NEWEST_OPSET = 23
SMALLEST = 2
"""Fewest patches per side of a dynamic size: torch.export treats one patch as a special case."""


class Target(NamedTuple):
    """What is exported: the file, what it answers, and the images it reads."""

    to: Format
    answer: Answer
    precision: Precision
    channels: int
    size: tuple[int, int]
    """Height and width in pixels that the model is given."""
    unit: int
    """Height and width are multiples of it."""
    dynamic: bool
    """Whether other sizes than `size` are read, up to LARGEST units per side."""
    preprocess: Preprocess
    opset: int = OPSET

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return ["features", "patches"] if self.answer == "features" else [self.answer]


def choose_target(
    artifact: Artifact,
    *,
    to: Format = "onnx",
    answer: Answer | None = None,
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    preprocess: Preprocess = "none",
    opset: int = OPSET,
) -> Target:
    """Decide what to export of a model, and check that it can be exported.

    Args:
        artifact: The model.
        to: Format of the file.
        answer: What the file outputs; None: the first answer of the model's kind.
        precision: Number format of the weights.
        size: Height and width in pixels; None: those of the model.
        dynamic: Whether other sizes are read too, up to LARGEST patches per side.
        preprocess: What the graph does to images before the model.
        opset: Version of the operators of an ONNX file; other formats have none.

    Raises:
        ConfigError: The model cannot give this answer or read these images, or the format cannot.
    """
    model = artifact.model
    possible = KINDS[artifact.kind].answers
    if isinstance(model, VisualTokenizer):
        channels, own, unit = model.config.channels, model.size, model.config.downsampling
    else:
        assert isinstance(model, BackboneModel)
        config = model.backbone.config
        channels, own, unit = config.channels, config.size, config.patch
    require(
        answer is None or answer in possible,
        f"a {artifact.kind} gives no {answer}",
        f"use --answer {' or '.join(possible)}",
    )
    answer, (height, width) = answer or possible[0], size or own
    require(
        min(height, width) > 0 and height % unit == width % unit == 0,
        f"{height} x {width} pixels cannot be cut into patches of {unit}",
        f"use multiples of {unit}",
    )
    require(
        OPSET <= opset <= NEWEST_OPSET,
        f"ONNX files are written with opset {OPSET} to {NEWEST_OPSET}, not {opset}",
        "use --to torch or --to openvino for a runtime that reads none of them",
    )
    require(
        to == "onnx" or opset == OPSET,
        f"an opset belongs to ONNX, and a file for {to} has none",
        "leave --opset out",
    )
    require(
        not (dynamic and preprocess == "resize"),
        "a graph that resizes its images has one size to resize to",
        "leave --dynamic or --preprocess resize out",
    )
    require(
        not dynamic
        or SMALLEST * unit <= min(height, width) <= max(height, width) <= LARGEST * unit,
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
    return Target(
        to, answer, precision, channels, (height, width), unit, dynamic, preprocess, opset
    )


class Graph(nn.Module):
    """Images in, the answer out; nothing else is needed to use it."""

    def __init__(self, model: nn.Module, target: Target, before: Sequence[nn.Module]) -> None:
        super().__init__()
        self.before = nn.Sequential(*before)
        self.model = model
        self.target = target

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The logits, the tokens, or the mean patch vector [B,D] and all patch vectors [B,N,D]."""
        pixels = self.before(images)
        if self.target.precision == "fp16" and not isinstance(self.model, VisualTokenizer):
            pixels = pixels.half()
        return answer_of(self.model, self.target.answer, pixels)


def answer_of(model: nn.Module, answer: Answer, pixels: Tensor) -> tuple[Tensor, ...]:
    """What a model answers for images; logits and features are in float32.

    Args:
        model: A tokenizer, a model with a head, or for features one with a backbone.
        answer: What to compute; a tokenizer always gives tokens.
        pixels: Images [B,C,H,W] as the model reads them.

    Returns:
        The tokens [B,N], the logits, or as features the mean patch vector [B,D] and all patch
        vectors [B,N,D].
    """
    if isinstance(model, VisualTokenizer):
        return (model.encode(pixels),)
    if answer == "logits":
        return (model(pixels).float(),)
    assert isinstance(model, BackboneModel)
    patches = model.backbone(pixels).patches.float()
    return patches.mean(dim=1), patches


def build_graph(artifact: Artifact, target: Target) -> Graph:
    """Build the graph of an artifact, whose own model stays as it is. int8 comes after
    exporting."""
    model: nn.Module
    half = target.precision == "fp16"
    if isinstance(artifact.model, VisualTokenizer):
        model = copy.deepcopy(artifact.model).freeze()
        if half:
            model = artifact.model.in_precision(torch.float16)
        if target.dynamic and isinstance(model, VQKDTokenizer):
            read_any_grid(model.encoder, LARGEST)
    else:
        assert isinstance(artifact.model, BackboneModel)
        model = optimize_for_inference(artifact.model)
        if target.dynamic:
            read_any_grid(model.backbone, LARGEST)
        model = model.half() if half else model
    before: list[nn.Module] = []
    if target.preprocess == "resize":
        before.append(central_view_graph(target.size, artifact.details))
    if target.preprocess != "none":
        before.append(Normalise(*pixel_statistics(artifact, target)))
    graph = Graph(model, target, before).eval().requires_grad_(False)
    for tensor in (*graph.parameters(), *graph.buffers()):
        tensor.data = tensor.data.contiguous().clone()  # files hold no other strides, and no views
    return graph


def pixel_statistics(
    artifact: Artifact, target: Target
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that the model reads; a tokenizer reads [0, 1]."""
    backbone = artifact.backbone
    if backbone is None:
        return (0.0,) * target.channels, (1.0,) * target.channels
    return backbone.mean, backbone.std
