"""Images that belong together are held out together, in every way in which images are held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beit
from beit.config import MaskConfig
from beit.config.data import Division, Fold
from beit.data.dataset import Dataset
from beit.data.labelled import divide, fold_numbers, hold_out
from beit.data.name_patterns import Groups, found_in
from beit.data.segmented import SegmentationData
from beit.data.sources import FileSource
from beit.errors import ConfigError, DataError
from segmented_folder import write_pair

PATTERN = r"p(\d+)_"


def names_of(sizes):
    """Images p<group>_<number> of groups of these sizes."""
    return [f"p{at}_{number}.png" for at, size in enumerate(sizes) for number in range(size)]


def patients_in(source):
    return {source.key(at).partition("_")[0].rpartition("/")[2] for at in range(len(source))}


@given(
    sizes=st.lists(st.integers(1, 30), min_size=6, max_size=40),
    split=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 3),
)
def test_whole_groups_come_near_to_the_fraction_of_each_class(sizes, split, seed):
    """Every third group is of the other class."""
    names = names_of(sizes)
    targets = np.array([int(name[1:].partition("_")[0]) % 3 == 0 for name in names], np.int64)
    source = FileSource("nowhere", names, targets=targets, classes=("a", "b"))
    groups = Groups.of_source(source, PATTERN)
    train, validation = hold_out(source, split, seed, groups)
    assert len(train) + len(validation) == len(source)
    assert not patients_in(train) & patients_in(validation)
    for label in (0, 1):
        of_class = [size for at, size in enumerate(sizes) if (at % 3 == 0) == label]
        found = int((validation.targets == label).sum())
        assert 0 < found < sum(of_class)
        assert abs(found - split * sum(of_class)) <= max(of_class)


@given(sizes=st.lists(st.integers(1, 9), min_size=8, max_size=40), seed=st.integers(0, 3))
def test_folds_do_not_divide_groups_and_are_even(sizes, seed):
    names = names_of(sizes)
    source = FileSource("nowhere", names, targets=[0] * len(names), classes=("a",))
    folds = fold_numbers(source, 4, seed, Groups.of_source(source, PATTERN))
    for name in found_in(names, PATTERN, "groups"):
        assert (
            len({folds[at] for at in range(len(names)) if names[at].startswith(f"p{name}_")}) == 1
        )
    counts = np.bincount(folds, minlength=4)
    assert counts.max() - counts.min() <= max(sizes)


def test_several_labels_per_image():
    names = names_of([3] * 12)
    targets = np.zeros((36, 2), np.bool_)
    targets[::2, 0], targets[18:, 1] = True, True
    source = FileSource("nowhere", names, targets=targets, classes=("a", "b"))
    train, validation = hold_out(source, 0.25, 0, Groups.of_source(source, PATTERN))
    assert not patients_in(train) & patients_in(validation)
    assert 6 <= len(validation) <= 12
    assert train.targets.any(axis=0).all()


@pytest.mark.parametrize(
    ("pattern", "error", "words"),
    [
        ("(", ConfigError, "is not a regular expression"),
        ("patient", DataError, "(--groups) finds nothing in 4 of 4 names of images: 'p0_0.png'"),
        ("p", DataError, "none of 1 group of images can be held out"),
    ],
)
def test_patterns_that_do_not_divide(pattern, error, words):
    names = names_of([2, 2])
    source = FileSource("nowhere", names, targets=[0, 1, 0, 1], classes=("a", "b"))
    with pytest.raises(error) as raised:
        hold_out(source, 0.5, 0, Groups.of_source(source, pattern))
    assert words in str(raised.value)
    if pattern == "p":
        with pytest.raises(DataError, match="1 group of images cannot be divided into 2 folds"):
            fold_numbers(source, 2, 0, Groups.of_source(source, pattern))


@pytest.fixture
def patients(class_folders, tmp_path):
    """Two classes of twelve images, four of each of six patients."""
    root = tmp_path / "patients"
    for label, name in enumerate(("disc", "tiles")):
        (root / name).mkdir(parents=True)
        for at, image in enumerate(sorted((class_folders / name).iterdir())):
            patient = 3 * label + at // 4
            (root / name / f"p{patient}_{at}.png").write_bytes(image.read_bytes())
    return root


def test_a_run_keeps_them_together_and_the_account_says_so(patients, tmp_path):
    run = beit.finetune(
        "tiny", data=patients, out=tmp_path / "run", groups=PATTERN, split=0.3, steps=2, batch=4,
        warmup_steps=1, workers=0, quiet=True, report=False, device="cpu",
    )  # fmt: skip
    account = json.loads((run.folder / "account.json").read_text())
    assert account["images"] == {"train": 16, "val": 8}
    assert any("in 2 of 6 groups (--groups p(\\d+)_)" in note for note in account["notes"])
    measured = beit.evaluate(run.artifact, data=patients, workers=0, device="cpu")
    assert measured.images == 8  # which it knows from the artifact
    assert any("held out for validation" in note for note in measured.notes)


def test_parts_that_share_a_group_are_named(patients):
    for part in ("train", "val"):
        (patients / part).mkdir()
    for name in ("disc", "tiles"):
        for part in ("val", "train"):
            (patients / part / name).mkdir()
        for at, image in enumerate(sorted((patients / name).iterdir())):
            image.rename(patients / ("val" if at < 6 else "train") / name / image.name)
        (patients / name).rmdir()
    notes = divide(
        Dataset(str(patients)), Division(split=0.2, seed=0, groups=PATTERN)
    ).train.account.notes
    assert any("groups (--groups p(\\d+)_) in both training and validation" in one for one in notes)


def test_folds_of_groups_are_an_option(patients):
    held = [
        patients_in(
            divide(
                Dataset(str(patients)), Division(split=0.2, seed=0, fold=Fold(n, 3), groups=PATTERN)
            )[1]
        )
        for n in range(3)
    ]
    assert sorted(map(len, held)) == [2, 2, 2]
    assert len(set.union(*held)) == 6


def test_masks_of_a_place_are_held_out_together(tmp_path):
    for at in range(12):
        write_pair(tmp_path, "", f"p{at // 3}_{at}", seed=at, size=(40, 36))
    data = SegmentationData(str(tmp_path), MaskConfig())
    found = data.divide(Division(split=0.25, seed=0, groups=PATTERN))
    assert (len(found.train), len(found.validation)) == (9, 3)
    assert not patients_in(found.train) & patients_in(found.validation)
    said = "3 of 12 images are held out for validation (--split 0.25), in 1 of 4 groups (--groups"
    assert any(said in note for note in found.account.notes)
