"""One line of the record: what was checked or measured, and whether it is as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch


class Check(NamedTuple):
    """`holds` is None for what is only measured, and where a check could not run."""

    name: str
    value: float | None = None
    unit: str = ""
    holds: bool | None = None
    limit: str = ""
    """What it is held against, in words."""
    note: str = ""

    def line(self) -> str:
        return json.dumps(self._asdict())


class Setting(NamedTuple):
    """Where, and whether small models and few rounds will do."""

    device: torch.device
    quick: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until everything that was started is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


Part = Callable[[Setting], Iterator[Check]]


def at_most(name: str, value: float, limit: float, unit: str = "") -> Check:
    return Check(name, float(value), unit, bool(value <= limit), f"at most {limit:g}")


def at_least(name: str, value: float, limit: float, unit: str = "") -> Check:
    return Check(name, float(value), unit, bool(value >= limit), f"at least {limit:g}")


def skipped(name: str, why: str) -> Check:
    return Check(name, note=f"not run: {why}")
