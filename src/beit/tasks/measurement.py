"""What an evaluation found, as a table for people and as JSON."""

from __future__ import annotations

import abc
import json
from dataclasses import asdict, dataclass

from beit.batch import Unreadable
from beit.config.tree import differences
from beit.data.account import Account
from beit.errors import ConfigError
from beit.terminal import TextTable, print_tables, printable

WORST = 20


@dataclass(frozen=True, kw_only=True)
class Measurement(abc.ABC):
    """What was measured, and of what: shares in [0, 1]."""

    model: str
    data: str
    account: Account
    """What was understood of the data, and what was skipped."""
    images: int
    unreadable: tuple[Unreadable, ...]
    several: tuple[str, ...]
    """Images that are the first of several in their file."""
    notes: tuple[str, ...]

    @abc.abstractmethod
    def rows(self) -> dict[str, str]:
        """The measures by name, below the number of images."""

    @abc.abstractmethod
    def class_table(self) -> TextTable:
        """The classes, the worst first."""


def refuse_options(plain: object, given: object, taker: str, problem: str) -> None:
    """ConfigError if an option was given that the model does not take."""
    for name in differences(plain, given):
        option = name.rpartition(".")[2]
        raise ConfigError(
            f"{option} was given, and {problem}",
            remedy=f"leave {option} out: only a {taker} takes it",
        )


def print_json(found: Measurement) -> None:
    """Everything, as one JSON object."""
    content = asdict(found)
    content["unreadable"] = {image.key: image.reason for image in found.unreadable}
    print(json.dumps(content, indent=1))


def print_table(found: Measurement) -> None:
    """A table for people; of many classes the worst, while JSON has all."""
    print(printable(f"model: {found.model}"))
    print(printable(f"data: {found.data}"))
    for note in found.notes:
        print(printable(f"note: {note}"))
    for image in found.unreadable:
        print(printable(f"unreadable: {image.key}: {image.reason}"))
    for key in found.several:
        print(printable(f"first of several in its file: {key}"))
    table = TextTable("measure", "value")
    counts = {
        "images": f"{found.images:,}",
        "unreadable": f"{len(found.unreadable):,}",
        "first of several in a file": f"{len(found.several):,}",
    }
    for name, value in (counts | found.rows()).items():
        table.add_row(name, value)
    print_tables(table, found.class_table())
