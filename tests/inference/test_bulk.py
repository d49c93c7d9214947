"""Many images in a folder of parts: every image once, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import beit
from beit.cli import main
from beit.config.bulk import EmbedConfig, Part, PredictConfig
from beit.errors import ConfigError, DataError, RunFolderError
from beit.inference import bulk
from beit.inference.bulk import Job, open_job, write_folder
from beit.inference.parts import MANIFEST, Parts, rows_in_part
from beit.weights.store import load_artifact, save_artifact

ROWS = 5


@pytest.fixture(scope="module")
def images(class_folders, tmp_path_factory):
    """36 images in three folders, and one file that is none."""
    root = tmp_path_factory.mktemp("bulk") / "images"
    shutil.copytree(class_folders, root)
    (root / "disc" / "x.png").write_bytes(b"rubbish")
    return root


def job(model, images, out, kind=EmbedConfig, **options) -> Job:
    values = {"batch": 2, "part_rows": ROWS, "workers": 0} | options
    return open_job(str(model), [], kind(data=str(images), out=str(out), **values))


def table(folder):
    return pq.read_table(folder).sort_by("position").to_pydict()


@pytest.fixture(scope="module")
def whole(trained, images, tmp_path_factory):
    """The features of all images, written without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "features"
    write_folder(job(trained.pretrained, images, out))
    return out


def test_rows_are_the_answers_of_the_predictor(trained, images, whole):
    rows = table(whole)
    assert rows["position"] == list(range(37))
    assert len(set(rows["key"])) == 37
    (lost,) = [at for at, error in enumerate(rows["error"]) if error]
    assert rows["key"][lost] == "disc/x.png"
    assert rows["features"][lost] is None
    del rows["key"][lost], rows["features"][lost]
    expected = beit.load(trained.pretrained).embed([images / key for key in rows["key"]])
    assert np.allclose(np.array(rows["features"]), expected.numpy(), atol=1e-5)


def test_each_part_says_what_it_is_of(trained, whole):
    files = sorted(whole.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [ROWS] * 7 + [2]
    metadata = pq.read_schema(files[0]).metadata
    assert metadata[b"beit.model"].decode() == beit.load(trained.pretrained).artifact.version()
    assert pq.read_schema(files[0]).field("features").type.list_size == 48
    assert not [file for file in whole.iterdir() if file.name.startswith(".")]


def _killed_at(batch, model, images, out):
    """Run in a process of its own: it ends by a kill in the middle of a part."""
    made = job(model, images, out)
    compute, left = made.output.compute, [batch]

    def fatal(images):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(images)

    made.output.compute = fatal
    write_folder(made)


def test_after_a_kill_it_goes_on_with_other_processes(
    trained, images, whole, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(
        target=_killed_at, args=(8, trained.pretrained, images, out)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
    assert len(kept) == 2
    assert list(out.glob(".writing-*"))

    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        told = write_folder(job(trained.pretrained, images, out)).lines[0]
        assert ("still missing" in told) == (rank != 1)
    assert "features of 37 images, 1 unreadable, in 8 files" in told
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert not list(out.glob(".writing-*"))
    assert table(out) == table(whole)


def test_who_interrupts_is_told_how_to_go_on(trained, images, tmp_path, caplog):
    def interrupt(images):
        raise KeyboardInterrupt

    stopped = job(trained.pretrained, images, tmp_path / "out", format="jsonl")
    stopped.output.compute = interrupt
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        write_folder(stopped)
    assert "the same command continues" in caplog.text


def test_a_finished_folder_is_left_as_it_is(trained, images, whole):
    before = {file: file.stat().st_mtime_ns for file in whole.iterdir()}
    again = job(trained.pretrained, images, whole, part_rows=None)
    again.output.compute = None  # it would fail
    assert "37 images" in write_folder(again).lines[0]
    assert {file: file.stat().st_mtime_ns for file in whole.iterdir()} == before


def test_rows_of_something_else_are_refused(trained, images, whole, tmp_path):
    other = tmp_path / "images"
    shutil.copytree(images, other)
    (other / "disc" / "00.png").unlink()
    cases = [
        (job(trained.classifier, images, whole), "rows of another model"),
        (job(trained.pretrained, other, whole), "rows of other images"),
        (job(trained.pretrained, images, whole, block=0), "with block 3, and now it is 0"),
        (job(trained.pretrained, images, whole, part_rows=7), "with part_rows 5, and now it is 7"),
        (job(trained.pretrained, images, whole, numbers="float16"), "with numbers float32"),
    ]
    for made, problem in cases:
        with pytest.raises(RunFolderError, match=problem):
            write_folder(made)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(RunFolderError, match="not empty"):
        write_folder(job(trained.pretrained, images, tmp_path / "full"))
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_classes_and_their_summary(trained, images, tmp_path, capsys):
    words = ["predict", str(trained.classifier), "--data", str(images), "--workers", "0"]
    for form, times in (("parquet", 1), ("jsonl", 2)):
        for _ in range(times):  # the second time all rows are there already
            place = ["--out", str(tmp_path / form), "--format", form]
            assert main([*words, *place, "--top", "2"]) == 3
        said = capsys.readouterr()
        assert "error: not answered, as they cannot be read: 'disc/x.png'" in said.err
        rows = table(tmp_path / form) if form == "parquet" else _lines(tmp_path / form)
        answered = [at for at, error in enumerate(rows["error"]) if not error]
        assert len(answered) == 36
        predictor = beit.load(trained.classifier)
        for at in answered[::9]:
            labels = predictor.predict(images / rows["key"][at], top=2)
            assert rows["classes"][at] == [label.name for label in labels]
            assert rows["class_ids"][at] == [predictor.classes.index(one.name) for one in labels]
            found = [label.probability for label in labels]
            assert rows["probabilities"][at] == pytest.approx(found, abs=1e-5)
        for name in {rows["classes"][at][0] for at in answered}:
            number = sum(rows["classes"][at][0] == name for at in answered)
            assert f"  {name}: {number}\n" in said.out
        assert "  unreadable: " in said.out


def _lines(folder):
    files = sorted(folder.glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    names = ("key", "classes", "class_ids", "probabilities", "error")
    return {name: [row.get(name) for row in rows] for name in names}


def test_tokens_and_half_the_bytes(trained, images, tmp_path):
    write_folder(job(trained.tokenizer, images / "tiles", tmp_path / "tokens"))
    rows = table(tmp_path / "tokens")
    files = [images / "tiles" / key for key in rows["key"]]
    assert rows["tokens"] == beit.load(trained.tokenizer).tokens(files).tolist()
    write_folder(job(trained.pretrained, images / "tiles", tmp_path / "half", numbers="float16"))
    assert str(pq.read_schema(next(tmp_path.glob("half/*.parquet"))).field("features").type) == (
        "fixed_size_list<element: halffloat>[48]"
    )


def test_data_in_any_form(trained, images, tmp_path):
    """A list, shards and a split: what training takes."""
    (tmp_path / "list.csv").write_text(
        "image,label\n" + "".join(f"{images}/tiles/{n:02}.png,tiles\n" for n in range(4))
    )
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for number in range(4):
            shard.add(images / "tiles" / f"{number:02}.png", f"{number}.png")
    for split in ("train", "val"):
        shutil.copytree(images / "tiles", tmp_path / "divided" / split / "tiles")
    cases = {"list.csv": (4, {}), "0.tar": (4, {}), "divided": (24, {})}
    for name, (number, options) in cases.items():
        out = tmp_path / f"of-{name.partition('.')[0]}"
        write_folder(job(trained.pretrained, tmp_path / name, out, **options))
        assert len(set(table(out)["key"])) == number, name
    write_folder(job(trained.pretrained, tmp_path / "divided", tmp_path / "val", split="val"))
    assert len(table(tmp_path / "val")["key"]) == 12


@pytest.mark.parametrize("images", [1, 4, 36, 37, 1000])
@pytest.mark.parametrize("total", [1, 2, 3, 16])
def test_parts_are_disjoint_and_complete(tmp_path, images, total):
    plan = {"images": images, "part_rows": 4, "format": "jsonl"}
    parts = Parts(tmp_path, plan, {})
    seen = [
        position
        for number in range(1, total + 1)
        for part in parts.missing(Part(number, total))
        for position in parts.positions(part)
    ]
    assert sorted(seen) == list(range(images))


def test_the_part_of_a_process(monkeypatch):
    assert EmbedConfig(part="3/16").own_part() == Part(3, 16)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    assert EmbedConfig().own_part() == Part(6, 8)
    assert EmbedConfig(part="3/16").own_part() == Part(22, 128)
    for wrong in ("0/4", "5/4", "1", "a/b"):
        with pytest.raises(ConfigError, match="part is"):
            EmbedConfig(part=wrong)


def test_files_are_neither_tiny_nor_huge():
    assert rows_in_part(10) == rows_in_part(200_000) == 256
    assert rows_in_part(1_000_000) == 1000
    assert rows_in_part(100_000_000) == 16_384


def test_two_commands_do_not_write_one_part(trained, images, tmp_path):
    made = job(trained.pretrained, images, tmp_path / "out")
    compute, refused = made.output.compute, []

    def both(batch):
        if not refused:
            with pytest.raises(RunFolderError, match="in use") as error:
                write_folder(job(trained.pretrained, images, tmp_path / "out"))
            refused.append(error)
        return compute(batch)

    made.output.compute = both
    write_folder(made)
    assert len(refused) == 1


def test_nothing_that_can_be_read(trained, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(7):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="no image could be read"):
        write_folder(job(trained.pretrained, tmp_path / "images", tmp_path / "out"))
    assert table(tmp_path / "out")["features"] == [None] * 7


def test_images_come_from_one_place(trained, images):
    with pytest.raises(ConfigError, match="one by one and with --data"):
        open_job(str(trained.pretrained), [str(images)], EmbedConfig(data=str(images)))
    with pytest.raises(ConfigError, match="option of --data"):
        EmbedConfig(split="val")
    with pytest.raises(ConfigError, match="without out"):
        PredictConfig(format="parquet")


def test_progress_comes_more_and_more_seldom(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bulk.time, "monotonic", lambda: clock[0])
    progress = bulk.Progress(1_000)
    with caplog.at_level(logging.INFO, "beit"):
        for _ in range(999):
            clock[0] += 1
            progress.add(1, 3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "2 of 1,000 images, 1 per second, 16m38s left, 3 unreadable"
    assert 10 < len(lines) < 30


def test_a_folder_names_what_it_holds(whole):
    plan = json.loads((Path(whole) / MANIFEST).read_text())
    assert plan["columns"] == ["features"]
    assert plan["images"] == 37
    assert plan["part_rows"] == ROWS


def test_a_summary_counts_images_without_any_label(trained, images, tmp_path):
    artifact = load_artifact(trained.classifier)
    names = artifact.details.classes
    thresholds = (0.0, *[1.0] * (len(names) - 1))
    for kind, limits in (("some", thresholds), ("none", (1.0,) * len(names))):
        details = replace(artifact.details, multi_label=True, thresholds=limits)
        place = save_artifact(tmp_path / kind, artifact.model, details)
        written = write_folder(job(place, images, tmp_path / f"{kind}-out", PredictConfig))
        expected = f"  {names[0]}: 36" if kind == "some" else "  no label: 36"
        assert [line for line in written.lines if line.endswith(": 36")] == [expected]
