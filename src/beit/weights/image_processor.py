"""How the image processor of transformers brings an image to the model, in our terms.

`preprocessor_config.json`: resize, centre crop, scale, mean and standard deviation. What our
preparation cannot express is refused, as the answers would be others.
"""

from __future__ import annotations

from beit.config.data import Resize
from beit.config.tokenizer import Interpolation
from beit.weights.overrides import Entries, Overrides

PILLOW: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
SILENT = {
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "data_format",
    "input_data_format", "device", "disable_grouping", "return_tensors", "default_to_square",
    "do_convert_rgb", "do_reduce_labels", "reduce_labels", "_valid_processor_keys",
    "image_seq_length", "backend", "do_resize", "size", "resample", "do_center_crop", "crop_size",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "num_channels",
    "transformers_version", "do_thumbnail",
}  # fmt: skip
"""Entries that are read here, or change nothing."""
SHORT_EDGE = ("CLIP", "Bit")  # processors for which one number is the shorter side
HALVES = ("Beit", "ViT")  # processors whose own mean and deviation are 0.5
BILINEAR = ("ViT", "Segformer", "LayoutLMv", "Donut")  # the rest resizes bicubically by default
TRAINED = "train, and save the processor, with a size the model has"


def read_processor(
    entries: Entries, size: tuple[int, int], channels: int, *, fixed: bool
) -> Overrides:
    """Mean and standard deviation for pixels in [0, 1], and how an image is resized and cropped.

    `size` is the model's. `fixed` says that images come to it at that size; a segmenter slides over
    larger ones. Raises CheckpointError for a processor that does anything else.
    """
    odd = [name for name in entries.content
           if name not in SILENT and entries.content[name] not in (None, False)]  # fmt: skip
    if odd:
        entries.refuse(
            f"has {', '.join(odd[:3])}, which is not done here",
            "prepare the images yourself and call `.model`, or save the processor without it",
        )
    statistics = _statistics(entries, channels)
    return _view(entries, size).over(statistics) if fixed else statistics


def _kind(entries: Entries) -> str:
    """The name of the processor's class; that of BEiT where none is named."""
    return (
        entries.text("image_processor_type")
        or entries.text("feature_extractor_type")
        or "BeitImage"
    )


def _statistics(entries: Entries, channels: int) -> Overrides:
    """Our (p / 255 - mean) / std for its (p * factor - mean) / std, whatever is left out of it."""
    rescales, normalises = entries.flag("do_rescale", True), entries.flag("do_normalize", True)
    factor = entries.number("rescale_factor") if rescales else 1.0
    unit = 255 * (1 / 255 if factor is None else factor)
    if unit <= 0:
        entries.refuse(f"has rescale_factor {factor}", "correct it")
    mean, std = entries.numbers("image_mean"), entries.numbers("image_std")
    if not normalises:
        mean, std = (0.0,) * channels, (1.0,) * channels
    if mean is None or std is None:
        if not _kind(entries).startswith(HALVES):
            entries.refuse("does not say image_mean and image_std", "say both")
        mean, std = mean or (0.5,), std or (0.5,)
    mean, std = (each * channels if len(each) == 1 else each for each in (mean, std))
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        entries.refuse(
            f"has image_mean {list(mean)} and image_std {list(std)} for {channels} channels",
            "give one value for each channel, and deviations above 0",
        )
    # A factor that is written as 0.00392156862745098 is meant to be 1 / 255.
    unit = 1.0 if abs(unit - 1) < 1e-6 else unit
    return Overrides(mean=tuple(m / unit for m in mean), std=tuple(s / unit for s in std))


def _view(entries: Entries, size: tuple[int, int]) -> Overrides:
    """How an image of any size comes to that of the model."""
    crops = entries.flag("do_center_crop", False)
    if not entries.flag("do_resize", True):
        if crops:
            entries.refuse("crops images without resizing them", TRAINED)
        return Overrides(crop=1.0, resize="stretch")
    resize, whole = _resized(entries, size, crops)
    made = (entries.sides("crop_size") or size) if crops else whole
    if made != size:
        entries.refuse(
            f"makes images of {made[0]} x {made[1]} pixels for a model of {size[0]} x {size[1]}",
            TRAINED,
        )
    # The fraction that the centre crop keeps, from which `central_view` finds `whole` again.
    fractions = (size[0] / whole[0], size[0] / (whole[0] + 0.5))
    fitting = [each for each in fractions if each <= 1
               and tuple(int(side / each) for side in size) == whole]  # fmt: skip
    if not fitting:
        entries.refuse(
            f"resizes to {whole[0]} x {whole[1]} pixels for crops of {size[0]} x {size[1]}",
            "use a crop that keeps the same fraction of both sides, and no more than there is",
        )
    resample = entries.integer("resample")
    if resample is None:
        resample = 2 if _kind(entries).startswith(BILINEAR) else 3
    if resample not in PILLOW:
        entries.refuse(
            f"resizes with Pillow's filter {resample}",
            "only lanczos (1), bilinear (2) and bicubic (3) are done here",
        )
    return Overrides(crop=fitting[0], resize=resize, interpolation=PILLOW[resample])


def _resized(
    entries: Entries, size: tuple[int, int], crops: bool
) -> tuple[Resize, tuple[int, int]]:
    """How it resizes, and to which height and width; of a shorter side, both are that long."""
    value = entries.content.get("size")
    if isinstance(value, dict):
        given = {name for name in value if value[name] is not None}
        if given == {"shortest_edge"}:
            edge = Entries(entries.file, value).integer("shortest_edge") or 0
            if not edge or not crops or size[0] != size[1]:
                entries.refuse(
                    f"resizes the shorter side to {edge} pixels for a model of {size[0]} x "
                    f"{size[1]}" + ("" if crops else ", and does not crop"),
                    "images come to the model at one size: crop them to a square, or resize to "
                    "height and width",
                )
            return "cover", (edge, edge)
        if given != {"height", "width"}:
            entries.refuse(f"resizes to {value!r:.80}", "use height and width, or shortest_edge")
    sides = entries.sides("size")
    if sides is None:
        return "stretch", size
    short = _kind(entries).startswith(SHORT_EDGE)
    keeps = isinstance(value, int) and not entries.flag("default_to_square", not short)
    return "cover" if keeps else "stretch", sides
