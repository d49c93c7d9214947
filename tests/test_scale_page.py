"""What docs/scale.md says is so: its commands are understood, its table is that of the code."""

from __future__ import annotations

import re
import shlex
import typing
from dataclasses import fields
from pathlib import Path

import pytest

from beit.cli import main
from beit.config.training import Order
from beit.config.tree import TYPES
from beit.recipes import RECIPES

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()


def test_the_packing_runs(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(class_folders)
    (line,) = re.findall(r"^beit (data .*)$", PAGE, re.MULTILINE)
    assert main(shlex.split(line)) == 0
    assert (tmp_path / "packed" / "shards.json").is_file()


def test_the_options_and_recipes_exist() -> None:
    known = {field.name for kind in TYPES.values() for field in fields(kind)}
    lines = re.findall(r"^(?:torchrun .*-m beit.cli|beit) ((?:pretrain|probe) .*)$", PAGE, re.M)
    assert len(lines) == 2
    for line in lines:
        options = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", line)}
        assert options <= known
    assert lines[0].split()[1] in RECIPES["pretrain"]


def test_every_order_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \|$", PAGE, re.MULTILINE)
    assert {*rows, "sorted"} == {*typing.get_args(Order)}
    assert "(`sorted`)" in PAGE
