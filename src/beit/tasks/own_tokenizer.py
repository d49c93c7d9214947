"""The tokenizer that a pre-training trains for itself: on the grid of its patches, and once more,
differently, where one has collapsed."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from beit.config import DiscreteVAEConfig, PretrainRunConfig, TokenizerRunConfig
from beit.config.tokenizer import PatchCodebookConfig
from beit.data.dataset import reading_for
from beit.errors import CheckpointError, ConfigError
from beit.recipes import find_recipe
from beit.tasks.execution import run
from beit.tasks.inputs import Inputs
from beit.tasks.task import RunOptions
from beit.tasks.tokenizing import TOKENIZER
from beit.training.run_folder import RunFolder, read_run_config
from beit.weights.store import find_artifact

logger = logging.getLogger(__name__)

FEWER = 8
"""Each further attempt has so many times fewer codes."""
FEWEST = 8
PATCHES = 64
"""Codes that are advised to one whose tokenizer collapsed."""


def matching_tokenizer(config: PretrainRunConfig, out: str) -> TokenizerRunConfig:
    """The tokenizer recipe of a pre-training, with the grid of its backbone: the stride of a
    discrete VAE is half the patch."""
    base = find_recipe("tokenizer", config.tokenizer_recipe, TokenizerRunConfig)
    patch, grid, built = config.model.patch, config.model.grid, base.tokenizer
    if isinstance(built, DiscreteVAEConfig):
        stride = patch // 2 if patch % 2 == 0 and patch > 2 else patch
        size = (grid[0] * stride, grid[1] * stride)
        built = replace(built, size=size, stride=stride, channels=config.model.channels)
    elif isinstance(built, PatchCodebookConfig):
        built = replace(built, size=config.model.size, patch=patch, channels=config.model.channels)
    else:
        raise ConfigError(
            f"tokenizer_recipe is {config.tokenizer_recipe}, a {type(built).__name__}",
            remedy="use small, kmeans or tiny; train another with `beit tokenizer`, and name it "
            "with --tokenizer",
        )
    folders, label_file = reading_for(config.data, config.reading, other=config.labelled)
    return replace(
        base, data=config.data, out=out, tokenizer=built, loader=config.loader,
        folders=folders, label_file=label_file,
    )  # fmt: skip


def own_tokenizer(config: PretrainRunConfig, run_options: RunOptions, inputs: Inputs) -> str:
    """The place of a tokenizer for this run, trained now unless that was done before.

    One that collapses is followed by k-means of patches with ever fewer codes, each in a folder of
    its own: those codes are patches of these images, and take seconds.
    Errors: ConfigError if all collapse.
    """
    failures: list[str] = []
    for planned in _attempts(config):
        if failures:
            logger.warning(
                "the tokenizer has collapsed (%s): %d codes by k-means are tried instead",
                failures[-1],
                planned.tokenizer.codes,
            )
        metrics = _trained(planned, run_options, inputs)
        if not metrics.get("collapsed") or config.accept_collapsed:
            return planned.out
        failures.append(f"{planned.out}: {described(metrics)}")
    raise ConfigError(
        f"no tokenizer tells the patches of {config.data} apart: {'; '.join(failures)}",
        remedy="look at what the images show (report.html in those folders): if they are as they "
        "should be, use larger patches (--patch) or use it anyway with --accept-collapsed",
    )


def _attempts(config: PretrainRunConfig) -> Iterator[TokenizerRunConfig]:
    place = own_place(config)
    first = matching_tokenizer(config, place)
    yield first
    patches = replace(config, tokenizer_recipe="kmeans")
    codes, number = first.tokenizer.codes, 1
    if not isinstance(first.tokenizer, PatchCodebookConfig):
        codes = min(codes, matching_tokenizer(patches, "").tokenizer.codes) * FEWER
    while codes > FEWEST:
        number, codes = number + 1, max(codes // FEWER, FEWEST)
        other = matching_tokenizer(patches, f"{place}-{number}")
        yield replace(other, tokenizer=replace(other.tokenizer, codes=codes))


def _trained(
    planned: TokenizerRunConfig, run_options: RunOptions, inputs: Inputs
) -> Mapping[str, float]:
    """The last evaluation of a tokenizer that is there, or is trained now, or to its end."""
    try:
        find_artifact(planned.out)
    except CheckpointError:
        begun = RunFolder(Path(planned.out)).config.exists()
        if begun:
            recorded = read_run_config(Path(planned.out))
            if isinstance(recorded, TokenizerRunConfig):
                planned = replace(recorded, data=planned.data)
        run(
            TOKENIZER, planned, {}, resume=begun, quiet=run_options.quiet, inputs=inputs,
            keep_data=True,
        )  # fmt: skip
    metrics: Mapping[str, float] = inputs.artifact(planned.out).details.trained.get("metrics", {})
    return metrics


def described(metrics: Mapping[str, float]) -> str:
    """How a tokenizer uses its codes."""
    used, even = (metrics.get(name, math.nan) for name in ("codes_in_use", "perplexity"))
    return f"it uses {used:.0f} codes, so unevenly that they say no more than {even:.1f} would"


def own_place(config: PretrainRunConfig) -> str:
    """The folder of the tokenizer that is trained for a run."""
    return f"{config.out.rstrip('/')}-tokenizer"


def own_run(config: PretrainRunConfig) -> TokenizerRunConfig | None:
    """The run that comes first where no tokenizer is named."""
    if config.tokenizer or config.objective.target != "tokens":
        return None
    return matching_tokenizer(config, own_place(config))


def mending(config: PretrainRunConfig) -> str:
    """The commands that train a tokenizer which does not collapse, and use it."""
    height, width = config.model.size
    channels = f" --channels {config.model.channels}" * (config.model.channels != 3)
    place = f"{own_place(config)}-kmeans"
    return (
        f"beit tokenizer kmeans --data {shlex.quote(config.data)} --out {shlex.quote(place)} "
        f"--size {height} {width} --patch {config.model.patch} --codes {PATCHES}{channels}, then "
        f"--tokenizer {shlex.quote(place)}"
    )


def nearly_collapsed(config: PretrainRunConfig, codes: int, metrics: Mapping[str, float]) -> str:
    """What to say of a tokenizer with few codes in even use; empty if they are enough."""
    if not metrics.get("nearly_collapsed"):
        return ""
    even = metrics.get("perplexity", math.nan)
    return (
        f"the tokenizer is nearly collapsed: its {codes} codes are used so unevenly that they say "
        f"no more than {even:.1f} would; a better one for another run: {mending(config)}"
    )
