"""The page and the files of a study, written anew whenever there is more to show."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from beit.atomic_io import replace_file
from beit.recipes.studies import SCRATCH, number_of
from beit.report.markup import render
from beit.studies.measures import ATTENTION, CONVERGED_AT, COUNTS, finetuned
from beit.studies.results import as_csv, lines, pivot
from beit.studies.study import Study

EXPLANATION = (
    "Test accuracy, mean IoU over the classes of the test masks, and IoU of attention with objects "
    "in per cent; with the 95 % interval of a bootstrap over pre-training seeds, label draws and "
    "what belongs together among the test images (classes, or the groups given). With one seed the "
    "interval does not hold what other seeds would give. Updates to the best from scratch: until "
    "validation is as good as that of the same labels and seed from scratch ever is, or all of "
    "them. Every arm has the same images, updates and search."
)


class StudyTable(NamedTuple):
    """A table, and what it shows."""

    title: str
    explanation: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The cells as a Markdown table."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (head, *rows))
    return "\n".join((first, "| --- " * len(head) + "|", *others))


def write_study_page(
    place: Path, title: str, verdict: str, tables: Sequence[StudyTable], commands: str
) -> Path:
    """Write the page of a study, replacing an earlier one.

    Args:
        place: The HTML file.
        title: Heading of the page.
        verdict: What the study found, in a sentence.
        tables: What the page shows.
        commands: Commands to go on with; empty: none.
    """
    text = render("study.html.j2", title=title, verdict=verdict, tables=tables, next=commands)
    replace_file(place, [text.encode()])
    return place


def write_tables(
    folder: Path, title: str, study: Study, *, verdict: str = "", before: Sequence[StudyTable] = ()
) -> Path:
    """Write report.html and results.json, .csv and .md.

    Args:
        folder: Where to write.
        title: Heading of the page.
        study: Its scores so far.
        verdict: What the study found, in a sentence.
        before: Tables that come before the scores.

    Returns:
        The page.
    """
    scores, labels = study.scores, [number_of(each) for each in study.plan.labels]
    measures = (
        *(finetuned(each) for each in study.plan.labels), CONVERGED_AT, *COUNTS[:-1],
        *(f"linear, {each}" for each in labels),
        *(f"nearest neighbours, {each}" for each in labels),
        *(f"mIoU, {name}" for name in study.plan.segment), ATTENTION, COUNTS[-1],
    )  # fmt: skip
    head, rows = pivot(scores, measures, lambda measure: 0 if measure in COUNTS else 1)
    tables = (
        *before,
        StudyTable("Scores", EXPLANATION, head, rows),
        StudyTable("Arms", "What each changes.", ("arm", "change"),
                   [(arm.name, arm.change) for arm in study.arms]),
    )  # fmt: skip
    found = [line.flat() for line in lines(scores, SCRATCH)]
    texts = {"results.json": json.dumps(found, indent=1), "results.csv": as_csv(found)}
    texts["results.md"] = "\n\n".join(
        [*filter(None, [verdict]), *(markdown_table(one.head, one.rows) for one in tables)]
    )
    for name, text in texts.items():
        replace_file(folder / name, [f"{text}\n".encode()])
    return write_study_page(folder / "report.html", title, verdict, tables, next_commands(study))


def next_commands(study: Study) -> str:
    """Commands to go on from the arm that is best with the most labels, and to see its training."""
    measure = finetuned(study.plan.labels[-1])
    measured = [arm for arm in study.arms if (arm.name, measure) in study.scores]
    if not measured:
        return ""
    best = max(measured, key=lambda arm: study.scores[arm.name, measure].interval().mean)
    start = study.start(best, 0)
    init = f" --init {shlex.quote(start)}" if start else ""
    commands = [
        f"beit finetune --data {shlex.quote(study.data.labelled)}{init} --out runs/classifier"
    ]
    if start and not best.init:
        commands.append(f"beit report {shlex.quote(start)}")
    return "\n".join(commands)
