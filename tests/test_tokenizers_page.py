"""What docs/tokenizers.md says is so: its commands run, its recipes and its numbers of columns."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from beit.cli import main
from beit.recipes import RECIPES
from beit.weights.load import PRESETS

PAGE = "tokenizers"
TEXT = (Path(__file__).parents[1] / "docs" / "tokenizers.md").read_text()
SHORT = ["--steps", "2", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]
TINY = {"tokenizer": ["vqkd-tiny"], "pretrain": ["tiny", "--accept-collapsed"]}


def test_the_commands_run_in_their_order(
    trained: Any, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the tiny recipes."""
    shutil.copytree(class_folders, tmp_path / "images")
    shutil.copytree(trained.pretrained, tmp_path / "runs" / "pretrain")
    shutil.copytree(trained.tokenizer, tmp_path / "runs" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^beit (.*)$", TEXT, re.MULTILINE)
    assert len(lines) == 3
    for verb, *rest in map(shlex.split, lines):
        if rest[0] != "compare":
            rest = rest if rest[0].startswith("-") else rest[1:]
            rest = [*TINY[verb], *rest, *SHORT]
        assert main([verb, *rest]) == 0, rest
    assert (tmp_path / "runs" / "compared" / "tokenizers.html").is_file()


def test_recipes_and_presets_are_named() -> None:
    named = set(re.findall(r"`([\w-]+)`", TEXT))
    full = {name for name in RECIPES["tokenizer"] if "tiny" not in name}
    assert full <= named
    assert set(PRESETS) <= named
    assert {"base-v2-in1k", "large-v2-in1k"} <= named & set(RECIPES["pretrain"])
