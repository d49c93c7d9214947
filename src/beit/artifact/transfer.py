"""Start a backbone from another one's weights: the one place where positions change their layout.

From pre-training to fine-tuning a shared relative table is copied into every block, tables are
resized to the new grid, and what only pre-training needs is left behind (beit-reference, section
5.3).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from beit.artifact.names import TABLE
from beit.config.model import VisionTransformerConfig
from beit.errors import CheckpointError
from beit.models.position import resize_absolute_position, resize_relative_table
from beit.models.vit import VisionTransformer

SHARED = f"rel_pos_bias.{TABLE}"


class Transfer(NamedTuple):
    """What became of the weights: changed on the way, and left behind."""

    changed: list[str]
    left: list[str]


def start_from(
    backbone: VisionTransformer, weights: dict[str, Tensor], source: VisionTransformerConfig
) -> Transfer:
    """Load a backbone's weights into another of the same trunk.

    Raises CheckpointError naming the keys that are missing, left over or of another shape.
    """
    target = backbone.config
    weights, changed, left = dict(weights), [], []
    if source.relative_position == "shared" and target.relative_position == "per-block":
        table = weights.pop(SHARED)
        for index in range(source.depth):
            weights[f"blocks.{index}.attn.{SHARED}"] = table.clone()
        changed.append("shared relative position bias copied into every block")
    if source.grid != target.grid:
        for name in [name for name in weights if name.endswith(TABLE)]:
            weights[name] = resize_relative_table(weights[name], source.grid, target.grid)
        if "pos_embed" in weights:
            weights["pos_embed"] = resize_absolute_position(
                weights["pos_embed"], source.grid, target.grid
            )
        changed.append(f"positions resized from {source.grid} to {target.grid} patches")
    if not target.mask_token and weights.pop("mask_token", None) is not None:
        left.append("mask_token")
    if backbone.mask_token is not None and "mask_token" not in weights:
        weights["mask_token"] = backbone.mask_token.detach()
        changed.append("a mask token of its own, as there was none")
    load_strictly(backbone, weights)
    return Transfer(changed, left)


def load_strictly(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that must be exactly those of the model.

    Raises CheckpointError that lists the keys that are missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    reshaped = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & weights.keys())
        if weights[name].shape != wanted[name].shape
    ]
    groups = [("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)]
    if any(names for _, names in groups):
        listed = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in groups
            if names
        )
        raise CheckpointError(
            f"the file belongs to another architecture: {listed}",
            remedy="use the same patch, channels, width, depth, heads and layer scale as it",
        )
    model.load_state_dict(weights)
