"""What a tokenizer has learned: how well it paints, which codes it uses, what they look like."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.runs import TokenizerRunConfig
from beit.data.dataset import open_source
from beit.data.sources import evenly, spread
from beit.data.visualize import to_rgb, token_map
from beit.evaluation.eval_loader import CentreView
from beit.objectives.base import entropy
from beit.objectives.targets import patchify
from beit.report.images import show
from beit.report.markup import Markup, Section, block, element, figure, join
from beit.report.samples import affordable, batches, best_typical_worst
from beit.report.svg_chart import HEIGHT, WIDTH
from beit.report.trained import trained
from beit.tokenizers.base import VisualTokenizer

MOST_IMAGES = 256
EACH = 2
CODES_SHOWN = 64


class Painting(NamedTuple):
    """An image, its tokens and what the tokenizer makes of them again."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    tokens: Int64[Tensor, " patches"]
    painted: UInt8[Tensor, "channels height width"] | None = None
    """None if the tokenizer paints no images."""
    psnr: float = math.nan


class Vocabulary(NamedTuple):
    """How often each code occurred, and the mean of the patches that got it."""

    counts: Int64[Tensor, " codes"]
    means: Float[Tensor, "codes values"]


@torch.no_grad()
def paint(tokenizer: VisualTokenizer, batch: ImageBatch) -> list[Painting]:
    """Encode and decode a batch, image by image."""
    pixels = tokenizer.pixels(batch.images)
    tokens = tokenizer.encode(batch.images)
    if not tokenizer.can_decode:
        return [
            Painting(*one) for one in zip(batch.keys, batch.images.cpu(), tokens.cpu(), strict=True)
        ]
    painted = tokenizer.decode(tokens)
    errors = (painted - pixels).square().flatten(1).mean(dim=1).clamp_min(1e-12)
    qualities = (-10 * errors.log10()).tolist()
    written = (painted.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return [
        Painting(key, image, code, again, quality)
        for key, image, code, again, quality in zip(
            batch.keys, batch.images.cpu(), tokens.cpu(), written, qualities, strict=True
        )
    ]


def vocabulary(paintings: list[Painting], codes: int, stride: int) -> Vocabulary:
    """The codes as the images use them."""
    counts = torch.zeros(codes, dtype=torch.int64)
    sums: Tensor | None = None
    for one in paintings:
        patches = patchify(one.image[None].float() / 255, stride)[0]
        counts += torch.bincount(one.tokens, minlength=codes)
        sums = patches.new_zeros(codes, patches.shape[1]) if sums is None else sums
        sums.index_add_(0, one.tokens, patches)
    assert sums is not None, "there is at least one image"
    return Vocabulary(counts, sums / counts.clamp_min(1)[:, None])


def usage_chart(counts: Int64[Tensor, " codes"]) -> Markup:
    """A bar per code, the most used first, with the height that even use would have."""
    shares = (counts.float() / counts.sum()).sort(descending=True).values.tolist()
    left, bottom, top = 46.0, HEIGHT - 30, 10.0
    step = (WIDTH - left - 8) / len(shares)
    unit = (bottom - top) / shares[0]
    gap = 0.15 * step if step > 2 else 0.0
    bars = "".join(
        f"M{left + rank * step:.2f} {bottom}h{step - gap:.2f}v{-share * unit:.2f}h{gap - step:.2f}z"
        for rank, share in enumerate(shares)
        if share
    )
    even = bottom - unit / len(shares)
    used = int((counts > 0).sum())
    ends = {"y": bottom + 16}
    parts = [
        element("title", f"Use of each code: {used} of {len(shares)} occur"),
        element("path", "", {"class": "bars", "d": bars}),
        element("path", "", {"class": "line dashed", "d": f"M{left} {even:.1f}H{WIDTH - 8}"}),
        element(
            "text", f"{100 * shares[0]:.3g}%", {"x": left - 6, "y": top + 5, "text-anchor": "end"}
        ),
        element("text", "0", {"x": left - 6, "y": bottom + 4, "text-anchor": "end"}),
        element("text", "most used", {**ends, "x": left}),
        element("text", f"{len(shares)} codes", {**ends, "x": WIDTH - 8, "text-anchor": "end"}),
    ]
    svg = {"viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}", "role": "img", "class": "chart"}
    caption = (
        f"Share of all tokens per code, sorted; {used} of {len(shares)} codes occur. Dashed: even "
        "use. Healthy: a gentle slope. A single high bar with nothing beside it is collapse."
    )
    return figure([element("h3", "Use of the codes"), element("svg", parts, svg)], caption, "curve")


def code_gallery(found: Vocabulary, channels: int, stride: int) -> Markup:
    """The mean patch of the most used codes, each under its number."""
    order = found.counts.argsort(descending=True, stable=True)[:CODES_SHOWN].tolist()
    total = int(found.counts.sum())
    cells = []
    for code in order:
        if found.counts[code]:
            patch = to_rgb(found.means[code].reshape(channels, stride, stride))
            part = int(found.counts[code]) / total
            share = f"{part:.0%}" if part >= 0.01 else "<1%"
            cells.append(show(patch, f"Mean patch of code {code}, {share} of the tokens", share))
    caption = (
        f"Mean of all patches that got a code, for the {len(cells)} most used codes, with their "
        "share of the tokens. Healthy: many colours, shades and edges; no two alike."
    )
    return figure([element("h3", "What the codes stand for"), block("codes", cells)], caption)


def _row(name: str, one: Painting, tokenizer: VisualTokenizer) -> Markup:
    mapped = token_map(one.tokens, tokenizer.grid, tokenizer.codes)
    different = len(one.tokens.unique())
    words = f"{different} different codes · "
    cells = [show(to_rgb(one.image), "The image", "image")]
    if one.painted is not None:
        words = f"{one.psnr:.1f} dB, {words}"
        again = show(to_rgb(one.painted), "The image from its tokens", "from its tokens")
        cells.append(again)
    cells.append(show(mapped, "The tokens, a colour per code", "tokens"))
    head = [element("b", f"{name} " if name else ""), words, element("code", one.key)]
    title = element("p", head, {"class": "row-title"})
    return block("pair", join([title, block("strip", cells)]))


def make_paintings(run: Path, config: TokenizerRunConfig) -> tuple[VisualTokenizer, list[Painting]]:
    """The run's tokenizer, and what it makes of some images of the data.

    Errors: BeitError if the artifact or the images are not there.
    """
    published = trained(run, VisualTokenizer)
    tokenizer, device = published.model, published.device
    grid = tokenizer.grid
    channels = tokenizer.config.channels
    amount = affordable(tokenizer, grid[0] * grid[1] * 4, device, MOST_IMAGES)
    source = evenly(open_source(config.data, config.reading), amount)
    paintings: list[Painting] = []
    view, value_range = CentreView(tokenizer.size, 1.0), config.loader.value_range
    for batch in batches(ImageBatch, source, view, channels, value_range):
        paintings += paint(tokenizer, batch._replace(images=batch.images.to(device)))
    return tokenizer, paintings


def tokenizer_sections(run: Path, config: TokenizerRunConfig) -> list[Section]:
    """Reconstructions and the vocabulary, on a few images of the run's data.

    Errors: BeitError if the artifact or the images are not there.
    """
    tokenizer, paintings = make_paintings(run, config)
    channels, stride = tokenizer.config.channels, tokenizer.config.downsampling
    found = vocabulary(paintings, tokenizer.codes, stride)
    in_use, even = int((found.counts > 0).sum()), float(entropy(found.counts.float()).exp())
    words = f"{in_use} of {tokenizer.codes} codes occur; in even use there would be {even:.1f}."
    images = [usage_chart(found.counts), code_gallery(found, channels, stride)]
    return [
        _reconstructions(paintings, tokenizer),
        Section("codes", "The vocabulary", words, block("vocabulary", images)),
    ]


def _reconstructions(paintings: list[Painting], tokenizer: VisualTokenizer) -> Section:
    """Some images with their tokens and, if the tokenizer can, what it paints from them."""
    advice = "Healthy: equal surfaces get equal tokens (the same colour on the right), different "
    advice += "ones differ"
    if tokenizer.can_decode:
        title = "Images from their tokens"
        mean = sum(one.psnr for one in paintings) / len(paintings)
        lead = f"Mean PSNR over {len(paintings)} images of the data: {mean:.1f} dB."
        advice += "; shapes and colours survive, fine texture does not"
        order = best_typical_worst([one.psnr for one in paintings], EACH)
    else:
        title = "Images and their tokens"
        lead = "This tokenizer rebuilds the features of a teacher, so there is nothing to paint."
        order = [("", index) for index in spread(len(paintings), 3 * EACH)]
    rows = [_row(name, paintings[index], tokenizer) for name, index in order]
    body = [element("p", f"{advice}.", {"class": "explain"}), block("pairs", rows)]
    return Section("reconstructions", title, lead, join(body))
