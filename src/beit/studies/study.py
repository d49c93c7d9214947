"""A study: every arm trained by the same runs under the same search, and what is measured of it.

Each training is a run in a folder of its own and each measurement a file, so that what is done is
not done again. Settings are chosen on validation; every model is measured on test only once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit.config import FinetuneRunConfig, SegmentRunConfig
from beit.config.tree import to_json
from beit.recipes.finetune import for_classifying, for_finetuning
from beit.recipes.segment import for_segmenting
from beit.recipes.studies import BEIT, SCRATCH, UNTRAINED, Arm, StudyPlan
from beit.studies.jobs import Job, at_once, check_plan, once, record_made, run_jobs, tested
from beit.studies.measures import (
    ATTENTION,
    CATCHING_UP,
    CONVERGED_AT,
    CONVERGENCE,
    COUNTS,
    attention_overlaps,
    caught_up,
    converged,
    even_attention,
    finetuned,
    frozen_scores,
    parts,
    untrained,
    validation,
)
from beit.studies.objects import EVEN
from beit.studies.results import Score
from beit.tasks.inputs import Inputs
from beit.terminal import counted
from beit.weights.load import open_artifact
from beit.weights.store import Details, save_artifact

RISES = 0.01
"""How much validation accuracy must rise for training to be prolonged again."""


class Data(NamedTuple):
    """The images of a study; what is empty is not used."""

    unlabelled: str
    labelled: str
    """With train, val and test."""
    other: str = ""
    """Labels of other objects."""
    segmented: str = ""


class Setting(NamedTuple):
    """What the search varies: learning rate and layer decay."""

    rate: float
    decay: float


class Fit(NamedTuple):
    """One fine-tuning of an arm."""

    seed: int
    draw: int
    labels: int
    setting: Setting
    steps: int


class Study:
    """One study in one folder.

    Args:
        folder: Folder of the study; what is done there is not done again.
        plan: The budget of all arms.
        data: The images.
        arms: What is compared.
        processes: Trainings at a time, each on one thread if there are several.
        units: Gives the unit of a test image, by its key below `test/`; units are bootstrapped.
    """

    def __init__(
        self,
        folder: Path,
        plan: StudyPlan,
        data: Data,
        arms: Sequence[Arm],
        *,
        processes: int = 1,
        units: Callable[[str], str] = lambda key: key,
    ) -> None:
        self.folder, self.plan, self.data, self.arms = folder, plan, data, tuple(arms)
        self.processes, self.units = processes, units
        budget = {name: to_json(getattr(plan, name)) for name in ("pretrain", "finetune")}
        runs = plan.tokenizers | plan.segment
        check_plan(folder, budget | {name: to_json(run) for name, run in runs.items()} | {
            "labels": list(plan.labels), "rates": list(plan.rates), "decays": list(plan.decays),
        })  # fmt: skip
        self.scores: dict[tuple[str, str], Score] = {}

    # -- trainings -----------------------------------------------------------------------------

    def train(self, jobs: Iterable[Job], what: str) -> None:
        """Run the jobs that are not done yet, several at a time."""
        waiting = [job for job in jobs if not job.done]
        if waiting:
            print(f"{what}: {counted(len(waiting), 'training')} to do", flush=True)
        begun = time.monotonic()
        for number, job in enumerate(run_jobs(waiting, self.processes), 1):
            minutes = (time.monotonic() - begun) / 60
            print(f"{what}: {number} of {len(waiting)}, {job.run}, {minutes:.1f} min", flush=True)

    def pretrain(self, arms: Sequence[Arm], seeds: Sequence[int]) -> None:
        """Train all that precedes fine-tuning, stage by stage: VQ-KD needs its teacher first."""
        learned = [arm for arm in arms if arm.pretrained and not arm.init]
        for name in dict.fromkeys(arm.tokenizer for arm in learned if arm.tokenizer):
            teacher = ""
            if name == "vqkd":
                beit = next(arm for arm in self.arms if arm.name == BEIT)
                self.pretrain([beit], [0])
                teacher = str(self._place("pretrain", beit, 0))
            config = replace(
                self.plan.tokenizers[name],
                data=self.data.unlabelled,
                out=str(self.folder / "tokenizer" / name),
                teacher=teacher,
            )
            self.train([Job("tokenizer", config, tested=False)], "tokenizer")
        pairs = [(arm, seed) for seed in seeds for arm in learned]
        self.train([self._pretraining(*pair) for pair in pairs], "pre-training")
        pairs = [(arm, seed) for seed in seeds for arm in arms if arm.supervised]
        self.train([self._supervised(*pair) for pair in pairs], "labels of other objects")

    def _pretraining(self, arm: Arm, seed: int) -> Job:
        config = arm.pretrain(self.plan.pretrain)
        tokenizer = str(self.folder / "tokenizer" / arm.tokenizer) if arm.tokenizer else ""
        training = replace(config.training, seed=seed)
        out = str(self._place("pretrain", arm, seed))
        config = replace(
            config, data=self.data.unlabelled, out=out, tokenizer=tokenizer, training=training
        )
        return Job("pretrain", config, tested=False)

    def _supervised(self, arm: Arm, seed: int) -> Job:
        """Training on other labels: as many updates as a pre-training, at fine-tuning's rates."""
        base, steps = self.plan.finetune, self.plan.pretrain.training.steps
        training = replace(
            base.training, steps=steps, batch=self.plan.pretrain.training.batch,
            warmup_steps=steps // 10, evaluate_every=0, save_every=steps, seed=seed,
            layer_decay=1.0, lr=self.plan.rates[0],
        )  # fmt: skip
        init = str(self._place("pretrain", arm, seed)) if arm.pretrained else ""
        config = replace(
            base, data=self.data.other, out=str(self._place("supervised", arm, seed)),
            init=init, model=self._model(arm, ""), training=training,
        )  # fmt: skip
        return Job("finetune", config, tested=False)

    def _place(self, stage: str, arm: Arm, seed: int) -> Path:
        return self.folder / stage / f"{slug(arm.name)}-{seed}"

    def start(self, arm: Arm, seed: int) -> str:
        """The model that fine-tuning starts from; empty: from scratch."""
        if arm.init:
            return arm.init
        if arm.supervised:
            return str(self._place("supervised", arm, seed))
        return str(self._place("pretrain", arm, seed)) if arm.pretrained else ""

    def _model(self, arm: Arm, init: str) -> Any:
        """The architecture of the backbone in fine-tuning."""
        base = self.plan.finetune
        if init:
            return for_classifying(Inputs().backbone(init), base)
        model = arm.pretrain(self.plan.pretrain).model
        return for_finetuning(model, base.model.drop_path)

    # -- fine-tuning ---------------------------------------------------------------------------

    def finetuning(self, arm: Arm, fit: Fit) -> FinetuneRunConfig:
        """The run of an arm; images, augmentation and schedule are the same for every arm."""
        base, init = self.plan.finetune, self.start(arm, fit.seed)
        training = base.training
        evaluations = max(training.steps // max(training.evaluate_every, 1), 1)
        name = (
            f"{fit.seed}-{fit.draw}-{fit.labels}-{fit.setting.rate:g}-{fit.setting.decay:g}"
            f"-{fit.steps}"
        )
        return replace(
            base,
            data=self.data.labelled,
            out=str(self.folder / "finetune" / slug(arm.name) / name),
            init=init,
            model=self._model(arm, init),
            per_class=fit.labels or None,
            split_seed=fit.draw,
            training=replace(
                training,
                steps=fit.steps,
                warmup_steps=fit.steps // 10,
                evaluate_every=max(fit.steps // evaluations, 1),
                save_every=fit.steps,
                seed=fit.seed,
                lr=fit.setting.rate,
                min_lr=min(training.min_lr, fit.setting.rate),
                layer_decay=fit.setting.decay,
            ),
        )

    def _steps(self, arm: Arm) -> int:
        return arm.longer * self.plan.finetune.training.steps

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """All settings that the search tries."""
        return tuple(
            itertools.starmap(Setting, itertools.product(self.plan.rates, self.plan.decays))
        )

    def search(self) -> dict[str, Setting]:
        """The setting of every arm that is best on validation, with one seed and draw."""
        fits = {
            (arm.name, setting): self.finetuning(
                arm, Fit(0, 0, self.plan.searched, setting, self._steps(arm))
            )
            for arm in self.arms
            for setting in self.settings
        }
        self.train([Job("finetune", run, tested=False) for run in fits.values()], "search")
        return {
            arm.name: max(self.settings, key=lambda one: validation(fits[arm.name, one].out))
            for arm in self.arms
        }

    def finetune(self, seeds: Sequence[int], found: Mapping[str, Setting]) -> None:
        """Fine-tune every arm with every number of labels, seed and draw; record test accuracy."""
        draws, plan = range(self.plan.draws), self.plan
        runs = {
            (arm.name, labels, seed, draw): self.finetuning(
                arm, Fit(seed, draw, labels, found[arm.name], self._steps(arm))
            )
            for seed in seeds for labels in plan.labels for arm in self.arms for draw in draws
        }  # fmt: skip
        self.train([Job("finetune", run) for run in runs.values()], "fine-tuning")

        def record(measure: str, labels: int, values: Callable[[Path, Path], list[float]]) -> None:
            def run(name: str, seed: int, draw: int) -> Path:
                return Path(runs[name, labels, seed, draw].out)

            for arm in self.arms:
                every = [
                    [values(run(arm.name, seed, draw), run(SCRATCH, seed, draw)) for draw in draws]
                    for seed in seeds
                ]
                self._record(arm.name, measure, every, measure not in COUNTS)

        for labels in plan.labels:
            record(finetuned(labels), labels, lambda run, _: tested(run))
        record(CONVERGENCE, plan.searched, lambda run, _: [converged(run)])
        record(CATCHING_UP, plan.searched, lambda run, scratch: [caught_up(run, scratch)])

    def prolong(self, found: Mapping[str, Setting]) -> None:
        """Double the updates, with one seed and draw, until validation no longer rises, or as often
        as the plan allows."""

        def run(arm: Arm, doublings: int) -> FinetuneRunConfig:
            steps = self._steps(arm) * 2**doublings
            return self.finetuning(arm, Fit(0, 0, self.plan.searched, found[arm.name], steps))

        best = {arm.name: run(arm, 0) for arm in self.arms}
        rising = list(self.arms)
        for doublings in range(1, self.plan.doublings + 1):
            runs = {arm.name: run(arm, doublings) for arm in rising}
            jobs = [Job("finetune", longer, tested=False) for longer in runs.values()]
            self.train(jobs, "until it no longer rises")
            gains = {
                name: validation(longer.out) - validation(best[name].out)
                for name, longer in runs.items()
            }
            best |= {name: runs[name] for name, gain in gains.items() if gain > 0}
            rising = [arm for arm in rising if gains[arm.name] >= RISES]
        self.train([Job("finetune", one) for one in best.values()], "fine-tuning")
        for name, one in best.items():
            self._record(name, CONVERGED_AT, [[tested(Path(one.out))]])
            self._record(name, "its updates", [[[float(one.training.steps)]]], False)

    # -- other measures ------------------------------------------------------------------------

    def measure_frozen(self, seeds: Sequence[int]) -> None:
        """Measure frozen features by linear classifiers and neighbours, baselines, attention."""
        plan, segmented, starts = self.plan, self.data.segmented, self._starts(seeds)
        frozen, attention = self.folder / "frozen", self.folder / "attention"
        wanted: dict[Path, Callable[[], Any]] = {}
        for name, places in starts.items():
            for seed, place in zip(seeds, places, strict=True):
                record = f"{slug(name)}-{seed}.json"
                wanted[frozen / record] = partial(
                    frozen_scores, place, self.data.labelled, crop=plan.finetune.crop,
                    loader=plan.finetune.loader, labels=plan.labels, draws=plan.draws,
                    baselines=name == UNTRAINED and seed == seeds[0],
                )  # fmt: skip
                if segmented:
                    wanted[attention / record] = partial(attention_overlaps, place, segmented)
        if segmented:
            place = starts[UNTRAINED][0]
            wanted[attention / "even.json"] = partial(even_attention, place, segmented)
        made = self._made(wanted, "frozen features")
        for name in starts:
            records = [f"{slug(name)}-{seed}.json" for seed in seeds]
            found = [made[frozen / record] for record in records]
            for key in found[0]:
                row, _, measure = key.rpartition("|")
                self._record(row or name, measure, [one[key] for one in found if key in one])
            if segmented:
                every = [[made[attention / record]] for record in records]
                self._record(name, ATTENTION, every, False)
        if segmented:
            self._record(EVEN, ATTENTION, [[made[attention / "even.json"]]], False)

    def _made(self, wanted: Mapping[Path, Callable[[], Any]], what: str) -> dict[Path, Any]:
        """The content of these records; the missing ones are made first, several at a time."""
        waiting = [one for one in wanted.items() if not one[0].exists()]
        for number, record in enumerate(at_once(record_made, waiting, self.processes), 1):
            print(f"{what}: {number} of {len(waiting)}, {record.stem}", flush=True)
        return {record: once(record, make) for record, make in wanted.items()}

    def _starts(self, seeds: Sequence[int]) -> dict[str, list[str]]:
        """By name and seed, the untrained backbone and the models that arms start from."""
        crop, places = self.plan.finetune.crop, []
        for seed in seeds:
            place = self.folder / "untrained" / str(seed)
            if not place.exists():
                save_artifact(place, untrained(self.plan.pretrain.model, seed), Details(crop=crop))
            places.append(str(place))
        others = {arm.name: [self.start(arm, seed) for seed in seeds] for arm in self.arms}
        return {UNTRAINED: places} | {name: found for name, found in others.items() if found[0]}

    def segment(self, seeds: Sequence[int], found: Mapping[str, Setting]) -> None:
        """Train segmenters with the layer decay that the search chose; record mean IoU on test."""
        runs = {
            (arm.name, name, seed): self._segmenting(arm, name, seed, found[arm.name])
            for seed in seeds for arm in self.arms for name in self.plan.segment
            if arm.longer == 1
        }  # fmt: skip
        self.train([Job("segment", run) for run in runs.values()], "segmenting")
        for arm, name in dict.fromkeys((arm, name) for arm, name, _ in runs):
            every = [[tested(Path(runs[arm, name, seed].out))] for seed in seeds]
            self._record(arm, f"mIoU, {name}", every, False)

    def _segmenting(self, arm: Arm, name: str, seed: int, setting: Setting) -> SegmentRunConfig:
        base, init = self.plan.segment[name], self.start(arm, seed)
        model = open_artifact(init).backbone if init else arm.pretrain(self.plan.pretrain).model
        assert model is not None
        return replace(
            base, data=self.data.segmented, init=init, model=for_segmenting(model, base),
            out=str(self.folder / "segment" / slug(f"{name}-{arm.name}-{seed}")),
            training=replace(base.training, seed=seed, layer_decay=setting.decay),
        )  # fmt: skip

    def seconds_before(self, arm: Arm, seed: int) -> list[float]:
        """CPU seconds of the tokenizer, then of each training before fine-tuning; those of a
        teacher count for its own arm."""
        learned = arm.pretrained and not arm.init
        places = [self._place("pretrain", arm, seed)] * learned
        places += [self._place("supervised", arm, seed)] * arm.supervised
        tokenizer = [self.folder / "tokenizer" / arm.tokenizer] * (learned and arm.tokenizer != "")
        every = [sum(once(place / "seconds.json", float) for place in tokenizer)]
        return every + [once(place / "seconds.json", float) for place in places]

    def record_seconds(self, seeds: Sequence[int]) -> None:
        """Record the sum of `seconds_before` for every arm."""
        for arm in self.arms:
            every = [[[sum(self.seconds_before(arm, seed))]] for seed in seeds]
            self._record(arm.name, "CPU s before", every, False)

    def _record(
        self, arm: str, measure: str, every: list[list[list[float]]], by_image: bool = True
    ) -> None:
        """Keep a score, in per cent but for counts; only those by image have the images' units."""
        plain = measure in COUNTS
        values = np.asarray(every, float) * (1 if plain else 100)
        items = values.shape[2]
        units = self.test_units if by_image and items == len(self.test_units) else range(items)
        self.scores[arm, measure] = Score(values, units)

    @cached_property
    def test_units(self) -> list[str]:
        """The unit of each test image, in their order."""
        test = parts(self.data.labelled).test
        assert test is not None
        keys = (test.key(index).removeprefix("test/") for index in range(len(test)))
        return [self.units(key) for key in keys]


def slug(name: str) -> str:
    """A name in the form that folders have."""
    return name.lower().replace(",", "").replace(" ", "-")
