"""The verbs that show what was done and learned: report, show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from beit.cli.options import AS_READ, Artifact, AsRead, Paths
from beit.errors import ConfigError
from beit.terminal import print_lines


def report(runs: Paths, out: str = "comparison.html", image: str = "", plots: str = "") -> None:
    """Write the report of a run again, or a page that compares several runs.

    The report of one run is RUN/report.html.

    Args:
        runs: Folder of a run, or up to eight of them.
        out: Page to write if there are several runs.
        image: For a pre-training run, also write some rows of its images to this PNG file.
        plots: Also write every curve of the run to this folder, as SVG and PNG; needs pip install
            "beit[plots]".
    """
    from beit.report.pretraining import write_strip
    from beit.tasks.finished import report_comparison, report_plots, report_run

    if len(runs) != 1:
        if image or plots:
            raise ConfigError(
                "--image and --plots are of a single run", remedy="name one run with them"
            )
        print_lines(report_comparison([Path(run) for run in runs], Path(out)))
        return
    run = Path(runs[0])
    print_lines(report_run(run))
    if image:
        print_lines(write_strip(run, Path(image)))
    if plots:
        print_lines(*report_plots(run, Path(plots)))


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Options that every sheet takes."""

    artifact: Artifact = tyro.MISSING
    """A run, an artifact or a released model."""
    data: str = tyro.MISSING
    """Images, as for every other verb; if they have classes, frames show which answers are
    right."""
    out: str = tyro.MISSING
    """Image file to write, .png or .svg."""
    images: int
    """At most this many images are read, spread evenly over the data."""
    side: int
    """Side of each image in the sheet, in pixels."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU if there is one."""
    options: AsRead = AS_READ

    def write(self, name: str, **options: object) -> None:
        """Make the sheet of this name, and write it."""
        from beit.report import sheets
        from beit.report.inputs import Request

        request = Request(
            model=self.artifact,
            data=self.data,
            images=self.images,
            device=self.device,
            reading=self.options.reading,
        )
        sheet = partial(getattr(sheets, name), request, **options)
        print_lines(sheets.show(sheet, self.out, self.side))


def neighbours(
    sheet: Sheet = Sheet(images=500, side=112),
    block: int | None = None,
    queries: int = 6,
    neighbours: int = 8,
) -> None:
    """Show images, each with those that are most similar to the model.

    Args:
        sheet: Options that every sheet takes.
        block: Block whose patch vectors are compared, counted from 0; the last one by default.
        queries: Number of rows.
        neighbours: Neighbours per row.
    """
    sheet.write("neighbours", block=block, queries=queries, neighbours=neighbours)


def components(
    sheet: Sheet = Sheet(images=6, side=160),
    block: int | None = None,
) -> None:
    """Show the first three principal components of the patch vectors as colours.

    Args:
        sheet: Options that every sheet takes.
        block: Block whose patch vectors are used, counted from 0; the last one by default.
    """
    sheet.write("components", block=block)


def attention(
    sheet: Sheet = Sheet(images=4, side=128),
    block: int | None = None,
    query: str = "centre",
) -> None:
    """Show where each attention head of a block looks.

    Args:
        sheet: Options that every sheet takes.
        block: Block, counted from 0; the last one by default.
        query: From where: centre, a patch as ROW,COLUMN, or cls, the class token.
    """
    sheet.write("attention", block=block, query=query)


def codebook(
    sheet: Sheet = Sheet(images=256, side=60),
    most: int = 256,
) -> None:
    """Show what each code of a tokenizer looks like, and how often it is used.

    Args:
        sheet: Options that every sheet takes.
        most: At most this many codes, the most frequent first.
    """
    sheet.write("codebook", most=most)


SHEETS: Mapping[str, Callable[..., None]] = {
    "neighbours": neighbours,
    "components": components,
    "attention": attention,
    "codebook": codebook,
}
