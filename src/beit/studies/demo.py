"""The demo from images to a page: pre-trained against from scratch, under one budget.

Each stage is a run of its own that continues where it stopped. Each model is measured on the test
scenes only once, at the end.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from beit import tasks
from beit.config import RunConfig, TrainingConfig
from beit.config.tree import to_json
from beit.models.heads import BackboneModel
from beit.recipes.demo import Budget, DemoPlan
from beit.studies.figure import write_figure, write_page
from beit.studies.jobs import Job, at_a_time, check_plan, once, run_jobs, tested
from beit.studies.measures import untrained
from beit.studies.objects import EVEN, Objects, best_overlaps, even_iou, read_objects
from beit.studies.scenes import Counts, make_scenes
from beit.studies.tables import markdown_table
from beit.tasks.probing import probe
from beit.training.run_folder import RunFolder
from beit.weights.store import load_artifact

ARMS = PRETRAINED, SCRATCH = "pre-trained", "from scratch"
SEGMENTED = "mean IoU, object and background"
HEAD = ("measure", "method", "updates", "test, per cent", "seeds")


class Line(NamedTuple):
    """One line of the table: scores on test in per cent, one per seed or draw of labels."""

    measure: str
    method: str
    updates: int | None
    scores: list[float]


def run_demo(folder: Path, plan: DemoPlan) -> list[Line]:
    """Do every stage that is not done yet; returns the table, which is also written as results.json
    and, with a figure, as report.html."""
    parts = (plan.tokenizer, plan.pretrain, plan.probe, plan.finetune, plan.segment)
    budgets = str((plan.scenes, plan.budget, plan.longer, plan.segmenting))
    check_plan(folder, {"runs": [to_json(part) for part in parts], "budgets": budgets})
    scenes = folder / "scenes"
    print("== scenes", flush=True)
    print(make_scenes(scenes, counts=Counts(**plan.scenes))["scenes"], flush=True)
    unlabelled, labelled = str(scenes / "unlabelled"), str(scenes / "labelled")
    tokenizer = _trained(
        "tokenizer", replace(plan.tokenizer, data=unlabelled, out=str(folder / "tokenizer"))
    )
    pretrained = _trained(
        "pretrain",
        replace(
            plan.pretrain,
            data=unlabelled,
            labelled=labelled,
            tokenizer=str(tokenizer),
            out=str(folder / "pretrain"),
        ),
    )
    lines = [
        *_finetuned(folder, plan, str(pretrained), labelled),
        *_frozen(folder, plan, str(pretrained), labelled),
        *_segmented(folder, plan, str(pretrained), str(scenes / "segmented")),
        *_attention(folder, plan, pretrained, scenes / "segmented"),
    ]
    rows = [line._asdict() for line in lines]
    (folder / "results.json").write_text(json.dumps(rows, indent=1))
    segmenter = _segmenter(folder, PRETRAINED, 0)
    write_figure(folder, pretrained, tokenizer, segmenter, scenes / "segmented")
    write_page(
        folder, HEAD, cells(lines), sentences=verdict(lines), commands=commands(folder, plan)
    )
    return lines


def _trained(verb: str, config: RunConfig) -> Path:
    """The folder of a finished run, which is started or resumed if it is not finished yet."""
    out = Path(config.out)
    if (out / "report.html").exists():
        return out
    print(f"\n== {verb}", flush=True)
    getattr(tasks, verb)(config, resume=RunFolder(out).config.exists())
    return out


def _finetuned(folder: Path, plan: DemoPlan, init: str, data: str) -> Iterator[Line]:
    """Both arms with the same labels, and from scratch with more updates; seed by seed."""
    budget = plan.budget
    more = replace(budget, steps=plan.longer * budget.steps)
    print(f"\n== fine-tuning with {budget.labels} labels per class", flush=True)
    arms = [(PRETRAINED, budget), (SCRATCH, budget), (SCRATCH, more)]
    jobs = {}
    for seed, (arm, given) in itertools.product(range(budget.seeds), arms):
        name = f"{arm}, {given.steps} updates, seed {seed}"
        config = replace(
            plan.finetune,
            data=data,
            out=str(folder / "finetune" / f"{arm.replace(' ', '-')}-{given.steps}-{seed}"),
            init=init if arm == PRETRAINED else "",
            per_class=given.per_class,
            split_seed=seed,
            training=_of_budget(plan.finetune.training, given, seed),
        )
        jobs[name] = Job("finetune", config)
    scores = _scores(jobs)
    measure = f"top-1, {budget.labels} labels per class"
    for number, (arm, given) in enumerate(arms):
        yield Line(measure, f"{arm}, fine-tuned", given.steps, scores[number :: len(arms)])


def _of_budget(base: TrainingConfig, budget: Budget, seed: int) -> TrainingConfig:
    """The training of one seed, in either arm."""
    steps = budget.steps
    return replace(base, steps=steps, warmup_steps=steps // 10, save_every=steps, seed=seed)


def _scores(jobs: Mapping[str, Job]) -> list[float]:
    """The score of each job on test, in per cent; jobs that are not done yet are run first."""
    names = {job.run: name for name, job in jobs.items()}
    for job in run_jobs(list(jobs.values()), at_a_time()):
        print(f"{names[job.run]}: {_score(job):.1f} %", flush=True)
    return [_score(job) for job in jobs.values()]


def _score(job: Job) -> float:
    return 100 * float(np.mean(tested(job.run)))


def _frozen(folder: Path, plan: DemoPlan, init: str, data: str) -> Iterator[Line]:
    """Probes of frozen features, and the trivial baselines with the same labels."""
    print("\n== probes and baselines", flush=True)
    out = folder / "probe"
    if not out.exists():
        probe(
            init, replace(plan.probe, data=data, out=str(out), crop=plan.pretrain.evaluation_crop)
        )
    found = json.loads((out / "probe.json").read_text())
    for name, key in (("pre-trained, frozen", "few"), ("baseline", "few_baselines")):
        for few in found[key]:
            measure = f"top-1, {few['labels']} labels per class"
            scores = [100 * accuracy for accuracy in few["accuracies"]]
            yield Line(measure, f"{name}: {few['method']}", None, scores)
    classes = sum(1 for _ in (Path(data) / "train").iterdir())
    yield Line(measure, "baseline: chance", None, [100 / classes])


def _segmenter(folder: Path, arm: str, seed: int) -> Path:
    return folder / "segment" / f"{arm.replace(' ', '-')}-{seed}"


def _segmented(folder: Path, plan: DemoPlan, init: str, data: str) -> Iterator[Line]:
    """Objects against background, in both arms."""
    budget: Budget = plan.segmenting
    print("\n== segmenting objects", flush=True)
    jobs = {}
    for arm, seed in itertools.product(ARMS, range(budget.seeds)):
        config = replace(
            plan.segment,
            data=data,
            out=str(_segmenter(folder, arm, seed)),
            init=init if arm == PRETRAINED else "",
            training=_of_budget(plan.segment.training, budget, seed),
        )
        jobs[f"{arm}, seed {seed}, mean IoU"] = Job("segment", config)
    scores = _scores(jobs)
    for number, arm in enumerate(ARMS):
        found = scores[number * budget.seeds : (number + 1) * budget.seeds]
        yield Line(SEGMENTED, f"{arm}, segmenter", budget.steps, found)
    masks = [np.asarray(Image.open(path)) for path in Path(data).glob("test/masks/*.png")]
    background = np.mean([(mask == 0).mean() for mask in masks])
    yield Line(SEGMENTED, "baseline: all background", None, [50 * float(background)])


def _attention(folder: Path, plan: DemoPlan, pretrained: Path, segmented: Path) -> Iterator[Line]:
    """How well the best heads of the pre-trained and the untrained backbone attend to objects."""
    trained = load_artifact(pretrained).model
    assert isinstance(trained, BackboneModel)
    config = trained.backbone.config
    initial = untrained(config, plan.pretrain.training.seed)

    def measure() -> list[float]:
        print("\n== attention", flush=True)
        parts: list[Objects] = [
            read_objects(segmented / split, config.size, config.grid) for split in ("val", "test")
        ]
        models = (trained, initial)
        found = [best_overlaps(model.backbone.eval(), *parts).mean() for model in models]
        return [*(100 * float(mean) for mean in found), even_iou(parts[1])]

    names = (PRETRAINED, "untrained", f"baseline: {EVEN}")
    for name, score in zip(names, once(folder / "attention.json", measure), strict=True):
        yield Line("IoU of attention and object, best head", name, None, [score])


def _spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"


def cells(lines: list[Line]) -> list[tuple[str, ...]]:
    """The rows of the table: mean and standard deviation over seeds."""
    return [
        (
            line.measure,
            line.method,
            "" if line.updates is None else str(line.updates),
            _spread(line.scores),
            str(len(line.scores)),
        )
        for line in lines
    ]


def as_markdown(lines: list[Line]) -> str:
    """The table as Markdown."""
    return markdown_table(HEAD, cells(lines))


def commands(folder: Path, plan: DemoPlan) -> str:
    """Commands that use what was trained."""
    classifier = folder / "finetune" / f"{PRETRAINED}-{plan.budget.steps}-0"
    image = next((folder / "scenes" / "labelled" / "test").rglob("*.png"))
    return (
        f"beit predict {classifier} {image}\nbeit serve {classifier}\n"
        f"beit predict {_segmenter(folder, PRETRAINED, 0)} {image} --out {folder / 'masks'}"
    )


def verdict(lines: list[Line]) -> list[str]:
    """What the table says about pre-training, seed by seed."""
    pretrained, scratch, longer = (line for line in lines if line.method.endswith("fine-tuned"))
    sentences = []
    for other in (scratch, longer):
        pairs = zip(pretrained.scores, other.scores, strict=True)
        gains = [score - another for score, another in pairs]
        ahead = sum(gain > 0 for gain in gains)
        sentences.append(
            f"{pretrained.updates} updates from pre-trained weights against {other.updates} from "
            f"scratch: {_spread(gains, sign='+')} points, ahead in {ahead} of {len(gains)} seeds"
        )
    return sentences
