"""The demo from pictures to a table: pre-trained against from scratch, under one budget.

Each stage is a run of its own that goes on where it stopped. Settings were chosen on the validation
regions; the test regions are looked at here, once per model, at the end.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beit import runs
from beit.artifact.store import load_artifact
from beit.batch import LabelledBatch
from beit.config import FinetuneRunConfig, PretrainRunConfig, TokenizerRunConfig
from beit.config.tree import to_json
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.demo.tiles import make_tiles
from beit.errors import RunFolderError
from beit.evaluation.classify import score_classifier
from beit.evaluation.features import FeatureTable
from beit.evaluation.linear import linear_accuracy
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.passes import Passes
from beit.evaluation.pretraining import every_block
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.recipes.demo import TILE, Budget, DemoPlan
from beit.training.run_folder import RunFolder
from beit.training.seeding import seed_everything

ARMS = ("pre-trained", "from scratch")
CPU = torch.device("cpu")


class Row(NamedTuple):
    """One line of the table: test accuracies in per cent, one per seed, of both arms."""

    method: str
    labels: str
    pretrained: list[float]
    scratch: list[float]

    @property
    def gain(self) -> list[float]:
        """The difference, seed by seed: both arms of a seed see the same labelled pictures."""
        return [a - b for a, b in zip(self.pretrained, self.scratch, strict=True)]


class Demo:
    """One demo in one folder."""

    def __init__(self, folder: Path, plan: DemoPlan) -> None:
        self.folder, self.plan = folder, plan

    def run(self) -> list[Row]:
        """Do every stage that is not done yet; returns the table, also written as results.json."""
        plan = self.plan
        self._same_plan()
        tiles = self.folder / "tiles"
        made = make_tiles(
            tiles, side=TILE, stride=plan.stride, labelled_stride=plan.labelled_stride
        )
        print(f"tiles: {made['unlabelled']} without labels, {made['labelled']}", flush=True)
        unlabelled, labelled = str(tiles / "unlabelled"), str(tiles / "labelled")
        tokenizer = self._stage(
            "tokenizer",
            replace(plan.tokenizer, data=unlabelled, out=str(self.folder / "tokenizer")),
        )
        pretrained = self._stage(
            "pretrain",
            replace(
                plan.pretrain,
                data=unlabelled,
                labelled=labelled,
                tokenizer=str(tokenizer),
                out=str(self.folder / "pretrain"),
            ),
        )
        rows = [self._finetuned(budget, pretrained, labelled) for budget in plan.budgets]
        rows += list(self._frozen(pretrained, labelled))
        (self.folder / "results.json").write_text(
            json.dumps([row._asdict() for row in rows], indent=1)
        )
        return rows

    def _same_plan(self) -> None:
        """Another length needs another folder: their runs have the same names."""
        record = self.folder / "plan.json"
        parts = (self.plan.tokenizer, self.plan.pretrain, self.plan.finetune)
        plan = {"runs": [to_json(part) for part in parts], "budgets": str(self.plan.budgets)}
        if record.exists():
            if json.loads(record.read_text()) != plan:
                raise RunFolderError(
                    f"{self.folder} holds a demo of another length or version",
                    remedy="choose another --out",
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(plan, indent=1))

    def _stage(
        self,
        verb: str,
        config: TokenizerRunConfig | PretrainRunConfig | FinetuneRunConfig,
        *,
        quiet: bool = False,
    ) -> Path:
        """The folder of a finished run: done before, taken up again, or done now."""
        out = Path(config.out)
        if (out / "report.html").exists() or (quiet and (out / "model").exists()):
            return out
        if not quiet:
            print(f"\n== {verb}", flush=True)
        resume = RunFolder(out).config.exists()
        getattr(runs, verb)(config, resume=resume, quiet=quiet, report=not quiet)
        return out

    # -- fine-tuning -------------------------------------------------------------------------

    def _finetuned(self, budget: Budget, pretrained: Path, labelled: str) -> Row:
        """Both arms at one number of labels: same pictures, steps, batch and augmentation."""
        labels = "all" if budget.per_class is None else str(budget.per_class)
        print(f"\n== fine-tuning with {labels} labels per class", flush=True)
        scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in range(budget.seeds):
            for arm in ARMS:
                out = self.folder / "finetune" / f"{arm.replace(' ', '-')}-{labels}-{seed}"
                config = self._finetune_config(budget, arm, seed, pretrained, labelled, out)
                self._stage("finetune", config, quiet=True)
                scores[arm].append(self._test(out, config))
                print(f"{arm}, seed {seed}: {scores[arm][-1]:.1f} % on test", flush=True)
        return Row("fine-tuned", labels, *(scores[arm] for arm in ARMS))

    def _finetune_config(
        self, budget: Budget, arm: str, seed: int, pretrained: Path, labelled: str, out: Path
    ) -> FinetuneRunConfig:
        base = self.plan.finetune
        starts_pretrained = arm == ARMS[0]
        training = replace(
            base.training,
            steps=budget.steps,
            warmup_steps=budget.steps // 10,
            save_every=budget.steps,
            seed=seed,
            lr=budget.pretrained_lr if starts_pretrained else budget.scratch_lr,
            layer_decay=self.plan.layer_decay if starts_pretrained else 1.0,
        )
        return replace(
            base,
            data=labelled,
            out=str(out),
            init=str(pretrained) if starts_pretrained else "",
            per_class=budget.per_class,
            subset_seed=seed,
            training=training,
        )

    def _test(self, run: Path, config: FinetuneRunConfig) -> float:
        """Accuracy on the test regions in per cent, measured once and kept."""
        record = run / "test.json"
        if record.exists():
            kept: dict[str, Any] = json.loads(record.read_text())
            return float(kept["top1"])
        artifact = load_artifact(run)
        part = _part(config.data, "test")
        passes = self._passes(part)
        scores = score_classifier(artifact.model, passes, classes=len(part.classes), device=CPU)
        record.write_text(json.dumps({"top1": 100 * scores.top1, "pictures": scores.pictures}))
        return 100 * scores.top1

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

    # -- frozen features ---------------------------------------------------------------------

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
                labels = "all" if budget.per_class is None else str(budget.per_class)
                scores = {
                    arm: [
                        _best_block(method, tables[arm], _few(labelled, budget.per_class, seed))
                        for seed in range(budget.seeds if budget.per_class else 1)
                    ]
                    for arm in ARMS
                }
                yield Row(f"frozen, {name}", labels, *(scores[arm] for arm in ARMS))


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


def as_markdown(rows: list[Row]) -> str:
    """The table: mean and standard deviation over seeds, and the gain with its own."""
    lines = [
        "| method | labels per class | pre-trained | from scratch | gain | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [_spread(values) for values in (row.pretrained, row.scratch)]
        gain = _spread(row.gain, sign="+")
        lines.append(
            f"| {row.method} | {row.labels} | {cells[0]} | {cells[1]} | {gain} "
            f"| {len(row.pretrained)} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"
