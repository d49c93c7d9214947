"""Runs end to end: each verb, stopped and resumed, and one process against two."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import beit
from beit import tasks
from beit.config import (
    AugmentConfig,
    FinetuneRunConfig,
    MaskedConfig,
    PretrainRunConfig,
    UniformMasking,
)
from beit.config.tree import override
from beit.errors import CheckpointError, ConfigError, DataError, Preempted
from beit.objectives.classify import Classification
from beit.objectives.tokenizer import VQDistillation
from beit.recipes import find_recipe
from beit.tasks import own_tokenizer, starting_from
from beit.tasks.finished import report_run
from beit.training.checkpoint import newest_checkpoint
from beit.training.run_folder import read_run_config
from beit.weights.load import open_tokenizer
from beit.weights.store import load_artifact, read_described

QUICK: dict[str, Any] = {
    "accept_collapsed": True,
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32",
    "knn_images": 0, "steps": 3, "warmup_steps": 1,
}  # fmt: skip
VARIED = {"augment": AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.5), "average": 0.9,
          "drop_path": 0.2, "steps": 6, "save_every": 2, "log_every": 1,
          "evaluate_every": 3}  # fmt: skip


def options(**changes: Any) -> dict[str, Any]:
    """Those of QUICK with changes, for any verb but pre-training."""
    kept = {
        name: value
        for name, value in QUICK.items()
        if name not in ("knn_images", "accept_collapsed")
    }
    return kept | changes


def train_losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_what_a_run_leaves_behind(trained):
    for folder in trained:
        found = {path.name for path in folder.iterdir()}
        assert found >= {"config.json", "metrics.jsonl", "log.txt", "checkpoints", "model",
                         "tensorboard"}  # fmt: skip
    assert (trained.classifier / "last").is_dir()
    assert read_run_config(trained.pretrained).recipe == "tiny"
    assert len(list(trained.pretrained.glob("checkpoints/step-*"))) == 1


def test_finetuning_starts_from_the_pretrained_weights(trained, class_folders, tmp_path):
    """With a learning rate that moves nothing, the backbone stays what it was."""
    tasks.finetune(
        "tiny", data=str(class_folders), init=str(trained.pretrained), out=str(tmp_path / "run"),
        **options(lr=1e-12, min_lr=0.0),
    )  # fmt: skip
    before, after = (load_artifact(path).model for path in (trained.pretrained, tmp_path / "run"))
    source = before.backbone.state_dict()
    for name, tensor in after.backbone.state_dict().items():
        torch.testing.assert_close(tensor, source[name], atol=1e-8, rtol=0)
    assert not any("mask_token" in name for name in after.state_dict())


def test_a_recipe_that_is_for_a_larger_image_keeps_its_size(trained):
    """Elsewhere the size is the backbone's; --size comes after both."""
    init, tiny = str(trained.pretrained), find_recipe("finetune", "tiny", FinetuneRunConfig)
    recipe = replace(tiny, model=replace(tiny.model, size=(48, 64)))
    assert starting_from(recipe, init).model.size == tiny.model.size
    larger = starting_from(replace(recipe, model=replace(tiny.model, size=(240, 256))), init)
    assert larger.model.size == (240, 256)
    assert override(larger, {"size": (40, 40)}).model.size == (40, 40)


def test_the_python_call_takes_what_the_command_line_takes(trained, class_folders, tmp_path):
    run = beit.pretrain(
        "tiny", data=str(class_folders), tokenizer=str(trained.tokenizer), out=str(tmp_path / "a"),
        depth=2, mask_ratio=0.5, **QUICK,
    )  # fmt: skip
    config = read_run_config(run.folder)
    assert (config.model.depth, config.masking.mask_ratio) == (2, 0.5)
    assert run.artifact == tmp_path / "a" / "model"
    with pytest.raises(ConfigError, match=r"no option 'maskratio'[\s\S]*'mask_ratio'"):
        beit.pretrain("tiny", maskratio=0.5)


def test_pretraining_trains_its_own_tokenizer(class_folders, tmp_path, monkeypatch):
    """On the patch grid, with half the patch as stride; and only once."""
    real = own_tokenizer.matching_tokenizer
    monkeypatch.setattr(
        own_tokenizer,
        "matching_tokenizer",
        lambda *given: override(real(*given), {"steps": 2, "warmup_steps": 0}),
    )
    out = tmp_path / "run"
    run = beit.pretrain("tiny", data=str(class_folders), out=str(out), size=(24, 40), **QUICK)
    tokenizer_run = tmp_path / "run-tokenizer"
    tokenizer = open_tokenizer(tokenizer_run)
    assert (tokenizer.grid, tokenizer.size) == ((6, 10), (12, 20))
    assert read_described(run.artifact).details.tokenizer == tokenizer.digest()
    assert read_run_config(out).tokenizer == str(tmp_path / "run-tokenizer")
    first, second = ((folder / "log.txt").read_text() for folder in (run.folder, tokenizer_run))
    assert f"data: {class_folders}: the same images as for {tokenizer_run}" in first
    assert "one folder per class" not in first
    assert "one folder per class" in second
    monkeypatch.setattr(own_tokenizer, "matching_tokenizer", pytest.fail)
    again = beit.pretrain(
        "tiny", data=str(class_folders), out=str(out), size=(24, 40), resume=True, **QUICK
    )
    assert again == run


def test_a_collapsed_tokenizer_is_refused_unless_insisted(class_folders, trained, tmp_path):
    sick = shutil.copytree(trained.tokenizer, tmp_path / "sick")
    config = json.loads((sick / "model" / "config.json").read_text())
    config["trained"]["metrics"] |= {"collapsed": 1.0, "codes_in_use": 3.0, "perplexity": 1.4}
    (sick / "model" / "config.json").write_text(json.dumps(config))
    given = QUICK | {"data": str(class_folders), "tokenizer": str(sick)}
    with pytest.raises(ConfigError, match=r"has collapsed: it uses 3 codes[\s\S]*accept-collapsed"):
        beit.pretrain(
            "tiny", out=str(tmp_path / "refused"), **(given | {"accept_collapsed": False})
        )
    assert not (tmp_path / "refused").exists()
    assert beit.pretrain("tiny", out=str(tmp_path / "run"), **given).artifact.exists()


@pytest.mark.parametrize(
    "nodes",
    [
        {"objective": MaskedConfig(target="pixels")},
        {"masking": UniformMasking(mask_ratio=0.4)},
        {"objective": MaskedConfig(predict="all")},
        {
            "objective": MaskedConfig(predict="all"),
            "masking": UniformMasking(mask_ratio=0.0),
        },
    ],
    ids=["pixels", "uniform", "all", "no masking"],
)
def test_ablations_of_table_4(trained, class_folders, tmp_path, nodes):
    tokenizer = "" if "pixels" in str(nodes) else str(trained.tokenizer)
    run = beit.pretrain(
        "tiny", data=str(class_folders), out=str(tmp_path / "run"), tokenizer=tokenizer,
        log_every=1, **nodes, **QUICK,
    )  # fmt: skip
    assert len(train_losses(run.folder)) == 3
    assert load_artifact(run.folder).model.outputs == (32 if tokenizer else 48)


def test_nothing_to_predict_is_refused():
    config = find_recipe("pretrain", "tiny", PretrainRunConfig)
    with pytest.raises(ConfigError, match=r"mask_ratio is 0[\s\S]*--predict all"):
        beit.pretrain(config, mask_ratio=0.0)


def test_a_folder_without_classes_is_scored_by_retrieval(trained, class_folders, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in class_folders.glob("*/0*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    run = beit.pretrain(
        "tiny", data=str(flat), out=str(tmp_path / "run"), tokenizer=str(trained.tokenizer),
        **(QUICK | {"knn_images": 20}),
    )  # fmt: skip
    assert set(run.metrics) == {"retrieval", "retrieval_block"}


def test_grey_images(class_folders, tmp_path):
    settings = options(channels=1)
    beit.tokenizer("tiny", data=str(class_folders), out=str(tmp_path / "tok"), **settings)
    run = beit.pretrain(
        "tiny", data=str(class_folders), out=str(tmp_path / "pre"), channels=1, mean=(0.5,),
        std=(0.5,), tokenizer=str(tmp_path / "tok"), **QUICK,
    )  # fmt: skip
    assert beit.load(run.folder).channels == 1


def finetune(data: Path, out: Path, **changes: Any) -> tasks.Run:
    return tasks.finetune("tiny", data=str(data), out=str(out), **options(**(VARIED | changes)))


@pytest.fixture(scope="module")
def whole(class_folders, tmp_path_factory) -> Path:
    """An uninterrupted fine-tuning with everything that is random in it."""
    return finetune(class_folders, tmp_path_factory.mktemp("whole") / "run").folder


def test_readers_that_die_change_nothing(class_folders, whole, tmp_path, monkeypatch):
    """One dies while the model computes; the run goes on with others and tells it."""
    forward, calls = Classification.forward, []

    def killing(*inputs: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            (reader,) = multiprocessing.active_children()
            os.kill(reader.pid, signal.SIGKILL)
            reader.join()
        return forward(*inputs, **options)

    monkeypatch.setattr(Classification, "forward", killing)
    finetune(class_folders, tmp_path / "run", workers=1)
    assert_same_run(whole, tmp_path / "run")
    assert "images were lost and replaced: 1\n" in (tmp_path / "run" / "log.txt").read_text()
    assert (
        json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-2])[
            "reader_restarts"
        ]
        == 1
    )


def assert_same_run(one: Path, other: Path) -> None:
    first, second = (newest_checkpoint(run / "checkpoints").checkpoint for run in (one, other))
    assert (first.step, first.values) == (second.step, second.values)
    for group, tensors in first.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second.tensors[group][name]), f"{group} {name}"
    assert train_losses(one) == train_losses(other)
    for artifact in ("model", "last"):
        weights = [(run / artifact / "model.safetensors").read_bytes() for run in (one, other)]
        assert weights[0] == weights[1]


@pytest.mark.parametrize(("workers", "stop_after"), [(0, 1), (1, 3), (0, 5)])
def test_stopped_and_resumed_equals_uninterrupted(
    class_folders, whole, tmp_path, monkeypatch, workers, stop_after
):
    def after_step(self, step):
        if step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "after_step", after_step)
        with pytest.raises(Preempted):
            finetune(class_folders, tmp_path / "run", workers=workers)
    finetune(class_folders, tmp_path / "run", workers=1 - workers, resume=True)
    assert_same_run(whole, tmp_path / "run")


def command(out: Path, data: Path, *more: str) -> list[str]:
    """The fine-tuning of `options()` on the command line."""
    return ["finetune", "tiny", "--data", str(data), "--out", str(out), "--workers", "0",
            "--device", "cpu", "--precision", "fp32", "--log-every", "1", "--save-every", "1000",
            *more]  # fmt: skip


def test_sigterm_saves_and_leaves_with_75(class_folders, tmp_path, environment):
    from beit.cli import main

    length = ("--steps", "40", "--quiet")
    out = tmp_path / "run"
    arguments = [sys.executable, "-m", "beit.cli", *command(out, class_folders, *length)]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as run:
        log = out / "log.txt"
        while run.poll() is None and not (log.exists() and "step  3/40" in log.read_text()):
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=240)
    assert run.returncode == 75, told
    assert "stopped on request" in told
    assert "--resume" in told
    assert main([*command(out, class_folders, *length), "--resume"]) == 0
    assert "going on after step" in log.read_text()
    assert main(command(tmp_path / "whole", class_folders, *length)) == 0
    weights = [load_file(run / "last" / "model.safetensors") for run in (out, tmp_path / "whole")]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_the_recorded_config_repeats_the_run(whole, tmp_path):
    """Bit for bit, and records itself again but for its folder."""
    config = replace(read_run_config(whole), out=str(tmp_path / "again"))
    tasks.finetune(config, quiet=True, report=False)
    assert train_losses(tmp_path / "again") == train_losses(whole)
    first, second = (
        load_file(run / "model/model.safetensors") for run in (whole, tmp_path / "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_run_config(tmp_path / "again") == config


def test_finished_runs_are_done(class_folders, whole, capsys):
    before = (whole / "metrics.jsonl").read_bytes()
    again = finetune(class_folders, whole, resume=True, quiet=False)
    assert "this run was already done: 6 of 6 steps" in capsys.readouterr().out
    assert again.metrics
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_rotten_data_stops_a_run_and_is_named(class_folders, tmp_path):
    shutil.copytree(class_folders, tmp_path / "data")
    for number in range(4):
        (tmp_path / "data" / "disc" / f"{number:02}.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"disc/0\d\.png"):
        beit.tokenizer("tiny", data=str(tmp_path / "data"), out=str(tmp_path / "run"),
                       **options(steps=20))  # fmt: skip


def test_a_tokenizer_has_no_backbone_to_start_from(trained, class_folders, tmp_path):
    with pytest.raises(CheckpointError, match="holds a tokenizer, which has no backbone"):
        finetune(class_folders, tmp_path / "run", init=str(trained.tokenizer))


def test_vqkd_needs_a_teacher_before_anything_is_written(class_folders, tmp_path):
    with pytest.raises(ConfigError, match=r"none was named\n.*--teacher clip"):
        beit.tokenizer("vqkd-tiny", data=str(class_folders), out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_tokens_of_a_teacher_are_predicted_and_it_goes_on(
    class_folders, trained, tmp_path, monkeypatch
):
    """VQ-KD from a run of ours, stopped and taken up, then pre-training on its tokens."""
    shared = {"data": str(class_folders), "teacher": str(trained.pretrained)}
    whole = beit.tokenizer("vqkd-tiny", out=str(tmp_path / "whole"), **shared,
                           **options(steps=8, save_every=4))  # fmt: skip
    assert "psnr" not in whole.metrics
    assert whole.metrics["codes_in_use"] > 1
    assert "with the teacher" in report_run(whole.folder).read_text()
    original = VQDistillation.after_step

    def after_step(self, step):
        if step + 1 == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(VQDistillation, "after_step", after_step)
        with pytest.raises(Preempted):
            beit.tokenizer("vqkd-tiny", out=str(tmp_path / "again"), **shared,
                           **options(steps=8, save_every=4))  # fmt: skip
    again = beit.tokenizer("vqkd-tiny", out=str(tmp_path / "again"), **shared, resume=True,
                           **options(steps=8, save_every=4))  # fmt: skip
    one, two = (load_file(run.artifact / "model.safetensors") for run in (whole, again))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    pretrained = beit.pretrain("tiny", data=str(class_folders), out=str(tmp_path / "pretrained"),
                               tokenizer=str(tmp_path / "whole"), **options(steps=3))  # fmt: skip
    assert pretrained.artifact.is_dir()


def test_vq_paints_without_a_teacher(class_folders, tmp_path):
    run = beit.tokenizer("vq-tiny", data=str(class_folders), out=str(tmp_path / "run"),
                         **options(steps=4))  # fmt: skip
    assert run.metrics["psnr"] > 0
    assert "Decoded from its tokens" in report_run(run.folder).read_text()
