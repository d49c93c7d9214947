"""The same image among those to learn from and those for validation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import Division
from beit.data import copies
from beit.data.copies import shared_images
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.data.pack import pack
from beit.data.sources import ImageSource, select

Draw = Callable[..., Path]
NAMES = [f"{part}/{label}/{n}.png" for part in ("train", "val") for label in "ab" for n in range(4)]
SAME = {"train/a/1.png": "val/b/2.png", "train/b/3.png": "val/a/0.png"}


@pytest.fixture
def root(draw: Draw) -> str:
    folder = draw(*NAMES)
    for learned, judged in SAME.items():
        shutil.copy(folder / judged, folder / learned)
    (folder / "val" / "a" / "3.png").unlink()
    (folder / "val" / "a" / "3.png").symlink_to("nothing")
    return str(folder)


def test_copies_are_found_under_any_name(root: str) -> None:
    splits = divide(Dataset(root), Division(split=0.2, seed=0))
    assert shared_images(splits.train, splits.validation) == SAME
    turned = shared_images(splits.validation, splits.train)
    assert turned == {judged: learned for learned, judged in SAME.items()}


def test_parts_of_one_folder_and_of_shards(
    root: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = open_source(f"{root}/train")
    shutil.copy(f"{root}/train/a/0.png", f"{root}/train/b/0.png")
    assert shared_images(select(whole, range(4)), select(whole, range(4, 8))) == {
        "a/0.png": "b/0.png"
    }
    shards = tmp_path_factory.mktemp("packed") / "shards"
    pack(root, str(shards))
    train, validation = (Dataset(str(shards)).part(part)[1] for part in ("train", "val"))
    assert shared_images(train, validation) == {
        learned.removeprefix("train/"): judged.removeprefix("val/")
        for learned, judged in SAME.items()
    }


class Counted:
    """A source that tells which of its images were read."""

    def __init__(self, source: ImageSource) -> None:
        self.source, self.read_keys = source, set[str]()

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> object:
        self.read_keys.add(self.source.key(index))
        return self.source.read(index)


def test_only_files_of_the_size_of_another_are_read(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the data, what is read is bounded; what vanished has no size."""
    splits = divide(Dataset(root), Division(split=0.2, seed=0))
    learned, judged = Counted(splits.train), Counted(splits.validation)
    for index in range(len(learned)):  # of random sizes, but for the copies
        key = splits.train.key(index)
        if key not in SAME:
            with Path(root, key).open("ab") as file:
                file.write(bytes(5000 + index))
    assert shared_images(learned, judged) == SAME  # type: ignore[arg-type]
    assert learned.read_keys == set(SAME)
    assert judged.read_keys >= set(SAME.values())
    monkeypatch.setattr(copies, "SOUGHT", 1)
    monkeypatch.setattr(copies, "SIZED", 1)
    assert shared_images(splits.train, splits.validation) == {}
