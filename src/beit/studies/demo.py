"""The demo from pictures to a table: pre-trained against from scratch, under one budget.

Each stage is a run of its own that goes on where it stopped. Settings were chosen on the validation
regions; the test regions are looked at here, once per model, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from beit.artifact.store import load_artifact
from beit.batch import LabelledBatch
from beit.config.tree import to_json
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.evaluation.features import FeatureTable
from beit.evaluation.linear import linear_accuracy
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.passes import Passes
from beit.evaluation.pretraining import every_block
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.recipes.demo import TILE, DemoPlan
from beit.studies.finetuned import finetune_both
from beit.studies.stages import ARMS, Row, Stages
from beit.studies.tiles import make_tiles
from beit.training.seeding import seed_everything

CPU = torch.device("cpu")


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

    def _passes(self, source: ImageSource) -> Passes[LabelledBatch]:
        model, crop = self.plan.pretrain.model, self.plan.pretrain.evaluation_crop
        return Passes(
            LabelledBatch,
            source,
            EvaluationView(model.size, crop),
            size=model.size,
            channels=model.channels,
            loader=self.plan.finetune.loader,
        )

    def _frozen(self, pretrained: Path, labelled: str) -> Iterator[Row]:
        """Neighbours and a linear classifier on frozen features; "from scratch" is the same
        backbone with its initial weights. The block is chosen on validation, for each row and
        arm."""
        print("\n== frozen features", flush=True)
        trained = load_artifact(pretrained).model
        assert isinstance(trained, BackboneModel)
        seed_everything(self.plan.pretrain.training.seed)
        untrained = MaskedImageModel(trained.backbone.config, 2).eval()
        everything = {
            part: self._passes(_part(labelled, part)) for part in ("train", "val", "test")
        }
        tables = {
            arm: {part: every_block(model, passes, CPU) for part, passes in everything.items()}
            for arm, model in zip(ARMS, (trained, untrained), strict=True)
        }
        for method in (neighbour_accuracy, linear_accuracy):
            name = "nearest neighbours" if method is neighbour_accuracy else "linear"
            for budget in self.plan.budgets:
                scores = {
                    arm: [
                        _best_block(method, tables[arm], _few(labelled, budget.per_class, seed))
                        for seed in range(budget.seeds if budget.per_class else 1)
                    ]
                    for arm in ARMS
                }
                yield Row(f"frozen, {name}", budget.labels, *(scores[arm] for arm in ARMS))


def _part(labelled: str, part: str) -> ImageSource:
    splits = open_labelled(labelled, split=0.2, per_class=None, seed=0)
    chosen = {"train": splits.train, "val": splits.validation, "test": splits.test}[part]
    assert chosen is not None
    return chosen


def _few(labelled: str, per_class: int | None, seed: int) -> set[str]:
    """Keys of the labelled pictures that this seed uses: those of the fine-tuning."""
    splits = open_labelled(labelled, split=0.2, per_class=per_class, seed=seed)
    return {splits.train.key(index) for index in range(len(splits.train))}


def _best_block(method: Any, tables: dict[str, FeatureTable], keys: set[str]) -> float:
    """Test accuracy in per cent of the block that is best on validation."""
    train, val, test = (tables[part] for part in ("train", "val", "test"))
    rows = torch.tensor([index for index, key in enumerate(train.keys) if key in keys])
    known, targets = train.features[rows], train.targets[rows]

    def score(block: int, asked: FeatureTable) -> float:
        value: float = method(known[:, block], targets, asked.features[:, block], asked.targets)
        return value

    best = max(range(known.shape[1]), key=lambda block: score(block, val))
    return 100 * score(best, test)
