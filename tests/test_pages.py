"""The pages of the site: each command and snippet has a test that runs it, and what is said of
errors, recipes and clusters is so."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

import beit
from beit import errors
from beit.cli import main
from beit.config.tree import from_json, to_json
from beit.errors import BeitError, ConfigError
from beit.recipes import RECIPES
from beit.training.run_folder import read_run_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
SHORT = ["--steps", "3", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]
TRAINING = ("tokenizer", "pretrain", "finetune")


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in this language."""
    found = re.findall(r"^```(\S*)\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    return [text for name, text in found if name == language]


def commands(page: str) -> list[list[str]]:
    """The lines of plain blocks that call `beit`."""
    lines = "".join(blocks(page)).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("beit ")]


@pytest.mark.parametrize("page", PAGES)
def test_no_page_escapes(page: str) -> None:
    """A page with commands or snippets is named by a test that reads the docs."""
    if commands(page) or blocks(page, "python"):
        tests = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
        named = (
            f'"{page}.md"',
            f'PAGE = "{page}"',
            f'commands("{page}")',
            f'"{page}", ',
            f'"{page}")',
        )
        assert any('"docs"' in text and any(n in text for n in named) for text in tests), page


@pytest.fixture
def place(tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder as the pages take it for granted."""
    shutil.copytree(class_folders, tmp_path / "images")
    shutil.copy(next(class_folders.rglob("*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS))
    return tmp_path


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One command, shortened, on the tiny recipe where it names none."""
    verb, *rest = words
    if verb in TRAINING:
        rest = rest if not rest[0].startswith("-") else ["tiny", *rest]
        rest += SHORT + (["--accept-collapsed"] if verb == "pretrain" else [])
    assert main([verb, *rest]) == 0, (words, capsys.readouterr().err)


@pytest.mark.usefixtures("unchecked")
def test_the_start(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands("start")
    assert [line[0] for line in lines] == ["doctor", *TRAINING, "predict", "serve", "export"]
    for line in lines:  # the doctor judges this machine, and a server does not end
        if line[0] not in ("doctor", "serve", "export"):
            run(line, capsys)
    capsys.readouterr()
    (snippet,) = blocks("start", "python")
    exec(snippet, {})  # noqa: S102
    assert len(capsys.readouterr().out.splitlines()) == 3  # one line per class
    assert [line for line in lines if line[0] == "serve"] == commands("serve")[:1]
    # test_export_page.py runs it
    assert [line for line in lines if line[0] == "export"] == commands("export")[:1]


@pytest.mark.usefixtures("unchecked")
def test_the_notebook_runs(place: Path) -> None:
    notebook = json.loads((DOCS / "first-steps.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    short = (
        "OPTIONS = {'steps': 3, 'warmup_steps': 1, 'batch': 4, 'workers': 0, 'quiet': True, "
        "'report': False}"
    )
    code = "\n".join(cells).replace("OPTIONS = {}", short)
    names: dict[str, object] = {}
    exec(code.replace("pretrain(", "pretrain(accept_collapsed=True, recipe=", 1), names)  # noqa: S102
    assert names["best"] in {folder.name for folder in (place / "images").iterdir()}


def test_visible_only_prediction(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["tokenizer", "--data", "images", "--out", "runs/tokenizer"], capsys)
    (line,) = commands("performance")
    run(line, capsys)
    assert (place / "runs" / "visible" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_code_of_one_s_own(
    place: Path, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    """A recipe and a tokenizer by `module:function`; both runs go on and are reported, also by a
    process that has not loaded the module yet."""
    run(["tokenizer", "--data", "images", "--out", "runs/tokenizer"], capsys)
    assert "export PYTHONPATH=." in blocks("own-code")[0]
    *lines, later = commands("own-code")
    # As they stand there, also the recipe: `run` would put in another.
    assert [line[:2] for line in lines] == [["pretrain", "own:recipe"], ["pretrain", "tiny"]]
    for line in lines:
        run(line, capsys)
        run([*line, "--resume"], capsys)
    own = read_run_config(place / "runs" / "own")
    assert own.recipe == "own:recipe"
    assert type(own.masking).__name__ == "UniformMasking"
    assert "own:greys" in (place / "runs" / "greys" / "report.html").read_text()
    report = place / "runs" / "greys" / "report.html"
    assert "No images" not in report.read_text()
    shutil.copy(DOCS / "own.py", place)
    path = f".{os.pathsep}{environment['PYTHONPATH']}"
    assert later[:3] == ["--import", "own", "report"]
    for words, images in ((later[2:], False), (later, True)):
        done = subprocess.run(
            [sys.executable, "-m", "beit.cli", *words],
            env=environment | {"PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("No images" not in report.read_text()) == images
        assert ("was not imported; import own first" not in done.stderr) == images


def test_a_task_of_one_s_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, and from its middle once more to the same weights; its model is a classifier."""
    import ordered  # type: ignore[import-not-found]

    (place / "images").rename("labelled")
    options = {"data": "labelled", "out": "runs/ordered", "steps": 4, "batch": 4, "workers": 0}
    options |= {"save_every": 2, "warmup_steps": 1}
    (snippet,) = blocks("own-task", "python")
    given = f"options = {options}"
    snippet, count = re.subn(r"options = .*", given, snippet.replace('"small"', '"tiny"'))
    assert count == 1
    exec(snippet, {})  # noqa: S102
    assert "classes_off" in (place / "runs" / "ordered" / "metrics.jsonl").read_text()
    whole = beit.load("runs/ordered").model.state_dict()
    *_, last = sorted((place / "runs" / "ordered" / "checkpoints").iterdir())
    shutil.rmtree(last)
    beit.tasks.run(ordered.ORDERED, "tiny", options, resume=True)
    for name, weight in beit.load("runs/ordered").model.state_dict().items():
        assert torch.equal(weight, whole[name]), name


def test_eight_channels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TIFF files of 16 bits, from the check to a prediction."""
    chance, x = np.random.default_rng(0), np.arange(48)
    for name, period in (("wide", 7), ("narrow", 3)):
        (place / "bands" / name).mkdir(parents=True)
        for number in range(6):
            waves = np.sin(x[:, None] / (period + np.arange(8)) + number) + chance.random(
                (40, 48, 8)
            )
            pixels = ((waves + 1) * 20_000).astype(np.uint16)
            file = place / "bands" / name / f"{number}.tif"
            tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    shutil.copy(file, place / "tile.tif")
    lines = commands("channels")
    assert [line[0] for line in lines] == ["data", *TRAINING, "predict"]
    for line in lines:
        run(line, capsys)
    capsys.readouterr()
    assert beit.load("runs/classifier").channels == 8
    assert {label.name for label in beit.load("runs/classifier").predict("tile.tif")} == {
        "wide", "narrow"
    }  # fmt: skip


def test_types_from_outside_are_written_and_read_but_never_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from own import GreysConfig  # type: ignore[import-not-found]

    from beit.config import TokenizerConfig

    config = GreysConfig(size=(32, 32), codes=16)
    values = to_json(config)
    assert values["type"] == "own:GreysConfig"
    assert from_json(values, TokenizerConfig) == config
    with pytest.raises(ConfigError, match=r"antigravity:Flying[\s\S]*import antigravity first"):
        from_json(values | {"type": "antigravity:Flying"}, TokenizerConfig)


@pytest.mark.parametrize(
    ("name", "words"), [("own:nothing", "cannot be found"), ("own:recipe", "PretrainRunConfig")]
)
def test_a_tokenizer_that_is_none(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    line = ["pretrain", "tiny", "--data", "images", "--tokenizer", name, "--out", "o"]
    assert main(line) == 2
    assert words in capsys.readouterr().err
    assert not (place / "o").exists()


def test_every_error_is_on_its_page() -> None:
    table = re.findall(
        r"^\| `(\w+)` \| (\d+) \| ([^|]+) \|", (DOCS / "errors.md").read_text(), re.M
    )
    drawn = re.findall(r"[├└]── (\w+) +(.*?) +exit (\d+)", errors.__doc__ or "")
    assert table == [(name, code, what) for name, what, code in drawn]
    known = {kind.__name__: kind.exit_code for kind in BeitError.__subclasses__()
             if kind.__module__ == "beit.errors"}  # fmt: skip
    assert known == {name: int(code) for name, code, _ in table}


def test_the_sizes_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from sizes import table  # type: ignore[import-not-found]

    page = (DOCS / "sizes.md").read_text()
    assert table() in page
    for verb in ("tokenizer", "pretrain", "finetune"):
        assert all(f"`{name}`" in page for name in RECIPES[verb]), verb


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    """`srun`, `scontrol`, `torchrun` and `beit` that write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bodies = {
        "beit": 'echo "beit $RANK/$WORLD_SIZE@$MASTER_ADDR:$MASTER_PORT $*" >> called; exit 75',
        "torchrun": 'echo "torchrun $*" >> called; exit 75',
        "srun": 'shift; "$@"',
        "scontrol": '[ "$1" = show ] && printf "first\\nsecond\\n" || echo "$*" >> called',
    }
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS": "16",
        "JOB_COMPLETION_INDEX": "1",
    }  # fmt: skip


def test_slurm_requeues_what_was_stopped_on_request_and_goes_on(
    tmp_path: Path, stand_ins: dict[str, str]
) -> None:
    for _ in range(2):
        done = subprocess.run(["bash", DOCS / "slurm.sbatch"], cwd=tmp_path, env=stand_ins)
        assert done.returncode == 75
        (tmp_path / "runs" / "pretrain").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "pretrain" / "config.json").touch()
    command = "beit 3/16@first:29500 pretrain --data images --out runs/pretrain"
    called = [line.strip() for line in (tmp_path / "called").read_text().splitlines()]
    assert called == [command, "requeue 7", f"{command} --resume", "requeue 7"]


def test_the_kubernetes_job(tmp_path: Path, stand_ins: dict[str, str]) -> None:
    service, job = yaml.safe_load_all((DOCS / "kubernetes.yaml").read_text())
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 2
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    container = pod["containers"][0]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    subprocess.run(container["command"], cwd=tmp_path, env=stand_ins, check=False)
    called = (tmp_path / "called").read_text()
    assert "--nnodes 2 --nproc-per-node 8 --node-rank 1 --master-addr beit-0.beit" in called
    assert called.rstrip().endswith("pretrain --data images --out runs/pretrain")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "scripts" / "docs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "site" / "start.html").exists()
