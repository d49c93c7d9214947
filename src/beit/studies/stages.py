"""What the studies share: runs in one folder that go on where they stopped, two arms that are
trained alike, and tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beit import tasks
from beit.atomic_io import replace_file
from beit.config import (
    RunConfig,
    TrainingConfig,
    VisionTransformerConfig,
)
from beit.errors import RunFolderError
from beit.models.heads import MaskedImageModel
from beit.recipes.demo import Budget
from beit.rng import seed_everything
from beit.training.run_folder import RunFolder

ARMS = ("pre-trained", "from scratch")


class Stages:
    """The folder of a study. What is done there is not done again."""

    def __init__(self, folder: Path, plan: Mapping[str, object]) -> None:
        """Raises RunFolderError if the folder holds a study of another plan."""
        self.folder = folder
        if once(folder / "plan.json", lambda: plan) != plan:
            raise RunFolderError(
                f"{folder} holds a study of another length or version",
                remedy="choose another --out",
            )

    def train(self, verb: str, config: RunConfig) -> Path:
        """The folder of a finished run: done before, taken up again, or done now."""
        out = Path(config.out)
        if (out / "report.html").exists():
            return out
        print(f"\n== {verb}", flush=True)
        getattr(tasks, verb)(config, resume=RunFolder(out).config.exists())
        return out


def once(record: Path, make: Callable[[], Any]) -> Any:
    """The JSON values in a file; made and written if it is not there."""
    if not record.exists():
        made = json.dumps(make(), indent=1)
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, [made.encode()])
    return json.loads(record.read_text())


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Named tuples as a JSON list of objects."""
    path.write_text(json.dumps([row._asdict() for row in rows], indent=1))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join((lines[0], "| --- " * len(head) + "|", *lines[1:]))


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation over seeds."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} ± {statistics.stdev(values):.1f}"


def differences(values: list[float], others: list[float]) -> list[float]:
    """Pair by pair."""
    return [value - other for value, other in zip(values, others, strict=True)]


def of_budget(base: TrainingConfig, budget: Budget, seed: int) -> TrainingConfig:
    """The training of one seed, in either arm."""
    steps = budget.steps
    return replace(base, steps=steps, warmup_steps=steps // 10, save_every=steps, seed=seed)


def untrained(backbone: VisionTransformerConfig, seed: int) -> MaskedImageModel:
    """A backbone with the initial weights that pre-training starts from."""
    seed_everything(seed)
    published = backbone.initialisation == "finetune"
    started = replace(backbone, initialisation="pretrain") if published else backbone
    return MaskedImageModel(started, 2).eval()
