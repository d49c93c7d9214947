"""What a backbone pre-trained on satellite tiles is worth for classification, against the same one
with its initial weights: probes of every block and few labels, on the climate of such tiles and on
handwritten characters, which are nothing like them; and fine-tuning on the climate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from beit.config import ProbeConfig
from beit.config.model import VisionTransformerConfig
from beit.config.tree import to_json
from beit.errors import CheckpointError
from beit.models.heads import MaskedImageModel
from beit.recipes.demo import TILE
from beit.recipes.finetune import for_finetuning
from beit.recipes.studies import ClassificationPlan
from beit.rng import seed_everything
from beit.studies.packages import make_characters
from beit.studies.stages import ARMS, Row, Stages, finetune_both
from beit.studies.tiles import make_tiles
from beit.tasks.probing import probe
from beit.weights.load import open_artifact
from beit.weights.store import Details, save_artifact

Probed = dict[str, dict[str, Any]]
"""What `beit probe` wrote, for each arm."""


class Result(NamedTuple):
    """On one set of images: rows with both arms on test, and what the probes found."""

    rows: list[Row]
    probed: Probed


def make_climate(folder: Path) -> dict[str, object]:
    """The labelled tiles of the demo."""
    return make_tiles(folder, side=TILE, stride=None, labelled_stride=35)


class Images(NamedTuple):
    """A set of images: how it is made in a folder, where the labelled ones lie in it, and the
    crop of evaluation, if not the backbone's own."""

    make: Callable[[Path], object]
    labelled: str
    crop: float | None


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
    untrained = _untrained(folder / "untrained", init)
    results = {}
    for name, images in IMAGES.items():
        print(f"{name}: {images.make(folder / name)}", flush=True)
        data = str(folder / name / images.labelled)
        config = replace(plan.probe, data=data, crop=images.crop)
        probed = {
            arm: _probed(folder / "probe" / f"{name}-{arm.replace(' ', '-')}", artifact, config)
            for arm, artifact in zip(ARMS, (init, untrained), strict=True)
        }
        results[name] = Result(_frozen(probed), probed)
    results["climate"].rows.extend(
        finetune_both(stages, base, budget, init=init) for budget in plan.budgets
    )
    for name, result in results.items():
        stages.write(result.rows, name)
    return results


def _untrained(place: Path, init: str) -> str:
    """The artifact of the same backbone with its initial weights, seen in the same way."""
    if not place.exists():
        trained = open_artifact(init)
        assert trained.backbone is not None
        seed_everything(0)
        model = MaskedImageModel(replace(trained.backbone, initialisation="pretrain"), 2)
        save_artifact(place, model, Details(crop=trained.details.crop))
    return str(place)


def _probed(out: Path, artifact: str, config: ProbeConfig) -> dict[str, Any]:
    """What the probes found, now or before."""
    if not (out / "probe.json").exists():
        print(f"\n== probes, {out.name}", flush=True)
        probe(artifact, replace(config, out=str(out)))
    found: dict[str, Any] = json.loads((out / "probe.json").read_text())
    return found


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
