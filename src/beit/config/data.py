"""Images: how they are found and read, cropped, augmented and fed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, NamedTuple

from beit.config.validation import (
    Config,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    require,
)
from beit.errors import ConfigError

Symmetry = Literal["none", "horizontal", "all"]
Workers = Annotated[int, Range(0, 4_096)]
CropScale = tuple[float, float]
Pipeline = Literal["parity", "fast"]
Resize = Literal["cover", "stretch"]
"""Keep the proportions of an image and cover the target, or stretch each side to its own."""
LabelSeparator = Literal["auto", "none", "space", "comma", "semicolon", "pipe"]
NO_COLUMN = "none"
ClassWeights = Literal["none", "balanced", "root"]


def check_value_range(value_range: tuple[float, float] | None) -> None:
    """Raise ConfigError unless the range is None or two finite numbers, the smaller first."""
    require(
        value_range is None
        or (all(map(math.isfinite, value_range)) and value_range[0] < value_range[1]),
        f"value_range is {value_range}",
        "use two numbers, the one that is black first, such as 0 4095",
    )


def check_pattern(option: str, pattern: str) -> None:
    """Raise ConfigError, which names the option, unless the pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{option} '{pattern}' is not a regular expression: {error}",
            remedy="write a regular expression, such as 'patient_([0-9]+)' or '([a-z]+)_'",
        ) from error


@dataclass(frozen=True, kw_only=True)
class CropConfig(Config):
    """A random crop of an image, and how it is turned."""

    crop_scale: CropScale = (0.08, 1.0)
    """Smallest and largest fraction of the image's area in a random crop."""
    crop_ratio: CropScale = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio (width over height) of a random crop."""
    symmetry: Symmetry = "horizontal"
    """Random mirroring: `none`, `horizontal` (left-right), or `all` eight rotations and mirror
    images, if images have no upright."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.crop_scale[0] <= self.crop_scale[1] <= 1,
            f"crop_scale {self.crop_scale} is not a range of fractions of the area",
            "use two numbers with 0 < smallest <= largest <= 1",
        )
        require(
            0 < self.crop_ratio[0] <= self.crop_ratio[1],
            f"crop_ratio {self.crop_ratio} is not a range of aspect ratios",
            "use two positive numbers, smallest first",
        )


@dataclass(frozen=True, kw_only=True)
class ViewConfig(CropConfig):
    """The random view of an image for tokenizer training and pre-training (section 2.5)."""

    jitter: Fraction = 0.4
    """Strength of random brightness, contrast and saturation; 0 switches it off."""
    pipeline: Pipeline = "parity"
    """`parity`: colour jitter before the crop is resized, as published; `fast`: after it, on the
    device."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(CropConfig):
    """The random view of a labelled image for fine-tuning (table 13)."""

    rand_augment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment policy in timm's notation; empty switches it off."""
    jitter: Fraction = 0.0
    """Strength of colour jitter, used only if RandAugment is off."""
    erasing: Fraction = 0.25
    """Probability that a random rectangle is replaced by noise."""
    mixup: NonNegativeFloat = 0.8
    """Alpha of mixup; 0 switches it off."""
    cutmix: NonNegativeFloat = 1.0
    """Alpha of cutmix; 0 switches it off. If both are on, one of them is drawn per batch."""
    smoothing: Fraction = 0.1
    """Label smoothing."""


class Fold(NamedTuple):
    """One of several equal parts of the images, which is held out."""

    number: int
    """Counted from 0."""
    of: int
    """Number of parts."""


class Division(NamedTuple):
    """How data without splits is divided into images to learn from and images held out. Artifacts
    record it under these names."""

    split: float
    """Fraction of each class that is held out."""
    seed: int
    """Decides which images these are."""
    per_class: int | None = None
    """Number of images of each class to learn from; None: all that are not held out."""
    fold: Fold | None = None
    """The part that is held out instead of a fraction."""
    groups: str = ""
    """Regular expression that finds an image's group in its name; a group is held out as a whole or
    not at all."""


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(Config):
    """What is done about classes of which there are few images, or few pixels."""

    class_weights: ClassWeights = "none"
    """Weights of the classes in the loss: `balanced`: inverse to their frequency, so that all count
    the same; `root`: the square root of that."""
    balanced_sampling: bool = False
    """Draw images of rare classes several times per epoch: as often as those of the most frequent
    class or, if images have several classes, by the square root of that."""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(Config):
    """Options for reading data of one form, where the data leave it open."""

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name) != item.default)


@dataclass(frozen=True, kw_only=True)
class ClassFolderConfig(ReadingConfig):
    """How folders are read, if they leave it open."""

    class_level: PositiveInt | None = None
    """Which folders are the classes: 1 for those at the top (or directly in train/), 2 for those
    inside them; None: detected, and refused if two readings are plausible."""
    label_pattern: str = ""
    """Regular expression that finds the class in an image's name, in its first parentheses:
    '([a-z]+)_' in cat_01.jpg. Empty: the folders are the classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pattern("label_pattern", self.label_pattern)
        require(
            not self.label_pattern or self.class_level is None,
            "label_pattern and class_level were given, and classes are either in the names of "
            "images or in those of folders",
            "leave one of them out",
        )


@dataclass(frozen=True, kw_only=True)
class FolderConfig(ClassFolderConfig):
    """How folders are read and divided into splits, if they leave it open."""

    fold: str = ""
    """Of data in fold folders, such as fold1/ and fold2/, the one to hold out; the others are
    trained on."""
    accept_missing_classes: bool = False
    """Continue if validation or test lack classes of training, or have images of other classes,
    which are skipped."""


@dataclass(frozen=True, kw_only=True)
class LabelFileConfig(ReadingConfig):
    """Which columns of a label file are read. A column is named by its heading or, where there are
    no headings, by its number, counted from 1. Empty: found by the headings."""

    image_column: str = ""
    """Column of a label file with the names of the images."""
    label_column: str = ""
    """Column of a label file with the labels; several, separated by commas, each hold 0 or 1 for
    one class."""
    split_column: str = ""
    """Column of a label file that says train, val or test; `none` ignores it."""
    validation_fold: str = ""
    """Value of the split column that means validation, if the column holds fold numbers."""
    test_fold: str = ""
    """Value of the split column that means test, if the column holds fold numbers."""
    label_separator: LabelSeparator = "auto"
    """What separates several labels in one cell of a label file; `none`: a cell is one label;
    `auto`: decided by the heading (`tags`, `labels`) and the cells."""
    image_folder: str = ""
    """Folder that the image names in a label file are relative to; empty: that of the label
    file."""
    join: tuple[str, ...] = ()
    """Further lists whose columns are added to those of a label file, matched by the column they
    share; without a heading, a column is called like its list."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folds = bool(self.validation_fold or self.test_fold)
        require(
            not (folds and self.split_column == NO_COLUMN),
            "a fold was named, and split_column is none",
            "name the column of the folds with --split-column, or leave the folds out",
        )
        require(
            not folds or self.validation_fold != self.test_fold,
            f"validation_fold and test_fold are both {self.test_fold}",
            "use different folds",
        )


class Reading(NamedTuple):
    """Options for reading data that can be read in several ways, passed down from a verb to the
    code that opens the data."""

    folders: FolderConfig = FolderConfig()
    label_file: LabelFileConfig = LabelFileConfig()


AS_RECOGNISED = Reading()
"""No options: the form of the data decides everything."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Options of every verb that reads images: how, if the data leave it open."""

    folders: ClassFolderConfig = field(default_factory=ClassFolderConfig)
    label_file: LabelFileConfig = field(default_factory=LabelFileConfig)

    @property
    def reading(self) -> Reading:
        """The same options in the form in which they are passed down."""
        return Reading(FolderConfig(**vars(self.folders)), self.label_file)


@dataclass(frozen=True, kw_only=True)
class DividedDataConfig(Config):
    """Options of every verb that divides images into splits, as training does."""

    folders: FolderConfig = field(default_factory=FolderConfig)
    label_file: LabelFileConfig = field(default_factory=LabelFileConfig)

    @property
    def reading(self) -> Reading:
        """The same options in the form in which they are passed down."""
        return Reading(self.folders, self.label_file)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Config):
    """How images are read."""

    workers: Workers | None = None
    """Processes that read images; None: as many as the machine can spare."""
    cache: bool | None = None
    """Keep decoded images in memory; None does so if they fit in half a gigabyte."""
    cache_dir: str = ""
    """Folder on a local disk that caches shards from object storage, which runs may share; empty:
    in `$BEIT_HOME`."""
    cache_size: PositiveFloat | None = None
    """Most gigabytes of shards in that cache; None: half of the free space."""
    value_range: tuple[float, float] | None = None
    """Values that become black and white in images of more than 8 bits, such as 0 4095 for 12 bits
    stored in 16; None: the range that each file states, or that of its type. The model keeps it."""
    bad_limit: Fraction = 0.01
    """Largest fraction of unreadable images before a run stops; each is named in the report. A
    single one is always skipped, unless this is 0."""
    worker_timeout: PositiveFloat = 300.0
    """Seconds without an image after which a loader process counts as hung."""
    worker_restarts: NonNegativeInt = 3
    """How often loader processes that died or hung are replaced before the run ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value_range(self.value_range)
