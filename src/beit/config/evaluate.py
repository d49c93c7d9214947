"""`beit evaluate` and `beit probe`: on which images a model is measured, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from beit.config.data import DataConfig, DividedDataConfig, LoaderConfig, Workers, check_pattern
from beit.config.segment_run import InferenceConfig, MaskConfig, Scales
from beit.config.validation import (
    Config,
    Crop,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Sides,
    require,
)


@dataclass(frozen=True, kw_only=True)
class ClassifiedConfig(DataConfig):
    """Options for classifiers only."""

    crop: Crop | None = None
    """Fraction of the side that the centre crop keeps; the model's own by default."""
    size: Sides | None = None
    """Height and width in pixels to which images are brought; the model's own by default."""
    labels: str = ""
    """Label map in JSON: {"folder or file name": class or [classes]}, or a list with the classes of
    each image in the order of the file names. Any of an image's classes counts as right; for a
    multi-label model, all of them apply."""


@dataclass(frozen=True, kw_only=True)
class SegmentedConfig(Config):
    """Options for segmenters only. The defaults are those stored in the model."""

    scales: Scales | None = None
    """Scales to average over; the published multi-scale setting is 1 1.25 1.5 1.75 with --flip."""
    whole: bool = False
    """Segment each image at once instead of through a sliding window."""
    window: Sides | None = None
    """Height and width of the sliding window."""
    stride: Sides | None = None
    """Step of the sliding window."""
    short_side: Annotated[int, Range(0, 65_536)] | None = None
    """Shorter side to which images are resized (at scale 1); 0 keeps their own size."""
    masks: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inference(InferenceConfig(), flip=False)

    def inference(self, own: InferenceConfig, *, flip: bool) -> InferenceConfig:
        """How whole images are segmented: as the model's `own` config says, unless options differ.

        Without `flip`, a model that averages over mirror images still does so.
        """
        windowed = self.window is not None or self.stride is not None
        return replace(
            own,
            whole=self.whole or (own.whole and not windowed),
            window=self.window or (None if self.whole else own.window),
            stride=self.stride or (None if self.whole or self.window else own.stride),
            scales=own.scales if self.scales is None else self.scales,
            flip=own.flip or flip,
            short_side=own.short_side if self.short_side is None else self.short_side or None,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Measure a classifier (accuracy, likelihood, calibration; with several labels per image:
    average precision and F1) or a segmenter (intersection over union of each class, accuracy)."""

    data: str = ""
    """Class folders, directly or under train/, val/ and test/, a list file, tar shards or a Hugging
    Face dataset; for a segmenter, images with masks."""
    split: str = "val"
    """Split to measure, if the data has splits."""
    flip: bool = False
    """Average the probabilities of each image and its mirror image, as some segmenters always
    do."""
    batch: PositiveInt | None = None
    """Images at a time (default 32); for a segmenter, windows at a time (default 8)."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU if there is one."""
    classified: ClassifiedConfig = field(default_factory=ClassifiedConfig)
    segmented: SegmentedConfig = field(default_factory=SegmentedConfig)
    workers: Workers | None = None
    """Processes that read images; None: as many as the machine can spare."""

    def loader(self, value_range: tuple[float, float] | None = None) -> LoaderConfig:
        """How images are read, once and in order. `value_range` is that of the model's training."""
        return LoaderConfig(workers=self.workers, value_range=value_range)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(DividedDataConfig):
    """Measure how good the frozen features of every block are; the model itself is not trained.

    The linear probes differ from the published ones in that they see the central view only, not a
    random crop: features are computed once. Settings are chosen on validation.
    """

    recipe: str = ""
    """Name of the recipe that provides the other values."""
    data: str = ""
    """Class folders, directly or under train/, val/ and test/, or a list with labels."""
    out: str = ""
    """Folder for probe.json and probe.html."""
    crop: Crop | None = None
    """Fraction of the side that the centre crop keeps; the model's own by default."""
    split: Fraction = 0.2
    """Fraction of each class held out for validation if there is no val/."""
    groups: str = ""
    """Regular expression that finds an image's group in its name, such as 'patient_([0-9]+)':
    images of one patient, place or video are held out together or not at all."""
    multi_label: bool = False
    """Take the same file in several class folders, or in several rows of a list, as one image with
    several labels."""
    seed: NonNegativeInt = 0
    """Seed of the held-out images, the order of the images, and the draws of few labels."""
    learning_rates: tuple[PositiveFloat, ...] = (1e-3, 4e-3, 1e-2)
    """Learning rates to try for the linear and the attentive probes."""
    epochs: PositiveInt = 100
    """Passes over the features; the learning rate falls to 0 along a cosine, epoch by epoch."""
    batch: PositiveInt = 256
    """Images per update of a probe."""
    weight_decay: NonNegativeFloat = 1e-4
    """AdamW's weight decay for the probes."""
    standardise: bool = True
    """Scale every feature to mean 0 and standard deviation 1 on the training images."""
    neighbours: tuple[PositiveInt, ...] = (1, 5, 10, 20, 50)
    """Numbers of nearest neighbours to try."""
    temperatures: tuple[PositiveFloat, ...] = (0.02, 0.07, 0.2)
    """Temperatures to try for weighting the votes of nearest neighbours."""
    attentive_epochs: NonNegativeInt = 20
    """Passes of the attentive probe over the patches of the best block; 0 skips it."""
    shots: tuple[PositiveInt, ...] = (1, 5, 10)
    """Numbers of labels per class to try; those that are too large for a class are reported."""
    seeds: PositiveInt = 5
    """How often the few labels are drawn."""
    baselines: bool = True
    """Measure trivial baselines, too (colours, a thumbnail, an untrained backbone), which any
    features must beat."""
    device: str = "auto"
    """Where the backbone runs: cpu, cuda, mps, or auto: a GPU if there is one."""
    memory: PositiveFloat | None = None
    """Gigabytes that features may take; None: half of the free memory. If they need more, blocks
    are chosen on a sample, and their probes are trained from a table on disk, in `out`."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pattern("groups", self.groups)
        for name in ("learning_rates", "neighbours", "temperatures"):
            require(
                len(getattr(self, name)) > 0,
                f"{name} is empty, ()",
                "give at least one; only shots may be left empty",
            )
