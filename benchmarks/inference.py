"""Classification: how long one image takes, and how many a batch brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from beit.config.bulk import InferencePrecision
from beit.models.heads import Classifier
from beit.models.inference import optimize_for_inference
from benchmarks.finetuning import CLASSES
from benchmarks.peers import gather, in_timm, in_transformers, normalised
from benchmarks.race import Clock, Contest, Contestant
from benchmarks.setting import TYPES, Setting


def contests(setting: Setting) -> Iterator[Contest]:
    """Weights in the type of the case, not autocast, and ours folded: as a model is served."""
    torch.manual_seed(0)
    model = Classifier(setting.classifying, CLASSES).to(setting.device).eval()
    peers, skipped = gather(
        {"transformers": lambda: in_transformers(model), "timm": lambda: in_timm(model)}
    )
    for precision in setting.precisions:
        dtype = TYPES[precision]
        fast = optimize_for_inference(model, precision=_stored(precision))
        for module in peers.values():
            module.to(dtype).eval()
        for number in (1, setting.batch):
            images = setting.images(model.backbone.config.size, number=number)
            pixels = normalised(images, model.backbone.config).to(dtype)
            yield Contest(
                case=f"batch {number} {precision}",
                contestants={
                    "beit": _answering(fast, images),
                    **{name: _answering(peer, pixels) for name, peer in peers.items()},
                },
                skipped=skipped,
                precision=precision,
                counts_flops=True,
                uncut="timm",
            )
    if not setting.quick:
        yield from _compiled(setting, model)


def _stored(precision: str) -> InferencePrecision:
    return "bf16" if precision == "bf16" else "fp32"


def _compiled(setting: Setting, model: Classifier) -> Iterator[Contest]:
    """In the fastest type of both, compiled; then ours in eight bits, which timm has not."""
    precision = setting.precisions[-1]
    peers, skipped = gather({"timm": lambda: torch.compile(in_timm(model).to(TYPES[precision]))})
    ours = {
        precision: optimize_for_inference(model, precision=_stored(precision), compile=True),
        "int8": optimize_for_inference(model, precision="int8", compile=True),
    }
    for number in (1, setting.batch):
        images = setting.images(model.backbone.config.size, number=number)
        pixels = normalised(images, model.backbone.config).to(TYPES[precision])
        for name, fast in ours.items():
            yield Contest(
                case=f"batch {number} {name}, compiled",
                contestants={
                    "beit": _answering(fast, images),
                    **{name: _answering(peer.eval(), pixels) for name, peer in peers.items()},
                },
                skipped=skipped,
            )


def _answering(model: nn.Module | Callable[[Tensor], Tensor], inputs: Tensor) -> Contestant:
    def answer(_clock: Clock) -> None:
        with torch.no_grad():
            model(inputs)

    return answer
