"""Images that changed between save and resume are noticed, and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import beit
from beit.errors import DataError, RunFolderError
from beit.training.dataset_manifest import (
    DatasetManifest,
    check_unchanged,
    learned_names,
    save_manifest,
)
from beit.training.run_folder import RunFolder, read_run_config


@pytest.fixture
def images(class_folders, tmp_path):
    return shutil.copytree(class_folders, tmp_path / "images")


def test_a_run_refuses_other_images_unless_told_to_accept_them(images, tmp_path):
    options = {
        "data": str(images), "out": str(tmp_path / "run"), "steps": 2, "warmup_steps": 1,
        "batch": 4, "workers": 0, "quiet": True, "report": False, "device": "cpu", "held_out": 0.0,
    }  # fmt: skip
    beit.tokenizer("tiny", **options)
    (images / "disc" / "00.png").rename(images / "disc" / "renamed.png")
    with pytest.raises(
        DataError, match=r"1 added \(disc/renamed.png\), 1 removed \(disc/00.png\)[\s\S]*accept"
    ):
        beit.tokenizer("tiny", resume=True, **options)
    assert beit.tokenizer(
        "tiny", resume=True, accept_changed_data=True, **options
    ).artifact.exists()


def test_a_run_goes_on_with_a_copy_of_its_images(images, tmp_path, monkeypatch):
    """Whatever path names it. Others at another path are refused, and the config stays."""
    options = {
        "out": str(tmp_path / "run"), "steps": 2, "warmup_steps": 1, "batch": 4, "workers": 0,
        "quiet": True, "report": False, "device": "cpu", "held_out": 0.0,
    }  # fmt: skip
    beit.tokenizer("tiny", data=str(images), **options)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "copied")
    shutil.rmtree(images)
    for place in ("copied", "../" + tmp_path.name + "/copied/"):
        beit.tokenizer("tiny", data=place, resume=True, **options)
        assert read_run_config(tmp_path / "run").data == place
    shutil.copytree("copied", "others")
    Path("others/disc/00.png").unlink()
    with pytest.raises(DataError, match=r"1 removed \(disc/00.png\)[\s\S]*accept"):
        beit.tokenizer("tiny", data="others", resume=True, **options)
    assert read_run_config(tmp_path / "run").data == place
    with pytest.raises(RunFolderError, match=r"settings: training\.lr: 0\.\d+ -> 0\.5\n"):
        beit.tokenizer("tiny", data="others", resume=True, lr=0.5, **options)
    beit.tokenizer("tiny", data="others", resume=True, accept_changed_data=True, **options)
    assert read_run_config(tmp_path / "run").data == "others"


def keys(*names: str) -> DatasetManifest:
    return DatasetManifest("/".join(names), lambda: names)


def test_differences_are_told(tmp_path: Path):
    folder = RunFolder(tmp_path)
    file = folder.images
    old = keys("a", "b", "c", "d", "e")
    save_manifest(folder, old)
    check_unchanged(file, old.fingerprint, old)
    for now, told in (
        (keys("a", "b", "c", "d", "e", "f"), r"trained on: 1 added \(f\)\n"),
        (keys("e"), r"4 removed \(a, b, c, \.\.\.\)"),
        (keys("b", "a", "c", "d", "e"), "other sizes, contents, labels or order"),
    ):
        with pytest.raises(DataError, match=told):
            check_unchanged(file, old.fingerprint, now)
    file.write_bytes(file.read_bytes()[:9])
    assert learned_names(folder) is None
    with pytest.raises(DataError, match="another fingerprint"):
        check_unchanged(file, old.fingerprint, keys("z"))


def test_what_was_learned_from_before_a_change_stays_known(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert learned_names(folder) is None
    save_manifest(folder, keys("a", "b"))
    save_manifest(folder, keys("a", "b"))
    assert not folder.left_images.exists()
    for now in (keys("b", "c"), keys("c", "d"), keys("d")):
        save_manifest(folder, now)
    assert learned_names(folder) == {*"abcd"}


def test_names_are_read_from_the_files_of_older_runs(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for now in (keys("a", "b"), keys("b")):
        save_manifest(folder, now)
    folder.images.rename(tmp_path / "pictures.txt.gz")
    folder.left_images.rename(tmp_path / "left_pictures.txt.gz")
    assert learned_names(folder) == {*"ab"}
    save_manifest(folder, keys("c"))
    assert learned_names(folder) == {*"abc"}
    assert {path.name for path in tmp_path.iterdir()} == {"images.txt.gz", "left_images.txt.gz"}
