"""Fine-tuning as people do it now, from the data to the artifact: what is trained, which classes
count, folds, mirrored images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import beit
from beit.cli import main
from beit.config import FinetuneRunConfig
from beit.errors import ConfigError, RunFolderError
from beit.recipes.finetune import tiny
from beit.report.classification import Validation
from beit.training.dataset_manifest import learned_names
from beit.training.run_folder import RunFolder, read_run_config
from segmented_folder import write_folder

QUICK: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32", "steps": 4,
    "warmup_steps": 1, "batch": 6,
}  # fmt: skip


def weights(artifact: Path) -> dict[str, torch.Tensor]:
    return beit.load(artifact).model.state_dict()


def test_a_run_with_lora_goes_on_as_if_it_had_not_stopped_and_gives_a_plain_model(
    trained: Any, class_folders: Path, tmp_path: Path
) -> None:
    """Rare classes are drawn more often meanwhile."""
    options = {
        **QUICK, "data": class_folders, "init": trained.pretrained, "lora": 2, "average": 0.9,
        "balanced_sampling": True, "class_weights": "root", "threshold_by": "recall",
    }  # fmt: skip
    whole = beit.finetune("tiny", out=tmp_path / "whole", save_every=2, **options)
    shutil.copytree(whole.folder, tmp_path / "again")
    shutil.rmtree(max((tmp_path / "again" / "checkpoints").iterdir()))
    again = beit.finetune("tiny", out=tmp_path / "again", resume=True, workers=1)
    theirs = weights(again.artifact)
    assert all(torch.equal(theirs[name], value) for name, value in weights(whole.artifact).items())
    assert not [name for name in weights(whole.artifact) if "parametrizations" in name]
    before, after = weights(trained.pretrained), weights(whole.artifact)
    name = "backbone.blocks.0.mlp.fc1.weight"
    changed = after[name] - before[name]
    assert 0 < torch.linalg.matrix_rank(changed, atol=1e-7) <= 2
    assert torch.equal(after["backbone.cls_token"], before["backbone.cls_token"])
    assert any("threshold_by recall has no effect" in line for line in _log(whole.folder))
    assert any("the classes are balanced: an epoch draws" in line for line in _log(whole.folder))
    assert " of " in next(line for line in _log(whole.folder) if line.startswith("starting"))


def test_options_without_effect_are_named(
    trained: Any, class_folders: Path, tmp_path: Path
) -> None:
    options = {**QUICK, "data": class_folders, "steps": 2, "out": tmp_path / "run"}
    options |= {"threshold_level": 0.8, "jitter": 0.3, "patience": 2, "evaluate_every": 1}
    beit.finetune("tiny", rand_augment="rand-m3", **options)
    log = [line for line in _log(tmp_path / "run") if "has no effect" in line]
    assert log == [
        "note: threshold_level 0.8 has no effect: each image has one class",
        "note: jitter 0.3 has no effect without --rand-augment ''",
        "note: patience 2 has no effect: with --evaluate-every 1 it could end the run after step 3 "
        "at the earliest, and the run has 2",
    ]
    options |= {"out": tmp_path / "effective", "patience": 1, "steps": 3}
    del options["threshold_level"]
    beit.finetune("tiny", rand_augment="", **options)
    assert not [line for line in _log(tmp_path / "effective") if "has no effect" in line]


def _log(run: Path) -> list[str]:
    return (run / "log.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"freeze": True}, "its weights are random"),
        ({"freeze": True, "lora": 2, "init": "x"}, "give one of them"),
        ({"lora_alpha": 2.0}, "there is no LoRA"),
        ({"freeze_blocks": 4, "init": "x"}, "the backbone has 4 blocks"),
        ({"lora": 2, "init": "x", "sharding": "blocks"}, "sharded"),
        ({"only_fold": 2}, "of no folds"),
        ({"folds": 3, "only_fold": 4}, "of 3 folds"),
        ({"groups": "("}, "is not a regular expression"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], problem: str
) -> None:
    from beit.config.tree import override

    with pytest.raises(ConfigError) as refused:
        override(tiny(), options)
    assert problem in f"{refused.value.problem} {refused.value.remedy}"


def test_every_fold_holds_out_other_images_and_all_are_aggregated(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(class_folders, data)
    out = tmp_path / "folds"
    words = [
        "finetune", "tiny", "--data", str(data), "--out", str(out), "--folds", "3", "--steps", "3",
        "--warmup-steps", "1", "--batch", "4", "--workers", "0",
    ]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "most frequent class" in printed
    assert "model   " not in printed, "none of the folds is the model to use"
    held = [
        set(beit.evaluate(out / f"fold-{n}", data=data, workers=0).account.classes["measured"])
        for n in (1, 2)
    ]
    assert held[0]
    found = json.loads((out / "folds.json").read_text())
    top1 = found["top1"]
    assert top1["mean"] == pytest.approx(np.mean(top1["folds"]))
    assert top1["low"] <= top1["mean"] <= top1["high"]
    page = (out / "report.html").read_text()
    assert "fold 3" in page
    assert f"Over 3 folds top1 is {top1['mean']:.4g} on average (95 % interval" in page
    config = read_run_config(out / "fold-2")
    assert isinstance(config, FinetuneRunConfig)
    assert (config.folds, config.only_fold) == (3, 2)
    shown = Validation(out / "fold-2", config).source
    names = {shown.key(index) for index in range(len(shown))}
    learned = learned_names(RunFolder(out / "fold-2"))
    assert learned
    assert names.isdisjoint(learned), "the page shows what the fold holds out"
    assert main(["report", str(out)]) == RunFolderError.exit_code
    assert f"give one of its folds, such as {out / 'fold-1'}" in capsys.readouterr().err
    # What is there is not written over; to go on does what is missing.
    assert main(words) == RunFolderError.exit_code
    shutil.rmtree(out / "fold-3")
    assert main(["finetune", "--resume", "--out", str(out)]) == 0, capsys.readouterr().err
    again = json.loads((out / "folds.json").read_text())
    assert again["top1"]["folds"] == top1["folds"]
    assert again["loss"]["folds"] == pytest.approx(found["loss"]["folds"])


def test_mirrored_images_change_the_answer_of_a_model_but_not_of_its_mirror(
    trained: Any, class_folders: Path, tmp_path: Path
) -> None:
    from PIL import Image, ImageOps

    image = Image.open(next(class_folders.rglob("*.png"))).convert("RGB")
    plain, flipping = beit.load(trained.classifier), beit.load(trained.classifier, flip=True)
    mirrored = ImageOps.mirror(image)
    mean = (plain.probabilities([image]) + plain.probabilities([mirrored])) / 2
    torch.testing.assert_close(flipping.probabilities([image]), mean, atol=1e-6, rtol=1e-5)
    image.save(tmp_path / "image.png")
    words = ["predict", str(trained.classifier), str(tmp_path / "image.png"), "--flip"]
    assert main([*words, "--format", "json"]) == 0


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    trained: Any, class_folders: Path, tmp_path: Path
) -> None:
    options = {
        **QUICK, "data": class_folders, "init": trained.pretrained, "out": tmp_path / "run",
        "lr": 1e-12, "evaluate_every": 1,
    }  # fmt: skip
    beit.finetune("tiny", patience=1, **options)
    (stopped,) = (line for line in _log(tmp_path / "run") if line.startswith("stopped early"))
    assert "after step 2 of 4" in stopped
    beit.finetune("tiny", patience=9, resume=True, **options)
    log = _log(tmp_path / "run")
    assert any(line.startswith("going on after step 2") for line in log)
    assert "saved after step 4" in log


def test_a_segmenter_learns_from_few_images_and_a_frozen_backbone(
    trained: Any, tmp_path: Path
) -> None:
    write_folder(tmp_path / "data")
    run = beit.segment(
        "tiny", data=tmp_path / "data", init=trained.pretrained, out=tmp_path / "run", per_class=1,
        freeze=True, class_weights="balanced", balanced_sampling=True, patience=5,
        evaluate_every=2, **QUICK,
    )  # fmt: skip
    before, after = weights(trained.pretrained), weights(run.artifact)
    kept = [name for name in after if name.startswith("backbone.blocks") and "rel_pos" not in name]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    account = json.loads((run.folder / "account.json").read_text())
    assert 1 <= account["images"]["train"] <= len(account["classes"]["train"])
    found = beit.evaluate(run.folder, data=tmp_path / "data", kind="segmenter", workers=0)
    assert found.images >= 1
