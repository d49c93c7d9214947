"""`beit segment` from a folder of masks to label maps, with the commands a user types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import beit
from beit.cli import main
from beit.config import InferenceConfig, LinearHeadConfig, SegmentRunConfig
from beit.config.model import HALF, IMAGENET_MEAN, IMAGENET_STD
from beit.config.tree import override
from beit.errors import ConfigError, DataError
from beit.models.segmenter import Segmenter
from beit.recipes import RECIPES, find_recipe
from beit.recipes.segment import for_segmenting
from beit.tasks.segmenting import _with_shared_statistics
from beit.training.distributed import Processes
from beit.weights.store import load_artifact
from segmented_folder import NAMES, write_folder

QUICK = ["--workers", "0", "--device", "cpu", "--precision", "fp32"]


def pixels(place: Path) -> np.ndarray:
    """What an image file holds: of a label map, the labels."""
    with Image.open(place) as image:
        return np.array(image)


def test_from_masks_to_label_maps(trained, tmp_path, capsys):
    """Started from a pre-trained backbone, resumed, and used."""
    data, run, out = write_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    names = (*NAMES, "kerb")  # which no mask has
    (data / "classes.txt").write_text("\n".join(names))
    command = ["segment", "tiny", "--data", str(data), "--out", str(run), "--init",
               str(trained.pretrained), "--steps", "60", "--lr", "3e-3", "--short-side", "40",
               "--warmup-steps", "2", *QUICK]  # fmt: skip
    assert main(command) == 0, capsys.readouterr().err
    output = capsys.readouterr().out
    assert "evaluation: miou" in output
    assert main([*command, "--resume", "--quiet"]) == 0

    artifact = load_artifact(run)
    assert artifact.kind == "segmenter"
    assert artifact.details.classes == names
    assert artifact.details.inference == InferenceConfig(short_side=40)
    assert artifact.details.trained["metrics"]["miou"] > 0.6  # always ground: 0.22

    page = (run / "report.html").read_text()
    assert "No images" not in page
    assert "mean IoU" in page
    assert all(name in page for name in NAMES)
    assert "neither occur nor are predicted: kerb." in page

    images = data / "images" / "val"
    assert main(["predict", str(run), str(images), "--out", str(out)]) == 0
    image = images / "01.jpg"
    labels = pixels(out / "labels" / "01.png")
    assert np.array_equal(labels, beit.load(run).segment(image))
    assert labels.shape == pixels(image).shape[:2]
    assert labels.max() < len(NAMES)
    assert pixels(out / "overlays" / "01.png").shape == pixels(image).shape
    assert main(["predict", str(run), str(images), "--out", str(out)]) == 0  # nothing is left to do
    assert main(["predict", str(run), str(image), "--out", str(out)]) == 7
    capsys.readouterr()

    (tmp_path / "words.jpg").write_text("words")
    given = [str(image), str(tmp_path / "words.jpg")]
    assert main(["predict", str(run), *given, "--out", str(tmp_path / "some")]) == 3
    output = capsys.readouterr()
    assert "of 2 images, 1 unreadable" in output.out
    assert f"error: not answered, as they cannot be read: '{given[1]}'" in output.err
    assert np.array_equal(pixels(tmp_path / "some" / "labels" / "01.png"), labels)

    with pytest.raises(ConfigError, match=r"does not classify[\s\S]*--out"):
        beit.load(run).predict(image)
    with pytest.raises(ConfigError, match="does not segment"):
        beit.load(trained.classifier).segment(image)
    (tmp_path / "pair").mkdir()
    for kind in ("png", "bmp"):
        Image.fromarray(pixels(image)).save(tmp_path / "pair" / f"x.{kind}")
    assert main(["predict", str(run), str(tmp_path / "pair"), "--out", str(tmp_path / "two")]) == 3
    assert "both be written to x.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES["segment"])
def test_recipes_build_and_answer_at_full_size(name):
    config = find_recipe("segment", name, SegmentRunConfig)
    with torch.device("meta"):
        model = Segmenter(config.model, 150, config.head)
        images = torch.zeros(2, 3, *config.model.size, dtype=torch.uint8)
        predictions = model.train().logits(images)
    assert predictions.main.shape[:2] == (2, 150)


def test_the_published_table():
    """beit-reference, sections 6 and 8.2."""
    rows = {
        "base-ade20k": (7e-4, 0.65, 0.1, 512),
        "base-ade20k-22k": (3e-5, 0.9, 0.1, 512),
        "base-640-ade20k-22k": (3e-5, 0.9, 0.1, 640),
        "large-ade20k-22k": (2e-5, 0.95, 0.2, 512),
        "large-640-ade20k-22k": (2e-5, 0.95, 0.2, 640),
        "base-setr-ade20k": (1e-3, 0.65, 0.1, 512),
        "v2-base-ade20k": (5e-5, 0.75, 0.15, 512),
        "v2-base-ade20k-21k": (5e-5, 0.85, 0.15, 512),
        "v2-large-ade20k": (4e-5, 0.9, 0.2, 512),
        "v2-large-ade20k-21k": (3e-5, 0.9, 0.2, 512),
    }
    for name, row in rows.items():
        config = find_recipe("segment", name, SegmentRunConfig)
        training, model = config.training, config.model
        assert (training.lr, training.layer_decay, model.drop_path, model.size[0]) == row
        assert (training.steps, training.batch, training.warmup_steps) == (160_000, 16, 1500)
        assert config.inference.short_side == row[-1]
        plain = name == "base-setr-ade20k"  # as all models of the paper's tables
        assert (model.layer_scale is None, model.absolute_position) == (plain, plain)
        assert model.relative_position == ("none" if plain else "per-block")


def test_the_crop_is_the_recipe_s_and_the_colours_the_backbone_s():
    recipe = find_recipe("segment", "tiny", SegmentRunConfig)
    backbone = replace(recipe.model, size=(28, 28), patch=14, mean=(0.1, 0.2, 0.3))
    model = for_segmenting(backbone, recipe)
    assert (model.size, model.mean) == ((28, 28), (0.1, 0.2, 0.3))
    larger = replace(backbone, size=(42, 42), patch=7)
    assert for_segmenting(larger, recipe).size == (35, 35)  # 32, to whole patches
    for name, published in RECIPES["segment"].items():
        model = for_segmenting(backbone, published())
        statistics = (IMAGENET_MEAN, IMAGENET_STD) if "ade20k" in name else (backbone.mean, HALF)
        assert (model.mean, model.std) == statistics
        four = replace(backbone, channels=4, mean=(0.1,) * 4, std=(0.2,) * 4)
        assert for_segmenting(four, published()).mean == four.mean


@pytest.mark.parametrize(("recipe", "size"), [("small", 64), ("small-linear", 64),
                                              ("base-ade20k", 512)])  # fmt: skip
def test_a_crop_enlarges_a_small_backbone_only_as_published(recipe, size):
    """At 224 pixels a step took many times as long, and patches showed other things."""
    backbone = replace(find_recipe("segment", "small", SegmentRunConfig).model, size=(64, 64))
    config = find_recipe("segment", recipe, SegmentRunConfig)
    assert for_segmenting(replace(backbone, patch=8), config).size == (size, size)


@pytest.mark.parametrize("options", [{"micro_batch": 1}, {"batch": 1}], ids=str)
def test_one_image_at_a_time_is_refused_before_anything_is_read(tmp_path, options):
    given = {"data": "nowhere", "out": str(tmp_path / "run"), "device": "cpu", **options}
    with pytest.raises(ConfigError, match="one image at a time"):
        beit.segment("tiny", **given)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="nothing at nowhere"):  # it has no batch norm
        beit.segment("tiny-linear", **given)


def test_crops_without_a_pyramid_are_refused():
    with pytest.raises(ConfigError, match="an image of 1 x 8 patches has no pyramid"):
        override(find_recipe("segment", "tiny", SegmentRunConfig), {"size": (4, 32)})


def test_several_processes_share_batch_norm_or_are_refused():
    recipe = find_recipe("segment", "tiny", SegmentRunConfig)
    model = Segmenter(recipe.model, 3, recipe.head)
    assert _with_shared_statistics(model, Processes(0, 1, torch.device("cpu"))) is model
    with pytest.raises(ConfigError, match="on GPUs only"):
        _with_shared_statistics(model, Processes(0, 2, torch.device("cpu")))
    linear = Segmenter(recipe.model, 3, LinearHeadConfig())
    assert _with_shared_statistics(linear, Processes(0, 2, torch.device("cpu"))) is linear
    names = model.state_dict().keys()
    shared = _with_shared_statistics(model, Processes(0, 2, torch.device("cuda")))
    assert shared.state_dict().keys() == names
    assert not any(type(module) is torch.nn.BatchNorm2d for module in shared.modules())
