"""Start a backbone from another one's weights: the one place where positions change their layout.

From pre-training to fine-tuning a shared relative table is copied into every block, tables are
resized to the new grid, and what only pre-training needs is left behind (beit-reference, section
5.3).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.errors import CheckpointError
from beit.models.position import resize_absolute_position, resize_relative_table
from beit.models.vit import VisionTransformer
from beit.weights.keymap import TABLE

SHARED = f"rel_pos_bias.{TABLE}"


SAME = ("patch", "channels", "width", "depth", "heads", "hidden", "absolute_position")
"""What a backbone must share with the one that its weights come from."""


class Transfer(NamedTuple):
    """What became of the weights: changed on the way, and left behind."""

    changed: list[str]
    left: list[str]


def check_same_architecture(
    target: VisionTransformerConfig, source: VisionTransformerConfig
) -> None:
    """Raise CheckpointError unless weights of the one backbone are weights for the other.

    Shapes alone would not tell: a backbone without relative bias takes any number of heads.
    """
    found: list[tuple[str, object, object]] = [
        (name, getattr(target, name), getattr(source, name)) for name in SAME
    ]
    scaled = ["absent" if each.layer_scale is None else "present" for each in (target, source)]
    found.append(("layer_scale", scaled[0], scaled[1]))
    differing = [
        f"{name} is {mine}, and {theirs} in the weights"
        for name, mine, theirs in found
        if mine != theirs
    ]
    remedy = "leave these options out: the architecture is that of the weights"
    positions = source.relative_position, target.relative_position
    if positions[0] != positions[1] and positions != ("shared", "per-block"):
        differing.append(f"relative_position is {positions[1]}, and {positions[0]} in the weights")
        if positions == ("per-block", "shared"):
            remedy += "; `beit convert --bias shared` joins tables that are equal"
    if differing:
        raise CheckpointError(
            f"the weights belong to another architecture: {'; '.join(differing)}", remedy=remedy
        )


def resize_positions(
    weights: dict[str, Tensor], source: VisionTransformerConfig, target: VisionTransformerConfig
) -> dict[str, Tensor]:
    """The weights with every position table of one grid brought to the other."""
    resized = dict(weights)
    if source.grid != target.grid:
        for name in [name for name in weights if name.endswith(TABLE)]:
            resized[name] = resize_relative_table(weights[name], source.grid, target.grid)
        if "pos_embed" in weights:
            resized["pos_embed"] = resize_absolute_position(
                weights["pos_embed"], source.grid, target.grid
            )
    return resized


def start_from(
    backbone: VisionTransformer, weights: dict[str, Tensor], source: VisionTransformerConfig
) -> Transfer:
    """Load a backbone's weights into another of the same architecture.

    Raises CheckpointError naming what differs (`check_same_architecture`).
    """
    target = backbone.config
    check_same_architecture(target, source)
    weights, changed, left = dict(weights), [], []
    if source.relative_position == "shared" and target.relative_position == "per-block":
        table = weights.pop(SHARED)
        for index in range(source.depth):
            weights[f"blocks.{index}.attn.{SHARED}"] = table.clone()
        changed.append("shared relative position bias copied into every block")
    weights = resize_positions(weights, source, target)
    if source.grid != target.grid:
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
