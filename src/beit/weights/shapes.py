"""Whether weights fit an architecture, found out before memory is asked for."""

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
LISTED = 3
REMEDY = "the config is of another model: copy both files again from where they were made"


def check_shapes(
    build: Callable[[], nn.Module], weights: Mapping[str, Tensor], config: str
) -> None:
    """Raise CheckpointError unless the weights have the names and shapes of the model that `build`
    makes; `config` is what it is made from.

    The model is made without memory for its weights, and no further than the weights reach.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    with torch.device("meta"), _at_most(MORE * numbers + SPARE, config):
        model = build()
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [
        *(f"{name} is missing" for name in expected.keys() - found.keys()),
        *(f"{name} has no place" for name in found.keys() - expected.keys()),
        *(
            f"{name} is {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise CheckpointError(
            f"the weights are not those that {config} describes: "
            f"{', '.join(sorted(wrong)[:LISTED])}{more}",
            remedy=REMEDY,
        )


@contextmanager
def _at_most(numbers: int, config: str) -> Iterator[None]:
    """Break off what this thread builds once it has more parameters than the weights in a file."""
    thread, count = threading.get_ident(), 0

    def count_parameter(_: nn.Module, __: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() != thread or parameter is None:
            return
        count += parameter.numel()
        if count > numbers:
            raise CheckpointError(
                f"the model that {config} describes is many times larger than the weights",
                remedy=REMEDY,
            )

    handle = register_module_parameter_registration_hook(count_parameter)
    try:
        yield
    finally:
        handle.remove()
