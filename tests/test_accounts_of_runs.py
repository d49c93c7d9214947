"""Every verb gives the account of its data before it does anything with them, and runs keep it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from beit import tasks
from beit.cli import main
from beit.data.account import account_from_json
from beit.errors import ConfigError, DataError
from beit.tasks.finished import report_run
from segmented_folder import write_folder

OPTIONS: dict[str, Any] = {
    "workers": 0, "report": False, "device": "cpu", "precision": "fp32", "steps": 2, "batch": 12,
    "warmup_steps": 0,
}  # fmt: skip
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
SKIPPED = "  skipped: 1 .heic (HEIC is not decoded: convert it to JPEG or PNG): train/disc/x.heic"


@pytest.fixture
def data(class_folders: Path, tmp_path: Path) -> Path:
    """train/ and test/ with three classes each, and an image of a phone."""
    root = tmp_path / "images"
    for split in ("train", "test"):
        shutil.copytree(class_folders, root / split)
    (root / "train" / "disc" / "x.heic").write_bytes(HEIC)
    return root


def test_a_run_prints_logs_and_keeps_the_account(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    tasks.finetune("tiny", data=str(data), out=str(out), **OPTIONS)
    log = (out / "log.txt").read_text()
    for text in (log, capsys.readouterr().out):
        before, _, after = text.partition("starting:")
        assert f"data: {data}: one folder per class, in the splits train/, test/\n" in before
        assert "train: 30 images in 3 classes: disc 10, stripes 10, tiles 10\n" in before
        assert SKIPPED in before
        assert "data:" not in after
    account = account_from_json((out / "account.json").read_text())
    assert "\n".join(account.lines()) in log
    assert account.images == {"train": 30, "val": 6, "test": 36}
    shutil.rmtree(data)  # the page is made again from what the run kept
    page = report_run(out).read_text()
    assert "one folder per class, in the splits train/, test/; 1 file skipped" in page
    assert "train/disc/x.heic" in page
    (out / "account.json").write_text("{")
    assert "1 file skipped" not in report_run(out).read_text()


def test_pre_training_reads_no_test_images(
    data: Path, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = OPTIONS | {"tokenizer": str(trained.tokenizer), "accept_collapsed": True}
    tasks.pretrain("tiny", data=str(data), out=str(out), **options)
    told = capsys.readouterr().out
    assert "  train: 36 images in 3 classes" in told
    assert "  note: only 'train' is read: no image of test (36)" in told
    assert SKIPPED in told
    names = {path.name for path in out.iterdir()}
    assert "account.json" in names


def test_classes_that_cannot_be_used_do_not_stop_a_pre_training(
    data: Path, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of ImageNet whose validation images lie in one folder."""
    (data / "val").mkdir()
    shutil.copy(data / "train" / "disc" / "00.png", data / "val")
    options = OPTIONS | {"tokenizer": str(trained.tokenizer), "accept_collapsed": True}
    tasks.pretrain("tiny", data=str(data), out=str(tmp_path / "run"), **options)
    told = capsys.readouterr().out
    assert "are not used to score:" in told
    assert "val has no class folders" in told
    with pytest.raises(DataError, match="val has no class folders"):
        tasks.pretrain(
            "tiny", data=str(data), labelled=str(data), out=str(tmp_path / "other"), **options
        )


def test_the_same_layout_is_refused_by_every_verb(
    class_folders: Path, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sites"
    for site in ("site1", "site2"):
        shutil.copytree(class_folders, root / site)
    out = tmp_path / "out"
    verbs = (
        ["finetune", "tiny", "--data", str(root), "--out", str(out)],
        ["probe", str(trained.pretrained), "--data", str(root), "--out", str(out)],
        ["finetune", "tiny", "--data", str(root), "--out", str(out), "--fold", "site1"],
    )
    said = ("--class-level 1", "--class-level 2", "not in folds")
    for words, expected in zip(verbs, said, strict=True):
        assert main(words) in (2, 3)
        assert expected in capsys.readouterr().err
        assert not out.exists()
    options = OPTIONS | {"class_level": 2, "init": str(trained.pretrained)}
    tasks.finetune("tiny", data=str(root), out=str(out), **options)
    assert "3 classes: disc" in (out / "log.txt").read_text()
    capsys.readouterr()
    found = tasks.evaluate(str(out), data=str(root), class_level=2, workers=0)
    assert found.account.classes["measured"]["disc"] == 5
    assert found.notes[0].startswith("measured on the images that the run held out")
    assert main(["data", "check", str(root), "--class-level", "2"]) == 0
    assert "all: 72 images in 3 classes" in capsys.readouterr().out


def test_what_measures_logs_the_account_beside_its_results(
    data: Path, trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "beit")
    found = tasks.evaluate(str(trained.classifier), data=str(data), split="test", workers=0)
    assert SKIPPED in caplog.text
    assert found.account.images == {"test": 36}
    with pytest.raises(DataError, match="splits 'train', 'test', but none called val") as caught:
        tasks.evaluate(str(trained.classifier), data=str(data), workers=0)
    assert "--split test" in caught.value.remedy
    with pytest.raises(ConfigError, match="class_level is 0"):
        tasks.evaluate(str(trained.classifier), data=str(data), class_level=0)
    caplog.clear()
    assert main(["data", "pack", str(data), str(tmp_path / "packed")]) == 0
    assert SKIPPED in caplog.text
    caplog.clear()
    out = tmp_path / "e.npz"
    assert main(["embed", str(trained.pretrained), str(data), "--out", str(out)]) == 0
    assert "every image below it" in caplog.text
    assert "all: 72 images" in caplog.text


def test_masks_are_no_images_to_embed(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "segmented"
    write_folder(root)
    images = len(list((root / "images").rglob("*.*")))
    out = tmp_path / "e.npz"
    assert main(["embed", str(trained.pretrained), str(root), "--out", str(out)]) == 0
    assert f"{images} images x" in capsys.readouterr().out
