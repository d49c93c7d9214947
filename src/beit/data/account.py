"""The account of data: what was recognised, what is in it, and what was skipped and why.

Every verb that reads data prints the same account before it trains, measures or writes anything.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from posixpath import splitext
from typing import TypeVar

from beit.config.validation import NonNegativeInt, checked, field_types
from beit.json_object import parse_json
from beit.terminal import counted, printable, shown

EXAMPLES = 3
MOST_KINDS = 12
MOST_CLASSES = 12
FOLDER = "/"
_USUAL = re.compile(r"\.[a-z][a-z0-9_]{0,9}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Files of one kind that are not used, for one reason."""

    reason: str
    """In the field's words: "not an image", "thumbnails", "hidden", "no label"."""
    extension: str
    """Lower case with its dot; empty where there is none, "/" for folders that are not entered."""
    count: NonNegativeInt
    examples: tuple[str, ...]
    """The names that sort first, at most `EXAMPLES` of them."""

    @property
    def kind(self) -> str:
        """The extension in words."""
        if self.extension == FOLDER:
            return "folder" if self.count == 1 else "folders"
        return self.extension or "without an extension"


class SkippedFiles:
    """Collects what is skipped; keeps counts, and the first names of each kind."""

    def __init__(self, found: Iterable[Skipped] = ()) -> None:
        self._kinds: dict[tuple[str, str], list[str]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        for one in found:
            self._count((one.reason, one.extension), one.examples, one.count)

    def _count(self, kind: tuple[str, str], names: Iterable[str], count: int) -> None:
        examples = self._kinds.setdefault(kind, [])
        self._counts[kind] = self._counts.get(kind, 0) + count
        for name in names:
            if len(examples) < EXAMPLES or name < examples[-1]:
                examples[:] = sorted({*examples, name})[:EXAMPLES]

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count a skipped file or folder, or several at once.

        Args:
            reason: Why it is skipped, as in `Skipped.reason`.
            name: Its path, kept as an example; that of a folder ends with "/".
            count: How many are skipped; `name` is the first of them.
        """
        suffix = FOLDER if name.endswith(FOLDER) else splitext(name)[1].lower()
        usual = suffix == FOLDER or _USUAL.fullmatch(suffix) is not None
        # Otherwise names ending in a number or part of an address would each be their own kind.
        self._count((reason, suffix if usual else ""), (name,), count)

    def add_below(self, folder: str, others: SkippedFiles) -> None:
        """Add what was skipped in a folder below, whose name is put before that of each example."""
        for one in others.found():
            names = [f"{folder}/{name}" if folder else name for name in one.examples]
            self._count((one.reason, one.extension), names, one.count)

    def found(self) -> tuple[Skipped, ...]:
        """What was skipped, by reason and extension, most frequent first."""
        order = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(
            Skipped(
                reason=kind[0], extension=kind[1], count=count, examples=tuple(self._kinds[kind])
            )
            for kind, count in order
        )


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was recognised in the data of a run."""

    data: str
    """The path or address as given."""
    layout: str
    """What was recognised: "one folder per class, under train/ and test/"."""
    images: dict[str, NonNegativeInt] = field(default_factory=dict)
    """Number of images by split; undivided data are the split with the empty name."""
    classes: dict[str, dict[str, NonNegativeInt]] = field(default_factory=dict)
    """Number of images of each class, by split; for masks, how many masks show each class."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """What else was decided, and by which rule or option."""

    def lines(self) -> Iterator[str]:
        """The account as text for a terminal or a log, one fact per line."""
        yield f"data: {printable(self.data)}: {printable(self.layout)}"
        for split, count in self.images.items():
            yield f"  {printable(split) or 'all'}: {counted(count, 'image')}{self._among(split)}"
        for one in self.skipped[:MOST_KINDS]:
            names = ", ".join(map(printable, one.examples))
            more = ", ..." if one.count > len(one.examples) else ""
            yield f"  skipped: {one.count:,} {one.kind} ({printable(one.reason)}): {names}{more}"
        rest = self.skipped[MOST_KINDS:]
        if rest:
            files = sum(one.count for one in rest)
            yield f"  skipped: {files:,} of {len(rest)} other kinds"
        for note in self.notes:
            yield f"  note: {printable(note)}"

    def _among(self, split: str) -> str:
        classes = {name: n for name, n in self.classes.get(split, {}).items() if n}
        if not classes:
            return ""
        named = [f"{printable(name)} {n:,}" for name, n in classes.items()]
        number = counted(len(named), "class")
        more = f", and {len(named) - MOST_CLASSES} more" if len(named) > MOST_CLASSES else ""
        return f" in {number}: {', '.join(named[:MOST_CLASSES])}{more}"

    def log(self) -> None:
        """Log the account; verbs that print only their results report it in this way."""
        for line in self.lines():
            logger.info("%s", line)

    def to_json(self) -> str:
        """The account as JSON, as it is kept in the folder of a run."""
        return json.dumps(asdict(self), indent=1)


Kind = TypeVar("Kind", Account, Skipped)


def account_from_json(text: str) -> Account:
    """The account that `Account.to_json` wrote. Raises ValueError for any other text."""
    values = parse_json(text)
    if isinstance(values, dict) and isinstance(skipped := values.get("skipped"), list):
        values["skipped"] = [_from_json(one, Skipped) for one in skipped]
    return _from_json(values, Account)


def _from_json(values: object, kind: type[Kind]) -> Kind:
    hints = field_types(kind)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise ValueError(f"{shown(values)} is not an object with the right keys")
    return kind(**{name: checked(name, value, hints[name]) for name, value in values.items()})  # type: ignore[arg-type]
