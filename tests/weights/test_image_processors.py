"""What an image processor of transformers makes of an image is made here too, or it is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import beit
from beit.errors import CheckpointError, ConfigError
from beit.inference.predictor import Predictor
from beit.models.heads import Classifier
from beit.weights.convert import convert
from beit.weights.load import open_artifact
from beit.weights.store import Details, load_artifact, save_artifact
from reference import FINE, disturb

transformers = pytest.importorskip("transformers")
SIDE = FINE.size[0]


def photo(height: int, width: int) -> Image.Image:
    """A smooth image with some detail, through JPEG as a user's would be."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    planes = [
        np.sin(x / 9 + band) + np.cos(y / (7 + band)) + np.sin(x * y / 900) for band in range(3)
    ]
    pixels = (np.stack(planes, axis=-1) * 40 + 128).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95)
    return Image.open(io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier as transformers keeps it."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("processors")
    model = Classifier(FINE, 3)
    disturb(model)
    ours = save_artifact(place / "ours", model.eval(), Details(classes=("a", "b", "c")))
    return convert(ours, place / "hf", to="hf")[0]


def with_processor(folder: Path, place: Path, said: dict[str, object]) -> Path:
    place.mkdir()
    for file in ("config.json", "model.safetensors"):
        (place / file).write_bytes((folder / file).read_bytes())
    (place / "preprocessor_config.json").write_text(json.dumps(said))
    return place


WHOLE = {"height": SIDE, "width": SIDE}
PROCESSORS = {
    "as BEiT's are saved": {"size": WHOLE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "of the first versions": {
        "feature_extractor_type": "BeitFeatureExtractor", "size": SIDE, "crop_size": SIDE,
        "do_center_crop": False, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    },
    "statistics of its own": {
        "size": WHOLE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
    },
    "not normalised": {"size": WHOLE, "do_normalize": False},
    "not scaled": {
        "size": WHOLE, "do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3,
    },
    "neither": {"size": WHOLE, "do_rescale": False, "do_normalize": False},
    "scaled to 2": {
        "size": WHOLE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3,
    },
    "scaled, not normalised": {"size": WHOLE, "rescale_factor": 1 / 127.5, "do_normalize": False},
    "bilinear": {"size": WHOLE, "resample": 2},
    "stretched and cropped": {
        "size": {"height": SIDE + 8, "width": SIDE + 8}, "do_center_crop": True, "crop_size": WHOLE,
    },
    "shorter side and cropped": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE + 8},
        "do_center_crop": True, "crop_size": WHOLE, "resample": 3, "image_mean": [0.4] * 3,
        "image_std": [0.3] * 3,
    },
    "of ViT": {"image_processor_type": "ViTImageProcessor", "size": WHOLE, "resample": 2},
    "channels counted": {"size": WHOLE, "image_mean": [0.5], "image_std": [0.25]},
    "null is off": {"size": WHOLE, "do_normalize": None, "do_center_crop": None},
    "CLIP's own crop": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE + 8},
        "crop_size": WHOLE, "resample": 3, "image_mean": [0.4] * 3, "image_std": [0.3] * 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", PROCESSORS)
@pytest.mark.parametrize("sides", [(100, 140), (90, 60), (SIDE, SIDE)])
def test_the_pixels_are_those_of_transformers(folder, tmp_path, case, sides):
    said = {"image_processor_type": "BeitImageProcessor"} | PROCESSORS[case]
    place = with_processor(folder, tmp_path / "model", said)
    image = photo(*sides)
    if case == "channels counted":
        said = said | {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    if "feature_extractor_type" in said:
        said = {**said, "size": WHOLE, "crop_size": WHOLE}
    kind = getattr(transformers, said["image_processor_type"])
    names = ("image_processor_type", "feature_extractor_type")
    theirs = kind(**{name: value for name, value in said.items() if name not in names})
    expected = theirs(image, return_tensors="pt")["pixel_values"][0]
    predictor = Predictor(open_artifact(place))
    ours = predictor.model.backbone.normalise(predictor.prepare(image)[None])[0]
    level = 1 / (255 * min(predictor.artifact.backbone.std))
    assert ours.shape == expected.shape
    difference = (ours - expected).abs()
    assert difference.max() <= 2.01 * level  # two libraries' rounding of resized pixels
    assert difference.mean() <= 0.3 * level


REFUSED = {
    "another size": ({"size": {"height": SIDE * 2, "width": SIDE * 2}}, "makes images of"),
    "another crop": (
        {"size": WHOLE, "do_center_crop": True, "crop_size": SIDE // 2}, "makes images of",
    ),
    "padding": (
        {"size": {"height": 8, "width": 8}, "do_center_crop": True, "crop_size": WHOLE},
        "resizes to 8 x 8",
    ),
    "no crop of a shorter side": ({"size": {"shortest_edge": SIDE}}, "does not crop"),
    "a longest side": ({"size": {"shortest_edge": SIDE, "longest_edge": 99}}, "resizes to"),
    "cropped, not resized": ({"do_resize": False, "do_center_crop": True}, "without resizing"),
    "nearest": ({"size": WHOLE, "resample": 0}, "Pillow's filter 0"),
    "box": ({"size": WHOLE, "resample": 4}, "Pillow's filter 4"),
    "padded": ({"size": WHOLE, "do_pad": True, "pad_size": WHOLE}, "do_pad"),
    "crop_pct": ({"size": WHOLE, "crop_pct": 0.9}, "crop_pct"),
    "channels turned": ({"size": WHOLE, "do_flip_channel_order": True}, "do_flip_channel_order"),
    "two means": ({"size": WHOLE, "image_mean": [0.5] * 2, "image_std": [0.5] * 2}, "for 3 chan"),
    "no deviation": ({"size": WHOLE, "image_mean": [0.5] * 3, "image_std": [0.0] * 3}, "image_std"),
    "factor of none": ({"size": WHOLE, "rescale_factor": 0.0}, "rescale_factor"),
    "text for a number": ({"size": WHOLE, "resample": "bicubic"}, "resample"),
    "text for a flag": ({"size": WHOLE, "do_normalize": "no"}, "do_normalize"),
    "text for a size": ({"size": "large"}, "size"),
    "list of texts": ({"size": WHOLE, "image_mean": ["a"], "image_std": [1.0]}, "image_mean"),
    "a crop of CLIP's own": (
        {"image_processor_type": "CLIPImageProcessor", "size": WHOLE, "crop_size": SIDE // 2,
         "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "makes images of",
    ),
    "one that enlarges": (
        {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": SIDE},
         "do_center_crop": True, "crop_size": WHOLE}, "processor 'LevitImageProcessor'",
    ),
    "one that crops first": (
        {"image_processor_type": "PerceiverImageProcessor", "size": WHOLE, "do_center_crop": True,
         "crop_size": WHOLE}, "processor 'PerceiverImageProcessor'",
    ),
    "somebody's own": ({"image_processor_type": "Own", "size": WHOLE}, "processor 'Own'"),
    "CLIP's own mean": (
        {"image_processor_type": "CLIPImageProcessor", "size": WHOLE}, "does not say image_mean",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_done_here_is_refused_with_its_reason(folder, tmp_path, case):
    said, cause = REFUSED[case]
    place = with_processor(folder, tmp_path / "model", said)
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{cause}") as caught:
        open_artifact(place)
    assert caught.value.remedy


@pytest.mark.parametrize("beside", [True, False])
def test_a_processor_among_others_comes_first(folder, tmp_path, beside):
    place = with_processor(folder, tmp_path / "model", {"size": WHOLE, "image_mean": [0.3] * 3})
    said = {"size": WHOLE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4] * 3, "resample": 2}
    whole = {"processor_class": "Own", "image_processor": said}
    (place / "processor_config.json").write_text(json.dumps(whole))
    if not beside:
        (place / "preprocessor_config.json").unlink()
    artifact = open_artifact(place)
    assert artifact.backbone.mean == (0.1, 0.2, 0.3)
    assert artifact.details.interpolation == "bilinear"
    (place / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    with pytest.raises(CheckpointError, match="image_processor"):
        open_artifact(place)


def test_how_images_are_resized_stays_with_the_artifact(folder, tmp_path):
    """Kept, read again, predicted with, and given on to timm and transformers."""
    said = {"size": {"height": SIDE + 8, "width": SIDE + 8}, "do_center_crop": True,
            "crop_size": WHOLE, "resample": 2}  # fmt: skip
    place = with_processor(folder, tmp_path / "model", said)
    ours, _ = convert(place, tmp_path / "ours", to="beit")
    kept = load_artifact(ours).details
    assert (kept.resize, kept.interpolation) == ("stretch", "bilinear")
    image = photo(70, 110)
    expected = beit.load(place).prepare(image)
    assert torch.equal(beit.load(ours).prepare(image), expected)
    covered = Predictor(open_artifact(place))
    covered.artifact = type(covered.artifact)(
        kind="classifier", model=covered.model, details=Details(crop=kept.crop)
    )
    assert not torch.equal(covered.prepare(image), expected)
    for to in ("hf", "timm"):
        back = open_artifact(convert(ours, tmp_path / to, to=to)[0]).details
        assert (back.resize, back.interpolation) == ("stretch", "bilinear")
        assert back.crop == pytest.approx(kept.crop, abs=1e-3)


@pytest.mark.parametrize("resize", ["cover", "stretch"])
@pytest.mark.parametrize("crop", [0.875, 0.8, 1.0])
def test_what_is_written_for_transformers_prepares_as_ours(folder, tmp_path, resize, crop):
    artifact = load_artifact(folder.with_name("ours"))
    details = Details(classes=("a", "b", "c"), crop=crop, resize=resize)
    ours = save_artifact(tmp_path / "ours", artifact.model, details)
    place, _ = convert(ours, tmp_path / "hf", to="hf")
    theirs = transformers.AutoImageProcessor.from_pretrained(place)
    image = photo(90, 131)
    expected = theirs(image, return_tensors="pt")["pixel_values"][0]
    predictor = beit.load(ours)
    found = predictor.model.backbone.normalise(predictor.prepare(image)[None])[0]
    assert (found - expected).abs().max() <= 2.01 / (255 * min(predictor.artifact.backbone.std))


def test_a_grid_that_is_not_square_is_not_written_for_transformers(tmp_path):
    for backbone in (
        replace(FINE, size=(64, 32)),
        replace(FINE, size=(64, 32), relative_position="none", absolute_position=True),
    ):
        details = Details(classes=("a", "b", "c"))
        ours = save_artifact(tmp_path / "ours", Classifier(backbone, 3), details)
        with pytest.raises(ConfigError, match="wrong positions"):
            convert(ours, tmp_path / "hf", to="hf")
