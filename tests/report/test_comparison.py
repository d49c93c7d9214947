"""Several runs on one page, and curves as files."""

from __future__ import annotations

import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import beit
from beit.cli import main
from beit.errors import ConfigError, ResourceError, RunFolderError
from beit.report.charts import draw
from beit.report.comparison import overlaid, read_runs
from beit.report.markup import percent
from beit.tasks.finished import report_comparison, report_plots
from beit.tasks.task import task_of
from beit.training.run_folder import read_run_config
from segmented_folder import write_pair


@pytest.fixture
def two(runs, tmp_path):
    """A run, and the same with another learning rate and another journal."""
    first, second = (shutil.copytree(runs.tokenizer, tmp_path / name) for name in ("one", "two"))
    config = second / "config.json"
    config.write_text(re.sub(r'"lr": [\d.e-]+', '"lr": 0.0123', config.read_text()))
    journal = second / "metrics.jsonl"
    journal.write_text(re.sub(r'"loss": [\d.]+', '"loss": 7.5', journal.read_text()))
    return [first, second]


def test_a_page_has_all_of_both(two, read, tmp_path):
    page = read(report_comparison(two, tmp_path / "page" / "comparison.html"))
    assert [one["id"] for one in page.all("section")] == [
        "figures", "settings", "curves", "images",
    ]  # fmt: skip
    assert "training.lr" in page.words
    assert "0.0123" in page.words
    assert "tokenizer.codes" not in page.words  # the same in both
    assert "7.5" in page.words
    assert all(image["alt"] and image["src"].startswith("data:") for image in page.all("img"))
    assert len(page.all("img")) >= 6  # images, and what each of the two makes of them
    assert "No images" not in page.words
    assert not page.all("script")
    assert not page.all("link")


def test_a_run_keeps_its_colour_and_only_shared_references_are_drawn(two):
    (two[1] / "metrics.jsonl").write_text(
        re.sub(r'"psnr": [\d.]+', '"other": 1', (two[1] / "metrics.jsonl").read_text())
    )
    compared = read_runs(two, task_of)
    charts = {one.title: one for one in overlaid(compared)}
    loss = charts["Loss · loss"]
    assert [line.label for line in loss.lines] == ["one", "two"]
    assert {value for _, value in loss.lines[1].points} == {7.5}
    other = charts["other · other"]
    assert not other.lines[0].points  # holds the colour of the first free
    codes = charts["Codes in use · in a batch"]
    assert [line.role for line in codes.lines] == ["curve", "curve", "reference"]
    assert "colour-1" in draw(other)
    assert "colour-0" not in draw(other)


def test_runs_of_different_kinds_and_equal_names(runs, tmp_path, read, two):
    same = shutil.copytree(runs.classifier, tmp_path / "elsewhere" / "one")
    page = read(report_comparison([two[0], same, runs.pretraining], tmp_path / "c.html"))
    assert str(same) in page.words
    assert "Visual tokenizer" in page.words
    assert "Classification" in page.words


def test_pre_trainings_side_by_side(runs, tmp_path, read):
    other = shutil.copytree(runs.pretraining, tmp_path / "other")
    page = read(report_comparison([runs.pretraining, other], tmp_path / "c.html"))
    assert page.words.count("tokens right") >= 4
    assert "0 of" in page.words  # options that differ


def test_what_is_no_comparison_is_refused(runs, tmp_path, capsys):
    line = ["report", str(runs.tokenizer), str(runs.classifier)]
    assert main([*line, "--out", str(tmp_path / "page.txt")]) == 2
    assert main([*line, "--plots", str(tmp_path / "plots")]) == 2
    assert main([*line, str(tmp_path / "nothing"), "--out", str(tmp_path / "a.html")]) == 7
    assert main(["report", str(runs.tokenizer), str(runs.tokenizer)]) == 2
    with pytest.raises(ConfigError, match="0 runs"):
        read_runs([], task_of)
    assert not list(tmp_path.iterdir())


def test_curves_as_files(runs, tmp_path):
    written = report_plots(runs.tokenizer, tmp_path / "new" / "plots")
    names = {place.name for place in written}
    assert {"loss.svg", "loss.png", "learning-rate.svg", "codes-in-use.png"} <= names
    assert {place.name for place in (tmp_path / "new" / "plots").iterdir()} == names
    for place in written:
        if place.suffix == ".png":
            with Image.open(place) as image:
                assert image.size == (1000, 640)
        else:
            text = place.read_text()
            ElementTree.fromstring(text)  # noqa: S314 - our own
            assert "step" in text
    before = {place: place.read_bytes() for place in written}
    report_plots(runs.tokenizer, tmp_path / "new" / "plots")
    assert {place: place.read_bytes() for place in written} == before


def test_curves_that_cannot_be_drawn(runs, tmp_path, monkeypatch):
    empty = shutil.copytree(runs.tokenizer, tmp_path / "run")
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="no step"):
        report_plots(empty, tmp_path / "plots")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ResourceError, match=r"beit\[plots\]"):
        report_plots(runs.tokenizer, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_the_commands_of_the_page_on_runs(runs, tmp_path, monkeypatch, read):
    shutil.copytree(runs.pretraining, tmp_path / "runs" / "pretrain")
    shutil.copytree(runs.pretraining, tmp_path / "runs" / "other")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    lines = re.findall(r"^beit (report .*)$", page, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0
    assert Path("comparison.html").exists()
    assert Path("plots/loss.svg").exists()


def answered(run):
    """What a run makes of all the images that it can be asked about."""
    config = read_run_config(run)
    answers = task_of(config).examples(run, config)
    return answers.of(answers.keys)


def test_classifiers_side_by_side(runs, tmp_path, read):
    other = shutil.copytree(runs.classifier, tmp_path / "other")
    page = read(report_comparison([runs.classifier, other], tmp_path / "c.html"))
    shown = page.words.partition("Images side by side")[2]
    assert shown.count("right") + shown.count("wrong") >= 4
    model = beit.load(runs.classifier)
    found = answered(runs.classifier)
    assert len(found) > 2
    for key, one in found.items():
        truth = Path(key).parent.name
        best = model.predict(runs.data / key, top=1)[0]
        assert one.given[0].alt == f"An image of {truth}"
        assert (one.words == "right") == (best.name == truth)
        assert (one.labels[0].name, one.labels[0].is_given) == (best.name, True)


def test_segmenters_side_by_side(runs, tmp_path, read):
    data = tmp_path / "data"
    for index in range(6):
        write_pair(data, "", f"{index}", seed=index, size=(40, 48))
    made = [
        beit.segment(
            "tiny-linear", data=str(data), out=str(tmp_path / f"run{seed}"), split=0.5, steps=2,
            batch=2, seed=seed, warmup_steps=0, workers=0, device="cpu", precision="fp32",
            quiet=True, report=False,
        ).folder
        for seed in (1, 2)
    ]  # fmt: skip
    page = read(report_comparison(made, tmp_path / "c.html"))
    assert len([image for image in page.all("img") if image["alt"] == "Its mask"]) == 3
    assert len([image for image in page.all("img") if "Its labels" in image["alt"]]) == 6
    model = beit.load(made[0])
    for key, one in answered(made[0]).items():
        mask = np.asarray(Image.open(data / "masks" / f"{Path(key).stem}.png"))
        labels = model.segment(data / key)
        right = (labels == mask)[mask != 255].mean()
        assert percent(float(right)) in one.words
    page = read(report_comparison([made[0], runs.classifier], tmp_path / "d.html"))
    assert "have no images in common" in page.words
