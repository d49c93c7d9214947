"""The claims of the paper on object scenes: every row of its ablations, and peers, in one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from beit.atomic_io import replace_file
from beit.config import PretrainRunConfig
from beit.errors import ConfigError, nearest
from beit.recipes.studies import (
    BEIT,
    CORE,
    PAPER_ARMS,
    SCRATCH,
    UNTRAINED,
    Arm,
    Change,
    StudyPlan,
    prolonged,
)
from beit.studies.jobs import once
from beit.studies.measures import ATTENTION, CATCHING_UP, CONVERGED_AT, CONVERGENCE, finetuned
from beit.studies.results import UNTRIED, Claim, Scores, Verdict, judge
from beit.studies.scenes import Counts, make_scenes
from beit.studies.study import Data, Study, slug
from beit.studies.tables import StudyTable, write_tables

UNLIKE = 0.1
"""A factor nearer to 1 would change nothing that can be seen."""
AS_MANY = 750
"""Labelled training scenes of each unseen object: in all, as many as there are unlabelled ones."""
FEW, MID = finetuned(5), finetuned(10)
BASE = "BEiT (arXiv:2106.08254)"


def _better(text: str, source: str, arm: str, than: str = BEIT, measure: str = MID) -> Claim:
    return Claim(text, f"{BASE}, {source}", arm, than, measure)


CLAIMS = (
    _better("Pre-training beats training from scratch", "table 1", BEIT, SCRATCH),
    _better("Pre-training beats training from scratch with 5 labels per class", "section 3.1",
            BEIT, SCRATCH, FEW),
    _better("Pre-training beats three times the updates from scratch", "table 1", BEIT,
            "from scratch, x3"),
    _better("Pre-training beats training from scratch if both go on until validation no longer "
            "rises, or for eight times the updates", "table 1", BEIT, SCRATCH, CONVERGED_AT),
    _better("Pre-training beats learning from labels of other objects", "table 1", BEIT,
            "supervised"),
    Claim("Fine-tuning converges faster", f"{BASE}, section 3.1", BEIT, SCRATCH,
          CONVERGENCE, smaller=True),
    Claim("Fine-tuning needs fewer updates to match the best score from scratch",
          f"{BASE}, section 3.1", BEIT, SCRATCH, CATCHING_UP, smaller=True),
    _better("Blocks are better masks than single patches", "table 4", BEIT, "uniform masks"),
    _better("Tokens are better targets than pixels", "table 4", BEIT, "pixels"),
    _better("Tokens are better than pixels with uniform masks", "table 4", "uniform masks",
            "pixels, uniform masks"),
    _better("Masked tokens alone are better targets than all", "table 4", BEIT, "all tokens"),
    _better("Hiding patches matters", "table 4", BEIT, "no masking"),
    _better("Longer pre-training is better: x1 against x0.5", "table 4", BEIT, "BEiT, x0.5"),
    _better("Longer pre-training is better: x2 against x1", "table 4", "BEiT, x2"),
    _better("Longer pre-training is better: x4 against x2", "table 4", "BEiT, x4", "BEiT, x2"),
    _better("Blocks are better masks after four times the updates", "table 4", "BEiT, x4",
            "uniform masks, x4"),
    _better("Hiding patches matters after four times the updates", "table 4", "BEiT, x4",
            "no masking, x4"),
    _better("Relative position bias helps", "appendix A", "relative bias"),
    _better("Layer scale helps", "appendix A", "layer scale"),
    _better("A larger backbone is better", "table 1", "BEiT, larger"),
    _better("Intermediate fine-tuning on other labels helps", "table 1", "BEiT, intermediate"),
    _better("Pre-training helps segmentation with UperNet", "table 3", BEIT, SCRATCH,
            "mIoU, UperNet"),
    _better("Pre-training helps segmentation with a linear head", "table 3", BEIT, SCRATCH,
            "mIoU, linear head"),
    _better("Attention finds objects without labels", "figure 2", BEIT, UNTRAINED,
            ATTENTION),
    Claim("VQ-KD tokens are better than those of the discrete VAE",
          "BEiT v2 (arXiv:2208.06366), table 5", "VQ-KD", "discrete VAE", MID),
    Claim("Patch aggregation helps", "BEiT v2, table 6", "VQ-KD, aggregation", "VQ-KD",
          "linear, 10 labels"),
    Claim("83.2 % on ImageNet after 800 epochs", f"{BASE}, table 1", "", "", "",
          command="beit pretrain base-plain-in1k --data IMAGENET --tokenizer dalle --out RUN; "
          "beit finetune base-in1k --init RUN --data IMAGENET --out CLASSIFIER"),
)  # fmt: skip


def chosen(names: Sequence[str], *, core: bool) -> tuple[Arm, ...]:
    """The arms with these names or, without names, those of the core or all.

    Raises:
        ConfigError: There is no arm of a name.
    """
    known = {arm.name: arm for arm in PAPER_ARMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no arm '{name}'", remedy=nearest(name, known))
    wanted = names or (CORE if core else tuple(known))
    # Every other arm is compared with these two.
    return tuple(arm for arm in PAPER_ARMS if arm.name in {SCRATCH, BEIT, *wanted})


def study_paper(
    folder: Path,
    plan: StudyPlan,
    arms: Sequence[Arm],
    *,
    processes: int = 1,
    core: bool = False,
    same_seconds: bool = False,
    counts: Counts | None = None,
) -> Path:
    """Do everything that is not done yet, and write a page with results.json, .csv and .md.

    The files are written anew after every pre-training seed.

    Args:
        folder: Folder of the study.
        plan: The budget of all arms.
        arms: What is compared: see `chosen`.
        processes: Trainings at a time.
        core: Leave out segmentation, and fine-tuning until validation no longer rises.
        same_seconds: Add each arm once more, with as many CPU seconds before fine-tuning as BEiT.
        counts: Numbers of scenes; by default those that the arms need.

    Returns:
        The page.
    """
    scenes = folder / "scenes"
    unseen = AS_MANY if any(arm.supervised for arm in arms) else Counts().unseen
    make_scenes(scenes, counts=counts or Counts(unseen=unseen), processes=processes)
    data = Data(
        str(scenes / "unlabelled"), str(scenes / "labelled"), str(scenes / "unseen"),
        str(scenes / "segmented"),
    )  # fmt: skip
    study = Study(
        folder, plan, data, arms, processes=processes, units=lambda key: key.split("/")[0]
    )
    if same_seconds:
        study.pretrain(arms, [0])
        study.arms += tuple(at_same_seconds(study))
    for seed in range(plan.seeds):
        seeds = range(seed + 1)
        study.pretrain(study.arms, [seed])
        found = study.search()
        study.finetune(seeds, found)
        study.record_seconds(seeds)
        study.measure_frozen(seeds)
        page = _write(study)
        if not core:
            study.segment(seeds, found)
            study.prolong(found)
            page = _write(study)
    return page


def at_same_seconds(study: Study) -> Iterator[Arm]:
    """The arms that cost other CPU seconds than BEiT, with as many updates as fit in the seconds of
    BEiT; the factors are kept in files, as seconds are measured only once."""
    base = next(arm for arm in study.arms if arm.name == BEIT)
    total = sum(study.seconds_before(base, 0))
    for arm in study.arms:
        if not arm.pretrained or arm.supervised:
            continue
        tokenizer, training = study.seconds_before(arm, 0)
        factor = (total - tokenizer) / max(training, 1e-9)
        record = study.folder / "same-seconds" / f"{slug(arm.name)}.json"
        kept: float = once(record, partial(float, factor))
        if abs(kept - 1) > UNLIKE and kept > 0:
            yield replace(
                arm,
                name=f"{arm.name}, same seconds",
                change=f"{arm.change}; {kept:.2f} times the updates, in the seconds of BEiT",
                pretrain=partial(_longer, arm.pretrain, kept),
            )


def _longer(pretrain: Change, factor: float, config: PretrainRunConfig) -> PretrainRunConfig:
    return prolonged(pretrain(config), factor)


def verdicts(scores: Scores) -> list[Verdict]:
    """What the study says of every claim, with the command that runs its arms if they did not."""
    found = []
    for claim in CLAIMS:
        missing = [name for name in (claim.arm, claim.than) if name not in {SCRATCH, UNTRAINED, ""}]
        names = " ".join(f'"{name}"' for name in missing)
        command = claim.command or f"beit study paper --out DIR --arms {names}"
        found.append(judge(claim._replace(command=command), scores))
    return found


def _write(study: Study) -> Path:
    claims = verdicts(study.scores)
    claims.sort(key=lambda each: each.verdict in UNTRIED)
    rows = StudyTable("Claims", MEANING, Verdict._fields, claims)
    content = json.dumps([each._asdict() for each in claims], indent=1)
    replace_file(study.folder / "claims.json", [content.encode()])
    counts = Counter(each.verdict for each in claims)
    tally = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    verdict = f"Of {len(claims)} claims of the papers: {tally}."
    return write_tables(
        study.folder, "The claims of the paper", study, verdict=verdict, before=[rows]
    )


MEANING = (
    "A claim is shown if the difference lies beyond 0 with its whole interval. Where an arm was "
    "not run, or this scale is too small, the command tries it."
)
