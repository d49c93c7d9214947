"""The verbs that show what was done and learned: report, show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import tyro

from beit.cli.options import Artifact, LabelFile, Paths, run_subcommand
from beit.config.data import BY_HEADINGS
from beit.errors import ConfigError
from beit.terminal import print_lines


def report(args: list[str]) -> None:
    """Write the page of a run again, or one that compares several."""

    def command(runs: Paths, out: str = "comparison.html", image: str = "", plots: str = ""
    ) -> None:  # fmt: skip
        """Write RUN/report.html; of several runs one page that compares them.

        Args:
            runs: Folder of a run, or of up to eight.
            out: Of several runs, the page to write.
            image: Of a pre-training, also write some rows of its images to this PNG file.
            plots: Also write every curve of the run to this folder, as SVG and PNG (needs
                matplotlib: the extra `plots`).
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

    tyro.cli(command, args=args, prog="beit report")


def show(args: list[str]) -> None:
    """Show what a model has learned: neighbours, components, attention, codebook."""
    commands: dict[str, Callable[..., None]] = {
        "neighbours": neighbours,
        "components": components,
        "attention": attention,
        "codebook": codebook,
    }
    run_subcommand("show", commands, args, show.__doc__ or "")


def neighbours(
    artifact: Artifact,
    data: str,
    out: str,
    block: int | None = None,
    images: int = 500,
    queries: int = 6,
    neighbours: int = 8,
    side: int = 112,
    device: str = "cpu",
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """Images, each with those that the model finds most like it.

    Args:
        artifact: A run, an artifact, or any released model that loads.
        data: Images, as for every other verb; classes are used to frame what is right.
        out: File to write, .png or .svg.
        block: Block whose patch vectors are compared, 0 is the first; the last one by default.
        images: At most so many images are searched, spread evenly over the data.
        queries: Rows of the sheet.
        neighbours: Neighbours in a row.
        side: Pixels of an image in the sheet.
        device: cpu or cuda.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.report import sheets
    from beit.report.inputs import Request

    request = Request(
        model=artifact, data=data, images=images, device=device, label_file=label_file
    )
    sheet = partial(sheets.neighbours, request, block=block, queries=queries, neighbours=neighbours)
    print_lines(sheets.show(sheet, out, side))


def components(
    artifact: Artifact,
    data: str,
    out: str,
    block: int | None = None,
    images: int = 6,
    side: int = 160,
    device: str = "cpu",
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """The first three principal components of the patch vectors, as colours.

    Args:
        artifact: A run, an artifact, or any released model that loads.
        data: Images, as for every other verb.
        out: File to write, .png or .svg.
        block: Block whose patch vectors are taken, 0 is the first; the last one by default.
        images: So many, spread evenly over the data; the components are common to them.
        side: Pixels of an image in the sheet.
        device: cpu or cuda.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.report import sheets
    from beit.report.inputs import Request

    request = Request(
        model=artifact, data=data, images=images, device=device, label_file=label_file
    )
    sheet = partial(sheets.components, request, block=block)
    print_lines(sheets.show(sheet, out, side))


def attention(
    artifact: Artifact,
    data: str,
    out: str,
    block: int | None = None,
    query: str = "centre",
    images: int = 4,
    side: int = 128,
    device: str = "cpu",
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """Where each head of a block looks.

    Args:
        artifact: A run, an artifact, or any released model that loads.
        data: Images, as for every other verb.
        out: File to write, .png or .svg.
        block: Block, 0 is the first; the last one by default.
        query: Who looks: centre, a patch as ROW,COLUMN, or cls, the class token.
        images: So many, spread evenly over the data.
        side: Pixels of an image in the sheet.
        device: cpu or cuda.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.report import sheets
    from beit.report.inputs import Request

    request = Request(
        model=artifact, data=data, images=images, device=device, label_file=label_file
    )
    sheet = partial(sheets.attention, request, block=block, query=query)
    print_lines(sheets.show(sheet, out, side))


def codebook(
    artifact: Artifact,
    data: str,
    out: str,
    images: int = 256,
    most: int = 256,
    side: int = 60,
    device: str = "cpu",
    label_file: LabelFile = BY_HEADINGS,
) -> None:
    """What each code of a tokenizer looks like, and how often it is used.

    Args:
        artifact: The run of a tokenizer, its artifact, or a released tokenizer.
        data: Images, as for every other verb.
        out: File to write, .png or .svg.
        images: At most so many are read, spread evenly over the data.
        most: At most so many codes, the most used first.
        side: Pixels of a code in the sheet.
        device: cpu or cuda.
        label_file: How a label file is read, where its headings do not say it.
    """
    from beit.report import sheets
    from beit.report.inputs import Request

    request = Request(
        model=artifact, data=data, images=images, device=device, label_file=label_file
    )
    sheet = partial(sheets.codebook, request, most=most)
    print_lines(sheets.show(sheet, out, side))
