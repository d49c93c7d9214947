"""The demo's page: the table, and scenes that show what was learned.

A whole object is hidden and predicted from what is around it; what one of its patches attends to
is drawn; and a segmenter draws its outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from beit.atomic_io import write_file
from beit.batch import MaskedBatch
from beit.data.sources import spread
from beit.inference.predictor import load
from beit.models.heads import MaskedImageModel
from beit.objectives.reconstruction import decode_tokens, reconstruct
from beit.report.image_grid import Cell, Sheet, write_sheet
from beit.report.markup import render
from beit.studies.objects import attention, best_head, read_objects
from beit.visualize import heat, hide, mark, overlay_labels, png_uri, to_rgb
from beit.weights.load import open_tokenizer

SCENES = 3
SMALLEST, LARGEST = 8, 20
"""The fewest and the most of the 64 patches that a shown object covers."""
FIGURE = "figure.png"


def write_figure(
    folder: Path, pretrained: Path, tokenizer: Path, segmenter: Path, segmented: Path
) -> Path:
    """Draw some test scenes, as `FIGURE` in the folder.

    Args:
        folder: Where to write.
        pretrained: Run of the pre-training.
        tokenizer: Run of the tokenizer that it learned from.
        segmenter: Run of a segmenter of objects.
        segmented: Scenes with masks; has `val` and `test`.
    """
    model = load(pretrained).model
    assert isinstance(model, MaskedImageModel)
    backbone = model.backbone
    config = backbone.config
    visual, outlines = open_tokenizer(str(tokenizer)), load(segmenter)
    validation, test = (
        read_objects(segmented / split, config.size, config.grid) for split in ("val", "test")
    )
    patches = test.inside.sum(dim=1)
    fitting = torch.nonzero((patches >= SMALLEST) & (patches <= LARGEST)).flatten().tolist()
    chosen = [fitting[place] for place in spread(len(fitting), SCENES)]
    looks = attention(backbone, test)[:, best_head(backbone, validation)]
    keys = tuple(test.names[number] for number in chosen)
    images, hidden = test.images[chosen], test.inside[chosen]
    rows = []
    for number, one in zip(
        chosen, reconstruct(model, visual, MaskedBatch(images, images, hidden, keys)), strict=True
    ):
        image = to_rgb(one.image)
        labels = outlines.segment(image)
        centre = int(test.centres[number])
        rows.append(
            [
                Cell(image, ("scene",)),
                Cell(hide(image, one.hidden, config.grid), ("hidden",)),
                Cell(to_rgb(decode_tokens(one.target, visual)), ("its tokens",)),
                Cell(
                    to_rgb(decode_tokens(one.filled, visual)),
                    ("predicted tokens",),
                ),
                Cell(
                    mark(heat(image, looks[number], config.grid), centre, config.grid),
                    ("attention",),
                ),
                Cell(overlay_labels(image, labels.astype(np.uint8)), ("segmented",)),
            ]
        )
    lead = (
        "Test scenes. An object is hidden; its tokens, which stand for edges and are drawn as "
        "strokes; what the model predicts for the hidden ones; what the framed patch attends to; "
        "and the mask that the segmenter draws."
    )
    return write_sheet(Sheet("What was learned", lead, rows), folder / FIGURE)


def write_page(
    folder: Path,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    sentences: Sequence[str],
    commands: str,
) -> Path:
    """Write report.html: the results in sentences, the table, the figure, and how to go on.

    Args:
        folder: Where to write; has `FIGURE`.
        head: Head of the table.
        rows: Rows of the table.
        sentences: What the table says.
        commands: Commands that use what was trained.
    """
    with Image.open(folder / FIGURE) as opened:
        figure = png_uri(np.asarray(opened.convert("RGB")))
    text = render(
        "demo.html.j2", head=head, rows=rows, sentences=sentences, figure=figure,
        commands=commands,
    )  # fmt: skip
    write_file(folder / "report.html", [text.encode()])
    return folder / "report.html"
