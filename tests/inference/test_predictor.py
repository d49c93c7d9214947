"""An artifact alone answers, in whatever form the image comes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import beit
from beit.errors import CheckpointError, ConfigError, DataError
from reference import close


@pytest.fixture(scope="module")
def image(class_folders):
    return class_folders / "disc" / "00.png"


@pytest.fixture(scope="module")
def classifier(trained):
    return beit.load(trained.classifier)


def test_path_bytes_image_and_array_are_one(classifier, image):
    opened = Image.open(image)
    forms = [image, str(image), image.read_bytes(), opened, np.array(opened)]
    expected = classifier.predict(image)
    for form in forms:
        assert classifier.predict(form) == expected
        assert torch.equal(classifier.prepare(form), classifier.prepare(image))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"]
)
def test_modes_of_images_are_read_as_files_of_them_are(classifier, image, mode):
    opened = Image.open(image)
    opened = opened.convert("L").convert(mode) if mode[0] in "IF" else opened.convert(mode)
    file = io.BytesIO()
    opened.save(file, "TIFF")
    assert torch.equal(classifier.prepare(opened), classifier.prepare(file.getvalue()))


def test_modes_that_no_file_has(classifier, image):
    opened = Image.open(image).convert("HSV")
    assert torch.equal(classifier.prepare(opened), classifier.prepare(opened.convert("RGB")))


def test_orientation_is_that_of_the_file(classifier, image, tmp_path):
    upright = Image.open(image)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected = classifier.prepare(image)
    assert torch.equal(classifier.prepare(tmp_path / "turned.png"), expected)
    assert torch.equal(classifier.prepare(Image.open(tmp_path / "turned.png")), expected)


def test_labels_are_the_softmax_best_first(classifier, image):
    labels = classifier.predict(image)
    assert {label.name for label in labels} == set(classifier.classes)
    values = [label.probability for label in labels]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    logits = classifier.model(classifier.prepare(image)[None])[0].detach()
    assert values[0] == pytest.approx(float(logits.softmax(dim=0).max()))
    assert labels[0].name == classifier.classes[int(logits.argmax())]
    assert classifier.predict(image, top=1) == labels[:1]


def test_together_is_as_one_by_one(classifier, class_folders):
    paths = sorted(class_folders.rglob("*.png"))[::7]
    together = classifier.probabilities(paths)
    for path, row in zip(paths, together, strict=True):
        close(classifier.probabilities([path])[0], row, 1e-6)


def test_grey_arrays_are_repeated(classifier):
    grey = np.arange(40 * 30, dtype=np.uint8).reshape(40, 30)
    expected = classifier.prepare(np.repeat(grey[..., None], 3, axis=2))
    assert torch.equal(classifier.prepare(grey), expected)
    assert torch.equal(classifier.prepare(grey[..., None]), expected)


@pytest.mark.parametrize("block", [None, 0, 3])
def test_features(trained, image, block):
    predictor = beit.load(trained.pretrained)
    vectors = predictor.embed([image, image], block=block)
    assert vectors.shape == (2, 48)
    taps = predictor.model.backbone(
        predictor.prepare(image)[None], out_indices=range(4)
    ).intermediates
    close(vectors[0], taps[3 if block is None else block][0, 1:].mean(dim=0).detach(), 1e-5)


def test_tokens(trained, image):
    predictor = beit.load(trained.tokenizer)
    tokens = predictor.tokens([image])
    assert tokens.shape == (1, 64)
    assert torch.equal(tokens, predictor.model.encode(predictor.prepare(image)[None]))


def test_a_masked_model_gives_logits_of_the_hidden_patches(trained, image):
    predictor = beit.load(trained.pretrained)
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, [5, 9]] = True
    assert predictor.model(predictor.prepare(image)[None], mask).shape == (2, 32)


@pytest.mark.parametrize(
    ("kind", "ask", "problem"),
    [
        ("pretrained", lambda p, x: p.predict(x), "a masked model does not classify"),
        ("tokenizer", lambda p, x: p.predict(x), "a tokenizer model does not classify"),
        ("tokenizer", lambda p, x: p.embed([x]), "a tokenizer has no features"),
        ("classifier", lambda p, x: p.tokens([x]), "a classifier model gives no tokens"),
        ("classifier", lambda p, x: p.embed([x], block=4), "no block 4"),
        ("classifier", lambda p, x: p.embed([x], block=-1), "no block -1"),
    ],
)
def test_what_a_model_cannot_do(trained, image, kind, ask, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        ask(beit.load(getattr(trained, kind)), image)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("nowhere.png", "no file nowhere.png"),
        (b"rubbish", "cannot be read"),
        (np.zeros((4, 4, 3)), r"type float64 and shape \(4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
    ],
)
def test_what_is_no_image(classifier, form, problem):
    with pytest.raises(DataError, match=problem) as caught:
        classifier.predict(form)
    assert caught.value.remedy


def test_no_artifact(tmp_path):
    with pytest.raises(CheckpointError, match="is not an artifact"):
        beit.load(tmp_path)


ALONE = """
import json, sys, beit
labels = beit.load(sys.argv[1]).predict(sys.argv[2])
print(json.dumps([label._asdict() for label in labels]))
assert not any(name.startswith("beit.training") for name in sys.modules)
"""


@pytest.mark.slow
def test_an_artifact_works_alone(classifier, trained, image, tmp_path, environment):
    """In another process and another place, without the run, its data and its training code."""
    shutil.copytree(trained.classifier / "model", tmp_path / "shipped")
    shutil.copy(image, tmp_path / "x.png")
    command = [sys.executable, "-c", ALONE, "shipped", "x.png"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout)
    expected = classifier.predict(image)
    assert [label["name"] for label in labels] == [label.name for label in expected]
    assert [label["probability"] for label in labels] == pytest.approx(
        [label.probability for label in expected]
    )


def test_the_optimized_predictor_says_the_same(classifier, image, trained):
    before, after = classifier.probabilities([image]), classifier.optimized()
    assert after.model is not classifier.model
    torch.testing.assert_close(after.probabilities([image]), before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        after.embed([image]), classifier.embed([image]), atol=1e-4, rtol=1e-4
    )
    half = classifier.optimized(precision="bf16").probabilities([image])
    torch.testing.assert_close(half, before, atol=0.03, rtol=0)
    with pytest.raises(ConfigError, match="nothing to fold"):
        beit.load(trained.tokenizer).optimized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(classifier):
    with pytest.raises(ConfigError, match="device cuda was requested, and torch finds 0 GPUs"):
        beit.Predictor(classifier.artifact, "cuda")
