"""From published weights to the model they belong to, strictly: every tensor has its place."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from beit.artifact.architecture import Stated, backbone_config, shape_of
from beit.artifact.names import (
    CLASSIFIER,
    MASKED,
    SEGMENTER,
    VQKD,
    Family,
    Tensors,
    any_starts,
    from_published,
)
from beit.artifact.source import Source
from beit.artifact.transfer import load_strictly
from beit.config import (
    DalleConfig,
    HeadConfig,
    UperNetConfig,
    VisionTransformerConfig,
    VQKDConfig,
)
from beit.config.runs import AggregationConfig, Pooling
from beit.errors import CheckpointError
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter

# What else a file may be, told by a part of a name, the most telling first.
STRANGERS = {
    "decoder_embed": "a masked autoencoder (MAE)",
    "visual.": "a CLIP model",
    "vision_model.": "a CLIP model",
    "student.": "a DINO training",
    "beit3.": "BEiT-3, which has another architecture",
    "attn.qkv.bias": "a Vision Transformer whose keys have a bias",
    "backbone.": "weights of ours without their config.json",
    "blocks.": "a backbone without norm and head",
    "running_mean": "a convolutional network",
}


def family_of(tensors: Tensors) -> Family:
    """What tensors with published names are for. Raises CheckpointError for other architectures."""
    if "quantize.embedding.weight" in tensors:
        return "vqkd"
    if any_starts(tensors, "encoder.blocks.group_1."):
        return "dalle"
    if any_starts(tensors, "decode_head."):
        return "segmenter"
    if not any(name.endswith("attn.qkv.bias") for name in tensors):
        if "lm_head.weight" in tensors:
            return "masked"
        if "head.weight" in tensors and {"fc_norm.weight", "norm.weight"} & tensors.keys():
            return "classifier"
    what = next(
        (what for part, what in STRANGERS.items() if any(part in name for name in tensors)),
        "no model that is known here",
    )
    listed = ", ".join(sorted(tensors)[:3])
    raise CheckpointError(
        f"the file holds {what} ({len(tensors)} tensors: {listed}, ...)",
        remedy="give a file of the BEiT family",
    )


def model_of(source: Source, family: Family) -> nn.Module:
    """The model of the weights, in evaluation mode; what was assumed is added to its notes."""
    build: dict[Family, Callable[[Source], nn.Module]] = {
        "masked": _masked,
        "classifier": _classifier,
        "segmenter": _segmenter,
        "vqkd": _vqkd,
        "dalle": _dalle,
    }
    return build[family](source).eval()


def _masked(source: Source) -> nn.Module:
    tensors = source.tensors
    extra = {name.split(".")[1] for name in tensors if name.startswith("cls_pt_layers.")}
    backbone = backbone_config(tensors, source.stated, source.notes, imagenet=bool(extra))
    aggregation = None
    if extra:
        tap = source.stated.tap or backbone.depth - 3
        source.notes.append(f"patch aggregation reads block {tap}, as published")
        aggregation = AggregationConfig(
            tap=tap, blocks=len(extra), shared_head="cls_pt_lm_head.weight" not in tensors
        )
    model = MaskedImageModel(backbone, shape_of(tensors, "lm_head.weight", 2)[0], aggregation)
    load_strictly(model, from_published(tensors, MASKED))
    return model


def _classifier(source: Source) -> nn.Module:
    tensors = source.tensors
    pooling: Pooling = "mean" if "fc_norm.weight" in tensors else "cls"
    backbone = backbone_config(tensors, source.stated, source.notes)
    model = Classifier(
        backbone, shape_of(tensors, "head.weight", 2)[0], HeadConfig(pooling=pooling)
    )
    load_strictly(model, from_published(tensors, CLASSIFIER[pooling]))
    return model


def _segmenter(source: Source) -> nn.Module:
    tensors, stated = source.tensors, source.stated
    trunk = {
        name.removeprefix("backbone."): value
        for name, value in tensors.items()
        if name.startswith("backbone.") and not name.startswith("backbone.fpn")
    }
    backbone = backbone_config(trunk, stated, source.notes, imagenet=True)
    decoded = shape_of(tensors, "decode_head.conv_seg.weight", 4)
    auxiliary = "auxiliary_head.conv_seg.weight" in tensors
    pools = stated.pools or UperNetConfig().pools
    head = UperNetConfig(
        taps=stated.taps,
        head_channels=decoded[1],
        pools=pools,
        auxiliary=auxiliary,
        auxiliary_channels=shape_of(tensors, "auxiliary_head.conv_seg.weight", 4)[1]
        if auxiliary
        else UperNetConfig().auxiliary_channels,
    )
    if stated.taps is None:
        taps = ", ".join(map(str, head.blocks(backbone.depth)))
        source.notes.append(f"the head reads blocks {taps}, as published")
    model = Segmenter(backbone, decoded[0], head)
    load_strictly(model, from_published(tensors, SEGMENTER))
    return model


def _vqkd(source: Source) -> nn.Module:
    beside = [name for name in source.tensors if name.startswith(("teacher", "scaling", "loss"))]
    if beside:
        source.notes.append(f"left out: {len(beside)} tensors that only its training needs")
    tensors = {name: value for name, value in source.tensors.items() if name not in beside}
    parts: dict[str, VisionTransformerConfig] = {}
    for part in ("encoder", "decoder"):
        trunk = {
            name.removeprefix(f"{part}."): value
            for name, value in tensors.items()
            if name.startswith(f"{part}.") and ".fc_norm." not in name
        }
        # Neither part normalises pixels by these: the tokenizer maps them to [-1, 1] itself.
        half = (0.5,) * shape_of(trunk, "patch_embed.proj.weight", 4)[1]
        said = Stated(heads=source.stated.heads, mean=half, std=half)
        parts[part] = backbone_config(trunk, said, source.notes)
    encoder = parts["encoder"]
    codes, width = shape_of(tensors, "quantize.embedding.weight", 2)
    config = VQKDConfig(
        size=encoder.size,
        patch=encoder.patch,
        channels=encoder.channels,
        codes=codes,
        width=encoder.width,
        depth=encoder.depth,
        decoder_depth=parts["decoder"].depth,
        heads=encoder.heads,
        hidden=encoder.hidden,
        codebook_width=width,
        teacher_width=shape_of(tensors, "decode_task_layer.2.weight", 2)[0],
    )
    model = config.build()
    load_strictly(model, from_published(tensors, VQKD))
    return model


def _dalle(source: Source) -> nn.Module:
    tensors = source.tensors
    blocks = {name.split(".")[3] for name in tensors if name.startswith("encoder.blocks.group_1.")}
    hidden, channels, *_ = shape_of(tensors, "encoder.blocks.input.weight", 4)
    painting = tensors.get("decoder.blocks.input.weight")
    config = DalleConfig(
        codes=shape_of(tensors, "encoder.blocks.output.conv.weight", 4)[0],
        hidden=hidden,
        channels=channels,
        blocks_per_group=len(blocks),
        decoder_input=128 if painting is None else len(painting),
        decoder=painting is not None,
    )
    model = config.build()
    load_strictly(model, tensors)
    return model
