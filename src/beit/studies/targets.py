"""What should the backbone predict? The same pre-training with five targets, on satellite tiles.

Tokens of a discrete VAE, of VQ, of VQ-KD whose teacher is the backbone that the first target gave,
and of a random projection; and the pixels themselves. Beside them, the initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from beit.config import MaskedConfig
from beit.config.tree import to_json
from beit.models.heads import BackboneModel
from beit.recipes.studies import TokenizersPlan
from beit.studies.stages import (
    ARMS,
    METHODS,
    FrozenFeatures,
    Stages,
    arm_config,
    differences,
    markdown_table,
    once,
    spread,
    untrained,
    write_rows,
)
from beit.studies.tiles import make_demo_tiles
from beit.tokenizers import build_tokenizer
from beit.weights.load import open_artifact
from beit.weights.store import Details, load_artifact, save_artifact

UNTRAINED = "initial weights"
TOKENIZERS = {
    "dVAE tokens": "dvae",  # first, as its backbone is the teacher of VQ-KD
    "VQ tokens": "vq",
    "VQ-KD tokens": "vqkd",
    "random-projection tokens": "random",
}
"""Targets that are tokens, with the name that their tokenizer has in the plan."""
TARGETS = (*TOKENIZERS, "raw pixels", UNTRAINED)


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

    def run(self) -> list[Target]:
        """Do every stage that is not done yet; the table is also written as results.json and as
        results.md, after each seed."""
        plan = self.plan
        self.unlabelled, self.labelled = make_demo_tiles(
            self.folder / "tiles", plan.stride, plan.labelled_stride
        )
        rows: dict[str, Target] = {}
        for seed in range(plan.budget.seeds):
            for name in TARGETS:
                self._add(rows, name, seed)
            done = list(rows.values())
            write_rows(self.folder / "results.json", done)
            (self.folder / "results.md").write_text(targets_as_markdown(done) + "\n")
        return list(rows.values())

    def _add(self, rows: dict[str, Target], name: str, seed: int) -> None:
        """One more seed of a target."""
        tokenizer = self._tokenizer(TOKENIZERS[name]) if name in TOKENIZERS else None
        init = self._backbone(name, tokenizer, seed)
        frozen = self.folder / "frozen" / f"{init.name}.json"
        scores: dict[str, float] = once(frozen, lambda: self._frozen(init, seed))
        scores["finetuned"] = self._finetuned(name, init, seed)
        if name not in rows:
            trained = {} if tokenizer is None else open_artifact(tokenizer).details.trained
            rows[name] = Target(name, trained.get("metrics", {}).get("perplexity"), [], [], [])
        for method, score in scores.items():
            getattr(rows[name], method).append(score)
        reported = ", ".join(f"{method} {score:.1f}" for method, score in scores.items())
        print(f"{name}, seed {seed}: {reported}", flush=True)

    def _tokenizer(self, name: str) -> Path:
        """The tokenizer of a target: trained once, whatever the seed; a random one is drawn."""
        out = self.folder / "tokenizer" / name
        if name == "random":
            if not out.exists():
                save_artifact(out, build_tokenizer(self.plan.random), Details())
            return out
        teacher = str(self.folder / "pretrain" / "dvae-tokens-0") if name == "vqkd" else ""
        config = replace(
            getattr(self.plan, name), data=self.unlabelled, out=str(out), teacher=teacher
        )
        return self.stages.train("tokenizer", config, quiet=True)

    def _backbone(self, name: str, tokenizer: Path | None, seed: int) -> Path:
        """Pre-trained for this target, or as it is drawn."""
        plan, short = self.plan.pretrain, name.replace(" ", "-").lower()
        out = self.folder / "pretrain" / f"{short}-{seed}"
        if name == UNTRAINED:
            if not out.exists():
                details = Details(crop=plan.evaluation_crop)
                save_artifact(out, untrained(plan.model, seed), details)
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

    def _frozen(self, init: Path, seed: int) -> dict[str, float]:
        """Frozen features, with as many labels as fine-tuning has; looked at once per model."""
        model, plan = load_artifact(init).model, self.plan
        assert isinstance(model, BackboneModel)
        features = FrozenFeatures(
            model, self.labelled, crop=plan.pretrain.evaluation_crop, loader=plan.finetune.loader
        )
        return {
            method: features.accuracy(method, plan.budget.per_class, seed) for method in METHODS
        }

    def _finetuned(self, name: str, init: Path, seed: int) -> float:
        """Fine-tuned from the backbone; from its initial weights as if from scratch."""
        arm = ARMS[1] if name == UNTRAINED else ARMS[0]
        base = replace(self.plan.finetune, data=self.labelled)
        config = arm_config(base, self.plan.budget, arm, seed, init=str(init), folder=self.folder)
        config = replace(config, out=str(self.folder / "finetune" / init.name))
        return self.stages.score("finetune", config, "top1")


def targets_as_markdown(rows: Sequence[Target]) -> str:
    """The table: mean and standard deviation over seeds, and in brackets how much that is above
    the initial weights; both have the same labelled images in a seed, so the difference is one of
    pairs."""
    (base,) = (row for row in rows if row.target == UNTRAINED)

    def cell(row: Target, method: str) -> str:
        values: list[float] = getattr(row, method)
        if row is base:
            return spread(values)
        gains = differences(values, getattr(base, method))
        return f"{spread(values)} ({spread(gains, sign='+')})"

    return markdown_table(
        ("what is predicted", "codes in even use", "nearest neighbours", "linear", "fine-tuned"),
        [
            (
                row.target,
                "" if row.codes is None else f"{row.codes:.0f}",
                *(cell(row, method) for method in (*METHODS, "finetuned")),
            )
            for row in rows
        ],
    )
