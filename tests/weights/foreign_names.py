"""The same weights under the names that other libraries give them."""

from __future__ import annotations

import re

KEYS = {
    "published": lambda weights: weights,
    "transformers 4": lambda weights: {**to_transformers_4(weights)},
    "transformers 5": lambda weights: to_transformers_5(to_transformers_4(weights)),
    "openmmlab": lambda weights: to_openmmlab(weights),
}


def to_transformers_4(weights):
    """As `save_pretrained` names them, written here on its own."""
    found = {}
    for name, value in weights.items():
        name = re.sub(r"^backbone\.(?=fpn)", "", name).replace("conv_seg", "classifier")
        name = re.sub(r"^backbone\.", "", name)
        name = re.sub(
            r"^norm\.", "layernorm." if "lm_head.weight" in weights else "beit.layernorm.", name
        )
        for old, new in (
            (r"^fc_norm\.", "beit.pooler.layernorm."),
            (r"^head\.", "classifier."),
            (r"^(cls_token|mask_token)$", r"beit.embeddings.\1"),
            (r"^pos_embed$", "beit.embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "beit.embeddings.patch_embeddings.projection."),
            (r"^rel_pos_bias\.", "beit.encoder.relative_position_bias."),
            (r"^blocks\.", "beit.encoder.layer."),
            (r"\.attn\.(relative_position_\w+)", r".attention.attention.relative_position_bias.\1"),
            (r"\.attn\.q_bias", ".attention.attention.query.bias"),
            (r"\.attn\.v_bias", ".attention.attention.value.bias"),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.mlp\.fc1\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
            (r"\.gamma_", ".lambda_"),
        ):  # fmt: skip
            name = re.sub(old, new, name)
        if name.endswith("attn.qkv.weight"):
            for part, each in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[name.replace("attn.qkv", f"attention.attention.{part}")] = each.clone()
        else:
            found[name] = value
    return found


def to_transformers_5(weights):
    """As `state_dict()` of version 5 names them."""
    found = {}
    for name, value in weights.items():
        for old, new in (
            (r"beit\.encoder\.layer\.", "beit.layers."),
            (r"beit\.encoder\.relative_position_bias\.", "beit.shared_position_bias."),
            (r"attention\.attention\.relative_position_bias", "relative_position_bias"),
            (r"attention\.attention\.query", "attention.q_proj"),
            (r"attention\.attention\.key", "attention.k_proj"),
            (r"attention\.attention\.value", "attention.v_proj"),
            (r"attention\.output\.dense", "attention.o_proj"),
            (r"intermediate\.dense", "mlp.fc1"),
            (r"output\.dense", "mlp.fc2"),
            (r"^fpn1\.0\.", "fpn.fpn1.conv_transpose1."),
            (r"^fpn1\.1\.", "fpn.fpn1.normalization."),
            (r"^fpn1\.3\.", "fpn.fpn1.conv_transpose2."),
            (r"^fpn2\.0\.", "fpn.fpn2."),
            (r"decode_head\.psp_modules\.(\d)\.1\.", r"decode_head.psp_modules.blocks.\1.conv."),
            (r"decode_head\.bottleneck\.", "decode_head.psp_bottleneck."),
            (r"^((?:decode|auxiliary)_head\..*)\.conv\.weight", r"\1.convolution.weight"),
            (r"^((?:decode|auxiliary)_head\..*)\.bn\.", r"\1.normalization."),
        ):  # fmt: skip
            name = re.sub(old, new, name)
        found[name] = value
    return found


def to_openmmlab(weights):
    """As mmpretrain and mmsegmentation name them."""
    found, norm = {}, "neck.norm." if "cls_pt_layers.0.norm1.bias" in weights else "backbone.ln1."
    for name, value in weights.items():
        name = re.sub(r"^backbone\.", "", name)
        for old, new in (
            (r"^fpn1\.", "neck.upsample_4x."),
            (r"^fpn2\.", "neck.upsample_2x."),
            (r"^fc_norm\.", "backbone.ln2."),
            (r"^norm\.", norm),
            (r"^head\.", "head.fc."),
            (r"^lm_head\.", "head.cls_head."),
            (r"^cls_pt_layers\.", "neck.patch_aggregation."),
            (r"^(blocks|patch_embed|cls_token|mask_token|pos_embed|rel_pos_bias)", r"backbone.\1"),
            (r"patch_embed\.proj\.", "patch_embed.projection."),
            (r"^backbone\.blocks\.", "backbone.layers."),
            (r"(layers\.\d+|aggregation\.\d+)\.norm([12])\.", r"\1.ln\2."),
            (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
            (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        ):  # fmt: skip
            name = re.sub(old, new, name)
        found[name] = value
    return found
