"""Build the model of published weights, strictly: every tensor must have its place.

Its architecture is read off the shapes. What they do not show (the pixel statistics, the heads of a
backbone without relative bias, the sides of a grid that is not square) is stated by whoever opens
the file or by the configuration beside it, or is the convention of the family; each such choice is
logged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

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
from beit.weights.detect import Detected
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

HEAD_WIDTH = 64  # of every published size but one, whose relative bias shows its heads
WIDEST = 1024  # of models without a relative bias; EVA, which is wider, has heads of 88
MOST = 1 << 16  # no dimension of a real tensor that decides the architecture is larger
MOST_PATCHES = 4096  # the index of the relative bias grows with their square
BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
TO_STATE = "give mean and std to beit.load, or --mean and --std to `beit convert`"


def build_model(found: Detected) -> nn.Module:
    """Build the model of weights with published names, in evaluation mode.

    What is assumed or skipped to build it is added to the notes.

    Raises:
        CheckpointError: Tensors are missing, left over, or of another shape.
    """
    build: dict[Family, Callable[[Detected], nn.Module]] = {
        "masked": _masked,
        "backbone": _backbone,
        "classifier": _classifier,
        "segmenter": _segmenter,
        "vqkd": _vqkd,
        "dalle": _dalle,
    }
    return build[found.family](found)


def _loaded(model: nn.Module, found: Detected, pairs: Pairs) -> nn.Module:
    """Load the weights. A bias that no block has is taken as 0, as qkv_bias=False and a linear head
    without bias mean it; but not that of a norm, where it is a sign of another kind (RMSNorm)."""
    weights = from_published(found.tensors, pairs)
    has = {BLOCK.sub("", name) for name in weights}
    zeros = {
        name: torch.zeros_like(value)
        for name, value in model.state_dict().items()
        if name.endswith("bias") and "norm" not in name and BLOCK.sub("", name) not in has
    }
    kinds = sorted({BLOCK.sub("", name) for name in zeros})
    if kinds:
        found.notes.append(f"there is no {', '.join(kinds)}: taken as 0")
    load_strictly(model, weights | zeros)
    return model.eval()


def _masked(found: Detected) -> nn.Module:
    tensors = found.tensors
    extra = {name.split(".")[1] for name in tensors if name.startswith("cls_pt_layers.")}
    backbone, aggregation = backbone_config(found, imagenet=bool(extra)), None
    if extra:
        tap = found.known.early_layer or backbone.depth - 3
        found.notes.append(f"patch aggregation reads block {tap}, as published")
        aggregation = AggregationConfig(
            early_layer=tap, blocks=len(extra), shared_head="cls_pt_lm_head.weight" not in tensors
        )
    outputs = _shape_of(tensors, "lm_head.weight", 2)[0]
    return _loaded(MaskedImageModel(backbone, outputs, aggregation), found, MASKED)


def _backbone(found: Detected) -> nn.Module:
    """The norm after a backbone is kept; where there is none, one with gain 1 takes its place."""
    model, named = PretrainedBackbone(backbone_config(found)), MASKED
    if {"norm.weight", "fc_norm.weight"} & found.tensors.keys() == {"fc_norm.weight"}:
        found.notes.append("its last norm, fc_norm, was trained on the mean of the patches")
        named = CLASSIFIER["mean"]
    elif "norm.weight" not in found.tensors:
        found.notes.append("it has no last norm; one with gain 1 stands in its place")
        own = {f"norm.{name}": value for name, value in model.norm.state_dict().items()}
        found = found._replace(tensors=found.tensors | own)
    return _loaded(model, found, named)


def _classifier(found: Detected) -> nn.Module:
    pooling: Pooling = "mean" if "fc_norm.weight" in found.tensors else "cls"
    outputs = _shape_of(found.tensors, "head.weight", 2)[0]
    model = Classifier(backbone_config(found), outputs, HeadConfig(pooling=pooling))
    return _loaded(model, found, CLASSIFIER[pooling])


def _segmenter(found: Detected) -> nn.Module:
    tensors, known = found.tensors, found.known
    trunk = found._replace(tensors=below(tensors, "backbone."))
    backbone = backbone_config(trunk, imagenet=True)
    decoded = _shape_of(tensors, "decode_head.conv_seg.weight", 4)
    auxiliary = "auxiliary_head.conv_seg.weight" in tensors
    convolutions = [name for name in tensors if name.startswith("auxiliary_head.conv")
                    and name.endswith(".conv.weight")]  # fmt: skip
    if auxiliary and convolutions != ["auxiliary_head.convs.0.conv.weight"]:
        auxiliary = False
        tensors = {name: value for name, value in tensors.items()
                   if not name.startswith("auxiliary_head.")}  # fmt: skip
        found.notes.append(
            "the auxiliary head is left out: it has not one convolution, and only serves training"
        )
    default = UperNetConfig()
    head = UperNetConfig(
        out_indices=known.out_indices,
        head_channels=decoded[1],
        pools=known.pools or default.pools,
        auxiliary=auxiliary,
        auxiliary_channels=_shape_of(tensors, "auxiliary_head.conv_seg.weight", 4)[1]
        if auxiliary
        else default.auxiliary_channels,
    )
    if known.out_indices is None:
        blocks = ", ".join(map(str, head.blocks(backbone.depth)))
        found.notes.append(f"the head reads blocks {blocks}, as published")
    model = Segmenter(backbone, decoded[0], head)
    return _loaded(model, found._replace(tensors=tensors), SEGMENTER)


def _vqkd(found: Detected) -> nn.Module:
    tensors = {name: value for name, value in found.tensors.items()
               if not name.startswith(("teacher", "scaling", "loss"))}  # fmt: skip
    beside = len(found.tensors) - len(tensors)
    if beside:
        found.notes.append(f"left out: {beside} tensors that only its training needs")
    trunks = []
    for part in ("encoder.", "decoder."):
        inner = below(tensors, part)
        # Neither part normalises pixels by these: the tokenizer maps them to [-1, 1] itself.
        half = (0.5,) * _shape_of(inner, "patch_embed.proj.weight", 4)[1]
        known = Overrides(heads=found.known.heads, mean=half, std=half)
        trunks.append(backbone_config(found._replace(tensors=inner, known=known)))
    encoder, decoder = trunks
    codes, width = _shape_of(tensors, "quantize.embedding.weight", 2)
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
        teacher_width=_shape_of(tensors, "decode_task_layer.2.weight", 2)[0],
    )
    return _loaded(build_tokenizer(config), found._replace(tensors=tensors), VQKD)


def _dalle(found: Detected) -> nn.Module:
    tensors = found.tensors
    blocks = {name.split(".")[3] for name in tensors if name.startswith("encoder.blocks.group_1.")}
    hidden, channels, *_ = _shape_of(tensors, "encoder.blocks.input.weight", 4)
    decoder = tensors.get("decoder.blocks.input.weight")
    config = DalleConfig(
        codes=_shape_of(tensors, "encoder.blocks.output.conv.weight", 4)[0],
        hidden=hidden,
        channels=channels,
        blocks_per_group=len(blocks),
        decoder_input=128 if decoder is None else len(decoder),
        decoder=decoder is not None,
    )
    return _loaded(build_tokenizer(config), found, (("", ""),))


# -- its architecture ------------------------------------------------------------------------------


def backbone_config(found: Detected, *, imagenet: bool = False) -> VisionTransformerConfig:
    """The config of a trunk with published names.

    The choices that the file does not settle are added to the notes.

    Args:
        found: The trunk, whose names have no prefix.
        imagenet: Whether its family was trained with the pixel statistics of ImageNet.

    Raises:
        CheckpointError: The tensors are no such trunk, or its index is not the published one.
    """
    tensors, known = found.tensors, found.known
    width, channels, patch, across = _shape_of(tensors, "patch_embed.proj.weight", 4)
    numbers = {int(block[1]) for block in map(BLOCK.match, tensors) if block}
    depth = len(numbers)
    if patch != across or not numbers or max(numbers) != depth - 1:
        raise CheckpointError(
            f"the patches of the file are {patch} x {across} pixels, and it has {depth} blocks, "
            f"the last of which has number {max(numbers, default='none')}",
            remedy="give a file with square patches and all of its blocks",
        )
    if known.depth not in (None, depth):
        raise CheckpointError(
            f"{known.depth} blocks are stated, and the file has {depth}",
            remedy="the file is cut, or its configuration is that of another model: get both again",
        )
    shared, own = f"rel_pos_bias.{TABLE}", f"blocks.0.attn.{TABLE}"
    table = next((name for name in (shared, own) if name in tensors), None)
    rows, columns = _shape_of(tensors, table, 2) if table else (None, 0)
    heads = _heads(columns, width, found)
    grid = _grid(tensors, rows, patch, known)
    scaled = "blocks.0.gamma_1" in tensors
    plain = "pos_embed" in tensors and not table
    mean, std = _statistics(channels, found, imagenet=imagenet or (plain and not scaled),
                            documents=plain and scaled)  # fmt: skip
    return VisionTransformerConfig(
        size=(grid[0] * patch, grid[1] * patch),
        patch=patch,
        channels=channels,
        width=width,
        depth=depth,
        heads=heads,
        hidden=_shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        absolute_position="pos_embed" in tensors,
        relative_position="shared" if shared in tensors else "per-block" if own in tensors
        else "none",
        layer_scale=(0.1 if depth <= 12 else 1e-5) if scaled else None,
        mask_token="mask_token" in tensors,
        mean=mean,
        std=std,
        norm_epsilon=known.epsilon or NORM_EPSILON,
    )  # fmt: skip


def _shape_of(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor with that many dimensions. Raises CheckpointError if there is none."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions or not 0 < min(tensor.shape) <= MOST:
        found = "has none" if tensor is None else f"has one of shape {tuple(tensor.shape)}"
        raise CheckpointError(
            f"there should be a '{name}' of {dimensions} dimensions, the file {found}",
            remedy="give a file of the BEiT family",
        )
    return tuple(tensor.shape)


def _heads(columns: int, width: int, found: Detected) -> int:
    known = found.known
    if columns:
        if known.heads not in (None, columns):
            raise CheckpointError(
                f"{known.heads} heads are stated for a relative bias of {columns}",
                remedy="leave heads out, or correct the configuration beside the weights",
            )
        return columns
    if known.heads:
        return known.heads
    if width % HEAD_WIDTH or width > WIDEST:
        raise CheckpointError(
            f"the file does not say how many heads share its width of {width}: it has no relative "
            f"bias, and {HEAD_WIDTH}, the published width of a head, is for widths it divides, up "
            f"to {WIDEST}",
            remedy="state it: heads=... in Python, --heads ... on the command line",
        )
    heads = width // HEAD_WIDTH
    found.notes.append(f"{heads} heads of width {HEAD_WIDTH}, as published")
    return heads


def _grid(tensors: Tensors, rows: int | None, patch: int, known: Overrides) -> Grid:
    """Patches per side: stated, read off the persisted index, or a square; checked against all."""
    indices = {name: value for name, value in tensors.items() if name.endswith(INDEX)}
    count = _shape_of(tensors, next(iter(indices)), 2)[0] - 1 if indices else None
    if "pos_embed" in tensors:
        count = _shape_of(tensors, "pos_embed", 3)[1] - 1
    if known.size is not None:
        if any(side % patch for side in known.size):
            raise CheckpointError(
                f"patches of {patch} pixels do not divide images of {known.size[0]} x "
                f"{known.size[1]}",
                remedy="state a height and a width that are multiples of the patch",
            )
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
    """The sides of a grid, found by its persisted index; None if they cannot be. A strip of one
    patch is not tried: it has the same index upright and flat."""
    if count is None or rows is None or not indices or count > MOST_PATCHES:
        return None
    index = next(iter(indices.values())).long()
    for height in range(2, count // 2 + 1):
        grid = height, count // height
        fits = height * grid[1] == count and table_length(grid) == rows
        if fits and torch.equal(index, relative_position_index(grid)):
            return grid
    return None


def _statistics(
    channels: int, found: Detected, *, imagenet: bool, documents: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: stated, or by family (beit-reference, trap 8)."""
    known, mean, std = found.known, (0.5,) * channels, (0.5,) * channels
    if known.mean is not None and known.std is not None:
        return known.mean, known.std
    if channels != 3:
        note = f"mean and std 0.5 for {channels} channels: the file does not say"
    elif imagenet:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        note = "mean and std of ImageNet, as its family was trained"
    elif documents:
        note = (
            "mean and std 0.5, as DiT was trained, whose architecture this is (absolute positions "
            "with layer scale); if it was trained otherwise, " + TO_STATE
        )
    else:
        note = (
            "mean and std 0.5, as BEiT v1 on ImageNet-22k was trained; fine-tuned files of BEiT v2 "
            "look the same and need those of ImageNet: then " + TO_STATE
        )
    found.notes.append(note)
    return mean, std
