"""What docs/share.md shows works."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

import beit
from beit.cli import main
from beit.config.training import TrackerName

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "share.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(
    trained: Any, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder as the page takes it for granted."""
    for name in ("pretrained", "classifier"):
        shutil.copytree(getattr(trained, name), tmp_path / "runs" / name.removesuffix("ed"))
    shutil.copytree(class_folders, tmp_path / "labelled")
    shutil.copy(next(class_folders.rglob("*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub
def test_the_hub(place: Path, writable: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands one after the other, then the snippet, against a hub on this machine."""
    lines = re.findall(r"^beit (.*)$", PAGE, re.MULTILINE)
    assert len(lines) == 5
    for line in lines[:4]:
        assert main(shlex.split(line)) == 0, (line, capsys.readouterr().err)
    assert writable.visible == {"owner/shapes": "private"}
    assert len(writable.messages) == 2
    dry = {file.name: file.read_bytes() for file in (place / "upload").iterdir()}
    assert dry == writable.repositories["owner/shapes"]
    exec(SNIPPETS[0], {})  # noqa: S102
    for reference in ("hf:owner/changed", "changed"):
        assert beit.load(reference).model.head.bias.abs().sum() == 0


def test_a_detector_learns_with_the_backbone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs, and the loss of the boxes reaches the patch embedding."""
    names: dict[str, Any] = {}
    exec(SNIPPETS[1], names)  # noqa: S102
    assert "loss_objectness" in capsys.readouterr().out
    gradient = names["extractor"].backbone.patch_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_entries_of_torch_hub(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(SNIPPETS[2].replace('"."', f'"{ROOT}"'), {})  # noqa: S102
    assert int(capsys.readouterr().out) > 0


@pytest.mark.filterwarnings("ignore")  # of the library
def test_a_run_that_is_followed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    line = re.findall(r"^beit (finetune .*)$", PAGE, re.MULTILINE)[0]
    verb, *rest = shlex.split(line)
    short = ["--steps", "3", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]
    assert main([verb, "tiny", *rest, *short]) == 0
    assert list((place / "runs/tracked/tensorboard").iterdir())
    assert list((place / "runs/tracked/trackers/wandb").glob("offline-run-*/*.wandb"))
    assert "no longer follows" not in (place / "runs/tracked/log.txt").read_text()


def test_the_trackers_are_those_of_the_code() -> None:
    named = re.findall(
        r"^\| `(\w+)` \| (?:`pip install \"beit\[(\w+)\]\"`)? ?\|", PAGE, re.MULTILINE
    )
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert [name for name, _ in named] == list(get_args(TrackerName))
    assert all(name == extra and extra in extras for name, extra in named if extra)
