"""What is odd about the images of a run is in its terminal, its log, its files and its report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beit import tasks
from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import Loader
from beit.data.transforms import SingleView
from beit.errors import DataError, RunFolderError
from beit.tasks.finished import report_run
from encoding import animate
from segmented_folder import write_folder

OPTIONS = {
    "workers": 0, "report": False, "device": "cpu", "precision": "fp32", "steps": 4, "batch": 12,
    "warmup_steps": 1, "evaluate_every": 2, "log_every": 1,
}  # fmt: skip


def named(file: Path) -> dict[str, str]:
    return {row["key"]: row["reason"] for row in map(json.loads, file.read_text().splitlines())}


@pytest.fixture
def parts(class_folders: Path, tmp_path: Path) -> Path:
    """train/ and val/ with an animation each, and one image in both."""
    root = tmp_path / "images"
    for part in ("train", "val"):
        shutil.copytree(class_folders, root / part)
    for number, place in enumerate(sorted((root / "val").rglob("*.png"))):
        Image.new("RGB", (40, 40), (number, 2 * number, 9)).save(place)
    shutil.copy(root / "train/disc/03.png", root / "val/disc/07.png")
    animate(root / "train/stripes/01.png")
    animate(root / "val/tiles/02.png")
    return root


def test_a_run_tells_of_animations_and_of_images_in_both_parts(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    tasks.finetune("tiny", data=str(parts), out=str(out), **OPTIONS)
    animated = {"train/stripes/01.gif", "val/tiles/02.gif"}
    assert set(named(out / "several.jsonl")) == animated
    assert named(out / "shared.jsonl") == {"train/disc/03.png": "the same as val/disc/07.png"}
    assert not (out / "unreadable.jsonl").exists()
    log = (out / "log.txt").read_text()
    for text in (log, capsys.readouterr().out):
        assert "note: 1 of the training images come again for validation, such as train/" in text
    assert log.count("the first image was taken") == 1
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    assert [row for row in rows if row["kind"] == "train"][-1]["several"] == 2
    page = report_run(out).read_text()
    assert "2 files with several images, of which the first was used" in page
    assert "1 image in both the training and the validation data" in page
    assert "could not be read" not in page


def test_a_pre_training_tells_of_animations_that_it_is_measured_with(
    parts: Path, trained: Any, tmp_path: Path
) -> None:
    tasks.pretrain(
        "tiny", data=str(parts / "train" / "disc"), labelled=str(parts), out=str(tmp_path / "run"),
        tokenizer=str(trained.tokenizer), accept_collapsed=True, quiet=True, **OPTIONS,
    )  # fmt: skip
    told = set(named(tmp_path / "run" / "several.jsonl"))
    assert told == {"train/stripes/01.gif", "val/tiles/02.gif"}


@pytest.fixture
def broken(class_folders: Path, tmp_path: Path) -> Path:
    """Images of which three cannot be read."""
    root = tmp_path / "broken"
    shutil.copytree(class_folders, root)
    for name in ("a.jpg", "b.png", "c.png"):
        (root / "disc" / name).write_text("words")
    return root


def test_a_run_tells_of_images_that_cannot_be_read_and_of_those_held_out(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    tasks.tokenizer("tiny", data=str(broken), out=str(out), bad_limit=0.5, held_out=0.2, **OPTIONS)
    log, told = (out / "log.txt").read_text(), capsys.readouterr().out
    assert set(named(out / "unreadable.jsonl")) == {"disc/a.jpg", "disc/b.png", "disc/c.png"}
    for text in (log, told):
        assert "note: 7 of 39 images are held out to measure on (--held-out)" in text
        assert "32 images, batch 12" in text
        for name in ("a.jpg", "b.png", "c.png"):
            assert text.count(f"disc/{name} cannot be read and is skipped: ") == 1
        assert f"were skipped: 3; {out / 'unreadable.jsonl'} names them" in text


def test_a_run_that_met_too_many_unreadable_images_goes_on_with_a_higher_limit(
    broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = OPTIONS | {"data": str(broken), "out": str(out), "quiet": True}
    with pytest.raises(
        DataError, match="of 39 images cannot be read, --bad-limit allows 1"
    ) as caught:
        tasks.tokenizer("tiny", held_out=0.0, **options)
    for word in ("beit data check", "--bad-limit", "--resume"):
        assert word in caught.value.remedy
    assert list((out / "checkpoints").glob("step-*"))  # what was learned until then is kept
    with pytest.raises(RunFolderError, match="holds a run"):
        tasks.tokenizer("tiny", held_out=0.0, bad_limit=0.1, **options)
    with pytest.raises(DataError, match="images cannot be read"):
        tasks.tokenizer("tiny", held_out=0.0, resume=True, **options)
    run = tasks.tokenizer("tiny", held_out=0.0, bad_limit=0.1, resume=True, **options)
    assert run.artifact.exists()
    assert "going on after step 2" in (out / "log.txt").read_text()


def test_a_run_that_met_too_many_unreadable_images_goes_on_without_them(
    broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = OPTIONS | {"data": str(broken), "out": str(out), "quiet": True}
    with pytest.raises(DataError):
        tasks.tokenizer("tiny", **options)
    for name in ("a.jpg", "b.png"):
        (broken / "disc" / name).unlink()
    with pytest.raises(DataError, match="2 removed") as caught:
        tasks.tokenizer("tiny", resume=True, **options)
    assert "--accept-changed-data" in caught.value.remedy
    tasks.tokenizer("tiny", resume=True, accept_changed_data=True, **options)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_segmentation_tells_of_images_in_both_parts(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", train=4, validation=2)
    shutil.copy(root / "images/train/00.jpg", root / "images/val/00.jpg")
    shutil.copy(root / "masks/train/00.png", root / "masks/val/00.png")
    out = tmp_path / "run"
    options = OPTIONS | {"steps": 2, "batch": 2, "quiet": True}
    tasks.segment("tiny", data=str(root), out=str(out), **options)
    assert list(named(out / "shared.jsonl")) == ["images/train/00.jpg"]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_tells_them_however_it_reads(parts: Path, cache: bool, workers: int) -> None:
    source = open_source(str(parts))
    loader = Loader(
        source,
        SingleView(config=ViewConfig(), size=(8, 8)),
        channels=3,
        batch=18,
        micro_batch=9,
        seed=0,
        config=LoaderConfig(workers=workers, cache=cache),
    )
    told = [key for batch in loader.batches(0, len(source) // 18) for key in batch.multi_frame]
    assert told == ["train/stripes/01.gif"]
