"""Write the table of recipes into sizes.md: `python docs/sizes.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

from beit.config import TokenizerRunConfig
from beit.models.vit import VisionTransformer
from beit.recipes import RECIPES
from beit.tokenizers import build_tokenizer

PAGE = Path(__file__).with_name("sizes.md")


class Row(NamedTuple):
    """What recipes share a row of the table."""

    verb: str
    size: tuple[int, int]
    model: str
    parameters: int


def rows() -> dict[Row, dict[str, float]]:
    """The millions of images that each recipe sees, by row."""
    found: dict[Row, dict[str, float]] = {}
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
            row = Row(verb, part.size, what, round(count / 1e5))
            images = config.training.steps * config.training.batch / 1e6
            found.setdefault(row, {})[name] = images
    return found


def table() -> str:
    """The table of the page."""
    lines = [
        "| verb | recipes | pixels | model | million parameters | million images seen |",
        "| --- " * 6 + "|",
    ]
    for row, recipes in rows().items():
        names = ", ".join(f"`{name}`" for name in recipes)
        extremes = min(recipes.values()), max(recipes.values())
        seen = " to ".join(dict.fromkeys(f"{x:,.0f}" if x > 100 else f"{x:.2g}" for x in extremes))
        lines.append(
            f"| {row.verb} | {names} | {row.size[0]} x {row.size[1]} | {row.model} "
            f"| {row.parameters / 10:.1f} | {seen} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    between = re.compile(r"(<!-- sizes: begin -->\n).*(\n<!-- sizes: end -->)", re.S)
    PAGE.write_text(between.sub(lambda found: found[1] + table() + found[2], PAGE.read_text()))
