"""Fine-tuning from a pre-trained backbone against training from scratch, under one budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from beit.config import FinetuneRunConfig
from beit.recipes.demo import Budget
from beit.studies.stages import ARMS, Row, Stages


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
