"""The demo end to end on a made-up world, stopped and taken up again; and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from beit.errors import RunFolderError
from beit.recipes.demo import Budget, DemoPlan, full, short
from beit.studies import stages, tiles
from beit.studies.demo import run_demo
from beit.studies.stages import ARMS, Row, arm_config, as_markdown


def tiny_plan() -> DemoPlan:
    plan = short()

    def brief(run):  # type: ignore[no-untyped-def]
        loader = replace(run.loader, workers=0)
        training = replace(run.training, steps=3, batch=8, warmup_steps=1, evaluate_every=0)
        return replace(run, training=training, loader=loader)

    budget = Budget(per_class=2, steps=10, seeds=2, pretrained_lr=1e-3, scratch_lr=1e-3)
    return replace(
        plan,
        tokenizer=brief(plan.tokenizer),
        pretrain=replace(brief(plan.pretrain), knn_images=16, accept_collapsed=True),
        finetune=replace(brief(plan.finetune), training=replace(plan.finetune.training, batch=4)),
        budgets=(budget, replace(budget, per_class=None, seeds=1)),
        stride=1000,
        labelled_stride=1000,
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three climates in stripes, each of another colour."""
    climate = np.zeros((2700, 5400), np.uint8)
    climate[150:] = 1 + (np.arange(2550) // 150 % 3)[:, None]
    noise = np.random.default_rng(0).integers(0, 60, (2700, 5400, 3), dtype=np.uint8)
    pixels = noise + np.array([30, 60, 110, 190], np.uint8)[climate][..., None]
    monkeypatch.setattr(tiles, "read_map", lambda class_of: (pixels, climate))


def test_the_demo_makes_its_table_and_goes_on_where_it_stopped(
    world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan()
    rows = run_demo(tmp_path, plan)
    methods = ["fine-tuned", "frozen, nearest neighbours", "frozen, linear"]
    assert [(row.method, row.labels) for row in rows] == [
        (method, labels) for method in methods for labels in ("2", "all")
    ]
    assert all(0 <= score <= 100 for row in rows for score in row.pretrained + row.scratch)
    assert json.loads((tmp_path / "results.json").read_text())[0]["method"] == "fine-tuned"
    assert (tmp_path / "pretrain" / "report.html").exists()
    runs = sorted(path.name for path in (tmp_path / "finetune").iterdir())
    assert runs == [
        f"{arm}-{labels}-{seed}"
        for arm in ("from-scratch", "pre-trained")
        for labels, seed in (("2", 0), ("2", 1), ("all", 0))
    ]
    for verb in ("tokenizer", "pretrain", "finetune"):
        monkeypatch.setattr(stages.tasks, verb, lambda *_, **__: pytest.fail("done already"))
    assert run_demo(tmp_path, plan) == rows
    with pytest.raises(RunFolderError, match="another length"):
        run_demo(tmp_path, full())


def test_both_arms_share_everything_but_start_and_rates(tmp_path: Path) -> None:
    plan = full()
    arms = [
        arm_config(plan.finetune, plan.budgets[0], arm, 1, init="pretrain", folder=tmp_path)
        for arm in ARMS
    ]
    same = [
        replace(config, init="", out="", training=replace(config.training, lr=1.0, layer_decay=1.0))
        for config in arms
    ]
    assert same[0] == same[1]


def test_the_table_shows_pairs_with_their_spread() -> None:
    text = as_markdown([Row("fine-tuned", "5", [60.0, 62.0], [50.0, 56.0]),
                        Row("frozen", "all", [70.0], [65.0])])  # fmt: skip
    assert "| fine-tuned | 5 | 61.0 ± 1.4 | 53.0 ± 4.2 | +8.0 ± 2.8 | 2 |" in text
    assert "| frozen | all | 70.0 | 65.0 | +5.0 | 1 |" in text


def test_full_and_short_plans_are_whole() -> None:
    for plan in (full(), short()):
        assert plan.pretrain.model.grid == plan.tokenizer.tokenizer.grid
        assert all(budget.steps > 10 for budget in plan.budgets)
