"""Features of every block, as the linear probe reads them: class token and mean patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from beit.batch import ImageBatch
from beit.evaluation.features import extract_features
from beit.models.heads import Classifier
from benchmarks.finetuning import CLASSES
from benchmarks.peers import gather, in_timm, in_transformers, normalised
from benchmarks.race import Clock, Contest, Contestant
from benchmarks.setting import Setting


def contests(setting: Setting) -> Iterator[Contest]:
    """One batch; the peers give their blocks' outputs, which are then averaged the same way."""
    torch.manual_seed(0)
    model = Classifier(setting.classifying, CLASSES).to(setting.device).eval()
    images = setting.images(model.backbone.config.size)
    pixels = normalised(images, model.backbone.config)
    peers, skipped = gather(
        {"transformers": lambda: in_transformers(model), "timm": lambda: in_timm(model)}
    )
    batch = ImageBatch(images, tuple("" for _ in images))
    taps = tuple(range(model.backbone.config.depth))
    contestants: dict[str, Contestant] = {
        "beit": lambda _clock: extract_features(
            model.backbone, [batch], out_indices=taps, device=setting.device
        )
    }
    for name, peer in peers.items():
        contestants[name] = _pooled(_outputs(name, peer.eval(), pixels, taps))
    yield Contest(
        case="every block fp32", contestants=contestants, skipped=skipped, counts_flops=True
    )


def _outputs(
    name: str, peer: Any, pixels: Tensor, taps: tuple[int, ...]
) -> Callable[[], list[Tensor]]:
    if name == "transformers":
        return lambda: list(peer(pixels, output_hidden_states=True).hidden_states[1:])

    def blocks() -> list[Tensor]:
        found = peer.forward_intermediates(
            pixels, indices=list(taps), return_prefix_tokens=True, output_fmt="NLC",
            intermediates_only=True,
        )  # fmt: skip
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]

    return blocks


def _pooled(outputs: Callable[[], list[Tensor]]) -> Contestant:
    def extract(_clock: Clock) -> None:
        with torch.no_grad():
            found = outputs()
            torch.stack([output[:, 1:].float().mean(dim=1) for output in found], dim=1)
            torch.stack([output[:, 0].float() for output in found], dim=1)

    return extract
