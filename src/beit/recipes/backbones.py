"""The backbones of the recipes that are not published: plain ViTs, which learn sooner.

Absolute positions only, no layer scale, as in the paper's tables 1 to 4, Xavier's initial weights,
and positions that begin as sines. What was measured is in docs/notes/small-budgets.md.
"""

from __future__ import annotations

from dataclasses import replace

from beit.config import VisionTransformerConfig, sized


def plain(model: VisionTransformerConfig) -> VisionTransformerConfig:
    """A backbone as the ViT of tables 1 to 4."""
    return replace(model, relative_position="none", absolute_position=True, layer_scale=None)


def quick(model: VisionTransformerConfig) -> VisionTransformerConfig:
    """The same, drawn as ViT and MAE are. With the published draw, whose positions are a
    fiftieth as large as what they are added to, a backbone learns late where its patches are."""
    return replace(plain(model), initialisation="xavier")


def small() -> VisionTransformerConfig:
    """DeiT's small ViT: 22 million weights, 224 pixels."""
    return quick(sized("small"))


def tiny() -> VisionTransformerConfig:
    """For tests and first tries: images of 32 pixels, patches of 4."""
    model = replace(sized("tiny", size=32, patch=4), width=48, depth=4, heads=3, hidden=192)
    return quick(model)
