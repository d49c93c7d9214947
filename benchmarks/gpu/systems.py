"""What surrounds the models: collectives, sharding, memory, graphs, export, serving."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

import beit
from beit.config import MaskedConfig, TrainingConfig, sized
from beit.doctor.agreement import BACKBONE, TOKENIZER, distance, without_tf32
from beit.doctor.agreement import _batch as small_batch
from beit.models.heads import Classifier, MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.recipes.finetune import for_finetuning
from beit.tokenizers import build_tokenizer
from beit.training.distributed import Processes, shard, whole
from beit.training.update import Updater
from beit.weights.store import Details, save_artifact
from benchmarks.gpu.checks import Check, Setting, at_most, skipped


def checks(setting: Setting) -> Iterator[Check]:
    with without_tf32():
        yield from _collectives(setting)
    yield from _out_of_memory(setting)
    yield from _inference(setting)
    yield from _export(setting)
    yield from _serving(setting)


def _objective() -> MaskedImageModeling:
    torch.manual_seed(0)
    model = MaskedImageModel(BACKBONE, TOKENIZER.codes)
    return MaskedImageModeling(model, MaskedConfig(), build_tokenizer(TOKENIZER))


def _collectives(setting: Setting) -> Iterator[Check]:
    """One process with NCCL (gloo on a CPU): a sum, DDP, and FSDP2 against nothing wrapped."""
    backend = "nccl" if setting.on_gpu else "gloo"
    with tempfile.NamedTemporaryFile() as meeting:
        distributed.init_process_group(
            backend, init_method=f"file://{meeting.name}.store", rank=0, world_size=1,
            timeout=timedelta(seconds=30),
        )  # fmt: skip
        try:
            value = torch.full((4,), 3.0, device=setting.device)
            distributed.all_reduce(value)
            yield at_most(f"{backend}: error of a sum", float((value - 3).abs().max()), 0.0)
            expected = _gradient(setting, "")
            for way in ("DDP", "FSDP2"):
                apart = distance(_gradient(setting, way), expected)
                yield at_most(f"{way} in one process: error of the gradient", apart, 1e-4)
        finally:
            distributed.destroy_process_group()


def _gradient(setting: Setting, way: str) -> torch.Tensor:
    objective = _objective().to(setting.device)
    module: nn.Module = objective
    if way == "DDP":
        devices = [setting.device.index or 0] if setting.on_gpu else None
        module = nn.parallel.DistributedDataParallel(objective, device_ids=devices)
    elif way == "FSDP2":
        shard(objective, None, setting.device)
    from beit.batch import to_device

    module(to_device(small_batch(0), setting.device), 0.0).total.backward()
    found = [whole(one.grad) for one in objective.model.parameters() if one.grad is not None]
    return torch.cat([one.flatten() for one in found])


def _out_of_memory(setting: Setting) -> Iterator[Check]:
    """A micro-batch that does not fit is halved until it does, and the run says so."""
    name = "memory runs out: micro-batch that was found"
    if not setting.on_gpu:
        yield skipped(name, "memory of a GPU is what runs out")
        return
    backbone, batch = sized("base"), 512
    torch.manual_seed(0)
    objective = MaskedImageModeling(
        MaskedImageModel(backbone, 768), MaskedConfig(target="pixels"), None
    )
    said: list[str] = []
    config = TrainingConfig(steps=9, batch=batch, lr=1e-4, precision="bf16", compile="off")
    updater = Updater(objective, config, Processes(0, 1, setting.device), said.append)
    from beit.batch import MaskedBatch

    images = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
    mask = torch.rand(batch, backbone.patches).argsort(dim=1) < 75
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(20 * 2**30 / total, 1.0))
    try:
        updater.update(0, iter([MaskedBatch(images, images, mask, tuple(map(str, range(batch))))]))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    found = updater.micro_batch
    yield at_most(name, float(found), batch / 2, "images")._replace(note="; ".join(said))


def _classifier(setting: Setting) -> Classifier:
    torch.manual_seed(0)
    backbone = for_finetuning(BACKBONE if setting.quick else sized("base"), 0.0)
    return Classifier(backbone, 10).to(setting.device).eval()


def _inference(setting: Setting) -> Iterator[Check]:
    """`optimized()` in every form answers as the plain model."""
    from beit.models.inference import optimize_for_inference

    model = _classifier(setting)
    size = model.backbone.config.size
    images = torch.randint(256, (4, 3, *size), dtype=torch.uint8, device=setting.device)
    with torch.no_grad(), without_tf32():
        expected = model(images)
        yield at_most(
            "optimized, float32", distance(optimize_for_inference(model)(images), expected), 1e-4
        )
        half = optimize_for_inference(model, precision="bf16", compile=setting.on_gpu)
        yield at_most("optimized, bf16", distance(half(images), expected), 0.05)
        if not setting.on_gpu:
            yield skipped("CUDA graphs", "there is no GPU")
            return
        recorded = optimize_for_inference(model, graphs=True)
        recorded(images.flip(0))
        yield at_most("CUDA graphs", distance(recorded(images), expected), 1e-4)


def _export(setting: Setting) -> Iterator[Check]:
    """ONNX by the provider of the GPU, where the installed runtime has one."""
    name = "ONNX: error beside the provider of the CPU"
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        yield skipped(name, "onnx or onnxruntime is not installed")
        return
    import onnxruntime

    provider = "CUDAExecutionProvider" if setting.on_gpu else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        yield skipped(name, f"onnxruntime {onnxruntime.__version__} has no {provider}")
        return
    model = _classifier(setting._replace(quick=True))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names = tuple(map(str, range(10)))
        save_artifact(place / "model", model.cpu(), Details(classes=names))
        beit.export(place / "model", place / "model.onnx")
        images = torch.rand(1, 3, *model.backbone.config.size).numpy()
        answers = []
        for chosen in (provider, "CPUExecutionProvider"):
            session = onnxruntime.InferenceSession(place / "model.onnx", providers=[chosen])
            (entrance,) = session.get_inputs()
            answers.append(torch.from_numpy(session.run(None, {entrance.name: images})[0]))
        yield at_most(name, distance(*answers), 1e-3)


def _serving(setting: Setting) -> Iterator[Check]:
    """A server on this device: answers, a killed worker is replaced, and answers again."""
    name = "server: answers after its worker was killed"
    missing = [one for one in ("fastapi", "uvicorn", "tyro") if not importlib.util.find_spec(one)]
    if missing:
        yield skipped(name, f"not installed: {', '.join(missing)}")
        return
    import os
    import signal
    import sys

    from benchmarks.machine import ROOT

    sys.path.insert(0, str(ROOT / "tests"))
    from served import png, serving, wait_for

    with tempfile.TemporaryDirectory() as folder:
        names = tuple(map(str, range(10)))
        model = _classifier(setting._replace(quick=True)).cpu()
        place = save_artifact(Path(folder) / "model", model, Details(classes=names))
        arguments = [str(place), "--device", setting.device.type]
        with serving(*arguments, environment=dict(os.environ)) as server:
            before = server.ask("POST", "/predict", png(1))
            os.kill(server.worker, signal.SIGKILL)
            wait_for(lambda: server.number("beit_models_restarts_total") == 1)
            wait_for(server.is_well)
            after = server.ask("POST", "/predict", png(1))
    same = before[0] == after[0] == 200 and before[1]["labels"] == after[1]["labels"]
    yield at_most(name, 0.0 if same else 1.0, 0.0, "wrong answers")
