"""`beit finetune`: a classifier from a pre-trained artifact, or from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Unpack

import torch
from torch import nn

from beit.batch import LabelledBatch
from beit.config import FinetuneRunConfig
from beit.config.model import VisionTransformerConfig
from beit.config.options import FinetuneOptions
from beit.data.augment import EvaluationView, TrainView
from beit.data.copies import shared_images
from beit.data.labelled import LabelledSplits, open_labelled
from beit.data.sources import check_readable, class_counts, is_multi_label
from beit.evaluation.classify import answer_labels, score_classifier, score_labels
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.metrics import best_thresholds
from beit.inference.abilities import ATTENTION, EMBED, PREDICT
from beit.models.heads import Classifier
from beit.objectives.base import AnyObjective
from beit.objectives.classify import Classification, MultiLabelClassification
from beit.recipes import DEFAULT
from beit.recipes.finetune import RECIPES, for_classifying
from beit.report import classification as page
from beit.rng import seed_everything
from beit.tasks.classifier_evaluation import evaluate_classifier
from beit.tasks.execution import Run, run
from beit.tasks.inputs import Inputs
from beit.tasks.task import Division, Setup, Task, register
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

    Where the images may have several labels each, it answers them independently.
    """
    return run(FINETUNE, recipe, options, resume=resume, quiet=quiet, report=report)


class Learning(NamedTuple):
    """How labels are learned and measured."""

    objective: AnyObjective
    measure: Callable[[nn.Module], Mapping[str, float]]
    best: str
    """The metric whose largest value is the best."""
    decide: Callable[[Details, nn.Module], Details]
    notes: tuple[str, ...] = ()


def prepare(
    config: FinetuneRunConfig, processes: Processes, inputs: Inputs
) -> Setup[FinetuneRunConfig]:
    """The classifier and all that its training needs."""
    built = config.model
    splits = open_labelled(
        config.data,
        split=config.split,
        per_class=config.per_class,
        seed=config.subset_seed,
        reading=config.reading,
        multi_label=config.multi_label,
    )
    for part in (splits.train, splits.validation):
        check_readable(part, built.channels, config.loader.value_range)
    classes = splits.train.classes
    seed_everything(config.training.seed)
    model = Classifier(built, len(classes), config.head)
    several = is_multi_label(splits.train)
    details = Details(classes=classes, multi_label=several, crop=config.crop)
    start = inputs.take_over(model, details, config.init)
    passes = EvalLoader(
        LabelledBatch,
        splits.validation,
        EvaluationView(built.size, config.crop),
        size=built.size,
        channels=built.channels,
        loader=config.loader,
    )
    learn = _several_labels if several else _one_class
    learning = learn(config, model, splits, passes, processes.device)
    return Setup(
        config=config,
        objective=learning.objective,
        source=splits.train,
        view=TrainView(config.augment, built.size, built.channels),
        channels=built.channels,
        evaluation=Evaluation(
            learning.measure,
            best=learning.best,
            unreadable=passes.unreadable,
            several=passes.multi_frame,
        ),
        details=details,
        start=start,
        notes=learning.notes,
        decide=learning.decide,
        shared=shared_images(splits.train, splits.validation) if processes.leads else {},
    )


def _one_class(
    config: FinetuneRunConfig,
    model: Classifier,
    splits: LabelledSplits,
    passes: EvalLoader[LabelledBatch],
    device: torch.device,
) -> Learning:
    classes = len(splits.train.classes)

    def measure(model: nn.Module) -> Mapping[str, float]:
        scores = score_classifier(model, passes, classes=classes, device=device)
        return {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}

    return Learning(
        objective=Classification(model, config.augment, classes=classes),
        measure=measure,
        best="top1",
        decide=lambda details, _model: details,
    )


def _several_labels(
    config: FinetuneRunConfig,
    model: Classifier,
    splits: LabelledSplits,
    passes: EvalLoader[LabelledBatch],
    device: torch.device,
) -> Learning:
    """Thresholds are chosen anew at every evaluation, and the artifact has those of its weights."""
    counts = class_counts(splits.train)
    chosen: list[tuple[float, ...]] = []

    def measure(model: nn.Module) -> Mapping[str, float]:
        answers = answer_labels(model, passes, device)
        chosen[:] = [best_thresholds(answers.probabilities, answers.targets)]
        scores = score_labels(answers, chosen[0])
        return {
            "map": scores.mean_average_precision,
            "chance_map": scores.chance_average_precision,
            "macro_f1": scores.macro_f1,
            "micro_f1": scores.micro_f1,
            "loss": scores.loss,
        }

    def decide(details: Details, model: nn.Module) -> Details:
        if not chosen:  # a run that went on after its last evaluation
            measure(model)
        return replace(details, multi_label=True, thresholds=chosen[0])

    prevalence = torch.from_numpy(counts / len(splits.train)).float()
    return Learning(
        objective=MultiLabelClassification(model, config.augment, prevalence=prevalence),
        measure=measure,
        best="map",
        decide=decide,
        notes=(_described(splits),),
    )


def _described(splits: LabelledSplits) -> str:
    targets = splits.train.targets
    assert targets is not None
    per_image = targets.sum(axis=1)
    return (
        f"multi-label classification: the {len(targets)} images to learn from have "
        f"{per_image.mean():.2f} of {targets.shape[1]} labels on average, "
        f"{int((per_image == 0).sum())} have none; each label is answered independently, the best "
        "model is that of the highest mean average precision (map)"
    )


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
        division=lambda config: Division(config.split, config.subset_seed, config.per_class),
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
