"""What a pre-trained backbone is worth, against the same one with its initial weights.

For classification: probes of every block and few labels, on the climate of satellite tiles and on
handwritten characters, which are nothing like them; and fine-tuning on the climate. For
segmentation: climate groups of regions of the world, with a linear head and with UperNet.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from beit.config import ProbeConfig, SegmentRunConfig
from beit.config.model import VisionTransformerConfig
from beit.config.tree import to_json
from beit.errors import CheckpointError
from beit.recipes.demo import TILE
from beit.recipes.finetune import for_finetuning
from beit.recipes.segment import for_segmenting
from beit.recipes.studies import ClassificationPlan, SegmentationPlan
from beit.studies.packages import make_characters
from beit.studies.stages import (
    ARMS,
    Row,
    Stages,
    arm_training,
    finetune_both,
    markdown_table,
    untrained,
)
from beit.studies.tiles import make_regions, make_tiles
from beit.tasks.probing import probe
from beit.weights.load import open_artifact
from beit.weights.store import Details, save_artifact

Probed = list[dict[str, Any]]
"""What `beit probe` wrote, for each of `ARMS`."""


class Result(NamedTuple):
    """On one set of images: rows with both arms on test, and what the probes found."""

    rows: list[Row]
    probed: Probed


class Images(NamedTuple):
    """A set of images: how it is made in a folder, where the labelled ones lie in it, and the
    crop of evaluation, if not the backbone's own."""

    make: Callable[[Path], object]
    labelled: str
    crop: float | None


def make_climate(folder: Path) -> dict[str, object]:
    """The labelled tiles of the demo."""
    return make_tiles(folder, side=TILE, stride=None, labelled_stride=35)


IMAGES = {
    "climate": Images(make_climate, "labelled", None),
    "characters": Images(make_characters, ".", 1.0),
}


def backbone_of(init: str) -> VisionTransformerConfig:
    """The architecture that both arms have. Raises CheckpointError if `init` has none."""
    backbone = open_artifact(init).backbone
    if backbone is None:
        raise CheckpointError(
            f"{init} has no backbone to start from",
            remedy="give the run of a pre-training, such as demo/pretrain after scripts/demo",
        )
    return backbone


def study_classification(folder: Path, plan: ClassificationPlan, *, init: str) -> dict[str, Result]:
    """Do every stage that is not done yet; for "climate" and "characters" the rows are also written
    as JSON under that name."""
    backbone = backbone_of(init)
    base = replace(
        plan.finetune,
        model=for_finetuning(backbone, plan.finetune.model.drop_path),
        data=str(folder / "climate" / IMAGES["climate"].labelled),
    )
    stages = Stages(
        folder,
        {"init": init, "finetune": to_json(base), "probe": to_json(plan.probe),
         "budgets": str(plan.budgets)},
    )  # fmt: skip
    initial = folder / "untrained"
    if not initial.exists():  # seen in the same way as the trained one
        details = Details(crop=open_artifact(init).details.crop)
        save_artifact(initial, untrained(backbone, 0), details)
    results = {}
    for name, images in IMAGES.items():
        print(f"{name}: {images.make(folder / name)}", flush=True)
        config = replace(plan.probe, data=str(folder / name / images.labelled), crop=images.crop)
        probed = [
            _probed(folder / "probe" / f"{name}-{arm.replace(' ', '-')}", artifact, config)
            for arm, artifact in zip(ARMS, (init, str(initial)), strict=True)
        ]
        results[name] = Result(_frozen(*probed), probed)
    results["climate"].rows.extend(
        finetune_both(stages, base, budget, init=init) for budget in plan.budgets
    )
    for name, result in results.items():
        stages.write(result.rows, name)
    return results


def _probed(out: Path, artifact: str, config: ProbeConfig) -> dict[str, Any]:
    """What the probes found, now or before."""
    if not (out / "probe.json").exists():
        print(f"\n== probes, {out.name}", flush=True)
        probe(artifact, replace(config, out=str(out)))
    found: dict[str, Any] = json.loads((out / "probe.json").read_text())
    return found


def _frozen(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Few labels, then what was best on validation with all of them; accuracies on test."""
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
    first, second = (one["blocks"] for one in probed)
    return markdown_table(
        ("block", *first),
        [
            (str(block), *(
                f"{100 * first[method][block]:.1f} / {100 * second[method][block]:.1f}"
                for method in first
            ))
            for block in range(len(next(iter(first.values()))))
        ],
    )  # fmt: skip


def study_segmentation(folder: Path, plan: SegmentationPlan, *, init: str) -> list[Row]:
    """Do every stage that is not done yet; mean IoU in per cent on the test regions. The table is
    also written as results.json."""
    backbone, budget = backbone_of(init), plan.budget
    heads = {
        name: replace(config, model=for_segmenting(backbone, config), data=str(folder / "regions"))
        for name, config in plan.heads.items()
    }
    stages = Stages(
        folder,
        {"init": init, "heads": {name: to_json(config) for name, config in heads.items()},
         "rates": [budget.pretrained_lr, budget.scratch_lr], "seeds": budget.seeds},
    )  # fmt: skip
    print(f"regions: {make_regions(folder / 'regions')}", flush=True)
    rows = []
    for name, base in heads.items():
        print(f"\n== {name}", flush=True)

        def config(
            arm: str, seed: int, *, name: str = name, base: SegmentRunConfig = base
        ) -> SegmentRunConfig:
            run = f"{name}-{arm}-{seed}".lower().replace(" ", "-")
            return replace(
                base,
                out=str(folder / "segment" / run),
                init=init if arm == ARMS[0] else "",
                training=arm_training(base.training, budget, arm, seed),
            )

        scores = stages.compare("segment", config, budget, "miou")
        rows.append(Row(name, budget.labels, *scores))
    stages.write(rows)
    return rows
