"""The verbs that measure: evaluate, probe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from beit.cli.options import Artifact, pixels, value_of
from beit.config import ProbeConfig
from beit.errors import ConfigError, nearest
from beit.recipes import DEFAULT


def evaluate(args: list[str]) -> None:
    """Measure a classifier on labelled pictures: accuracy, likelihood, calibration."""

    def command(
        model: Artifact,
        data: str,
        split: str = "val",
        crop: float | None = None,
        size: tuple[int, int] | None = None,
        flip: bool = False,
        labels: str = "",
        batch: int = 32,
        device: str = "cpu",
        format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    ) -> None:
        """Measure a classifier on class folders or a labelled list.

        Args:
            model: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            data: Class folders, directly or under train/, val/ and test/, or a list file.
            split: The part to read, where there are parts.
            crop: Share of the side that the centre crop keeps; the model's own by default.
            size: Height and width in pixels; the model's own by default.
            flip: Average the probabilities of each picture and its mirror image.
            labels: Label map in JSON: {"folder or file name": class or [classes]}, or a list with
                the classes of each picture in the order of the file names.
            batch: Pictures at a time.
            device: cpu or cuda.
            format: A table for people, or JSON.
        """
        from beit.runs.evaluating import evaluate as measure
        from beit.runs.evaluating import print_json, print_table

        found = measure(
            model,
            data=data,
            split=split,
            crop=crop,
            size=size,
            flip=flip,
            labels=labels,
            batch=batch,
            device=device,
        )
        (print_json if format == "json" else print_table)(found)

    with pixels():
        tyro.cli(command, args=args, prog="beit evaluate", config=(tyro.conf.FlagCreatePairsOff,))


def probe(args: list[str]) -> None:
    """Find the block with the best frozen features: linear, nearest neighbours, attentive."""
    from beit.recipes.probe import RECIPES as PROBES

    name = value_of("--recipe", args) or DEFAULT
    if name not in PROBES:
        raise ConfigError(f"probe has no recipe '{name}'", remedy=nearest(name, PROBES))

    default = dataclasses.replace(PROBES[name](), recipe=name)

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
