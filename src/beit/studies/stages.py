"""What the studies share: runs in one folder that go on where they stopped, two arms that are
trained alike, frozen features, and tables of paired results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from beit import tasks
from beit.atomic_io import replace_file
from beit.batch import LabelledBatch
from beit.config import (
    FinetuneRunConfig,
    LoaderConfig,
    RunConfig,
    TrainingConfig,
    VisionTransformerConfig,
)
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.errors import RunFolderError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.probe import linear_accuracy
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.recipes.demo import Budget
from beit.rng import seed_everything
from beit.training.run_folder import RunFolder

ARMS = ("pre-trained", "from scratch")
METHODS: dict[str, Callable[..., float]] = {
    "neighbours": neighbour_accuracy,
    "linear": linear_accuracy,
}
"""How frozen features are judged."""


class Row(NamedTuple):
    """One line of a table: scores in per cent, one per seed, of both arms."""

    method: str
    labels: str
    pretrained: list[float]
    scratch: list[float]

    @property
    def gain(self) -> list[float]:
        """The difference, seed by seed: both arms of a seed see the same labelled images."""
        return differences(self.pretrained, self.scratch)


class Stages:
    """The folder of a study. What is done there is not done again."""

    def __init__(self, folder: Path, plan: Mapping[str, object]) -> None:
        """Raises RunFolderError if the folder holds a study of another plan."""
        self.folder = folder
        if once(folder / "plan.json", lambda: plan) != plan:
            raise RunFolderError(
                f"{folder} holds a study of another length or version",
                remedy="choose another --out",
            )

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

    def score(self, verb: str, config: RunConfig, metric: str) -> float:
        """Train, and measure on the test part in per cent: looked at once per model, and kept."""
        run = self.train(verb, config, quiet=True)
        found = once(
            run / "test.json",
            lambda: asdict(tasks.evaluate(str(run), data=config.data, split="test")),
        )
        return 100 * float(found[metric])

    def compare(
        self, verb: str, config: Callable[[str, int], RunConfig], budget: Budget, metric: str
    ) -> list[list[float]]:
        """Train both arms with every seed; their scores on test in per cent, one list per arm.

        `config` makes the run of an arm and a seed.
        """
        scores: list[list[float]] = [[] for _ in ARMS]
        for seed in range(budget.seeds):
            for arm, values in zip(ARMS, scores, strict=True):
                values.append(self.score(verb, config(arm, seed), metric))
                print(f"{arm}, seed {seed}: {metric} {values[-1]:.1f} % on test", flush=True)
        return scores

    def write(self, rows: Sequence[Row], name: str = "results") -> None:
        """The table, as JSON."""
        write_rows(self.folder / f"{name}.json", rows)


def once(record: Path, make: Callable[[], Any]) -> Any:
    """The JSON values in a file; made and written if it is not there."""
    if not record.exists():
        made = json.dumps(make(), indent=1)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, [made.encode()])
    return json.loads(record.read_text())


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Named tuples as a JSON list of objects."""
    path.write_text(json.dumps([row._asdict() for row in rows], indent=1))


def as_markdown(rows: Sequence[Row], setting: str = "labels per class") -> str:
    """The table: mean and standard deviation over seeds, and the gain with its own."""
    return markdown_table(
        ("method", setting, *ARMS, "gain", "seeds"),
        [
            (
                row.method,
                row.labels,
                spread(row.pretrained),
                spread(row.scratch),
                spread(row.gain, sign="+"),
                str(len(row.pretrained)),
            )
            for row in rows
        ],
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join((lines[0], "| --- " * len(head) + "|", *lines[1:]))


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"


def differences(values: list[float], others: list[float]) -> list[float]:
    """Pair by pair."""
    return [value - other for value, other in zip(values, others, strict=True)]


def arm_training(base: TrainingConfig, budget: Budget, arm: str, seed: int) -> TrainingConfig:
    """The training of one arm and seed: the same steps and batch for both arms."""
    pretrained = arm == ARMS[0]
    return replace(
        base,
        steps=budget.steps,
        warmup_steps=budget.steps // 10,
        save_every=budget.steps,
        seed=seed,
        lr=budget.pretrained_lr if pretrained else budget.scratch_lr,
        layer_decay=base.layer_decay if pretrained else 1.0,
    )


def arm_config(
    base: FinetuneRunConfig, budget: Budget, arm: str, seed: int, *, init: str, folder: Path
) -> FinetuneRunConfig:
    """The fine-tuning of one arm and seed: the same images and augmentation for both arms."""
    return replace(
        base,
        out=str(folder / "finetune" / f"{arm.replace(' ', '-')}-{budget.labels}-{seed}"),
        init=init if arm == ARMS[0] else "",
        per_class=budget.per_class,
        subset_seed=seed,
        training=arm_training(base.training, budget, arm, seed),
    )


def finetune_both(stages: Stages, base: FinetuneRunConfig, budget: Budget, *, init: str) -> Row:
    """Fine-tune both arms with every seed; accuracies on test."""
    print(f"\n== fine-tuning with {budget.labels} labels per class", flush=True)

    def config(arm: str, seed: int) -> FinetuneRunConfig:
        return arm_config(base, budget, arm, seed, init=init, folder=stages.folder)

    return Row("fine-tuned", budget.labels, *stages.compare("finetune", config, budget, "top1"))


def untrained(backbone: VisionTransformerConfig, seed: int) -> MaskedImageModel:
    """A backbone with the initial weights that pre-training starts from."""
    seed_everything(seed)
    published = backbone.initialisation == "finetune"
    started = replace(backbone, initialisation="pretrain") if published else backbone
    return MaskedImageModel(started, 2).eval()


class FrozenFeatures:
    """The features of every block of a backbone for labelled images, computed once."""

    def __init__(
        self, model: BackboneModel, labelled: str, *, crop: float, loader: LoaderConfig
    ) -> None:
        config = model.backbone.config

        def table(source: ImageSource | None) -> FeatureTable:
            assert source is not None
            view = EvaluationView(config.size, crop)
            batches = EvalLoader(
                LabelledBatch,
                source,
                view,
                size=config.size,
                channels=config.channels,
                loader=loader,
            )
            return every_block(model, batches, torch.device("cpu"))

        self.labelled = labelled
        splits = open_labelled(labelled, split=0.2, per_class=None, seed=0)
        self.train, self.validation, self.test = map(table, splits)

    def accuracy(self, method: str, per_class: int | None, seed: int) -> float:
        """Test accuracy in per cent of the block that is best on validation.

        The known images are those that fine-tuning with this seed uses.
        """
        splits = open_labelled(self.labelled, split=0.2, per_class=per_class, seed=seed)
        keys = {splits.train.key(index) for index in range(len(splits.train))}
        rows = torch.tensor([index for index, key in enumerate(self.train.keys) if key in keys])
        known, targets = self.train.features[rows], self.train.targets[rows]

        def score(block: int, queries: FeatureTable) -> float:
            features = queries.features[:, block]
            return METHODS[method](known[:, block], targets, features, queries.targets)

        best = max(range(known.shape[1]), key=lambda block: score(block, self.validation))
        return 100 * score(best, self.test)
