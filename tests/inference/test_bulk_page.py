"""The page on many images: its commands run, and what it says of the files is so."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from beit.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "bulk.md"


@pytest.fixture
def place(tmp_path, class_folders, trained, monkeypatch):
    for name, run in zip(("tokenizer", "pretrain", "classifier"), trained, strict=True):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / name).symlink_to(run)
    shutil.copytree(class_folders, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run(place, monkeypatch, capsys):
    """Those that name a cluster are read only; processes are played one after the other."""
    commands = re.findall(
        r"beit((?:\.cli)? (?:embed|predict) [^'`\n]*--out [^'`\n]*)", PAGE.read_text()
    )
    assert len(commands) == 7
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    for command in commands:
        words = [os.path.expandvars(word) for word in shlex.split(command.removeprefix(".cli"))]
        if "--engine" not in words:
            assert main([*words, "--workers", "0"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    for name in ("features", "answers", "tokens"):
        assert f"{name}: " in said
    (snippet, pipeline) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    found: dict[str, object] = {}
    exec(snippet, found)  # noqa: S102
    assert len(found["table"]) == 36  # type: ignore[arg-type]
    compile(pipeline, "bulk.md", "exec")  # run in test_ray.py


def test_the_columns_are_those_of_the_files(place):
    import pyarrow.parquet as pq

    said = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.M)))
    )
    known = {"height", "width", "fractions"}
    for verb, run in (("embed", "pretrain"), ("embed", "tokenizer"), ("predict", "classifier")):
        words = [verb, f"runs/{run}", "--data", "images/disc", "--out", run, "--workers", "0"]
        assert main(words) == 0
        known |= set(pq.read_table(run).column_names)
    assert said == known
