"""Write the table of recipes into sizes.md: `python docs/sizes.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from beit.config import (
    FinetuneRunConfig,
    PretrainRunConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    VisionTransformerConfig,
)
from beit.models.vit import VisionTransformer
from beit.recipes import RECIPES
from beit.tokenizers import build_tokenizer

PAGE = Path(__file__).with_name("sizes.md")
NAMES = {(12, 384): "ViT-S", (12, 768): "ViT-B", (24, 1024): "ViT-L"}
"""Backbones by depth and width."""


class Size(NamedTuple):
    """How large one recipe is."""

    side: int
    """Pixels."""
    parameters: float
    """Millions."""
    images: float
    """Millions, each as often as it is seen."""


def rows() -> dict[tuple[str, str, str], dict[str, Size]]:
    """The recipes that share a row: of a verb and a backbone, or of alike tokenizers."""
    found: dict[tuple[str, str, str], dict[str, Size]] = {}
    for verb in ("tokenizer", "pretrain", "finetune"):
        for name, recipe in RECIPES[verb].items():
            config = recipe()
            with torch.device("meta"):
                part: TokenizerConfig | VisionTransformerConfig
                model: nn.Module
                if isinstance(config, TokenizerRunConfig):
                    part, what = config.tokenizer, f"{config.tokenizer.codes:,} codes"
                    model = build_tokenizer(part)
                else:
                    assert isinstance(config, PretrainRunConfig | FinetuneRunConfig)
                    part = config.model
                    known = NAMES.get((part.depth, part.width))
                    shape = known or f"{part.depth} x {part.width}"
                    what = f"{shape}{'/' if known else ', patch '}{part.patch}"
                    model = VisionTransformer(part)
                count = sum(each.numel() for each in model.parameters()) / 1e6
            assert part.size[0] == part.size[1]
            images = config.training.steps * config.training.batch / 1e6
            alike = f"{round(count, 1 if count < 10 else None)}" if verb == "tokenizer" else ""
            found.setdefault((verb, what, alike), {})[name] = Size(part.size[0], count, images)
    return found


def short(number: float) -> str:
    """Two digits, or all before the point."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def table() -> str:
    """The table of the page."""
    lines = [
        "| verb | recipes | pixels | model | parameters (M) | images seen (M) |",
        "| --- " * 6 + "|",
    ]
    for (verb, what, _), recipes in rows().items():
        names = ", ".join(f"`{name}`" for name in recipes)
        side, parameters, seen = (
            " to ".join(dict.fromkeys(short(extreme) for extreme in (min(column), max(column))))
            for column in zip(*recipes.values(), strict=True)
        )
        lines.append(f"| {verb} | {names} | {side} | {what} | {parameters} | {seen} |")
    return "\n".join(lines)


if __name__ == "__main__":
    between = re.compile(r"(<!-- sizes: begin -->\n).*(\n<!-- sizes: end -->)", re.S)
    PAGE.write_text(between.sub(lambda found: found[1] + table() + found[2], PAGE.read_text()))
