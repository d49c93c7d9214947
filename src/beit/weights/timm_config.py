"""What a folder of timm says of its model beside the weights."""

from __future__ import annotations

from beit.config.data import Resize
from beit.config.tokenizer import Interpolation
from beit.weights.architecture import Overrides
from beit.weights.entries import Entries

INTERPOLATIONS: dict[str, Interpolation] = {
    "": "bicubic", "bicubic": "bicubic", "bilinear": "bilinear", "lanczos": "lanczos",
}  # fmt: skip
CROPS: dict[str, Resize] = {"": "cover", "center": "cover", "squash": "stretch"}


def check_architecture(config: Entries) -> None:
    """Raises CheckpointError for other models of timm than BEiT's."""
    name = config.text("architecture")
    if not name.startswith("beit"):
        config.refuse(f"is of timm's '{name}'", "give a model of the BEiT family")


def state_timm(config: Entries) -> Overrides:
    """`config.json` of timm. Raises CheckpointError for a preparation that is not done here."""
    said = config.table("pretrained_cfg") or config
    shape = said.integers("input_size")
    mode, kind = said.text("crop_mode"), said.text("interpolation")
    if mode not in CROPS or kind not in INTERPOLATIONS:
        config.refuse(
            f"prepares images by crop_mode '{mode}' and interpolation '{kind}'",
            "only center and squash, bicubic, bilinear and lanczos are done here",
        )
    return Overrides(
        size=(shape[1], shape[2]) if shape is not None and len(shape) == 3 else None,
        mean=said.numbers("mean"),
        std=said.numbers("std"),
        crop=said.number("crop_pct"),
        resize=CROPS[mode],
        interpolation=INTERPOLATIONS[kind],
        classes=said.texts("label_names"),
    )
