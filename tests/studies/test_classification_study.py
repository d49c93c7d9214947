"""The classification study on made-up images: every stage once, both arms alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.errors import CheckpointError, ResourceError, RunFolderError
from beit.models.heads import MaskedImageModel
from beit.recipes.demo import Budget
from beit.recipes.finetune import probe_tiny
from beit.recipes.studies import ClassificationPlan, classification
from beit.studies import packages, stages, tiles
from beit.studies.packages import make_characters
from beit.studies.transfer import blocks_as_markdown, study_classification
from beit.tokenizers import build_tokenizer
from beit.weights.store import Details, save_artifact
from miniature import BACKBONE, VAE

CODES = (48, 65, 97)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three characters of ten images, each a bar at another height."""
    textures = tmp_path / "package" / "textures" / "chars"
    textures.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for place, code in enumerate(CODES):
        for number in range(10):
            pixels = noise.integers(200, 255, (128, 128, 3), dtype=np.uint8)
            pixels[35 + 20 * place : 50 + 20 * place] = 10
            Image.fromarray(pixels).save(textures / f"ch_0x{code}_{number}.png")
    monkeypatch.setattr(packages, "folder_of", lambda *_, **__: tmp_path / "package")
    climate = np.zeros((2700, 5400), np.uint8)
    climate[150:1650] = 1 + (np.arange(1500) // 150 % 2)[:, None]
    climate[:, 2100:] = 0
    pixels = np.repeat(climate[..., None] * np.uint8(80), 3, axis=2)
    monkeypatch.setattr(tiles, "read_map", lambda class_of: (pixels, climate))


@pytest.fixture
def init(tmp_path: Path) -> str:
    return str(save_artifact(tmp_path / "init", MaskedImageModel(BACKBONE, 5), Details()))


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def brief() -> ClassificationPlan:
    plan = classification()
    training = replace(plan.finetune.training, batch=4)
    budget = Budget(per_class=2, steps=10, seeds=2, pretrained_lr=1e-3, scratch_lr=2e-3)
    return replace(
        plan,
        probe=replace(probe_tiny(), crop=1.0, loader=plan.probe.loader),
        finetune=replace(plan.finetune, training=training),
        budgets=(budget, replace(budget, per_class=None, seeds=1)),
    )


def test_characters_are_cut_and_shared_out_by_number(package: None, tmp_path: Path) -> None:
    assert make_characters(tmp_path / "out") == {"train": 18, "val": 6, "test": 6}
    for part, numbers in (("test", {0, 5}), ("val", {1, 6}), ("train", {2, 3, 4, 7, 8, 9})):
        for code in CODES:
            found = list((tmp_path / "out" / part / str(code)).iterdir())
            assert {int(path.stem.rpartition("_")[2]) for path in found} == numbers
            assert {_size(path) for path in found} == {(84, 84)}


def test_every_stage_is_done_once(
    package: None, init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    results = study_classification(folder, brief(), init=init)
    rows, probed = results["climate"]
    assert [(row.method, row.labels, len(row.scratch)) for row in rows[-2:]] == [
        ("fine-tuned", "2", 2),
        ("fine-tuned", "all", 1),
    ]
    assert {row.labels for row in rows if row.method == "frozen, linear"} == {"1", "2"}
    assert all(0 <= score <= 100 for row in rows for score in row.pretrained + row.scratch)
    assert len(blocks_as_markdown(probed).splitlines()) == 2 + BACKBONE.depth
    for name in ("climate", "characters"):
        assert len(json.loads((folder / f"{name}.json").read_text())) == len(results[name].rows)
    monkeypatch.setattr(stages.tasks, "finetune", lambda *_, **__: pytest.fail("done already"))
    monkeypatch.setattr(packages, "folder_of", lambda *_, **__: pytest.fail("cut already"))
    monkeypatch.setattr(tiles, "read_map", lambda *_: pytest.fail("cut already"))
    assert study_classification(folder, brief(), init=init) == results
    with pytest.raises(RunFolderError, match="another length"):
        study_classification(folder, classification(), init=init)


def test_a_tokenizer_or_absent_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_artifact(tmp_path / "tokenizer", build_tokenizer(VAE), Details())
    with pytest.raises(CheckpointError, match="such as demo/pretrain after"):
        study_classification(tmp_path / "study", brief(), init=str(tokenizer))
    assert not (tmp_path / "study").exists()
    (tmp_path / "empty" / "textures" / "chars").mkdir(parents=True)
    monkeypatch.setattr(packages, "folder_of", lambda *_, **__: tmp_path / "empty")
    with pytest.raises(ResourceError, match="holds no characters"):
        make_characters(tmp_path / "out")
