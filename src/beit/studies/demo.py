"""The demo from images to a table: pre-trained against from scratch, under one budget.

Each stage is a run of its own that goes on where it stopped. Settings were chosen on the validation
regions; the test regions are looked at here, once per model, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from beit.config.tree import to_json
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.probe import linear_accuracy
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.recipes.demo import TILE, DemoPlan
from beit.rng import seed_everything
from beit.studies.stages import (
    ARMS,
    Row,
    Stages,
    best_block,
    feature_tables,
    few_keys,
    finetune_both,
)
from beit.studies.tiles import make_tiles
from beit.weights.store import load_artifact


class Demo:
    """One demo in one folder."""

    def __init__(self, folder: Path, plan: DemoPlan) -> None:
        self.folder, self.plan = folder, plan

    def run(self) -> list[Row]:
        """Do every stage that is not done yet; returns the table, also written as results.json."""
        plan = self.plan
        parts = (plan.tokenizer, plan.pretrain, plan.finetune)
        record = {"runs": [to_json(part) for part in parts], "budgets": str(plan.budgets)}
        stages = Stages(self.folder, record)
        tiles = self.folder / "tiles"
        made = make_tiles(
            tiles, side=TILE, stride=plan.stride, labelled_stride=plan.labelled_stride
        )
        print(f"tiles: {made['unlabelled']} without labels, {made['labelled']}", flush=True)
        unlabelled, labelled = str(tiles / "unlabelled"), str(tiles / "labelled")
        tokenizer = stages.train(
            "tokenizer",
            replace(plan.tokenizer, data=unlabelled, out=str(self.folder / "tokenizer")),
        )
        pretrained = stages.train(
            "pretrain",
            replace(
                plan.pretrain,
                data=unlabelled,
                labelled=labelled,
                tokenizer=str(tokenizer),
                out=str(self.folder / "pretrain"),
            ),
        )
        finetune = replace(plan.finetune, data=labelled)
        rows = [
            finetune_both(stages, finetune, budget, init=str(pretrained)) for budget in plan.budgets
        ]
        rows += list(self._frozen(pretrained, labelled))
        stages.write(rows)
        return rows

    def _frozen(self, pretrained: Path, labelled: str) -> Iterator[Row]:
        """Neighbours and a linear classifier on frozen features; "from scratch" is the same
        backbone with its initial weights. The block is chosen on validation, for each row and
        arm."""
        print("\n== frozen features", flush=True)
        trained = load_artifact(pretrained).model
        assert isinstance(trained, BackboneModel)
        seed_everything(self.plan.pretrain.training.seed)
        untrained = MaskedImageModel(trained.backbone.config, 2).eval()
        crop, loader = self.plan.pretrain.evaluation_crop, self.plan.finetune.loader
        tables = {
            arm: feature_tables(model, labelled, crop=crop, loader=loader)
            for arm, model in zip(ARMS, (trained, untrained), strict=True)
        }
        for method in (neighbour_accuracy, linear_accuracy):
            name = "nearest neighbours" if method is neighbour_accuracy else "linear"
            for budget in self.plan.budgets:
                scores = {
                    arm: [
                        best_block(method, tables[arm], few_keys(labelled, budget.per_class, seed))
                        for seed in range(budget.seeds if budget.per_class else 1)
                    ]
                    for arm in ARMS
                }
                yield Row(f"frozen, {name}", budget.labels, *(scores[arm] for arm in ARMS))
