"""The segmentation study on a made-up world: every stage once, both arms alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.models.heads import MaskedImageModel
from beit.recipes.studies import SegmentationPlan, segmentation
from beit.studies import stages, tiles
from beit.studies.tiles import CLASSES, REGION, find_regions, group_of, make_regions
from beit.studies.transfer import study_segmentation
from beit.weights.store import Details, save_artifact
from miniature import BACKBONE


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Water but for twelve regions, each with a strip of two kinds of land."""
    classes = np.zeros((2700, 5400), np.uint8)
    classes[150 : 150 + 2 * REGION, : 6 * REGION] = 1
    classes[150 + REGION // 2 : 150 + REGION, : 6 * REGION] = 2
    noise = np.random.default_rng(0).integers(0, 60, (2700, 5400, 3), dtype=np.uint8)
    pixels = noise + np.array([30, 100, 180, 0, 0], np.uint8)[classes][..., None]
    monkeypatch.setattr(tiles, "read_map", lambda class_of: (pixels, classes))


def brief() -> SegmentationPlan:
    plan = segmentation()
    heads = {
        name: replace(config, training=replace(config.training, batch=4))
        for name, config in plan.heads.items()
    }
    return replace(plan, heads=heads, budget=replace(plan.budget, steps=2, seeds=2))


def test_zones_become_five_classes() -> None:
    assert [CLASSES[group_of(zone)] for zone in ("Ocean", "Am", "BWk", "Csb", "Dwa", "EF")] == [
        "water", "tropical", "arid", "temperate or cold", "temperate or cold", "polar",
    ]  # fmt: skip


def test_regions_are_whole_and_have_their_masks(world: None, tmp_path: Path) -> None:
    counts = make_regions(tmp_path)
    assert counts == {"train": 8, "val": 2, "test": 2}
    for part, number in counts.items():
        for kind in ("images", "masks"):
            found = sorted(path.name for path in (tmp_path / kind / part).iterdir())
            assert len(found) == number
    first = next((tmp_path / "masks" / "train").iterdir())
    top, left = map(int, first.stem.split("_"))
    with Image.open(first) as mask:
        labels = np.asarray(mask)
    _, classes = tiles.read_map(group_of)
    assert np.array_equal(labels, classes[top : top + REGION, left : left + REGION])
    assert not list(find_regions(np.zeros((2700, 5400), np.uint8)))


def test_every_stage_is_done_once(
    world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = str(save_artifact(tmp_path / "init", MaskedImageModel(BACKBONE, 5), Details()))
    folder = tmp_path / "study"
    rows = study_segmentation(folder, brief(), init=init)
    assert [(row.method, len(row.pretrained), len(row.scratch)) for row in rows] == [
        ("linear head", 2, 2),
        ("UperNet", 2, 2),
    ]
    assert all(0 <= score <= 100 for row in rows for score in row.pretrained + row.scratch)
    arms = [
        json.loads((folder / "segment" / f"upernet-{arm}-1" / "config.json").read_text())
        for arm in ("pre-trained", "from-scratch")
    ]
    for arm, start, decay in zip(arms, (init, ""), (0.75, 1.0), strict=True):
        assert (arm.pop("init"), arm["training"].pop("layer_decay")) == (start, decay)
        arm.pop("out")
    assert arms[0] == arms[1]
    monkeypatch.setattr(stages.tasks, "segment", lambda *_, **__: pytest.fail("done already"))
    monkeypatch.setattr(tiles, "read_map", lambda *_: pytest.fail("cut already"))
    assert study_segmentation(folder, brief(), init=init) == rows
