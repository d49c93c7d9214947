"""Chains of training: a run that starts from another one starts where that one ended, and says so.

What each kind of model keeps of each other is in `weights/test_warm_start.py`; here are the verbs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import beit
from beit.batch import MaskedBatch
from beit.cli import main
from beit.config import (
    AggregationConfig,
    FinetuneRunConfig,
    MaskedConfig,
    PretrainRunConfig,
    SegmentRunConfig,
)
from beit.config.tree import override
from beit.errors import CheckpointError
from beit.models.vit import VisionTransformer
from beit.objectives.masked import MaskedImageModeling
from beit.recipes import find_recipe
from beit.tasks import Inputs, execution, finetuning, inputs, pretraining, segmenting, starting_from
from beit.tokenizers.base import VisualTokenizer
from beit.training.distributed import Processes
from beit.weights.store import load_artifact
from segmented_folder import write_folder

CPU = Processes(0, 1, torch.device("cpu"))
FEW: dict[str, Any] = {
    "workers": 0, "device": "cpu", "precision": "fp32", "steps": 2, "warmup_steps": 0,
}  # fmt: skip
PRETRAIN: dict[str, Any] = FEW | {"accept_collapsed": True, "knn_images": 0}
QUIET: dict[str, Any] = {"quiet": True, "report": False}


def config_of(verb: str, kind: type[Any], init: Path, **options: Any) -> Any:
    config = starting_from(find_recipe(verb, "tiny", kind), str(init))
    return override(config, options | {"out": "nowhere"})


def tokenizer_of(run: Path) -> VisualTokenizer:
    model = load_artifact(run).model
    assert isinstance(model, VisualTokenizer)
    return model.freeze()


# -- pre-training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(trained, class_folders, tmp_path_factory) -> Path:
    """A pre-training with patch aggregation."""
    return beit.pretrain(
        "tiny", data=str(class_folders), tokenizer=str(trained.tokenizer), early_layer=2, lr=1e-2,
        layer_scale=0.1, out=str(tmp_path_factory.mktemp("second") / "run"), **PRETRAIN, **QUIET,
    ).folder  # fmt: skip


def a_batch() -> MaskedBatch:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mask = torch.rand(3, 64).argsort(dim=1) < 24
    return MaskedBatch(images, images, mask, ("a", "b", "c"))


def test_pre_training_starts_at_the_loss_where_its_source_ended(trained, class_folders, second):
    """Of both predictions of BEiT v2; nobody would believe a loss at chance."""
    batch, ended = a_batch(), load_artifact(second).model
    tokenizer = tokenizer_of(trained.tokenizer)
    before = MaskedImageModeling(ended, MaskedConfig(), tokenizer).eval()(batch, 0.0).terms
    config = config_of(
        "pretrain", PretrainRunConfig, second,
        data=str(class_folders), tokenizer=str(trained.tokenizer), early_layer=2,
        tokenizer_precision="fp32", **PRETRAIN,
    )  # fmt: skip
    task = pretraining.prepare(config, CPU, Inputs())
    after = task.objective.eval()(batch, 0.0).terms
    for name in ("loss", "aggregation_loss"):
        assert abs(float(after[name] - before[name])) < 1e-6
    assert task.start == (
        f"taken from {second}: backbone, final norm, prediction head, patch aggregation",
        f"not taken from {second}: nothing",
    )
    fresh = pretraining.prepare(replace(config, init=""), CPU, Inputs())
    assert abs(float(fresh.objective.eval()(batch, 0.0).terms["loss"] - before["loss"])) > 1e-3
    assert fresh.start == ()


def test_another_tokenizer_starts_the_head_anew(trained, class_folders, tmp_path, second, capsys):
    other = tmp_path / "tokenizer"
    beit.tokenizer("tiny", data=str(class_folders), out=str(other), seed=7, **FEW, **QUIET)
    words = ["pretrain", "tiny", "--data", class_folders, "--out", tmp_path / "run", "--init",
             second, "--tokenizer", other, "--steps", "2", "--warmup-steps", "0", "--workers", "0",
             "--accept-collapsed", "--knn-images", "0", "--device", "cpu"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    told, log = capsys.readouterr().out, (tmp_path / "run" / "log.txt").read_text()
    for text in (told, log):
        assert f"taken from {second}: backbone, final norm\n" in text
        assert "prediction head (it predicts another tokenizer's codes), patch aggreg" in text
        assert "new, with initial weights: prediction head\n" in text

    assert main([*map(str, words), "--resume"]) == 0  # these weights are the checkpoint's
    assert "taken from" not in capsys.readouterr().out
    assert (tmp_path / "run" / "log.txt").read_text().count("taken from") == 2


def test_drop_path_and_tap_are_the_recipe_s(second):
    recipe = find_recipe("pretrain", "tiny", PretrainRunConfig)
    mine = replace(
        recipe,
        model=replace(recipe.model, drop_path=0.3, layer_scale=0.2),
        aggregation=AggregationConfig(early_layer=1),
    )
    config = starting_from(mine, str(second))
    theirs = load_artifact(second).backbone
    assert (theirs.drop_path, theirs.layer_scale) == (0.0, 0.1)
    assert replace(config.model, drop_path=0.0, layer_scale=0.1) == theirs
    assert (config.model.drop_path, config.model.layer_scale) == (0.3, 0.2)
    assert config.aggregation.early_layer == 1
    plain = replace(mine, model=replace(mine.model, layer_scale=None))
    assert starting_from(plain, str(second)).model.layer_scale == 0.1  # which it has
    assert (config.views, config.masking, config.training) == (
        mine.views, mine.masking, mine.training,
    )  # fmt: skip


def test_what_training_adds_is_the_recipe_s_in_every_verb(trained):
    for verb, kind in (("finetune", FinetuneRunConfig), ("segment", SegmentRunConfig)):
        recipe = find_recipe(verb, "tiny", kind)
        mine = replace(recipe, model=replace(recipe.model, drop_path=0.3))
        config = starting_from(mine, str(trained.classifier))
        assert config.model.drop_path == 0.3
        assert replace(config, init="", model=mine.model) == mine


# -- each model is opened once -------------------------------------------------------------------


def test_models_and_folders_are_opened_once_and_no_backbone_is_built_in_vain(
    trained, class_folders, tmp_path, monkeypatch
):
    opened: list[str] = []
    walked: list[str] = []
    built: list[VisionTransformer] = []
    real, make, scan = inputs.open_artifact, VisionTransformer.__init__, os.scandir
    train = execution.run_training

    def scanning(place: Any = ".") -> Any:
        if Path(place).parent == class_folders:
            walked.append(str(place))
        return scan(place)

    def counting(reference: str) -> Any:
        opened.append(reference)
        return real(reference)

    def building(self: VisionTransformer, config: Any) -> None:
        make(self, config)
        if self.cls_token.device.type != "meta":  # where the shapes of weights are compared
            built.append(self)

    def training(*args: Any, **others: Any) -> Any:
        assert not args[-1]._data  # paths of millions of files are not held while a model learns
        return train(*args, **others)

    monkeypatch.setattr(execution, "run_training", training)
    monkeypatch.setattr(os, "scandir", scanning)
    monkeypatch.setattr(inputs, "open_artifact", counting)
    monkeypatch.setattr(VisionTransformer, "__init__", building)
    words = ["pretrain", "tiny", "--data", class_folders, "--out", tmp_path / "run", "--init",
             trained.pretrained, "--tokenizer", trained.tokenizer, "--steps", "1",
             "--warmup-steps", "0", "--workers", "0", "--accept-collapsed", "--quiet",
             "--device", "cpu"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("beit.tasks.execution.write_page", lambda folder, *_: folder)
        assert main([str(word) for word in words]) == 0
    assert sorted(opened) == sorted([str(trained.pretrained), str(trained.tokenizer)])
    assert len(built) == 2  # that of the artifact, and the one that learns
    classes = [place for place in class_folders.iterdir() if place.is_dir()]
    assert sorted(walked) == sorted(map(str, classes))


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "segment"])
def test_weights_that_do_not_fit_are_refused_before_data_are_read(verb, trained, tmp_path):
    with pytest.raises(CheckpointError, match="depth is 6, and 4 in the weights"):
        getattr(beit, verb)(
            "tiny", data="nowhere", out=str(tmp_path / "run"), init=str(trained.pretrained), depth=6
        )
    assert not (tmp_path / "run").exists()


# -- classification ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(trained, class_folders, tmp_path_factory) -> Path:
    """A fine-tuning that has learned something."""
    return beit.finetune(
        "tiny", data=str(class_folders), init=str(trained.pretrained), lr=3e-3,
        out=str(tmp_path_factory.mktemp("classifier") / "run"), **(FEW | {"steps": 12}), **QUIET,
    ).folder  # fmt: skip


def evaluated(data: Path, init: Path, **options: Any) -> tuple[dict[str, float], Any]:
    """What a fine-tuning would measure before its first step."""
    config = config_of("finetune", FinetuneRunConfig, init, data=str(data), **FEW, **options)
    task = finetuning.prepare(config, CPU, Inputs())
    return dict(task.evaluation.measure(task.objective.model.eval())), task


def test_fine_tuning_starts_at_the_score_where_its_source_ended(class_folders, classifier):
    ended = load_artifact(classifier).details.trained["metrics"]
    found, task = evaluated(class_folders, classifier)
    assert found == pytest.approx(ended, abs=1e-6)
    assert task.start[0].endswith("backbone, final norm, head for 3 classes")


def test_also_at_another_size(class_folders, classifier):
    """The second stage at a larger size keeps norm and head; only positions are resized."""
    _, task = evaluated(class_folders, classifier, size=(40, 40))
    assert "positions resized from (8, 8) to (10, 10) patches" in task.start[0]
    assert task.start[0].endswith("final norm, head for 3 classes")
    source = load_artifact(classifier).model.head.state_dict()
    for name, value in task.objective.model.head.state_dict().items():
        assert torch.equal(value, source[name])


def test_the_same_classes_in_another_order_are_found_by_name(class_folders, classifier, tmp_path):
    """The folders were renamed, and sort otherwise than the outputs of the model."""
    renamed = {"disc": "b", "stripes": "c", "tiles": "a"}
    source = shutil.copytree(classifier / "model", tmp_path / "model")
    config = (source / "config.json").read_text()
    for old, new in renamed.items():
        shutil.copytree(class_folders / old, tmp_path / "data" / new)
        config = config.replace(f'"{old}"', f'"{new}"')
    (source / "config.json").write_text(config)
    _, task = evaluated(tmp_path / "data", source)
    assert "rows in the order of the classes here" in task.start[0]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    answers = load_artifact(classifier).model(images)
    there, here = ["b", "c", "a"], ["a", "b", "c"]
    permuted = answers[:, [there.index(name) for name in here]]
    torch.testing.assert_close(task.objective.model.eval()(images), permuted, atol=1e-6, rtol=0)


# -- segmentation --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("segmented"))


@pytest.fixture(scope="module")
def segmenter(segmented, trained, tmp_path_factory) -> Path:
    return beit.segment(
        "tiny", data=str(segmented), init=str(trained.pretrained), lr=3e-3, short_side=40,
        out=str(tmp_path_factory.mktemp("segmenter") / "run"), **(FEW | {"steps": 40}), **QUIET,
    ).folder  # fmt: skip


def test_a_segmenter_goes_on_where_it_ended(segmented, segmenter, tmp_path, capsys):
    ended = load_artifact(segmenter).details.trained["metrics"]
    assert ended["miou"] > 0.6  # always ground: 0.22
    config = config_of(
        "segment", SegmentRunConfig, segmenter, data=str(segmented), short_side=40, **FEW
    )
    task = segmenting.prepare(config, CPU, Inputs())
    found = dict(task.evaluation.measure(task.objective.model.eval()))
    assert found == pytest.approx(ended, abs=1e-6)

    words = ["segment", "tiny", "--data", segmented, "--out", tmp_path / "run", "--init", segmenter,
             "--steps", "2", "--warmup-steps", "1", "--lr", "1e-5", "--short-side", "40",
             "--workers", "0", "--device", "cpu"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    assert "decode head for 3 classes, auxiliary head for 3 classes\n" in capsys.readouterr().out
    again = load_artifact(tmp_path / "run").details.trained["metrics"]
    assert abs(again["miou"] - ended["miou"]) < 0.05


def test_a_segmenter_of_a_classifier_leaves_norm_and_head_as_published(segmented, classifier):
    config = config_of("segment", SegmentRunConfig, classifier, data=str(segmented), **FEW)
    task = segmenting.prepare(config, CPU, Inputs())
    assert task.start == (
        f"taken from {classifier}: backbone",
        f"not taken from {classifier}: final norm (a segmentation head reads blocks without it), "
        "head for 3 classes (of another task)",
        "new, with initial weights: neck, decode head, auxiliary head",
    )


def test_the_commands_of_the_page_run_in_their_order(
    trained, class_folders, tmp_path, monkeypatch, capsys
):
    for name in ("images", "labelled"):
        shutil.copytree(class_folders, tmp_path / name)
    write_folder(tmp_path / "segmented")
    shutil.copytree(trained.pretrained, tmp_path / "runs" / "pretrain")
    shutil.copytree(trained.tokenizer, tmp_path / "runs" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1].joinpath("docs", "runs.md").read_text()
    section = page.partition("## Continue from a model")[2].partition("\n## ")[0]
    lines = re.findall(r"^beit (.*)$", section, re.MULTILINE)
    assert len(lines) == 5
    said = []
    for verb, *rest in map(shlex.split, lines):
        extra = ["--accept-collapsed"] if verb == "pretrain" else []
        options = ["--steps", "2", "--warmup-steps", "1", "--batch", "4", "--workers", "0"]
        assert main([verb, "tiny", *rest, *options, *extra]) == 0, capsys.readouterr().err
        said.append(capsys.readouterr().out)
    assert "final norm, prediction head\n" in said[0]
    for line in re.findall(r"^(?:not )?taken from .*$", section, re.MULTILINE):
        assert line + "\n" in said[2]
    assert "neck, decode head for 3 classes, auxiliary head for 3 classes\n" in said[4]
