"""What is measured on frozen features, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from beit.config.data import FolderConfig, LabelFileConfig, LoaderConfig, Reading
from beit.config.validation import (
    Config,
    Crop,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    require,
)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Measure what the frozen features of every block are worth; nothing of the model is trained.

    The linear probes differ from the published ones in that they see the central view only, not a
    random crop: features are computed once. Settings are chosen on validation.
    """

    recipe: str = ""
    """Name of the recipe the other values come from."""
    data: str = ""
    """Class folders, also under train/, val/ and test/, or a labelled list."""
    label_file: LabelFileConfig = field(default_factory=LabelFileConfig)
    out: str = ""
    """Folder for probe.json and probe.html."""
    crop: Crop | None = None
    """Share of the side that the centre crop keeps; the model's own by default."""
    folders: FolderConfig = field(default_factory=FolderConfig)
    split: Fraction = 0.2
    """Share of each class held out for validation where there is no val/."""
    multi_label: bool = False
    """Take the same file in several class folders, or named several times in a list, for one image
    with several labels."""
    seed: NonNegativeInt = 0
    """Decides the held-out share, the order of the images, and which few labels are used."""
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
    device: str = "cpu"
    """cpu or cuda, for the backbone."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    @property
    def reading(self) -> Reading:
        """How the data are read."""
        return Reading(self.folders, self.label_file)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rates", "neighbours", "temperatures"):
            require(
                len(getattr(self, name)) > 0,
                f"{name} is empty, ()",
                "give at least one; only shots may be left empty",
            )
