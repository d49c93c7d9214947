"""What should the backbone predict? The same pre-training with five targets, on satellite tiles.

Tokens of a discrete VAE, of VQ, of VQ-KD whose teacher is the backbone that the first target gave,
and of a random projection; and the pixels themselves. Beside them, the initial weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from beit.config import MaskedConfig
from beit.config.tree import to_json
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.probe import linear_accuracy
from beit.models.heads import BackboneModel, MaskedImageModel
from beit.recipes.demo import TILE
from beit.recipes.studies import TokenizersPlan
from beit.rng import seed_everything
from beit.studies.stages import (
    ARMS,
    Stages,
    arm_config,
    best_block,
    feature_tables,
    few_keys,
    spread,
)
from beit.studies.tiles import make_tiles
from beit.tokenizers import build_tokenizer
from beit.weights.load import open_artifact
from beit.weights.store import Details, load_artifact, save_artifact

UNTRAINED = "initial weights"
TARGETS = (
    "dVAE tokens",  # first, as its backbone is the teacher of VQ-KD
    "VQ tokens",
    "VQ-KD tokens",
    "random-projection tokens",
    "raw pixels",
    UNTRAINED,
)


class Target(NamedTuple):
    """One line of the table: accuracies on test in per cent, one per seed."""

    target: str
    codes: float | None
    """Codes in even use on held-out images, of the tokenizers that are trained."""
    neighbours: list[float]
    linear: list[float]
    finetuned: list[float]


class TokenizersStudy:
    """One study in one folder; what is done there is not done again."""

    def __init__(self, folder: Path, plan: TokenizersPlan) -> None:
        self.folder, self.plan = folder, plan
        record: dict[str, object] = {
            name: to_json(getattr(plan, name))
            for name in ("dvae", "vq", "vqkd", "random", "pretrain", "finetune")
        }
        record |= {"budget": asdict(plan.budget), "strides": [plan.stride, plan.labelled_stride]}
        self.stages = Stages(folder, record)
        self.unlabelled = str(folder / "tiles" / "unlabelled")
        self.labelled = str(folder / "tiles" / "labelled")

    def run(self) -> list[Target]:
        """Do every stage that is not done yet; the table is also written as results.json and as
        results.md, after each seed."""
        plan = self.plan
        made = make_tiles(
            self.folder / "tiles",
            side=TILE,
            stride=plan.stride,
            labelled_stride=plan.labelled_stride,
        )
        print(f"tiles: {made['unlabelled']} without labels, {made['labelled']}", flush=True)
        rows: dict[str, Target] = {}
        for seed in range(plan.budget.seeds):
            for name in TARGETS:
                self._add(rows, name, seed)
            self._write(list(rows.values()))
        return list(rows.values())

    def _write(self, rows: list[Target]) -> None:
        """Of the seeds that are done."""
        content = json.dumps([row._asdict() for row in rows], indent=1)
        (self.folder / "results.json").write_text(content)
        (self.folder / "results.md").write_text(targets_as_markdown(rows) + "\n")

    def _tokenizer_of(self, name: str) -> Path | None:
        """The tokenizer of a target, if it has one; trained once, whatever the seed."""
        if name == "random-projection tokens":
            return self._random()
        if name not in ("dVAE tokens", "VQ tokens", "VQ-KD tokens"):
            return None
        teacher = str(self.folder / "pretrain" / "dvae-tokens-0") if "KD" in name else ""
        return self._tokenizer(name.removesuffix(" tokens").replace("-", "").lower(), teacher)

    def _tokenizer(self, name: str, teacher: str = "") -> Path:
        config = replace(
            getattr(self.plan, name),
            data=self.unlabelled,
            out=str(self.folder / "tokenizer" / name),
            teacher=teacher,
        )
        return self.stages.train("tokenizer", config, quiet=True)

    def _random(self) -> Path:
        """Random tokens need no training."""
        place = self.folder / "tokenizer" / "random"
        if not place.exists():
            save_artifact(place, build_tokenizer(self.plan.random), Details())
        return place

    def _add(self, rows: dict[str, Target], name: str, seed: int) -> None:
        """One more seed of a target."""
        tokenizer = self._tokenizer_of(name)
        init = self._backbone(name, tokenizer, seed)
        scores = {**self._frozen(init, seed), **self._tuned(name, init, seed)}
        if name not in rows:
            trained = {} if tokenizer is None else open_artifact(tokenizer).details.trained
            rows[name] = Target(name, trained.get("metrics", {}).get("perplexity"), [], [], [])
        for method, score in scores.items():
            getattr(rows[name], method).append(score)
        scores_text = ", ".join(f"{method} {score:.1f}" for method, score in scores.items())
        print(f"{name}, seed {seed}: {scores_text}", flush=True)

    def _backbone(self, name: str, tokenizer: Path | None, seed: int) -> Path:
        """Pre-trained for this target, or as it is drawn."""
        plan, short = self.plan.pretrain, name.replace(" ", "-").lower()
        out = self.folder / "pretrain" / f"{short}-{seed}"
        if name == UNTRAINED:
            if not out.exists():
                seed_everything(seed)
                model = MaskedImageModel(plan.model, 2)
                save_artifact(out, model, Details(crop=plan.evaluation_crop))
            return out
        config = replace(
            plan,
            data=self.unlabelled,
            out=str(out),
            tokenizer="" if tokenizer is None else str(tokenizer),
            objective=MaskedConfig(target="tokens" if tokenizer is not None else "pixels"),
            training=replace(plan.training, seed=seed),
        )
        return self.stages.train("pretrain", config, quiet=True)

    def _frozen(self, init: Path, seed: int) -> Mapping[str, float]:
        """Frozen features, with as many labels as fine-tuning has; looked at once per model."""
        record = self.folder / "frozen" / f"{init.name}.json"
        if not record.exists():
            model = load_artifact(init).model
            assert isinstance(model, BackboneModel)
            crop = self.plan.pretrain.evaluation_crop
            tables = feature_tables(
                model, self.labelled, crop=crop, loader=self.plan.finetune.loader
            )
            keys = few_keys(self.labelled, self.plan.budget.per_class, seed)
            found = {
                "neighbours": best_block(neighbour_accuracy, tables, keys),
                "linear": best_block(linear_accuracy, tables, keys),
            }
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(found))
        kept: dict[str, float] = json.loads(record.read_text())
        return kept

    def _tuned(self, name: str, init: Path, seed: int) -> Mapping[str, float]:
        """Fine-tuned from the backbone; from its initial weights as if from scratch."""
        arm = ARMS[1] if name == UNTRAINED else ARMS[0]
        base = replace(self.plan.finetune, data=self.labelled)
        config = arm_config(base, self.plan.budget, arm, seed, init=str(init), folder=self.folder)
        config = replace(config, out=str(self.folder / "finetune" / init.name))
        run = self.stages.train("finetune", config, quiet=True)
        return {"finetuned": 100 * self.stages.on_test(run, self.labelled)["top1"]}


def targets_as_markdown(rows: Sequence[Target]) -> str:
    """The table: mean and standard deviation over seeds, and how much that is above the initial
    weights; both have the same labelled images in a seed, so the difference is one of pairs."""
    lines = [
        "| what is predicted | codes in even use | nearest neighbours | linear | fine-tuned |",
        "| --- | --- | --- | --- | --- |",
    ]
    (base,) = (row for row in rows if row.target == UNTRAINED)
    for row in rows:
        used = "" if row.codes is None else f"{row.codes:.0f}"
        cells = [
            _above(values, others, with_gain=row is not base)
            for values, others in (
                (row.neighbours, base.neighbours),
                (row.linear, base.linear),
                (row.finetuned, base.finetuned),
            )
        ]
        lines.append(f"| {row.target} | {used} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _above(values: list[float], others: list[float], *, with_gain: bool) -> str:
    """Mean and deviation of the values, and in brackets of their differences."""
    if not with_gain:
        return spread(values)
    gains = [value - other for value, other in zip(values, others, strict=True)]
    return f"{spread(values)} ({spread(gains, sign='+')})"
