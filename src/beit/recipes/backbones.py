"""The backbones of our own recipes: plain ViTs, which learn sooner than the published variants.

They have absolute positions only and no layer scale, as in the paper's tables 1 to 4, but Xavier
initialisation and positions that start as sines. See docs/notes/small-budgets.md for measurements.
"""

from __future__ import annotations

from dataclasses import replace

from beit.config import VisionTransformerConfig, sized


def plain(model: VisionTransformerConfig) -> VisionTransformerConfig:
    """A backbone in the form of the paper's tables 1 to 4: a plain ViT."""
    return replace(model, relative_position="none", absolute_position=True, layer_scale=None)


def quick(model: VisionTransformerConfig) -> VisionTransformerConfig:
    """A plain ViT, initialised as ViT and MAE are. As published, positions start a fiftieth as
    large as what they are added to, so that a backbone learns late where its patches are."""
    return replace(plain(model), initialisation="xavier")


def small() -> VisionTransformerConfig:
    """DeiT's small ViT: 22 million weights, 224 pixels."""
    return quick(sized("small"))


def tiny() -> VisionTransformerConfig:
    """For tests and first tries: images of 32 pixels, patches of 4."""
    model = replace(sized("tiny", size=32, patch=4), width=48, depth=4, heads=3, hidden=192)
    return quick(model)
