"""`beit probe`: every method on every block, written where it is said."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from beit.cli import main
from beit.models.heads import MaskedImageModel
from beit.weights.store import Details, save_artifact
from encoding import animate
from miniature import BACKBONE

LINEAR = ["linear, class token and mean", "linear, mean"]


@pytest.fixture
def backbone(tmp_path):
    return str(save_artifact(tmp_path / "model", MaskedImageModel(BACKBONE, 4), Details()))


def test_the_command(backbone, class_folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell is wrapped
    data, out = tmp_path / "data", tmp_path / "probe"
    for part in ("train", "val", "test"):
        shutil.copytree(class_folders, data / part)
    (data / "val" / "disc" / "broken.png").write_bytes(b"rubbish")
    for part in ("train", "val", "test"):
        animate(data / part / "tiles" / "03.png")
    words = ["probe", backbone, "--data", str(data), "--out", str(out), "--recipe", "tiny"]
    assert main([*words, "--shots", "2", "99", "--workers", "0"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "unreadable: val/disc/broken.png" in told
    assert "first of several in its file: val/tiles/03.gif" in told
    assert "99 labels per class left out: one class has 12" in told
    assert re.search(r"untrained backbone,[^│]*│ block \d, lr", told)
    assert re.search(r"colour histogram,[^│]*│ lr", told)  # colours have no blocks
    found = json.loads((out / "probe.json").read_text())
    assert sorted(found["several"]) == [f"{part}/tiles/03.gif" for part in ("test", "train", "val")]
    assert found["images"] == {"train": 36, "validation": 36, "test": 36}
    assert list(found["blocks"]) == [*LINEAR, "nearest neighbours"]
    methods = [each["method"] for each in found["chosen"]]
    assert methods == [*LINEAR, "nearest neighbours", "attentive"]
    for each in found["chosen"]:
        assert each["validation"] == each["test"]  # the same images
        if each["method"] in found["blocks"]:
            scores = found["blocks"][each["method"]]
            assert len(scores) == BACKBONE.depth
            assert each["validation"] == max(scores) == scores[each["block"]]
    assert found["chosen"][3]["block"] == found["chosen"][1]["block"]
    assert [(few["method"], few["labels"]) for few in found["few"]] == [
        ("linear", 2),
        ("nearest neighbours", 2),
    ]
    assert all(len(few["accuracies"]) == 2 for few in found["few"])
    trivial = [
        "colour histogram",
        "colour and texture statistics",
        "16 x 16 pixels",
        "untrained backbone",
    ]
    assert [each["method"] for each in found["baselines"]] == [
        f"{name}, linear" for name in trivial
    ]
    assert [each["method"] for each in found["few_baselines"]] == [
        f"{name}, linear" for name in trivial
    ]
    assert any("not clearly better than the baseline" in note for note in found["notes"])
    assert (
        sum(
            "always answering the most frequent training class 33.3%" in note
            for note in found["notes"]
        )
        == 1
    )
    assert set(found["account"]["images"]) == {"train", "val", "test"}
    page = (out / "probe.html").read_text()
    assert page.count("<circle") == 3 * BACKBONE.depth
    assert "at block 1" in page
    alone = [*words[:4], "--out", str(tmp_path / "alone"), "--recipe", "tiny", "--no-baselines"]
    assert main([*alone, "--shots", "2", "--workers", "0"]) == 0, capsys.readouterr().err
    again = json.loads((tmp_path / "alone" / "probe.json").read_text())
    assert again["baselines"] == again["few_baselines"] == again["notes"] == []
    assert again["chosen"] == found["chosen"]
    little = [*alone[:4], "--out", str(tmp_path / "little"), *alone[6:], "--memory", "2e-5"]
    assert main([*little, "--shots", "2", "--workers", "0"]) == 0, capsys.readouterr().err
    small = json.loads((tmp_path / "little" / "probe.json").read_text())
    assert small["images"] == found["images"]
    (note,) = small["notes"]
    assert note.startswith("blocks were chosen, and baselines compared, on 17 images for train")
    for each in small["chosen"][:3]:  # on all images as where all blocks are held
        assert each["validation"] == found["blocks"][each["method"]][each["block"]]
    assert small["chosen"][3]["block"] == small["chosen"][1]["block"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alone", "data", "little", "model", "probe",
    ]  # fmt: skip
    strict = ["--out", str(tmp_path / "other"), "--bad-limit", "0", "--workers", "0"]
    assert main([*words[:4], *strict]) == 3
    told = capsys.readouterr().err
    assert "1 of 109 images cannot be read, --bad-limit allows 0: 'val/disc/broken.png'" in told
    assert main(words) == 7
    assert "not empty" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(
    backbone, class_folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("beit.tasks.probing._Measuring.run", lambda _: pytest.fail("measured"))
    (tmp_path / "file").touch()
    words = ["--data", str(class_folders), "--out", str(tmp_path / "file" / "probe")]
    assert main(["probe", backbone, *words, "--recipe", "tiny"]) == 6
    assert "file/probe cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--out", "x"], 2, "data or out was not given"),
        (["--recipe", "tyni"], 2, "did you mean 'tiny'?"),
        (["--data", ".", "--out", "x", "--device", "gpu"], 2, "there is no device 'gpu'"),
    ],
)
def test_wrong_input(words, code, told, capsys):
    assert main(["probe", "nowhere", *words]) == code
    assert told in capsys.readouterr().err
