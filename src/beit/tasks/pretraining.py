"""`beit pretrain`: predict hidden patches, with a tokenizer if what is predicted are tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from beit.config import (
    ContrastiveConfig,
    MaskedConfig,
    PretrainRunConfig,
    VisibleConfig,
)
from beit.config.data import Division
from beit.config.model import VisionTransformerConfig
from beit.config.options import PretrainOptions
from beit.config.plugins import names_outside
from beit.config.tree import to_json
from beit.data.dataset import reading_for
from beit.data.labelled import LabelledSplits, divide
from beit.data.sources import ImageSource
from beit.data.transforms import CachedViews, MaskedViews
from beit.errors import CheckpointError, ConfigError, DataError
from beit.evaluation.neighbours import neighbour_score, retrieval_score
from beit.inference.abilities import ATTENTION, EMBED, RECONSTRUCT
from beit.masking import build_sampler
from beit.models.heads import MaskedImageModel
from beit.objectives.contrastive import ContrastiveMaskedModeling, ContrastiveModel
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.targets import check_tokenizer, pixel_values
from beit.objectives.visible import VisibleOnlyModel, VisibleOnlyPrediction
from beit.recipes import DEFAULT
from beit.recipes.pretrain import RECIPES, for_pretraining
from beit.report import pretraining as page
from beit.rng import seed_everything
from beit.tasks.execution import Run, run
from beit.tasks.inputs import Inputs
from beit.tasks.own_tokenizer import (
    described,
    mending,
    nearly_collapsed,
    own_run,
    own_tokenizer,
)
from beit.tasks.task import RunOptions, Setup, Task, register
from beit.tokenizers.base import VisualTokenizer, encoding_precision
from beit.tokenizers.token_cache import TokenCache
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights import kinds
from beit.weights.load import open_tokenizer
from beit.weights.store import Details


def pretrain(
    recipe: str | PretrainRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: Unpack[PretrainOptions],
) -> Run:
    """Pre-train on the images of `data`: masked image modeling, or another objective of a recipe.

    Without `tokenizer`, one that matches the patch grid is trained first, in `out`-tokenizer.

    Args:
        recipe: A recipe's name, `module:function`, or a config.
        resume: Continue the run in `out` instead of starting a new one.
        quiet: Write the log, but print nothing.
        report: Write report.html at the end.
        options: Changes to the config by name, such as `data` and `out`.

    Raises:
        BeitError: Something is wrong with the options, the data, the tokenizer or the model `init`.
            This is found before the folder of the run is made.
    """
    return run(PRETRAIN, recipe, options, resume=resume, quiet=quiet, report=report)


def _start_from(
    config: PretrainRunConfig, backbone: VisionTransformerConfig, init: str
) -> PretrainRunConfig:
    return replace(config, init=init, model=for_pretraining(backbone, config))


def _take_up(
    config: PretrainRunConfig, recorded: PretrainRunConfig, inputs: Inputs
) -> PretrainRunConfig:
    """The config of a resumed run, with the tokenizer it had if none is named.

    Raises:
        CheckpointError: That tokenizer is not where it was.
    """
    another = config.tokenizer not in ("", recorded.tokenizer)
    if another or config.objective.target != "tokens" or not recorded.tokenizer:
        return config
    try:
        _open_tokenizer(recorded.tokenizer, inputs)
    except CheckpointError as error:
        raise CheckpointError(
            f"the tokenizer of the run {config.out} cannot be opened: {error.problem}",
            remedy="if it lies elsewhere now, say where: --tokenizer PLACE",
        ) from error
    return replace(config, tokenizer=recorded.tokenizer)


def _open_tokenizer(name: str, inputs: Inputs) -> VisualTokenizer:
    artifact = None if names_outside(name) else inputs.artifact(name)
    return open_tokenizer(name, artifact=artifact)


def _complete(
    config: PretrainRunConfig, run_options: RunOptions, inputs: Inputs
) -> PretrainRunConfig:
    """The config with a tokenizer: the one named, or one trained now to match the patch grid."""
    config = _as_its_tokenizer_reads(config, inputs)
    _images(config, inputs)  # to fail before a tokenizer is trained for hours
    if config.tokenizer or config.objective.target != "tokens":
        return config
    return replace(config, tokenizer=own_tokenizer(config, run_options, inputs))


def _as_its_tokenizer_reads(config: PretrainRunConfig, inputs: Inputs) -> PretrainRunConfig:
    """The config with the value range that the tokenizer was trained with.

    Raises:
        ConfigError: Another one is given: tokens of differently scaled values mean something else.
    """
    if not config.tokenizer or names_outside(config.tokenizer):
        return config
    seen = inputs.artifact(config.tokenizer).details.value_range
    given = config.loader.value_range
    if seen is None or seen == given:
        return config
    if given is not None:
        raise ConfigError(
            f"value_range is {given}, and the tokenizer has seen values of {seen}",
            remedy="leave --value-range out, or train a tokenizer with this one",
        )
    return replace(config, loader=replace(config.loader, value_range=seen))


def _images(config: PretrainRunConfig, inputs: Inputs) -> ImageSource:
    reading = reading_for(config.data, config.reading, other=config.labelled)
    return inputs.images(config.data, reading, config.model.channels, config.loader.value_range)


def prepare(
    config: PretrainRunConfig, processes: Processes, inputs: Inputs
) -> Setup[PretrainRunConfig]:
    """The backbone with its prediction head, the tokenizer, and all that their training needs.

    Args:
        config: The run; if it predicts tokens, it names a tokenizer that is trained already.
        processes: The processes that will train together; they decide the device.
        inputs: Opens the tokenizer, the model `init` and the images.

    Raises:
        ConfigError: An option does not fit, or the tokenizer has collapsed.
        DataError: The images cannot be used.
        CheckpointError: The tokenizer or the model `init` cannot be used.
    """
    source = _images(config, inputs)
    precision = encoding_precision(config.tokenizer_precision, processes.device)
    seed_everything(config.training.seed)
    visual, note = None, ""
    if config.objective.target == "tokens":
        visual, note = sound_tokenizer(config, inputs)
    outputs = pixel_values(config.model) if visual is None else visual.codes
    cache = None
    if visual is not None and config.token_views:
        cache = token_cache(config, visual, precision, source)
    seed_everything(config.training.seed)  # opening the tokenizer may have drawn numbers
    objective = _objective(config, outputs, visual, precision, cache)
    details = Details(
        tokenizer="" if visual is None else visual.digest(), crop=config.evaluation_crop
    )
    start = inputs.take_over(objective.model, details, config.init)
    views = _masked_views(config, visual)
    evaluation, notes = _score(config, source, processes, inputs)
    return Setup(
        config=config,
        objective=objective,
        source=source,
        view=CachedViews(views=views, number=config.token_views) if cache else views,
        channels=config.model.channels,
        evaluation=evaluation,
        details=details,
        start=start,
        notes=(*((note,) if note else ()), *((cache.check_room(),) if cache else ()), *notes),
    )


def _objective(
    config: PretrainRunConfig,
    outputs: int,
    visual: VisualTokenizer | None,
    precision: torch.dtype,
    cache: TokenCache | None,
) -> MaskedImageModeling:
    chosen = config.objective
    if isinstance(chosen, VisibleConfig):
        light = VisibleOnlyModel(config.model, outputs, chosen)
        return VisibleOnlyPrediction(light, chosen, visual, precision, cache)
    assert isinstance(chosen, MaskedConfig)
    if isinstance(chosen, ContrastiveConfig):
        contrastive = ContrastiveModel(
            config.model, outputs, config.aggregation, projection=chosen.projection
        )
        return ContrastiveMaskedModeling(contrastive, chosen, visual, precision, cache)
    model = MaskedImageModel(config.model, outputs, config.aggregation)
    return MaskedImageModeling(model, chosen, visual, precision, cache)


def sound_tokenizer(config: PretrainRunConfig, inputs: Inputs) -> tuple[VisualTokenizer, str]:
    """The tokenizer of a run, and a note about the use of its codes, which may be empty.

    Nothing is known about the codes of a tokenizer that the user's own code returns.

    Raises:
        ConfigError: It does not fit the backbone, or has collapsed: its tokens would teach next to
            nothing.
    """
    outside = names_outside(config.tokenizer)
    artifact = None if outside else inputs.take(config.tokenizer)
    visual = open_tokenizer(config.tokenizer, artifact=artifact)
    check_tokenizer(visual, config.model, visual.codes)
    metrics = {} if artifact is None else artifact.details.trained.get("metrics", {})
    if metrics.get("collapsed") and not config.accept_collapsed:
        raise ConfigError(
            f"the tokenizer {config.tokenizer} has collapsed: {described(metrics)}",
            remedy=f"train one by k-means, which takes seconds: {mending(config)}; or insist with "
            "--accept-collapsed",
        )
    return visual, nearly_collapsed(config, visual.codes, metrics)


def token_cache(
    config: PretrainRunConfig, visual: VisualTokenizer, precision: torch.dtype, source: ImageSource
) -> TokenCache:
    """Where the tokens of a run are kept. Runs share them only if everything that decides them is
    the same.

    Args:
        config: The run; it says where, how many views there are, and how they are drawn.
        visual: The tokenizer.
        precision: Number format in which it encodes.
        source: The training images.
    """
    identity = {
        "drawing": 1,  # to be raised when the same settings and seed give other views
        "tokenizer": visual.digest(),
        "config": to_json(visual.config),
        "precision": str(precision),
        "views": to_json(config.views),
        "seed": config.training.seed,
        "data": source.fingerprint(),
    }
    return TokenCache(
        Path(config.token_cache or Path(config.out) / "tokens"),
        identity,
        views=config.token_views,
        images=len(source),
        patches=config.model.patches,
        codes=visual.codes,
    )


def _masked_views(config: PretrainRunConfig, visual: VisualTokenizer | None) -> MaskedViews:
    return MaskedViews(
        config=config.views,
        size=config.model.size,
        token_size=None if visual is None else visual.size,
        token_interpolation="bicubic" if visual is None else visual.config.interpolation,
        sampler=build_sampler(config.masking, config.model.grid),
    )


def _score(
    config: PretrainRunConfig, source: ImageSource, processes: Processes, inputs: Inputs
) -> tuple[Evaluation | None, tuple[str, ...]]:
    """The nearest-neighbour score during training, accuracy with labels and retrieval of views
    without, and notes about it."""
    if not config.knn_images:
        return None, ()
    splits, notes = _labelled(config, source, inputs)
    score = (
        neighbour_score(splits, config, processes.device)
        if splits is not None
        else retrieval_score(source, config, processes.device)
    )
    return Evaluation(score, skips=score.skips), notes


def _labelled(
    config: PretrainRunConfig, source: ImageSource, inputs: Inputs
) -> tuple[LabelledSplits | None, tuple[str, ...]]:
    """The labelled images of the score, if there are any, and notes. Labels of `data` that cannot
    be used are no error, since nothing is learned from them."""
    labelled = config.labelled or (config.data if source.classes else "")
    if not labelled:
        return None, ()
    try:
        data = inputs.data(labelled, reading_for(labelled, config.reading, other=config.data))
        division = Division(split=0.2, seed=config.training.seed)
        splits = divide(data, division, use="the nearest-neighbour score")
    except DataError as error:
        if config.labelled:
            raise
        return None, (f"the labels of {config.data} are not used to score: {error.problem}",)
    return splits, ()


PRETRAIN = register(
    Task(
        verb="pretrain",
        config=PretrainRunConfig,
        recipes=RECIPES,
        prepare=prepare,
        publishes=(kinds.MASKED, kinds.BACKBONE),
        abilities={"embed": EMBED, "attention": ATTENTION, "reconstruct": RECONSTRUCT},
        start_from=_start_from,
        take_up=_take_up,
        first=own_run,
        complete=_complete,
        title=page.title,
        use='predictor.embed(["image.jpg"])    # a vector per image, [1, D]',
        next="beit finetune --data LABELLED --init {run} --out runs/classifier",
        charts=page.CHARTS,
        headline=page.headline,
        findings=page.findings,
        sections=page.sections,
        examples=page.examples,
    )
)
