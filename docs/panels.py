"""The figure of curves.md: one panel for each curve that differs between runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from beit.report.history import History, Kind, Point

Curve = Callable[[History], tuple[Point, ...]]
HEALTHY = "healthy"


def logged(kind: Kind, name: str) -> Curve:
    """A metric as it stands in metrics.jsonl."""
    return lambda history: history.points(kind, name)


def above_entropy(history: History) -> tuple[Point, ...]:
    """The loss minus the entropy of the tokens."""
    entropy = dict(history.points("train", "token_entropy"))
    return tuple((step, loss - entropy[step]) for step, loss in history.points("train", "loss"))


def zero(history: History) -> tuple[Point, ...]:
    """From the start to the newest step."""
    return ((0, 0), (history.step, 0))


class Panel(NamedTuple):
    """One curve of several runs of a verb; `beside` is drawn with dots, and in grey what to compare
    with, as the healthy run has it."""

    verb: str
    label: str
    curve: Curve
    runs: tuple[str, ...]
    beside: Curve | None = None
    references: Mapping[str, Curve] = {}
    scale: Literal["linear", "log"] = "linear"
    span: tuple[float | None, float | None] = (None, None)


CHANCE: dict[str, Curve] = {"chance": logged("train", "chance_loss")}
TOKENIZERS = (HEALTHY, "lr 0.1", "kl weight 1", "dead codes")
PANELS = (
    Panel("tokenizer", "perplexity", logged("train", "perplexity"), TOKENIZERS,
          references={"vocabulary": logged("train", "perplexity_limit")}),
    Panel("tokenizer", "reconstruction", logged("train", "reconstruction"), TOKENIZERS),
    Panel("pretrain", "loss", logged("train", "loss"),
          (HEALTHY, "lr 0.1", "lr 1", "lr 0.00001"), span=(None, 4.5),
          references=CHANCE | {"token entropy": logged("train", "token_entropy")}),
    Panel("pretrain", "grad_norm", logged("train", "grad_norm"),
          (HEALTHY, "lr 0.1", "lr 1"), scale="log"),
    Panel("pretrain", "loss - token_entropy", above_entropy,
          (HEALTHY, "one code, accepted", "tokens of kl weight 1", "one hidden patch"),
          span=(None, 1.0), references={"nothing learned": zero}),
    Panel("pretrain", "data_wait", logged("train", "data_wait"), (HEALTHY, "slow reading"),
          span=(0.0, None)),
    Panel("finetune", "loss", logged("train", "loss"), (HEALTHY, "three labels a class"),
          beside=logged("evaluate", "loss"), references=CHANCE),
    Panel("finetune", "top1", logged("evaluate", "top1"),
          (HEALTHY, "three labels a class", "RandAugment", "lr 0.3")),
)  # fmt: skip
# Colours of Okabe and Ito; the dashes tell the lines apart without them.
LOOKS = (("#000000", "-"), ("#d55e00", "--"), ("#0072b2", "-."), ("#009e73", ":"))
REFERENCES = ((0, (6, 3)), (0, (1, 2)))


def draw(panel: Panel, axes: Axes, histories: Mapping[str, History]) -> None:
    """One panel; steps are numbered as in the log. A run that ended before its first row has no
    line."""

    def line(label: str, points: tuple[Point, ...], **looks: Any) -> None:
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **looks)

    for (name, curve), dots in zip(panel.references.items(), REFERENCES, strict=False):
        line(name, curve(histories[HEALTHY]), color="#888888", ls=dots, lw=1)
    for name, (colour, dashes) in zip(panel.runs, LOOKS, strict=False):
        line(name, panel.curve(histories[name]), color=colour, ls=dashes, lw=1.6)
        if panel.beside is not None:
            points = panel.beside(histories[name])
            line(f"{name}, validation", points, color=colour, ls=dashes, lw=0.8, marker="o", ms=3)
    axes.set(title=f"{panel.verb}: {panel.label}", xlabel="step", ylabel=panel.label)
    axes.set_yscale(panel.scale)
    axes.set_ylim(*panel.span)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=2, fontsize=8, frameon=False)


def figure(histories: Mapping[str, Mapping[str, History]], file: Path) -> None:
    """All panels, two in a row."""
    drawn, axes = plt.subplots(len(PANELS) // 2, 2, figsize=(8.4, 12), layout="constrained")
    for panel, place in zip(PANELS, axes.flat, strict=True):
        draw(panel, place, histories[panel.verb])
    data = BytesIO()
    drawn.savefig(data, dpi=100)
    plt.close(drawn)
    Image.open(data).convert("RGB").quantize(128).save(file, optimize=True)
