"""What the pages on probes, fine-tuning and segmentation say is so: commands run, tables and
messages are those of the code."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from beit.cli import main
from beit.config.tree import TYPES
from beit.recipes import RECIPES
from beit.recipes.finetune import PROBES
from segmented_folder import write_folder

DOCS = Path(__file__).parents[1] / "docs"
SHORT = ["--steps", "3", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]
PAGES = ("probe", "segment", "fine-tuning")


def rows(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose head begins so, cell by cell."""
    table = re.search(rf"^\| {head}.*\n.*\n((?:\|.*\n)+)", (DOCS / f"{page}.md").read_text(), re.M)
    assert table is not None
    return [line.strip("| ").split(" | ") for line in table[1].splitlines()]


@pytest.fixture
def place(
    tmp_path: Path, class_folders: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder as the pages take it for granted."""
    for name in ("images", "labelled"):
        shutil.copytree(class_folders, tmp_path / name)
    write_folder(tmp_path / "segmented")
    shutil.copytree(trained.pretrained, tmp_path / "runs" / "pretrain")
    shutil.copy(next(class_folders.rglob("*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", ["probe", "segment", pytest.param("fine-tuning", marks=pytest.mark.slow)]
)
def test_the_commands_run_in_their_order(
    place: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the tiny recipes; all of them, so that no page is without one."""
    lines = re.findall(r"^beit (.*)$", (DOCS / f"{page}.md").read_text(), re.MULTILINE)
    assert len(lines) >= 3
    for verb, *rest in map(shlex.split, lines):
        args = [verb, *rest]
        if verb in ("segment", "finetune"):
            recipe = "tiny" if rest[0].startswith("-") else rest.pop(0).replace("small", "tiny")
            args = [verb, recipe, *rest, *SHORT]
        elif verb == "probe" and "--recipe" not in rest:
            args += ["--recipe", "tiny"]
        assert main(args) == 0, (args, capsys.readouterr().err)
        if "--out" in args:
            assert (place / args[args.index("--out") + 1]).exists(), args


@pytest.mark.parametrize(("page", "known"), [("probe", PROBES), ("segment", RECIPES["segment"])])
def test_the_recipes_are_those_of_the_package(page: str, known: dict[str, object]) -> None:
    assert [row[0].strip("`") for row in rows(page, "recipe")] == list(known)


def test_the_settings_of_segmentation_recipes() -> None:
    for name, head, crop, rates, *_ in rows("segment", "recipe"):
        config = RECIPES["segment"][name.strip("`")]()
        assert config.model.size == (int(crop), int(crop))
        given = [float(rate) for rate in rates.split(", ")]
        assert given == [config.training.lr, config.training.layer_decay]
        kind = type(config.head).__name__.removesuffix("Config").lower()
        assert kind.startswith(head.split(",")[0].split("-")[0].lower())


@pytest.mark.parametrize("page", PAGES)
def test_the_options_exist(page: str) -> None:
    names = re.findall(r"--(?:no-)?([a-z][a-z-]+)", (DOCS / f"{page}.md").read_text())
    known = {field.name for kind in TYPES.values() for field in fields(kind)}
    assert {name.replace("-", "_") for name in names} <= known | {"block", "resume"}  # of commands
