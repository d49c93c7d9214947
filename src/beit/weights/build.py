"""The model of published weights, strictly: every tensor has its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from beit.config import DalleConfig, HeadConfig, UperNetConfig, VQKDConfig
from beit.config.runs import AggregationConfig, Pooling
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.weights.architecture import Overrides, Trunk, backbone_config, shape_of
from beit.weights.names import (
    CLASSIFIER,
    MASKED,
    SEGMENTER,
    VQKD,
    Family,
    Pairs,
    Tensors,
    from_published,
)
from beit.weights.transfer import load_strictly


class Built(NamedTuple):
    """A model in evaluation mode, and what was assumed or left out to build it."""

    model: nn.Module
    notes: tuple[str, ...]


def build_model(tensors: Tensors, family: Family, stated: Overrides) -> Built:
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
    return build[family](tensors, stated)


def _loaded(model: nn.Module, tensors: Tensors, pairs: Pairs, notes: tuple[str, ...]) -> Built:
    load_strictly(model, from_published(tensors, pairs))
    return Built(model.eval(), notes)


def _masked(tensors: Tensors, stated: Overrides) -> Built:
    extra = {name.split(".")[1] for name in tensors if name.startswith("cls_pt_layers.")}
    trunk = backbone_config(tensors, stated, imagenet=bool(extra))
    aggregation, notes = None, trunk.notes
    if extra:
        tap = stated.tap or trunk.config.depth - 3
        notes += (f"patch aggregation reads block {tap}, as published",)
        aggregation = AggregationConfig(
            early_layer=tap, blocks=len(extra), shared_head="cls_pt_lm_head.weight" not in tensors
        )
    outputs = shape_of(tensors, "lm_head.weight", 2)[0]
    return _loaded(MaskedImageModel(trunk.config, outputs, aggregation), tensors, MASKED, notes)


def _backbone(tensors: Tensors, stated: Overrides) -> Built:
    """The norm after a backbone is kept; where there is none, one that scales nothing stands."""
    trunk = backbone_config(tensors, stated)
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


def _classifier(tensors: Tensors, stated: Overrides) -> Built:
    pooling: Pooling = "mean" if "fc_norm.weight" in tensors else "cls"
    trunk = backbone_config(tensors, stated)
    outputs = shape_of(tensors, "head.weight", 2)[0]
    model = Classifier(trunk.config, outputs, HeadConfig(pooling=pooling))
    return _loaded(model, tensors, CLASSIFIER[pooling], trunk.notes)


def _segmenter(tensors: Tensors, stated: Overrides) -> Built:
    inner = {
        name.removeprefix("backbone."): value
        for name, value in tensors.items()
        if name.startswith("backbone.") and not name.startswith("backbone.fpn")
    }
    trunk = backbone_config(inner, stated, imagenet=True)
    notes = trunk.notes
    decoded = shape_of(tensors, "decode_head.conv_seg.weight", 4)
    kept, auxiliary = _auxiliary(tensors)
    if len(kept) < len(tensors):
        notes += ("the auxiliary head is left out: it has not one convolution, and only serves "
                  "training",)  # fmt: skip
    default = UperNetConfig()
    head = UperNetConfig(
        out_indices=stated.taps,
        head_channels=decoded[1],
        pools=stated.pools or default.pools,
        auxiliary=bool(auxiliary),
        auxiliary_channels=auxiliary or default.auxiliary_channels,
    )
    if stated.taps is None:
        taps = ", ".join(map(str, head.blocks(trunk.config.depth)))
        notes += (f"the head reads blocks {taps}, as published",)
    return _loaded(Segmenter(trunk.config, decoded[0], head), kept, SEGMENTER, notes)


def _auxiliary(tensors: Tensors) -> tuple[Tensors, int]:
    """The tensors that are of use, and the channels of the auxiliary head if it is one of them."""
    if "auxiliary_head.conv_seg.weight" not in tensors:
        return tensors, 0
    convolutions = [name for name in tensors if name.startswith("auxiliary_head.conv")
                    and name.endswith(".conv.weight")]  # fmt: skip
    if convolutions == ["auxiliary_head.convs.0.conv.weight"]:
        return tensors, shape_of(tensors, "auxiliary_head.conv_seg.weight", 4)[1]
    kept = {name: each for name, each in tensors.items() if not name.startswith("auxiliary_head.")}
    return kept, 0


def _vqkd(tensors: Tensors, stated: Overrides) -> Built:
    beside = [name for name in tensors if name.startswith(("teacher", "scaling", "loss"))]
    notes: tuple[str, ...] = ()
    if beside:
        notes = (f"left out: {len(beside)} tensors that only its training needs",)
    tensors = {name: value for name, value in tensors.items() if name not in beside}
    parts: dict[str, Trunk] = {}
    for part in ("encoder", "decoder"):
        inner = {
            name.removeprefix(f"{part}."): value
            for name, value in tensors.items()
            if name.startswith(f"{part}.") and ".fc_norm." not in name
        }
        # Neither part normalises pixels by these: the tokenizer maps them to [-1, 1] itself.
        half = (0.5,) * shape_of(inner, "patch_embed.proj.weight", 4)[1]
        parts[part] = backbone_config(inner, Overrides(heads=stated.heads, mean=half, std=half))
        notes += parts[part].notes
    encoder = parts["encoder"].config
    codes, width = shape_of(tensors, "quantize.embedding.weight", 2)
    config = VQKDConfig(
        size=encoder.size,
        patch=encoder.patch,
        channels=encoder.channels,
        codes=codes,
        width=encoder.width,
        depth=encoder.depth,
        decoder_depth=parts["decoder"].config.depth,
        heads=encoder.heads,
        hidden=encoder.hidden,
        codebook_width=width,
        teacher_width=shape_of(tensors, "decode_task_layer.2.weight", 2)[0],
    )
    return _loaded(config.build(), tensors, VQKD, notes)


def _dalle(tensors: Tensors, _stated: Overrides) -> Built:
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
    return _loaded(config.build(), tensors, (("", ""),), ())
