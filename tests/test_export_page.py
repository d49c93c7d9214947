"""The commands and the snippet of docs/export.md, one after the other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import beit
from beit.cli import main
from served import write_artifacts

PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text()


@pytest.mark.usefixtures("unchecked")
def test_the_page_runs(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = write_artifacts(tmp_path / "runs")
    made["masked"].rename("runs/pretrain")
    shutil.copytree(class_folders, "labelled")
    shutil.copy(class_folders / "disc" / "00.png", "image.jpg")
    lines = re.findall(r"^beit (export .*)$", PAGE, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        assert main(shlex.split(line)) == 0, line
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, check=True
    )
    ours = beit.load("runs/classifier").predict("image.jpg", top=3)
    theirs = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _ in theirs] == [label.name for label in ours]
    for label, (_, probability) in zip(ours, theirs, strict=True):
        assert float(probability) == pytest.approx(label.probability, abs=1e-3)
