"""Does pre-training pay on one's own labelled images? All arms have the same budget."""

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
"""Fraction held out for test, and again for validation, if the data has no such part."""
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
    """Do everything that is not done yet; returns sentences that say whether pre-training pays.

    Args:
        folder: Folder of the study.
        plan: The budget of all arms.
        data: Labelled images with one class each, in any form.
        init: A finished model to compare with; empty: none.
        groups: Regular expression that finds the group of an image in its name; groups are never
            divided among the parts, and are drawn as a whole for the intervals.
        processes: Trainings at a time.
        reading: How the data are read.

    Raises:
        ConfigError: `groups` is not a regular expression.
        DataError: Images have no label, several, or no group, or a class has too few images.
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
    """Compare each start with training from scratch and with features that need no training.

    Args:
        scores: The scores by arm and measure.
        arms: The arms, from scratch among them.
        labels: Numbers of labels per class.

    Returns:
        A sentence for each number of labels and start.
    """
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
    """Link the images into train, val and test with a folder per class.

    Parts that the data has are kept. Images are held out by the hash of their name, or whole
    groups by that of the group.

    Args:
        folder: Where the parts are made.
        data: Labelled images with one class each, in any form.
        groups: Regular expression that finds the group of an image in its name; empty: no groups.
        reading: How the data are read.

    Returns:
        The group of each image, by its key below the part; without groups, its name.

    Raises:
        ConfigError: `groups` is not a regular expression.
        DataError: Images have no label, several, or no group.
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
    """Raise DataError, before anything is trained, if a class has too few images to draw."""
    for number in labels:
        if number:
            few(train, number, seed=0, option="--labels")


def _target(source: ImageSource, index: int) -> int:
    assert source.targets is not None
    return int(source.targets[index])


def _held_out(
    names: Sequence[str], source: ImageSource, missing: Sequence[str], *, whole: bool
) -> list[str]:
    """The part that each image goes to. Each missing part gets a fifth of the images of every
    class or, with whole groups, a fifth of all groups."""
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
    """Link to the image, or write it if it is not in a file of its own."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.exists():
        return
    if isinstance(source, FileSource):
        place.symlink_to(source.path(index).resolve())
    else:
        place.write_bytes(source.read(index).data)
