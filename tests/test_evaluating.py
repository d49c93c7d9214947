"""`beit evaluate` of classifiers: the same numbers as the run's own evaluation and an oracle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

import beit
from beit.cli import main
from beit.config import HeadConfig
from beit.errors import ConfigError, DataError
from beit.models.heads import Classifier, MaskedImageModel
from beit.tasks.finished import evaluate
from beit.tasks.held_out import NOTE, UNKNOWN
from beit.terminal import print_tables
from beit.training.dataset_manifest import learned_names, load_names
from beit.training.run_folder import RunFolder
from beit.weights.store import Details, load_artifact, save_artifact
from encoding import animate
from miniature import BACKBONE

CLASSES = ("disc", "stripes", "tiles")


@pytest.fixture
def classifier(tmp_path):
    model = Classifier(BACKBONE, 3, HeadConfig(head_scale=50.0))
    return str(save_artifact(tmp_path / "model", model, Details(classes=CLASSES, crop=0.8)))


@pytest.fixture
def data(tmp_path, class_folders):
    """Validation beside training, with one file that is no image and one that holds two."""
    shutil.copytree(class_folders, tmp_path / "data" / "valid")
    (tmp_path / "data" / "train").mkdir()
    (tmp_path / "data" / "valid" / "disc" / "broken.png").write_bytes(b"rubbish")
    animate(tmp_path / "data" / "valid" / "tiles" / "02.png")
    return tmp_path / "data"


def test_scores_are_those_of_the_predictor(classifier, data):
    found = evaluate(classifier, data=str(data), batch=7, workers=0)
    predictor = beit.load(classifier)
    files = [file for file in sorted(data.rglob("*.*")) if file.name != "broken.png"]
    odds = predictor.probabilities(files)
    targets = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    right = odds.argmax(dim=1) == targets
    assert found.data == str(data / "valid")
    assert (found.images, found.left_out, found.notes) == (36, 0, ())
    assert [image.key for image in found.unreadable] == ["disc/broken.png"]
    assert found.several == ("tiles/02.gif",)
    assert found.top1 == pytest.approx(float(right.float().mean()))
    assert found.negative_log_likelihood == pytest.approx(
        float(-odds[range(36), targets].log().mean()), abs=1e-5
    )
    for score in found.classes:
        chosen = targets == CLASSES.index(score.name)
        assert score.images == 12
        assert score.accuracy == pytest.approx(float(right[chosen].float().mean()))


def test_a_class_without_images_is_not_answered_wrongly(classifier, data, monkeypatch, capsys):
    """It counts in no mean, and no row calls it 0."""
    whole = evaluate(classifier, data=str(data), workers=0)
    shutil.rmtree(data / "valid" / "tiles")
    found = evaluate(classifier, data=str(data), workers=0)
    assert [score.name for score in found.classes] == list(CLASSES)
    assert [(score.accuracy, score.images) for score in found.classes if score.name == "tiles"] == [
        (None, 0)
    ]
    there = [score.accuracy for score in found.classes if score.accuracy is not None]
    assert there == [score.accuracy for score in whole.classes if score.name != "tiles"]
    assert found.mean_per_class == pytest.approx(sum(there) / 2)
    assert found.rows()["classes without images"] == "1 of 3"
    monkeypatch.setenv("COLUMNS", "120")
    print_tables(found.class_table())
    table = capsys.readouterr().out
    assert "(worst first)" in table
    assert "no images" in table
    assert "0.0%" not in table.split("tiles")[1]


def test_view_and_flip(classifier, data):
    plain = evaluate(classifier, data=str(data), workers=0)
    assert (plain.size, plain.crop) == ((16, 16), 0.8)
    for options in ({"flip": True}, {"crop": 1.0}, {"size": (16, 24)}):
        other = evaluate(classifier, data=str(data), workers=0, **options)
        assert other.negative_log_likelihood != plain.negative_log_likelihood
        assert other.images == 36


def test_a_label_map_decides(classifier, data, tmp_path):
    labels = tmp_path / "map.json"
    labels.write_text(json.dumps({"disc": 0, "stripes": 0, "tiles": []}))
    found = evaluate(classifier, data=str(data), labels=str(labels), workers=0)
    assert (found.top1, found.negative_log_likelihood) == (1.0, 0.0)  # the only answer left
    assert (found.images, found.left_out) == (24, 12)


def test_parts(classifier, data):
    found = evaluate(classifier, data=str(data), workers=0)
    part = str(data / "valid")
    assert found.data == part
    alone = evaluate(classifier, data=part, workers=0)
    assert replace(alone, account=found.account) == found
    assert alone.account.images == {"": 37}
    assert found.account.images == {"val": 37}
    assert found.account.classes["val"] == alone.account.classes[""]
    with pytest.raises(DataError, match="none called test"):
        evaluate(classifier, data=str(data), split="test")
    with pytest.raises(DataError, match="nothing at"):
        evaluate(classifier, data="nowhere")


def test_shards_are_measured_like_the_files_in_them(classifier, data, tmp_path):
    found = evaluate(classifier, data=str(data / "valid"), workers=0)
    packed = tmp_path / "packed"
    assert main(["data", "pack", str(data / "valid"), str(packed)]) == 0
    again = evaluate(classifier, data=str(packed), workers=0)
    assert again.top1 == found.top1
    assert again.classes == found.classes


@pytest.mark.parametrize(
    "options", [{"size": (10, 16)}, {"crop": 0.0}, {"crop": 1.5}, {"batch": 0}], ids=str
)
def test_wrong_options(classifier, data, options):
    with pytest.raises(ConfigError):
        evaluate(classifier, data=str(data), workers=0, **options)


def test_a_backbone_alone_is_refused(data, tmp_path):
    place = save_artifact(tmp_path / "masked", MaskedImageModel(BACKBONE, 4), Details())
    with pytest.raises(ConfigError, match="holds a masked model"):
        evaluate(str(place), data=str(data))


def test_images_listed_twice_are_refused(classifier, data):
    file = data / "valid" / "list.csv"
    file.write_text("disc/00.png,disc\ndisc/00.png,tiles\n")
    with pytest.raises(DataError, match="two different labels: lines 1 and 2"):
        evaluate(classifier, data=str(file), workers=0)


def test_the_command(classifier, data, capsys):
    words = ["evaluate", classifier, "--data", str(data)]
    assert main([*words, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unreadable"].keys() == {"disc/broken.png"}
    assert told["several"] == ["tiles/02.gif"]
    assert [score["name"] for score in told["classes"]] == list(CLASSES)
    assert main([*words, "--size", "24", "--flip"]) == 0
    table = capsys.readouterr().out
    assert "unreadable: disc/broken.png" in table
    assert "first of several in its file: tiles/02.gif" in table
    assert "24 x 24, crop 0.8, mirrored too" in table


def test_of_the_data_of_the_run_only_what_it_held_out_is_measured(trained, class_folders, data):
    """The numbers are those of the run's own evaluation."""
    run = str(trained.classifier)
    own = load_artifact(run).details.trained["metrics"]
    for place in (run, f"{run}/model"):
        found = evaluate(place, data=str(class_folders), workers=0)
        assert found.notes == (NOTE,)
        assert found.images == 6  # of 36
        assert found.account.images == {"measured": 6}
        assert found.account.classes == {"measured": {"disc": 2, "stripes": 2, "tiles": 2}}
        assert "  measured: 6 images in 3 classes: disc 2" in "\n".join(found.account.lines())
        assert found.top1 == pytest.approx(own["top1"])
        assert found.negative_log_likelihood == pytest.approx(own["loss"], rel=1e-5)
    assert evaluate(run, data=str(class_folders), split="test", workers=0).account.images == {
        "": 36
    }
    assert evaluate(run, data=str(data), workers=0).notes == ()


@pytest.fixture
def here(trained, class_folders, tmp_path):
    """The run of a classifier and its images, copied side by side."""
    shutil.copytree(trained.classifier, tmp_path / "runs" / "classifier")
    shutil.copytree(class_folders, tmp_path / "copied")
    return tmp_path


@pytest.mark.parametrize("kept", ["runs/classifier", "alone"])
def test_images_that_a_model_learned_from_are_recognised_in_a_copy(here, monkeypatch, kept):
    """Of the run or of the artifact alone, from another folder."""
    shutil.copytree(here / "runs" / "classifier" / "model", here / "alone")
    monkeypatch.chdir(here / "runs")
    found = evaluate(f"../{kept}", data="../copied", workers=0)
    assert (found.images, found.notes) == (6, (NOTE,))


def test_an_artifact_alone_cannot_tell_changed_images(here):
    shutil.copytree(here / "runs" / "classifier" / "model", here / "alone")
    (here / "copied" / "disc" / "00.png").unlink()
    found = evaluate(str(here / "alone"), data=str(here / "copied"), workers=0)
    assert (found.images, found.notes) == (35, (UNKNOWN,))


def moved(run, **changes):
    """The run, with another place in its config."""
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | changes))
    return str(run)


def test_of_changed_images_those_that_the_run_learned_from_are_left_out(here, monkeypatch):
    """Held out anew, some of them would be among those it learned from."""
    run = moved(here / "runs" / "classifier", data="copied", out="runs/classifier")
    monkeypatch.chdir(here / "runs")  # the paths of the run count from where it was started
    for number in range(6):
        shutil.copy(here / "copied/disc/00.png", here / f"copied/disc/new-{number}.png")
    learned = learned_names(RunFolder(here / "runs" / "classifier"))
    (here / "copied" / sorted(learned)[0]).unlink()
    found = evaluate(run, data="../copied", workers=0)
    assert found.images == 12  # held out, or new
    assert found.notes == ("the run was trained on 29 other images here, which are left out",)
    assert found.account.images == {"measured": 12}
    assert found.account.classes["measured"]["disc"] == 8
    found = evaluate(run, data="../copied", split="test", workers=0)
    assert found.images == 41
    assert found.notes == ("the run was trained on 29 of these 41 images",)
    for number in range(6):
        (here / f"copied/disc/new-{number}.png").unlink()
    (here / "copied").rename(here / "other")
    found = evaluate(run, data=str(here / "other"), workers=0)
    assert found.images == 35
    assert [note[:28] for note in found.notes] == ["29 of these 35 images have t"]


def test_images_learned_from_before_they_were_changed_are_left_out(here):
    """The run went on with other images, of which it now holds out some that it learned from."""
    options = {
        "out": str(here / "run"), "data": str(here / "copied"), "workers": 0, "quiet": True,
        "report": False, "device": "cpu", "batch": 4, "warmup_steps": 0, "steps": 1,
    }  # fmt: skip
    beit.finetune("tiny", **options)
    folder = RunFolder(here / "run")
    before = learned_names(folder)
    for name in ("disc/02.png", "disc/07.png"):  # both were held out: two others now are
        assert name not in before
        (here / "copied" / name).unlink()
    beit.finetune("tiny", resume=True, accept_changed_data=True, **options)
    assert learned_names(folder) == before
    assert len(load_names(folder.images)) == 28
    for model, note in ((folder.model, "the run was trained on 30 other"), (folder.last, NOTE)):
        found = evaluate(str(model), data=str(here / "copied"), workers=0)
        assert found.images == 4
        assert found.notes[0].startswith(note)


def test_what_a_run_held_out_is_not_guessed(trained, class_folders, tmp_path):
    """Its config names code that is not loaded: which images it trained on is not known."""
    run = shutil.copytree(trained.classifier, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["augment"]["type"] = "antigravity:Flips"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="--import antigravity"):
        evaluate(str(run), data=str(class_folders), workers=0)
