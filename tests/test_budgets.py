"""`--time`: what is chosen, what wins over it, what is said, and that a run goes on with it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import beit
from beit.config import (
    FinetuneRunConfig,
    LinearHeadConfig,
    MaskedConfig,
    PretrainRunConfig,
    UperNetConfig,
)
from beit.config.tree import by_name, override
from beit.config.validation import seconds_of
from beit.errors import ConfigError
from beit.recipes import RECIPES, find_recipe
from beit.recipes.budgets import BUDGETS, LABELLED_LR, fitting_size
from beit.tasks import TASKS, Inputs, budget, execution, rehearsal, run_config
from beit.training.distributed import Processes
from beit.training.run_folder import read_run_config
from segmented_folder import write_folder

CPU = Processes(0, 1, torch.device("cpu"))
QUICK: dict[str, Any] = {
    "workers": 0, "device": "cpu", "precision": "fp32", "quiet": True, "report": False,
    "tracker": ("none",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("1h30m", 5400), ("8 h", 28800)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["1", "1 hour", "h", "5s", "-1h", "1h!", "90d", "nan"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match=r"time is .*\n.*1h30m"):
        override(find_recipe("pretrain", "small", PretrainRunConfig), {"time": text})


def test_every_row_names_recipes_there_are_and_grows():
    for device in ("cpu", "cuda"):
        rows = [row for row in BUDGETS if row.device == device]
        assert rows[0].enough == 0
        assert [row.enough for row in rows] == sorted(row.enough for row in rows)
        assert all(row.tokenizer in RECIPES["tokenizer"] for row in rows)
        assert all(row.width % row.heads == 0 and row.size % row.patch == 0 for row in rows)


@pytest.mark.parametrize(("shortest", "expected"), [(500, (64, 8)), (48, (48, 8)), (33, (32, 4))])
def test_images_are_not_enlarged(shortest, expected):
    assert fitting_size(BUDGETS[0], shortest) == expected


@pytest.fixture
def timed(monkeypatch):
    """Steps that cost what they are said to, on any machine: seconds per image and million weights
    of the trunk."""

    def per_step(setup, _processes, **_allowance):
        weights = sum(tensor.numel() for tensor in setup.objective.model.parameters())
        return setup.config.training.batch * max(weights, 10_000) / 1e6 * 1e-3

    monkeypatch.setattr(rehearsal, "rehearse", per_step)
    monkeypatch.setattr(rehearsal, "evaluation_seconds", lambda *_: 1.0)


def plan(verb, data, text, **given):
    kind = TASKS[verb].config
    given |= {"data": str(data), "out": "nowhere", "time": text, "device": "cpu", "workers": 0}
    config = find_recipe(verb, "small", kind)
    if "init" in given:
        config = run_config.starting_from(config, given["init"])
    config = override(config, given)
    return budget.make_plan(TASKS[verb], config, given, False, Inputs())


def test_more_time_takes_a_larger_backbone(timed, class_folders):
    short, long = (plan("pretrain", class_folders, text).config for text in ("5m", "8h"))
    assert (short.model.width, short.model.depth) == (128, 6)
    assert (long.model.width, long.model.depth) == (192, 12)
    assert short.model.size == (40, 40)  # as the images are
    assert short.tokenizer_recipe == "kmeans"
    assert 0 < short.training.warmup_steps < short.training.steps


def test_it_ends_in_time_or_when_more_would_bring_little(timed, class_folders):
    made = plan("pretrain", class_folders, "5m")
    measured, config = made.measured, made.config
    most = budget.most_steps("pretrain", 36, config.training.batch)
    assert config.training.steps == min(most, measured.steps(300))
    long = plan("finetune", class_folders, "8h")
    assert long.config.training.steps == budget.most_steps("finetune", long.measured.images, 16)
    assert any("more steps would bring little" in line for line in long.lines)


def test_a_short_fine_tuning_has_a_high_rate_and_mild_augmentation(timed, class_folders, tmp_path):
    """Also from a model, which decides the backbone: a rate of the published recipes, and what
    they augment with, learned next to nothing in some hundred steps."""
    beit.pretrain(
        "tiny",
        data=str(class_folders),
        out=str(tmp_path / "pre"),
        objective=MaskedConfig(target="pixels"),
        steps=1,
        **QUICK,
    )
    for given in ({}, {"init": str(tmp_path / "pre")}):
        config = plan("finetune", class_folders, "30s", **given).config
        assert config.training.lr / config.training.batch == LABELLED_LR[256] / 64
        assert config.augment.mixup == config.augment.cutmix == 0


def test_a_segmenter_on_a_cpu_has_a_linear_head_unless_another_goes_on(timed, tmp_path):
    data = write_folder(tmp_path / "masks")
    assert plan("segment", data, "30s").config.head == LinearHeadConfig()
    given = {"head_channels": 16, "auxiliary_channels": 8}
    made = plan("segment", data, "30s", **given).config.head
    assert isinstance(made, UperNetConfig)
    assert made.head_channels == 16
    place = str(tmp_path / "segmenter")
    beit.segment("tiny", data=str(data), out=place, steps=1, **QUICK)
    again = plan("segment", data, "30s", init=place).config.head
    assert again == read_run_config(tmp_path / "segmenter").head
    assert isinstance(again, UperNetConfig)


def test_an_apple_gpu_is_planned_for_as_a_gpu(timed, monkeypatch, class_folders):
    apple = Processes(0, 1, torch.device("mps"))
    monkeypatch.setattr(budget, "start_processes", lambda _: apple)
    made = plan("finetune", class_folders, "5m")
    assert "on an Apple GPU" in made.lines[0]
    assert made.config.model.width == next(row for row in BUDGETS if row.device == "cuda").width


def test_what_was_given_wins(timed, class_folders):
    given = {"width": 96, "heads": 3, "steps": 7, "lr": 5e-4, "batch": 4, "patch": 4}
    given |= {"tokenizer_recipe": "small"}  # which takes more than its part of the time
    config = plan("pretrain", class_folders, "5m", **given).config
    assert by_name(config).items() >= given.items()


def test_the_plan_says_what_why_how_long_and_what_else(timed, class_folders):
    told = "\n".join(plan("pretrain", class_folders, "5m").lines)
    for word in ("what ", "why ", "time ", "expect ", "instead ", "beit-base-22k", "36 images",
                 "kmeans", "% from scratch"):  # fmt: skip
        assert word in told


def test_a_time_in_which_nothing_fits_is_said_to_be_too_short(monkeypatch, class_folders):
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_, **__: 100.0)
    monkeypatch.setattr(rehearsal, "evaluation_seconds", lambda *_: 60.0)
    told = "\n".join(plan("pretrain", class_folders, "2m").lines)
    assert "1 step of " in told
    assert "of 2 min: that does not fit, give it more" in told


def test_a_run_of_a_time_records_its_plan_and_goes_on_with_it(timed, class_folders, tmp_path,
                                                              monkeypatch, capsys):  # fmt: skip
    """A named recipe decides all but the length: here one of a few steps."""
    monkeypatch.setattr(budget, "most_steps", lambda *_: 3)
    out = str(tmp_path / "run")
    run = beit.finetune(
        "tiny", data=str(class_folders), out=out, time="1m", **QUICK | {"quiet": False}
    )
    waits, made, *_ = capsys.readouterr().out.splitlines()
    assert waits.startswith("planning for 1m: ")  # before it is silent
    assert made.startswith("plan for 1m of finetune")
    assert "plan for 1m of finetune" in (run.folder / "plan.txt").read_text()
    config = read_run_config(run.folder)
    assert isinstance(config, FinetuneRunConfig)
    assert (config.time, config.training.steps) == ("1m", 3)
    monkeypatch.setattr(execution, "make_plan", lambda *_: pytest.fail("plans again"))
    again = beit.finetune("tiny", data=str(class_folders), out=out, time="1m", resume=True, **QUICK)
    assert again == run


def test_several_processes_are_told(monkeypatch, class_folders):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"one process\n.*--steps"):
        plan("pretrain", class_folders, "5m")


def test_a_rehearsal_leaves_the_run_as_it_is(class_folders):
    task = TASKS["finetune"]
    config = override(
        find_recipe("finetune", "tiny", FinetuneRunConfig),
        {"data": str(class_folders), "workers": 0, "device": "cpu", "precision": "fp32"},
    )
    setup = task.prepare(config, CPU, Inputs())
    before = {name: value.clone() for name, value in setup.objective.state_dict().items()}
    drawn = torch.get_rng_state()
    began = time.monotonic()
    step = rehearsal.rehearse(setup, CPU, allowance=1.0)
    assert step is not None
    assert 0 < step < time.monotonic() - began
    assert torch.equal(drawn, torch.get_rng_state())
    for name, value in setup.objective.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_long_run_says_how_long_and_that_small_is_for_a_gpu(timed, class_folders):
    config = override(
        find_recipe("finetune", "small", FinetuneRunConfig),
        {"data": str(class_folders), "workers": 0, "device": "cpu"},
    )
    setup = TASKS["finetune"].prepare(config, CPU, Inputs())
    first, second = rehearsal.forecast(setup, CPU)
    assert "here for 5,000 steps of 128" in first
    assert "--time 1h" in second
    tiny = find_recipe("finetune", "tiny", FinetuneRunConfig)
    quick = TASKS["finetune"].prepare(override(tiny, {"data": str(class_folders)}), CPU, Inputs())
    assert list(rehearsal.forecast(quick, CPU)) == []


def test_a_tokenizer_is_announced_before_it_is_trained(timed, class_folders, tmp_path):
    config = override(
        find_recipe("pretrain", "small", PretrainRunConfig),
        {"data": str(class_folders), "out": str(tmp_path / "run"), "workers": 0, "device": "cpu"},
    )
    told = list(rehearsal.forecast_with_first(TASKS["pretrain"], config, Inputs()))
    assert "no tokenizer was named" in told[0]
    assert str(tmp_path / "run-tokenizer") in told[0]
    assert "for the tokenizer" in told[1]
    assert "20,000 steps" in told[2]
    named = override(config, {"tokenizer": "somewhere"})
    assert list(rehearsal.forecast_with_first(TASKS["pretrain"], named, Inputs())) == []


def test_what_a_step_costs_whatever_it_holds_is_not_multiplied():
    """A second for each step and 0.1 for each image, measured with 8 and 32 of them."""
    steps = [(8, 1.8), (32, 4.2)]
    assert rehearsal._extended(steps, 128) == pytest.approx(13.8)
    assert rehearsal._extended(steps[:1], 128) == pytest.approx(1.8 * 16)
    assert rehearsal._extended([(8, 2.0), (32, 2.0)], 64) == pytest.approx(3.0)
