"""What docs/share.md shows works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "share.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the page takes it for granted."""
    for name in ("pretrained", "classifier"):
        shutil.copytree(getattr(trained, name), tmp_path / "runs" / name.removesuffix("ed"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_detector_learns_with_the_backbone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs, and the loss of the boxes reaches the patch embedding."""
    names: dict[str, Any] = {}
    exec(SNIPPETS[0], names)  # noqa: S102
    assert "loss_objectness" in capsys.readouterr().out
    gradient = names["extractor"].backbone.patch_embed.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_entries_of_torch_hub(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(SNIPPETS[1].replace('"."', f'"{ROOT}"'), {})  # noqa: S102
    assert int(capsys.readouterr().out) > 0
