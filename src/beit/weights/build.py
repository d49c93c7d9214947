"""The model of published weights, strictly: every tensor has its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from beit.config import DalleConfig, HeadConfig, UperNetConfig, VQKDConfig
from beit.config.runs import AggregationConfig, Pooling
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.architecture import BLOCK, backbone_config, shape_of
from beit.weights.keymap import (
    CLASSIFIER,
    MASKED,
    SEGMENTER,
    VQKD,
    Family,
    Pairs,
    Tensors,
    below,
    from_published,
)
from beit.weights.overrides import Overrides
from beit.weights.transfer import load_strictly


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
    """A bias that no block has is 0: so qkv_bias=False and a linear head without bias mean it. Not
    so of norms, where it is a sign of others (RMSNorm)."""
    weights = from_published(tensors, pairs)
    has = {BLOCK.sub("", name) for name in weights}
    zeros = {
        name: torch.zeros_like(value)
        for name, value in model.state_dict().items()
        if name.endswith("bias") and "norm" not in name and BLOCK.sub("", name) not in has
    }
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
