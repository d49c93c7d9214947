"""What masks hold, decided once at the start of a run and kept: in its config, log and report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import beit
from segmented_folder import write_pair

OPTIONS = {
    "steps": 2, "batch": 2, "split": 0.5, "warmup_steps": 0, "workers": 0, "device": "cpu",
    "precision": "fp32", "quiet": True,
}  # fmt: skip


@pytest.fixture
def binary(tmp_path):
    """Masks of 0 and 255."""
    data = tmp_path / "data"
    for index in range(6):
        write_pair(data, "", f"{index}", seed=index, size=(40, 36))
        place = data / f"masks/{index}.png"
        labels = np.asarray(Image.open(place))
        Image.fromarray(np.where(labels == 1, 255, 0).astype(np.uint8)).save(place)
    return data


def test_a_run_keeps_what_it_decided(binary, tmp_path):
    out = tmp_path / "run"
    run = beit.segment("tiny-linear", data=str(binary), out=str(out), **OPTIONS)
    log = (out / "log.txt").read_text()
    assert "the masks hold 0 and 255 only: 0 is background, 255 is object" in log
    assert "  val: 3 images in 2 classes: background 3, object 3" in log
    masks = json.loads((out / "config.json").read_text())["masks"]
    assert (masks["layout"], masks["mask_values"]) == ("folders", "binary")
    again = beit.segment("tiny-linear", data=str(binary), out=str(out), resume=True, **OPTIONS)
    assert again.metrics == run.metrics
    assert beit.load(out).classes == ("background", "object")
    found = beit.evaluate(str(out), data=str(binary))
    assert any("0 is background, 255 is" in note for note in found.account.notes)
    assert {one.name for one in found.classes} <= {"background", "object"}
    assert found.ignored_pixels == 0
