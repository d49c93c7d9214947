"""The tokenizer that pre-training trains for itself, on the grid of its patches; if it collapses,
others are tried."""

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
"""Factor by which the number of codes falls from one attempt to the next."""
FEWEST = 8
"""Codes of the last attempt."""
PATCHES = 64
"""Codes that are recommended to a user whose tokenizer collapsed."""


def matching_tokenizer(config: PretrainRunConfig, out: str) -> TokenizerRunConfig:
    """The config of a pre-training's own tokenizer: its `tokenizer_recipe`, on the grid of its
    backbone. The stride of a discrete VAE is half the patch.

    Raises:
        ConfigError: The recipe is for another kind of tokenizer.
    """
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
    """Train a tokenizer for a run, unless that was done before.

    If it collapses, k-means of patches is tried with ever fewer codes, each time in a folder of its
    own: its codes are patches of these very images, and take seconds.

    Args:
        config: The pre-training run, which names no tokenizer.
        run_options: `quiet` also applies to training the tokenizer.
        inputs: Lists the data once for the tokenizer and the run.

    Returns:
        The folder of the tokenizer's run.

    Raises:
        ConfigError: All tokenizers collapse.
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
    """The last evaluation of a tokenizer, after training it or resuming its training if it is not
    finished."""
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
    """How many codes a tokenizer uses, and how evenly, in words."""
    used, even = (metrics.get(name, math.nan) for name in ("codes_in_use", "perplexity"))
    return f"it uses {used:.0f} codes, so unevenly that they say no more than {even:.1f} would"


def own_place(config: PretrainRunConfig) -> str:
    """The folder of the tokenizer that a run trains for itself."""
    return f"{config.out.rstrip('/')}-tokenizer"


def own_run(config: PretrainRunConfig) -> TokenizerRunConfig | None:
    """The run that trains the tokenizer first; None if one is named or none is needed."""
    if config.tokenizer or config.objective.target != "tokens":
        return None
    return matching_tokenizer(config, own_place(config))


def mending(config: PretrainRunConfig) -> str:
    """The command that trains a tokenizer by k-means instead, and the option that uses it."""
    height, width = config.model.size
    channels = f" --channels {config.model.channels}" * (config.model.channels != 3)
    place = f"{own_place(config)}-kmeans"
    return (
        f"beit tokenizer kmeans --data {shlex.quote(config.data)} --out {shlex.quote(place)} "
        f"--size {height} {width} --patch {config.model.patch} --codes {PATCHES}{channels}, then "
        f"--tokenizer {shlex.quote(place)}"
    )


def nearly_collapsed(config: PretrainRunConfig, codes: int, metrics: Mapping[str, float]) -> str:
    """A warning about a tokenizer whose codes are used too unevenly; empty if they are not.

    Args:
        config: The pre-training run that uses the tokenizer.
        codes: Size of its vocabulary.
        metrics: The tokenizer's last evaluation.
    """
    if not metrics.get("nearly_collapsed"):
        return ""
    even = metrics.get("perplexity", math.nan)
    return (
        f"the tokenizer is nearly collapsed: its {codes} codes are used so unevenly that they say "
        f"no more than {even:.1f} would; a better one for another run: {mending(config)}"
    )
