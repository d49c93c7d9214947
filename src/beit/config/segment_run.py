"""`beit segment`: where masks are, how views of both are drawn, how whole images are read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from beit.config.data import BalanceConfig, Division, Symmetry, check_pattern
from beit.config.model import VisionTransformerConfig
from beit.config.runs import AdaptationConfig, RunConfig
from beit.config.segmentation import SegmentationHeadConfig, UperNetConfig
from beit.config.validation import (
    Config,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Side,
    Sides,
    check_multiple,
    require,
)
from beit.terminal import shown

IGNORE = 255
"""The label of pixels that no loss and no score counts."""
Layout = Literal["auto", "folders", "ade20k", "voc", "nnunet", "coco", "labelme"]
MaskValues = Literal["auto", "labels", "binary"]
SeveralMasks = Literal["auto", "object", "classes"]
Unmasked = Literal["refuse", "background", "skip"]
Size = tuple[int, int]
Scales = tuple[Annotated[float, Range(0.05, 16)], ...]


@dataclass(frozen=True, kw_only=True)
class MaskConfig(Config):
    """How masks are found and what their values mean. 255 is ignored, but in binary masks."""

    layout: Layout = "auto"
    """How images and masks are arranged. `folders`: images/ and masks/ (or img_dir/ and ann_dir/,
    annotations/, labels/) with the same names inside; splits are train/ and val/ above or below
    them, or lists (train.txt, val.txt) beside them; or a folder with both for each image; or
    x_mask.png beside x.jpg. `ade20k`: the same with its 150 classes and label 0 ignored. `voc`:
    JPEGImages/, SegmentationClass/ and lists in ImageSets/Segmentation/, also as CVAT writes it.
    `nnunet`: imagesTr/, labelsTr/ and dataset.json, of images, not volumes. `coco`, `labelme`:
    shapes in JSON files. `auto`: whichever of these is found, except `ade20k`."""
    annotations: str = ""
    """Folder of masks or COCO file, relative to `data`, if there are several."""
    class_names: str = ""
    """File with one class name per line, in the order of the labels; empty: `classes.txt` beside
    the folders, else the layout's own classes, else one class for every label up to the largest."""
    legend: str = ""
    """What the colours of masks mean: a JSON file such as {"#ff0000": "roof", "#000000": null},
    where null is ignored; CVAT's labelmap.txt; or class_dict.csv with the columns name, r, g, b,
    where void, unlabelled and unknown are ignored. Empty: whichever of these is beside the
    folders."""
    mask_values: MaskValues = "auto"
    """`labels`: values are labels, and 255 is ignored; `binary`: 0 is background, everything else
    the object; `auto`: binary if all masks together hold only 0 and 255."""
    ignore_values: tuple[str, ...] = ()
    """Values to ignore besides 255, such as nan, -1 or -9999; `none`: only 255. Empty: those that
    TIFF files declare as nodata."""
    reduce_zero_label: bool = False
    """Ignore label 0; label 1 is then the first class."""
    mask_suffix: str = ""
    """What the names of masks have after those of their images, such as _mask; empty: what all of
    them share. Files without it are skipped."""
    image_suffix: str = ""
    """The same for images, such as _leftImg8bit."""
    several_masks: SeveralMasks = "auto"
    """What several masks of one image are: parts of one `object`, which are joined; or one mask for
    each of its `classes`, which is the extra word in their names; later classes of the list are
    drawn over earlier ones. `auto`: decided by their names, and refused if those leave it open or
    masks overlap that should not."""
    unmasked: Unmasked = "refuse"
    """What to do about images without a mask: `refuse` the data, take all of the image as
    `background` (label 0), or `skip` it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.ignore_values:
            require(
                _is_number(value) or self.ignore_values == ("none",),
                f"'{value}' in ignore_values is not a number",
                "use numbers, such as nan -1, or none alone",
            )
        require(
            not self.ignore_values or self.mask_values != "binary",
            f"ignore_values is {self.ignore_values}, and in binary masks every value but 0 is the "
            "object",
            "use --mask-values labels",
        )

    def over(self, recorded: MaskConfig) -> MaskConfig:
        """These options, with the recorded ones of a run in the place of defaults."""
        given = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }
        return replace(recorded, **given)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class JointConfig(Config):
    """The random view of an image and its mask: the published pipeline of ADE20K."""

    resize_ratio: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest random factor on the size of an image."""
    base_side: Side | None = None
    """Shorter side of an image at factor 1 (the longer one is at most four times that); None: the
    shorter side of the crop, as published."""
    largest_class: Fraction = 0.75
    """Up to ten crops are drawn until one shows two classes or more, none of which covers more than
    this fraction; 1 takes the first."""
    symmetry: Symmetry = "horizontal"
    """Random mirroring: `none`, `horizontal` (left-right), or `all` eight rotations and mirror
    images."""
    distortion: bool = True
    """Change brightness, contrast, saturation and hue at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.resize_ratio[0] <= self.resize_ratio[1],
            f"resize_ratio {self.resize_ratio} is not a range of factors",
            "use two positive numbers, smallest first",
        )


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Config):
    """How whole images are segmented when a segmenter is measured and used."""

    whole: bool = False
    """Segment each image at once instead of through a sliding window."""
    window: Sides | None = None
    """Height and width of the sliding window; None: the size of the crop, as published."""
    stride: Sides | None = None
    """Step of the sliding window; None: two thirds of the window, as published."""
    scales: Scales = (1.0,)
    """Scales to average over; the published multi-scale setting is 1 1.25 1.5 1.75."""
    flip: bool = False
    """Average over mirror images, too."""
    short_side: Side | None = None
    """Shorter side to which images are resized (at scale 1); None keeps their own size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < len(self.scales) <= 32, f"scales is {shown(self.scales)}", "use from 1 to 32 scales"
        )
        require(
            not self.whole or self.window is self.stride is None,
            f"whole was requested, and window {self.window} with stride {self.stride}",
            "read the image at once or through a window",
        )


def window_and_stride(
    backbone: VisionTransformerConfig, window: Size | None, stride: Size | None
) -> tuple[Size, Size]:
    """The sliding window and its stride in pixels, height before width, with defaults worked out.

    Args:
        backbone: Its patch must divide the window.
        window: None: the image size of the backbone.
        stride: None: two thirds of the window.

    Raises:
        ConfigError: The patch does not divide the window, or the stride leaves gaps.
    """
    window = window or backbone.size
    stride = stride or (max(2 * window[0] // 3, 1), max(2 * window[1] // 3, 1))
    check_multiple("window", window, backbone.patch)
    require(
        0 < stride[0] <= window[0] and 0 < stride[1] <= window[1],
        f"stride {stride} does not fit window {window}",
        "use a stride above 0, up to the window, or pixels would be left out",
    )
    return window, stride


@dataclass(frozen=True, kw_only=True)
class SegmentRunConfig(RunConfig):
    """Semantic segmentation, from a pre-trained model or from scratch."""

    init: str = ""
    """Model to start from: a run, an artifact or a released file; empty trains from scratch. From a
    segmenter, the head is kept, too."""
    model: VisionTransformerConfig
    """Its size is the crop and the window."""
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    head: SegmentationHeadConfig = field(default_factory=UperNetConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    auxiliary_weight: PositiveFloat = 0.4
    """Weight of the auxiliary head's loss (published configs)."""
    split: Fraction = 0.2
    """Fraction of the images held out for validation if the data has no `val` folder."""
    groups: str = ""
    """Regular expression that finds an image's group in its name, such as 'patient_([0-9]+)':
    images of one patient, place or video are held out together or not at all."""
    split_seed: NonNegativeInt = 0
    """Seed by which `split` and `per_class` draw images."""
    per_class: PositiveInt | None = None
    """Use only this many training images of each class, or as few as show each class that often."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adaptation.check_fits(self.model, self.init, self.training)
        self.head.blocks(self.model.depth)
        check_pattern("groups", self.groups)
        self.head.normed_cells(self.model.grid)
        window_and_stride(self.model, self.inference.window, self.inference.stride)

    @property
    def division(self) -> Division:
        """How data without splits is divided."""
        return Division(self.split, self.split_seed, self.per_class, groups=self.groups)
