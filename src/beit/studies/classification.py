"""What pre-training on satellite tiles is worth for handwritten characters: probes of every block,
few labels, and fine-tuning, against the same backbone with its initial weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from beit.artifact.load import open_artifact
from beit.artifact.store import Details, save_artifact
from beit.config.model import VisionTransformerConfig
from beit.config.tree import to_json
from beit.errors import CheckpointError
from beit.models.heads import MaskedImageModel
from beit.recipes.finetune import for_finetuning
from beit.recipes.studies import ClassificationPlan
from beit.runs.probing import probe
from beit.studies.characters import make_characters
from beit.studies.finetuned import finetune_both
from beit.studies.stages import ARMS, Row, Stages
from beit.training.seeding import seed_everything

Probed = dict[str, dict[str, Any]]
"""What `beit probe` wrote, for each arm."""


class ClassificationResults(NamedTuple):
    """Rows with both arms, and the best validation accuracy of each block by method and arm."""

    rows: list[Row]
    probed: Probed


def backbone_of(init: str) -> VisionTransformerConfig:
    """The architecture that both arms have. Raises CheckpointError if `init` has none."""
    backbone = open_artifact(init).backbone
    if backbone is None:
        raise CheckpointError(
            f"{init} has no backbone to start from",
            remedy="give the run of a pre-training, such as demo/pretrain after scripts/demo",
        )
    return backbone


def study_classification(
    folder: Path, plan: ClassificationPlan, *, init: str
) -> ClassificationResults:
    """Do every stage that is not done yet; the table is also written as results.json."""
    backbone = backbone_of(init)
    base = replace(
        plan.finetune,
        model=for_finetuning(backbone, plan.finetune.model.drop_path),
        data=str(folder / "characters"),
    )
    stages = Stages(
        folder,
        {"init": init, "finetune": to_json(base), "probe": to_json(plan.probe),
         "budgets": str(plan.budgets)},
    )  # fmt: skip
    print(f"characters: {make_characters(folder / 'characters')}", flush=True)
    untrained = folder / "untrained"
    if not untrained.exists():
        seed_everything(0)
        initial = replace(backbone, initialisation="pretrain")
        save_artifact(untrained, MaskedImageModel(initial, 2), Details())
    probed: Probed = {}
    for arm, artifact in zip(ARMS, (init, str(untrained)), strict=True):
        out = folder / "probe" / arm.replace(" ", "-")
        if not (out / "probe.json").exists():
            print(f"\n== probes, {arm}", flush=True)
            probe(artifact, replace(plan.probe, data=base.data, out=str(out)))
        probed[arm] = json.loads((out / "probe.json").read_text())
    rows = [*_frozen(probed)]
    rows += [finetune_both(stages, base, budget, init=init) for budget in plan.budgets]
    stages.write(rows)
    return ClassificationResults(rows, probed)


def _frozen(probed: Probed) -> list[Row]:
    """Few labels, then what was best on validation with all of them; accuracies on test."""
    first, second = (probed[arm] for arm in ARMS)
    rows = [
        Row(
            f"frozen, {few['method']}",
            str(few["labels"]),
            *([100 * accuracy for accuracy in one["accuracies"]] for one in (few, other)),
        )
        for few, other in zip(first["few"], second["few"], strict=True)
    ]
    rows += [
        Row(f"frozen, {one['method']}", "all", [100 * one["test"]], [100 * other["test"]])
        for one, other in zip(first["chosen"], second["chosen"], strict=True)
    ]
    return rows


def blocks_as_markdown(probed: Probed) -> str:
    """Validation accuracy in per cent of every block, pre-trained / initial weights."""
    first, second = (probed[arm]["blocks"] for arm in ARMS)
    lines = [
        "| block | " + " | ".join(first) + " |",
        "| --- " * (1 + len(first)) + "|",
    ]
    for block in range(len(next(iter(first.values())))):
        cells = [
            f"{100 * first[method][block]:.1f} / {100 * second[method][block]:.1f}"
            for method in first
        ]
        lines.append(f"| {block} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
