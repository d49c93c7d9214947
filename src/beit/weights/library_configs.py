"""What the configs of timm and transformers state about a model that its weights do not show.

These are the `config.json` of timm; and of transformers the `config.json` of `BeitConfig` and
`Data2VecVisionConfig`, which describe the same network, and `preprocessor_config.json`, which says
how images are prepared for the model.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.config.data import Resize
from beit.config.runs import Pooling
from beit.config.tokenizer import Interpolation
from beit.models.position import CLASS_ROWS, Grid, resize_absolute_position, table_length
from beit.weights.keymap import INDEX, TABLE, Family, Tensors
from beit.weights.overrides import Entries, Overrides
from beit.weights.published import is_published_hub

# -- timm ------------------------------------------------------------------------------------------

INTERPOLATIONS: dict[str, Interpolation] = {
    "": "bicubic", "bicubic": "bicubic", "bilinear": "bilinear", "lanczos": "lanczos",
}  # fmt: skip
CROPS: dict[str, Resize] = {"": "cover", "center": "cover", "squash": "stretch"}
POOLED: dict[str, Pooling] = {"avg": "mean", "token": "cls"}


def read_timm(config: Entries) -> Overrides:
    """Read the `config.json` of timm.

    A square `input_size` is ignored: timm kept the published value where it adapted a model to
    images of another size, and the weights of a square model show their size.

    Raises:
        CheckpointError: Images are prepared in a way that is not supported here, or the head reads
            each patch.
    """
    published = config.table("pretrained_cfg") or config
    built = config.table("model_args") or Entries(config.file, {})
    shape = built.sides("img_size") or (published.integers("input_size") or ())[1:]
    mode, kind = published.text("crop_mode"), published.text("interpolation")
    if mode not in CROPS or kind not in INTERPOLATIONS:
        config.refuse(
            f"prepares images by crop_mode '{mode}' and interpolation '{kind}'",
            "only center and squash, bicubic, bilinear and lanczos are done here",
        )
    if built.content.get("global_pool") == "" and config.integer("num_classes") != 0:
        config.refuse("has a head for each patch", "save it with num_classes=0, for its features")
    oblong = len(shape) == 2 and (shape[0] != shape[1] or "img_size" in built.content)
    return Overrides(
        size=(shape[0], shape[1]) if oblong else None,
        depth=built.integer("depth"),
        heads=built.integer("num_heads"),
        pooling=POOLED.get(config.text("global_pool") or built.text("global_pool")),
        mean=published.numbers("mean"),
        std=published.numbers("std"),
        crop=published.number("crop_pct"),
        resize=CROPS[mode],
        interpolation=INTERPOLATIONS[kind],
    ).over(_answers(config, config.names("label_names") or published.names("label_names")))


# -- transformers ----------------------------------------------------------------------------------

MODELS = ("beit", "data2vec-vision")
CODEBOOKS = ("flava", "flava_image_codebook")
OFFSET = 2  # its out_indices count from 1, and the first is the patch embedding
DEFAULT_EPSILON, DEFAULT_HEADS = 1e-12, 12
UNTRAINED_NAME = re.compile(r"LABEL_\d+")
PROBLEMS = ("", "single_label_classification", "multi_label_classification", "regression")


def check_architecture(config: Entries) -> None:
    """Raise CheckpointError for a config of another architecture, which the weights may not
    reveal."""
    if "model_type" not in config.content:
        if config.content and not config.text("architecture").startswith("beit"):
            name = config.text("architecture")
            config.refuse(f"is of timm's '{name}'", "give a model of the BEiT family")
        return
    kind = config.text("model_type")
    if kind not in (*MODELS, *CODEBOOKS):
        config.refuse(
            f"says that the folder holds a model of type '{kind}'",
            "give a model of the BEiT family (beit, data2vec-vision)",
        )
    activation = config.text("hidden_act") or "gelu"
    if kind in MODELS and activation not in ("gelu", "gelu_python"):
        config.refuse(f"has the activation '{activation}'", "only the exact gelu is BEiT")


def read_transformers(config: Entries, family: Family, name: str, notes: list[str]) -> Overrides:
    """Read the `config.json` of transformers.

    Args:
        config: The parsed file.
        family: What the weights are for, which decides which entries are read.
        name: Hub id. Files that Microsoft converted state the defaults of transformers where they
            were trained with other values, so there such entries are ignored.
        notes: Extended with what was read differently from how it is stated.

    Raises:
        CheckpointError: The config states something that BEiT has no place for.
    """
    published = is_published_hub(name)
    names = config.names("id2label") if family != "masked" else None
    stated = Overrides(
        size=_size(config),
        depth=config.integer("num_hidden_layers"),
        heads=config.integer("num_attention_heads"),
        pooling="mean" if config.flag("use_mean_pooling", True) else "cls",
        epsilon=None if published else config.number("layer_norm_eps") or DEFAULT_EPSILON,
    ).over(_answers(config, names))
    if family != "segmenter":
        return stated
    return replace(
        stated,
        pools=config.integers("pool_scales") or (1, 2, 3, 6),
        out_indices=None if published else _blocks_read(config, notes),
    )


def _answers(config: Entries, names: tuple[str, ...] | None) -> Overrides:
    """What a head predicts: classes with these names, one or several per image, or values."""
    problem = config.text("problem_type")
    if problem not in PROBLEMS:
        config.refuse(f"has problem_type '{problem}'", f"it is one of {', '.join(PROBLEMS[1:])}")
    return Overrides(
        classes=None if names and all(map(UNTRAINED_NAME.fullmatch, names)) else names,
        multi_label=problem == "multi_label_classification",
        regression=problem == "regression",
    )


def _size(config: Entries) -> tuple[int, int]:
    patch = config.integer("patch_size") or 16
    sides = config.sides("image_size") or (224, 224)
    if any(each % patch for each in sides):
        config.refuse(
            f"has images of {sides[0]} x {sides[1]} pixels, which patches of {patch} do not divide",
            "only whole patches are BEiT; train it at a size that is a multiple of the patch",
        )
    return sides[0], sides[1]


def _blocks_read(config: Entries, notes: list[str]) -> tuple[int, ...]:
    """The blocks that a segmenter really reads, which are not those it names.

    Its `out_indices` are those that unilm counts from 0, but transformers reads two blocks earlier.
    The files that Microsoft converted were trained with the blocks they name.
    """
    indices = config.integers("out_indices") or config.integers("segmentation_indices")
    indices = indices or (3, 5, 7, 11)
    depth = config.integer("num_hidden_layers") or 12
    blocks = tuple(index - OFFSET if index > 0 else index - 1 + depth for index in indices)
    if len(blocks) != 4 or min(blocks) < 0 or max(blocks) >= depth:
        config.refuse(
            f"has out_indices {list(indices)} of {depth} blocks: one reads the patch embedding, "
            "which is no block, or none",
            "only four outputs of blocks can be read here",
        )
    notes.append(
        f"the head reads blocks {', '.join(map(str, blocks))}, as transformers does where its "
        f"out_indices say {', '.join(map(str, indices))}"
    )
    return blocks


def as_read(tensors: Tensors, size: tuple[int, int] | None, notes: list[str]) -> Tensors:
    """The weights, with position tables of h x w patches resized as transformers does on reading.

    Version 5 takes a table for h x w patches as one for w x h, and absolute positions as those of a
    square grid, and resizes both to h x w, even where nothing needs resizing. Models trained this
    way have adapted to it, so only the resized tables reproduce them. Square grids stay as they
    are; so do files with the index that older versions stored, since those did not resize.

    Args:
        tensors: Weights under published names.
        size: Height and width of the images in pixels; if None, nothing is resized.
        notes: Extended if a table was resized.
    """
    names = ("patch_embed.proj.weight", "backbone.patch_embed.proj.weight")
    patch = next((int(tensors[name].shape[-1]) for name in names
                  if name in tensors and tensors[name].ndim == 4), 1)  # fmt: skip
    if size is None or size[0] == size[1] or patch == 0 or any(side % patch for side in size):
        return tensors  # sides that the patch does not divide are refused when the model is built
    if any(name.endswith(INDEX) for name in tensors):
        return tensors
    grid = size[0] // patch, size[1] // patch
    side = math.isqrt(grid[0] * grid[1])
    found = dict(tensors)
    for name, value in tensors.items():
        if name.endswith(TABLE) and value.ndim == 2 and len(value) == table_length(grid):
            found[name] = _table_as_read(value, grid)
        if name.endswith("pos_embed") and value.ndim == 3 and side * side == grid[0] * grid[1]:
            found[name] = resize_absolute_position(value, (side, side), grid)
    if any(found[name] is not value for name, value in tensors.items()):
        notes.append(
            f"positions of {grid[0]} x {grid[1]} patches are resized as transformers does when it "
            "reads them, which takes them for another shape"
        )
    return found


def _table_as_read(table: Tensor, grid: Grid) -> Tensor:
    height, width = 2 * grid[0] - 1, 2 * grid[1] - 1
    offsets = table[:-CLASS_ROWS].float().reshape(1, width, height, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(offsets, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
    rows = resized.reshape(height * width, -1).to(table.dtype)
    return torch.cat([rows, table[-CLASS_ROWS:]])


# -- transformers: the image processor -------------------------------------------------------------
#
# Resize, centre crop, scale, mean and standard deviation, in our terms. What our preprocessing
# cannot express is refused, because the model would answer differently.

PILLOW: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
SILENT = {
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "data_format",
    "input_data_format", "device", "disable_grouping", "return_tensors", "default_to_square",
    "do_convert_rgb", "do_reduce_labels", "reduce_labels", "_valid_processor_keys",
    "image_seq_length", "backend", "do_resize", "size", "resample", "do_center_crop", "crop_size",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "num_channels",
    "transformers_version", "do_thumbnail",
}  # fmt: skip
"""Entries that are read here, or that change nothing."""
SHORT_EDGE = ("CLIP", "Bit")  # processors for which a single number is the shorter side
HALVES = ("Beit", "ViT")  # processors whose default mean and standard deviation are 0.5
BILINEAR = ("ViT", "Segformer", "LayoutLMv")  # the others resize bicubically by default
PREPARE = ("Beit", "Bit", "Blip", "CLIP", "ChineseCLIP", "DeiT", "LayoutLMv2", "LayoutLMv3",
           "Segformer", "Siglip", "ViT")  # fmt: skip
"""Processors that do what their entries say, and no more; the code of others may do anything."""
KIND = re.compile(rf"({'|'.join(PREPARE)})(ImageProcessor(Fast|Pil)?|FeatureExtractor)")
BY_HAND = "take this file away, prepare the images yourself and call `.model`"
TRAINED = "train, and save the processor, with a size the model has"


def read_processor(
    entries: Entries, size: tuple[int, int], channels: int, *, fixed: bool
) -> Overrides:
    """Read mean and standard deviation for pixels in [0, 1], and how images are resized and
    cropped.

    Args:
        entries: The config of the image processor.
        size: Height and width in pixels that the model reads.
        channels: Number of image channels.
        fixed: Whether images reach the model at that size. A segmenter slides over larger ones, so
            only mean and standard deviation are read.

    Raises:
        CheckpointError: The processor does something that our preprocessing cannot express.
    """
    odd = [name for name in entries.content
           if name not in SILENT and entries.content[name] not in (None, False)]  # fmt: skip
    if odd:
        entries.refuse(
            f"has {', '.join(odd[:3])}, which is not done here",
            f"{BY_HAND}, or save the processor without it",
        )
    if not KIND.fullmatch(_kind(entries)):
        entries.refuse(
            f"is for the processor '{_kind(entries)}', which may prepare images in another way",
            f"{BY_HAND}, or save one of {', '.join(PREPARE)}",
        )
    statistics = read_statistics(entries, channels)
    return _view(entries, size).over(statistics) if fixed else statistics


def _kind(entries: Entries) -> str:
    """The name of the processor's class; BEiT's where none is named."""
    return (
        entries.text("image_processor_type")
        or entries.text("feature_extractor_type")
        or "BeitImageProcessor"
    )


def read_statistics(entries: Entries, channels: int) -> Overrides:
    """Convert its (p * factor - mean) / std to our (p / 255 - mean) / std, even if it skips a
    step."""
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
    # A factor written as 0.00392156862745098 means 1 / 255.
    unit = 1.0 if abs(unit - 1) < 1e-6 else unit
    return Overrides(mean=tuple(m / unit for m in mean), std=tuple(s / unit for s in std))


def _view(entries: Entries, size: tuple[int, int]) -> Overrides:
    """How an image of any size is brought to that of the model."""
    crops = entries.flag("do_center_crop", _kind(entries).startswith(SHORT_EDGE))
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
    """How images are resized, and to which height and width; a shorter side alone is returned as
    both."""
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
