"""The page of a run: whole, alone, safe, and there whatever is missing."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from PIL import Image

import beit
from beit.errors import RunFolderError
from beit.evaluation.baselines import TRIVIAL, UNTRAINED
from beit.report.classification import NO_BETTER, TOO_EASY
from beit.report.page import duration_in_words
from beit.tasks.finished import report_run

KINDS = ("tokenizer", "pretraining", "pixels", "classifier")
SECTIONS = {
    "tokenizer": ["next", "curves", "reconstructions", "codes", "settings"],
    "pretraining": ["next", "curves", "predictions", "attention", "settings"],
    "pixels": ["next", "curves", "predictions", "attention", "settings"],
    "classifier": ["next", "curves", "baselines", "classes", "answers", "settings"],
}


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of a run that a test may damage."""

    def make(kind):
        return shutil.copytree(getattr(runs, kind), tmp_path / kind)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_its_sections(runs, read, kind):
    page = read(getattr(runs, kind) / "report.html")  # written when the run ended
    assert [section["id"] for section in page.all("section")] == SECTIONS[kind]
    assert {link["href"][1:] for link in page.all("a")} == set(SECTIONS[kind])
    assert len(page.all("svg")) > 4
    assert "No images" not in page.words
    assert not re.search("From the (train|evaluate) rows", page.words)  # all are foreseen


def test_a_classifier_stands_beside_what_nobody_trained(runs, copy, read, caplog):
    page = read(runs.classifier / "report.html")
    for row in ("this classifier", *TRIVIAL, UNTRAINED, "the most frequent class"):
        assert row in page.words
    before, _, _ = page.words.partition("What next")
    assert re.search(r"a (gain|loss) of", before)  # what was learned comes first
    run = copy("classifier")
    with caplog.at_level("INFO", "beit"):
        report_run(run)
    assert "the best baseline (" in caplog.text
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"baselines": False}))
    report_run(run)
    assert "baselines" not in [
        section["id"] for section in read(run / "report.html").all("section")
    ]


def test_where_every_answer_is_right_longer_training_is_not_advised(tmp_path, caplog):
    images = tmp_path / "images"
    for name, grey in (("dark", 20), ("light", 230)):
        (images / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (32, 32), (grey + number,) * 3).save(images / name / f"{number}.png")
    with caplog.at_level("INFO", "beit"):
        beit.finetune(
            "tiny", data=str(images), out=str(tmp_path / "run"), steps=30, workers=0,
            device="cpu", precision="fp32", rand_augment="",
        )  # fmt: skip
    assert TOO_EASY in caplog.text
    assert NO_BETTER not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_needs_nothing_but_itself(runs, read, kind):
    path = getattr(runs, kind) / "report.html"
    page = read(path)
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"https?://|url\(|@import", path.read_text())
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_and_chart_can_be_told_without_eyes(runs, read, kind):
    page = read(getattr(runs, kind) / "report.html")
    assert page.all("img")
    assert all(image["alt"] for image in page.all("img"))
    charts = [svg for svg in page.all("svg") if "aria-hidden" not in svg]
    assert all(svg["role"] == "img" for svg in charts)
    assert len(page.all("figcaption")) == len(page.all("figure"))
    assert len(page.all("title")) > len(charts)
    tables = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert len(tables) == len(page.all("table"))
    assert all(one["aria-label"] and one["tabindex"] == "0" for one in tables)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_run_gives_the_same_page(runs, kind):
    run = getattr(runs, kind)
    first = (run / "report.html").read_text()
    assert report_run(run).read_text() == first


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_images_the_page_says_so(copy, read, kind):
    run = copy(kind)
    config = json.loads((run / "config.json").read_text())
    config["data"] = "/nowhere/<b>images"
    (run / "config.json").write_text(json.dumps(config))
    page = read(report_run(run))
    assert "No images: there is nothing at /nowhere/<b>images" in page.words
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["next", "curves", "images", "settings"]
    assert not page.all("b") or "images" not in dict(page.all("b")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_under_way_has_its_curves(copy, read, kind):
    run = copy(kind)
    shutil.rmtree(run / "model")
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(rows[:2]) + '\n{"step": 3, "ki')
    page = read(report_run(run))
    assert "This run is not finished: the last step in its log is 2 of" in page.words
    assert "No images" in page.words
    assert page.all("circle")
    assert "--resume" in page.words


def test_a_run_that_was_out_of_patience_is_done(copy, read):
    run = copy(KINDS[-1])
    config = json.loads((run / "config.json").read_text())
    config["training"] |= {"steps": 100, "evaluate_every": 1, "patience": 2}
    (run / "config.json").write_text(json.dumps(config))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "kind": "evaluate", "patience_left": 0.0}\n')
    page = read(report_run(run))
    assert "ended early, at step 50 of 100: for 2 evaluations its score was no better" in page.words
    assert "not finished" not in page.words


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_has_logged_nothing_has_a_page(copy, read, kind):
    run = copy(kind)
    for name in ("model", "checkpoints"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    assert "No step has been logged yet" in read(report_run(run)).words


def test_a_damaged_artifact_leaves_the_rest_of_the_page(copy, read):
    run = copy("classifier")
    (run / "model" / "model.safetensors").write_bytes(b"damaged")
    assert "No images" in read(report_run(run)).words


def test_a_lack_of_memory_leaves_the_rest_of_the_page(copy, read, monkeypatch):
    def fail(*_):
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("beit.report.inputs.load_artifact", fail)
    assert "No images: Unable to allocate 3 GiB" in read(report_run(copy("classifier"))).words


def test_other_classes_than_at_the_time_are_told(copy, read, runs):
    run = copy("classifier")
    config = json.loads((run / "model" / "config.json").read_text())
    config["classes"] = ["one", "two"]
    (run / "model" / "config.json").write_text(json.dumps(config))
    assert "has other classes than the run was trained on" in read(report_run(run)).words


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError):
        report_run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_hostile_names_are_text(runs, read, copy):
    page = read(runs.classifier / "report.html")
    assert "<script>alert(1)<!--&\"'" in page.words
    assert not page.all("script")
    run = copy("tokenizer")
    key = "</code><img src=x onerror=alert(1)>"
    (run / "unreadable.jsonl").write_text(json.dumps({"key": key, "reason": "<i>torn"}) + "\n")
    page = read(report_run(run))
    assert key in page.words
    assert "1 image could not be read" in page.words
    assert not page.all("i") or "torn" not in str(page.all("i"))
    assert all("onerror" not in image for image in page.all("img"))


def test_a_collapsed_tokenizer_is_a_warning(copy, read):
    run = copy("tokenizer")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "kind": "evaluate", "collapsed": 1.0}) + "\n")
    assert "The tokenizer has collapsed" in read(report_run(run)).words


def test_a_loss_above_the_token_entropy_is_told(copy, read):
    run = copy("pretraining")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"step": 4, "kind": "train", "loss": 3.0, "token_entropy": 2.0}) + "\n"
        )
    assert "has not fallen below the entropy" in read(report_run(run)).words


def test_metrics_nobody_foresaw_are_drawn(copy, read):
    run = copy("pretraining")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "kind": "evaluate", "new_score": 3.0}) + "\n")
    assert "new score" in read(report_run(run)).words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "less than a second"), (1.0, "about 1 second"), (59.0, "about 59 seconds"),
     (60.0, "about 1 minute"), (7_140.0, "about 119 minutes"), (7_200.0, "about 2.0 hours")],
)  # fmt: skip
def test_how_long_a_training_took(seconds, words):
    assert duration_in_words(seconds) == words
