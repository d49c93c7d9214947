"""One tiny run of each kind, made once, on images whose names are hostile."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import beit

HOSTILE = "<script>alert(1)<!--&\"'"
CLASSES = ("plain", HOSTILE)
VOID = {"img", "meta", "br"}


class Runs(NamedTuple):
    """Folders of finished runs and of their images."""

    data: Path
    tokenizer: Path
    pretraining: Path
    pixels: Path
    classifier: Path


class Page(HTMLParser):
    """A page taken apart; refuses elements that are not closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    data = place / "images"
    for label, name in enumerate(CLASSES):
        (data / name).mkdir(parents=True)
        for number in range(12):
            generator = np.random.default_rng(100 * label + number)
            pixels = (
                generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
            )
            pixels[..., label] //= 4
            Image.fromarray(pixels).save(data / name / f"{number}.png")
    options = {"data": str(data), "workers": 0, "quiet": True, "batch": 8, "log_every": 1}
    made = Runs(
        data, *(place / name for name in ("tokenizer", "pretraining", "pixels", "classifier"))
    )
    beit.tokenizer("tiny", **options, out=str(made.tokenizer), steps=8, evaluate_every=4)
    small = {**options, "steps": 4, "knn_images": 8}
    beit.pretrain(
        "tiny",
        **small,
        out=str(made.pretraining),
        tokenizer=str(made.tokenizer),
        accept_collapsed=True,
    )
    beit.pretrain("tiny", **small, out=str(made.pixels), target="pixels")
    beit.finetune(
        "tiny", **options, out=str(made.classifier), init=str(made.pretraining), steps=4,
        evaluate_every=2,
    )  # fmt: skip
    return made


@pytest.fixture
def read() -> Callable[[Path], Page]:
    """Take a page apart."""
    return lambda path: Page(path.read_text())
