"""Which curves each kind of run shows, and what each should look like."""

from __future__ import annotations

from typing import NamedTuple

from beit.report.history import History, Kind
from beit.report.markup import Markup, Section, block, note
from beit.report.svg_chart import Chart, Line, Role, chart


class Metric(NamedTuple):
    """A metric of the journal as a line of a chart."""

    name: str
    label: str
    kind: Kind = "train"
    role: Role = "curve"


class Plan(NamedTuple):
    """A chart: its lines and what a healthy one looks like."""

    title: str
    metrics: tuple[Metric, ...]
    explanation: str
    as_share: bool = False
    from_zero: bool = False
    noisy: bool = True


TOP5 = "validation, top-5"
CHANCE = Metric("chance_loss", "chance", "train", "reference")
VOCABULARY = Metric("perplexity_limit", "vocabulary", "train", "reference")

TOKENIZER: tuple[Plan, ...] = (
    Plan(
        "Loss",
        (Metric("loss", "loss"), Metric("reconstruction", "reconstruction")),
        "Reconstruction error, and with it the weighted penalties. Healthy: falling, then flat.",
    ),
    Plan(
        "Reconstruction quality (dB)",
        (Metric("psnr", "PSNR", "evaluate", "marks"),),
        "Peak signal-to-noise ratio on held-out images. Healthy: rising; above 20 dB coarse "
        "shapes and colours are right, above 25 dB much of the texture.",
    ),
    Plan(
        "Codes in use",
        (
            Metric("codes_in_use", "in a batch"),
            Metric("codes_in_use", "held-out", "evaluate", "marks"),
            VOCABULARY,
        ),
        "How many codes occur at all. Healthy: rising towards the vocabulary.",
        from_zero=True,
    ),
    Plan(
        "Perplexity of the codes",
        (
            Metric("perplexity", "in a batch"),
            Metric("perplexity", "held-out", "evaluate", "marks"),
            VOCABULARY,
        ),
        "How many codes there would be if all were used evenly. Healthy: rising, far above "
        "one; a fall to a handful is collapse.",
        from_zero=True,
    ),
    Plan(
        "KL to even odds (nats per token)",
        (Metric("kl", "KL"),),
        "How decided the encoder is: 0 is a blind draw, ln K is certainty. Healthy: above 0, "
        "with many codes in use; ln K with few in use is collapse.",
        from_zero=True,
    ),
)
PRETRAINING: tuple[Plan, ...] = (
    Plan(
        "Loss",
        (
            Metric("loss", "loss"),
            Metric("token_entropy", "token entropy", "train", "reference"),
            CHANCE,
            Metric("target_variance", "always the mean", "train", "reference"),
        ),
        "Healthy: below chance within the warm-up, then below the entropy of the tokens (or "
        "the variance of the pixels): from there on the surroundings of a patch are used.",
    ),
    Plan(
        "Right tokens",
        (Metric("accuracy", "hidden patches"),),
        "Share of predicted tokens that are the tokenizer's. Healthy: rising slowly to the end.",
        as_share=True,
        from_zero=True,
    ),
    Plan(
        "Features, measured on the way",
        (
            Metric("neighbours", "nearest neighbours right", "evaluate", "marks"),
            Metric("retrieval", "images found again", "evaluate", "marks"),
        ),
        "The frozen features of the best block: do nearest neighbours have the same label, or, "
        "without labels, is an image found again from another crop? Healthy: rising.",
        as_share=True,
    ),
    Plan(
        "Codes in a batch",
        (Metric("codes_in_use", "different tokens"),),
        "Healthy: steady, and many. With a handful there is little to learn.",
        from_zero=True,
    ),
)
CLASSIFICATION: tuple[Plan, ...] = (
    Plan(
        "Loss",
        (
            Metric("loss", "training"),
            Metric("loss", "validation", "evaluate", "marks"),
            CHANCE,
        ),
        "Training loss is of augmented and mixed images, so it may lie above validation. "
        "Unhealthy: validation rises while training falls (overfitting).",
    ),
    Plan(
        "Right answers",
        (
            Metric("accuracy", "training"),
            Metric("top1", "validation, top-1", "evaluate", "marks"),
            Metric("top5", TOP5, "evaluate", "marks"),
        ),
        "Share of images whose class is the first answer, or among the first five.",
        as_share=True,
    ),
    Plan(
        "Mean average precision",
        (
            Metric("map", "mean average precision", "evaluate", "marks"),
            Metric("chance_map", "at random", "evaluate", "reference"),
        ),
        "How well the images with a label are ranked before those without it, over all labels. "
        "Healthy: rising, far above random.",
        as_share=True,
        from_zero=True,
    ),
    Plan(
        "Labels right",
        (
            Metric("labels_right", "training, of all decisions"),
            Metric("macro_f1", "validation, macro F1", "evaluate", "marks"),
            Metric("micro_f1", "validation, micro F1", "evaluate", "marks"),
        ),
        "F1 is at the thresholds that are best for it. Where labels are rare, nearly all "
        "decisions are right also for who never gives one: look at F1.",
        as_share=True,
    ),
)
SEGMENTATION: tuple[Plan, ...] = (
    Plan(
        "Loss",
        (
            Metric("loss", "main head"),
            Metric("auxiliary_loss", "auxiliary head"),
            CHANCE,
        ),
        "Of random crops; ignored pixels count as zero. Healthy: falling, then flat.",
    ),
    Plan(
        "Mean IoU",
        (
            Metric("miou", "mean IoU", "evaluate", "marks"),
            Metric("mean_accuracy", "mean accuracy", "evaluate", "marks"),
        ),
        "Over the classes of the validation images, each of them counting the same. Far "
        "below the share of right pixels: rare classes are missed.",
        as_share=True,
        from_zero=True,
    ),
    Plan(
        "Right pixels",
        (
            Metric("accuracy", "training"),
            Metric("pixel_accuracy", "validation", "evaluate", "marks"),
        ),
        "Share of labelled pixels. Healthy: rising; frequent classes decide it.",
        as_share=True,
    ),
)

ALWAYS: tuple[Plan, ...] = (
    Plan(
        "Gradient norm",
        (Metric("grad_norm", "before clipping"),),
        "Healthy: steady or falling. Single spikes are harmless, a steady rise is not.",
        from_zero=True,
    ),
    Plan(
        "Learning rate",
        (Metric("lr", "learning rate"),),
        "Linear warm-up, then a fall to the end.",
        from_zero=True,
        noisy=False,
    ),
    Plan(
        "Speed (images per second)",
        (Metric("images_per_second", "speed"),),
        "Healthy: level. Drops are other work on the machine, or waiting for data.",
        from_zero=True,
    ),
    Plan(
        "Waiting for data",
        (Metric("data_wait", "share of the time"),),
        "Healthy: near zero. Otherwise reading images limits the speed: use more workers.",
        as_share=True,
        from_zero=True,
    ),
)
UNDRAWN = {"seconds_left", "memory_gib", "unreadable", "several", "collapsed", "neighbours_block"}
UNDRAWN |= {"scored_classes", "retrieval_block", "perplexity_limit", "chance_loss", "codes_revived"}


def _chart(plan: Plan, history: History) -> Chart:
    lines = [
        Line(metric.label, history.points(metric.kind, metric.name), metric.role)
        for metric in plan.metrics
    ]
    # With five classes or fewer, the first five answers always hold the right one.
    lines = [line for line in lines if line.label != TOP5 or any(v < 1 for _, v in line.points)]
    return Chart(plan.title, lines, plan.explanation, plan.as_share, plan.from_zero, plan.noisy)


def draw(one: Chart) -> Markup:
    """The chart as a figure of a page."""
    return chart(
        one.title,
        one.lines,
        one.explanation,
        as_share=one.as_share,
        from_zero=one.from_zero,
        noisy=one.noisy,
    )


def _others(plans: tuple[Plan, ...], history: History) -> tuple[Plan, ...]:
    """Metrics that no plan foresees, so that a new objective's are seen at once."""
    planned = {(metric.kind, metric.name) for plan in plans for metric in plan.metrics}
    kinds: tuple[tuple[Kind, Role], ...] = (("train", "curve"), ("evaluate", "marks"))
    return tuple(
        Plan(name.replace("_", " "), (Metric(name, name, kind, role),), f"From the {kind} rows.")
        for kind, role in kinds
        for name in history.names(kind)
        if (kind, name) not in planned and name not in UNDRAWN
    )


def charts(own: tuple[Plan, ...], history: History) -> list[Chart]:
    """Every chart of a run whose task has some of its `own`, also those that have no points yet."""
    plans = own + ALWAYS
    return [_chart(plan, history) for plan in plans + _others(plans, history)]


def curves(own: tuple[Plan, ...], history: History) -> Section:
    """The section with every curve of a run."""
    drawn = [draw(one) for one in charts(own, history)]
    if not any(drawn):
        drawn = [note("No step has been logged yet: there is nothing to draw.", "warning")]
    lead = "Point at a line for its numbers. Pale: as logged, strong: smoothed, dashed: to compare."
    return Section("curves", "Curves", lead, block("curves", drawn))
