"""Label files of six images, and what is read from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from beit.config import LabelFileConfig
from beit.data.account import Account
from beit.data.label_file import LabelFile, read_label_file
from beit.data.sources import ImageSource, class_names_at

NUMBER = 6
NAMES = [f"p{number}.png" for number in range(NUMBER)]
PLAIN = LabelFileConfig()


def rows(heading: str, row: str, numbers: Iterable[int] = range(NUMBER), end: str = "\n") -> str:
    """A heading, and a row per image in which {n} is its number, {b} 0 or 1, {c} cat or dog."""
    lines = [heading] if heading else []
    lines += [row.format(n=n, b=n % 2, c=("cat", "dog")[n % 2]) for n in numbers]
    return end.join(lines) + end


def read(root: Path, text: str | bytes, name: str = "list.csv", **options: str) -> LabelFile:
    data = text if isinstance(text, bytes) else text.encode()
    (root / name).write_bytes(data)
    return read_label_file(str(root / name), LabelFileConfig(**options))  # type: ignore[arg-type]


def keys(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def paths(found: LabelFile) -> dict[str, list[str]]:
    return {split: keys(source) for split, source in found.splits.items()}


def account(found: LabelFile) -> Account:
    return next(iter(found.splits.values())).account


def labels(found: LabelFile, split: str = "") -> list[tuple[str, str | tuple[str, ...]]]:
    """Every image with the name of its class, or those of several."""
    source = found.splits[split]
    several = source.targets is not None and source.targets.ndim == 2
    named = [class_names_at(source, index) for index in range(len(source))]
    return [(key, names if several else "".join(names))
            for key, names in zip(keys(source), named, strict=True)]  # fmt: skip


CATS = [(name, ("cat", "dog")[number % 2]) for number, name in enumerate(NAMES)]
BITS = [(name, str(number % 2)) for number, name in enumerate(NAMES)]
