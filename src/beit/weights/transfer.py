"""Load weights into a model: exactly its own, or those of another one, adapted to it.

From pre-training to fine-tuning a shared relative table is copied into every block, tables are
resized to the new grid, and what only pre-training needs is left behind (beit-reference, section
5.3). Nowhere else do positions change their layout.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from beit.config.model import VisionTransformerConfig
from beit.data.class_names import are_unnamed, as_numbers, wordnet_ids
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import BackboneModel
from beit.models.position import resize_absolute_position, resize_relative_table
from beit.models.vit import VisionTransformer
from beit.terminal import quoted
from beit.weights.keymap import TABLE, listed

Bias = Literal["shared", "per-block"]
SHARED = f"rel_pos_bias.{TABLE}"
SAME = ("patch", "channels", "width", "depth", "heads", "hidden", "absolute_position")
"""What a backbone must have in common with the one that its weights come from."""
MORE = 4
"""A model may have this many times the parameters of the file; beyond that, building it is
stopped."""
SPARE = 100_000
"""Parameters that any model may have: a small one is compared as a whole, so that the error says
what differs."""
ANOTHER_CONFIG = "the config is of another model: copy both files again from where they were made"


# -- exactly its own -------------------------------------------------------------------------------


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights that must be exactly those of the model.

    Raises:
        CheckpointError: Names are missing, unexpected or of another shape; it lists them.
    """
    differences = _differences(model, weights)
    if differences:
        raise CheckpointError(
            f"the file belongs to another architecture: {differences}",
            remedy="give weights with all that BEiT has and nothing else; what was added or taken "
            "away in training has to be merged before they are saved",
        )
    model.load_state_dict(weights)


def build_strictly(
    build: Callable[[], nn.Module], weights: Mapping[str, Tensor], config: str
) -> nn.Module:
    """The model that `build` makes, with weights that must be exactly its own.

    Whether they are is found out before memory is allocated: the model is first built without
    memory for its parameters, and no further than the weights can reach. Weights of narrower types
    are widened.

    Args:
        build: Makes the model; called twice.
        weights: The tensors by their names in the model's state dict.
        config: Name of the file that describes the model, for messages.

    Raises:
        CheckpointError: The weights have other names or shapes, or wider types than the model.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    with torch.device("meta"), _at_most(MORE * numbers + SPARE, config):
        differences = _differences(build(), weights)
    if differences:
        raise CheckpointError(
            f"the weights are not those that {config} describes: {differences}",
            remedy=ANOTHER_CONFIG,
        )
    model = build()
    own = model.state_dict()
    lost = [
        f"{name} in {value.dtype}, not {own[name].dtype}"
        for name, value in weights.items()
        if torch.promote_types(value.dtype, own[name].dtype) != own[name].dtype
    ]
    if lost:
        raise CheckpointError(
            f"it holds {listed(lost)}: loading it would lose digits",
            remedy="save it again from a model in float32: `model.float()`",
        )
    model.load_state_dict(weights)
    return model


def _differences(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected, of another shape or quantised; empty if nothing is."""
    own = model.state_dict()
    groups = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own.keys() & weights.keys()
            if weights[name].shape != own[name].shape
        },
        "of whole numbers": {
            name
            for name in own.keys() & weights.keys()
            if own[name].is_floating_point() and not weights[name].is_floating_point()
        },
    }
    return "; ".join(
        f"{len(names)} {what} ({listed(sorted(names))})" for what, names in groups.items() if names
    )


@contextmanager
def _at_most(numbers: int, config: str) -> Iterator[None]:
    """Stop what this thread builds once it has more parameters than `numbers`."""
    thread, count = threading.get_ident(), 0

    def count_parameter(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() != thread or parameter is None:
            return
        count += parameter.numel()
        if count > numbers:
            raise CheckpointError(
                f"the model that {config} describes is many times larger than the weights",
                remedy=ANOTHER_CONFIG,
            )

    handle = register_module_parameter_registration_hook(count_parameter)
    try:
        yield
    finally:
        handle.remove()


# -- those of another backbone ---------------------------------------------------------------------


class Transfer(NamedTuple):
    """What became of the weights: changed on the way, and left behind."""

    changed: list[str]
    left: list[str]


def check_same_architecture(
    target: VisionTransformerConfig, source: VisionTransformerConfig
) -> None:
    """Raise CheckpointError unless weights of one backbone fit the other.

    Shapes alone would not tell: without relative bias they are the same for any number of heads.
    """
    mine, theirs = (
        {name: getattr(each, name) for name in SAME}
        | {"layer_scale": "absent" if each.layer_scale is None else "present"}
        for each in (target, source)
    )
    differing = [
        f"{name} is {mine[name]}, and {theirs[name]} in the weights"
        for name in mine
        if mine[name] != theirs[name]
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
    """The weights, with every position table resized from one grid to another.

    Args:
        weights: The tensors by name; not changed.
        source: The backbone that the weights come from.
        target: The backbone that they are for.
    """
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

    Args:
        backbone: Takes the weights; changed in place.
        weights: The state dict of the other backbone; not changed.
        source: The config of the other backbone.

    Raises:
        CheckpointError: The architectures differ; it says how (`check_same_architecture`).
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


def rebiased(model: nn.Module, bias: Bias) -> nn.Module:
    """Give a model, in place, one relative bias for all blocks or one table per block; returns it.

    Raises:
        CheckpointError: The tables to be shared are not equal.
        ConfigError: The model has no relative bias.
    """
    if not isinstance(model, BackboneModel) or model.backbone.config.relative_position == "none":
        raise ConfigError("the model has no relative position bias", remedy="leave --bias out")
    old = model.backbone
    if old.config.relative_position == bias:
        return model
    weights = dict(old.state_dict())
    new = VisionTransformer(replace(old.config, relative_position=bias))
    if bias == "shared":
        names = [f"blocks.{block}.attn.rel_pos_bias.{TABLE}" for block in range(old.config.depth)]
        tables = [weights.pop(name) for name in names]
        for name, table in zip(names, tables, strict=True):
            if not torch.equal(table, tables[0]):
                raise CheckpointError(
                    f"{name} differs from the table of the first block: they cannot be shared",
                    remedy="keep one table per block",
                )
        weights[f"rel_pos_bias.{TABLE}"] = tables[0]
        new.load_state_dict(weights)
    else:
        start_from(new, weights, old.config)
    model.backbone = new.eval()
    return model


# -- heads -----------------------------------------------------------------------------------------


class Match(NamedTuple):
    """Which output of a head belongs to each class, or why none does."""

    order: list[int] | None
    note: str = ""


def match_classes(source: Sequence[str], target: Sequence[str]) -> Match:
    """Find the output of a head with the classes `source` for each of the classes `target`.

    The names must be the same, in any order and in any Unicode normalisation; for ImageNet's
    classes they may be WordNet ids. Classes that a file leaves without names are matched by number
    only, and only to names that are numbers from 0: equal counts say nothing about the order.
    """
    theirs, ours = [[unicodedata.normalize("NFC", name) for name in names]
                    for names in (source, target)]  # fmt: skip
    if theirs == ours:
        return Match(list(range(len(ours))))
    for names, note in ((theirs, "rows in the order of the classes here"),
                        (wordnet_ids(source), "matched by WordNet ids")):  # fmt: skip
        at = {name: index for index, name in enumerate(names)}
        if len(at) == len(names) and at.keys() == set(ours):
            return Match([at[name] for name in ours], note)
    if len(theirs) == len(ours) and are_unnamed(theirs):
        numbers = as_numbers(ours, len(theirs))
        if numbers is not None:
            return Match(numbers, "its classes have no names, these are numbers")
        return Match(None, "it does not name its classes; `beit convert --to beit --classes FILE` "
                     "names them")  # fmt: skip
    lacking = [name for name in ours if name not in set(theirs)]
    besides = [name for name in theirs if name not in set(ours)]
    parts = [f"{what} {quoted(names)}"
             for what, names in (("it lacks", lacking), ("it has besides", besides))
             if names]  # fmt: skip
    differing = " and ".join(parts) or "one name stands for several"
    return Match(None, f"its classes are others: {differing}")
