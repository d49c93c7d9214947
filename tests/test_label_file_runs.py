"""The named columns of a label file reach every later reading of the same images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import beit
from beit.cli import main
from beit.config import LabelFileConfig
from beit.doctor.check import check
from beit.errors import ConfigError, DataError, RunFolderError
from beit.training.run_folder import read_run_config
from beit.weights.store import read_described

QUICK: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32",
    "steps": 1, "warmup_steps": 0, "batch": 8,
}  # fmt: skip
WORDS = ["--steps", "1", "--warmup-steps", "0", "--workers", "0", "--batch", "8"]


@pytest.fixture
def listed(class_folders: Path, tmp_path: Path) -> Path:
    """A table whose headings leave open which column is the label: 24 images in `scans/`."""
    lines = ["photo_id;ward;finding;who"]
    for number, (kind, at) in enumerate(
        (kind, at) for at in range(12) for kind in ("disc", "tiles")
    ):
        (tmp_path / "scans").mkdir(exist_ok=True)
        shutil.copy(class_folders / kind / f"{at:02}.png", tmp_path / "scans" / f"s{number}.png")
        lines.append(f"s{number};{'ab'[at % 2]};{kind};someone")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path / "list.csv"


def test_a_classifier_its_page_and_what_measures_it(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "run", str(listed)
    with pytest.raises(DataError, match="'photo_id', 'ward', 'finding', 'who'") as caught:
        beit.finetune("tiny", data=data, out=str(out), **QUICK)
    assert "--label-column" in caught.value.remedy
    assert not out.exists()
    run = beit.finetune(
        "tiny", data=data, out=str(out), label_column="finding", **QUICK | {"report": True}
    )
    config = read_run_config(out)
    assert config.label_file == LabelFileConfig(label_column="finding")  # type: ignore[attr-defined]
    assert "Most confident answers" in (out / "report.html").read_text()
    trained = read_described(run.artifact).details.trained
    assert trained["label_file"]["label_column"] == "finding"
    found = beit.evaluate(str(out), data=data)
    assert found.images == 4
    assert "the label file is read as the model was trained: label_column finding" in found.notes
    assert "that the run held out" in str(found.notes)
    words = [str(out), "--data", data, "--label-column", "finding", "--format", "json"]
    assert main(["evaluate", *words]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == found.top1  # type: ignore[union-attr]
    beit.finetune("tiny", data=data, out=str(out), label_column="finding", resume=True, **QUICK)
    with pytest.raises(RunFolderError, match="label_column: finding -> ward"):
        beit.finetune("tiny", data=data, out=str(out), label_column="ward", resume=True, **QUICK)


def test_the_options_of_the_command_line(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--label-column", "ward", "--image-folder", str(tmp_path / "scans")]
    words = ["--data", str(listed), "--out", str(tmp_path / "run"), *named, *WORDS]
    assert main(["finetune", "tiny", *words, "--quiet"]) == 0, capsys.readouterr().err
    model, probe = str(tmp_path / "run"), str(tmp_path / "probe")
    words = [model, "--data", str(listed), "--out", probe, "--recipe", "tiny", *named]
    assert main(["probe", *words, "--workers", "0"]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["images"]["train"] == 20
    capsys.readouterr()
    assert main(["data", "check", str(listed), *named, "--format", "json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["classes"]) == {"a", "b"}
    assert main(["data", "pack", str(listed), str(tmp_path / "packed"), *named]) == 0
    assert set(check(str(tmp_path / "packed")).classes) == {"a", "b"}
    assert main(["doctor", "--data", str(listed), *named, "--skip-compile"]) in (0, 6)
    assert "24" in capsys.readouterr().out
    folder = ["--data", str(tmp_path / "scans"), "--out", str(tmp_path / "no"), *named, *WORDS]
    assert main(["finetune", "tiny", *folder]) == 2
    assert "is not a label file" in capsys.readouterr().err


def test_a_segmenter_has_no_label_file(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no option 'label_column'"):
        beit.segment("tiny", data=str(listed.parent), out="x", label_column="x")
    with pytest.raises(SystemExit):
        main(["segment", "tiny", "--data", str(listed.parent), "--out", "y", "--label-column", "z"])
    capsys.readouterr()


def test_pre_training_needs_no_labels(trained: Any, listed: Path, tmp_path: Path) -> None:
    """Those that cannot be used are left out, and the log says why; `labelled` may be a label
    file, whose columns are named, beside a plain folder."""
    options = {"tokenizer": str(trained.tokenizer), "accept_collapsed": True, **QUICK}
    text = listed.read_text().splitlines()
    one = listed.with_name("one.csv")
    one.write_text("\n".join(["photo_id;class", *(line.split(";")[0] + ";x" for line in text[1:])]))
    beit.pretrain("tiny", data=str(one), out=str(tmp_path / "one"), **options)
    log = (tmp_path / "one" / "log.txt").read_text()
    assert "are not used to score:" in log
    assert "only one class, 'x'" in log
    beit.pretrain(
        "tiny", data=str(listed.parent / "scans"), labelled=str(listed), label_column="finding",
        out=str(tmp_path / "two"), **options,
    )  # fmt: skip
    rows = (tmp_path / "two" / "metrics.jsonl").read_text()
    assert '"neighbours"' in rows
    with pytest.raises(ConfigError, match="is not a label file"):
        beit.pretrain(
            "tiny", data=str(listed.parent / "scans"), label_column="finding",
            out=str(tmp_path / "three"), **options,
        )  # fmt: skip


def test_the_command_of_the_page_runs(
    trained: Any, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[1] / "docs" / "data.md"
    (line,) = re.findall(r"^beit (finetune .*labels\.csv.*)$", page.read_text(), re.MULTILINE)
    shutil.copytree(trained.pretrained, tmp_path / "runs" / "pretrain")
    text = listed.read_text().replace("finding", "dx").replace("photo_id", "image_id")
    (tmp_path / "labels.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    verb, *words = shlex.split(line)
    assert main([verb, "tiny", *words, *WORDS, "--quiet"]) == 0
    assert (tmp_path / "runs" / "labels" / "report.html").exists()
