"""`beit finetune`: a classifier from a pre-trained artifact, or from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from beit.batch import LabelledBatch
from beit.config import BalanceConfig, FinetuneRunConfig
from beit.config.model import VisionTransformerConfig
from beit.config.options import FinetuneOptions
from beit.config.runs import ThresholdConfig
from beit.config.validation import require
from beit.data.augment import EvaluationView, TrainView
from beit.data.copies import shared_images
from beit.data.dataset import Dataset
from beit.data.images import check_readable
from beit.data.labelled import LabelledSplits, divide
from beit.data.order import balanced_places, class_weights
from beit.data.sources import ImageSource, class_counts, is_multi_label, keys_of, select
from beit.evaluation.classify import answer_labels, score_classifier, score_labels
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.metrics import best_thresholds, one_answer
from beit.inference.abilities import ATTENTION, EMBED, PREDICT
from beit.models.adaptation import adapt
from beit.models.heads import Classifier
from beit.objectives.base import AnyObjective
from beit.objectives.classify import Classification, MultiLabelClassification
from beit.recipes import DEFAULT
from beit.recipes.finetune import RECIPES, for_classifying
from beit.report import classification as page
from beit.rng import seed_everything
from beit.tasks.classifier_evaluation import evaluate_classifier
from beit.tasks.execution import Run
from beit.tasks.folds import run_folds
from beit.tasks.inputs import Inputs
from beit.tasks.task import Setup, Task, register
from beit.terminal import counted
from beit.training.distributed import Processes
from beit.training.spec import Evaluation
from beit.weights import kinds
from beit.weights.store import Details


def finetune(
    recipe: str | FinetuneRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: Unpack[FinetuneOptions],
) -> Run:
    """Train a classifier on labelled images, from the artifact `init` or from scratch.

    If images may have several labels each, it predicts every label independently. With `folds`, one
    classifier per fold is trained: see `beit.tasks.folds.run_folds`.

    Args:
        recipe: A recipe's name, `module:function`, or a config.
        resume: Continue the run in `out` instead of starting a new one.
        quiet: Write the log, but print nothing.
        report: Write report.html at the end.
        options: Changes to the config by name, such as `data` and `out`.

    Raises:
        BeitError: Something is wrong with the options, the data or the model `init`. This is found
            before the folder of the run is made.
    """
    return run_folds(FINETUNE, recipe, options, resume=resume, quiet=quiet, report=report)


class Learning(NamedTuple):
    """How labels are learned and measured."""

    objective: AnyObjective
    evaluation: Evaluation
    decide: Callable[[Details, nn.Module], Details] = lambda details, _model: details
    """Adds to the details what evaluating the model decides."""


def prepare(
    config: FinetuneRunConfig, processes: Processes, inputs: Inputs
) -> Setup[FinetuneRunConfig]:
    """The classifier and all that its training needs.

    Args:
        config: The run; of several folds, it names one.
        processes: The processes that will train together; they decide the device.
        inputs: Opens the model `init`.

    Raises:
        ConfigError: An option does not fit, or no fold is named.
        DataError: The images or their labels cannot be used.
        CheckpointError: The model `init` cannot be used.
    """
    require(
        config.folds is None or config.only_fold is not None,
        f"folds is {config.folds}, and a run trains one of them",
        "give folds itself as an option, or name one of them with --only-fold",
    )
    built = config.model
    data = Dataset(config.data, config.reading)
    splits = divide(data, config.division, multi_label=config.multi_label)
    for part in (splits.train, splits.validation):
        check_readable(part, built.channels, config.loader.value_range)
    classes = splits.train.classes
    seed_everything(config.training.seed)
    model = Classifier(built, len(classes), config.head)
    several = is_multi_label(splits.train)
    details = Details(classes=classes, multi_label=several, crop=config.crop)
    start = inputs.take_over(model, details, config.init)
    adapt(model, config.adaptation)
    passes = EvalLoader(
        LabelledBatch,
        splits.validation,
        EvaluationView(built.size, config.crop),
        size=built.size,
        channels=built.channels,
        loader=config.loader,
    )
    drawn, places = splits.train, None
    if config.balance.balanced_sampling:
        assert drawn.targets is not None
        places = balanced_places(drawn.targets, config.training.seed)
        drawn = select(drawn, places)
    learn = _several_labels if several else _one_class
    learning = learn(config, model, drawn, passes, processes.device)
    shared = shared_images(splits.train, splits.validation) if processes.leads else {}
    return Setup(
        config=config,
        objective=learning.objective,
        source=splits.train,
        view=TrainView(config.augment, built.size, built.channels),
        channels=built.channels,
        places=places,
        evaluation=learning.evaluation,
        details=details,
        start=start,
        notes=(
            *((_described(splits),) if several else ()),
            *_without_effect(config, several),
            *_of_several_classes(config, splits, shared),
        ),
        decide=learning.decide,
        shared=shared,
    )


def _one_class(
    config: FinetuneRunConfig,
    model: Classifier,
    drawn: ImageSource,
    passes: EvalLoader[LabelledBatch],
    device: torch.device,
) -> Learning:
    names, remark = drawn.classes, ""
    classes = len(names)
    weights = class_weights(class_counts(drawn), config.balance.class_weights)

    def measure(model: nn.Module) -> Mapping[str, float]:
        nonlocal remark
        scores = score_classifier(model, passes, classes=classes, device=device)
        remark = one_answer(names, scores.answered, scores.total, "validation image")
        return {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}

    return Learning(
        objective=Classification(
            model,
            config.augment,
            classes=classes,
            weights=None if weights is None else torch.from_numpy(weights),
        ),
        evaluation=Evaluation(measure, best="top1", skips=passes.skips, remark=lambda: remark),
    )


def _several_labels(
    config: FinetuneRunConfig,
    model: Classifier,
    drawn: ImageSource,
    passes: EvalLoader[LabelledBatch],
    device: torch.device,
) -> Learning:
    """How several labels per image are learned. Thresholds are chosen anew at every evaluation; the
    artifact gets those that were chosen for its weights."""
    counts, images = class_counts(drawn), len(drawn)
    chosen: list[tuple[float, ...]] = []

    def measure(model: nn.Module) -> Mapping[str, float]:
        answers = answer_labels(model, passes, device)
        chosen[:] = [best_thresholds(answers.probabilities, answers.targets, config.thresholds)]
        scores = score_labels(answers, chosen[0])
        return {
            "map": scores.mean_average_precision,
            "chance_map": scores.chance_average_precision,
            "macro_f1": scores.macro_f1,
            "micro_f1": scores.micro_f1,
            "loss": scores.loss,
        }

    def decide(details: Details, model: nn.Module) -> Details:
        if not chosen:  # the run was resumed after its last evaluation
            measure(model)
        return replace(details, multi_label=True, thresholds=chosen[0])

    return Learning(
        objective=MultiLabelClassification(
            model,
            config.augment,
            prevalence=torch.from_numpy(counts / images).float(),
            weights=_label_weights(counts, images, config.balance),
        ),
        evaluation=Evaluation(measure, best="map", skips=passes.skips),
        decide=decide,
    )


def _label_weights(counts: np.ndarray, images: int, balance: BalanceConfig) -> Tensor | None:
    """Weights for the absence and the presence of each label, float32 [2, C]; None: all are 1."""
    both = [class_weights(np.array([images - n, n]), balance.class_weights) for n in counts]
    weights = [one for one in both if one is not None]
    return torch.from_numpy(np.stack(weights, axis=1)) if weights else None


def _described(splits: LabelledSplits) -> str:
    targets = splits.train.targets
    assert targets is not None
    per_image = targets.sum(axis=1)
    return (
        f"multi-label classification: the {len(targets)} training images have "
        f"{per_image.mean():.2f} of {targets.shape[1]} labels on average, "
        f"{int((per_image == 0).sum())} have none; each label is answered independently, the best "
        "model is that of the highest mean average precision (map)"
    )


def _without_effect(config: FinetuneRunConfig, several: bool) -> tuple[str, ...]:
    """Which options change nothing in this run, and why."""
    plain, chosen, augment = ThresholdConfig(), config.thresholds, config.augment
    by, level = f"threshold_by {chosen.threshold_by}", f"threshold_level {chosen.threshold_level:g}"
    found = []
    if not several:
        unused = [by] if chosen.threshold_by != plain.threshold_by else []
        unused += [level] if chosen.threshold_level != plain.threshold_level else []
        found += [f"{option} has no effect: each image has one class" for option in unused]
    elif chosen.threshold_by == "f1" and chosen.threshold_level != plain.threshold_level:
        found.append(f"{level} has no effect without --threshold-by recall or precision")
    if augment.jitter and augment.rand_augment:
        found.append(f"jitter {augment.jitter:g} has no effect without --rand-augment ''")
    return tuple(found)


def _of_several_classes(
    config: FinetuneRunConfig, splits: LabelledSplits, shared: Mapping[str, str]
) -> tuple[str, ...]:
    """A hint, if copies of images in class folders show that an image may have several classes."""
    if config.multi_label or not shared or not Path(config.data).is_dir():
        return ()
    here, there = (_class_of_each(part) for part in (splits.train, splits.validation))
    number = sum(here[key] != there[other] for key, other in shared.items())
    if not number:
        return ()
    return (
        f"{counted(number, 'training image')} can be found in validation with another class: if "
        "images may have several labels, start a new run with --multi-label",
    )


def _class_of_each(part: ImageSource) -> dict[str, str]:
    """The name of the class of each image, by its key."""
    assert part.targets is not None
    return {key: part.classes[at] for key, at in zip(keys_of(part), part.targets, strict=True)}


def _start_from(
    config: FinetuneRunConfig, backbone: VisionTransformerConfig, init: str
) -> FinetuneRunConfig:
    return replace(config, init=init, model=for_classifying(backbone, config))


FINETUNE = register(
    Task(
        verb="finetune",
        config=FinetuneRunConfig,
        recipes=RECIPES,
        prepare=prepare,
        publishes=(kinds.CLASSIFIER,),
        abilities={"predict": PREDICT, "embed": EMBED, "attention": ATTENTION},
        start_from=_start_from,
        evaluate=evaluate_classifier,
        title=lambda _: "Classification",
        use='predictor.predict("image.jpg")    # classes with probabilities, best first',
        next="beit predict {run} image.jpg",
        charts=page.CHARTS,
        headline=page.headline,
        findings=page.findings,
        sections=page.sections,
        examples=page.examples,
    )
)
