"""What is known about a model beside its weights: given by the user, or read from a config."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from beit.config.data import Resize
from beit.config.runs import Pooling
from beit.config.tokenizer import Interpolation
from beit.config.validation import Config, Crop, Depth, PositiveFloat, Sides, Width, require
from beit.errors import CheckpointError

LARGEST = 1 << 24
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Overrides(Config):
    """What is known about a model beside its weights; None where nothing is."""

    size: Sides | None = None
    """Height and width in pixels."""
    depth: int | None = None
    """Blocks."""
    heads: Width | None = None
    """Attention heads."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixels in [0, 1]."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of each channel, for pixels in [0, 1]."""
    crop: Crop | None = None
    """Fraction of the side that the evaluation crop keeps."""
    resize: Resize | None = None
    """Whether an image keeps its proportions when it is resized."""
    interpolation: Interpolation | None = None
    """How an image is resized."""
    epsilon: float | None = None
    """What the norms add to the variance."""
    multi_label: bool | None = None
    """Whether each class is answered on its own."""
    regression: bool | None = None
    """Whether the head gives values, not classes."""
    pooling: Pooling | None = None
    """What the head of a classifier reads."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the logits."""
    early_layer: Depth | None = None
    """Block, counted from 1, that patch aggregation reads (9 of 12, 21 of 24 as published)."""
    out_indices: tuple[int, ...] | None = None
    """Blocks that a segmentation head reads, 0 is the first."""
    pools: tuple[int, ...] | None = None
    """Cells per side of each pooling of a segmentation head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.mean is None) == (self.std is None),
            "of the mean and the standard deviation of the pixels only one is given",
            "give both",
        )

    def over(self, other: Overrides) -> Overrides:
        """These values, completed by those of `other`."""
        return replace(
            other, **{key: value for key, value in vars(self).items() if value is not None}
        )


@dataclass(frozen=True)
class Entries:
    """A JSON object of another library, read with the type that each entry must have.

    An entry that is absent or null gives None, or the default. Raises CheckpointError for values of
    another type or beyond any plausible size.
    """

    file: Path
    content: dict[str, Any]

    def refuse(self, problem: str, remedy: str) -> NoReturn:
        raise CheckpointError(f"{self.file} {problem:.400}", remedy=remedy)

    def integer(self, name: str) -> int | None:
        value = self._typed(name, int, "a whole number")
        if value is not None and not 0 <= value <= LARGEST:
            self._wrong(name, "a whole number")
        return value

    def number(self, name: str) -> float | None:
        value = self.content.get(name)
        return None if value is None else self._number(name, value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._typed(name, bool, "true or false")
        return default if value is None else value

    def text(self, name: str) -> str:
        return self._typed(name, str, "a text") or ""

    def numbers(self, name: str) -> tuple[float, ...] | None:
        values = self._typed(name, list, "a list of numbers")
        if values is not None and not 0 < len(values) <= LARGEST:
            self._wrong(name, "a list of numbers")
        return None if values is None else tuple(self._number(name, each) for each in values)

    def integers(self, name: str) -> tuple[int, ...] | None:
        return self._list(name, int, "a list of whole numbers")

    def sides(self, name: str) -> tuple[int, int] | None:
        """Height and width in pixels, given both or as one number."""
        value = self.content.get(name)
        if isinstance(value, dict):
            entries = Entries(self.file, value)
            height, width = entries.integer("height"), entries.integer("width")
        elif isinstance(value, list):
            both = self.integers(name) or ()
            height, width = (*both, *both)[:2] if len(both) in (1, 2) else (None, None)
        else:
            height = width = self.integer(name)
        if value is not None and (not height or not width):
            self.refuse(f"says {name} = {value!r:.80}", "give height and width in pixels")
        return (height, width) if height and width else None

    def names(self, name: str) -> tuple[str, ...] | None:
        """Names of classes: a list, or an object whose keys count from 0. None if it is empty."""
        value = self.content.get(name)
        if isinstance(value, list):
            return self._list(name, str, "a list of texts") or None
        labels = self.table(name)
        if labels is None or not labels.content:
            return None
        keys = [str(number) for number in range(len(labels.content))]
        if labels.content.keys() != set(keys):
            self.refuse(f"has an entry {name} whose keys do not count from 0", "correct it")
        return tuple(str(labels.content[key]) for key in keys)

    def table(self, name: str) -> Entries | None:
        value = self._typed(name, dict, "an object")
        return None if value is None else Entries(self.file, value)

    def _typed(self, name: str, kind: type[Value], what: str) -> Value | None:
        value = self.content.get(name)
        if value is not None and type(value) is not kind:
            self._wrong(name, what)
        found: Value | None = value
        return found

    def _list(self, name: str, kind: type[Value], what: str) -> tuple[Value, ...] | None:
        values = self._typed(name, list, what)
        if values is not None and any(type(each) is not kind for each in values):
            self._wrong(name, what)
        return None if values is None else tuple(values)

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, "a number")
        if not abs(value) < LARGEST or not math.isfinite(value):
            self._wrong(name, "a number of a plausible size")
        return float(value)

    def _wrong(self, name: str, kind: str) -> NoReturn:
        self.refuse(f"says {name} = {self.content[name]!r:.80}, which is not {kind}", "correct it")
