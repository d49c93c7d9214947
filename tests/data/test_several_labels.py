"""Images with several labels: how they are divided, read from copies, and travel to a batch."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import several_labels
from beit.config.data import Division, FolderConfig, LoaderConfig, Reading
from beit.data.augment import EvaluationView
from beit.data.copies import merge_copies
from beit.data.dataset import Dataset, open_source
from beit.data.images import Images
from beit.data.labelled import divide, few, fold_numbers, hold_out
from beit.data.loader import evaluate_batches
from beit.data.pack import pack
from beit.data.sources import FileSource, class_counts, class_names_at, is_multi_label, select
from beit.doctor.check import check
from beit.errors import ConfigError, DataError

LABELS = ("a", "b", "c", "rare")


def source_of(targets: np.ndarray, classes: tuple[str, ...] = LABELS) -> FileSource:
    names = [f"{index:04}.png" for index in range(len(targets))]
    return FileSource("nowhere", names, targets=targets, classes=classes)


def random_labels(seed: int, images: int = 200) -> np.ndarray:
    chance = np.random.default_rng(seed)
    targets = chance.random((images, 4)) < (0.6, 0.3, 0.2, 0.03)
    targets[:2, 3] = True
    return targets


def keys(source: Any) -> list[str]:
    return [source.key(index) for index in range(len(source))]


# -- the division ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_label_gives_its_fraction_and_keeps_some(seed, split):
    source = source_of(random_labels(seed))
    train, validation = hold_out(source, split, seed)
    assert sorted(keys(train) + keys(validation)) == keys(source)
    total, held = class_counts(source), class_counts(validation)
    assert (held >= 1).all()
    assert (class_counts(train) >= 1).all()
    assert (held >= np.floor(split * total)).all()
    assert (held[:3] <= split * total[:3] + 0.15 * total[:3] + 1).all()
    bare = ~source.targets.any(axis=1)
    held_bare = int((~validation.targets.any(axis=1)).sum())
    assert held_bare == round(split * int(bare.sum()))


def test_the_division_is_that_of_the_keys_and_the_seed():
    targets = random_labels(0)
    source = source_of(targets)
    assert keys(hold_out(source, 0.2, 0)[1]) == keys(hold_out(source_of(targets), 0.2, 0)[1])
    assert keys(hold_out(source, 0.2, 0)[1]) != keys(hold_out(source, 0.2, 1)[1])
    order = np.random.default_rng(5).permutation(len(targets))
    shuffled = select(source, order)
    assert sorted(keys(hold_out(shuffled, 0.2, 0)[1])) == keys(hold_out(source, 0.2, 0)[1])


def test_the_only_image_of_a_label_is_learned_from():
    targets = np.zeros((20, 4), np.bool_)
    targets[:, 0] = True
    targets[:10, 1] = True
    targets[10:, 2] = True
    targets[4, 3] = True
    train, validation = hold_out(source_of(targets), 0.5, 0)
    assert class_counts(train)[3] == 1
    assert class_counts(validation)[3] == 0
    assert len(validation) == 10


def test_labels_that_always_come_with_rarer_ones_keep_an_image():
    """Each image of `a` is one of two of another label, of which one is held out."""
    targets = np.zeros((6, 4), np.bool_)
    targets[:3, 0] = True
    for pair in range(3):
        targets[[pair, pair + 3], pair + 1] = True
    for seed in range(20):
        train, _ = hold_out(source_of(targets), 0.5, seed)
        assert (class_counts(train) >= 1).all()


def test_nothing_to_hold_out_is_said():
    with pytest.raises(DataError, match="none is left for validation"):
        hold_out(source_of(np.eye(4, dtype=np.bool_)), 0.2, 0)


@pytest.mark.parametrize("number", [1, 3, 5])
def test_few_labels_give_each_class_that_many(number):
    source = source_of(random_labels(1))
    chosen = select(source, few(source, number, 0))
    counts = class_counts(chosen)
    assert (counts >= number).all()
    assert counts[3] == number
    assert len(chosen) <= 5 * number
    assert (~chosen.targets.any(axis=1)).sum() == number
    assert set(keys(select(source, few(source, number, 0)))) == set(keys(chosen))
    with pytest.raises(DataError, match="fewer than 100"):
        few(source, 100, 0)


# -- copies and links ------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("links", [False, True])
def test_the_same_image_in_several_folders_has_their_labels(root, links):
    expected = several_labels.write(root, 32, links=links)
    splits = divide(Dataset(str(root)), Division(split=0.25, seed=0), multi_label=True)
    found = {}
    for part in (splits.train, splits.validation):
        assert is_multi_label(part)
        for index in range(len(part)):
            name = Path(part.key(index)).name
            found[name] = list(class_names_at(part, index))
            assert np.array_equal(part.read(index).target, part.targets[index])
    assert found == expected
    assert (
        f"{sum(map(len, expected.values()))} files in class folders are 28 images, of which 16 "
        "have several labels"
    ) in splits.train.account.notes
    counts = [splits.train.account.classes[split] for split in ("train", "val")]
    assert sum(counts[0].values()) + sum(counts[1].values()) == sum(map(len, expected.values()))


def test_links_to_files_and_other_names_are_the_same_image(root):
    several_labels.write(root, 16)
    first = root / "red" / "002.png"
    (root / "striped" / "another name.png").symlink_to(first)
    shutil.copy(first, root / "framed" / "copy.png")
    shutil.copy(first, root / "red" / "again.png")
    splits = divide(Dataset(str(root)), Division(split=0.5, seed=0), multi_label=True)
    parts = (splits.train, splits.validation)
    named = {
        part.key(index): class_names_at(part, index) for part in parts for index in range(len(part))
    }
    assert len(named) == 14
    assert named["framed/copy.png"] == ("framed", "red", "striped")
    assert "1 files repeat another of the same class" in "; ".join(splits.train.account.notes)


def test_going_on_without_a_class_keeps_the_other_labels(tmp_path):
    folders = {
        "train/a": "0 1 2", "train/b": "1 2 3", "train/c": "0 3",
        "val/d": "5 6 7", "val/b": "5 7 8", "val/a": "7",
    }  # fmt: skip
    for folder, names in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names.split():
            (tmp_path / folder / f"{name}.png").write_bytes(name.encode())
    with pytest.raises(DataError, match="lacks 'c' and has besides 'd'"):
        divide(Dataset(str(tmp_path)), Division(split=0.5, seed=0), multi_label=True)
    splits = divide(
        Dataset(str(tmp_path), Reading(FolderConfig(accept_missing_classes=True))),
        Division(split=0.5, seed=0),
        multi_label=True,
    )
    validation = splits.validation
    labels = {Path(validation.key(at)).name: class_names_at(validation, at)
              for at in range(len(validation))}  # fmt: skip
    assert labels == {"5.png": ("b",), "7.png": ("a", "b"), "8.png": ("b",)}
    assert [validation.read(at).target.tolist() for at in range(3)] == validation.targets.tolist()
    notes = splits.train.account.notes
    assert "1 image of val skipped: of other classes" in notes
    assert splits.train.account.classes["val"] == {"a": 1, "b": 3, "c": 0}


def test_images_of_the_same_size_in_bytes_are_not_confused(tmp_path):
    for name, content in (("a/1.png", b"one"), ("b/1.png", b"two"), ("b/2.png", b"one")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    names = ["a/1.png", "b/1.png", "b/2.png"]
    merged = merge_copies(FileSource(str(tmp_path), names, targets=[0, 1, 1], classes=("a", "b")))
    assert keys(merged) == ["a/1.png", "b/1.png"]
    assert merged.targets.tolist() == [[True, True], [False, True]]


def test_without_the_option_folders_are_classes_as_ever(root):
    several_labels.write(root, 16)
    splits = divide(Dataset(str(root)), Division(split=0.25, seed=0))
    assert splits.train.targets.ndim == 1
    assert len(splits.train) + len(splits.validation) == 24


def test_parts_are_merged_each_for_itself(root):
    for part in ("train", "val"):
        several_labels.write(root / part, 16, seed=len(part))
    splits = divide(Dataset(str(root)), Division(split=0.2, seed=0, per_class=2), multi_label=True)
    assert len(splits.validation) == 14
    assert (class_counts(splits.train) >= 2).all()
    assert len(splits.train) < 14


def test_a_label_changes_the_fingerprint(root):
    several_labels.write(root, 16)

    def fingerprint() -> str:
        opened = divide(Dataset(str(root)), Division(split=0.25, seed=0), multi_label=True)
        return opened.train.fingerprint() + opened.validation.fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    os.link(root / "red" / "002.png", root / "striped" / "zzz.png")
    assert fingerprint() != before


def test_one_class_alone_is_enough_where_images_may_lack_it():
    targets = np.arange(8)[:, None] % 2 == 0
    train, validation = hold_out(source_of(targets, ("cracked",)), 0.25, 0)
    assert (len(train), len(validation)) == (6, 2)
    assert class_counts(validation).tolist() == [1]


# -- on the way to a batch -------------------------------------------------------------------------


def test_batches_hold_the_labels(root):
    several_labels.write(root, 16)
    source = divide(Dataset(str(root)), Division(split=0.25, seed=0), multi_label=True).train
    for workers in (0, 1):
        read = evaluate_batches(
            source,
            EvaluationView((16, 16)),
            channels=3,
            batch=4,
            config=LoaderConfig(workers=workers),
        )
        batches = list(read)
        targets = torch.cat([batch.targets for batch in batches])
        assert targets.dtype == torch.bool
        assert np.array_equal(targets.numpy(), source.targets)


def test_kept_images_have_their_labels(root):
    several_labels.write(root, 16)
    source = divide(Dataset(str(root)), Division(split=0.25, seed=0), multi_label=True).train
    images = Images(source, 3, cache=True)
    for index in range(len(source)):
        sample = EvaluationView((8, 8))(
            images.read(index).pixels, images.read(index).target, random.Random(0)
        )
        assert np.array_equal(sample.targets[0], source.targets[index])


# -- elsewhere -------------------------------------------------------------------------------------


def test_what_takes_one_class_says_so(tmp_path):
    datasets = pytest.importorskip("datasets")
    place = saved(datasets, tmp_path, [[0], [0, 1], [], [1]] * 4)
    with pytest.raises(DataError, match="several labels each, and the probe takes one class"):
        divide(Dataset(str(place)), Division(split=0.5, seed=0), use="the probe")


def saved(datasets: Any, tmp_path: Path, labels: list[Any], inner: Any = None) -> Path:
    several_labels.write(tmp_path / "images", 16)
    files = sorted(str(path) for path in (tmp_path / "images").rglob("*.png"))[: len(labels)]
    feature = datasets.Sequence(inner or datasets.ClassLabel(names=["red", "striped"]))
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    made = datasets.Dataset.from_dict({"image": files, "label": labels}, features)
    made.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("form", ["classes", "words", "numbers"])
def test_datasets_with_a_list_of_labels(tmp_path, form, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    inner, names = {
        "classes": (None, ("red", "striped")),
        "words": (datasets.Value("string"), ("0", "1")),
        "numbers": (datasets.Value("int64"), ("0", "7")),
    }[form]
    second = 7 if form == "numbers" else 1
    labels: list[Any] = [[0], [0, second], [], [second]] * 4
    if form == "words":
        labels = [list(map(str, each)) for each in labels]
    place = saved(datasets, tmp_path, labels, inner)
    splits = divide(Dataset(str(place)), Division(split=0.25, seed=0))
    assert splits.train.classes == names
    for part in (splits.train, splits.validation):
        for index in range(len(part)):
            row = int(part.key(index).rpartition("/")[2])
            expected = {"0": [0], "1": [0, 1], "2": [], "3": [1]}[str(row % 4)]
            assert np.flatnonzero(part.targets[index]).tolist() == expected
    assert sum(not target.any() for target in splits.validation.targets) == 1


def test_zeros_and_ones_may_be_two_things(tmp_path):
    datasets = pytest.importorskip("datasets")
    place = saved(datasets, tmp_path, [[0, 1], [1, 0]] * 4, datasets.Value("int64"))
    with pytest.raises(DataError, match="nothing but 0 and 1"):
        divide(Dataset(str(place)), Division(split=0.25, seed=0))


def tar(place: Path, described: list[Any]) -> Path:
    several_labels.write(place.parent / "images", 16)
    files = sorted((place.parent / "images").rglob("*.png"))
    with tarfile.open(place, "w") as archive:
        for number, (file, content) in enumerate(zip(files, described, strict=False)):
            archive.add(file, f"{number:02}.png")
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"{number:02}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return place


def test_shards_with_a_list_of_labels(tmp_path):
    labels = [["red"], {"labels": ["red", "striped"]}, {"tags": []}, {"label": "striped"}]
    place = tar(tmp_path / "some.tar", labels * 4)
    for _ in range(2):  # walked through, and by the index that was kept
        source = open_source(str(place))
        assert source.classes == ("red", "striped")
        expected = [[True, False], [True, True], [False, False], [False, True]] * 4
        assert source.targets.tolist() == expected
        assert source.read(1).target.tolist() == [True, True]


def test_shards_with_zeros_and_ones_are_refused(tmp_path):
    (tmp_path / "two").mkdir()
    with pytest.raises(DataError, match="name one twice"):
        open_source(str(tar(tmp_path / "some.tar", [[0, 1, 0], [1, 1, 0]])))
    two = tar(tmp_path / "two" / "some.tar", [[0, 1], [1, 0]] * 4)
    with pytest.raises(DataError, match="has all labels: '0', '1'"):
        divide(Dataset(str(two)), Division(split=0.25, seed=0))


def test_packed_labels_are_the_same(root, tmp_path):
    place = tar(tmp_path / "some.tar", [["red"], ["red", "striped"], [], ["striped"]] * 4)
    pack(str(place), str(tmp_path / "packed"))
    before, after = open_source(str(place)), open_source(str(tmp_path / "packed"))
    assert after.classes == before.classes
    assert np.array_equal(after.targets, before.targets)


def test_a_dataset_with_one_class_each_refuses_the_option(tmp_path):
    datasets = pytest.importorskip("datasets")
    several_labels.write(tmp_path / "images", 16)
    files = sorted(str(path) for path in (tmp_path / "images").rglob("*.png"))[:8]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    content = {"image": files, "label": [0, 1] * 4}
    datasets.Dataset.from_dict(content, datasets.Features(features)).save_to_disk(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"every image of .* has one class"):
        divide(Dataset(str(tmp_path / "set")), Division(split=0.5, seed=0), multi_label=True)


def test_data_check_counts_each_label(tmp_path):
    datasets = pytest.importorskip("datasets")
    place = saved(datasets, tmp_path, [[0], [0, 1], [], [1], [1]])
    found = check(str(place), few=0)
    assert found.classes == {"red": {"": 2}, "striped": {"": 3}}


@pytest.mark.parametrize("several", [False, True])
def test_folds_part_every_class_evenly_and_leave_nobody_out(several):
    targets = random_labels(0) if several else np.repeat(np.arange(len(LABELS)), 23)
    source = source_of(targets)
    numbers = fold_numbers(source, 5, seed=0)
    assert set(numbers.tolist()) == set(range(5))
    sizes = np.bincount(numbers)
    assert sizes.max() - sizes.min() <= (20 if several else 1)
    for label in range(len(LABELS)):
        members = targets[:, label] if several else targets == label
        share = np.bincount(numbers[members], minlength=5)
        assert share.max() - share.min() <= (0.35 * members.sum() if several else 1)
    assert np.array_equal(numbers, fold_numbers(source, 5, seed=0))
    assert not np.array_equal(numbers, fold_numbers(source, 5, seed=1))


def test_a_class_of_one_image_has_no_folds():
    with pytest.raises(DataError, match="fewer than 2"):
        fold_numbers(source_of(np.array([0, 0, 0, 1, 1, 2])), 3, seed=0)
