"""Which page a run has: the one place that asks what kind of run it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from beit.config.runs import FinetuneRunConfig, PretrainRunConfig, TokenizerRunConfig
from beit.config.segment_run import SegmentRunConfig
from beit.report.classification import classification_page
from beit.report.page import RunPage, write_page
from beit.report.pretraining import pretraining_page
from beit.report.segmentation import segmentation_page
from beit.report.tokenizer import tokenizer_page
from beit.training.run_folder import read_run_config

PAGES: dict[type[Any], Callable[[Path, Any], RunPage]] = {
    TokenizerRunConfig: tokenizer_page,
    PretrainRunConfig: pretraining_page,
    FinetuneRunConfig: classification_page,
    SegmentRunConfig: segmentation_page,
}


def open_page(run: Path) -> RunPage:
    """The page of the run in a folder. Errors: RunFolderError if there is none."""
    config = read_run_config(run)
    return PAGES[type(config)](run, config)


def write_report(run: Path) -> Path:
    """Write RUN/report.html. Errors: as for `open_page` and `write_page`."""
    return write_page(open_page(run))
