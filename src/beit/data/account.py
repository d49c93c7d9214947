"""The account of data: what was recognised, what is in it, and what was skipped and why.

Every verb that reads data prints the same account before it trains, measures or writes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from beit.printable import printable

EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Files of one kind that are not used, for one reason."""

    reason: str
    """In the field's words: "not an image", "thumbnail", "hidden", "no label"."""
    extension: str
    """Lower case with its dot; empty where there is none."""
    count: int
    examples: tuple[str, ...]
    """The first names."""


class SkippedFiles:
    """Collects what is skipped; keeps counts, and the first names of each kind."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], list[str]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count a file, or several of which this is the first."""
        kind = (reason, PurePath(name).suffix.lower())
        examples = self._kinds.setdefault(kind, [])
        self._counts[kind] = self._counts.get(kind, 0) + count
        if len(examples) < EXAMPLES:
            examples.append(name)

    def found(self) -> tuple[Skipped, ...]:
        """By reason and extension, most frequent first."""
        order = sorted(self._counts, key=lambda kind: (-self._counts[kind], kind))
        return tuple(
            Skipped(
                reason=kind[0],
                extension=kind[1],
                count=self._counts[kind],
                examples=tuple(self._kinds[kind]),
            )
            for kind in order
        )


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was understood of the data of a run."""

    data: str
    """The path or address as given."""
    layout: str
    """What was recognised: "one folder per class, under train/ and test/"."""
    images: Mapping[str, int] = field(default_factory=dict)
    """Images of each split; undivided data are the split ``."""
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Images of each class, by split; for masks, how many masks show each class."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """What else was decided, and by which rule or option."""

    def lines(self) -> Iterator[str]:
        """For a terminal or a log, one fact per line."""
        yield f"data: {printable(self.data)}: {self.layout}"
        for split, count in self.images.items():
            classes = {name: n for name, n in self.classes.get(split, {}).items() if n}
            among = f" in {len(classes)} classes" if classes else ""
            yield f"  {split or 'all'}: {count:,} images{among}"
        for one in self.skipped:
            names = ", ".join(map(printable, one.examples))
            more = ", ..." if one.count > len(one.examples) else ""
            kind = one.extension or "no extension"
            yield f"  skipped: {one.count:,} {kind} ({one.reason}): {names}{more}"
        for note in self.notes:
            yield f"  note: {note}"
