"""Does pre-training pay on one's own labelled images? The same question, under one budget."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from beit.config.data import AS_RECOGNISED, Reading
from beit.data.dataset import Dataset
from beit.data.labelled import few
from beit.data.name_patterns import found_in
from beit.data.sources import FileSource, ImageSource, is_multi_label, keys_of
from beit.errors import DataError
from beit.evaluation.baselines import TRIVIAL
from beit.recipes.studies import OWN_ARMS, SCRATCH, Arm, StudyPlan, number_of
from beit.studies.jobs import once
from beit.studies.measures import finetuned
from beit.studies.results import Interval, Scores
from beit.studies.study import Data, Study
from beit.studies.tables import write_tables
from beit.terminal import print_lines

HELD_OUT = 0.2
"""For test, and again for validation, where the data has no such part."""
RELEASED = "released"
PARTS = ("train", "val", "test")


def study_own(
    folder: Path,
    plan: StudyPlan,
    data: str,
    *,
    init: str = "",
    groups: str = "",
    processes: int = 1,
    reading: Reading = AS_RECOGNISED,
) -> str:
    """Do all that is not done yet; the sentence that says whether pre-training pays.

    Args:
        folder: Of the study.
        plan: The budget of all arms.
        data: Labelled images with one class each, in any form.
        init: A finished model to compare with.
        groups: Regular expression that finds in the name of an image the group that it belongs to:
            groups are never divided among the parts, and drawn as a whole for the intervals.
        processes: Trainings at a time.
        reading: How the data are read.

    Raises:
        DataError: If images have no or several labels, or no group, or a class has too few.
    """
    known: dict[str, str] = once(
        folder / "groups.json", lambda: lay_out(folder / "data", data, groups, reading)
    )
    train = Dataset(str(folder / "data")).labelled()["train"]
    print_lines(*train.account.lines())
    _check_labels(train, plan.labels)
    arms = [
        *OWN_ARMS,
        *([Arm(name=RELEASED, change=f"starts from {init}", init=init)] * bool(init)),
    ]
    parts = Data(str(folder / "data" / "train"), str(folder / "data"))
    study = Study(folder, plan, parts, arms, processes=processes, units=known.__getitem__)
    for seed in range(plan.seeds):
        seeds = range(seed + 1)
        study.pretrain(arms, [seed])
        found = study.search()
        study.finetune(seeds, found)
        study.record_seconds(seeds)
        study.measure_frozen(seeds)
        verdict = conclude(study.scores, arms, plan.labels)
        write_tables(folder, "Does pre-training pay here?", study, verdict=verdict)
    return verdict


def conclude(scores: Scores, arms: Sequence[Arm], labels: Sequence[int]) -> str:
    """Each start against from scratch and against what nobody has to train."""
    starts = [arm.name for arm in arms if arm.name != SCRATCH]
    sentences = []
    for number in labels:
        measure = finetuned(number)
        scratch = scores[SCRATCH, measure]
        trivial = {row: scores[row, f"linear, {number_of(number)}"].interval() for row in TRIVIAL}
        easy = max(trivial, key=lambda row: trivial[row].mean)
        for start in starts:
            score = scores[start, measure]
            gain, mean = score.minus(scratch).interval(), score.interval()
            pays = _pays(gain, mean, trivial[easy])
            sentences.append(
                f"With {number_of(number)} per class, {start} reaches {mean.text()} %, "
                f"{gain.text('+')} points against from scratch: it {pays} ({easy}, linear: "
                f"{trivial[easy].text()} %)."
            )
    return " ".join(sentences)


def _pays(gain: Interval, mean: Interval, trivial: Interval) -> str:
    if gain.low <= 0:
        return "does not clearly pay here" if gain.high >= 0 else "does harm here"
    if mean.low <= trivial.mean:
        return "pays here, but trivial features do about as well"
    return "pays here"


def lay_out(folder: Path, data: str, groups: str, reading: Reading) -> dict[str, str]:
    """Link the images into train, val and test with a folder per class; the group of each by key.

    Parts that the data has are kept. Images are held out by the hash of their name, or whole
    groups by that of the group. Raises ConfigError for a pattern that is none; DataError.
    """
    found = Dataset(data, reading).labelled()
    if is_multi_label(found["train"]):
        raise DataError(
            f"the images of {data} may have several labels each",
            remedy="this study takes one class for each image",
        )
    members: dict[str, str] = {}
    missing = [part for part in PARTS[1:] if part not in found]
    for part, source in found.items():
        names = found_in(keys_of(source), groups or "(.*)", "groups")
        parts = (
            _held_out(names, source, missing, whole=bool(groups))
            if part == "train"
            else [part] * len(source)
        )
        for index, (name, place) in enumerate(zip(names, parts, strict=True)):
            flat = source.key(index).replace("/", "__")
            key = f"{source.classes[_target(source, index)]}/{flat}"
            _link(source, index, folder / place / key)
            members[key] = name
    return members


def _check_labels(train: ImageSource, labels: Sequence[int]) -> None:
    """Raise DataError, before anything is trained, if a class has too few images to draw from."""
    for number in labels:
        if number:
            few(train, number, seed=0, option="--labels")


def _target(source: ImageSource, index: int) -> int:
    assert source.targets is not None
    return int(source.targets[index])


def _held_out(
    names: Sequence[str], source: ImageSource, missing: Sequence[str], *, whole: bool
) -> list[str]:
    """Which part each image goes to: a fifth to each one that is missing, class by class, or of
    whole groups a fifth of all."""
    parts = ["train"] * len(names)
    labels = [0 if whole else _target(source, index) for index in range(len(names))]
    for label in sorted(set(labels)):
        indices = [index for index, other in enumerate(labels) if other == label]
        order = sorted({names[index] for index in indices}, key=_hash)
        many = round(HELD_OUT * len(order))
        for number, part in enumerate(missing):
            chosen = set(order[number * many : (number + 1) * many])
            for index in indices:
                if names[index] in chosen:
                    parts[index] = part
    return parts


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _link(source: ImageSource, index: int, place: Path) -> None:
    """The image itself where it lies in no file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.exists():
        return
    if isinstance(source, FileSource):
        place.symlink_to(source.path(index).resolve())
    else:
        place.write_bytes(source.read(index).data)
