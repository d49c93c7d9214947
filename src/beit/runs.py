"""One function per verb that trains: source, loader, objective and `fit`, wired together.

Each takes a recipe (a name, `module:function`, or a config) and options that change it by name, the
same names as on the command line. Everything that can be wrong is checked before the run's folder
is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import nn

from beit.artifact.store import (
    Details,
    find_artifact,
    load_artifact,
    load_tokenizer,
    read_config,
    save_artifact,
)
from beit.artifact.transfer import start_from
from beit.batch import ImageBatch, LabelledBatch
from beit.config import (
    DiscreteVAEConfig,
    FinetuneRunConfig,
    PretrainRunConfig,
    RunConfig,
    TokenizerRunConfig,
    VisionTransformerConfig,
)
from beit.config.tree import from_json, override
from beit.data.augment import EvaluationView, TrainView
from beit.data.labelled import LabelledSplits, open_labelled
from beit.data.loader import Loader, View
from beit.data.sources import ImageSource, check_readable, open_source, select
from beit.data.views import MaskedViews, SingleView
from beit.errors import CheckpointError, ConfigError
from beit.evaluation.classify import score_classifier
from beit.evaluation.passes import CentreView, Passes
from beit.evaluation.pretraining import NeighbourScore, RetrievalScore
from beit.evaluation.tokenizer import tokenizer_health
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.objectives.base import AnyObjective
from beit.objectives.classify import Classification
from beit.objectives.masked import MaskedImageModeling, check_tokenizer, pixel_values
from beit.objectives.reconstruct import Reconstruct
from beit.recipes import DEFAULT, find_recipe
from beit.recipes import finetune as finetune_recipes
from beit.report.page import write_report
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.dvae import DiscreteVAE
from beit.training.loop import Evaluation, Fit, fit, seed_everything
from beit.training.parallel import Processes, resolve_precision, start_processes
from beit.training.run_folder import RunFolder

Config = TypeVar("Config", bound=RunConfig)


class Run(NamedTuple):
    """A finished run: its folder, its artifact, and the last evaluation."""

    folder: Path
    artifact: Path
    metrics: dict[str, float]
    best_step: int


def tokenizer(
    recipe: str | TokenizerRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: object,
) -> Run:
    """Train a discrete VAE on the pictures of `data`; the run and its artifact go to `out`."""
    config = _config("tokenizer", recipe, TokenizerRunConfig, options)
    source = _source(config, config.tokenizer.channels)
    training, held_out = _hold_out(source, config)
    processes = start_processes(config.training.device)
    seed_everything(config.training.seed)
    model = config.tokenizer.build()
    objective = Reconstruct(model, config.objective, seed=config.training.seed)
    size = config.tokenizer.size
    view = SingleView(config=config.views, size=size, interpolation=config.tokenizer.interpolation)
    passes = Passes(
        ImageBatch,
        held_out,
        CentreView(size, 1.0),
        size=size,
        channels=config.tokenizer.channels,
        loader=config.loader,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, DiscreteVAE)
        health = tokenizer_health(model, passes, device=processes.device)
        return {
            "psnr": health.psnr,
            "codes_in_use": float(health.codes_in_use),
            "perplexity": health.perplexity,
            "collapsed": float(health.collapsed),
        }

    return _carry_out(
        config,
        objective,
        training,
        view,
        Evaluation(measure),
        processes,
        Details(),
        channels=config.tokenizer.channels,
        resume=resume,
        quiet=quiet,
        report=report,
    )


def pretrain(
    recipe: str | PretrainRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: object,
) -> Run:
    """Masked image modeling on the pictures of `data`.

    Without `tokenizer`, one that matches the patch grid is trained first, in `out`-tokenizer.
    """
    config = _config("pretrain", recipe, PretrainRunConfig, options)
    source = _source(config, config.model.channels)
    config = _with_tokenizer(config, resume=resume, quiet=quiet)
    processes = start_processes(config.training.device)
    seed_everything(config.training.seed)
    visual = load_tokenizer(config.tokenizer) if config.objective.target == "tokens" else None
    outputs = pixel_values(config.model) if visual is None else visual.codes
    if visual is not None:
        check_tokenizer(visual, config.model, outputs)
    model = MaskedImageModel(config.model, outputs)
    if config.init:
        _start(model, config.init)
    objective = MaskedImageModeling(model, config.objective, visual)
    return _carry_out(
        config,
        objective,
        source,
        _masked_views(config, visual),
        _pretraining_score(config, source, processes),
        processes,
        Details(tokenizer="" if visual is None else visual.digest(), crop=config.evaluation_crop),
        channels=config.model.channels,
        resume=resume,
        quiet=quiet,
        report=report,
    )


def finetune(
    recipe: str | FinetuneRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: object,
) -> Run:
    """Train a classifier on class folders, from the artifact `init` or from scratch."""
    config = _config("finetune", recipe, FinetuneRunConfig, options)
    splits = _labelled(config)
    classes = splits.train.classes
    processes = start_processes(config.training.device)
    seed_everything(config.training.seed)
    model = Classifier(config.model, len(classes), config.head)
    if config.init:
        _start(model, config.init)
    objective = Classification(model, config.augment, classes=len(classes))
    passes = Passes(
        LabelledBatch,
        splits.validation,
        EvaluationView(config.model.size, config.crop),
        size=config.model.size,
        channels=config.model.channels,
        loader=config.loader,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        scores = score_classifier(model, passes, classes=len(classes), device=processes.device)
        return {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}

    return _carry_out(
        config,
        objective,
        splits.train,
        TrainView(config.augment, config.model.size, config.model.channels),
        Evaluation(measure, best="top1"),
        processes,
        Details(classes=classes, crop=config.crop),
        channels=config.model.channels,
        resume=resume,
        quiet=quiet,
        report=report,
    )


# -- what the verbs share -------------------------------------------------------------------------


def _config(
    verb: str, recipe: str | Config, kind: type[Config], options: Mapping[str, object]
) -> Config:
    """The recipe's config with the options applied; `init` decides the architecture first."""
    config = find_recipe(verb, recipe, kind) if isinstance(recipe, str) else recipe
    init = options.get("init")
    if isinstance(init, str) and init:
        config = starting_from(config, init)
    return override(config, options)


def starting_from(config: Config, init: str) -> Config:
    """The config with the architecture of an artifact, as the verb needs it. Reads no weights."""
    architecture = read_config(init)["architecture"]
    if "backbone" not in architecture:
        raise CheckpointError(
            f"{init} holds a {architecture['kind']}, which has no backbone to start from",
            remedy="give the run of `beit pretrain` or `beit finetune`",
        )
    backbone = from_json(architecture["backbone"], VisionTransformerConfig)
    if isinstance(config, FinetuneRunConfig):
        model = finetune_recipes.for_finetuning(backbone, config.model.drop_path)
        return replace(config, init=init, model=model)
    if isinstance(config, PretrainRunConfig):
        return replace(config, init=init, model=replace(backbone, mask_token=True))
    raise ConfigError("a tokenizer starts from nothing", remedy="leave --init out")


def _start(model: BackboneModel, init: str) -> None:
    """Load the backbone of an artifact into the model; its head stays fresh."""
    artifact = load_artifact(init)
    source = artifact.model
    assert isinstance(source, BackboneModel)
    weights = source.backbone.state_dict()
    start_from(model.backbone, weights, source.backbone.config)


def _source(config: RunConfig, channels: int) -> ImageSource:
    if not config.data:
        raise ConfigError("no pictures were given", remedy="add --data FOLDER")
    source = open_source(config.data)
    check_readable(source, channels)
    return source


def _labelled(config: FinetuneRunConfig) -> LabelledSplits:
    if not config.data:
        raise ConfigError("no pictures were given", remedy="add --data FOLDER")
    splits = open_labelled(
        config.data, split=config.split, per_class=config.per_class, seed=config.subset_seed
    )
    check_readable(splits.train, config.model.channels)
    check_readable(splits.validation, config.model.channels)
    return splits


def _hold_out(source: ImageSource, config: TokenizerRunConfig) -> tuple[ImageSource, ImageSource]:
    """Every n-th picture is kept to measure on; with very few, all serve for both."""
    every = round(1 / config.held_out) if config.held_out else 0
    if not every or len(source) < 2 * every:
        return source, source
    indices = range(len(source))
    kept = [index for index in indices if index % every == every - 1]
    others = [index for index in indices if index % every != every - 1]
    return select(source, others), select(source, kept)


def _with_tokenizer(config: PretrainRunConfig, *, resume: bool, quiet: bool) -> PretrainRunConfig:
    """The config with a tokenizer: the one named, or one trained now to match the patch grid."""
    if config.tokenizer or config.objective.target != "tokens":
        return config
    if not config.out:
        raise ConfigError("no folder was given for the run", remedy="add --out FOLDER")
    if Path(config.out).exists() and not resume:
        RunFolder(Path(config.out)).check_free()
    out = f"{config.out.rstrip('/')}-tokenizer"
    try:
        find_artifact(out)
    except CheckpointError:
        started = RunFolder(Path(out)).config.exists()
        tokenizer(matching_tokenizer(config, out), resume=started, quiet=quiet)
    return replace(config, tokenizer=out)


def matching_tokenizer(config: PretrainRunConfig, out: str) -> TokenizerRunConfig:
    """The default tokenizer recipe, with the grid of the backbone and half its patch as stride."""
    base = find_recipe("tokenizer", "tiny" if config.recipe == "tiny" else DEFAULT,
                       TokenizerRunConfig)  # fmt: skip
    patch = config.model.patch
    stride = patch // 2 if patch % 2 == 0 and patch > 2 else patch
    grid = config.model.grid
    built = replace(
        base.tokenizer,
        size=(grid[0] * stride, grid[1] * stride),
        stride=stride,
        channels=config.model.channels,
    )
    assert isinstance(built, DiscreteVAEConfig)
    return replace(base, data=config.data, out=out, tokenizer=built, loader=config.loader)


def _masked_views(config: PretrainRunConfig, visual: VisualTokenizer | None) -> MaskedViews:
    return MaskedViews(
        config=config.views,
        size=config.model.size,
        token_size=None if visual is None else visual.size,
        token_interpolation="bicubic" if visual is None else visual.config.interpolation,
        sampler=config.masking.build(config.model.grid),
    )


def _pretraining_score(
    config: PretrainRunConfig, source: ImageSource, processes: Processes
) -> Evaluation | None:
    """The online nearest-neighbour score: accuracy with labels, retrieval of views without."""
    if not config.neighbour_pictures:
        return None
    labelled = config.labelled or (config.data if source.classes else "")
    if labelled:
        splits = open_labelled(labelled, split=0.2, per_class=None, seed=config.training.seed)
        return Evaluation(NeighbourScore(splits, config, processes.device))
    return Evaluation(RetrievalScore(source, config, processes.device))


def _carry_out(
    config: RunConfig,
    objective: AnyObjective,
    source: ImageSource,
    view: View,
    evaluation: Evaluation | None,
    processes: Processes,
    details: Details,
    *,
    channels: int,
    resume: bool,
    quiet: bool,
    report: bool,
) -> Run:
    """Open the folder, train, publish, report."""
    training = config.training
    resolve_precision(training.precision, processes.device)
    loader = Loader(
        source,
        view,
        channels=channels,
        batch=training.batch,
        micro_batch=training.micro_batch or training.batch // processes.world,
        seed=training.seed,
        rank=processes.rank,
        world=processes.world,
        config=config.loader,
        pin_memory=processes.device.type == "cuda",
    )
    folder = RunFolder(Path(config.out))
    processes.on_leader(lambda: folder.open(config, resume=resume))
    origin = {
        "recipe": config.recipe,
        "steps": training.steps,
        "pictures": len(source),
        "data": source.fingerprint(),
    }

    def publish(model: nn.Module, best: bool) -> None:
        chosen = evaluation is not None and evaluation.best
        place = folder.model if best or not chosen else folder.last
        save_artifact(place, model, replace(details, trained=origin))

    try:
        run = Fit(
            config=training,
            folder=folder,
            processes=processes,
            loader=loader,
            pictures=len(source),
            bad_limit=config.loader.bad_limit,
            evaluation=evaluation,
            publish=publish,
            quiet=quiet,
        )
        fitted = fit(objective, run, resume=resume)
        if report and processes.leads:
            write_report(folder.path)
    finally:
        folder.close()
        processes.close()
    return Run(folder.path, folder.model, fitted.metrics, fitted.best_step)


__all__ = ["Run", "finetune", "pretrain", "starting_from", "tokenizer"]
