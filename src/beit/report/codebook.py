"""The words of a visual vocabulary: what each code looks like, and how often it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from beit.claim import claim_output
from beit.config.data import BY_HEADINGS, LabelFileConfig, Reading
from beit.data.dataset import open_source
from beit.data.sources import evenly
from beit.data.visualize import Rgb, to_rgb
from beit.errors import ConfigError
from beit.evaluation.eval_loader import CentreView
from beit.hardware import find_device
from beit.objectives.base import entropy
from beit.report.image_grid import Cell, Sheet, check_place, write_sheet
from beit.report.inputs import read_all
from beit.report.tokenizer import Painting, paint, vocabulary
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_tokenizer, value_range_of

COLUMNS = 16
AT_A_TIME = 16


@torch.no_grad()
def decoded_codes(tokenizer: VisualTokenizer, codes: list[int]) -> list[Rgb]:
    """The middle patch of an image that is all of one code, for each code."""
    device = next(tokenizer.parameters()).device
    height, width = tokenizer.grid
    stride = tokenizer.config.downsampling
    top, left = height // 2 * stride, width // 2 * stride
    found = []
    for start in range(0, len(codes), AT_A_TIME):
        some = torch.tensor(codes[start : start + AT_A_TIME], device=device)
        images = tokenizer.decode(some[:, None].expand(-1, height * width))
        middle = images[:, :, top : top + stride, left : left + stride]
        found += [to_rgb(one) for one in middle]
    return found


def atlas(tokenizer: VisualTokenizer, paintings: list[Painting], *, most: int) -> Sheet:
    """The codes from the most used one on, each with its mean patch and what it decodes to."""
    stride, channels = tokenizer.config.downsampling, tokenizer.config.channels
    found = vocabulary(paintings, tokenizer.codes, stride)
    used, total = int((found.counts > 0).sum()), int(found.counts.sum())
    order = found.counts.argsort(descending=True, stable=True)[: min(most, used)].tolist()
    means = [to_rgb(found.means[code].reshape(channels, stride, stride)) for code in order]
    painted = decoded_codes(tokenizer, order) if tokenizer.can_decode else []
    halves = means
    if painted:
        halves = [np.concatenate(pair, axis=1) for pair in zip(means, painted, strict=True)]
    cells = [
        Cell(half, (f"{code}", _share(int(found.counts[code]) / total)))
        for code, half in zip(order, halves, strict=True)
    ]
    even = float(entropy(found.counts.float()).exp())
    shown = f"the {len(order):,} most used" if len(order) < used else "all of them"
    lead = (
        f"{used:,} of {tokenizer.codes:,} codes occur in {len(paintings):,} images ({total:,} "
        f"tokens); in even use there would be {even:,.1f}. Here {shown}, with the share of the "
        "tokens below the number of the code. "
    )
    mean = "the mean of the patches that got it"
    paints = f"Left: {mean}; right: what the tokenizer paints for it."
    lead += paints if painted else f"Image: {mean}."
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    return Sheet("Codebook", lead, rows)


def _share(part: float) -> str:
    return f"{part:.1%}" if part >= 0.001 else "<0.1%"


def show_codebook(
    reference: str,
    data: str,
    out: str,
    *,
    images: int,
    most: int,
    side: int,
    device: str,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Path:
    """Write the sheet.

    Errors: CheckpointError if it is no tokenizer, DataError if no image can be read.
    """
    with claim_output(check_place(out), replaces=True) as place:
        if min(images, most) < 1:
            raise ConfigError(f"images is {images}, most is {most}", remedy="use 1 or more")
        where = find_device(device)
        tokenizer = open_tokenizer(reference)
        tokenizer.to(where)
        source = evenly(open_source(data, Reading(label_file=label_file)), images)
        view = CentreView(tokenizer.size, 1.0)
        paintings: list[Painting] = []
        for batch in read_all(source, view, tokenizer.config.channels, value_range_of(reference)):
            paintings += paint(tokenizer, batch._replace(images=batch.images.to(where)))
        write_sheet(atlas(tokenizer, paintings, most=most), place, side=side)
    return Path(out)
