"""The verb that lists the released models, which can be named instead of a run: models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from beit.config.model import SIZES
from beit.terminal import print_lines

if TYPE_CHECKING:
    from beit.weights.published import Published

Kind = Literal["all", "pre-trained", "intermediate", "fine-tuned", "tokenizer", "segmenter"]
GOOD_FOR = {
    "pre-trained": "--init: go on pre-training on images of your own, or fine-tune",
    "intermediate": "probe; --init: fine-tune with few labels (it learned the 22k labels)",
    "fine-tuned": "predict the 1,000 classes of ImageNet; probe; --init",
    "tokenizer": "--tokenizer",
    "segmenter": "segment the 150 classes of ADE20K; --init of beit segment",
}


ABOUT = """
Accuracy in per cent, as the authors state it (microsoft/unilm): top-1 on ImageNet-1k, of those
marked `tuned` after fine-tuning there, or mIoU on ADE20K. Then mean and std of the pixels (half:
0.5), and the licence.
first look      beit probe NAME --data LABELLED --out runs/probe
then fine-tune  beit finetune --init NAME --data LABELLED --out runs/classifier --time 1h"""


def models(kind: Kind = "all", format: Literal["table", "json"] = "table") -> None:  # noqa: A002
    """List released models by the names that --init, probe, predict and beit.load take.

    Nothing is downloaded here: a model is downloaded, and its hash checked, when its name is used.

    Args:
        kind: List only models of this kind.
        format: A table for people, or JSON.
    """
    from beit.weights.published import NAMES

    rows = [_row(file) for file in NAMES.values() if kind in ("all", file.kind)]
    if format == "json":
        print(json.dumps(rows, indent=1))
        return
    for group, good_for in GOOD_FOR.items():
        members = [row for row in rows if row["kind"].endswith(group)]
        if members:
            print_lines(f"{group} - {good_for}")
        for row in members:
            print_lines(
                f"  {row['name']:<23} {row['size']:<22} {row['accuracy']:<13} "
                f"{row['statistics']:<9} {row['licence']}"
            )
    print(ABOUT)


def _row(file: Published) -> dict[str, str]:
    size, about = SIZES.get(file.backbone), f"{file.size} px"
    if size is not None:
        millions = 12 * size.depth * size.width**2 / 1e6
        about = f"{file.backbone}, {millions:.0f} M, {about}"
    return {
        "name": file.short,
        "kind": f"{file.family}, {file.kind}",
        "size": about,
        "accuracy": _accuracy(file),
        "statistics": file.statistics,
        "good for": GOOD_FOR[file.kind],
        "source": f"microsoft/unilm, {file.source}" if file.source else "",
        "licence": file.licence,
        "from": file.download[0],
    }


def _accuracy(file: Published) -> str:
    """The accuracy that its authors state for it, or for the model that they fine-tuned from it."""
    from beit.weights.published import PUBLISHED

    tuned = next((other for other in PUBLISHED if file.tuned and other.name == file.tuned), file)
    if tuned.expected is None:
        return ""
    return f"{tuned.expected:g}" + (" tuned" if tuned is not file else "")
