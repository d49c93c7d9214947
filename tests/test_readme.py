"""Every command and snippet of the README and the docs runs, on the tiny recipes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from beit.cli import VERBS, main
from segmented_folder import write_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TRAINING = ("tokenizer", "pretrain", "finetune", "segment")
SHORT = ["--steps", "3", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]


def commands() -> list[list[str]]:
    """The commands of the table of verbs, in its order."""
    return [shlex.split(found)[1:] for found in re.findall(r"\| `(beit [^`]*)` \|", README)]


@pytest.fixture
def place(tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the README takes it for granted."""
    shutil.copytree(class_folders, tmp_path / "images")
    shutil.copytree(class_folders, tmp_path / "labelled")
    write_folder(tmp_path / "segmented")
    shutil.copy(next(class_folders.rglob("*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_names_every_verb() -> None:
    assert [command[0] for command in commands()] == list(VERBS)


def test_the_commands_of_the_table_run_in_their_order(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, *rest in commands():
        if verb in ("demo", "doctor", "export", "push", "serve", "study"):
            continue  # tests/studies, tests/serve, tests/test_export_page.py, test_share_page.py
        args = [verb, "tiny", *rest, *SHORT] if verb in TRAINING else [verb, *rest]
        args += ["--accept-collapsed"] if verb == "pretrain" else []  # after so few steps
        assert main(args) == 0, (args, capsys.readouterr().err)
    for made in ("runs/classifier/report.html", "runs/pretrain/model", "features.npz"):
        assert (place / made).exists()
    assert "runs/classifier" in capsys.readouterr().out


def test_the_python_snippet_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    options = "steps=3, warmup_steps=1, batch=4, workers=0, quiet=True, "
    snippet = snippet.replace('"small", ', f'"tiny", {options}')
    snippet = snippet.replace("beit.pretrain(", "beit.pretrain(accept_collapsed=True, recipe=")
    exec(snippet, {})  # noqa: S102
    accuracy, *labels = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert len(labels) == 3  # one line per class
    performance = (ROOT / "docs" / "performance.md").read_text()
    (faster,) = re.findall(r"```python\n(.*?)```", performance, re.DOTALL)
    exec(faster, {})  # noqa: S102
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        line.split()[0] for line in labels
    ]


def test_files_to_read_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"^\d\. \[`([^`]*)`\]\(\1\)", page, re.MULTILINE)
    assert len(named) == 6
    assert all((ROOT / name).is_file() for name in named)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if link.startswith("https://"):
                continue
            name, _, place = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), (page, link)
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if place else []
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert not place or place in anchors, (page, link)


def test_the_commands_about_images_run_in_their_order(place: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    lines = re.findall(r"^beit (data .*)$", page, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert main(shlex.split(line)) == 0
    assert (place / "packed" / "shards.json").exists()


def test_the_conversions_of_the_page_run_in_their_order(
    tmp_path: Path, golden: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`weights.pth` comes back from all of them as it was."""
    monkeypatch.chdir(tmp_path)
    weights = golden("mim_shared_rel")["model"]
    torch.save({"model": weights}, "weights.pth")
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    lines = re.findall(r"^beit (convert .*)$", page, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert main(shlex.split(line)) == 0
    again = torch.load("converted/again.pth", weights_only=True)["model"]
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
