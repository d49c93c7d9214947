"""Small backbones, and how the published names of weights and those of others relate to ours.

The names are written down a second time on purpose: `beit.weights.keymap` is what the tests of
parity would otherwise take for granted, and a slip in it, made once, would cancel out. Those of
transformers are also others: the names of its modules here, those of its files there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beit.config import VisionTransformerConfig

Tensors = dict[str, Tensor]

TABLE = "relative_position_bias_table"
HEADS = ("norm.", "fc_norm.", "lm_head.", "head.")

TINY = VisionTransformerConfig(size=(64, 64), width=48, depth=3, heads=3, hidden=192)
FINE = replace(TINY, relative_position="per-block", mask_token=False)
"""The classifier's backbone that goes with TINY."""


def thin(
    size: tuple[int, int], patch: int, channels: int, **options: Any
) -> VisionTransformerConfig:
    """A backbone for images of any size, patch and channels."""
    return VisionTransformerConfig(
        size=size,
        patch=patch,
        channels=channels,
        width=16,
        heads=2,
        hidden=32,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
        **options,
    )


def from_published(tensors: Tensors) -> Tensors:
    """Our names for the published ones; the index of the relative bias is not stored."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("relative_position_index"):
            continue
        if name.startswith(HEADS):
            name = name.replace("fc_norm.", "norm.").replace("lm_head.", "head.")
        else:
            name = "backbone." + name.replace(f"attn.{TABLE}", f"attn.rel_pos_bias.{TABLE}")
        renamed[name] = tensor
    return renamed


def to_timm(tensors: Tensors, pooling: str) -> Tensors:
    """timm's names for ours: the published ones."""
    norm = "fc_norm." if pooling == "mean" else "norm."
    return {
        norm + name.removeprefix("norm.")
        if name.startswith("norm.")
        else name.removeprefix("backbone.").replace("attn.rel_pos_bias.", "attn."): tensor
        for name, tensor in tensors.items()
    }


TRANSFORMERS = {
    "backbone.patch_embed.proj.": "beit.embeddings.patch_embeddings.projection.",
    "backbone.pos_embed": "beit.embeddings.position_embeddings",
    "backbone.rel_pos_bias.": "beit.shared_position_bias.",
    "backbone.blocks.": "beit.layers.",
    "backbone.": "beit.embeddings.",
    ".attn.rel_pos_bias.": ".relative_position_bias.",
    ".attn.q_bias": ".attention.q_proj.bias",
    ".attn.v_bias": ".attention.v_proj.bias",
    ".attn.proj.": ".attention.o_proj.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".gamma_": ".lambda_",
}


def transformers_config(backbone: VisionTransformerConfig, **options: Any) -> Any:
    """The config of transformers for a backbone of square images without drop path."""
    from transformers import BeitConfig

    return BeitConfig(
        hidden_size=backbone.width,
        num_hidden_layers=backbone.depth,
        num_attention_heads=backbone.heads,
        intermediate_size=backbone.hidden,
        layer_norm_eps=1e-6,
        image_size=backbone.size[0],
        drop_path_rate=0.0,
        **options,
    )


def to_transformers(tensors: Tensors, norm: str, head: str) -> Tensors:
    """transformers' names for ours, with queries, keys and values apart."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("norm."):
            name = f"{norm}.{name.removeprefix('norm.')}"
        elif name.startswith("head."):
            name = f"{head}.{name.removeprefix('head.')}"
        for ours, theirs in TRANSFORMERS.items():
            name = name.replace(ours, theirs)
        if name.endswith(".attn.qkv.weight"):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.{part}_proj")] = piece
        else:
            renamed[name] = tensor
    return renamed


def disturb(model: nn.Module) -> None:
    """Random values in every parameter, so that none can hide behind a zero or a one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def weights(model: nn.Module) -> Tensors:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def gradients(model: nn.Module) -> Tensors:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        found[name] = parameter.grad
    return found


def assert_same(ours: Tensors, theirs: Tensors, tolerance: float) -> None:
    """The same names, and each tensor equal within the tolerance."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
