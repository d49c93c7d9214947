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
    """What only a classifier takes."""

    crop: Crop | None = None
    """Fraction of the side that the centre crop keeps; the model's own by default."""
    size: Sides | None = None
    """Height and width in pixels; the model's own by default."""
    labels: str = ""
    """Label map in JSON: {"folder or file name": class or [classes]}, or a list with the classes of
    each image in the order of the file names. Any of them is right; of a multi-label model all
    are."""


@dataclass(frozen=True, kw_only=True)
class SegmentedConfig(Config):
    """What only a segmenter takes. What is not given is as the model carries it."""

    scales: Scales | None = None
    """Sizes to average over; published as multi-scale: 1 1.25 1.5 1.75, with --flip."""
    whole: bool = False
    """Read each image at once instead of through a window."""
    window: Sides | None = None
    """Height and width of the window."""
    stride: Sides | None = None
    """Step of the window."""
    short_side: Annotated[int, Range(0, 65_536)] | None = None
    """Shorter side of the image at scale 1; 0 reads it at its own size."""
    masks: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inference(InferenceConfig(), flip=False)

    def inference(self, own: InferenceConfig, *, flip: bool) -> InferenceConfig:
        """How whole images are read: as the model carries it, but for what is given."""
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
    """The part to read, where there are parts."""
    flip: bool = False
    """Average the probabilities of each image and its mirror image; a segmenter may anyhow."""
    batch: PositiveInt | None = None
    """Images at a time, 32 by default; of a segmenter, windows at a time, 8 by default."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one."""
    classified: ClassifiedConfig = field(default_factory=ClassifiedConfig)
    segmented: SegmentedConfig = field(default_factory=SegmentedConfig)
    workers: Workers | None = None
    """Processes that read images; None takes what the machine has to spare."""

    def loader(self, value_range: tuple[float, float] | None = None) -> LoaderConfig:
        """How images are read, once and in their order, by a model that has seen this range."""
        return LoaderConfig(workers=self.workers, value_range=value_range)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(DividedDataConfig):
    """Measure what the frozen features of every block are worth; nothing of the model is trained.

    The linear probes differ from the published ones in that they see the central view only, not a
    random crop: features are computed once. Settings are chosen on validation.
    """

    recipe: str = ""
    """Name of the recipe the other values come from."""
    data: str = ""
    """Class folders, also under train/, val/ and test/, or a labelled list."""
    out: str = ""
    """Folder for probe.json and probe.html."""
    crop: Crop | None = None
    """Fraction of the side that the centre crop keeps; the model's own by default."""
    split: Fraction = 0.2
    """Fraction of each class held out for validation where there is no val/."""
    groups: str = ""
    """Regular expression that finds in an image's name what it belongs to, as 'patient_([0-9]+)':
    the images of a patient, place or video are held out together or not at all."""
    multi_label: bool = False
    """Take the same file in several class folders, or named several times in a list, for one image
    with several labels."""
    seed: NonNegativeInt = 0
    """Decides the held-out fraction, the order of the images, and which few labels are used."""
    learning_rates: tuple[PositiveFloat, ...] = (1e-3, 4e-3, 1e-2)
    """Learning rates of the linear and the attentive probes, all tried."""
    epochs: PositiveInt = 100
    """Passes over the features; the learning rate falls to 0 on a cosine, epoch by epoch."""
    batch: PositiveInt = 256
    """Images per update of a probe."""
    weight_decay: NonNegativeFloat = 1e-4
    """AdamW's weight decay of the probes."""
    standardise: bool = True
    """Bring every feature to mean 0 and deviation 1 on the training images."""
    neighbours: tuple[PositiveInt, ...] = (1, 5, 10, 20, 50)
    """Numbers of nearest neighbours that vote."""
    temperatures: tuple[PositiveFloat, ...] = (0.02, 0.07, 0.2)
    """Temperatures of their votes."""
    attentive_epochs: NonNegativeInt = 20
    """Passes of the attentive probe over the patches of the best block; 0 leaves it out."""
    shots: tuple[PositiveInt, ...] = (1, 5, 10)
    """Labels per class of the low-shot settings; those that a class is too small for are named."""
    seeds: PositiveInt = 5
    """Draws of the few labels."""
    baselines: bool = True
    """Measure colours, a thumbnail and an untrained backbone beside it, which any must beat."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one; for the backbone."""
    memory: PositiveFloat | None = None
    """Gigabytes that features may take; None: half of what is free. Of more, blocks are chosen on
    a sample, and the probes of those are trained from a table on the disk of `out`."""
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
