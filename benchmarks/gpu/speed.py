"""How fast: pre-training of base and large beside compiled peers, and where the time goes.

The goals are those of one H100: 2,500 images a second with base and the tokenizer, half of the
measured peak, 1.3 times transformers compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from beit.batch import MaskedBatch
from beit.config import MaskedConfig, TrainingConfig, sized
from beit.config.model import VisionTransformerConfig
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.tokenizers import build_tokenizer
from beit.training.distributed import Processes
from beit.training.update import Updater
from benchmarks import finetuning, inference, segmentation
from benchmarks import setting as peers
from benchmarks.gpu.checks import Check, Setting, at_least, skipped
from benchmarks.machine import matrix_peak
from benchmarks.peers import Absent, MaskedTimm, in_transformers, normalised
from benchmarks.race import OURS, Clock, race

GOAL, FRACTION, RATIO = 2500.0, 0.5, 1.3
WARM_UP = 4
TOP = 10
OTHERS = {"fine-tuning": finetuning, "segmentation": segmentation, "inference": inference}

Step = Callable[[], object]


def checks(setting: Setting) -> Iterator[Check]:
    clock = Clock(setting.device, 1)
    peak = matrix_peak(setting.device, torch.bfloat16, clock, seconds=1.0)
    yield Check("fastest matrix product in bf16", peak / 1e3, "TFLOP/s")
    for name in ("base",) if setting.quick else ("base", "large"):
        yield from Race(setting, name, peak).checks()
    yield from _others(setting, clock)


class Race:
    """One size of backbone, with its tokenizer: ours, then the peers on the same images."""

    def __init__(self, setting: Setting, name: str, peak: float) -> None:
        self.setting, self.name, self.peak = setting, name, peak
        batch = {"base": 256, "large": 128}[name] if setting.on_gpu else 4
        self.size = peers.Setting(
            quick=setting.quick, device=setting.device, threads=1, rounds=1, batch=batch
        )
        self.steps = 12 if setting.on_gpu else 2
        torch.manual_seed(0)
        self.tokenizer = build_tokenizer(self.size.tokenizer).to(setting.device)
        self.mask = self.size.mask(self.backbone).cpu()
        self.images = self.size.images(self.backbone.size).cpu()
        self.small = self.size.images(self.tokenizer.size, seed=1).cpu()
        if setting.on_gpu:
            self.mask, self.images, self.small = (
                one.pin_memory() for one in (self.mask, self.images, self.small)
            )

    @property
    def backbone(self) -> VisionTransformerConfig:
        return self.size.pretraining if self.setting.quick else sized(self.name)

    def model(self) -> MaskedImageModel:
        torch.manual_seed(0)
        return MaskedImageModel(self.backbone, self.tokenizer.codes).to(self.setting.device)

    def checks(self) -> Iterator[Check]:
        what = f"pre-training, {self.name}"
        work = self._work()
        if self.setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        step = self.ours()
        ours = self._speed(step)
        fraction = ours * work / self.peak / 1e9
        goal = self.name == "base" and self.setting.on_gpu
        yield (
            at_least(f"{what}, with tokenizer", ours, GOAL, "images/s")
            if goal
            else Check(f"{what}, with tokenizer", ours, "images/s")
        )
        yield (
            at_least(f"{what}, fraction of the peak", fraction, FRACTION)
            if self.setting.on_gpu
            else Check(f"{what}, fraction of the peak", fraction)
        )
        if self.setting.on_gpu:
            yield from self._memory(what)
            yield from self._profile(step)
        for peer in ("transformers", "timm"):
            yield from self._beside(what, peer, ours)

    def ours(self) -> Step:
        """The whole update of a run: bf16, blocks and tokenizer compiled, fused AdamW, clipping."""
        half = torch.float16 if self.setting.on_gpu else torch.bfloat16
        objective = MaskedImageModeling(self.model(), MaskedConfig(), self.tokenizer, half)
        config = TrainingConfig(
            steps=10**6, batch=self.size.batch, micro_batch=self.size.batch, lr=1e-5, clip=3.0,
            precision="bf16", compile="blocks" if self.setting.on_gpu else "off",
        )  # fmt: skip
        updater = Updater(objective, config, Processes(0, 1, self.setting.device), print)
        keys = tuple(map(str, range(self.size.batch)))
        batch = MaskedBatch(self.images, self.small, self.mask, keys)
        return lambda: updater.update(500_000, iter([batch]))

    def theirs(self, peer: str) -> Step:
        """A peer's model compiled whole, bf16 autocast, fused AdamW, tokens by our tokenizer."""
        device = self.setting.device
        make = {"transformers": in_transformers, "timm": MaskedTimm}[peer]
        module: nn.Module = make(self.model()).train()
        called = torch.compile(module) if self.setting.on_gpu else module
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
        half = torch.float16 if self.setting.on_gpu else torch.bfloat16
        tokenizer = self.tokenizer.in_precision(half)
        backbone = self.backbone

        def step() -> None:
            mask = self.mask.to(device, non_blocking=True)
            pixels = normalised(self.images.to(device, non_blocking=True), backbone)
            targets = tokenizer.encode(self.small.to(device, non_blocking=True), mask)
            with torch.autocast(device.type, torch.bfloat16):
                logits = self._logits(peer, called, pixels, mask)
            F.cross_entropy(logits.float(), targets).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 3.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    @staticmethod
    def _logits(peer: str, called: Callable[..., Any], pixels: Tensor, mask: Tensor) -> Tensor:
        if peer == "transformers":
            scores: Tensor = called(pixels, bool_masked_pos=mask).logits
            return scores[mask]
        masked: Tensor = called(pixels, mask)
        return masked

    def _beside(self, what: str, peer: str, ours: float) -> Iterator[Check]:
        name = f"{what}, times {peer} compiled" if self.setting.on_gpu else f"{what}, times {peer}"
        try:
            theirs = self._speed(self.theirs(peer))
        except (Absent, ImportError) as error:
            yield skipped(name, str(error))
            return
        yield Check(f"{what}, {peer}", theirs, "images/s")
        goal = peer == "transformers" and self.setting.on_gpu
        yield at_least(name, ours / theirs, RATIO) if goal else Check(name, ours / theirs)

    def _speed(self, step: Step) -> float:
        """Images per second over some steps, after others to warm up."""
        for _ in range(WARM_UP if self.setting.on_gpu else 1):
            step()
        self.setting.wait()
        began = time.perf_counter()
        for _ in range(self.steps):
            step()
        self.setting.wait()
        return self.steps * self.size.batch / (time.perf_counter() - began)

    def _work(self) -> float:
        """Counted operations of an image: tokens, forward and backward, without exact cuts."""
        device, model = self.setting.device, self.model()
        number = min(self.size.batch, 4)
        images, small = self.images[:number].to(device), self.small[:number].to(device)
        with FlopCounterMode(display=False) as counter:
            self.tokenizer.encode(small)
            model(images, self.mask[:number].to(device), True).float().mean().backward()
        return counter.get_total_flops() / number

    def _memory(self, what: str) -> Iterator[Check]:
        peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
        fixed = torch.cuda.memory_allocated()
        yield Check(f"{what}, peak memory", peak / 2**30, "GiB", note=f"batch {self.size.batch}")
        most = int((0.9 * total - fixed) / ((peak - fixed) / self.size.batch))
        yield Check(f"{what}, largest micro-batch by that", float(most), "images")

    def _profile(self, step: Step) -> Iterator[Check]:
        """The ten kernels that take most of a step."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            self.setting.wait()
        found = sorted(profiler.key_averages(), key=lambda one: -one.self_device_time_total)
        for one in found[:TOP]:
            name = f"kernel of a step of {self.name}: {one.key[:60]}"
            taken = one.self_device_time_total
            yield Check(name, taken / 1e3, "ms", note=f"{one.count} calls")


def _others(setting: Setting, clock: Clock) -> Iterator[Check]:
    """The contests of `benchmarks/run`, in few rounds: how many times ours a peer takes."""
    size = peers.Setting(
        quick=setting.quick, device=setting.device, threads=1, rounds=3,
        batch=64 if setting.on_gpu else 2,
    )  # fmt: skip
    for name, module in OTHERS.items():
        for contest in islice(module.contests(size), 1 if setting.quick else None):
            if contest.precision == "fp32" and setting.on_gpu:
                continue
            for row in race(name, contest, rounds=1 if setting.quick else 3, clock=clock):
                if row.case == contest.case:
                    ratio = f"{row.ratio:.2f} times ours" if row.who != OURS else ""
                    yield Check(
                        f"{name}, {row.case}: {row.who}", row.median * 1e3, "ms", note=ratio
                    )
