"""A folder of photos to a table of classes: `beit predict`, and the usual script around timm.

The script is what most people write: a dataset that opens each file with Pillow, timm's transform,
a DataLoader with as many processes as cores, the model in `inference_mode`, the five best classes.
Both sides make the model before the time begins. Workers are processes: with one thread the CPU
time of all of them is counted, otherwise the wall clock.
"""

from __future__ import annotations

import itertools
import resource
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
        folder = photos(place, 16 if setting.quick else 64)
        model = classifier(setting)
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


def photos(place: str, number: int) -> Path:
    """A folder of them."""
    folder = Path(place, "photos")
    folder.mkdir()
    for position, photo in enumerate(jpegs(number)):
        (folder / f"{position:03}.jpg").write_bytes(photo)
    return folder


def classifier(setting: Setting) -> Classifier:
    torch.manual_seed(0)
    return Classifier(setting.classifying, CLASSES).to(setting.device).eval()


def _spent(setting: Setting) -> float:
    """Seconds of this process and of those that it has waited for; or of the clock."""
    if setting.threads > 1 or setting.device.type == "cuda":
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def prepared(model: Classifier, folder: Path, config: PredictConfig) -> Job:
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
    job = prepared(model, folder, config)

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
