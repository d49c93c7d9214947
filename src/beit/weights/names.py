"""How the published names of weights relate to ours, and to those that transformers reads.

Released files, timm's and ours name the trunk alike (ours below `backbone.`); what differs is the
head, and where a block keeps its relative table. transformers names everything its own way and
keeps queries, keys and values apart: here is the way there, in the names that its versions 4 and 5
write and read; the way back is in `keymap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from beit.config.runs import Pooling

Tensors = dict[str, Tensor]
Pairs = tuple[tuple[str, str], ...]
Family = Literal["masked", "backbone", "classifier", "segmenter", "vqkd", "dalle"]

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
PARTS = ("query", "key", "value")

# Beginnings of names, ours and published; the first that fits is taken.
MASKED: Pairs = (
    ("norm.", "norm."),
    ("head.", "lm_head."),
    ("aggregation.blocks.", "cls_pt_layers."),
    ("aggregation.norm.", "cls_pt_norm."),
    ("aggregation.head.", "cls_pt_lm_head."),
    ("backbone.", ""),
)
CLASSIFIER: dict[Pooling, Pairs] = {
    "mean": (("norm.", "fc_norm."), ("head.", "head."), ("backbone.", "")),
    "cls": (("norm.", "norm."), ("head.", "head."), ("backbone.", "")),
}
SEGMENTER: Pairs = (
    ("neck.fpn", "backbone.fpn"),
    ("decode_head.", "decode_head."),
    ("auxiliary_head.", "auxiliary_head."),
    ("backbone.", "backbone."),
)
VQKD: Pairs = (
    ("encoder_norm.", "encoder.fc_norm."),
    ("decoder_norm.", "decoder.fc_norm."),
    ("", ""),
)

# transformers' beginnings and the published ones, by what the model is for.
TRUNK: Pairs = (
    ("beit.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("beit.embeddings.position_embeddings", "pos_embed"),
    ("beit.encoder.relative_position_bias.", "rel_pos_bias."),
    ("beit.encoder.layer.", "blocks."),
    ("beit.embeddings.", ""),
)
TRANSFORMERS: dict[Family, Pairs] = {
    "masked": (("layernorm.", "norm."), ("lm_head.", "lm_head."), *TRUNK),
    "classifier": (
        ("beit.pooler.layernorm.", "fc_norm."),
        ("beit.layernorm.", "norm."),
        ("classifier.", "head."),
        *TRUNK,
    ),
    "segmenter": (
        ("fpn", "backbone.fpn"),
        ("decode_head.classifier.", "decode_head.conv_seg."),
        ("decode_head.", "decode_head."),
        ("auxiliary_head.classifier.", "auxiliary_head.conv_seg."),
        ("auxiliary_head.", "auxiliary_head."),
        *((theirs, f"backbone.{published}") for theirs, published in TRUNK),
    ),
}
# Further into a name: the parts of a block.
BLOCK: Pairs = (
    (f".attention.attention.relative_position_bias.{TABLE}", f".attn.{TABLE}"),
    (f".attention.attention.relative_position_bias.{INDEX}", f".attn.{INDEX}"),
    (".attention.attention.query.bias", ".attn.q_bias"),
    (".attention.attention.value.bias", ".attn.v_bias"),
    (".attention.output.dense.", ".attn.proj."),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".lambda_", ".gamma_"),
)
FLAVA: Pairs = (  # transformers' copy of the DALL-E encoder has two more levels of modules
    (".group.block_", ".block_"),
    (".res_path.path.", ".res_path."),
)


def from_published(tensors: Tensors, pairs: Pairs) -> Tensors:
    """Our names for published ones. The index of the relative bias is not stored by us."""
    return {
        _begin(name, _reversed(pairs)).replace(f"attn.{TABLE}", f"attn.rel_pos_bias.{TABLE}"): value
        for name, value in tensors.items()
        if not name.endswith(INDEX)
    }


def to_published(tensors: Tensors, pairs: Pairs) -> Tensors:
    """Published names for ours."""
    return {
        _begin(name.replace(f"attn.rel_pos_bias.{TABLE}", f"attn.{TABLE}"), pairs): value
        for name, value in tensors.items()
    }


def to_transformers(tensors: Tensors, family: Family) -> Tensors:
    """The names of transformers for published ones."""
    renamed: Tensors = {}
    for name, value in tensors.items():
        theirs = _within(_begin(name, _reversed(TRANSFORMERS[family])), _reversed(BLOCK))
        if name.endswith(".attn.qkv.weight"):
            for part, piece in zip(PARTS, value.chunk(3), strict=True):
                inner = theirs.replace("attn.qkv", f"attention.attention.{part}")
                renamed[inner] = piece.contiguous()
        else:
            renamed[theirs] = value
    return renamed


def from_dalle(tensors: Tensors, part: Literal["encoder", "decoder"]) -> Tensors:
    """Our names for those in OpenAI's files (`.w`, `.b`), or in transformers' FLAVA codebook."""
    spelled = {".w": ".weight", ".b": ".bias"}
    return {
        f"{part}.{_within(name, FLAVA)[:-2]}{spelled[name[-2:]]}"
        if name[-2:] in spelled
        else f"{part}.{_within(name, FLAVA)}": value
        for name, value in tensors.items()
    }


def to_flava(tensors: Tensors) -> Tensors:
    """The names of transformers' FLAVA codebook for those of our encoder."""
    return {
        name.removeprefix("encoder.")
        .replace(".block_", ".group.block_")
        .replace(".res_path.", ".res_path.path."): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }


def any_starts(names: Iterable[str], beginning: str) -> bool:
    """Whether there is a name with this beginning."""
    return any(name.startswith(beginning) for name in names)


def _reversed(pairs: Pairs) -> Pairs:
    return tuple((right, left) for left, right in pairs)


def _begin(name: str, pairs: Pairs) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _within(name: str, pairs: Pairs) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name
