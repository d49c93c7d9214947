"""`beit segment`: where masks are, how views of both are drawn, how whole pictures are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from beit.config.check import (
    Config,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    Range,
    Side,
    Sides,
    check_multiple,
    check_that,
)
from beit.config.data import Symmetry
from beit.config.model import VisionTransformerConfig
from beit.config.runs import RunConfig
from beit.config.segmentation import SegmentationHeadConfig, UperNetConfig
from beit.printable import shown

Layout = Literal["folders", "ade20k", "voc"]
Size = tuple[int, int]
Scales = tuple[Annotated[float, Range(0.05, 16)], ...]


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Config):
    """How masks are found and what their values mean. 255 is ignored everywhere."""

    layout: Layout = "folders"
    """`folders`: images/ and masks/ (or annotations/, labels/), alike inside, with train/ and val/
    (or training/ and validation/) or without; `ade20k`: the same with its 150 classes and label 0
    ignored; `voc`: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/."""
    class_names: str = ""
    """File with one class name per line, in the order of the labels; empty: `classes.txt` beside
    the folders, or the layout's own classes, or one class for every label up to the largest."""
    legend: str = ""
    """JSON file of colours and class names, for masks in RGB: {"#ff0000": "roof", "#000000": null};
    null is ignored. Empty: `legend.json` beside the folders, if there is one."""
    reduce_zero_label: bool = False
    """Label 0 is ignored and the others count from it: 1 is the first class."""


@dataclass(frozen=True, kw_only=True)
class JointConfig(Config):
    """The random view of a picture and its mask: the published pipeline of ADE20K."""

    resize_ratio: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest factor on the base scale."""
    base_side: Side | None = None
    """Length of the shorter side at ratio 1, the longer one at most four times that; None: the
    shorter side of the crop, as published."""
    largest_class: Fraction = 0.75
    """Ten crops are tried for one with two classes and none of them above this share; 1 takes the
    first."""
    symmetry: Symmetry = "horizontal"
    """Random mirrorings: none, left-right, or all eight rotations and mirrorings."""
    distortion: bool = True
    """Random brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_that(
            self.resize_ratio[0] <= self.resize_ratio[1],
            f"resize_ratio {self.resize_ratio} is not a range of factors",
            "use two positive numbers, smallest first",
        )


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Config):
    """How a whole picture is read when segmenters are scored and used."""

    whole: bool = False
    """Read the picture at once instead of through a window."""
    window: Sides | None = None
    """Height and width of the window; None: the size of the crop, as published."""
    stride: Sides | None = None
    """Step of the window; None: two thirds of it, as published."""
    scales: Scales = (1.0,)
    """Sizes to average over; published as multi-scale: 1, 1.25, 1.5, 1.75."""
    flip: bool = False
    """Average over mirror images too."""
    short_side: Side | None = None
    """Shorter side of the picture at scale 1; None reads the picture at its own size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_that(
            0 < len(self.scales) <= 32, f"scales is {shown(self.scales)}", "use from 1 to 32 scales"
        )
        check_that(
            not self.whole or self.window is self.stride is None,
            f"whole was asked for, and window {self.window} with stride {self.stride}",
            "read the picture at once or through a window",
        )

    def windows(self, backbone: VisionTransformerConfig) -> tuple[Size, Size]:
        """Window and stride for a backbone. Raises ConfigError for those that do not fit it."""
        return window_and_stride(backbone, self.window, self.stride)


def window_and_stride(
    backbone: VisionTransformerConfig, window: Size | None, stride: Size | None
) -> tuple[Size, Size]:
    """The window, the size of the backbone unless given, and the stride, two thirds of it.

    Raises ConfigError for a window that the patch does not divide and a stride that leaves gaps.
    """
    window = window or backbone.size
    stride = stride or (max(2 * window[0] // 3, 1), max(2 * window[1] // 3, 1))
    check_multiple("window", window, backbone.patch)
    check_that(
        0 < stride[0] <= window[0] and 0 < stride[1] <= window[1],
        f"stride {stride} does not fit window {window}",
        "use a stride above 0, up to the window, or pixels would be left out",
    )
    return window, stride


@dataclass(frozen=True, kw_only=True)
class SegmentRunConfig(RunConfig):
    """Semantic segmentation, from a pre-trained artifact or from scratch."""

    init: str = ""
    """Artifact whose backbone to start from; empty trains from scratch."""
    model: VisionTransformerConfig
    """Its size is the crop and the window."""
    head: SegmentationHeadConfig = field(default_factory=UperNetConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    auxiliary_weight: PositiveFloat = 0.4
    """Weight of the auxiliary head's loss (published configs)."""
    split: Fraction = 0.2
    """Share of the pictures kept for validation when the data has no `val` folder."""
    split_seed: NonNegativeInt = 0
    """Decides which pictures `split` draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.head.blocks(self.model.depth)
        self.head.normed_cells(self.model.grid)
        self.inference.windows(self.model)
