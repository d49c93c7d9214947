"""Cross-validation: one run for each fold of the images, and a summary of all."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from beit.atomic_io import write_file
from beit.config import FinetuneRunConfig, RunConfig
from beit.config.tree import override
from beit.data.account import account_from_json
from beit.errors import RunFolderError
from beit.report.comparison import MOST_RUNS, write_comparison
from beit.report.markup import Section, render
from beit.tasks.execution import Run, run
from beit.tasks.inputs import Inputs
from beit.tasks.run_config import resolve_config
from beit.tasks.task import Task, task_of
from beit.terminal import TextTable, print_tables
from beit.training.run_folder import RunFolder, read_run_config

Config = TypeVar("Config", bound=RunConfig)
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t for 1 to 9 degrees of freedom."""
MOST_FREQUENT = "most frequent class"
REMARK = (
    "The last evaluation of each fold, on images that it has not learned from. The interval is "
    "Student's for the mean over folds; as folds share most of what they learn from, the true one "
    "is wider (Bengio and Grandvalet, 2004)."
)


class Folded(NamedTuple):
    """One metric over the folds: its mean, the ends of a 95 % interval, and its value in each."""

    mean: float
    low: float
    high: float
    folds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Folded:
        """The mean and its 95 % interval."""
        mean, count = statistics.fmean(values), len(values)
        half = STUDENT[count - 2] * statistics.stdev(values) / count**0.5
        return cls(mean, mean - half, mean + half, tuple(values))

    def cells(self, name: str) -> tuple[str, ...]:
        """A row of the table."""
        interval = f"{self.low:.4g} to {self.high:.4g}"
        return name, f"{self.mean:.4g}", interval, *(f"{value:.4g}" for value in self.folds)


def run_folds(
    task: Task[Config],
    recipe: str | Config | None,
    options: Mapping[str, object],
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    inputs: Inputs | None = None,
) -> Run:
    """Carry out a run or, if `folds` are requested, one for each, in `out`/fold-1 and so on.

    With folds, folds.json and report.html in `out` hold every metric with its mean and interval.

    Args:
        task: The kind of run.
        recipe: As for `beit.tasks.execution.run`.
        options: As for `run`; `folds` requests several runs, `only_fold` one of them.
        resume: Continue the run, or those of the folds that are not finished.
        quiet: Write the logs, but print nothing.
        report: Write report.html of each run, and of all folds.
        inputs: Artifacts and images that were opened already; the folds share them.

    Returns:
        The run. Of several, one that has the mean metrics, and the artifact of the first fold.

    Raises:
        RunFolderError: Folds are requested in the folder of a single run.
        BeitError: As for `run`.
    """
    inputs = inputs or Inputs()
    recorded = _recorded(options) if resume else None
    named = recipe.folds if isinstance(recipe, FinetuneRunConfig) else None
    if options.get("only_fold") or not (recorded or options.get("folds") or named):
        return run(task, recipe, options, resume=resume, quiet=quiet, report=report, inputs=inputs)
    base = recorded if isinstance(recorded, task.config) else recipe
    config = resolve_config(task, base, options, inputs)
    if isinstance(config, FinetuneRunConfig) and config.only_fold:
        return run(task, recipe, options, resume=resume, quiet=quiet, report=report, inputs=inputs)
    out, leads = Path(config.out), os.environ.get("RANK", "0") == "0"
    if RunFolder(out).config.exists():
        raise RunFolderError(f"{out} holds a single run", remedy="choose another --out")
    if not resume and os.environ.get("WORLD_SIZE", "1") == "1":
        RunFolder(out).check_free()
    runs = []
    for number in range(1, _count(config) + 1):
        place = fold_folder(out, number)
        runs.append(
            run(
                task,
                config,
                {"only_fold": number, "out": str(place)},
                resume=resume and RunFolder(place).config.exists(),
                quiet=quiet,
                report=report,
                inputs=inputs,
            )
        )
    found = summary(runs)
    if leads:
        _write(out, found, runs, report=report)
        if not quiet:
            table = TextTable(
                "measure", "mean", "95 % interval", *(one.folder.name for one in runs)
            )
            for name, measure in found.items():
                table.add_row(*measure.cells(name))
            print_tables(table)
    means = {name: measure.mean for name, measure in found.items()}
    return Run(out, runs[0].artifact, means, runs[0].best_step)


def fold_folder(out: Path, number: int) -> Path:
    """The folder of the run of a fold; folds are counted from 1."""
    return out / f"fold-{number}"


def _count(config: RunConfig) -> int:
    assert isinstance(config, FinetuneRunConfig)
    return config.folds or 0


def _recorded(options: Mapping[str, object]) -> RunConfig | None:
    """The config of the folds that were begun in `out`, so that no option need be repeated; None if
    there are none."""
    out = Path(str(options.get("out", "")))
    first = fold_folder(out, 1)
    if RunFolder(out).config.exists() or not RunFolder(first).config.exists():
        return None
    recorded = read_run_config(first)
    return override(recorded, {"only_fold": None, "out": str(out)})


def summary(runs: Sequence[Run]) -> dict[str, Folded]:
    """Every metric that all folds have; beside top-1, what always answering one class scores."""
    shared = [name for name in runs[0].metrics if all(name in one.metrics for one in runs)]
    found = {name: Folded.of([one.metrics[name] for one in runs]) for name in shared}
    if "top1" in found:
        found[MOST_FREQUENT] = Folded.of([_most_frequent(one.folder) for one in runs])
    return found


def _most_frequent(folder: Path) -> float:
    """The fraction of validation images whose class is the most frequent one in training."""
    account = account_from_json(RunFolder(folder).account.read_text())
    learned, held_out = account.classes["train"], account.classes["val"]
    most = max(learned, key=lambda name: learned[name])
    return held_out[most] / max(sum(held_out.values()), 1)


def _write(out: Path, found: Mapping[str, Folded], runs: Sequence[Run], *, report: bool) -> None:
    values: dict[str, Any] = {name: measure._asdict() for name, measure in found.items()}
    write_file(out / "folds.json", [json.dumps(values, indent=1).encode()])
    if report:
        rows = [measure.cells(name) for name, measure in found.items()]
        table = render("folds.html.j2", rows=rows, folds=len(runs), remark=REMARK)
        write_comparison(
            [one.folder for one in runs][:MOST_RUNS],
            out / "report.html",
            task_of,
            [Section("folds", "Folds", table)],
            learned=_learned(found),
        )


def _learned(found: Mapping[str, Folded]) -> str:
    """The first metric in words."""
    name, measure = next(iter(found.items()))
    usual = found.get(MOST_FREQUENT)
    beside = f" Always answering the most frequent class gives {usual.mean:.4g}." if usual else ""
    return (
        f"Over {len(measure.folds)} folds {name} is {measure.mean:.4g} on average (95 % interval "
        f"{measure.low:.4g} to {measure.high:.4g}).{beside}"
    )
