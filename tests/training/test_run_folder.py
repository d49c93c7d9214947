"""One run, one folder: never overwritten, never shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from beit.config import FinetuneRunConfig, FixedMasking, PretrainRunConfig
from beit.config.tree import override
from beit.errors import ConfigError, RunFolderError
from beit.recipes import find_recipe
from beit.training.run_folder import RunFolder, read_run_config

RECIPE = find_recipe("pretrain", "tiny", PretrainRunConfig)


@pytest.fixture
def config(tmp_path):
    return replace(RECIPE, data="images", out=str(tmp_path / "run"))


@pytest.fixture
def folder(config, tmp_path):
    """The folder of a run that is over."""
    folder = RunFolder(tmp_path / "run")
    folder.open(config, resume=False)
    folder.close()
    return folder


def test_the_config_is_recorded(config, folder):
    assert read_run_config(folder.path) == config


def test_a_run_is_never_overwritten(config, folder):
    before = folder.config.read_bytes()
    with pytest.raises(RunFolderError, match=r"holds a run[\s\S]*--resume"):
        folder.open(override(config, {"lr": 0.5}), resume=False)
    assert folder.config.read_bytes() == before


def test_a_folder_with_other_things_is_left_alone(config, tmp_path):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(RunFolderError, match="is not empty"):
        RunFolder(tmp_path).open(config, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "letter.txt").open(config, resume=False)


def test_resume_needs_a_run(config, tmp_path):
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        RunFolder(tmp_path / "run").open(config, resume=True)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_folder(config, tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        RunFolder(tmp_path).open(replace(config, out=""), resume=False)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"lr": 0.5}, r"training\.lr: 0\.001 -> 0\.5"),
        ({"seed": 7}, r"training\.seed: 0 -> 7"),
        ({"steps": 29}, r"longer but not shorter: --steps is 29"),
        ({"steps": 31, "seed": 7}, r"settings: training\.seed: 0 -> 7\n"),
        ({"init": "runs/other"}, r"init: none -> runs/other\n"),
        ({"steps": 29, "seed": 7}, r"training\.seed: 0 -> 7; training\.steps: 30 -> 29"),
        ({"masking": FixedMasking()}, r"masking\.type: UniformMasking -> FixedMasking"),
    ],
)
def test_resume_refuses_other_settings(config, folder, options, difference):
    with pytest.raises(RunFolderError, match=difference):
        folder.open(override(config, options), resume=True)


def test_resume_refuses_another_kind_of_run(folder, tmp_path):
    other = replace(find_recipe("finetune", "tiny", FinetuneRunConfig), out=str(tmp_path / "run"))
    with pytest.raises(RunFolderError, match="other settings"):
        folder.open(other, resume=True)


def test_resume_accepts_what_does_not_decide_the_numbers(config, folder):
    options = {"workers": 3, "cache": False, "bad_limit": 0.5, "log_every": 1, "save_every": 2,
               "keep": 5, "device": "cpu", "worker_timeout": 9.0, "tracker": ("none",)}  # fmt: skip
    changed = override(config, options)
    folder.open(changed, resume=True)
    folder.close()
    assert read_run_config(folder.path) == changed


@pytest.mark.parametrize("content", ["", '{"type": "Pretrain', '{"format": 1}', "[]"])
def test_a_config_that_cannot_be_read(config, folder, content):
    folder.config.write_text(content)
    with pytest.raises(RunFolderError, match="not the folder of a run"):
        folder.open(config, resume=True)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("Novel", "known: .*PretrainRunConfig"),
        ("antigravity:Run", "import antigravity first.*beit --import antigravity VERB"),
        ("json:Run", "known: "),  # loaded, but nothing of that name is in it
    ],
)
def test_a_config_that_is_not_understood(config, folder, kind, remedy):
    folder.config.write_text(json.dumps({"type": kind}))
    with pytest.raises(ConfigError, match=f"not understood: .*{kind}(?s:.*){remedy}"):
        folder.open(config, resume=True)


HOLD = """
import dataclasses, signal, sys
from pathlib import Path
from beit.config.runs import PretrainRunConfig
from beit.recipes import find_recipe
from beit.training.run_folder import RunFolder
config = find_recipe("pretrain", "tiny", PretrainRunConfig)
folder = RunFolder(Path(sys.argv[1]))
folder.open(dataclasses.replace(config, data="images", out=sys.argv[1]), resume=False)
print("held", flush=True)
signal.pause()
"""


def test_a_folder_in_use_is_refused_until_its_holder_dies(config, tmp_path, environment):
    folder = RunFolder(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid} on"):
            folder.open(config, resume=True)
        holder.kill()
    folder.open(config, resume=True)
    with pytest.raises(RunFolderError, match="in use by process"):
        RunFolder(folder.path).open(config, resume=True)
    folder.close()


def test_of_many_that_start_at_once_one_wins(config, tmp_path):
    """The others are refused."""
    started, told = os.pipe()
    go, wait = os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            try:
                os.close(wait)
                os.read(go, 1)  # ends for all of them at once
                folder = RunFolder(tmp_path / "run")
                folder.open(config, resume=False)
                os.write(told, b"w")
                signal.pause()  # holds it until it is killed
            except RunFolderError as error:
                refused = "in use by" in str(error) or "holds a run" in str(error)
                os.write(told, b"l" if refused else b"?")
            except BaseException:
                os.write(told, b"!")
            finally:
                os._exit(0)
        children.append(child)
    os.close(wait)
    try:
        answers = b"".join(os.read(started, 1) for _ in children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for pipe in (started, told, go):
            os.close(pipe)
    assert sorted(answers) == sorted(b"w" + b"l" * 7)
    after = RunFolder(tmp_path / "run")
    after.open(config, resume=True)
    after.close()


def test_a_run_from_before_there_were_orders_keeps_its_own(config, folder):
    recorded = json.loads(folder.config.read_text())
    del recorded["training"]["order"]
    folder.config.write_text(json.dumps(recorded))
    assert read_run_config(folder.path) == override(config, {"order": "sorted"})
    with pytest.raises(RunFolderError, match="order: sorted -> full"):
        folder.check_resumable(override(config, {"order": "full"}))
