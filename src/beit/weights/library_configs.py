"""What `config.json` of timm or transformers says of a model that its weights do not.

In transformers, of `BeitConfig` and `Data2VecVisionConfig`, which is the same network.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from beit.config.data import Resize
from beit.config.tokenizer import Interpolation
from beit.models.position import CLASS_ROWS, Grid, table_length
from beit.weights.keymap import INDEX, TABLE, Family, Tensors
from beit.weights.overrides import Entries, Overrides
from beit.weights.published import is_published_hub

# -- timm ------------------------------------------------------------------------------------------

INTERPOLATIONS: dict[str, Interpolation] = {
    "": "bicubic", "bicubic": "bicubic", "bilinear": "bilinear", "lanczos": "lanczos",
}  # fmt: skip
CROPS: dict[str, Resize] = {"": "cover", "center": "cover", "squash": "stretch"}


def read_timm(config: Entries) -> Overrides:
    """The `config.json` of timm. Raises CheckpointError for a preparation that is not done here."""
    published = config.table("pretrained_cfg") or config
    built = config.table("model_args")
    shape = published.integers("input_size")
    mode, kind = published.text("crop_mode"), published.text("interpolation")
    if mode not in CROPS or kind not in INTERPOLATIONS:
        config.refuse(
            f"prepares images by crop_mode '{mode}' and interpolation '{kind}'",
            "only center and squash, bicubic, bilinear and lanczos are done here",
        )
    return Overrides(
        size=(shape[1], shape[2]) if shape is not None and len(shape) == 3 else None,
        heads=None if built is None else built.integer("num_heads"),
        mean=published.numbers("mean"),
        std=published.numbers("std"),
        crop=published.number("crop_pct"),
        resize=CROPS[mode],
        interpolation=INTERPOLATIONS[kind],
        classes=published.texts("label_names"),
    )


# -- transformers ----------------------------------------------------------------------------------

MODELS = ("beit", "data2vec-vision")
CODEBOOKS = ("flava", "flava_image_codebook")
OFFSET = 2  # its out_indices count from the embedding, and from 1
EPSILON = 1e-12  # its default
UNTRAINED_NAME = re.compile(r"LABEL_\d+")


def check_architecture(config: Entries) -> None:
    """Raise CheckpointError for a config of another architecture, which weights may not show."""
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


def read_transformers(
    config: Entries, family: Family, name: str
) -> tuple[Overrides, tuple[str, ...]]:
    """The `config.json` of transformers, and notes on it.

    `name` is the hub id; files that Microsoft converted state the defaults of transformers where
    they were trained with others. Raises CheckpointError for what BEiT has no place for.
    """
    published = is_published_hub(name)
    problem = config.text("problem_type")
    stated = Overrides(
        size=_size(config),
        heads=config.integer("num_attention_heads"),
        classes=_classes(config) if family != "masked" else None,
        epsilon=None if published else config.number("layer_norm_eps") or EPSILON,
        multi_label=problem == "multi_label_classification",
        regression=problem == "regression",
    )
    if family != "segmenter":
        return stated, ()
    stated = replace(stated, pools=config.integers("pool_scales") or (1, 2, 3, 6))
    if published:
        return stated, ()
    blocks, note = _blocks_read(config)
    return replace(stated, out_indices=blocks), (note,)


def _size(config: Entries) -> tuple[int, int]:
    side, patch = config.content.get("image_size", 224), config.integer("patch_size") or 16
    sides = config.integers("image_size") if isinstance(side, list) else (side, side)
    if sides is None or len(sides) != 2 or any(type(each) is not int for each in sides):
        config.refuse(f"says image_size = {side!r:.80}", "give one side, or height and width")
    if any(each <= 0 or each % patch for each in sides):
        config.refuse(
            f"has images of {sides[0]} x {sides[1]} pixels, which patches of {patch} do not divide",
            "only whole patches are BEiT; train it at a size that is a multiple of the patch",
        )
    return sides[0], sides[1]


def _classes(config: Entries) -> tuple[str, ...] | None:
    """The names of the classes, unless they are only the numbers of an untrained head."""
    labels = config.table("id2label")
    if labels is None or not labels.content:
        return None
    if not all(key.isdecimal() for key in labels.content):
        config.refuse("has an id2label whose keys are not numbers", "correct it")
    ids = sorted(labels.content, key=int)
    if [int(key) for key in ids] != list(range(len(ids))):
        config.refuse("has an id2label that does not count from 0", "correct it")
    names = tuple(str(labels.content[key]) for key in ids)
    return None if all(map(UNTRAINED_NAME.fullmatch, names)) else names


def _blocks_read(config: Entries) -> tuple[tuple[int, ...], str]:
    """The blocks that a segmenter reads in truth, not those it names.

    Its `out_indices` are those that unilm counts from 0, but it reads two blocks earlier. The files
    that Microsoft converted were trained with the blocks named.
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
    return blocks, (
        f"the head reads blocks {', '.join(map(str, blocks))}, as transformers does where its "
        f"out_indices say {', '.join(map(str, indices))}"
    )


def as_read(tensors: Tensors, size: tuple[int, int] | None) -> tuple[Tensors, tuple[str, ...]]:
    """Published weights with position tables of h x w patches as transformers reads them.

    Version 5 takes a table for h x w patches as one for w x h, and absolute positions as a square,
    and resizes them to h x w, also where nothing is to be resized. Models trained so have learned
    around it, which the resized tables express. Squares are as they are; so are files that keep the
    index of older versions, which did not resize.
    """
    names = ("patch_embed.proj.weight", "backbone.patch_embed.proj.weight")
    patch = next((int(tensors[name].shape[-1]) for name in names
                  if name in tensors and tensors[name].ndim == 4), 1)  # fmt: skip
    if size is None or size[0] == size[1] or patch == 0 or any(side % patch for side in size):
        return tensors, ()  # what the patch does not divide is refused when the model is built
    if any(name.endswith(INDEX) for name in tensors):
        return tensors, ()
    grid = size[0] // patch, size[1] // patch
    side = math.isqrt(grid[0] * grid[1])
    found = dict(tensors)
    for name, value in tensors.items():
        if name.endswith(TABLE) and value.ndim == 2 and len(value) == table_length(grid):
            found[name] = _table_as_read(value, grid)
        if name.endswith("pos_embed") and value.ndim == 3 and side * side == grid[0] * grid[1]:
            found[name] = _positions_as_read(value, side, grid)
    note = (
        f"positions of {grid[0]} x {grid[1]} patches are resized as transformers does when it "
        "reads them, which takes them for another shape"
    )
    changed = any(found[name] is not value for name, value in tensors.items())
    return found, (note,) if changed else ()


def _table_as_read(table: Tensor, grid: Grid) -> Tensor:
    height, width = 2 * grid[0] - 1, 2 * grid[1] - 1
    offsets = table[:-CLASS_ROWS].float().reshape(1, width, height, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(offsets, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
    rows = resized.reshape(height * width, -1).to(table.dtype)
    return torch.cat([rows, table[-CLASS_ROWS:]])


def _positions_as_read(positions: Tensor, side: int, grid: Grid) -> Tensor:
    patches = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    whole = resized.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], whole], dim=1)
