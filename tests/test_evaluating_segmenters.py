"""`beit evaluate` of segmenters: against loops over windows and pixels, on every layout."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import beit
from beit.cli import main
from beit.config import EvaluateConfig, InferenceConfig, LinearHeadConfig
from beit.data.class_names import ADE20K_CLASSES, VOC_CLASSES
from beit.errors import ConfigError, DataError
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.tasks.held_out import NOTE, UNKNOWN
from beit.terminal import print_tables
from beit.weights.store import Details, save_artifact
from encoding import animate
from miniature import BACKBONE
from reference import disturb
from segmented_folder import NAMES, write_folder, write_pair


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", train=2, validation=3)


@pytest.fixture
def saved(tmp_path):
    """Keeps a segmenter that answers with all of its classes, with these details."""

    def save(classes=NAMES, **inference):
        torch.manual_seed(0)
        model = Segmenter(BACKBONE, len(classes), LinearHeadConfig())
        disturb(model)
        details = Details(classes=classes, inference=InferenceConfig(**inference))
        return str(save_artifact(tmp_path / f"model-{len(classes)}", model, details))

    return save


def measured(model, data, **options):
    return beit.evaluate(model, data=str(data), workers=0, **options)


def scores(found):
    return found.miou, found.mean_accuracy, found.pixel_accuracy


def through_windows(model, pixels, window=16, step=10):
    """Mean logits of the windows that see a pixel, window by window."""
    height, width = pixels.shape[-2:]
    total, count = torch.zeros(1, 3, height, width), torch.zeros(height, width)
    for top in sorted({min(start, height - window) for start in range(0, height, step)}):
        for left in sorted({min(start, width - window) for start in range(0, width, step)}):
            place = slice(top, top + window), slice(left, left + window)
            total[0][:, *place] += model(pixels[:, :, *place])[0]
            count[place] += 1
    return total / count


def at_two_scales_and_mirrored(model, pixels):
    """Mean probabilities of the whole image, of it at half its size, and of both mirrored."""
    height, width = pixels.shape[-2:]
    half = F.interpolate(pixels, (20, 4 * round(width / 8)), mode="bilinear", antialias=True)
    found = []
    for scaled in (pixels, half):
        for turned in (scaled, scaled.flip(-1)):
            logits = model(turned)
            logits = logits if turned is scaled else logits.flip(-1)
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            found.append(logits.softmax(dim=1))
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (through_windows, {}),
        (through_windows, {"batch": 3}),
        (at_two_scales_and_mirrored, {"whole": True, "scales": (1.0, 0.5), "flip": True}),
    ],
    ids=["windows", "windows in threes", "scales"],
)
@torch.no_grad()
def test_scores_are_those_of_plain_loops(saved, data, answer, options):
    place = saved()
    found = measured(place, data, **options)
    model = beit.load(place).model
    pairs = []
    for file in sorted((data / "images" / "val").iterdir()):
        image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
        predicted = answer(model, model.backbone.normalise(image))[0].argmax(dim=0)
        labels = np.array(Image.open(data / "masks" / "val" / f"{file.stem}.png"))
        pairs += zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True)
    kept = [(p, t) for p, t in pairs if t != 255]
    assert (found.images, found.pixels, found.ignored_pixels) == (3, len(pairs) - 3, 3)
    assert len({p for p, _ in kept}) == 3  # else the test says little
    iou, accuracy = [], []
    for label, score in enumerate(found.classes):
        both = sum(p == t == label for p, t in kept)
        true = sum(t == label for _, t in kept)
        iou.append(both / sum(label in pair for pair in kept))
        accuracy.append(both / true)
        assert (score.name, score.pixels) == (NAMES[label], true)
        assert (score.iou, score.accuracy) == pytest.approx((iou[-1], accuracy[-1]), abs=1e-9)
    right = sum(p == t for p, t in kept) / len(kept)
    assert scores(found) == pytest.approx((sum(iou) / 3, sum(accuracy) / 3, right), abs=1e-6)


GIVEN = {
    "whole": {"whole": True},
    "window": {"window": (20, 24)},
    "stride": {"stride": (16, 16)},
    "scales": {"scales": (1.0, 1.5)},
    "flip": {"flip": True},
    "short_side": {"short_side": 24},
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_model_says_how_images_are_read_unless_an_option_does(saved, data, name):
    plain = measured(saved(), data)
    requested = measured(saved(), data, **GIVEN[name])
    carried = measured(saved(**GIVEN[name]), data)
    assert scores(requested) == scores(carried) != scores(plain)
    assert requested.inference == carried.inference


def test_an_option_stands_over_what_the_model_carries(saved, data):
    plain = measured(saved(), data)
    whole = saved(whole=True)
    assert measured(whole, data, window=(16, 16)).inference == plain.inference
    assert measured(whole, data, stride=(10, 10)).inference == plain.inference
    assert measured(saved(short_side=24), data, short_side=0).inference == plain.inference
    windowed = saved(window=(20, 24), stride=(3, 5))
    assert measured(windowed, data, whole=True).inference == InferenceConfig(whole=True)
    assert measured(windowed, data, window=(16, 16)).inference == plain.inference


# -- parts and layouts ---------------------------------------------------------------------------


def test_parts(saved, data):
    model = saved()
    validation, train = (measured(model, data, split=part) for part in ("validation", "train"))
    assert (validation.images, train.images) == (3, 2)
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "val", data / kind / "test")
    assert scores(measured(model, data, split="test")) == scores(validation)
    with pytest.raises(DataError, match="none called tset"):
        measured(model, data, split="tset")
    flat = data.with_name("flat")
    for kind in ("images", "masks"):
        shutil.copytree(data / kind / "val", flat / kind)
    assert scores(measured(model, flat)) == scores(validation)
    (data / "masks" / "test").rename(data / "masks" / "other")
    with pytest.raises(DataError, match="none called test; images/test/ has no masks"):
        measured(model, data, split="test")


def test_ade20k_and_voc(saved, data, tmp_path, monkeypatch, capsys):
    """The same images in both layouts, for models with the same names as the layouts."""
    (data / "classes.txt").unlink()
    found = measured(saved(ADE20K_CLASSES), data, layout="ade20k")
    occurring = {score.name for score in found.classes if score.accuracy is not None}
    assert occurring == {"wall", "building"}  # labels 1 and 2; 0 is ignored
    assert found.ignored_pixels > 3
    assert all(score.pixels == 0 for score in found.classes if score.accuracy is None)
    assert all(score.iou is None for score in found.classes if score.accuracy is None)
    there = [score.iou for score in found.classes if score.iou is not None]
    assert found.miou_of_masks == pytest.approx(sum(there) / 2)
    elsewhere = [score for score in found.classes if score.iou is None and score.predicted]
    assert elsewhere  # which count as 0, as elsewhere
    assert found.miou == pytest.approx(sum(there) / (2 + len(elsewhere)))
    rows = found.rows()
    assert rows["classes not in the masks"] == "148 of 150"
    assert rows[f"  without the {len(elsewhere)} only predicted"]
    monkeypatch.setenv("COLUMNS", "120")
    print_tables(found.class_table())
    table = capsys.readouterr().out
    assert "(worst first)" in table
    assert "not in the masks" in table

    voc = tmp_path / "voc"
    for kind, name in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        shutil.copytree(data / kind / "val", voc / name)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "trainval.txt").write_text("01\n")
    found = measured(saved(VOC_CLASSES), voc, layout="voc", split="trainval")
    assert found.images == 1
    assert found.classes[0].name == "background"


def test_a_legend_is_read_in_the_order_of_the_model(saved, data):
    before = measured(saved(), data)
    (data / "classes.txt").unlink()
    legend = {"#0a0000": "bar", "#000b00": "ground", "#00000c": "disc", "#ffffff": None}
    (data / "legend.json").write_text(json.dumps(legend))
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, 2, 255]] = (0, 11, 0), (0, 0, 12), (10, 0, 0), (255, 255, 255)
    for place in (data / "masks").rglob("*.png"):
        Image.fromarray(colours[np.asarray(Image.open(place))]).save(place)
    assert measured(saved(), data).classes == before.classes


def test_unreadable_images_are_named_and_left_out(saved, data):
    (data / "images" / "val" / "01.jpg").write_bytes(b"rubbish")
    found = measured(saved(), data)
    assert found.images == 2
    assert [image.key for image in found.unreadable] == ["images/val/01.jpg"]


def test_of_images_with_several_pages_the_first_is_taken_and_they_are_named(saved, data):
    animate(data / "images" / "val" / "01.jpg")
    found = measured(saved(), data)
    assert found.images == 3
    assert found.several == ("images/val/01.gif",)


def test_of_the_data_of_the_run_only_what_it_held_out_is_measured(tmp_path):
    """The numbers are those of the run's own evaluation."""
    data = tmp_path / "data"
    for index in range(6):
        write_pair(data, "", f"{index}", seed=index, size=(40, 36 + 8 * (index % 2)))
    (data / "classes.txt").write_text("\n".join(NAMES))
    run = beit.segment(
        "tiny-linear", data=str(data), out=str(tmp_path / "run"), split=0.5, steps=2, batch=2,
        warmup_steps=0, workers=0, device="cpu", precision="fp32", quiet=True, report=False,
    )  # fmt: skip
    found = measured(str(run.folder), data)
    assert found.notes[0] == NOTE
    assert found.images == 3
    assert sum(found.account.images.values()) == 3
    assert scores(found) == pytest.approx(
        [run.metrics[name] for name in ("miou", "mean_accuracy", "pixel_accuracy")]
    )
    assert measured(str(run.folder), data, split="test").images == 6
    shutil.copytree(data, tmp_path / "copied")
    alone = shutil.copytree(run.artifact, tmp_path / "alone")
    for model in (run.folder, alone):
        found = measured(str(model), tmp_path / "copied")
        assert (found.images, found.notes[0]) == (3, NOTE)
    write_pair(data, "", "new", seed=7, size=(40, 36))
    found = measured(str(run.folder), data)
    assert found.images == 4
    assert found.notes[0] == "the run was trained on 3 other images here, which are left out"
    assert measured(str(alone), data).notes[0] == UNKNOWN


# -- classes -------------------------------------------------------------------------------------


def test_classes_without_names_only_have_to_be_as_many(saved, data):
    named = measured(saved(), data)
    model = saved(tuple(f"class {index}" for index in range(3)))
    assert scores(measured(model, data)) == scores(named)
    (data / "classes.txt").write_text("0\n1\n2")
    assert scores(measured(saved(), data)) == scores(named)
    (data / "classes.txt").unlink()
    assert measured(saved(), data).classes == named.classes
    (data / "classes.txt").write_text("ground\ndisc \nbar")
    assert measured(saved(), data).classes == named.classes


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("ground\ndisk\nbra", "label 1 is 'disk' in .*, and 'disc' in the model"),
        ("ground\ndisc\nbar\nhole", "has 4 classes, the model 3"),
        ("0\n1", "has 2 classes, the model 3"),
    ],
)
def test_other_classes_are_refused(saved, data, listed, words):
    (data / "classes.txt").write_text(listed)
    with pytest.raises(DataError, match=words):
        measured(saved(), data)


def test_labels_beyond_the_model_s_classes_are_refused(saved, data):
    (data / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"holds label 2 on .* the 2 classes end with 1"):
        measured(saved(("a", "b")), data)


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"crop": 0.9}, "crop was given, and .* is a segmenter"),
        ({"size": (16, 16)}, "size was given"),
        ({"labels": "map.json"}, "labels was given"),
        ({"whole": True, "stride": (4, 4)}, "whole was requested, and window None with stride"),
        ({"whole": True, "batch": 2}, "batch 2 counts windows"),
        ({"window": (18, 16)}, "window 18 is not a multiple of 4"),
        ({"stride": (17, 16)}, "does not fit window"),
        ({"scales": ()}, "scales is"),
        ({"batch": 0}, "batch is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"scale": 2.0}, "no option 'scale'"),
    ],
    ids=str,
)
def test_options_that_cannot_be(saved, data, options, problem):
    with pytest.raises(ConfigError, match=problem):
        beit.evaluate(saved(), data=str(data), **options)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"scales": (1.0, 2.0)}, "scales"), ({"whole": True}, "whole"), ({"layout": "voc"}, "layout")],
    ids=str,
)
def test_what_only_a_segmenter_takes_is_refused_for_a_classifier(data, tmp_path, options, name):
    place = save_artifact(tmp_path / "model", Classifier(BACKBONE, 3), Details(classes=NAMES))
    with pytest.raises(ConfigError, match=f"{name} was given, and .* is a classifier"):
        beit.evaluate(str(place), data=str(data), **options)


def test_what_neither_classifies_nor_segments_is_refused(data, tmp_path):
    place = save_artifact(tmp_path / "model", MaskedImageModel(BACKBONE, 4), Details())
    with pytest.raises(ConfigError, match="holds a masked model, which neither"):
        measured(str(place), data)
    with pytest.raises(ConfigError, match="no images were given"):
        beit.evaluate(str(place))


def test_a_config_can_be_given_and_changed(saved, data):
    config = EvaluateConfig(data=str(data), split="train", workers=0)
    assert beit.evaluate(saved(), config).images == 2
    assert beit.evaluate(saved(), config, split="val").images == 3
    assert replace(config, workers=None).loader().workers is None


# -- the command ---------------------------------------------------------------------------------


def test_the_command(saved, data, capsys):
    model = saved()
    words = ["evaluate", model, "--data", str(data), "--workers", "0"]
    assert main([*words, "--format", "json"]) == 0
    output = json.loads(capsys.readouterr().out)
    found = measured(model, data)
    assert (output["miou"], output["pixels"], output["images"]) == (found.miou, found.pixels, 3)
    assert output["inference"]["window"] == [16, 16]
    assert [score["name"] for score in output["classes"]] == list(NAMES)
    assert all(math.isfinite(score["iou"]) for score in output["classes"])

    assert main([*words, "--scales", "1", "1.5", "--flip", "--window", "20", "--stride", "8"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "window 20 x 20, stride 8 x 8" in table
    assert "1, 1.5, mirrored too" in table
    assert "mean IoU of 3 classes" in table
    assert "(worst first)" in table
    assert main([*words, "--whole", "--short-side", "24"]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "at once" in table
    assert "1, of a shorter side of 24" in table

    assert main([*words, "--labels", "map.json"]) == 2
    output = capsys.readouterr().err
    assert "labels was given" in output
    assert "only a classifier takes it" in output


def test_the_data_of_a_run_are_read_as_the_run_read_them(tmp_path):
    """Binary masks of data whose masks hold three labels, with names for them."""
    data = write_folder(tmp_path / "data", train=4)
    run = beit.segment(
        "tiny-linear", data=str(data), out=str(tmp_path / "run"), mask_values="binary", steps=2,
        warmup_steps=1, workers=0, device="cpu", quiet=True, report=False,
    )  # fmt: skip
    for model in (run.folder, run.folder / "model"):
        found = measured(model, data)
        assert {each.name for each in found.classes} == {"background", "object"}
        assert sum(each.pixels for each in found.classes) == found.pixels
    shutil.copytree(data, tmp_path / "others")
    with pytest.raises(DataError, match="classes"):
        measured(run.folder, tmp_path / "others")
