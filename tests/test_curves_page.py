"""What docs/curves.md and its notes say is so: their numbers are those of the record, the script
makes them and the figure, and the metrics and options that it names exist."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beit.config.tree import TYPES
from docs.curves import Images, fill, make, runs

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "curves.md").read_text()
NUMBERS = (ROOT / "docs" / "notes" / "curves.md").read_text()
RECORD = json.loads((ROOT / "docs" / "notes" / "curves.json").read_text())
SHORT = {
    "steps": 4,
    "warmup_steps": 2,
    "log_every": 2,
    "evaluate_every": 2,
    "batch": 8,
    "workers": 0,
}
OTHERS = {
    "tokenizer": SHORT | {"steps": 30, "warmup_steps": 10},  # until it has more codes than one
    "pretrain": SHORT,
    "finetune": SHORT,
}


@pytest.fixture(scope="module")
def images(class_folders: Path) -> Images:
    return Images(str(class_folders), str(class_folders), "shapes")


@pytest.fixture(scope="module")
def made(images: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of the runs and of what was written, and the record, after a few steps."""
    folder = tmp_path_factory.mktemp("curves")
    (folder / "notes").mkdir()
    (folder / "notes" / "curves.md").write_text(NUMBERS)
    return folder, make(folder, images, folder, OTHERS)


def test_the_numbers_of_the_page_are_those_of_the_record() -> None:
    assert fill(NUMBERS, RECORD) == NUMBERS
    planned = runs(Path(), Images("", "", ""))
    assert {verb: [*found["runs"]] for verb, found in RECORD["verbs"].items()} == {
        verb: [*those.own] for verb, those in planned.items()
    }


@pytest.mark.slow
def test_the_script_writes_the_record_the_page_and_the_figure(made: tuple[Path, Any]) -> None:
    folder, record = made
    assert json.loads((folder / "notes" / "curves.json").read_text()) == record
    page = (folder / "notes" / "curves.md").read_text()
    assert page != NUMBERS
    assert fill(page, record) == page
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG"
    assert (ROOT / "docs" / "curves.png").stat().st_size < 150_000


@pytest.mark.slow
def test_the_script_tells_how_runs_end(made: tuple[Path, Any]) -> None:
    """A learning rate without bounds breaks, and a tokenizer of which most codes are dead is
    refused; after a few steps as after all."""
    for record in (made[1], RECORD):
        verbs = record["verbs"]
        assert verbs["tokenizer"]["runs"]["lr 0.5"]["ended"].startswith("DivergedError: ")
        refused = verbs["pretrain"]["runs"]["dead codes, refused"]
        assert "tokenizer/dead codes has collapsed" in refused["ended"]
        assert not refused["numbers"]
        for found in verbs.values():
            assert found["runs"]["healthy"]["ended"] == ""


@pytest.mark.slow
def test_a_stopped_script_goes_on(made: tuple[Path, Any], images: Images) -> None:
    """What is done is not done again."""
    folder, record = made
    healthy = sorted(folder.glob("*/healthy/metrics.jsonl"))
    before = [file.read_bytes() for file in healthy]
    assert make(folder, images, folder, OTHERS)["verbs"] == record["verbs"]
    assert [file.read_bytes() for file in healthy] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "head"),
    [("tokenizer", "Tokenizers"), ("pretrain", "Pre-training"), ("finetune", "Fine-tuning")],
)
def test_the_metrics_exist(made: tuple[Path, Any], verb: str, head: str) -> None:
    """Those of the tables of metrics are in the journal of a healthy run."""
    named = []
    for title in ("In every run", head):
        section = re.search(rf"^## {title}\n.*?(?=^## )", TEXT, re.M | re.S)
        assert section is not None
        named += re.findall(r"^\| `(\w+)`", section[0], re.M)
    rows = (made[0] / verb / "healthy" / "metrics.jsonl").read_text().splitlines()
    assert len(named) > 10
    assert set(named) <= {name for row in rows for name in json.loads(row)}


def test_the_options_exist() -> None:
    names = re.findall(r"--([a-z][a-z-]+)", re.sub(r"<!--.*?-->", "", TEXT))
    known = {field.name for kind in TYPES.values() for field in fields(kind)}
    assert {name.replace("-", "_") for name in names} <= known
