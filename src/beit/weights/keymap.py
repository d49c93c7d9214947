"""Published names for those of other libraries: transformers, old and new, and OpenMMLab.

Rules are read from top to bottom, each on what those before it left. `names` has the way back, and
how published names relate to ours.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from beit.errors import CheckpointError
from beit.weights.locate import BASES, Located
from beit.weights.names import TABLE, Family, Tensors, from_dalle

Rules = tuple[tuple[re.Pattern[str], str], ...]

QKV = re.compile(
    r"(blocks\.\d+)\.attention\.(attention\.)?(?P<part>query|key|value|[qkv]_proj)\.weight"
)


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(old), new) for old, new in pairs)


TRANSFORMERS = _rules(
    (rf"^({'|'.join(map(re.escape, BASES))})", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.relative_position_bias|shared_position_bias)\.", "rel_pos_bias."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"^(blocks\.\d+)\.(attention\.attention\.)?relative_position_bias\.", r"\1.attn."),
    (r"^(blocks\.\d+)\.attention\.attention\.(q)uery\.bias$", r"\1.attn.\2_bias"),
    (r"^(blocks\.\d+)\.attention\.attention\.(v)alue\.bias$", r"\1.attn.\2_bias"),
    (r"^(blocks\.\d+)\.attention\.([qv])_proj\.bias$", r"\1.attn.\2_bias"),
    (r"^(blocks\.\d+)\.attention\.(output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.lambda_", r"\1.gamma_"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^layernorm\.", "norm."),
)
TRANSFORMERS_HEADS = _rules(
    (r"^layernorm\.", "norm."),
    (r"^fpn\.fpn1\.conv_transpose1\.", "backbone.fpn1.0."),
    (r"^fpn\.fpn1\.normalization\.", "backbone.fpn1.1."),
    (r"^fpn\.fpn1\.conv_transpose2\.", "backbone.fpn1.3."),
    (r"^fpn\.fpn2\.", "backbone.fpn2.0."),
    (r"^(fpn\d\.)", r"backbone.\1"),
    (r"^decode_head\.psp_modules\.blocks\.(\d+)\.conv\.", r"decode_head.psp_modules.\1.1."),
    (r"^decode_head\.psp_bottleneck\.", "decode_head.bottleneck."),
    (r"^(decode_head|auxiliary_head)\.classifier\.", r"\1.conv_seg."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
)
OPENMMLAB = _rules(
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"^(blocks\.\d+)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
    (r"^(ln|norm)1\.", "norm."),
    (r"^(ln|norm)2\.", "fc_norm."),
)
OPENMMLAB_HEADS = _rules(
    (r"^(head\.)?cls_head\.", "lm_head."),
    (r"^head\.layers\.head\.", "head."),
    (r"^neck\.upsample_4x\.", "backbone.fpn1."),
    (r"^neck\.upsample_2x\.", "backbone.fpn2."),
    (r"^neck\.norm\.", "norm."),
    (r"^neck\.patch_aggregation\.(\d+)\.", r"cls_pt_layers.\1."),
    (r"^(cls_pt_layers\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"^(cls_pt_layers\.\d+)\.ffn\.layers\.0\.0\.", r"\1.mlp.fc1."),
    (r"^(cls_pt_layers\.\d+)\.ffn\.layers\.1\.", r"\1.mlp.fc2."),
)
NORMS = ("norm.weight", "fc_norm.weight")
OF_HEADS = re.compile(
    r"(head|head_dist|lm_head|decode_head|auxiliary_head|classifier|fc|linear|neck|pre_logits"
    r"|(backbone\.)?fpn\d*)\."
)


class Published(NamedTuple):
    """Tensors under published names, and what they are for."""

    family: Family
    tensors: Tensors
    notes: tuple[str, ...]


def to_published_names(located: Located) -> Published:
    """The tensors of a network of any library under the published names.

    Raises CheckpointError for weights of ours, whose config says what their names do not, and for
    a norm after a norm.
    """
    if located.naming == "vqkd":
        return Published("vqkd", located.trunk, ())
    if located.naming == "dalle":
        return Published("dalle", _dalle(located.trunk), ())
    trunk, heads = located.trunk, located.heads
    if located.naming == "transformers":
        trunk, heads = _joined(renamed(trunk, TRANSFORMERS)), renamed(heads, TRANSFORMERS_HEADS)
    elif located.naming == "openmmlab":
        trunk, heads = renamed(trunk, OPENMMLAB), renamed(heads, OPENMMLAB_HEADS)
    _check_not_ours(trunk, heads)
    if "decode_head.conv_seg.weight" in heads:
        return _segmenter(trunk, heads)
    if "lm_head.weight" in trunk | heads:
        _check_one_norm(trunk, heads)
        return Published("masked", trunk | heads, ())
    return _classifier(trunk, heads, located)


def renamed(tensors: Tensors, rules: Rules) -> Tensors:
    """The tensors with every rule applied to every name."""
    found: Tensors = {}
    for name, value in tensors.items():
        for old, new in rules:
            name = old.sub(new, name)
        found[name] = value
    return found


def summed_bias(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """A relative bias of each block and one for all are added up, as every library does."""
    fronts = [name.removesuffix(f"rel_pos_bias.{TABLE}") for name in tensors
              if name in (f"rel_pos_bias.{TABLE}", f"backbone.rel_pos_bias.{TABLE}")]  # fmt: skip
    own = [name for name in tensors if name.endswith(f".attn.{TABLE}")]
    if not fronts or not own:
        return tensors, ()
    shared = tensors[f"{fronts[0]}rel_pos_bias.{TABLE}"]
    found = {name: value for name, value in tensors.items()
             if not name.startswith(f"{fronts[0]}rel_pos_bias.")}  # fmt: skip
    for name in own:
        if found[name].shape == shared.shape:
            found[name] = found[name] + shared
    return found, ("the relative bias that all blocks share is added to that of each",)


def _joined(tensors: Tensors) -> Tensors:
    """Queries, keys and values as one matrix."""
    whole: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, value in tensors.items():
        found = QKV.fullmatch(name)
        if found:
            parts.setdefault(found[1], {})[found["part"][0]] = value
        else:
            whole[name] = value
    for block, apart in parts.items():
        alike = len({value.shape for value in apart.values()}) == 1
        if apart.keys() != {"q", "k", "v"} or not alike or apart["q"].ndim != 2:
            raise CheckpointError(
                f"{block} has not three matrices of one shape for queries, keys and values",
                remedy="give a file with all of its blocks",
            )
        whole[f"{block}.attn.qkv.weight"] = torch.cat([apart[part] for part in "qkv"])
    return whole


def _segmenter(trunk: Tensors, heads: Tensors) -> Published:
    """The trunk and neck go below `backbone.`; a last norm is not read by the head."""
    unread = [name for name in trunk if name.startswith(("norm.", "fc_norm."))]
    notes = (f"left out: {', '.join(unread)}, which the head does not read",) if unread else ()
    kept = {f"backbone.{name}": value for name, value in trunk.items() if name not in unread}
    return Published("segmenter", kept | heads, notes)


def _classifier(trunk: Tensors, heads: Tensors, located: Located) -> Published:
    """With a linear head and the norm before it; else it is a backbone alone."""
    whole, head = trunk | heads, located.head
    if head and not (trunk.keys() & heads.keys()) and any(norm in whole for norm in NORMS):
        named = {re.sub(rf"^{re.escape(head)}\.", "head.", name): value
                 for name, value in whole.items()}  # fmt: skip
        how = "the class token" if "norm.weight" in named else "the mean of the patches"
        guessed = located.naming == "published" and f"{head}.weight" in heads
        notes = (f"the head '{head}' beside the trunk reads {how}",) if guessed else ()
        return Published("classifier", named, notes)
    return without_head(Published("backbone", whole, ()))


def without_head(published: Published) -> Published:
    """The backbone alone, with the norm after it if there is one."""
    kept = {name: value for name, value in published.tensors.items() if not OF_HEADS.match(name)}
    left = [name for name in published.tensors if name not in kept]
    notes = (f"left out: {', '.join(left[:3])}{', ...' if len(left) > 3 else ''}",) if left else ()
    return Published("backbone", kept, (*published.notes, *notes))


def _check_not_ours(trunk: Tensors, heads: Tensors) -> None:
    apart = {"norm.weight", "head.weight"} <= heads.keys() and not trunk.keys() & {*NORMS}
    if apart or any(".attn.rel_pos_bias." in name for name in trunk):
        raise CheckpointError(
            "the file holds weights of ours without their config.json",
            remedy="give the folder with both",
        )


def _check_one_norm(trunk: Tensors, heads: Tensors) -> None:
    if "norm.weight" in trunk and "norm.weight" in heads:
        raise CheckpointError(
            "the trunk of the model ends with a norm, and its head begins with another, which BEiT "
            "has no place for",
            remedy="give one that was trained with use_mean_pooling=True",
        )


def _dalle(tensors: Tensors) -> Tensors:
    """Our names for those of OpenAI and FLAVA; a file of ours has them already."""
    if any(name.startswith("encoder.") for name in tensors):
        return tensors
    return from_dalle(tensors, "encoder")
