"""The demo from images to a table: pre-trained against from scratch, under one budget.

Each stage is a run of its own that goes on where it stopped. Settings were chosen on the validation
regions; the test regions are looked at here, once per model, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from beit.config.tree import to_json
from beit.models.heads import BackboneModel
from beit.recipes.demo import DemoPlan
from beit.studies.stages import METHODS, FrozenFeatures, Row, Stages, finetune_both, untrained
from beit.studies.tiles import make_demo_tiles
from beit.weights.store import load_artifact


def run_demo(folder: Path, plan: DemoPlan) -> list[Row]:
    """Do every stage that is not done yet; returns the table, also written as results.json."""
    parts = (plan.tokenizer, plan.pretrain, plan.finetune)
    record = {"runs": [to_json(part) for part in parts], "budgets": str(plan.budgets)}
    stages = Stages(folder, record)
    unlabelled, labelled = make_demo_tiles(folder / "tiles", plan.stride, plan.labelled_stride)
    tokenizer = stages.train(
        "tokenizer", replace(plan.tokenizer, data=unlabelled, out=str(folder / "tokenizer"))
    )
    pretrained = stages.train(
        "pretrain",
        replace(
            plan.pretrain,
            data=unlabelled,
            labelled=labelled,
            tokenizer=str(tokenizer),
            out=str(folder / "pretrain"),
        ),
    )
    finetune = replace(plan.finetune, data=labelled)
    rows = [
        finetune_both(stages, finetune, budget, init=str(pretrained)) for budget in plan.budgets
    ]
    rows += list(_frozen(plan, pretrained, labelled))
    stages.write(rows)
    return rows


def _frozen(plan: DemoPlan, pretrained: Path, labelled: str) -> Iterator[Row]:
    """Neighbours and a linear classifier on frozen features; "from scratch" is the same backbone
    with its initial weights. The block is chosen on validation, for each row and arm."""
    print("\n== frozen features", flush=True)
    trained = load_artifact(pretrained).model
    assert isinstance(trained, BackboneModel)
    initial = untrained(trained.backbone.config, plan.pretrain.training.seed)
    arms = [
        FrozenFeatures(
            model, labelled, crop=plan.pretrain.evaluation_crop, loader=plan.finetune.loader
        )
        for model in (trained, initial)
    ]
    for method in METHODS:
        name = "nearest neighbours" if method == "neighbours" else method
        for budget in plan.budgets:
            seeds = range(budget.seeds if budget.per_class else 1)
            pretrained_scores, scratch_scores = (
                [arm.accuracy(method, budget.per_class, seed) for seed in seeds] for arm in arms
            )
            yield Row(f"frozen, {name}", budget.labels, pretrained_scores, scratch_scores)
