"""What every study shares: runs in one folder that go on where they stopped, fine-tuning of both
arms, frozen features, and paired results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beit import tasks
from beit.batch import LabelledBatch
from beit.config import FinetuneRunConfig, LoaderConfig, RunConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.errors import RunFolderError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block
from beit.models.heads import BackboneModel
from beit.recipes.demo import Budget
from beit.training.run_folder import RunFolder

ARMS = ("pre-trained", "from scratch")


class Row(NamedTuple):
    """One line of a table: scores in per cent, one per seed, of both arms."""

    method: str
    labels: str
    pretrained: list[float]
    scratch: list[float]

    @property
    def gain(self) -> list[float]:
        """The difference, seed by seed: both arms of a seed see the same labelled images."""
        return [a - b for a, b in zip(self.pretrained, self.scratch, strict=True)]


class Stages:
    """The folder of a study. What is done there is not done again."""

    def __init__(self, folder: Path, plan: Mapping[str, object]) -> None:
        """Raises RunFolderError if the folder holds a study of another plan."""
        self.folder = folder
        record = folder / "plan.json"
        if record.exists():
            if json.loads(record.read_text()) != plan:
                raise RunFolderError(
                    f"{folder} holds a study of another length or version",
                    remedy="choose another --out",
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(plan, indent=1))

    def train(self, verb: str, config: RunConfig, *, quiet: bool = False) -> Path:
        """The folder of a finished run: done before, taken up again, or done now."""
        out = Path(config.out)
        if (out / "report.html").exists() or (quiet and (out / "model").exists()):
            return out
        if not quiet:
            print(f"\n== {verb}", flush=True)
        resume = RunFolder(out).config.exists()
        getattr(tasks, verb)(config, resume=resume, quiet=quiet, report=not quiet)
        return out

    def on_test(self, run: Path, data: str) -> dict[str, Any]:
        """What `beit evaluate` finds on the test part: looked at once per model, and kept."""
        record = run / "test.json"
        if not record.exists():
            found = tasks.evaluate(str(run), data=data, split="test")
            record.write_text(json.dumps(asdict(found), indent=1))
        kept: dict[str, Any] = json.loads(record.read_text())
        return kept

    def write(self, rows: Sequence[Row], name: str = "results") -> None:
        """The table, as JSON."""
        results = [row._asdict() for row in rows]
        (self.folder / f"{name}.json").write_text(json.dumps(results, indent=1))


def as_markdown(rows: Sequence[Row], setting: str = "labels per class") -> str:
    """The table: mean and standard deviation over seeds, and the gain with its own."""
    lines = [
        f"| method | {setting} | pre-trained | from scratch | gain | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [spread(values) for values in (row.pretrained, row.scratch)]
        gain = spread(row.gain, sign="+")
        lines.append(
            f"| {row.method} | {row.labels} | {cells[0]} | {cells[1]} | {gain} "
            f"| {len(row.pretrained)} |"
        )
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"


def arm_config(
    base: FinetuneRunConfig, budget: Budget, arm: str, seed: int, *, init: str, folder: Path
) -> FinetuneRunConfig:
    """The run of one arm and seed: same images, steps, batch and augmentation for both arms."""
    pretrained = arm == ARMS[0]
    labels = budget.labels
    training = replace(
        base.training,
        steps=budget.steps,
        warmup_steps=budget.steps // 10,
        save_every=budget.steps,
        seed=seed,
        lr=budget.pretrained_lr if pretrained else budget.scratch_lr,
        layer_decay=base.training.layer_decay if pretrained else 1.0,
    )
    return replace(
        base,
        out=str(folder / "finetune" / f"{arm.replace(' ', '-')}-{labels}-{seed}"),
        init=init if pretrained else "",
        per_class=budget.per_class,
        subset_seed=seed,
        training=training,
    )


def finetune_both(stages: Stages, base: FinetuneRunConfig, budget: Budget, *, init: str) -> Row:
    """Train both arms with every seed; accuracies on test, looked at once per model."""
    print(f"\n== fine-tuning with {budget.labels} labels per class", flush=True)
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(budget.seeds):
        for arm in ARMS:
            config = arm_config(base, budget, arm, seed, init=init, folder=stages.folder)
            run = stages.train("finetune", config, quiet=True)
            scores[arm].append(100 * stages.on_test(run, base.data)["top1"])
            print(f"{arm}, seed {seed}: {scores[arm][-1]:.1f} % on test", flush=True)
    return Row("fine-tuned", budget.labels, *(scores[arm] for arm in ARMS))


CPU = torch.device("cpu")


def feature_tables(
    model: BackboneModel, labelled: str, *, crop: float, loader: LoaderConfig
) -> dict[str, FeatureTable]:
    """The features of every block for train, val and test."""
    config = model.backbone.config

    def batches(source: ImageSource | None) -> EvalLoader[LabelledBatch]:
        assert source is not None
        view = EvaluationView(config.size, crop)
        return EvalLoader(
            LabelledBatch,
            source,
            view,
            size=config.size,
            channels=config.channels,
            loader=loader,
        )

    parts = zip(
        ("train", "val", "test"),
        open_labelled(labelled, split=0.2, per_class=None, seed=0),
        strict=True,
    )
    return {part: every_block(model, batches(source), CPU) for part, source in parts}


def few_keys(labelled: str, per_class: int | None, seed: int) -> set[str]:
    """Keys of the labelled images that this seed uses: those of the fine-tuning."""
    splits = open_labelled(labelled, split=0.2, per_class=per_class, seed=seed)
    return {splits.train.key(index) for index in range(len(splits.train))}


def best_block(method: Any, tables: dict[str, FeatureTable], keys: set[str]) -> float:
    """Test accuracy in per cent of the block that is best on validation."""
    train, val, test = (tables[part] for part in ("train", "val", "test"))
    rows = torch.tensor([index for index, key in enumerate(train.keys) if key in keys])
    known, targets = train.features[rows], train.targets[rows]

    def score(block: int, queries: FeatureTable) -> float:
        value: float = method(known[:, block], targets, queries.features[:, block], queries.targets)
        return value

    best = max(range(known.shape[1]), key=lambda block: score(block, val))
    return 100 * score(best, test)
