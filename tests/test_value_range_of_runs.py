"""The range of values that a run is given: in its artifact, and in whatever reads images for it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import beit
from beit.config.bulk import PredictConfig
from beit.errors import CheckpointError, ConfigError
from beit.inference.files import predict
from beit.inference.predictor import to_pixels
from beit.serve.worker import read_image
from beit.weights.export import choose_target, describe
from beit.weights.export.parity import from_data
from beit.weights.load import open_artifact

RANGE = (0, 4095)
OPTIONS = {"steps": 2, "batch": 4, "warmup_steps": 0, "workers": 0, "quiet": True, "report": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of 12-bit images in 16-bit files: dark and bright ones."""
    folder = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for name, most in (("bright", 4096), ("dark", 900)):
        (folder / name).mkdir()
        for number in range(6):
            values = chance.integers(0, most, (40, 40)).astype(np.uint16)
            Image.fromarray(values).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "classifier"
    beit.finetune("tiny", data=str(images), out=str(out), value_range=RANGE, **OPTIONS)
    return out


def test_a_model_reads_images_as_in_training(classifier, images):
    assert json.loads((classifier / "model/config.json").read_text())["value_range"] == [0, 4095]
    predictor = beit.load(classifier)
    place = images / "bright/0.png"
    seen = predictor.prepare(place)
    assert seen.max() > 200  # 15 without the range
    assert np.array_equal(seen, predictor.prepare(place.read_bytes()))
    with Image.open(place) as image:
        assert np.array_equal(seen, predictor.prepare(image))
    outside = np.full((40, 40), 5000, np.uint16)
    with pytest.raises(beit.errors.DataError, match="value_range is 0 to 4095"):
        predictor.prepare(Image.fromarray(outside))


def test_what_goes_on_with_a_model_reads_as_it_did(classifier, images, tmp_path):
    beit.finetune(
        "tiny", data=str(images), out=str(tmp_path / "more"), init=str(classifier), **OPTIONS
    )
    config = json.loads((tmp_path / "more/config.json").read_text())
    assert '"value_range": [0' in json.dumps(config)


def test_a_run_says_that_levels_are_lost(images, tmp_path):
    beit.finetune("tiny", data=str(images), out=str(tmp_path / "run"), **OPTIONS)
    assert "as with --value-range 0 4095" in (tmp_path / "run/log.txt").read_text()


def test_pretraining_reads_as_its_tokenizer_does(images, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    beit.tokenizer("tiny", data=str(images), out=str(tokenizer), value_range=RANGE, **OPTIONS)
    out = tmp_path / "pretrained"
    beit.pretrain("tiny", data=str(images), out=str(out), tokenizer=str(tokenizer), **OPTIONS)
    assert beit.load(out).value_range == RANGE
    with pytest.raises(ConfigError, match=r"the tokenizer has seen values of \(0.0, 4095.0\)"):
        beit.pretrain(
            "tiny",
            data=str(images),
            out=str(tmp_path / "other"),
            tokenizer=str(tokenizer),
            value_range=(0, 1023),
            **OPTIONS,
        )


@pytest.mark.parametrize("wrong", [[1], "x", [1, "2"], [2, 1], [0, float("inf")], {"a": 1}, 3])
def test_an_artifact_with_another_range_is_refused(classifier, tmp_path, wrong):
    shutil.copytree(classifier / "model", tmp_path / "model")
    place = tmp_path / "model/config.json"
    content = json.loads(place.read_text()) | {"value_range": wrong}
    place.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="value_range is"):
        beit.load(tmp_path / "model")


def test_files_requests_and_exports_are_read_by_the_range_of_the_model(classifier, images):
    predictor = beit.load(classifier)
    place = images / "bright/0.png"
    own = predictor.predict(place, top=2)
    (found,) = predict(str(classifier), [str(place)], PredictConfig(top=2, batch=1))
    assert found.labels == own
    seen = read_image(place.read_bytes(), 3, 10**6, predictor.value_range)
    assert np.array_equal(seen, to_pixels(place, 3, RANGE))
    samples = from_data(str(images), 3, 12, predictor.classes, value_range=predictor.value_range)
    assert max(each.max() for each in samples.images) > 200
    model = open_artifact(classifier)
    target = choose_target(model)
    assert describe(model, target)["value_range"] == "[0.0, 4095.0]"


def test_an_evaluation_reads_by_the_range_of_the_model(classifier, images, tmp_path):
    """Of images that only this range can read."""
    for folder in images.iterdir():
        (tmp_path / folder.name).mkdir()
        for file in folder.iterdir():
            with Image.open(file) as image:
                values = np.asarray(image).astype(np.float32) - 0.5
            values[values < 0] = 0.25
            Image.fromarray(values).save(tmp_path / folder.name / f"{file.stem}.tif")
    found = beit.evaluate(str(classifier), data=str(tmp_path), split="train")
    assert found.unreadable == ()
    assert found.images > 0
    brighter = Image.fromarray(np.full((40, 40), 5000, np.float32))
    brighter.save(tmp_path / "dark/more.tif")
    found = beit.evaluate(str(classifier), data=str(tmp_path), split="train")
    assert [one.key for one in found.unreadable] == ["dark/more.tif"]
