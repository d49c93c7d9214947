"""What pre-training is worth pixel by pixel: climate groups of regions of the world, with a linear
head and with UperNet, against training from scratch under the same budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from beit.config import SegmentRunConfig
from beit.config.tree import to_json
from beit.recipes.segment import for_segmenting
from beit.recipes.studies import SegmentationPlan
from beit.studies.classification import backbone_of
from beit.studies.stages import ARMS, Row, Stages
from beit.studies.tiles import make_regions


def study_segmentation(folder: Path, plan: SegmentationPlan, *, init: str) -> list[Row]:
    """Do every stage that is not done yet; mean IoU in per cent on the test regions, of which each
    is looked at once per model. The table is also written as results.json."""
    backbone = backbone_of(init)
    heads = {
        name: replace(config, model=for_segmenting(backbone, config), data=str(folder / "regions"))
        for name, config in plan.heads.items()
    }
    stages = Stages(
        folder,
        {"init": init, "heads": {name: to_json(config) for name, config in heads.items()},
         "rates": [plan.pretrained_lr, plan.scratch_lr], "seeds": plan.seeds},
    )  # fmt: skip
    print(f"regions: {make_regions(folder / 'regions')}", flush=True)
    rows = [_both(stages, plan, name, config, init) for name, config in heads.items()]
    stages.write(rows)
    return rows


def _both(
    stages: Stages, plan: SegmentationPlan, name: str, base: SegmentRunConfig, init: str
) -> Row:
    """One head in both arms with every seed."""
    print(f"\n== {name}", flush=True)
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(plan.seeds):
        for arm in ARMS:
            pretrained = arm == ARMS[0]
            training = replace(
                base.training,
                seed=seed,
                lr=plan.pretrained_lr if pretrained else plan.scratch_lr,
                layer_decay=base.training.layer_decay if pretrained else 1.0,
            )
            run = f"{name}-{arm}-{seed}".lower().replace(" ", "-")
            config = replace(
                base,
                out=str(stages.folder / "segment" / run),
                init=init if pretrained else "",
                training=training,
            )
            place = stages.train("segment", config, quiet=True)
            scores[arm].append(100 * stages.on_test(place, base.data)["miou"])
            print(f"{arm}, seed {seed}: {scores[arm][-1]:.1f} % mean IoU on test", flush=True)
    return Row(name, "all", *(scores[arm] for arm in ARMS))
