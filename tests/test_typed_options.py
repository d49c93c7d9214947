"""What editors know of the options: as new as the config classes, and right from a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import beit
from beit.errors import ConfigError
from scripts import options

ROOT = Path(__file__).parents[1]
WRONG = """
beit.pretrain(lr="fast")
beit.finetune(learning_rate=1e-3)
beit.evaluate("run", data="images").top1
"""
CHECKERS = {"mypy": ["mypy", "--strict", "--no-incremental"], "pyright": ["basedpyright"]}


def test_the_options_are_those_of_the_config_classes() -> None:
    assert options.FILE.read_text() == options.render(), f"write them again: {options.AGAIN}"


def test_what_is_measured_is_of_the_kind_that_was_expected(
    trained: Any, class_folders: Path
) -> None:
    with pytest.raises(ConfigError, match="holds a classifier, and a segmenter is expected"):
        beit.evaluate(trained.classifier, data=class_folders, kind="segmenter")
    found = beit.evaluate(trained.classifier, data=class_folders, kind="classifier", workers=0)
    assert 0 <= found.top1 <= 1


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel and nothing else."""
    place = tmp_path_factory.mktemp("installed")

    def uv(*words: object) -> None:
        command = [sys.executable, "-m", "uv", *map(str, words), "--quiet", "--offline"]
        subprocess.run(command, check=True, cwd=ROOT)

    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", place)
    uv("venv", "--python", sys.executable, place / "venv")
    python = place / "venv" / "bin" / "python"
    uv("pip", "install", "--no-deps", "--python", python, *place.glob("*.whl"))
    return python


@pytest.mark.parametrize("checker", ["mypy", pytest.param("pyright", marks=pytest.mark.slow)])
def test_the_python_of_the_readme_passes_and_wrong_options_do_not(
    checker: str, python: Path, tmp_path: Path
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "right.py").write_text(snippet)
    (tmp_path / "wrong.py").write_text("import beit\n" + WRONG)
    where = "--python-executable" if checker == "mypy" else "--pythonpath"
    environment = {key: value for key, value in os.environ.items() if "PATH" not in key}
    found = subprocess.run(
        [*CHECKERS[checker], where, python, "right.py", "wrong.py"],
        cwd=tmp_path,
        env={**environment, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in found.stdout.splitlines() if re.search(r"\berror\b", line)]
    assert not [line for line in lines if "right.py" in line], found.stdout
    wrong = {int(line.split(":")[1]) for line in lines if "wrong.py:" in line}
    assert wrong == {3, 4, 5}, found.stdout + found.stderr
