"""The verbs that measure: evaluate, probe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from beit.cli.options import Artifact, call, value_of
from beit.config import EvaluateConfig, ProbeConfig
from beit.errors import ConfigError
from beit.recipes import DEFAULT, find_recipe
from beit.recipes.finetune import PROBES
from beit.terminal import print_lines

PLAIN = EvaluateConfig()


def evaluate(
    model: Artifact,
    config: EvaluateConfig = PLAIN,
    format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
) -> None:
    """Measure a classifier or a segmenter on labelled images.

    A classifier: accuracy, likelihood, calibration (with several labels per image: average
    precision, F1); a segmenter: intersection over union, accuracy.

    Args:
        model: A run, an artifact, a released file, a folder of timm or transformers,
            hf:org/name, timm/name, or a URL.
        config: On which images, and how they are read.
        format: A table for people, or JSON.
    """
    from beit.tasks.finished import evaluate as measure
    from beit.tasks.measurement import print_json, print_table

    found = measure(model, config)
    if os.environ.get("RANK", "0") == "0":  # of the processes torchrun started
        (print_json if format == "json" else print_table)(found)


def probe(args: list[str]) -> None:
    """Measure the frozen features of every block: linear, nearest neighbours, attentive."""
    if args[:1] and args[0] in PROBES and not Path(args[0]).exists():
        raise ConfigError(
            f"{args[0]} is a recipe, not a model",
            remedy=f"here a recipe is an option: beit probe MODEL --recipe {args[0]} ...",
        )
    default = find_recipe("probe", value_of("--recipe", args) or DEFAULT, ProbeConfig)

    def command(artifact: Artifact, config: ProbeConfig = default) -> None:
        """Measure how good the frozen features of every block are.

        Args:
            artifact: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            config: What is measured, and how.
        """
        from beit.report.probes import print_probes
        from beit.tasks.probing import probe as measure

        print_probes(measure(artifact, config))
        print_lines(
            f"results {Path(config.out) / 'probe.json'}",
            f"plot    {Path(config.out) / 'probe.html'}",
        )

    call(command, args, "beit probe")
