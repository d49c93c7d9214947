"""A run in a few numbers, and what stands out about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from beit.config.model import VisionTransformerConfig
from beit.config.objective import VisibleConfig
from beit.config.runs import PretrainRunConfig, RunConfig, TokenizerRunConfig
from beit.config.tokenizer import VQKDConfig
from beit.report.history import History
from beit.report.markup import number, percent
from beit.weights.store import described

UNKNOWN = "?"


class Figure(NamedTuple):
    """A big number with what it is, and what to hold it against."""

    value: str
    label: str
    beside: str = ""


def pretraining_title(config: PretrainRunConfig) -> str:
    """Which pre-training this is."""
    visible_only = isinstance(config.objective, VisibleConfig)
    return "Visible-only pre-training" if visible_only else "BEiT pre-training"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else percent(value)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def steps_figure(config: RunConfig, history: History) -> Figure:
    """How far the run is."""
    batch = config.training.batch
    beside = f"about {_duration(history.seconds(batch))} of training" if history.rows else ""
    return Figure(f"{history.step:,}", f"of {config.training.steps:,} steps", beside)


def tokenizer_figures(config: TokenizerRunConfig, history: History) -> list[Figure]:
    """The big numbers of a tokenizer."""
    psnr, used = history.last("evaluate", "psnr"), history.last("evaluate", "codes_in_use")
    if isinstance(config.tokenizer, VQKDConfig):
        away = history.last("train", "reconstruction")
        quality = Figure(
            UNKNOWN if away is None else f"{1 - away:.2f}", "cosine", "with the teacher's features"
        )
    else:
        written = UNKNOWN if psnr is None else f"{psnr:.1f} dB"
        quality = Figure(written, "PSNR", "held-out images")
    return [
        quality,
        Figure(_number(used), "codes in use", f"of {config.tokenizer.codes:,}"),
        Figure(_number(history.last("evaluate", "perplexity")), "perplexity", "codes in even use"),
    ]


def pretraining_figures(config: PretrainRunConfig, history: History) -> list[Figure]:
    """The big numbers of a pre-training."""
    loss, pixels = _number(history.last("train", "loss")), config.objective.target == "pixels"
    if pixels:
        mean = _number(history.last("train", "target_variance"))
        figures = [Figure(loss, "squared error", f"always the mean: {mean}")]
    else:
        chance = _number(history.last("train", "chance_loss"))
        entropy = _number(history.last("train", "token_entropy"))
        right = _percent(history.last("train", "accuracy"))
        figures = [
            Figure(right, "hidden tokens right", "training, last steps"),
            Figure(loss, "loss", f"chance {chance}, token entropy {entropy}"),
        ]
    for name, label in (("neighbours", "nearest neighbours"), ("retrieval", "found again")):
        score, best = history.last("evaluate", name), history.last("evaluate", f"{name}_block")
        if score is not None:
            place = "" if best is None else f", block {best:.0f}"
            figures.append(Figure(percent(score), label, f"frozen features{place}"))
    return figures


def _best(history: History, metric: str, label: str) -> Figure:
    """The best evaluation, whose model is published."""
    best = max(history.points("evaluate", metric), key=lambda point: point[::-1], default=None)
    return Figure(
        UNKNOWN if best is None else percent(best[1]),
        f"{label}, best",
        "" if best is None else f"validation, step {best[0]:,.0f}; it is the one in model/",
    )


def classification_figures(_config: RunConfig, history: History) -> list[Figure]:
    """The big numbers of a classifier."""
    if history.points("evaluate", "map"):
        return _of_multi_label(history)
    figures = [
        _best(history, "top1", "top-1"),
        Figure(_percent(history.last("evaluate", "top1")), "top-1, last", "validation, last step"),
    ]
    top5 = history.last("evaluate", "top5")
    if top5 is not None and top5 < 1:
        figures.append(Figure(percent(top5), "top-5, last", "validation, last step"))
    chance = _number(history.last("train", "chance_loss"))
    loss = _number(history.last("evaluate", "loss"))
    return [*figures, Figure(loss, "validation loss", f"chance {chance}")]


def _of_multi_label(history: History) -> list[Figure]:
    chance = _percent(history.last("evaluate", "chance_map"))
    return [
        _best(history, "map", "mean average precision"),
        Figure(
            _percent(history.last("evaluate", "map")),
            "mean average precision, last",
            f"at random: {chance}",
        ),
        Figure(
            _percent(history.last("evaluate", "macro_f1")),
            "macro F1, last",
            "validation, last step",
        ),
        Figure(_number(history.last("evaluate", "loss")), "validation loss", "per label"),
    ]


def segmentation_figures(_config: RunConfig, history: History) -> list[Figure]:
    """The big numbers of a segmenter."""
    over = history.last("evaluate", "scored_classes")
    figures = [_best(history, "miou", "mean IoU")]
    for name, label in (("miou", "mean IoU"), ("mean_accuracy", "mean accuracy"),
                        ("pixel_accuracy", "pixels right")):  # fmt: skip
        beside = "" if over is None else f"last step; {over:.0f} classes occur"
        figures.append(Figure(_percent(history.last("evaluate", name)), f"{label}, last", beside))
    return figures


def tokenizer_facts(config: TokenizerRunConfig) -> list[str]:
    """The tokenizer of a run, and the size of its images."""
    vocabulary = config.tokenizer
    return [
        f"{vocabulary.codes:,} codes, stride {vocabulary.downsampling}",
        _pixels(vocabulary.size),
    ]


def model_facts(config: RunConfig) -> list[str]:
    """The backbone of a run, the size of its images, and what it started from."""
    model, init = getattr(config, "model", None), getattr(config, "init", "")
    if not isinstance(model, VisionTransformerConfig):
        return []
    return [
        f"{model.depth} blocks of width {model.width}, patches of {model.patch}",
        *([f"started from {init}"] if init else []),
        _pixels(model.size),
    ]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def facts(run: Path, config: RunConfig, own: Sequence[str]) -> str:
    """One line: recipe, data, what is the task's `own`, batch."""
    parts = [f"recipe {config.recipe or 'of its own'}", f"images from {config.data}"]
    made = described(run)
    if made is not None and "images" in made.details.trained:
        parts.append(f"{made.details.trained['images']:,} to train on")
    return " · ".join([*parts, *own, f"batch {config.training.batch:,}"])


def findings(config: RunConfig, history: History) -> list[str]:
    """What somebody who looks at this run should know first."""
    found = []
    steps = config.training.steps
    if history.step < steps:
        found.append(
            f"This run is not finished: its journal ends at step {history.step:,} of {steps:,}. "
            "The same command with --resume goes on."
        )
    if history.last("evaluate", "collapsed"):
        found.append(
            "The tokenizer has collapsed: fewer than one code in twenty is in even use, and "
            "pre-training on it would learn next to nothing. Try a smaller vocabulary (--codes), a "
            "smaller --kl-weight, a --balance-weight above 0, or more steps."
        )
    loss, entropy = history.last("train", "loss"), history.last("train", "token_entropy")
    if loss is not None and entropy is not None and loss > entropy:
        found.append(
            f"The loss ({number(loss)}) has not fallen below the entropy of the tokens "
            f"({number(entropy)}): so far the model knows little more than which tokens are "
            "frequent. Train longer, or on more images."
        )
    return found
