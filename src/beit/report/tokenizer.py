"""What a tokenizer has learned: what survives its tokens, which codes it uses, what they look
like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.runs import TokenizerRunConfig
from beit.config.tokenizer import VQKDConfig
from beit.data.augment import EvaluationView
from beit.data.dataset import open_source
from beit.data.sources import evenly, spread
from beit.evaluation.tokenizer import decibels
from beit.objectives.base import entropy
from beit.objectives.targets import patchify
from beit.report.charts import Chart, Line, draw, read_charts
from beit.report.history import History
from beit.report.inputs import batches, best_typical_worst, open_model
from beit.report.markup import (
    UNKNOWN,
    Example,
    Finding,
    PageImage,
    Section,
    number,
    percent,
    render,
)
from beit.report.page import Examples, Figure
from beit.terminal import counted
from beit.tokenizers.base import VisualTokenizer
from beit.visualize import to_rgb, token_map

MOST_IMAGES = 256
EACH = 2
CODES_SHOWN = 64

CHARTS = read_charts("tokenizer")


class Encoded(NamedTuple):
    """An image, its tokens, and what the tokenizer decodes from them."""

    key: str
    image: UInt8[Tensor, "channels height width"]
    tokens: Int64[Tensor, " patches"]
    decoded: UInt8[Tensor, "channels height width"] | None = None
    """None if the tokenizer cannot decode."""
    error: float = math.nan
    """Mean squared error of what is decoded, for values in [0, 1]."""

    @property
    def psnr(self) -> float:
        """That error in dB."""
        return decibels(self.error)


class Vocabulary(NamedTuple):
    """How often each code occurred, and the mean of the patches that got it."""

    counts: Int64[Tensor, " codes"]
    means: Float[Tensor, "codes values"]

    @property
    def used(self) -> int:
        """How many codes occur."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """How many codes there would be if all were used evenly."""
        return float(entropy(self.counts.float()).exp())

    def most_used(self, most: int) -> list[int]:
        """Codes that occur, the most used first."""
        order = self.counts.argsort(descending=True, stable=True)[: min(most, self.used)]
        return [int(code) for code in order]


@torch.no_grad()
def encode(tokenizer: VisualTokenizer, batch: ImageBatch) -> list[Encoded]:
    """Encode and, if the tokenizer can, decode a batch."""
    pixels, tokens = tokenizer.pixels(batch.images), tokenizer.encode(batch.images)
    columns = [batch.keys, batch.images.cpu(), tokens.cpu()]
    if tokenizer.can_decode:
        decoded = tokenizer.decode(tokens)
        errors = (decoded - pixels).square().flatten(1).mean(dim=1)
        columns.append((decoded.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        columns.append(errors.tolist())
    return [Encoded(*row) for row in zip(*columns, strict=True)]


def psnr_of(encoded: Sequence[Encoded]) -> float:
    """PSNR of the error over all images, as `beit.evaluation.tokenizer` measures it."""
    return decibels(sum(one.error for one in encoded) / len(encoded))


def vocabulary(encoded: Sequence[Encoded], codes: int, stride: int) -> Vocabulary:
    """Count the codes that images use, and average the patches of each.

    Args:
        encoded: At least one image.
        codes: Number of codes of the tokenizer.
        stride: Side of a patch in pixels.
    """
    assert encoded, "there is at least one image"
    counts = torch.zeros(codes, dtype=torch.int64)
    sums = torch.zeros(codes, encoded[0].image.shape[0] * stride**2)
    for one in encoded:
        counts += torch.bincount(one.tokens, minlength=codes)
        sums.index_add_(0, one.tokens, patchify(one.image[None].float() / 255, stride)[0])
    return Vocabulary(counts, sums / counts.clamp_min(1)[:, None])


def _encoded(run: Path, config: TokenizerRunConfig) -> tuple[VisualTokenizer, list[Encoded]]:
    """The run's tokenizer, and some images of the run's data, encoded."""
    opened = open_model(run, VisualTokenizer)
    tokenizer = opened.model
    amount = opened.affordable(tokenizer.grid[0] * tokenizer.grid[1] * 4, MOST_IMAGES)
    source = evenly(open_source(config.data, config.reading), amount)
    view, channels = EvaluationView(tokenizer.size, 1.0, labelled=False), tokenizer.config.channels
    found: list[Encoded] = []
    for batch in batches(ImageBatch, source, view, channels, config.loader.value_range):
        found += encode(tokenizer, batch._replace(images=batch.images.to(opened.device)))
    return tokenizer, found


def _example(one: Encoded, tokenizer: VisualTokenizer) -> Example:
    words, made = counted(len(one.tokens.unique()), "code"), []
    if one.decoded is not None:
        words = f"{one.psnr:.1f} dB, {words}"
        made = [PageImage(to_rgb(one.decoded), "Decoded from its tokens", "decoded")]
    tokens = token_map(one.tokens, tokenizer.grid, tokenizer.codes)
    made.append(PageImage(tokens, "The tokens, a colour per code", "tokens"))
    image = PageImage(to_rgb(one.image), "The image", "image")
    return Example(one.key, (image,), tuple(made), words, one.psnr)


def _codes(found: Vocabulary, tokenizer: VisualTokenizer) -> Iterable[PageImage]:
    """The mean patch of the most used codes."""
    channels, stride = tokenizer.config.channels, tokenizer.config.downsampling
    for code in found.most_used(CODES_SHOWN):
        part = int(found.counts[code]) / int(found.counts.sum())
        words = f"{part:.0%}" if part >= 0.01 else "<1%"
        patch = to_rgb(found.means[code].reshape(channels, stride, stride))
        yield PageImage(patch, f"Mean patch of code {code}, {words} of the tokens", words)


def sections(run: Path, config: TokenizerRunConfig) -> list[Section]:
    """Reconstructions and the vocabulary, on a few images of the run's data.

    Raises:
        BeitError: The artifact or the images are not there.
    """
    tokenizer, encoded = _encoded(run, config)
    order = [("", index) for index in spread(len(encoded), 3 * EACH)]
    if tokenizer.can_decode:
        order = best_typical_worst([one.psnr for one in encoded], EACH)
    images = render(
        "encoded.html.j2",
        rows=[(name, _example(encoded[index], tokenizer)) for name, index in order],
        can_decode=tokenizer.can_decode,
        images=len(encoded),
        psnr=psnr_of(encoded),
    )
    found = vocabulary(encoded, tokenizer.codes, tokenizer.config.downsampling)
    codes = render(
        "vocabulary.html.j2",
        found=found,
        codes=tokenizer.codes,
        usage=draw(_usage(found)),
        images=list(_codes(found, tokenizer)),
    )
    title = "Images from their tokens" if tokenizer.can_decode else "Images and their tokens"
    return [
        Section("reconstructions", title, images),
        Section("codes", "The vocabulary", codes),
    ]


def _usage(found: Vocabulary) -> Chart:
    """How often each code is used, the most used first."""
    fractions = (found.counts / found.counts.sum()).sort(descending=True).values.tolist()
    ranked = tuple((float(rank), part) for rank, part in enumerate(fractions, 1))
    even = tuple((rank, 1 / len(fractions)) for rank in (1.0, float(len(fractions))))
    return Chart(
        "Use of the codes",
        f"Fraction of all tokens per code, sorted; {found.used} of {len(fractions)} codes occur. "
        "Healthy: a gentle slope. A single high peak with nothing beside it is collapse.",
        (Line("least used", ranked), Line("even use", even, "reference")),
        as_fraction=True,
        from_zero=True,
        noisy=False,
        along="code, the most used first",
    )


def examples(run: Path, config: TokenizerRunConfig) -> Examples:
    """Images of the run's data and their tokens; raises as `sections` does."""
    tokenizer, encoded = _encoded(run, config)
    found = {one.key: one for one in encoded}
    return Examples(
        list(found), lambda keys: {key: _example(found[key], tokenizer) for key in keys}
    )


def headline(config: TokenizerRunConfig, history: History) -> list[Figure]:
    """The big numbers of a tokenizer."""
    psnr, error = history.last("evaluate", "psnr"), history.last("train", "reconstruction")
    if isinstance(config.tokenizer, VQKDConfig):
        value = UNKNOWN if error is None else f"{1 - error:.2f}"
        quality = Figure(value, "cosine", "with the teacher's features")
    else:
        value = UNKNOWN if psnr is None else f"{psnr:.1f} dB"
        quality = Figure(value, "PSNR", "held-out images", psnr)
    used = number(history.last("evaluate", "codes_in_use"))
    even = number(history.last("evaluate", "perplexity"))
    return [
        quality,
        Figure(used, "codes in use", f"of {config.tokenizer.codes:,}"),
        Figure(even, "perplexity", "codes, if used evenly"),
    ]


def findings(history: History) -> list[Finding]:
    """Whether the tokenizer has collapsed, or how many codes it uses."""
    if history.last("evaluate", "collapsed"):
        text = (
            "The tokenizer has collapsed: it uses fewer than one code in twenty evenly, and "
            "pre-training on it would learn next to nothing. Try a smaller vocabulary (--codes), a "
            "smaller --kl-weight, a --balance-weight above 0, or more steps."
        )
        return [Finding(text, True)]
    even = history.last("evaluate", "perplexity")
    if even is None:
        return []
    return [
        Finding(
            f"On held-out images, the codes carry as much information as {number(even)} evenly "
            "used ones. Look at the images below before you pre-train on these tokens."
        )
    ]


def facts(config: TokenizerRunConfig) -> list[str]:
    """The tokenizer of a run, and the size of its images."""
    tokenizer = config.tokenizer
    return [
        f"{tokenizer.codes:,} codes, stride {tokenizer.downsampling}",
        f"{tokenizer.size[0]} x {tokenizer.size[1]} pixels",
    ]


class ComparedTokenizer(NamedTuple):
    """What was measured of one tokenizer, and some images with their tokens."""

    name: str
    kind: str
    grid: tuple[int, int]
    codes: int
    codes_in_use: int
    perplexity: float
    psnr: float | None
    """None if it cannot decode."""
    flips: float
    crops: float
    neighbours: float | None
    """None without labels."""
    images: UInt8[Tensor, "images channels height width"]
    tokens: Int64[Tensor, "images patches"]
    painted: Float[Tensor, "images channels height width"] | None

    def figures(self) -> dict[str, object]:
        """All values but the images."""
        kept = self._asdict()
        for name in ("images", "tokens", "painted"):
            del kept[name]
        return kept

    def row(self) -> tuple[str, ...]:
        """Its row of the table."""
        return (
            self.name,
            self.kind,
            f"{self.grid[0]} x {self.grid[1]}",
            f"{self.codes_in_use:,} of {self.codes:,}",
            f"{self.perplexity:.1f}",
            "" if self.psnr is None else f"{self.psnr:.1f}",
            percent(self.flips),
            percent(self.crops),
            "" if self.neighbours is None else percent(self.neighbours),
        )

    def strips(self) -> list[Example]:
        """The images, their tokens and, if the tokenizer can decode, the images decoded."""
        maps = [token_map(tokens, self.grid, self.codes) for tokens in self.tokens]
        kinds = [
            ("The image", "image", [to_rgb(image) for image in self.images]),
            ("The tokens, a colour each", "tokens", maps),
        ]
        if self.painted is not None:
            decoded = [to_rgb(image) for image in self.painted]
            kinds.append(("Decoded from its tokens", "from its tokens", decoded))
        return [
            Example("", tuple(PageImage(pixels, alt, caption) for pixels in images))
            for alt, caption, images in kinds
        ]


HEAD = (
    "tokenizer", "kind", "grid", "codes in use", "perplexity", "PSNR (dB)", "kept when mirrored",
    "kept when cropped", "nearest neighbours",
)  # fmt: skip


def write_tokenizers(place: Path, compared: Sequence[ComparedTokenizer]) -> Path:
    """Write the page of `beit tokenizer compare`."""
    rows = [(one.row(), one.strips()) for one in compared]
    place.write_text(render("tokenizers.html.j2", head=HEAD, compared=rows), "utf-8")
    return place
