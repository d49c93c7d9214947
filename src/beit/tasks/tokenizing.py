"""`beit tokenizer`: a discrete VAE, k-means of patches, VQ or VQ-KD on one's own images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import nn

from beit.batch import ImageBatch
from beit.config import (
    QuantiseConfig,
    ReconstructConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    VQKDConfig,
)
from beit.config.options import TokenizerOptions
from beit.config.tree import to_json
from beit.data.augment import EvaluationView
from beit.data.sources import ImageSource, select
from beit.data.transforms import CachedViews, SingleView
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.tokenizer import tokenizer_health
from beit.inference.abilities import TOKENS
from beit.objectives.base import AnyObjective
from beit.objectives.tokenizer import VAEReconstruction, VQDistillation, VQReconstruction
from beit.recipes import DEFAULT
from beit.recipes.tokenizers import RECIPES
from beit.report import tokenizer as page
from beit.rng import seed_everything
from beit.tasks.execution import Run, run
from beit.tasks.inputs import Inputs
from beit.tasks.task import Setup, Task, register
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.dvae import DiscreteVAE
from beit.tokenizers.patches import PatchCodebook
from beit.tokenizers.teachers import Teacher
from beit.tokenizers.token_cache import FeatureCache
from beit.tokenizers.vq import VQKDTokenizer, VQTokenizer
from beit.training.device import resolve_precision
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights import kinds
from beit.weights.load import open_teacher
from beit.weights.store import Details


def tokenizer(
    recipe: str | TokenizerRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: Unpack[TokenizerOptions],
) -> Run:
    """Train a tokenizer on the images of `data`; the run and its artifact go to `out`.

    Args:
        recipe: A recipe's name, `module:function`, or a config.
        resume: Continue the run in `out` instead of starting a new one.
        quiet: Write the log, but print nothing.
        report: Write report.html at the end.
        options: Changes to the config by name, such as `data` and `out`.

    Raises:
        BeitError: Something is wrong with the options, the data or the teacher. This is found
            before the folder of the run is made.
    """
    return run(TOKENIZER, recipe, options, resume=resume, quiet=quiet, report=report)


def prepare(
    config: TokenizerRunConfig, processes: Processes, inputs: Inputs
) -> Setup[TokenizerRunConfig]:
    """The tokenizer and all that its training needs.

    Args:
        config: The run.
        processes: The processes that will train together; they decide the device.
        inputs: Lists the images, unless that was done already.

    Raises:
        ConfigError: An option does not fit, or no teacher was named for VQ-KD.
        DataError: The images cannot be used.
        CheckpointError: The teacher cannot be opened.
    """
    teacher = teacher_of(config)
    built = rebuilding(config.tokenizer, teacher)
    images = inputs.images(config.data, config.reading, built.channels, config.loader.value_range)
    training, held_out = hold_out(images, config.held_out)
    cache = None
    if teacher is not None and config.teacher_views:
        precision = resolve_precision(config.training.precision, processes.device)
        cache = feature_cache(config, built, teacher, precision, training)
    seed_everything(config.training.seed)
    passes = EvalLoader(
        ImageBatch,
        held_out,
        EvaluationView(built.size, 1.0, labelled=False),
        size=built.size,
        channels=built.channels,
        loader=config.loader,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, VisualTokenizer)
        health = tokenizer_health(model, passes, device=processes.device)
        painted = {"psnr": health.psnr} if model.can_decode else {}
        return painted | {
            "codes_in_use": float(health.codes_in_use),
            "perplexity": health.perplexity,
            "collapsed": float(health.collapsed),
            "nearly_collapsed": float(health.nearly_collapsed),
        }

    views = SingleView(config=config.views, size=built.size, interpolation=built.interpolation)
    return Setup(
        config=config,
        objective=objective_of(config, built, teacher, cache),
        source=training,
        view=CachedViews(views=views, number=config.teacher_views) if cache else views,
        channels=built.channels,
        evaluation=Evaluation(measure, skips=passes.skips),
        details=Details(),
        notes=(
            *((cache.check_room(),) if cache else ()),
            *_told_of_held_out(training, held_out),
        ),
    )


def feature_cache(
    config: TokenizerRunConfig,
    built: TokenizerConfig,
    teacher: Teacher,
    precision: torch.dtype,
    source: ImageSource,
) -> FeatureCache:
    """Where the features of a run's teacher are kept. Runs share them only if everything that
    decides them is the same.

    Args:
        config: The run; it says where, how many views there are, and how they are drawn.
        built: The tokenizer that is trained, whose size and grid the features have.
        teacher: The model that computes the features.
        precision: Number format in which it computes them.
        source: The training images.
    """
    identity = {
        "drawing": 1,  # to be raised when the same settings and seed give other views
        "teacher": teacher.digest(),
        "precision": str(precision),
        "views": to_json(config.views),
        "size": built.size,
        "interpolation": built.interpolation,
        "grid": built.grid,
        "seed": config.training.seed,
        "data": source.fingerprint(),
    }
    return FeatureCache(
        Path(config.teacher_cache or Path(config.out) / "features"),
        identity,
        views=config.teacher_views,
        images=len(source),
        patches=math.prod(built.grid),
        width=teacher.width,
    )


def teacher_of(config: TokenizerRunConfig) -> Teacher | None:
    """The teacher of VQ-KD. Raises ConfigError if none was named."""
    if not isinstance(config.tokenizer, VQKDConfig):
        return None
    if not config.teacher:
        raise ConfigError(
            "VQ-KD distills a teacher, and none was named",
            remedy="add --teacher clip, dino, timm:NAME, hf:ORG/NAME or a run of yours; without "
            "one, train the recipe `vq` or a discrete VAE",
        )
    return open_teacher(config.teacher)


def rebuilding(config: TokenizerConfig, teacher: Teacher | None) -> TokenizerConfig:
    """The tokenizer's config with the length of its teacher's vectors, if it has a teacher."""
    if teacher is None:
        return config
    assert isinstance(config, VQKDConfig)
    return replace(config, teacher_width=teacher.width)


def objective_of(
    config: TokenizerRunConfig,
    built: TokenizerConfig,
    teacher: Teacher | None,
    cache: FeatureCache | None,
) -> AnyObjective:
    """The objective that trains a new tokenizer, which it holds.

    Args:
        config: The run; it says which objective, and the seed.
        built: The tokenizer to make.
        teacher: The teacher of VQ-KD; None for every other kind.
        cache: Where its features are kept; None: they are computed in every step.
    """
    model, how, seed = build_tokenizer(built), config.objective, config.training.seed
    if isinstance(how, QuantiseConfig):
        if isinstance(model, VQKDTokenizer):
            assert teacher is not None
            return VQDistillation(model, how, teacher, seed=seed, cache=cache)
        assert isinstance(model, VQTokenizer | PatchCodebook)
        return VQReconstruction(model, how, seed=seed)
    assert isinstance(how, ReconstructConfig)
    assert isinstance(model, DiscreteVAE)
    return VAEReconstruction(model, how, seed=seed)


def _told_of_held_out(training: ImageSource, held_out: ImageSource) -> Iterator[str]:
    if training is not held_out:
        yield (
            f"{len(held_out):,} of {len(training) + len(held_out):,} images are held out to "
            "measure on (--held-out)"
        )


def hold_out(source: ImageSource, fraction: float) -> tuple[ImageSource, ImageSource]:
    """Images to train on, and every n-th image to measure on; if there are very few, all serve for
    both."""
    every = round(1 / fraction) if fraction else 0
    if not every or len(source) < 2 * every:
        return source, source
    indices = np.arange(len(source))
    kept = indices % every == every - 1
    return select(source, indices[~kept]), select(source, indices[kept])


TOKENIZER = register(
    Task(
        verb="tokenizer",
        config=TokenizerRunConfig,
        recipes=RECIPES,
        prepare=prepare,
        publishes=(kinds.TOKENIZER,),
        abilities={"tokens": TOKENS},
        title=lambda _: "Visual tokenizer",
        use='predictor.tokens(["image.jpg"])   # ids of the visual tokens, [1, N]',
        next="beit pretrain --data {data} --tokenizer {run} --out runs/pretrain",
        charts=page.CHARTS,
        headline=page.headline,
        findings=page.findings,
        facts=page.facts,
        sections=page.sections,
        examples=page.examples,
    )
)
