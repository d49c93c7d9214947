"""Hugging Face datasets as they are saved: images, labels, splits."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beit.config.data import Division, LoaderConfig, ViewConfig
from beit.data.dataset import Dataset, open_source
from beit.data.hugging_face import HuggingFaceSource, open_hugging_face
from beit.data.labelled import divide
from beit.data.loader import Loader
from beit.data.sources import ImageSource
from beit.data.transforms import SingleView
from beit.errors import ConfigError, DataError, ResourceError, UnreadableError

datasets = pytest.importorskip("datasets")
Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def rows(root: Path, count: int, *, named: bool = True, **columns: Any) -> Any:
    files = [str(path) for path in sorted(root.glob("*.png"))][:count]
    content = {"image": files, "label": [number % 2 for number in range(count)]} | columns
    label = datasets.ClassLabel(names=["dog", "cat"]) if named else datasets.Value("int64")
    features = {"image": datasets.Image(), "label": label}
    features |= {name: datasets.Value("string") for name in columns if name not in features}
    return datasets.Dataset.from_dict(content, datasets.Features(features))


@pytest.fixture
def root(draw: Draw) -> Path:
    return draw(*[f"{number}.png" for number in range(8)])


def data(source: ImageSource) -> list[bytes]:
    return [source.read(index).data for index in range(len(source))]


def draw_images(root: Path, count: int = 8) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.glob("*.png"))][:count]


def test_saved_dataset_with_splits(root: Path, tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": rows(root, 8), "validation": rows(root, 4)})
    parts.save_to_disk(tmp_path / "saved")
    place = str(tmp_path / "saved")
    source = open_source(place)
    assert data(source) == draw_images(root)
    assert source.key(3) == "train/000003"
    assert source.classes == ("dog", "cat")
    splits = divide(Dataset(place), Division(split=0.5, seed=0, per_class=1))
    assert [len(splits.train), len(splits.validation)] == [2, 4]
    assert splits.validation.targets is not None
    assert splits.validation.targets.tolist() == [0, 1, 0, 1]
    assert splits.validation.read(1).target == 1
    name, validation = Dataset(place).part("val")
    assert data(validation) == draw_images(root, 4)
    assert name.endswith("(val)")
    with pytest.raises(IndexError):
        source.read(8)


def test_parquet_and_a_named_dataset(root: Path, tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    file = tmp_path / "parquet" / "train.parquet"
    rows(root, 8, named=False).to_parquet(file)
    by_file, by_folder, by_name = (
        open_source(place) for place in (str(file), str(file.parent), f"hf:{file.parent}")
    )
    assert data(by_file) == data(by_folder) == data(by_name) == draw_images(root)
    assert by_name.classes == ("0", "1")
    assert by_name.fingerprint() == by_folder.fingerprint() == by_file.fingerprint()
    loader = Loader(
        by_name, SingleView(config=ViewConfig(), size=(16, 16)), channels=3, batch=4, micro_batch=4,
        seed=1, config=LoaderConfig(workers=1, cache=False),
    )  # fmt: skip
    assert len([key for batch in loader.batches(0, 2) for key in batch.keys]) == 8
    before = by_file.fingerprint()
    (root / "1.png").write_bytes(b"other")
    rows(root, 8, named=False).to_parquet(file)
    assert open_source(str(file)).fingerprint() != before
    assert data(pickle.loads(pickle.dumps(by_file))) == data(by_file)  # noqa: S301


def test_labels_as_words_and_missing_ones(root: Path, tmp_path: Path) -> None:
    words = rows(root, 4).remove_columns("label").add_column("label", ["b", "a", "b", "10"])
    words.save_to_disk(tmp_path / "words")
    source = open_source(str(tmp_path / "words"))
    assert source.classes == ("10", "a", "b")
    assert source.targets is not None
    assert source.targets.tolist() == [2, 1, 2, 0]
    rows(root, 4, label=[0, 1, -1, 0]).save_to_disk(tmp_path / "unknown")
    assert open_source(str(tmp_path / "unknown")).targets is None
    words = rows(root, 4).remove_columns("label").add_column("label", ["b", "a", "", "b"])
    words.save_to_disk(tmp_path / "empty")
    assert open_source(str(tmp_path / "empty")).targets is None
    rows(root, 4).remove_columns("label").save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="no label for every image"):
        divide(Dataset(str(tmp_path / "none")), Division(split=0.5, seed=0))


def test_several_parts_of_one_split_are_named(root: Path, tmp_path: Path) -> None:
    parts = {"train": rows(root, 2), "extra": rows(root, 2), "train_more": rows(root, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="splits for train: 'train', 'train_more'\n"):
        open_source(str(tmp_path / "saved"))


def test_test_split_without_answers_is_left_out(root: Path, tmp_path: Path) -> None:
    parts = {"train": rows(root, 8), "test": rows(root, 2, label=[-1, -1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    splits = divide(Dataset(str(tmp_path / "saved")), Division(split=0.25, seed=0))
    assert splits.test is None
    assert [len(splits.train), len(splits.validation)] == [6, 2]


def test_missing_images(root: Path, tmp_path: Path) -> None:
    lost = datasets.Dataset.from_dict(
        {"image": [None, str(tmp_path / "gone.png")]}, datasets.Features(image=datasets.Image())
    )
    source = HuggingFaceSource(lost, "train")
    with pytest.raises(UnreadableError, match="holds no image"):
        source.read(0)
    with pytest.raises(UnreadableError, match="No such file"):
        source.read(1)


def test_no_single_column_of_images(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(DataError, match="0 columns of the dataset hold images; it has 'text'"):
        open_source(str(tmp_path / "text"))


def test_parquet_files_of_different_columns(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows(root, 4).to_parquet(tmp_path / "data" / "train-0.parquet")
    rows(root, 4).rename_column("image", "img").to_parquet(tmp_path / "data" / "test-0.parquet")
    with pytest.raises(DataError, match="data cannot be opened: ") as caught:
        open_source(str(tmp_path / "data"))
    assert "the same columns" in caught.value.remedy


def test_parquet_files_one_folder_deeper_are_named(root: Path, tmp_path: Path) -> None:
    """As a repository of the hub lies on disk."""
    place = tmp_path / "repository" / "data"
    place.mkdir(parents=True)
    rows(root, 4).to_parquet(place / "train-0.parquet")
    with pytest.raises(DataError, match=r"\.parquet \(1: a table: name it, or the folder it lies"):
        open_source(str(place.parent))
    assert len(open_source(str(place))) == 4


def test_tables_beside_images_do_not_change_how_folders_are_read(
    root: Path, tmp_path: Path
) -> None:
    """As features of a model lie there, or the addresses that were downloaded."""
    place = tmp_path / "folders"
    for number, path in enumerate(sorted(root.glob("*.png"))):
        to = place / f"site{number % 2}" / ("cat", "dog")[number // 4] / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    datasets.Dataset.from_dict({"file_name": ["a"]}).to_parquet(place / "metadata.parquet")
    source = open_source(str(place))
    assert (len(source), source.classes) == (8, ())
    assert [one.examples for one in source.account.skipped] == [("metadata.parquet",)]
    with pytest.raises(DataError, match="--class-level 2"):
        divide(Dataset(str(place)), Division(split=0.5, seed=0))
    (place / "metadata.parquet").rename(root / "metadata.parquet")
    for folder in (place, root / "parquet"):
        shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(DataError, match=r"tables are not read: 'metadata\.parquet'") as caught:
        divide(Dataset(str(root)), Division(split=0.5, seed=0))
    assert "into a CSV file" in caught.value.remedy
    with pytest.raises(DataError, match="0 columns of the dataset hold images") as caught:
        open_source(str(root / "metadata.parquet"))
    assert "names of files belong into a list" in caught.value.remedy


def test_images_beside_parquet_files_of_images_are_not_read_for_them(
    root: Path, tmp_path: Path
) -> None:
    rows(root, 4).to_parquet(root / "some.parquet")
    with pytest.raises(DataError, match="images in Parquet files, and others beside them"):
        open_source(str(root))


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="cannot be opened"):
        open_hugging_face(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(ConfigError, match="not a name of a dataset"):
        open_hugging_face("hf:a@b@c")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ResourceError, match="`datasets` is not installed") as caught:
        open_source("hf:mnist")
    assert "beit[datasets]" in caught.value.remedy
