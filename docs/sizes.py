"""Write the table of recipes into sizes.md: `python docs/sizes.py`."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from beit.config import TokenizerRunConfig
from beit.models.vit import VisionTransformer
from beit.recipes import RECIPES
from beit.tokenizers import build_tokenizer

PAGE = Path(__file__).with_name("sizes.md")
GIB = 2**30
BYTES = 16
"""Per parameter: float32 weights, gradients, and AdamW's two averages."""


def rows() -> list[str]:
    found = []
    for verb in ("tokenizer", "pretrain", "finetune"):
        for name, recipe in RECIPES[verb].items():
            config = recipe()
            with torch.device("meta"):
                if isinstance(config, TokenizerRunConfig):
                    part, what = config.tokenizer, f"{config.tokenizer.codes:,} codes"
                    model = build_tokenizer(part)
                else:
                    part = config.model
                    what = f"{part.depth} x {part.width}, patch {part.patch}"
                    model = VisionTransformer(part)
                count = sum(each.numel() for each in model.parameters())
            steps = config.training.steps
            images = steps * config.training.batch
            state = count * BYTES / GIB
            found.append(
                f"| `beit {verb}` | `{name}` | {part.size[0]} x {part.size[1]} | {what} "
                f"| {count / 1e6:.1f} | {state:.2f} | {config.training.batch:,} | {steps:,} "
                f"| {images / 1e6:.3g} |"
            )
    return found


def table() -> str:
    """The table of the page."""
    head = (
        "| verb | recipe | pixels | model | million parameters | GiB of state | batch | steps "
        "| million images seen |"
    )
    return "\n".join([head, "| --- " * 9 + "|", *rows()])


if __name__ == "__main__":
    between = re.compile(r"(<!-- sizes: begin -->\n).*(\n<!-- sizes: end -->)", re.S)
    PAGE.write_text(between.sub(lambda found: found[1] + table() + found[2], PAGE.read_text()))
