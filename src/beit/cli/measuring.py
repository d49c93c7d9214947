"""The verbs that measure: evaluate, probe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from beit.cli.options import Artifact, pixels, value_of
from beit.config import EvaluateConfig, ProbeConfig
from beit.recipes import DEFAULT
from beit.recipes.probe import find_probe


def evaluate(args: list[str]) -> None:
    """Measure a classifier or a segmenter on labelled pictures."""

    def command(
        model: Artifact,
        config: EvaluateConfig = EvaluateConfig(),  # noqa: B008 (frozen)
        format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    ) -> None:
        """Measure a classifier: accuracy, likelihood, calibration; or a segmenter: intersection
        over union, accuracy.

        Args:
            model: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            config: On which pictures, and how they are read.
            format: A table for people, or JSON.
        """
        from beit.runs.evaluating import evaluate as measure
        from beit.runs.measurement import print_json, print_table

        (print_json if format == "json" else print_table)(measure(model, config))

    with pixels():
        tyro.cli(
            command,
            args=args,
            prog="beit evaluate",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )


def probe(args: list[str]) -> None:
    """Find the block with the best frozen features: linear, nearest neighbours, attentive."""
    default = find_probe(value_of("--recipe", args) or DEFAULT)

    def command(artifact: Artifact, config: ProbeConfig = default) -> None:
        """Measure what the frozen features of every block are worth.

        Args:
            artifact: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            config: What is measured, and how.
        """
        from beit.runs.probing import print_table
        from beit.runs.probing import probe as measure

        print_table(measure(artifact, config))
        print(
            f"results {Path(config.out) / 'probe.json'}\nplot    {Path(config.out, 'probe.html')}"
        )

    tyro.cli(
        command,
        args=args,
        prog="beit probe",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
