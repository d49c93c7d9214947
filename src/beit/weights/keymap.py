"""The names of weights: ours, the published ones, and those of transformers, OpenMMLab and OpenAI.

Released files and timm name the trunk as we do (ours below `backbone.`); what differs is the head,
and where a block keeps its relative table. transformers names everything its own way and keeps
queries, keys and values apart; its version 5 has new names for the same modules. OpenMMLab differs
in a few beginnings. Everything goes through the published names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from beit.config.runs import Pooling
from beit.errors import CheckpointError

Tensors = dict[str, Tensor]
Pairs = tuple[tuple[str, str], ...]
Rules = tuple[tuple[re.Pattern[str], str], ...]
Family = Literal["masked", "backbone", "classifier", "segmenter", "vqkd", "dalle"]

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
PARTS = ("query", "key", "value")

# -- ours and the published names: the first beginning that fits is replaced -----------------------

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


def below(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


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


# -- transformers and the published names: version 4, both ways ------------------------------------

TRUNK: Pairs = (
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.position_embeddings", "pos_embed"),
    ("encoder.relative_position_bias.", "rel_pos_bias."),
    ("encoder.layer.", "blocks."),
    ("pooler.layernorm.", "fc_norm."),
    ("layernorm.", "norm."),
    ("embeddings.", ""),
)
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
"""The parts of a block, anywhere in a name."""
HEADS: dict[str, Pairs] = {
    "masked": (("layernorm.", "norm."), ("lm_head.", "lm_head.")),
    "classifier": (("classifier.", "head."),),
    "segmenter": (
        ("fpn", "backbone.fpn"),
        ("decode_head.classifier.", "decode_head.conv_seg."),
        ("decode_head.", "decode_head."),
        ("auxiliary_head.classifier.", "auxiliary_head.conv_seg."),
        ("auxiliary_head.", "auxiliary_head."),
    ),
}
FLAVA: Pairs = (  # its copy of the DALL-E encoder has two more levels of modules
    (".group.block_", ".block_"),
    (".res_path.path.", ".res_path."),
)


def to_transformers(tensors: Tensors, family: Family) -> Tensors:
    """The names of transformers for published ones; versions 4 and 5 read them."""
    front = "backbone." if family == "segmenter" else ""
    pairs = HEADS[family] + tuple((f"beit.{theirs}", front + ours) for theirs, ours in TRUNK)
    renamed: Tensors = {}
    for name, value in tensors.items():
        theirs = _within(_begin(name, _reversed(pairs)), _reversed(BLOCK))
        if name.endswith(".attn.qkv.weight"):
            for part, piece in zip(PARTS, value.chunk(3), strict=True):
                inner = theirs.replace("attn.qkv", f"attention.attention.{part}")
                renamed[inner] = piece.contiguous()
        else:
            renamed[theirs] = value
    return renamed


def to_flava(tensors: Tensors) -> Tensors:
    """The names of transformers' FLAVA codebook for those of our DALL-E encoder."""
    return {
        _within(name.removeprefix("encoder."), _reversed(FLAVA)): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }


def from_dalle(tensors: Tensors, part: Literal["encoder", "decoder"]) -> Tensors:
    """Our names for those in OpenAI's files (`.w`, `.b`), or in transformers' FLAVA codebook."""
    spelled = ((r"\.w$", ".weight"), (r"\.b$", ".bias"))
    renamed = _renamed(tensors, _rules(*spelled))
    return {f"{part}.{_within(name, FLAVA)}": value for name, value in renamed.items()}


# -- the names of others, by rules that are applied one after the other ----------------------------


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(old), new) for old, new in pairs)


VERSION_5 = _rules(
    (r"^(beit|data2vec_vision)\.", ""),  # of some names of a backbone alone
    (r"^layers\.(\d+)\.", r"encoder.layer.\1."),
    (r"^shared_position_bias\.", "encoder.relative_position_bias."),
    (r"^(encoder\.layer\.\d+)\.relative_position_bias\.",
     r"\1.attention.attention.relative_position_bias."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)  # fmt: skip
VERSION_5_HEADS = _rules(
    (r"^fpn\.fpn1\.conv_transpose1\.", "fpn1.0."),
    (r"^fpn\.fpn1\.normalization\.", "fpn1.1."),
    (r"^fpn\.fpn1\.conv_transpose2\.", "fpn1.3."),
    (r"^fpn\.fpn2\.", "fpn2.0."),
    (r"^decode_head\.psp_modules\.blocks\.(\d+)\.conv\.", r"decode_head.psp_modules.\1.1."),
    (r"^decode_head\.psp_bottleneck\.", "decode_head.bottleneck."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
)
OPENMMLAB_BLOCK = (
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
OPENMMLAB = _rules(
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    *OPENMMLAB_BLOCK,
    (r"^(ln|norm)1\.", "norm."),
    (r"^(ln|norm)2\.", "fc_norm."),
)
OPENMMLAB_HEADS = _rules(
    (r"^(head\.)?cls_head\.", "lm_head."),
    (r"^head\.layers\.head\.", "head."),
    (r"^neck\.upsample_4x\.", "backbone.fpn1."),
    (r"^neck\.upsample_2x\.", "backbone.fpn2."),
    (r"^neck\.norm\.", "norm."),
    (r"^neck\.patch_aggregation\.", "cls_pt_layers."),
    *OPENMMLAB_BLOCK,
)


def from_transformers(trunk: Tensors, heads: Tensors) -> tuple[Tensors, Tensors]:
    """Published names for those of transformers: of a trunk, and of what lies beside it.

    Raises CheckpointError for a block without its queries, keys or values.
    """
    trunk = {
        _within(_begin(name, TRUNK), BLOCK): value
        for name, value in _renamed(trunk, VERSION_5).items()
    }
    pairs = HEADS["masked"] + HEADS["segmenter"]
    beside = _renamed(heads, VERSION_5_HEADS)
    return _joined(trunk), {_begin(name, pairs): value for name, value in beside.items()}


def from_openmmlab(trunk: Tensors, heads: Tensors) -> tuple[Tensors, Tensors]:
    """Published names for those of OpenMMLab: of a trunk, and of what lies beside it."""
    return _renamed(trunk, OPENMMLAB), _renamed(heads, OPENMMLAB_HEADS)


def _renamed(tensors: Tensors, rules: Rules) -> Tensors:
    """The tensors with every rule applied to every name."""
    found: Tensors = {}
    for name, value in tensors.items():
        for old, new in rules:
            name = old.sub(new, name)
        found[name] = value
    return found


def _joined(tensors: Tensors) -> Tensors:
    """Queries, keys and values as one matrix."""
    whole: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, value in tensors.items():
        block, inner, part = name.partition(".attention.attention.")
        if inner and part in [f"{each}.weight" for each in PARTS]:
            parts.setdefault(block, {})[part.removesuffix(".weight")] = value
        else:
            whole[name] = value
    for block, apart in parts.items():
        alike = len({value.shape for value in apart.values()}) == 1
        if apart.keys() != {*PARTS} or not alike or apart["query"].ndim != 2:
            raise CheckpointError(
                f"{block} has not three matrices of one shape for queries, keys and values",
                remedy="give a file with all of its blocks",
            )
        whole[f"{block}.attn.qkv.weight"] = torch.cat([apart[part] for part in PARTS])
    return whole
