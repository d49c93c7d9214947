"""The weights files that the authors published, from the table in `published.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from beit.config.model import HALF, IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published file. What is not stated anywhere is empty."""

    name: str
    """File name as published."""
    short: str = ""
    """Short name for it here, if it can still be fetched."""
    tuned: str = ""
    """The file that its authors fine-tuned from it."""
    family: Literal["beit v1", "beit v2", "vqkd", "dall-e", "ade20k"]
    kind: Literal["pre-trained", "intermediate", "fine-tuned", "tokenizer", "segmenter"]
    backbone: str = ""
    """Row of the size table (`beit.config.model.SIZES`); DALL-E's networks are none of them."""
    size: int = 224
    """Side in pixels of the square image; for DALL-E, of the view that BEiT feeds it."""
    statistics: Literal["half", "imagenet", ""] = ""
    """Mean and standard deviation of the pixels it was trained on."""
    url: str = ""
    sha256: str = ""
    hash_source: str = ""
    """GitHub repository of those who measured the hash."""
    expected: float | None = None
    """Expected per cent: top-1 accuracy on ImageNet-1k, or mIoU on ADE20K at a single scale."""
    source: str = ""
    """Page of microsoft/unilm that states `expected`."""
    licence: str = "MIT"
    """Licence of the repository that published it."""
    hub: str = ""
    """The same weights on the Hugging Face hub."""
    timm: str = ""
    """The same weights in timm."""

    @property
    def mean(self) -> tuple[float, float, float] | None:
        """Mean per channel of pixels in [0, 1]; None for tokenizers."""
        return {"half": HALF, "imagenet": IMAGENET_MEAN}.get(self.statistics)

    @property
    def std(self) -> tuple[float, float, float] | None:
        """Standard deviation per channel of pixels in [0, 1]."""
        return {"half": HALF, "imagenet": IMAGENET_STD}.get(self.statistics)

    @property
    def hash_start(self) -> str:
        """What its SHA-256 begins with: all of it, the eight digits in its name, or nothing."""
        named = re.search(r"-([0-9a-f]{8})\.pth$", self.name)
        return self.sha256 or (named[1] if named else "")

    @property
    def download(self) -> tuple[str, str]:
        """Where it is fetched from, and what its SHA-256 must be: the publisher's file where its
        hash is known, else a copy that the hub vouches for, else the file as it was first
        downloaded."""
        if self.url and self.sha256:
            return self.url, self.sha256
        if self.hub or self.timm:
            return (f"hf:{self.hub}" if self.hub else f"timm/{self.timm}"), ""
        return self.url, "record"


def _read_table() -> Iterator[Published]:
    """Every file, with the values that its whole family shares."""
    table = Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    for family, common in tomllib.loads(table).items():
        for file in common.pop("file"):
            yield Published(**({"family": family} | common | file))


PUBLISHED: tuple[Published, ...] = tuple(_read_table())
NAMES: dict[str, Published] = {file.short: file for file in PUBLISHED if file.short}
"""The files that have a short name, by that name."""


def recognise_name(name: str, sha256: str = "") -> Published | None:
    """The published file with this hash, else the one with this name.

    Folders before the name and a query or fragment after it are ignored. A hash that contradicts
    the file of that name rules it out.
    """
    sha256 = sha256.lower()
    plain = re.split(r"[?#]", name)[0].rsplit("/", 1)[-1]
    for file in PUBLISHED:
        if sha256 and file.sha256 == sha256:
            return file
    for file in PUBLISHED:
        if file.name == plain and (not sha256 or sha256.startswith(file.hash_start)):
            return file
    return None


def is_published_hub(reference: str) -> bool:
    """Whether a hub id (`hf:org/name`) is one where the authors' weights were uploaded."""
    plain = reference.removeprefix("hf:").split("@")[0]
    return any(plain == file.hub for file in PUBLISHED if file.hub)
