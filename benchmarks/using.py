"""A folder of photos to a table of classes: `beit predict`, and the usual script around timm.

The script is what most people write: a dataset that opens each file with Pillow, timm's transform,
a DataLoader with as many processes as cores, the model in `inference_mode`, the five best classes.
Both sides make the model before the time begins. Workers are processes: with one thread the CPU
time of all of them is counted, otherwise the wall clock. Two processes are compared by the wall
clock of both, so that means something only on two idle cores.

`python -m benchmarks.using FOLDER OUT PART` is one of these processes.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from beit.config.bulk import PredictConfig
from beit.hardware import cores
from beit.inference.bulk import Job
from beit.inference.images import open_images
from beit.inference.parts import open_parts
from beit.models.heads import Classifier
from beit.weights.store import Artifact, Details
from benchmarks.finetuning import CLASSES
from benchmarks.loading import jpegs
from benchmarks.peers import gather, in_timm
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import TYPES, Setting

TOP = 5


def contests(setting: Setting) -> Iterator[Contest]:
    """The same photos and weights; ours writes a Parquet file, the script only keeps its rows."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        for number, photo in enumerate(jpegs(16 if setting.quick else 64)):
            (folder / f"{number:03}.jpg").write_bytes(photo)
        model = _model(setting)
        cases = {"fp32": False, **({} if setting.quick else {setting.precisions[-1]: True})}
        for precision, compiled in cases.items():
            peers, skipped = gather({"timm": lambda: in_timm(model).eval()})
            contestants = {OURS: _ours(setting, model, folder, precision, compiled)}
            if compiled:
                contestants[f"{OURS} int8"] = _ours(setting, model, folder, "int8", compiled)
            for name, peer in peers.items():
                contestants[name] = _script(setting, peer, folder, precision, compiled)
            yield Contest(
                case=f"{precision}, compiled" if compiled else precision,
                contestants=contestants,
                skipped=skipped,
                precision=precision,
            )
        if not setting.quick:
            yield Contest(
                case="two processes",
                contestants={
                    OURS: lambda clock: clock.report(_processes(folder, 2)),
                    "one process": lambda clock: clock.report(_processes(folder, 1)),
                },
                warm_up=False,
            )


def _model(setting: Setting) -> Classifier:
    torch.manual_seed(0)
    return Classifier(setting.classifying, CLASSES).to(setting.device).eval()


def _spent(setting: Setting) -> float:
    """Seconds of this process and of those that it has waited for; or of the clock."""
    if setting.threads > 1 or setting.device.type == "cuda":
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _job(model: Classifier, folder: Path, config: PredictConfig) -> Job:
    details = Details(classes=tuple(f"class {number}" for number in range(CLASSES)), crop=0.9)
    artifact = Artifact(kind="classifier", model=model, details=details)
    return Job(artifact, open_images([str(folder)], config), config)


def _ours(
    setting: Setting, model: Classifier, folder: Path, precision: str, compiled: bool
) -> Contestant:
    outs = (folder.parent / f"{precision}-{number}" for number in itertools.count())
    config = PredictConfig(
        device=str(setting.device),
        batch=setting.batch,
        precision=precision,  # type: ignore[arg-type]
        compile=compiled,
        top=TOP,
    )
    job = _job(model, folder, config)

    def run(clock: Clock) -> None:
        began = _spent(setting)
        plan = {**job.plan(), "part_rows": None}
        parts = open_parts(next(outs), plan, job.output.columns)
        for _ in job.write(parts, parts.missing(), config.own_part()):
            pass
        clock.report(_spent(setting) - began)

    return run


class _Photos(torch.utils.data.Dataset[Tensor]):
    def __init__(self, folder: Path) -> None:
        from timm.data import create_transform

        self._files = sorted(folder.iterdir())
        self._transform = create_transform(224, interpolation="bicubic", crop_pct=0.9)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        view: Tensor = self._transform(Image.open(self._files[index]).convert("RGB"))
        return view


def _script(
    setting: Setting, peer: nn.Module, folder: Path, precision: str, compiled: bool
) -> Contestant:
    dtype = TYPES[precision]
    model = peer.to(dtype)
    called = torch.compile(model) if compiled else model

    def run(clock: Clock) -> None:
        began = _spent(setting)
        loader = torch.utils.data.DataLoader(
            _Photos(folder), batch_size=setting.batch, num_workers=cores()
        )
        rows: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode():
            for images in loader:
                logits = called(images.to(setting.device, dtype)).float()
                best = logits.softmax(dim=1).topk(TOP)
                rows.append((best.values.cpu(), best.indices.cpu()))
        del loader
        clock.report(_spent(setting) - began)

    return run


def _processes(folder: Path, number: int) -> float:
    """Seconds until the last of some processes with one thread each has answered its part."""
    with tempfile.TemporaryDirectory() as out:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.using", folder, out, f"{part}/{number}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for part in range(1, number + 1)
        ]
        said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    spans = [tuple(map(float, one.split())) for one in said]
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def main(folder: str, out: str, part: str) -> None:
    """One process's part: when it began and when it ended, by the clock of the machine."""
    torch.set_num_threads(1)
    setting = Setting(quick=False, device=torch.device("cpu"), threads=1, rounds=1, batch=8)
    config = PredictConfig(out=out, part=part, device="cpu", batch=8, part_rows=8, workers=0)
    job = _job(_model(setting), Path(folder), config)
    parts = open_parts(Path(out), job.plan(), job.output.columns)
    job.output.compute(torch.zeros(8, 3, 224, 224, dtype=torch.uint8))
    began = time.time()
    for _ in job.write(parts, parts.missing(config.own_part()), config.own_part()):
        pass
    print(began, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:])
