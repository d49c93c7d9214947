"""The model of published weights, strictly: every tensor has its place.

Its architecture is read off the shapes. What they do not show (the pixel statistics, the heads of a
backbone without relative bias, the sides of a grid that is not square) comes from whoever opens the
file, from the configuration beside it, or is the convention of the family; each such choice is
logged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from beit.config import (
    DalleConfig,
    HeadConfig,
    UperNetConfig,
    VisionTransformerConfig,
    VQKDConfig,
)
from beit.config.model import IMAGENET_MEAN, IMAGENET_STD
from beit.config.runs import AggregationConfig, Pooling
from beit.errors import CheckpointError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.layers import NORM_EPSILON
from beit.models.position import Grid, relative_position_index, table_length
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.keymap import (
    CLASSIFIER,
    INDEX,
    MASKED,
    SEGMENTER,
    TABLE,
    VQKD,
    Family,
    Pairs,
    Tensors,
    below,
    from_published,
)
from beit.weights.overrides import Overrides
from beit.weights.transfer import load_strictly

HEAD_WIDTH = 64  # of every published size but one, which has a relative bias to tell
MOST = 1 << 16  # no side of a real tensor that decides the architecture is larger
MOST_PATCHES = 4096  # the index of the relative bias grows with their square
BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
TO_STATE = "give mean and std to beit.load, or --mean and --std to `beit convert`"
Statistics = tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]
"""Mean, standard deviation, and notes on where they come from."""


class Built(NamedTuple):
    """A model in evaluation mode, and what was assumed or skipped to build it."""

    model: nn.Module
    notes: tuple[str, ...]


def build_model(tensors: Tensors, family: Family, known: Overrides) -> Built:
    """The model of weights with published names.

    Raises CheckpointError for tensors that are missing, left over, or of another shape.
    """
    build: dict[Family, Callable[[Tensors, Overrides], Built]] = {
        "masked": _masked,
        "backbone": _backbone,
        "classifier": _classifier,
        "segmenter": _segmenter,
        "vqkd": _vqkd,
        "dalle": _dalle,
    }
    return build[family](tensors, known)


def _loaded(model: nn.Module, tensors: Tensors, pairs: Pairs, notes: tuple[str, ...]) -> Built:
    """A bias that no block has is 0: so qkv_bias=False and a linear head without bias mean it."""
    weights = from_published(tensors, pairs)
    has = {BLOCK.sub("", name) for name in weights}
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()
             if name.endswith("bias") and BLOCK.sub("", name) not in has}  # fmt: skip
    kinds = sorted({BLOCK.sub("", name) for name in zeros})
    if kinds:
        notes += (f"there is no {', '.join(kinds)}: taken as 0",)
    load_strictly(model, weights | zeros)
    return Built(model.eval(), notes)


def _masked(tensors: Tensors, known: Overrides) -> Built:
    extra = {name.split(".")[1] for name in tensors if name.startswith("cls_pt_layers.")}
    trunk = backbone_config(tensors, known, imagenet=bool(extra))
    aggregation, notes = None, trunk.notes
    if extra:
        tap = known.early_layer or trunk.config.depth - 3
        notes += (f"patch aggregation reads block {tap}, as published",)
        aggregation = AggregationConfig(
            early_layer=tap, blocks=len(extra), shared_head="cls_pt_lm_head.weight" not in tensors
        )
    outputs = shape_of(tensors, "lm_head.weight", 2)[0]
    return _loaded(MaskedImageModel(trunk.config, outputs, aggregation), tensors, MASKED, notes)


def _backbone(tensors: Tensors, known: Overrides) -> Built:
    """The norm after a backbone is kept; where there is none, one that scales nothing stands."""
    trunk = backbone_config(tensors, known)
    model, notes = PretrainedBackbone(trunk.config), trunk.notes
    if "norm.weight" not in tensors and "fc_norm.weight" in tensors:
        notes += ("its last norm, fc_norm, was trained on the mean of the patches",)
        named = CLASSIFIER["mean"]
    else:
        named = MASKED
    if not {"norm.weight", "fc_norm.weight"} & tensors.keys():
        notes += ("it has no last norm; one with gain 1 stands in its place",)
        own = model.norm.state_dict()
        tensors = tensors | {f"norm.{name}": value for name, value in own.items()}
    return _loaded(model, tensors, named, notes)


def _classifier(tensors: Tensors, known: Overrides) -> Built:
    pooling: Pooling = "mean" if "fc_norm.weight" in tensors else "cls"
    trunk = backbone_config(tensors, known)
    outputs = shape_of(tensors, "head.weight", 2)[0]
    model = Classifier(trunk.config, outputs, HeadConfig(pooling=pooling))
    return _loaded(model, tensors, CLASSIFIER[pooling], trunk.notes)


def _segmenter(tensors: Tensors, known: Overrides) -> Built:
    trunk = backbone_config(below(tensors, "backbone."), known, imagenet=True)
    notes = trunk.notes
    decoded = shape_of(tensors, "decode_head.conv_seg.weight", 4)
    auxiliary = "auxiliary_head.conv_seg.weight" in tensors
    convolutions = [name for name in tensors if name.startswith("auxiliary_head.conv")
                    and name.endswith(".conv.weight")]  # fmt: skip
    if auxiliary and convolutions != ["auxiliary_head.convs.0.conv.weight"]:
        auxiliary = False
        tensors = {name: value for name, value in tensors.items()
                   if not name.startswith("auxiliary_head.")}  # fmt: skip
        notes += ("the auxiliary head is left out: it has not one convolution, and only serves "
                  "training",)  # fmt: skip
    default = UperNetConfig()
    head = UperNetConfig(
        out_indices=known.out_indices,
        head_channels=decoded[1],
        pools=known.pools or default.pools,
        auxiliary=auxiliary,
        auxiliary_channels=shape_of(tensors, "auxiliary_head.conv_seg.weight", 4)[1]
        if auxiliary
        else default.auxiliary_channels,
    )
    if known.out_indices is None:
        blocks = ", ".join(map(str, head.blocks(trunk.config.depth)))
        notes += (f"the head reads blocks {blocks}, as published",)
    return _loaded(Segmenter(trunk.config, decoded[0], head), tensors, SEGMENTER, notes)


def _vqkd(tensors: Tensors, known: Overrides) -> Built:
    beside = [name for name in tensors if name.startswith(("teacher", "scaling", "loss"))]
    notes: tuple[str, ...] = ()
    if beside:
        notes = (f"left out: {len(beside)} tensors that only its training needs",)
    tensors = {name: value for name, value in tensors.items() if name not in beside}
    trunks = []
    for part in ("encoder.", "decoder."):
        inner = below(tensors, part)
        # Neither part normalises pixels by these: the tokenizer maps them to [-1, 1] itself.
        half = (0.5,) * shape_of(inner, "patch_embed.proj.weight", 4)[1]
        trunk = backbone_config(inner, Overrides(heads=known.heads, mean=half, std=half))
        notes += trunk.notes
        trunks.append(trunk.config)
    encoder, decoder = trunks
    codes, width = shape_of(tensors, "quantize.embedding.weight", 2)
    config = VQKDConfig(
        size=encoder.size,
        patch=encoder.patch,
        channels=encoder.channels,
        codes=codes,
        width=encoder.width,
        depth=encoder.depth,
        decoder_depth=decoder.depth,
        heads=encoder.heads,
        hidden=encoder.hidden,
        codebook_width=width,
        teacher_width=shape_of(tensors, "decode_task_layer.2.weight", 2)[0],
    )
    return _loaded(build_tokenizer(config), tensors, VQKD, notes)


def _dalle(tensors: Tensors, _known: Overrides) -> Built:
    blocks = {name.split(".")[3] for name in tensors if name.startswith("encoder.blocks.group_1.")}
    hidden, channels, *_ = shape_of(tensors, "encoder.blocks.input.weight", 4)
    decoder = tensors.get("decoder.blocks.input.weight")
    config = DalleConfig(
        codes=shape_of(tensors, "encoder.blocks.output.conv.weight", 4)[0],
        hidden=hidden,
        channels=channels,
        blocks_per_group=len(blocks),
        decoder_input=128 if decoder is None else len(decoder),
        decoder=decoder is not None,
    )
    return _loaded(build_tokenizer(config), tensors, (("", ""),), ())


# -- its architecture ------------------------------------------------------------------------------


class Trunk(NamedTuple):
    """A backbone as its weights show it, and what they leave open."""

    config: VisionTransformerConfig
    notes: tuple[str, ...]


def backbone_config(tensors: Tensors, known: Overrides, *, imagenet: bool = False) -> Trunk:
    """The config of a trunk with published names, and the choices that the file does not settle.

    `imagenet` says that the family was trained with the pixel statistics of ImageNet. Raises
    CheckpointError for tensors that are no such trunk, or whose persisted index is not the
    published one.
    """
    width, channels, patch, across = shape_of(tensors, "patch_embed.proj.weight", 4)
    numbers = {int(found[1]) for found in map(BLOCK.match, tensors) if found}
    depth = len(numbers)
    if patch != across or not numbers or max(numbers) != depth - 1:
        raise CheckpointError(
            f"the patches of the file are {patch} x {across} pixels, and it has {depth} blocks, "
            f"the last of which has number {max(numbers, default='none')}",
            remedy="give a file with square patches and all of its blocks",
        )
    shared, own = f"rel_pos_bias.{TABLE}", f"blocks.0.attn.{TABLE}"
    table = next((name for name in (shared, own) if name in tensors), None)
    rows, columns = shape_of(tensors, table, 2) if table else (None, 0)
    heads = _heads(columns, width, known)
    grid = _grid(tensors, rows, patch, known)
    scaled = "blocks.0.gamma_1" in tensors
    plain = "pos_embed" in tensors and not table
    mean, std, notes = _statistics(channels, known, imagenet=imagenet or (plain and not scaled),
                                   documents=plain and scaled)  # fmt: skip
    config = VisionTransformerConfig(
        size=(grid[0] * patch, grid[1] * patch),
        patch=patch,
        channels=channels,
        width=width,
        depth=depth,
        heads=heads,
        hidden=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        absolute_position="pos_embed" in tensors,
        relative_position="shared" if shared in tensors else "per-block" if own in tensors
        else "none",
        layer_scale=(0.1 if depth <= 12 else 1e-5) if scaled else None,
        mask_token="mask_token" in tensors,
        mean=mean,
        std=std,
        norm_epsilon=known.epsilon or NORM_EPSILON,
    )  # fmt: skip
    if not columns and not known.heads:
        notes = (f"{heads} heads of width {HEAD_WIDTH}, as published", *notes)
    return Trunk(config, notes)


def shape_of(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there. Raises CheckpointError for any other."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions or not 0 < min(tensor.shape) <= MOST:
        found = "has none" if tensor is None else f"has one of shape {tuple(tensor.shape)}"
        raise CheckpointError(
            f"there should be a '{name}' of {dimensions} dimensions, the file {found}",
            remedy="give a file of the BEiT family",
        )
    return tuple(tensor.shape)


def _heads(columns: int, width: int, known: Overrides) -> int:
    if columns:
        if known.heads not in (None, columns):
            raise CheckpointError(
                f"{known.heads} heads are stated for a relative bias of {columns}",
                remedy="leave heads out, or correct the configuration beside the weights",
            )
        return columns
    if known.heads:
        return known.heads
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"the file does not say how many heads share its width of {width}: it has no relative "
            f"bias, and the published width of a head, {HEAD_WIDTH}, does not divide it",
            remedy="state it: heads=... in Python, --heads ... on the command line",
        )
    return width // HEAD_WIDTH


def _grid(tensors: Tensors, rows: int | None, patch: int, known: Overrides) -> Grid:
    """Patches per side: given, read off the persisted index, or a square; checked against all."""
    indices = {name: value for name, value in tensors.items() if name.endswith(INDEX)}
    count = shape_of(tensors, next(iter(indices)), 2)[0] - 1 if indices else None
    if "pos_embed" in tensors:
        count = shape_of(tensors, "pos_embed", 3)[1] - 1
    if known.size is not None:
        grid = known.size[0] // patch, known.size[1] // patch
    elif count is None and rows is None:
        raise CheckpointError(
            "the file has no positions of any kind, so its image size is unknown",
            remedy="state it: size=(height, width) in Python, --size on the command line",
        )
    else:
        root = math.isqrt(max((rows or 0) - 3, 0))
        side = math.isqrt(count) if count is not None else (root + 1) // 2
        grid = _oblong(count, rows, indices) or (side, side)
    fits = (rows is None or rows == table_length(grid)) and (
        count is None or count == grid[0] * grid[1]
    )
    if grid[0] * grid[1] > MOST_PATCHES:
        raise CheckpointError(
            f"positions for {grid[0]} x {grid[1]} patches are beyond any released model",
            remedy=f"up to {MOST_PATCHES} patches are read",
        )
    if not fits or 0 in grid:
        raise CheckpointError(
            f"positions for a grid of {grid[0]} x {grid[1]} patches do not fit the file: it has "
            f"{rows if rows is not None else 'no'} rows of relative bias and "
            f"{count if count is not None else 'no count of'} patches",
            remedy="if its images are not square, give their size",
        )
    wrong = [name for name, value in indices.items()
             if not torch.equal(value.long(), relative_position_index(grid))]  # fmt: skip
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} is not the published index of a grid of {grid[0]} x {grid[1]} patches",
            remedy="the file is damaged, or of another architecture",
        )
    return grid


def _oblong(count: int | None, rows: int | None, indices: Tensors) -> Grid | None:
    """The sides of a grid by its persisted index; a strip of one patch has the same upright and
    flat."""
    if count is None or rows is None or not indices or count > MOST_PATCHES:
        return None
    index = next(iter(indices.values())).long()
    for height in range(2, count // 2 + 1):
        grid = height, count // height
        fits = height * grid[1] == count and table_length(grid) == rows
        if fits and torch.equal(index, relative_position_index(grid)):
            return grid
    return None


def _statistics(channels: int, known: Overrides, *, imagenet: bool, documents: bool) -> Statistics:
    """Mean and standard deviation: stated, or by family (beit-reference, trap 8)."""
    if known.mean is not None and known.std is not None:
        return known.mean, known.std, ()
    half = (0.5,) * channels
    if channels != 3:
        return half, half, (f"mean and std 0.5 for {channels} channels: the file does not say",)
    if imagenet:
        note = "mean and std of ImageNet, as its family was trained"
        return IMAGENET_MEAN, IMAGENET_STD, (note,)
    note = (
        "mean and std 0.5, as BEiT v1 on ImageNet-22k was trained; fine-tuned files of BEiT v2 "
        "look the same and need those of ImageNet: then " + TO_STATE
    )
    if documents:
        note = (
            "mean and std 0.5, as DiT was trained, whose architecture this is (absolute positions "
            "with layer scale); if it was trained otherwise, " + TO_STATE
        )
    return half, half, (note,)
