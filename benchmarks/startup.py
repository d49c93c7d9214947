"""Time until something happens: imports, the help of the command line, a first training step."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.child import timed
from benchmarks.pretraining import in_children
from benchmarks.race import OURS, Contest
from benchmarks.setting import Setting

IMPORTS = {
    "beit": "from beit.models.heads import Classifier",
    "transformers": "from transformers import BeitForImageClassification",
    "timm": "from timm.models.beit import Beit",
    "torch alone": "import torch",
}


def contests(setting: Setting) -> Iterator[Contest]:
    """CPU time of whole processes; the first warms the file cache."""
    yield Contest(
        case="import of a model",
        contestants={name: timed(["-c", code]) for name, code in IMPORTS.items()},
    )
    yield Contest(case="beit --help", contestants={"beit": timed(["-m", "beit.cli", "--help"])})
    quick, batch = "quick" if setting.quick else "full", str(setting.batch)
    peers, skipped = in_children()
    yield Contest(
        case="first pre-training step",
        contestants={
            name: timed(["-m", "benchmarks.child", name, setting.device.type, quick, batch])
            for name in (OURS, *peers)
        },
        skipped=skipped,
        warm_up=False,
    )
