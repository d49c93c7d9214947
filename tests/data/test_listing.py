"""Natural order, and a listing that stays small."""

from __future__ import annotations

import os
import random
import re
import tracemalloc
from pathlib import Path

import pytest

from beit.data.dataset import open_source
from beit.data.listing import natural_key
from beit.data.order import SortedOrder, step_samples

FILES = 20_000


def by_parts(path: str) -> list[list[tuple[int, int, str]]]:
    """The order in words: part by part, numbers before text and by value, then as they are."""
    return [
        [
            (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
            for piece in re.split("([0-9]+)", part)
            if piece
        ]
        for part in path.split("/")
    ]


def test_natural_order() -> None:
    chance = random.Random(0)
    names = {
        "".join(chance.choice("ab019/.-é_A ") for _ in range(chance.randint(1, 9)))
        for _ in range(5000)
    }
    listed = sorted(names)
    assert sorted(listed, key=natural_key) == sorted(listed, key=by_parts)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(50):
        (root / f"class {number}").mkdir()
    for number in range(FILES):
        os.close(os.open(f"{root}/class {number % 50}/image_{number:06d}.jpg", os.O_CREAT))
    return root


def test_little_memory_per_file(many: Path) -> None:
    tracemalloc.start()
    try:
        source = open_source(str(many))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == FILES
    name = len(source.key(0))
    assert kept / FILES < name + 8 + 8 + 8  # the name, its end, its class, and a little
    assert most / FILES < 600


def test_memory_does_not_grow_with_epochs() -> None:
    order = SortedOrder(FILES, 0)

    def read(epochs: range) -> int:
        for epoch in epochs:
            step = epoch * FILES // 100
            step_samples(step, order=order, batch=100, micro_batch=100)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few = read(range(5))
        assert read(range(5, 30)) < few + FILES
    finally:
        tracemalloc.stop()
