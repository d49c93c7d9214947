"""Weights must be those of the model: every name, every shape, and no digit lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from beit.errors import CheckpointError

MORE = 4
"""How many times the numbers in the file a model may have before its building is broken off."""
SPARE = 100_000
"""Numbers that any model may have: a small one is compared whole, which says what differs."""
ANOTHER_CONFIG = "the config is of another model: copy both files again from where they were made"


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights that must be exactly those of the model.

    Raises CheckpointError that lists the names that are missing, unexpected or of another shape.
    """
    differences = _differences(model, weights)
    if differences:
        raise CheckpointError(
            f"the file belongs to another architecture: {differences}",
            remedy="use the same patch, channels, width, depth, heads and layer scale as it",
        )
    model.load_state_dict(weights)


def build_strictly(
    build: Callable[[], nn.Module], weights: Mapping[str, Tensor], config: str
) -> nn.Module:
    """The model that `build` makes from what `config` says, with its weights.

    Raises CheckpointError unless the weights have the names and shapes of the model, found out
    before memory is allocated: the model is first made without memory for its weights, and no
    further than the weights reach. Weights of narrower types are widened; wider ones are refused.
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
            f"it holds {_listed(lost)}: loading it would lose digits",
            remedy="save it again from a model in float32: `model.float()`",
        )
    model.load_state_dict(weights)
    return model


def _differences(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape; empty if nothing is."""
    own = model.state_dict()
    groups = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {
            f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own.keys() & weights.keys()
            if weights[name].shape != own[name].shape
        },
    }
    return "; ".join(
        f"{len(names)} {what} ({_listed(sorted(names))})" for what, names in groups.items() if names
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@contextmanager
def _at_most(numbers: int, config: str) -> Iterator[None]:
    """Break off what this thread builds once it has more parameters than that."""
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
