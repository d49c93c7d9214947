"""The page of `beit tokenizer compare`: a table, and the same images in the tokens of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from beit.data.visualize import to_rgb, token_map
from beit.report.document import document
from beit.report.images import show
from beit.report.markup import block, element, percent, table

HEAD = (
    "tokenizer", "kind", "grid", "codes in use", "perplexity", "PSNR (dB)", "kept when mirrored",
    "kept when cropped", "nearest neighbours",
)  # fmt: skip
EXPLANATION = (
    "Perplexity: how many codes there would be in even use. Kept: share of places that have the "
    "same token when the image is mirrored, or its first row and column of places are cut off. "
    "Nearest neighbours: share of labelled images whose class is that of the images with the "
    "most similar token histograms. No figure says by itself what pre-training makes of the tokens."
)


class ComparedTokenizer(NamedTuple):
    """What was measured of one tokenizer, and some images in its tokens."""

    name: str
    kind: str
    grid: tuple[int, int]
    codes: int
    codes_in_use: int
    perplexity: float
    psnr: float | None
    """None if it paints no images."""
    flips: float
    crops: float
    neighbours: float | None
    """None without labels."""
    images: UInt8[Tensor, "images channels height width"]
    tokens: Int64[Tensor, "images patches"]
    painted: Float[Tensor, "images channels height width"] | None

    def figures(self) -> dict[str, object]:
        """All but the images."""
        kept = self._asdict()
        for name in ("images", "tokens", "painted"):
            del kept[name]
        return kept

    def row(self) -> tuple[str, ...]:
        """The line of the table."""
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


def write_tokenizers(place: Path, rows: Sequence[ComparedTokenizer]) -> Path:
    """Write one self-contained page."""
    parts = [element("h1", "Tokenizers on the same images")]
    parts.append(table(HEAD, [row.row() for row in rows]))
    parts.append(element("p", EXPLANATION, {"class": "explain"}))
    for row in rows:
        parts.append(element("h2", row.name))
        cells = [show(to_rgb(image), "The image", "image") for image in row.images]
        parts.append(block("strip", cells))
        cells = [
            show(token_map(tokens, row.grid, row.codes), "The tokens, a colour each", "tokens")
            for tokens in row.tokens
        ]
        parts.append(block("strip", cells))
        if row.painted is not None:
            cells = [show(to_rgb(one), "From the tokens", "from its tokens") for one in row.painted]
            parts.append(block("strip", cells))
    place.write_text(document("Tokenizers", element("main", parts)), "utf-8")
    return place
