"""The verb that shows what was done: report."""

from __future__ import annotations

from pathlib import Path

import tyro

from beit.cli.options import Artifact


def report(args: list[str]) -> None:
    """Write the page of a run again: curves and pictures."""

    def command(run: Artifact, picture: str = "") -> None:
        """Write RUN/report.html.

        Args:
            run: Folder of a run.
            picture: Of a pre-training, also write some rows of its pictures to this PNG file.
        """
        from beit.report.page import write_report
        from beit.report.strip import write_strip

        print(write_report(Path(run)))
        if picture:
            print(write_strip(Path(run), Path(picture)))

    tyro.cli(command, args=args, prog="beit report")
