"""Peak memory of one pre-training step, each contestant in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.child import run
from benchmarks.pretraining import PEERS, RECOMPUTING
from benchmarks.race import Contest, Contestant
from benchmarks.setting import Setting


def contests(setting: Setting) -> Iterator[Contest]:
    """On a CPU all of the process, libraries and weights included; on a GPU what torch took."""
    names = ["beit", *RECOMPUTING, *(name for name in PEERS if name != "unilm")]
    yield Contest(
        case="pre-training step fp32",
        contestants={name: _peak(setting, name) for name in names},
        unit="MiB",
        warm_up=False,
    )


def _peak(setting: Setting, who: str) -> Contestant:
    quick = "quick" if setting.quick else "full"
    arguments = ["-m", "benchmarks.child", who, setting.device.type, quick, str(setting.batch)]
    return lambda clock: clock.report(float(run(arguments)))
